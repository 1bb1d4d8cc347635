"""The gate: a request has its slot exactly while its ticket is granted, whoever carries it and however that ends."""

from __future__ import annotations

import asyncio
import threading

import pytest
from attack.exchanges import MovingClock, turns

from ezthrottle_provider.inbound.gate import Gate
from ezthrottle_provider.inbound.policies import Policy
from ezthrottle_provider.instrumentation import Abandoned, Finished, Granted, Hooks, Queued
from ezthrottle_provider.scheduling import Caller, Scheduler, State, Terms
from ezthrottle_provider.testing import FakeClock, RecordingHook

POLICY = Policy("GET /x")
TERMS = Terms()


def caller(name="acme", **options):
    return Caller(name, "key of " + name, True, TERMS, **options)


class Impatient(FakeClock):
    """A clock that stands still, and that may not be read again and again."""

    reads_left = 1_000

    def __call__(self):
        self.reads_left -= 1
        assert self.reads_left > 0, "somebody waits for time to pass by asking for it"
        return super().__call__()


class House:
    """A gate of one slot with a recording hook and a clock that only the test moves."""

    def __init__(self, *, slots=1, clock=None, **options):
        self.clock = clock or FakeClock(100.0)
        self.seen = RecordingHook()
        self.scheduler = Scheduler(slots=slots, **options)
        self.hooks = Hooks(self.seen)
        self.gate = Gate(self.scheduler, hooks=self.hooks, clock=self.clock)
        self.pool = self.scheduler.pools["default"]

    def enter(self, name="acme", **options):
        return self.gate.enter(caller(name, **options), POLICY)

    @property
    def kinds(self):
        return [(type(event).__name__, event.customer) for event in self.seen.events]


def test_a_request_that_nothing_delays_is_granted_at_once_and_gives_its_slot_back():
    house = House()
    ticket = house.enter()
    assert State.GRANTED is ticket.state
    assert 1 == house.pool.in_flight
    house.gate.leave(ticket)
    assert State.FINISHED is ticket.state
    assert 0 == house.pool.in_flight


def test_leaving_twice_gives_back_one_slot():
    house = House(slots=2)
    first, _second = house.enter(), house.enter()
    for _ in range(3):
        house.gate.leave(first)
    assert 1 == house.pool.in_flight


def test_abandoning_a_request_that_was_granted_meanwhile_frees_its_slot():
    house = House()
    first, second = house.enter(), house.enter()
    house.gate.leave(first)
    assert State.GRANTED is second.state
    house.gate.abandon(second)
    assert 0 == house.pool.in_flight


def test_abandoning_what_was_refused_or_has_ended_changes_nothing():
    house = House(max_queue=1)
    first, _second, third = house.enter(), house.enter(), house.enter()
    assert State.REFUSED is third.state
    house.gate.abandon(third)
    assert State.REFUSED is third.state
    house.gate.leave(first)
    house.gate.abandon(first)
    assert State.FINISHED is first.state


async def test_a_task_is_woken_when_its_turn_comes():
    house = House()
    first, second = house.enter(), house.enter()
    waiting = asyncio.ensure_future(house.gate.wait(second))
    await turns()
    assert not waiting.done()
    house.gate.leave(first)
    await turns()
    assert waiting.done()
    assert State.GRANTED is second.state


async def test_a_wait_whose_ticket_was_settled_on_the_way_returns_at_once():
    house = House()
    first, second = house.enter(), house.enter()
    house.gate.leave(first)
    await house.gate.wait(second)
    assert State.GRANTED is second.state


async def test_cancelling_a_wait_gives_the_place_back():
    house = House()
    _first, second = house.enter(), house.enter()
    waiting = asyncio.ensure_future(house.gate.wait(second))
    await turns()
    waiting.cancel()
    await turns()
    assert waiting.cancelled()
    assert State.ABANDONED is second.state
    assert 0 == house.pool.ring.filed


