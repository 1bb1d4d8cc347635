from __future__ import annotations

import asyncio
import functools
import random
import threading
import time

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ezthrottle_provider.customers import Customer
from ezthrottle_provider.inbound.lookups import (
    BAD_FOR_S,
    BUSY,
    GOOD_FOR_S,
    LAST_GOOD_FOR_S,
    RETRY_AFTER_S,
    Answer,
    Lookup,
    Lookups,
)
from ezthrottle_provider.inbound.resolver import Resolver, _Threads
from ezthrottle_provider.testing import FakeClock

ACME = Customer("acme", tier="pro")


def not_run(lookup):
    raise AssertionError("the pure part runs nothing")


def join(lookups, key, address="a", now=0.0):
    """One caller joins; it wants to be woken."""
    joined, victim = lookups.join(key, address, now, not_run)
    if isinstance(joined, Lookup):
        joined.wakers.add(functools.partial(print, key, address, now))
    return joined, victim


def resolved(lookups, key, now, customer=ACME, *, failed=False):
    """One whole lookup that nothing delays."""
    lookup, _ = join(lookups, key, now=now)
    assert [lookup] == lookups.start(now)
    lookups.settle(lookup, now, customer=customer, failed=failed)
    return lookup.answer


# What is remembered


def test_a_good_answer_is_known_for_a_minute():
    lookups = Lookups()

    assert Answer(ACME, GOOD_FOR_S, LAST_GOOD_FOR_S) == resolved(lookups, "k", 0.0)
    assert ACME == lookups.known("k", 59.9).customer
    assert lookups.known("k", 60.0) is None


def test_a_bad_answer_is_known_for_ten_seconds():
    lookups = Lookups()

    assert Answer(None, BAD_FOR_S) == resolved(lookups, "k", 0.0, None)
    assert lookups.known("k", 9.9).customer is None
    assert lookups.known("k", 10.0) is None


def test_when_asking_again_fails_the_last_good_answer_counts_for_ten_minutes_and_no_longer():
    lookups = Lookups()
    resolved(lookups, "k", 0.0)

    for now in (60.0, 300.0, 599.0):
        assert ACME == resolved(lookups, "k", now, None, failed=True).customer
        assert ACME == lookups.known("k", min(now + RETRY_AFTER_S, LAST_GOOD_FOR_S) - 0.1).customer
    assert lookups.known("k", 600.0) is None
    assert Answer(None, 600.0 + RETRY_AFTER_S) == resolved(lookups, "k", 600.0, None, failed=True)


def test_a_fallback_is_repeated_before_the_function_is_asked_again():
    lookups = Lookups()

    assert Answer(None, RETRY_AFTER_S) == resolved(lookups, "k", 0.0, None, failed=True)
    assert lookups.known("k", RETRY_AFTER_S - 0.1) is not None
    assert lookups.known("k", RETRY_AFTER_S) is None


def test_a_key_that_was_withdrawn_is_not_good_any_more_when_asking_fails():
    lookups = Lookups()
    resolved(lookups, "k", 0.0)
    resolved(lookups, "k", 60.0, None)

    assert resolved(lookups, "k", 70.0, None, failed=True).customer is None


def test_a_key_that_becomes_good_is_not_bad_any_more():
    lookups = Lookups()
    resolved(lookups, "k", 0.0, None)
    resolved(lookups, "k", 10.0)

    assert ACME == lookups.known("k", 11.0).customer


def test_any_number_of_forged_keys_is_bounded_and_pushes_out_no_good_answer():
    lookups = Lookups(max_remembered=100)
    resolved(lookups, "good", 0.0)
    for number in range(1_000):
        resolved(lookups, f"forged {number}", 1.0, None)

    assert ACME == lookups.known("good", 2.0).customer
    assert lookups.known("forged 999", 2.0) is not None
    assert lookups.known("forged 0", 2.0) is None
    assert len(lookups._bad) <= 100


def test_good_answers_are_bounded_too_and_the_oldest_go_first():
    lookups = Lookups(max_remembered=100)
    for number in range(101):
        resolved(lookups, f"k{number}", 0.0)

    assert lookups.known("k0", 1.0) is None
    assert lookups.known("k100", 1.0) is not None
    assert len(lookups._good) <= 100


# Who waits, who runs


def test_at_most_16_calls_run_at_once():
    lookups = Lookups()
    waiting = [join(lookups, f"k{number}")[0] for number in range(20)]

    assert waiting[:16] == lookups.start(0.0)
    assert [] == lookups.start(0.0)
    assert (16, 4) == (lookups.running, lookups.waiting)
    lookups.settle(waiting[3], 0.1, customer=ACME, failed=False)
    assert waiting[16:17] == lookups.start(0.1)


