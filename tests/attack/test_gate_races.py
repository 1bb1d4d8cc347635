"""Races between grant and give-up: threads and an event loop at one gate, all giving up at random moments.

Whatever the interleaving: every request ends exactly once, the events tell so, and nothing is held in the end.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import threading
from collections import Counter
from contextlib import contextmanager, suppress

import pytest

from ezthrottle_provider import ASGIFairQueue, Provider
from ezthrottle_provider.inbound.policies import Policy
from ezthrottle_provider.instrumentation import Abandoned, Finished, Granted, Queued
from ezthrottle_provider.scheduling import Caller, State, Terms, Ticket
from ezthrottle_provider.testing import RecordingHook

from .exchanges import Exchange, hello

pytestmark = pytest.mark.slow

THREADS = 8
ROUNDS = 150
TASKS = 600
POLICY = Policy("GET /x")
TERMS = [Terms(), Terms(weight=4.0), Terms(max_concurrent=2), Terms(rps=500.0)]


@contextmanager
def impatient_interpreter():
    """Switch threads every few bytecodes."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class Crowd:
    """Threads that enter, wait, leave, and give up, at a provider's gate."""

    def __init__(self, provider, seed):
        self.gate = provider.gate
        self.ended = []
        self.errors = []
        self._seed = seed
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(THREADS)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *details):
        for thread in self._threads:
            thread.join(30.0)
            assert not thread.is_alive()

    def _run(self, number):
        random_ = random.Random(self._seed + number)
        try:
            for turn in range(ROUNDS):
                name = f"customer{random_.randrange(6)}"
                caller = Caller(name, f"key{turn % 3}", bool(random_.randrange(3)), random_.choice(TERMS))
                self._request(self.gate.enter(caller, POLICY), random_)
        except BaseException as error:  # for the main thread, which asserts that there is none
            self.errors.append(error)

    def _request(self, ticket, random_):
        gate, mood = self.gate, random_.random()
        self.ended.append(ticket)
        if ticket.state is State.WAITING:
            if mood < 0.2:
                gate.abandon(ticket)
            elif mood < 0.4:  # somebody else finds out that the client is gone
                rival = threading.Thread(target=gate.abandon, args=(ticket,))
                rival.start()
                gate.wait_blocking(ticket)
                rival.join()
            elif mood < 0.45:
                gate.overrule(ticket)
            else:
                gate.wait_blocking(ticket)
        if mood > 0.8:
            gate.detach(ticket)
            gate.charge(ticket)
        if mood > 0.9:
            gate.abandon(ticket)
        gate.leave(ticket)
        gate.leave(ticket)


async def impatient_clients(app, seed):
    """Requests of an event loop, many of which are cancelled or disconnect at random moments."""
    random_ = random.Random(seed)
    tasks = []
    for number in range(TASKS):
        exchange = Exchange(key=b"%d" % (number % 5), client=(f"203.0.113.{number % 7}", 1))
        tasks.append(exchange.start(app))
        await asyncio.sleep(random_.choice([0, 0, 0, 0.001]))
        if random_.random() < 0.4:
            random_.choice(tasks[-8:]).cancel()
    return await asyncio.gather(*tasks, return_exceptions=True)


async def dawdling(scope, receive, send):
    """Answer after a moment."""
    await asyncio.sleep(0.0005)
    await hello(scope, receive, send)


