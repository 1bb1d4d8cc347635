"""The gate: every request enters and leaves here, once, whether a thread or an asyncio task carries it.

One lock guards the scheduler. Under it state changes and a list of settled tickets comes back; they are woken after it
is released. A ticket's ``context`` is how its waiter is woken; the ticket's ``state``, written under the lock, is what
settles "granted versus gave up". So whatever happens between ``enter`` and ``leave`` (error, disconnect, cancellation),
a request has its slot exactly while its ticket is GRANTED.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Final, TypedDict

from ezthrottle_provider.instrumentation import Abandoned, Finished, Granted, Queued
from ezthrottle_provider.scheduling import State

from .disconnects import WATCH_AFTER_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ezthrottle_provider.instrumentation import Hooks
    from ezthrottle_provider.scheduling import Caller, Scheduler, Ticket

    from .policies import Policy

__all__ = ["Gate", "whose"]

_GRANTED: Final = State.GRANTED
_TICK_S: Final = 0.25  # how often waiting requests, slow readers and long streams are looked after
_BUSY_TICK_S: Final = 0.01  # while there is much to forget
_FORGETTING_STEPS: Final = 500  # of every tick, at most: about 2 ms


class Gate:
    """Lets requests in, one decision for asyncio and threads.

    ``care`` functions are called about every 250 ms with the time while anything waits, runs or is remembered, as long
    as an event loop is there to do it; ``scheduler`` may be read without the lock where a stale number does no harm.
    """

    def __init__(self, scheduler: Scheduler, *, hooks: Hooks, clock: Callable[[], float] = time.monotonic) -> None:
        self.scheduler = scheduler
        self.lock = threading.RLock()
        # A coroutine that the garbage collector closes ends its request wherever an allocation happens, also in the
        # middle of a decision, on the very thread that holds the lock. Then it is put here, for the next poll.
        self._busy: Callable[[], bool] = self.lock._is_owned  # type: ignore[attr-defined]
        self._late: deque[Ticket] = deque()
        self.clock = clock
        self.care: list[Callable[[float], None]] = []
        self.draining = False
        self.dormant = True  # nobody keeps the time; the next request must see to it (``ticker``)
        self._hooks = hooks
        self._tickers: dict[asyncio.AbstractEventLoop, _Ticker] = {}

    # -- enter and leave -----------------------------------------------------------------------------------------

    def enter(self, caller: Caller, policy: Policy) -> Ticket:
        """Submit a request: the ticket is GRANTED, WAITING (then ``wait`` or ``wait_blocking``) or REFUSED."""
        now = self.clock()
        scheduler = self.scheduler
        with self.lock:
            ticket = scheduler.submit(now, caller, policy.label, policy.cost, policy.pool, policy.priority)
            settled = None
            if ticket.state is not _GRANTED:
                if self.draining:
                    scheduler.refuse_all(now, "draining")
                settled = scheduler.pull(now)  # somebody may have had to make room
        if settled:
            self._wake(settled)
        if self._hooks.active:
            if settled is None:
                self._emit_granted(ticket)
            elif ticket.state is State.WAITING:
                self._hooks.emit(Queued(depth=ticket.position + 1, **whose(ticket, now)))
        return ticket

    def leave(self, ticket: Ticket, cost: float | None = None) -> None:
        """Give back what a granted request holds; harmless when it holds nothing (any more)."""
        if self._busy():
            self._late.append(ticket)
            return
        scheduler = self.scheduler
        now = self.clock()
        settled = due = None
        with self.lock:
            if ticket.state is not _GRANTED:
                return
            cost = scheduler.finish(now, ticket, cost)
            if scheduler.waiting.count:
                settled = scheduler.pull(now)
                due = scheduler.next_due()
        if settled:
            self._wake(settled)
        if due is not None:
            self._hurry(due)
        if self._hooks.active:
            self._emit_finished(ticket, now, cost)

    def abandon(self, ticket: Ticket) -> None:
        """Give up: a waiting request leaves its queue, a granted one its slot. Whatever came first has won."""
        if self._busy():
            self._late.append(ticket)
            return
        with self.lock:
            waiting = ticket.state is State.WAITING
            if waiting:
                now = self.clock()
                self.scheduler.cancel(now, ticket)
        if not waiting:
            self.leave(ticket)
            return
        self._wake((ticket,))
        if self._hooks.active:
            self._hooks.emit(Abandoned(waited_s=now - ticket.submitted_at, **whose(ticket, now)))

    def overrule(self, ticket: Ticket) -> None:
        """Let a waiting or refused request run at once, charged like any other."""
        now = self.clock()
        with self.lock:
            if ticket.state is not State.WAITING and ticket.state is not State.REFUSED:
                return
            self.scheduler.overrule(now, ticket)
        if self._hooks.active:
            self._emit_granted(ticket)

    def detach(self, ticket: Ticket) -> None:
        """Take the slot from a request that goes on without one."""
        with self.lock:
            if ticket.state is not _GRANTED or not ticket.holds_slot:
                return
            self.scheduler.detach(ticket)
            settled = self.scheduler.pull(self.clock())
        self._wake(settled)

    def charge(self, ticket: Ticket) -> None:
        """Charge a request that runs for long for what it has used so far."""
        with self.lock:
            self.scheduler.charge(self.clock(), ticket)

    # -- waiting -------------------------------------------------------------------------------------------------

    async def wait(self, ticket: Ticket, watch: Callable[[], None] | None = None) -> None:
        """Wait in an event loop until the ticket is settled. Cancellation gives the place back.

        ``watch`` is called in the loop when the wait becomes long enough to look out for a disconnect.
        """
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        with self.lock:
            if ticket.state is not State.WAITING:
                return
            ticket.context = _LoopWaker(loop, future, watch)
            due = self.scheduler.next_due()
        self.ticker(loop).hurry(due)
        try:
            await future
        except BaseException:  # cancelled, or closed by the interpreter: the place must not be lost with the task
            self.abandon(ticket)
            raise
        finally:
            ticket.context = None  # it leads back to the ticket; collecting such circles stalls a server for 100 ms

    def wait_blocking(self, ticket: Ticket) -> None:
        """Wait in a thread until the ticket is settled. A thread that waits also keeps the queue's time."""
        asleep = threading.Lock()
        asleep.acquire()
        with self.lock:
            if ticket.state is not State.WAITING:
                return
            ticket.context = asleep.release
            due = self.scheduler.next_due()
        try:
            while ticket.state is State.WAITING:
                pause = _TICK_S if due is None else min(_TICK_S, max(0.0, due - self.clock()))
                if not asleep.acquire(timeout=pause):
                    due = self.poll()
        except BaseException:  # KeyboardInterrupt or a worker's timeout: the place must not be lost with the thread
            self.abandon(ticket)
            raise
        finally:
            ticket.context = None

    def poll(self) -> float | None:
        """Settle what the passing of time settles; return when to ask again."""
        while self._late:
            self.abandon(self._late.popleft())
        with self.lock:
            settled = self.scheduler.pull(self.clock())
            due = self.scheduler.next_due()
        self._wake(settled)
        return due

    def drain(self) -> None:
        """Refuse all who wait, and all who come and would have to; what runs may end."""
        with self.lock:
            self.draining = True
            now = self.clock()
            self.scheduler.refuse_all(now, "draining")
            settled = self.scheduler.pull(now)
        self._wake(settled)

    def _wake(self, settled: Iterable[Ticket]) -> None:
        """Wake those whose tickets were settled; where nobody is left to wake, the slot goes on to the next."""
        todo = deque(settled)
        while todo:
            ticket = todo.popleft()
            if self._hooks.active and ticket.state in (_GRANTED, State.FINISHED):
                self._emit_granted(ticket)  # also of one that has ended already, in another thread
            wake = ticket.context  # None while its waiter is still on its way to wait, and will look first
            if wake is not None and wake() is False:
                todo.extend(self._bury(ticket))

    def _bury(self, ticket: Ticket) -> list[Ticket]:
        """Take back what was granted to a task whose event loop is gone; return whom that settled."""
        now = self.clock()
        with self.lock:
            if ticket.state is not _GRANTED:
                return []
            self.scheduler.finish(now, ticket, 0.0)
            return self.scheduler.pull(now)

    # -- time ----------------------------------------------------------------------------------------------------

    def ticker(self, loop: asyncio.AbstractEventLoop) -> _Ticker:
        """Return what keeps the time in an event loop, started when it sleeps."""
        ticker = self._tickers.get(loop)
        if ticker is None:
            for gone in [known for known in self._tickers if known.is_closed()]:
                del self._tickers[gone]
            ticker = self._tickers[loop] = _Ticker(self, loop)
        if ticker.asleep:
            ticker.start()
        return ticker

    def tick(self) -> float | None:
        """Do what time asks for; return the seconds until the next tick, None when there is nothing left to do."""
        due = self.poll()
        now = self.clock()
        self._watch(now)
        for care in self.care:
            care(now)
        scheduler = self.scheduler
        more = True
        for _ in range(_FORGETTING_STEPS):
            with self.lock:
                more = scheduler.housekeep(now)
            if not more:
                break
        if more:
            return _BUSY_TICK_S
        if due is not None:
            return min(_TICK_S, max(0.0, due - now))
        if any(pool.in_flight or pool.streams for pool in scheduler.pools.values()):
            return _TICK_S
        litter_at = scheduler.litter_at()
        return max(_TICK_S, litter_at - now) if litter_at < inf else None

    def _watch(self, now: float) -> None:
        """Begin to look out for disconnects where a request has waited for a while."""
        watchers: list[_LoopWaker] = []
        with self.lock:
            ticket = self.scheduler.waiting.oldest
            while ticket is not None and now - ticket.submitted_at >= WATCH_AFTER_S:
                waker = ticket.context
                if type(waker) is _LoopWaker and waker.watch is not None:
                    watchers.append(waker)
                ticket = ticket.newer
        for waker in watchers:
            watch, waker.watch = waker.watch, None
            if watch is not None:
                waker.call(watch)

    def _hurry(self, due: float) -> None:
        for ticker in tuple(self._tickers.values()):
            ticker.hurry(due)

    # -- telling -------------------------------------------------------------------------------------------------

    def _emit_granted(self, ticket: Ticket) -> None:
        at = ticket.granted_at
        self._hooks.emit(Granted(wait_s=at - ticket.submitted_at, **whose(ticket, at)))

    def _emit_finished(self, ticket: Ticket, now: float, cost: float) -> None:
        held_s, wait_s = now - ticket.granted_at, ticket.granted_at - ticket.submitted_at
        self._hooks.emit(Finished(cost=cost, held_s=held_s, wait_s=wait_s, **whose(ticket, now)))


