"""Asking the user's ``resolve`` who a key belongs to: never too often, never for long, never unfairly.

The function may be slow, hang or fail, and anybody can make us call it by inventing keys. ``Lookups`` decides what may
be asked when; ``Resolver`` drives it from asyncio and from threads: it changes state under its lock and acts on the
result after it.
"""

from __future__ import annotations

import asyncio
import inspect
import queue
import secrets
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

from ezthrottle_provider.customers import Customer, hash_key, is_async, key_bytes

from .lookups import BUSY, Answer, Lookup, Lookups, Run

__all__ = ["Resolver"]


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