def test_those_who_ask_for_the_same_key_share_one_lookup():
    lookups = Lookups()
    first, _ = join(lookups, "k", "a")
    second, _ = join(lookups, "k", "b")
    lookups.start(0.0)
    third, _ = join(lookups, "k", "c")

    assert first is second is third
    assert 1 == lookups.running
    assert 3 == len(first.wakers)


def place_of_the_honest_one(honest_address):
    """In how many rounds of 16 calls an honest lookup starts that comes after a flood of 900 from one address."""
    lookups = Lookups()
    for number in range(900):
        join(lookups, f"forged {number}", "flood")
    honest, _ = join(lookups, "honest", honest_address)
    for round_ in range(100):
        started = lookups.start(round_ * 0.1)
        if honest in started:
            return round_
        for lookup in started:
            lookups.settle(lookup, round_ * 0.1, customer=None, failed=False)
    raise AssertionError("it never started")


def test_a_flood_of_lookups_from_one_address_does_not_delay_another_address():
    assert 0 == place_of_the_honest_one("honest")


def test_control_from_the_address_of_the_flood_itself_a_lookup_waits_for_all_of_it():
    assert 900 // 16 == place_of_the_honest_one("flood")


def test_addresses_take_turns_and_each_is_served_in_order():
    lookups = Lookups(limit=1)
    for key, address in [("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"), ("b2", "b"), ("c1", "c")]:
        join(lookups, key, address)
    order = []
    while started := lookups.start(0.0):
        order.append(started[0].key)
        lookups.settle(started[0], 0.0, customer=None, failed=False)

    assert ["a1", "b1", "c1", "a2", "b2", "a3"] == order


def test_a_full_line_makes_place_for_another_address_at_the_cost_of_the_longest():
    lookups = Lookups(limit=1, max_waiting=10)
    flood = [join(lookups, f"forged {number}", "flood")[0] for number in range(10)]

    honest, victim = join(lookups, "honest", "honest")
    assert flood[9] is victim
    assert victim.answer.customer is None
    assert 10 == lookups.waiting
    assert [flood[0]] == lookups.start(0.0)
    lookups.settle(flood[0], 0.0, customer=None, failed=False)
    assert [honest] == lookups.start(0.0)


def test_a_full_line_has_no_place_for_the_address_that_filled_it():
    lookups = Lookups(limit=1, max_waiting=10)
    for number in range(10):
        join(lookups, f"forged {number}", "flood")

    assert (Answer(None, RETRY_AFTER_S), None) == join(lookups, "one more", "flood")
    assert 10 == lookups.waiting


def test_one_lookup_is_shared_by_a_bounded_number():
    lookups = Lookups(max_waiting=10)
    joined = [join(lookups, "k", "a", now)[0] for now in range(11)]

    assert 1 == len(set(joined[:10]))
    assert isinstance(joined[10], Answer)


def test_a_lookup_waits_no_longer_than_the_time_limit_for_its_call():
    lookups = Lookups(limit=1)
    running, waiting = join(lookups, "k1")[0], join(lookups, "k2")[0]
    lookups.start(0.0)

    assert not lookups.give_up(waiting, 0.9)
    assert lookups.give_up(waiting, 1.0)
    assert Answer(None, 1.0 + RETRY_AFTER_S) == waiting.answer
    assert 0 == lookups.waiting
    assert not lookups.give_up(waiting, 1.0)
    lookups.settle(running, 1.0, customer=None, failed=False)
    assert [] == lookups.start(1.0)


def test_the_time_limit_of_a_call_begins_with_the_call():
    lookups = Lookups(limit=1)
    first, second = join(lookups, "k1")[0], join(lookups, "k2")[0]
    lookups.start(0.0)
    lookups.settle(first, 0.9, customer=ACME, failed=False)
    lookups.start(0.9)

    assert not lookups.give_up(second, 1.5)
    assert lookups.give_up(second, 1.9)


def test_a_call_that_overruns_keeps_its_place_and_nobody_waits_for_it_again():
    lookups = Lookups(limit=1)
    hanging, _ = join(lookups, "k")
    lookups.start(0.0)
    lookups.give_up(hanging, 1.0)

    assert 1 == lookups.running
    assert isinstance(join(lookups, "k", now=10.0)[0], Answer)
    assert isinstance(join(lookups, "another key", now=10.0)[0], Answer), "every call hangs"