@pytest.mark.parametrize("seed", [1, 2])
def test_threads_and_a_loop_at_one_gate_end_every_request_once_and_hold_nothing_in_the_end(seed):
    provider = Provider(max_concurrent=2, max_queue=2, max_queue_total=5, max_wait=0.05)
    seen = RecordingHook()
    provider.hooks.add(seen)
    app = ASGIFairQueue(dawdling, provider=provider)
    with impatient_interpreter(), Crowd(provider, seed) as crowd:
        outcomes = asyncio.run(impatient_clients(app, seed))
    assert [] == crowd.errors
    assert [] == [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    states = Counter(ticket.state for ticket in crowd.ended)
    assert set() == states.keys() - {State.FINISHED, State.REFUSED, State.ABANDONED}
    assert min(states[State.FINISHED], states[State.REFUSED], states[State.ABANDONED]) > 10

    (pool,) = provider.snapshot().pools
    assert (0, 0, 0) == (pool.in_flight, pool.waiting, pool.streams)
    assert {(0, 0, 0)} >= {
        (flow.waiting, flow.in_flight, flow.running) for _, flow in provider.gate.scheduler.customers()
    }
    assert (0, 0) == (provider.streams.total(), provider.room.used)
    assert len(seen.of(Granted)) == len(seen.of(Finished))
    assert states[State.ABANDONED] <= len(seen.of(Abandoned))


def test_a_ticket_that_is_granted_and_abandoned_at_the_same_moment_is_one_or_the_other():
    provider = Provider(max_concurrent=1)
    gate = provider.gate
    caller = Caller("customer", "key", True, Terms())
    outcomes = Counter()
    with impatient_interpreter():
        for _ in range(400):
            first, second = gate.enter(caller, POLICY), gate.enter(caller, POLICY)
            rivals = [
                threading.Thread(target=gate.leave, args=(first,)),
                threading.Thread(target=gate.abandon, args=(second,)),
            ]
            for rival in rivals:
                rival.start()
            for rival in rivals:
                rival.join()
            outcomes[second.state] += 1
            assert 0 == provider.snapshot().pools[0].in_flight
    assert set() == outcomes.keys() - {State.ABANDONED, State.FINISHED}


def test_a_request_that_is_collected_while_the_gate_is_busy_neither_hangs_nor_keeps_its_slot():
    """The interpreter may end a forgotten request in any allocation, also in one that is made under the gate's lock."""
    provider = Provider(max_concurrent=2)
    gate = provider.gate

    async def stuck(scope, receive, send):
        await asyncio.Event().wait()

    async def forget():
        exchange = Exchange()
        request = ASGIFairQueue(stuck, provider=provider)(exchange.scope, exchange.receive, exchange.send)
        request.send(None)
        return request

    def collect_in_the_middle():
        forgotten = asyncio.run(forget())
        with suppress(RuntimeError), gate.lock:  # it was released below, by who saw it hang
            forgotten.close()

    thread = threading.Thread(target=collect_in_the_middle, daemon=True)
    thread.start()
    thread.join(2.0)
    hung = thread.is_alive()
    if hung:
        gate.lock.release()
        thread.join(2.0)
    assert not hung
    gate.leave(gate.enter(Caller("customer", "key", True, Terms()), POLICY))
    assert 0 == provider.snapshot().pools[0].in_flight


def test_nothing_keeps_the_tickets_of_those_who_have_left():
    provider = Provider(max_concurrent=2, max_wait=0.01)
    with Crowd(provider, 3) as crowd:
        pass
    assert [] == crowd.errors
    crowd.ended.clear()
    gc.collect()
    pools = list(provider.gate.scheduler.pools.values())
    assert [] == [found for found in gc.get_objects() if type(found) is Ticket and found.pool in pools]


def test_a_request_that_is_granted_before_it_begins_to_wait_is_woken_by_nobody():
    """One thread grants two requests at once; the second is served before that thread comes to waking it."""
    provider = Provider(max_concurrent=1)
    granted, served = threading.Event(), threading.Event()
    errors = []

    def delay(event):
        if isinstance(event, Queued) and event.customer == "ip:198.51.100.2":
            raiser.start()
            granted.wait(5.0)
        if isinstance(event, Granted) and event.customer == "ip:198.51.100.1":
            granted.set()
            served.wait(5.0)

    def raise_limit():
        try:
            provider.update(max_concurrent=3)
        except Exception as error:  # for the main thread, which asserts that there is none
            errors.append(error)

    async def app(scope, receive, send):
        if scope["client"][0] == "198.51.100.2":
            served.set()
        await hello(scope, receive, send)

    async def requests():
        queue = ASGIFairQueue(app, provider=provider)
        holder = provider.gate.enter(Caller("holder", "key", True, Terms()), POLICY)
        tasks = [Exchange(client=(f"198.51.100.{number}", 1)).start(queue) for number in (1, 2)]
        done = await asyncio.gather(*tasks)
        provider.gate.leave(holder)
        return [exchange.status for exchange in done]

    provider.hooks.add(delay)
    raiser = threading.Thread(target=raise_limit)
    assert [200, 200] == asyncio.run(requests())
    raiser.join(5.0)
    assert [] == errors