async def test_a_cancellation_that_comes_together_with_the_grant_gives_the_slot_back():
    house = House()
    first, second = house.enter(), house.enter()
    waiting = asyncio.ensure_future(house.gate.wait(second))
    await turns()
    house.gate.leave(first)  # wakes it: its task is scheduled, but has not run
    waiting.cancel()
    await turns()
    assert waiting.cancelled()
    assert State.FINISHED is second.state
    assert 0 == house.pool.in_flight


async def test_a_wait_that_is_closed_without_a_cancellation_gives_the_place_back():
    house = House()
    _first, second = house.enter(), house.enter()
    waiting = house.gate.wait(second)
    waiting.send(None)
    waiting.close()  # what the interpreter does with a coroutine that nobody will resume
    assert State.ABANDONED is second.state
    assert 0 == house.scheduler.waiting.count


def test_a_waiter_whose_loop_was_closed_neither_fails_nor_blocks_the_others():
    house = House()
    first, second = house.enter(), house.enter()
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(house.gate.wait(second))
    waiting._log_destroy_pending = False  # asyncio would complain about what this test does on purpose
    loop.run_until_complete(turns())
    loop.close()  # a server that was torn down in the middle: nobody cancelled its tasks
    house.gate.leave(first)
    assert State.GRANTED is house.enter("other").state


async def test_a_request_that_waits_too_long_is_refused_by_the_tick():
    house = House(max_wait=10.0, clock=MovingClock(100.0))
    _first, second = house.enter(), house.enter()
    waiting = asyncio.ensure_future(house.gate.wait(second))
    await turns()
    house.clock.advance(9.9)
    house.gate.tick()
    assert State.WAITING is second.state
    house.clock.advance(0.1)
    house.gate.tick()
    await turns()
    assert waiting.done()
    assert (State.REFUSED, "max_wait") == (second.state, second.reason)


async def test_a_watch_begins_only_when_the_wait_becomes_long():
    house = House(clock=MovingClock(100.0))
    _first, second = house.enter(), house.enter()
    begun = []
    waiting = asyncio.ensure_future(house.gate.wait(second, lambda: begun.append(True)))
    await turns()
    house.clock.advance(0.4)
    house.gate.tick()
    assert [] == begun
    house.clock.advance(0.2)
    house.gate.tick()
    house.gate.tick()
    assert [True] == begun
    waiting.cancel()
    await turns()


def test_the_tick_stops_when_nothing_is_left_to_do():
    house = House(slots=4, clock=MovingClock(100.0))
    for _ in range(5):
        house.gate.leave(house.enter())
    pauses = []
    for _ in range(40):  # ten seconds of ticks
        house.clock.advance(0.25)
        pauses.append(house.gate.tick())
        if pauses[-1] is None:
            break
    assert pauses[-1] is None


@pytest.mark.parametrize("idle_s", [1.0, 60.0])
def test_a_tick_ends_when_there_is_nothing_to_forget_and_not_when_its_time_is_up(idle_s):
    house = House(slots=4, clock=Impatient(100.0))  # a tick that spins until its time is up meets the limit of reads
    for _ in range(5):
        house.gate.leave(house.enter())
    house.clock.advance(idle_s)
    house.clock.reads_left = 100
    house.gate.tick()


def test_an_idle_gate_forgets_every_customer():
    house = House(slots=4, clock=MovingClock(100.0))
    for number in range(50):
        for _ in range(4):
            house.gate.leave(house.enter(f"customer{number}"))
    for _ in range(80):
        house.clock.advance(0.25)
        house.gate.tick()
    assert [] == [flow.id for _, flow in house.scheduler.customers()]


def test_draining_refuses_those_who_wait_and_those_who_would_have_to_and_nobody_else():
    house = House(slots=2)
    first, _second, third = house.enter(), house.enter(), house.enter()
    house.gate.drain()
    assert (State.REFUSED, "draining") == (third.state, third.reason)
    fourth = house.enter()
    assert (State.REFUSED, "draining") == (fourth.state, fourth.reason)
    house.gate.leave(first)
    assert State.GRANTED is house.enter().state