def test_what_an_overrun_call_says_in_the_end_counts():
    lookups = Lookups(limit=1)
    late, _ = join(lookups, "k")
    lookups.start(0.0)
    lookups.give_up(late, 1.0)
    lookups.settle(late, 3.0, customer=ACME, failed=False)

    assert ACME == lookups.known("k", 3.1).customer
    assert 0 == lookups.running
    assert isinstance(join(lookups, "another key", now=3.1)[0], Lookup)


def test_a_lookup_that_nobody_waits_for_any_more_does_not_start():
    lookups = Lookups(limit=1)
    running, abandoned, shared = (join(lookups, key)[0] for key in ("k1", "k2", "k3"))
    join(lookups, "k3", "b", 1.0)
    lookups.start(0.0)
    lookups.leave(abandoned, *abandoned.wakers)
    lookups.leave(shared, next(iter(shared.wakers)))
    lookups.settle(running, 0.5, customer=None, failed=False)

    assert [shared] == lookups.start(0.5)
    assert 0 == lookups.waiting


class EveryHistory(RuleBasedStateMachine):
    """Whatever happens in whatever order: the bounds hold, and in the end nothing is left."""

    @initialize()
    def begin(self):
        self.lookups = Lookups(limit=2, max_waiting=4, max_remembered=5)
        self.now = 0.0
        self.asking: list[tuple[Lookup, object]] = []
        self.running: list[Lookup] = []

    @rule(key=st.sampled_from("klmnopqr"), address=st.sampled_from("abc"))
    def ask(self, key, address):
        if self.lookups.known(key, self.now) is not None:
            return
        joined, victim = self.lookups.join(key, address, self.now, not_run)
        assert victim is None or victim.answer is not None
        if isinstance(joined, Lookup):
            waker = functools.partial(print)
            joined.wakers.add(waker)
            self.asking.append((joined, waker))
        self.running += self.lookups.start(self.now)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), customer=st.sampled_from([ACME, None]), failed=st.booleans())
    def settle(self, data, customer, failed):
        lookup = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.lookups.settle(lookup, self.now, customer=customer, failed=failed)
        assert lookup.answer is not None
        self.running += self.lookups.start(self.now)

    @precondition(lambda self: self.asking)
    @rule(data=st.data())
    def go_away(self, data):
        lookup, waker = self.asking.pop(data.draw(st.integers(0, len(self.asking) - 1)))
        self.lookups.leave(lookup, waker)

    @rule(seconds=st.sampled_from([0.1, 1.0, 7.0, 70.0, 700.0]))
    def let_time_pass(self, seconds):
        self.now += seconds
        for lookup, _ in self.asking:
            self.lookups.give_up(lookup, self.now)

    @invariant()
    def the_bounds_hold(self):
        if not hasattr(self, "lookups"):
            return
        lookups = self.lookups
        assert len(self.running) == lookups.running <= 2
        assert sum(map(len, lookups._lines.values())) == lookups.waiting <= 4
        assert len(lookups._open) == lookups.running + lookups.waiting
        assert max(len(lookups._good), len(lookups._bad)) <= 5
        assert all(line for line in lookups._lines.values())

    def teardown(self):
        while self.asking:
            self.lookups.leave(*self.asking.pop())
        while self.running:
            self.lookups.settle(self.running.pop(), self.now, customer=None, failed=True)
        assert [] == self.lookups.start(self.now)
        assert (0, 0, 0, {}) == (
            self.lookups.running,
            self.lookups.waiting,
            self.lookups._overdue,
            self.lookups._open,
        )


TestEveryHistory = EveryHistory.TestCase


# The drivers: asyncio and threads


class Accounts:
    """A user's function in both colours; it counts its calls and returns, raises or hangs until it is released."""

    def __init__(self, result=ACME):
        self.result = result
        self.calls: list[str] = []
        self.at_once = self.most_at_once = 0
        self.hanging = False
        self.entered = threading.Semaphore(0)
        self.released = threading.Event()
        self.failures: list[str] = []

    def sync(self, key):
        self.calls.append(key)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.entered.release()
        if self.hanging:
            assert self.released.wait(10)
        self.at_once -= 1
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    async def coroutine(self, key):
        if self.hanging:
            self.calls.append(key)
            await asyncio.Event().wait()
        return self.sync(key)


def from_asyncio(resolver, key, address):
    return asyncio.run(resolver.resolve(key, address))


def from_a_thread(resolver, key, address):
    return resolver.resolve_blocking(key, address)


