"""Asking the user's ``resolve`` who a key belongs to: never too often, never for long, never unfairly.

The function may be slow, hang or fail, and anybody can make us call it by inventing keys. So at most ``limit`` calls
run at once, each for at most ``time_limit_s``; those that wait for a call wait no longer than that, by network address:
one lookup of each address in turn, first come first served inside it. All who ask for the same key share one lookup.
No outcome is ever a refusal: in doubt the last good answer counts, or the caller counts as unverified.

``Lookups`` decides: it is given the time, never waits and runs nothing. ``Resolver`` drives it from asyncio and from
threads; it changes state under its lock and acts on the result after it.
"""

from __future__ import annotations

import asyncio
import inspect
import queue
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, Final

from ezthrottle_provider.customers import Customer, hash_key, is_async, key_bytes

__all__ = ["Answer", "Lookup", "Lookups", "Resolver"]

Run = Callable[["Lookup"], None]

GOOD_FOR_S: Final = 60.0
LAST_GOOD_FOR_S: Final = 600.0
BAD_FOR_S: Final = 10.0
RETRY_AFTER_S: Final = 5.0
"""How long a fallback is repeated before asking again: each attempt at a dead service costs its caller a second."""
BUSY: Final = "Busy"
"""How a lookup is reported that found no call free in time; other failures go by their exception's type."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Whose key it is, ``None`` for nobody's, and the time (of the clock in use) until which that may be relied on.

    ``last_good_until`` is for how long it stands in when asking again fails.
    """

    customer: Customer | None
    until: float
    last_good_until: float = 0.0


