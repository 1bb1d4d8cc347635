"""A decision costs the same however many wait; who waits takes little memory, and who has left takes none.

Nothing is timed: lines of Python that run, bytes that are allocated, objects that remain. ``loadtests/
bench_decision_cost.py`` takes the times, with a million customers.
"""

from __future__ import annotations

import sys
import tracemalloc

import pytest
from attack.crowds import ClosedLoop, callers, census, in_crowds, one_after_another

from ezthrottle_provider.scheduling import Scheduler, State

FEW, MANY = 10, 20_000
STEPS = 300


def lines_per_step(loop):
    """How many lines of Python one decision runs, on average."""
    lines = 0

    def trace(frame, event, argument):
        nonlocal lines
        lines += event == "line"
        return trace

    loop.run(STEPS)
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        loop.run(STEPS)
    finally:
        sys.settrace(before)
    return lines / STEPS


class ScanningScheduler:
    """The control: looks at all who wait to find the one who had least."""

    class Ticket:
        def __init__(self, caller):
            self.caller = caller
            self.state = State.WAITING

    def __init__(self):
        self._waiting = []
        self._had = {}
        self._busy = False

    def submit(self, now, caller):
        ticket = self.Ticket(caller)
        if self._busy:
            self._waiting.append(ticket)
        self._busy = True
        return ticket

    def pull(self, now):
        least = min(self._waiting, key=lambda ticket: self._had.get(ticket.caller.customer, 0.0))
        self._waiting.remove(least)
        return [least]

    def finish(self, now, ticket, cost):
        self._had[ticket.caller.customer] = self._had.get(ticket.caller.customer, 0.0) + cost


def test_a_decision_runs_as_many_lines_for_twenty_thousand_customers_as_for_ten():
    few, many = (lines_per_step(ClosedLoop(callers(number))) for number in (FEW, MANY))
    assert many <= 1.2 * few


def test_a_scheduler_that_scans_is_found_out():
    few, many = (lines_per_step(ClosedLoop(callers(number), scheduler=ScanningScheduler())) for number in (FEW, 500))
    assert many > 2 * few


def test_a_waiting_customer_takes_at_most_a_kilobyte():
    crowd = callers(MANY)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        loop = ClosedLoop(crowd)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert MANY == loop.scheduler.waiting.count
    assert (after - before) / MANY <= 1_000


@pytest.mark.parametrize("verified", [True, False])
@pytest.mark.parametrize("size", [1, 2_000])
def test_one_off_customers_leave_no_object_behind(verified, size):
    scheduler = Scheduler(slots=8)
    crowd = callers(MANY, verified=verified)
    now = in_crowds(scheduler, crowd[:100], 100.0, size=10)  # what is made once has been made
    before = census(scheduler, now + 60.0, steps=100)
    if size == 1:
        now = one_after_another(scheduler, crowd, now + 60.0)
    else:
        now = in_crowds(scheduler, crowd, now + 60.0, size=size)
    after = census(scheduler, now + 60.0, steps=2_000)
    assert {} == {kind: more for kind, number in after.items() if (more := number - before[kind]) > 20}


def test_who_stays_is_found_by_the_same_census():
    scheduler = Scheduler(slots=8)
    before = census()
    kept = [scheduler.submit(100.0, caller) for caller in callers(100)]
    after = census()
    assert 100 == len(kept)
    assert 100 == after["Flow"] - before["Flow"] == after["Ticket"] - before["Ticket"]