def test_a_thread_waits_for_its_turn_and_gets_it():
    house = House()
    first, second = house.enter(), house.enter()
    thread = threading.Thread(target=house.gate.wait_blocking, args=(second,))
    thread.start()
    house.gate.leave(first)
    thread.join(10.0)
    assert not thread.is_alive()
    assert State.GRANTED is second.state


def test_a_thread_that_is_interrupted_while_it_waits_gives_its_place_back():
    class Interrupted(BaseException):
        """What a worker's timeout raises in the thread that serves the request."""

    class AlarmClock(FakeClock):
        armed = False

        def __call__(self):
            if self.armed:
                self.armed = False
                raise Interrupted
            return super().__call__()

    house = House(clock=AlarmClock(100.0))
    _first, second = house.enter(), house.enter()
    house.clock.armed = True  # the wait reads the clock first
    with pytest.raises(Interrupted):
        house.gate.wait_blocking(second)
    assert State.ABANDONED is second.state


def test_detaching_gives_the_slot_to_the_next_while_the_cost_goes_on():
    house = House()
    first, second = house.enter("slow"), house.enter("next")
    house.gate.detach(first)
    assert State.GRANTED is second.state
    assert (1, 1) == (house.pool.in_flight, house.pool.streams)
    before = first.charged
    house.clock.advance(5.0)
    house.gate.charge(first)
    assert first.charged > before
    house.gate.detach(first)
    house.gate.leave(first)
    assert (1, 0) == (house.pool.in_flight, house.pool.streams)


def test_an_overruled_request_runs_beside_a_full_pool_and_is_told_of_like_any_other():
    house = House()
    first, second = house.enter("first"), house.enter("second")
    house.gate.overrule(second)
    assert 2 == house.pool.in_flight
    house.gate.leave(second)
    house.gate.leave(first)
    assert 0 == house.pool.in_flight
    told = [kind for kind, customer in house.kinds if customer == "second"]
    assert ["Granted", "Finished"] == [kind for kind in told if kind != "Queued"]


def test_every_request_is_granted_once_and_finished_once_in_the_events():
    house = House()
    first, second, third = house.enter("first"), house.enter("second"), house.enter("third")
    house.gate.abandon(third)
    house.clock.advance(2.0)
    house.gate.leave(first)
    house.clock.advance(1.0)
    house.gate.leave(second)
    assert 1 == len(house.seen.of(Abandoned))
    assert [("second", 2), ("third", 2)] == [(event.customer, event.depth + 1) for event in house.seen.of(Queued)]
    assert [("first", 0.0), ("second", 2.0)] == [(event.customer, event.wait_s) for event in house.seen.of(Granted)]
    finished = house.seen.of(Finished)
    assert [("first", 2.0, 0.0), ("second", 1.0, 2.0)] == [(f.customer, f.held_s, f.wait_s) for f in finished]


def test_a_request_that_is_granted_together_with_those_before_it_is_told_of_once():
    house = House()
    house.enter("first")
    house.enter("second")
    house.scheduler.resize({"default": 3})
    house.enter("second")  # behind the one that waits; both are granted on the way in
    assert ["first", "second", "second"] == [event.customer for event in house.seen.of(Granted)]


def test_a_request_that_ends_before_its_grant_was_told_is_told_of_all_the_same():
    house = House(slots=1)
    house.enter("first")
    house.enter("second")
    third = house.enter("third")

    def be_quick(event):  # as the third request's own thread may be, while this one still tells of the second
        if isinstance(event, Granted) and event.customer == "second":
            house.gate.leave(third)

    house.hooks.add(be_quick)
    house.scheduler.resize({"default": 3})
    house.gate.poll()
    assert State.FINISHED is third.state
    assert ["first", "second", "third"] == [event.customer for event in house.seen.of(Granted)]
