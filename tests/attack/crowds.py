"""Crowds of customers at a scheduler, with the time passed in: one request each, and everybody comes back for more."""

from __future__ import annotations

import gc
import random
from collections import Counter

from ezthrottle_provider.scheduling import Caller, Scheduler, State, Terms

__all__ = ["ClosedLoop", "callers", "census", "in_crowds", "one_after_another"]

_TERMS = Terms()
_SECONDS_PER_REQUEST = 0.001


def callers(number, *, verified=True, seed=0):
    """So many customers, in an order that has nothing to do with where they lie in memory."""
    crowd = [Caller(f"customer{index}", f"key{index}", verified, _TERMS) for index in range(number)]
    random.Random(seed).shuffle(crowd)
    return crowd


class ClosedLoop:
    """All of a crowd wait at one slot; whoever was served asks again. ``step`` is one submit, pick and finish.

    Costs vary, so that after a while the order of turns is as random as the order of arrivals was.
    """

    def __init__(self, crowd, *, scheduler=None, seed=1):
        self.scheduler = scheduler or Scheduler(
            slots=1, max_queue_total=len(crowd) + 1, max_wait=float("inf"), unit="requests"
        )
        self._random = random.Random(seed)
        self._costs = [self._random.uniform(0.5, 1.5) for _ in range(1024)]
        self._served = 0
        self.now = 100.0
        # One more than the crowd, so that all of it waits while one request runs.
        self._running = self.scheduler.submit(self.now, Caller("first", "key", True, _TERMS))
        for caller in crowd:
            self.scheduler.submit(self.now, caller)

    def step(self):
        """The request that runs ends, the next one is picked, and the customer who was served asks again."""
        scheduler, ended = self.scheduler, self._running
        self._served += 1
        self.now += _SECONDS_PER_REQUEST
        scheduler.finish(self.now, ended, self._costs[self._served & 1023])
        (self._running,) = scheduler.pull(self.now)
        scheduler.submit(self.now, ended.caller)

    def run(self, steps):
        """Take so many steps."""
        step = self.step
        for _ in range(steps):
            step()


def one_after_another(scheduler, crowd, now):
    """Serve each customer once, at a moment when nobody else is there; return the time when all have left."""
    for caller in crowd:
        ticket = scheduler.submit(now, caller)
        now += _SECONDS_PER_REQUEST
        scheduler.finish(now, ticket)
        scheduler.pull(now)
    return now


def in_crowds(scheduler, crowd, now, *, size):
    """Serve each customer once, all of a crowd at a time; return the time when all have left."""
    scheduler.max_queue_total, scheduler.max_wait = size, float("inf")
    for begin in range(0, len(crowd), size):
        running = [scheduler.submit(now, caller) for caller in crowd[begin : begin + size]]
        running = [ticket for ticket in running if ticket.state is State.GRANTED]
        while running:
            now += _SECONDS_PER_REQUEST
            scheduler.finish(now, running.pop())
            running += scheduler.pull(now)
    return now


def census(scheduler=None, now=0.0, *, steps=0):
    """Count our objects and all containers by type, after so many steps of housekeeping at some later time."""
    for _ in range(steps):
        scheduler.housekeep(now)
    gc.collect()
    kinds = Counter(type(found) for found in gc.get_objects())
    ours = {kind: number for kind, number in kinds.items() if str(kind.__module__).startswith("ezthrottle_provider")}
    containers = {kind: kinds[kind] for kind in (dict, list, set, tuple)}
    return Counter({kind.__name__: number for kind, number in (ours | containers).items()})