@pytest.fixture(params=["sync", "coroutine"])
def colour(request):
    return request.param


@pytest.fixture(params=[from_asyncio, from_a_thread])
def ask(request):
    return request.param


def resolver_of(accounts, colour, clock=None, **bounds):
    return Resolver(
        getattr(accounts, colour),
        on_failure=accounts.failures.append,
        clock=clock or FakeClock(),
        lookups=Lookups(**bounds),
    )


def test_the_function_is_asked_once_and_gets_the_key_as_latin_1_text(colour, ask):
    accounts = Accounts()
    resolver = resolver_of(accounts, colour)

    assert ACME == ask(resolver, b"k\xe9y\x00", "a").customer
    assert ACME == ask(resolver, b"k\xe9y\x00", "b").customer
    assert ["kéy\x00"] == accounts.calls
    assert [] == accounts.failures


def test_nobodys_key_is_no_failure(colour, ask):
    accounts = Accounts(None)

    assert Answer(None, BAD_FOR_S) == ask(resolver_of(accounts, colour), "key", "a")
    assert [] == accounts.failures


@pytest.mark.parametrize(
    ("result", "failure"), [(KeyError("key"), "KeyError"), ("acme", "TypeError"), (b"", "TypeError"), (0, "TypeError")]
)
def test_an_exception_or_garbage_is_a_failure_told_by_name_and_the_last_good_answer_counts(
    colour, ask, result, failure
):
    accounts, clock = Accounts(), FakeClock()
    resolver = resolver_of(accounts, colour, clock)
    ask(resolver, "key", "a")
    clock.advance(GOOD_FOR_S)
    accounts.result = result

    assert ACME == ask(resolver, "key", "a").customer
    assert ask(resolver, "another key", "a").customer is None
    assert [failure, failure] == accounts.failures


def test_a_sync_function_that_returns_a_coroutine_is_a_failure(ask):
    accounts = Accounts()

    assert ask(Resolver(lambda key: accounts.coroutine(key), on_failure=accounts.failures.append), "k", "a") is not None
    assert ["TypeError"] == accounts.failures


def test_a_call_that_hangs_is_given_up_after_the_time_limit(colour, ask):
    accounts = Accounts()
    accounts.hanging = True
    resolver = resolver_of(accounts, colour, time.monotonic, time_limit_s=0.02)

    assert ask(resolver, "key", "a").customer is None
    accounts.released.set()
    assert ["TimeoutError"] == accounts.failures


def test_what_a_thread_says_after_the_time_limit_still_counts():
    accounts, clock = Accounts(), FakeClock()
    accounts.hanging = True
    resolver = resolver_of(accounts, "sync", clock, limit=1)
    lookup, woken = begin_blocking(resolver, "key")
    assert accounts.entered.acquire(timeout=10)
    clock.advance(1.0)
    assert 0 == resolver._patience_s(lookup)
    assert woken.is_set()
    assert Answer(None, 1.0 + RETRY_AFTER_S) == resolver.resolve_blocking("key", "a")

    woken.clear()
    accounts.released.set()
    assert woken.wait(10)
    assert ACME == resolver.resolve_blocking("key", "a").customer
    assert ["TimeoutError"] == accounts.failures


def begin_blocking(resolver, key):
    """The first half of ``resolve_blocking``: the caller has joined and its call has begun."""
    woken = threading.Event()
    return resolver._enter(key, "a", woken.set, resolver._in_thread(key)), woken


async def test_a_hundred_tasks_with_one_key_make_one_call(colour):
    accounts = Accounts()
    resolver = resolver_of(accounts, colour)
    answers = await asyncio.gather(*(resolver.resolve("key", f"a{number}") for number in range(100)))

    assert {ACME} == {answer.customer for answer in answers}
    assert 1 == len(accounts.calls)


def in_threads(number, target):
    threads = [threading.Thread(target=target, args=(n,)) for n in range(number)]
    for thread in threads:
        thread.start()
    return threads


def test_twenty_threads_with_one_key_make_one_call(colour):
    accounts, answers = Accounts(), []
    resolver = resolver_of(accounts, colour)
    for thread in in_threads(20, lambda n: answers.append(resolver.resolve_blocking("key", f"a{n}"))):
        thread.join(10)

    assert [ACME] * 20 == [answer.customer for answer in answers]
    assert 1 == len(accounts.calls)