@dataclass(slots=True, eq=False, repr=False)
class Lookup:
    """One question, shared by all who ask for the same key; it waits, runs, and has an answer in the end.

    ``deadline`` is when those who wait for it stop: for a call to come free, then for the call. A call that overruns
    keeps its place among the running ones until it returns: a thread cannot be stopped.
    """

    key: str
    address: str
    deadline: float
    run: Run  # it holds the raw key; no repr of a lookup shows it
    running: bool = False
    answer: Answer | None = None
    task: asyncio.Task[None] | None = None  # kept here, since a loop holds its tasks only weakly
    wakers: set[Callable[[], None]] = field(default_factory=set)


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class Lookups:
    """What is known, who waits and what runs. Pure: time is passed in. Not thread-safe: its owner holds a lock.

    Invariants: running <= ``limit``; waiting <= ``max_waiting``; a lookup is in ``_open`` until its call has returned,
    or until it left the line. Good and bad answers are bounded apart, so that invented keys cannot push out known ones.
    """

    limit: int = 16
    time_limit_s: float = 1.0
    max_waiting: int = 1_000
    max_remembered: int = 10_000
    waiting: int = field(default=0, init=False)  # lookups that wait for a call
    running: int = field(default=0, init=False)  # calls that have not returned, those that overrun included
    _overdue: int = field(default=0, init=False)  # those that overrun
    _open: dict[str, Lookup] = field(default_factory=dict, init=False)
    _lines: OrderedDict[str, OrderedDict[Lookup, None]] = field(default_factory=OrderedDict, init=False)  # by address
    _good: dict[str, Answer] = field(default_factory=dict, init=False)
    _bad: dict[str, Answer] = field(default_factory=dict, init=False)

    def known(self, key: str, now: float) -> Answer | None:
        """The answer that need not be asked for."""
        for answer in (self._good.get(key), self._bad.get(key)):
            if answer is not None and now < answer.until:
                return answer
        return None

    def join(self, key: str, address: str, now: float, run: Run) -> tuple[Lookup | Answer, Lookup | None]:
        """Take part in the lookup of a key, or begin one.

        The first of the pair is that lookup, or a fallback when there is no place; the second is another lookup that
        had to make place: the newest of the longest line, and it has been given its answer.
        """
        if lookup := self._open.get(key):
            # One that has an answer and is still open overruns: nobody waits for that again.
            if lookup.answer is None and len(lookup.wakers) < self.max_waiting:
                return lookup, None
            return self._fall_back(key, now), None
        full = self.waiting >= self.max_waiting
        victim = self._victim(address) if full else None
        # When every call overruns, waiting for one would only add to the delay.
        if self._overdue >= self.limit or (full and victim is None):
            return self._fall_back(key, now), None
        if victim is not None:
            self._unline(victim)
            del self._open[victim.key]
            victim.answer = self._fall_back(victim.key, now)
        lookup = self._open[key] = Lookup(key, address, now + self.time_limit_s, run)
        self._lines.setdefault(address, OrderedDict())[lookup] = None
        self.waiting += 1
        return lookup, victim

    def start(self, now: float) -> list[Lookup]:
        """The lookups whose calls begin now: one of each address in turn while there are calls free."""
        started = []
        while self._lines and self.running < self.limit:
            address, line = next(iter(self._lines.items()))
            lookup = next(iter(line))
            self._unline(lookup)
            if line:
                self._lines.move_to_end(address)
            lookup.running = True
            lookup.deadline = now + self.time_limit_s
            self.running += 1
            started.append(lookup)
        return started

    def settle(self, lookup: Lookup, now: float, *, customer: Customer | None, failed: bool) -> None:
        """A call has returned: remember what it said, also when nobody waits for it any more, and free its place."""
        self.running -= 1
        self._overdue -= lookup.answer is not None
        del self._open[lookup.key]
        if failed:
            lookup.answer = lookup.answer or self._fall_back(lookup.key, now)
            return
        self._good.pop(lookup.key, None)
        if customer is not None:
            lookup.answer = Answer(customer, now + GOOD_FOR_S, now + LAST_GOOD_FOR_S)
            self._bad.pop(lookup.key, None)
            self._remember(self._good, lookup.key, lookup.answer)
        else:
            lookup.answer = Answer(None, now + BAD_FOR_S)
            self._remember(self._bad, lookup.key, lookup.answer)

    def give_up(self, lookup: Lookup, now: float) -> bool:
        """Those who wait for it have waited long enough? Then it has an answer now; true for the one who found out."""
        if lookup.answer is not None or now < lookup.deadline:
            return False
        if lookup.running:
            self._overdue += 1
        else:
            self._unline(lookup)
            del self._open[lookup.key]
        lookup.answer = self._fall_back(lookup.key, now)
        return True

    def leave(self, lookup: Lookup, waker: Callable[[], None]) -> None:
        """One of those who wait goes away. A lookup that nobody waits for does not start."""
        lookup.wakers.discard(waker)
        if not lookup.wakers and not lookup.running and lookup.answer is None:
            self._unline(lookup)
            del self._open[lookup.key]

    def _fall_back(self, key: str, now: float) -> Answer:
        """What to say when it could not be asked; it is repeated for a while before it is asked again."""
        good = self._good.get(key)
        if good is not None and now < good.last_good_until:
            answer = replace(good, until=min(now + RETRY_AFTER_S, good.last_good_until))
            self._good[key] = answer  # where it stands: only a fresh answer makes it younger
        else:
            answer = Answer(None, now + RETRY_AFTER_S)
            self._remember(self._bad, key, answer)
        return answer

    def _victim(self, address: str) -> Lookup | None:
        """Whose place somebody from this address may take: nobody's, when its own line is as long as any."""
        longest = max(self._lines.values(), key=len)
        own = len(self._lines.get(address, ()))
        return next(reversed(longest)) if len(longest) > own + 1 else None

    def _unline(self, lookup: Lookup) -> None:
        line = self._lines[lookup.address]
        del line[lookup]
        if not line:
            del self._lines[lookup.address]
        self.waiting -= 1

    def _remember(self, table: dict[str, Answer], key: str, answer: Answer) -> None:
        table.pop(key, None)  # so that it goes to the end
        if len(table) >= self.max_remembered:
            # The older half at once: a dict keeps the order, but is slow at losing its first entry again and again.
            for old in list(islice(table, (self.max_remembered + 1) // 2)):
                del table[old]
        table[key] = answer


class Resolver:
    """Calls ``function(key) -> Customer | None`` on behalf of requests, from asyncio and from threads alike.

    The key is passed as a ``str``; one that came from a header is decoded as Latin-1, so every byte survives. An async
    function runs on the event loop of whoever asks first (asked from a thread: on a loop of its own); a sync one in
    a thread of ours, so it may block. Those threads are started when they are needed: a server may load the app and
    fork. An exception, a result that is neither a ``Customer`` nor ``None`` and an overrun count as failures; each is
    reported to ``on_failure``, which must not raise, by its type's name (``"Busy"``: no call came free in time).
    """

    def __init__(
        self,
        function: Callable[[str], Customer | None] | Callable[[str], Awaitable[Customer | None]],
        *,
        on_failure: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        lookups: Lookups | None = None,
    ) -> None:
        self._function: Callable[[str], Any] = function
        self._is_async = is_async(function)
        self._on_failure = on_failure
        self._clock = clock
        self._lookups = lookups or Lookups()
        self._lock = threading.Lock()
        self._threads = _Threads()
        # Answers outlive the raw key that they belong to by minutes, so they are filed under a hash of it.
        self._secret = secrets.token_bytes(32)

    async def resolve(self, key: bytes | str, address: str) -> Answer:
        """Whose key it is, within twice the time limit; raises nothing but the caller's own cancellation."""
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        text = key if isinstance(key, str) else key.decode("latin-1")
        run = self._on_loop(text, loop) if self._is_async else self._in_thread(text)
        lookup = self._enter(text, address, waker := partial(_wake, loop, woken), run)
        if isinstance(lookup, Answer):
            return lookup
        try:
            while lookup.answer is None and (patience_s := self._patience_s(lookup)) > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(patience_s):
                        await woken.wait()
        finally:
            with self._lock:
                self._lookups.leave(lookup, waker)
        assert lookup.answer is not None
        return lookup.answer

    def resolve_blocking(self, key: bytes | str, address: str) -> Answer:
        """The same for a thread, which it blocks."""
        woken = threading.Event()
        text = key if isinstance(key, str) else key.decode("latin-1")
        lookup = self._enter(text, address, waker := woken.set, self._in_thread(text))
        if isinstance(lookup, Answer):
            return lookup
        try:
            while lookup.answer is None and (patience_s := self._patience_s(lookup)) > 0:
                woken.wait(patience_s)
        finally:
            with self._lock:
                self._lookups.leave(lookup, waker)
        assert lookup.answer is not None
        return lookup.answer

    def _enter(self, text: str, address: str, waker: Callable[[], None], run: Run) -> Answer | Lookup:
        key, now = hash_key(key_bytes(text), self._secret), self._clock()
        with self._lock:
            if answer := self._lookups.known(key, now):
                return answer
            entered, victim = self._lookups.join(key, address, now, run)
            if isinstance(entered, Lookup):
                entered.wakers.add(waker)
            started = self._lookups.start(now)
        self._run(started)
        if victim is not None:
            self._tell(victim, BUSY)
        if isinstance(entered, Answer):
            self._on_failure(BUSY)
        return entered

    def _patience_s(self, lookup: Lookup) -> float:
        """For how long to wait for this lookup before asking here again; 0 once it has an answer."""
        now = self._clock()
        with self._lock:
            gave_up = self._lookups.give_up(lookup, now)
            patience_s = 0.0 if lookup.answer is not None else lookup.deadline - now
        if gave_up:
            self._tell(lookup, "TimeoutError" if lookup.running else BUSY)
        return patience_s

    def _run(self, started: list[Lookup]) -> None:
        for lookup in started:
            try:
                lookup.run(lookup)
            except RuntimeError as error:  # its event loop has been closed, or the system has no thread left
                # Extends the list that is iterated: by recursion, a thousand in line would exhaust the stack.
                started += self._settle(lookup, None, type(error).__name__)

    def _settle(self, lookup: Lookup, found: object, failure: str) -> list[Lookup]:
        """Take a call's result, tell those who wait for it, and return the lookups to run next."""
        now, customer = self._clock(), found if isinstance(found, Customer) else None
        with self._lock:
            overran = lookup.answer is not None  # and has been reported
            self._lookups.settle(lookup, now, customer=customer, failed=bool(failure))
            started = self._lookups.start(now)
        self._tell(lookup, "" if overran else failure)
        return started

    def _tell(self, lookup: Lookup, failure: str) -> None:
        if failure:
            self._on_failure(failure)
        with self._lock:
            wakers = tuple(lookup.wakers)
        for wake in wakers:
            wake()

    def _on_loop(self, text: str, loop: asyncio.AbstractEventLoop) -> Run:
        def begin(lookup: Lookup) -> None:
            lookup.task = loop.create_task(self._call_async(text, lookup))

        def run(lookup: Lookup) -> None:
            loop.call_soon_threadsafe(begin, lookup)

        return run

    def _in_thread(self, text: str) -> Run:
        return lambda lookup: self._threads.submit(partial(self._call, text, lookup))

    async def _ask_async(self, text: str) -> object:
        async with asyncio.timeout(self._lookups.time_limit_s):
            found: object = await self._function(text)
            return found

    async def _call_async(self, text: str, lookup: Lookup) -> None:
        found, failure = None, "CancelledError"
        try:
            found = await self._ask_async(text)
            failure = _fault_of(found)
        except Exception as error:  # whatever the user's code raises is a failed lookup, never a failed request
            failure = type(error).__name__
        finally:
            self._run(self._settle(lookup, found, failure))

    def _call(self, text: str, lookup: Lookup) -> None:
        found, failure = None, "SystemExit"
        try:
            found = asyncio.run(self._ask_async(text)) if self._is_async else self._function(text)
            failure = _fault_of(found)
        except Exception as error:  # as above
            failure = type(error).__name__
        finally:
            self._run(self._settle(lookup, found, failure))


class _Threads:
    """Threads that run jobs, as many as jobs run at once (whoever submits bounds that); one idle for ``idle_s`` ends.

    Daemons, so that a call that hangs does not keep the process from exiting; reused, as databases connect per thread.
    """

    def __init__(self, idle_s: float = 60.0) -> None:
        self._idle_s = idle_s
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)  # one for each thread that no job has been put for

    def submit(self, job: Callable[[], None]) -> None:
        if self._idle.acquire(blocking=False):
            self._jobs.put(job)
        else:
            threading.Thread(target=self._work, args=(job,), name="ezthrottle-resolve", daemon=True).start()

    def _work(self, job: Callable[[], None]) -> None:
        while True:
            job()
            self._idle.release()
            try:
                job = self._jobs.get(timeout=self._idle_s)
            except queue.Empty:
                if self._idle.acquire(blocking=False):
                    return
                job = self._jobs.get()  # somebody counts on an idle thread: its job is in the queue or about to be


def _fault_of(found: object) -> str:
    """What is wrong with a result, by the name of an exception; empty when nothing is."""
    if inspect.iscoroutine(found):
        found.close()  # a sync function returned it: there is no loop that it can have been meant for
    return "" if found is None or isinstance(found, Customer) else "TypeError"


def _wake(loop: asyncio.AbstractEventLoop, woken: asyncio.Event) -> None:
    with suppress(RuntimeError):  # the loop has been closed, and with it whoever waited there
        loop.call_soon_threadsafe(woken.set)