class _LoopWaker:
    """Wakes a task, from its own loop's thread or from any other."""

    __slots__ = ("_future", "_loop", "_thread", "watch")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[None], watch: Callable[[], None] | None
    ) -> None:
        self._loop = loop
        self._future = future
        self._thread = threading.get_ident()
        self.watch = watch

    def __call__(self) -> bool:
        return self.call(self._set)

    def call(self, function: Callable[[], None]) -> bool:
        """Call something in the task's own thread; False when its loop is gone, and the task with it."""
        if self._loop.is_closed():
            return False
        if threading.get_ident() == self._thread:
            function()
        else:
            self._loop.call_soon_threadsafe(function)
        return True

    def _set(self) -> None:
        if not self._future.done():
            self._future.set_result(None)


class _Ticker:
    """Calls ``Gate.tick`` in one event loop, only while there is something to do."""

    __slots__ = ("_at", "_gate", "_handle", "_loop", "_thread")

    def __init__(self, gate: Gate, loop: asyncio.AbstractEventLoop) -> None:
        self._gate = gate
        self._loop = loop
        self._thread = threading.get_ident()
        self._handle: asyncio.TimerHandle | None = None
        self._at = 0.0

    @property
    def asleep(self) -> bool:
        return self._handle is None

    def start(self) -> None:
        self._gate.dormant = False
        self._plan(self._gate.clock() + _TICK_S)

    def hurry(self, due: float | None) -> None:
        """Tick at ``due`` (gate's clock) if that is sooner than planned; may be called from any thread."""
        if due is None or due >= self._at or self._loop.is_closed():
            return
        if threading.get_ident() == self._thread:
            self._plan(due)
        else:
            self._loop.call_soon_threadsafe(self._plan, due)

    def _plan(self, at: float) -> None:
        if self._handle is not None:
            if at >= self._at:
                return
            self._handle.cancel()
        self._at = at
        self._handle = self._loop.call_later(max(0.0, at - self._gate.clock()), self._tick)

    def _tick(self) -> None:
        self._handle = None
        pause_s = self._gate.tick()
        if pause_s is not None:
            self._plan(self._gate.clock() + pause_s)
        else:
            self._gate.dormant = True


class _Whose(TypedDict):
    at: float
    customer: str
    key: str
    tier: str
    route: str
    pool: str


def whose(ticket: Ticket, at: float) -> _Whose:
    """Return what all events of a request share."""
    caller = ticket.caller
    return {
        "at": at,
        "customer": caller.customer,
        "key": caller.key,
        "tier": caller.tier,
        "route": ticket.route,
        "pool": ticket.pool.name,
    }