def test_at_most_16_threads_call_at_once_and_everybody_gets_an_answer():
    accounts, answers = Accounts(), []
    accounts.hanging = True
    resolver = resolver_of(accounts, "sync")
    threads = in_threads(40, lambda n: answers.append(resolver.resolve_blocking(f"key {n}", f"a{n}")))
    for _ in range(16):
        assert accounts.entered.acquire(timeout=10)
    accounts.released.set()
    for thread in threads:
        thread.join(10)

    assert [ACME] * 40 == [answer.customer for answer in answers]
    assert accounts.most_at_once <= 16
    assert (0, 0) == (resolver._lookups.running, resolver._lookups.waiting)


async def test_a_lookup_begun_by_a_thread_is_shared_with_a_task():
    accounts = Accounts()
    accounts.hanging = True
    resolver = resolver_of(accounts, "sync")
    _, woken = begin_blocking(resolver, "key")
    task = asyncio.create_task(resolver.resolve("key", "b"))
    await asyncio.to_thread(accounts.entered.acquire, timeout=10)
    accounts.released.set()

    assert ACME == (await task).customer
    assert await asyncio.to_thread(woken.wait, 10)
    assert 1 == len(accounts.calls)


async def until(condition):
    """Give way to other tasks and threads until something has happened."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.to_thread(int)


async def test_cancelling_those_who_wait_leaks_nothing(colour):
    accounts = Accounts()
    accounts.hanging = True
    resolver = resolver_of(accounts, colour, limit=1)
    tasks = [asyncio.create_task(resolver.resolve(f"key {n % 50}", f"a{n % 7}")) for n in range(100)]
    await until(lambda: accounts.calls)
    random.Random(1).shuffle(tasks)
    for task in tasks:
        task.cancel()
    assert {asyncio.CancelledError} == {type(end) for end in await asyncio.gather(*tasks, return_exceptions=True)}

    lookups = resolver._lookups
    assert (1, 0, {}) == (lookups.running, lookups.waiting, dict(lookups._lines))
    accounts.released.set()
    (running,) = lookups._open.values()
    assert set() == running.wakers
    if running.task is not None:
        running.task.cancel()
    await until(lambda: not lookups.running)
    assert {} == lookups._open


async def test_a_call_goes_on_for_others_when_the_one_who_asked_first_is_cancelled():
    accounts = Accounts()
    gate = asyncio.Event()

    async def function(key):
        await gate.wait()
        return ACME

    resolver = Resolver(function, on_failure=accounts.failures.append)
    first, second = (asyncio.create_task(resolver.resolve("key", "a")) for _ in range(2))
    await asyncio.wait([first], timeout=0)
    first.cancel()
    await asyncio.wait([first])
    gate.set()

    assert ACME == (await second).customer


async def test_a_lookup_that_must_make_place_is_answered_at_once():
    accounts = Accounts()
    accounts.hanging = True
    resolver = resolver_of(accounts, "coroutine", limit=1, max_waiting=2)
    tasks = [asyncio.create_task(resolver.resolve(f"key {n}", "flood")) for n in range(4)]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    assert tasks[3].result().customer is None, "the flood filled the line itself"
    honest = asyncio.create_task(resolver.resolve("honest", "honest"))

    assert (await tasks[2]).customer is None
    assert [BUSY, BUSY] == accounts.failures
    for task in (*tasks[:2], honest):
        task.cancel()
    await asyncio.wait(tasks)


def test_what_cannot_be_run_fails_one_after_the_other_without_exhausting_the_stack():
    accounts = Accounts()
    resolver = resolver_of(accounts, "sync", limit=1, max_waiting=5_000)

    def run(lookup):
        raise RuntimeError("can't start new thread")

    lookups = [resolver._lookups.join(str(n), "a", 0.0, run)[0] for n in range(5_000)]
    resolver._run(resolver._lookups.start(0.0))

    assert {Answer(None, RETRY_AFTER_S)} == {lookup.answer for lookup in lookups}
    assert ["RuntimeError"] * 5_000 == accounts.failures


def test_threads_end_when_idle_and_no_job_is_lost_at_that_moment():
    threads = _Threads(idle_s=0.0)
    for _ in range(500):
        done = threading.Event()
        threads.submit(done.set)
        assert done.wait(10)


def test_no_raw_key_stands_in_a_repr_or_is_kept_after_the_lookup(colour, ask):
    accounts = Accounts()
    resolver = resolver_of(accounts, colour)
    ask(resolver, "very-secret-key", "a")
    lookup = Lookup("hash", "a", 0.0, resolver._in_thread("very-secret-key"))

    shown = repr(vars(resolver)) + repr(resolver) + repr(lookup) + repr(resolver._lookups._good)
    assert "very-secret-key" not in shown
