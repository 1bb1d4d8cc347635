"""The end of a response: slow readers lose their slot, too many of them are closed, and streams are counted.

A response is watched only while something of it is being sent that the buffers between server and client may not take
at once, so an ordinary small response costs nothing here. Time that a ``send`` takes is the client's: a handler that
is slow to produce its next chunk is not a slow reader.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from ezthrottle_provider.instrumentation import SlowReader

from .gate import whose

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from ezthrottle_provider.scheduling import Pool, Ticket

    from .gate import Gate

    Message = MutableMapping[str, Any]
    Send = Callable[[Message], Awaitable[None]]

__all__ = ["SMALL_BODY", "Delivery", "ReaderTooSlowError", "Readers", "Streams"]

SMALL_BODY: Final = 16 * 1024  # servers buffer 64 KiB before a send waits for the client
_CHARGE_EVERY_S: Final = 1.0
_RESTRAINED_HOLDS: Final = 6  # times max_hold for which a customer with slow readers keeps to a quarter of the slots


class ReaderTooSlowError(OSError):
    """Raised from ``send``, as for a client that went away (ASGI 2.4): too many responses are read too slowly."""


class Streams:
    """Counts the WebSockets and slot-less responses that each customer has open; bounded per customer."""

    __slots__ = ("_lock", "_open", "bound")

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self._open: Counter[str] = Counter()
        self._lock = Lock()

    def open(self, customer: str, *, force: bool = False) -> bool:
        """Count one in, unless the customer may open no more (and is not let in all the same: ``force``)."""
        with self._lock:
            if self._open[customer] >= self.bound and not force:
                return False
            self._open[customer] += 1
            return True

    def close(self, customer: str) -> None:
        """Count one out."""
        with self._lock:
            self._open[customer] -= 1
            if self._open[customer] <= 0:
                del self._open[customer]

    def total(self) -> int:
        """Return the number open now, of all customers."""
        return self._open.total()


class Delivery:
    """One response on its way to a client that may be slow."""

    __slots__ = ("_readers", "blocked_s", "charged_at", "closed", "since", "task", "ticket")

    def __init__(self, readers: Readers, ticket: Ticket, now: float) -> None:
        self._readers = readers
        self.ticket = ticket
        self.blocked_s = 0.0  # spent waiting for the client in earlier sends
        self.since: float | None = None  # when the present send began
        self.charged_at = now
        self.closed = False
        self.task: asyncio.Task[Any] | None = None

    def waited_s(self, now: float) -> float:
        """Return the seconds for which the client kept this response waiting."""
        return self.blocked_s if self.since is None else self.blocked_s + now - self.since

    async def send(self, send: Send, message: Message) -> None:
        """Send one message, under watch. Raises ``ReaderTooSlowError`` when the response had to be closed."""
        readers = self._readers
        clock = readers.gate.clock
        if self.closed:
            raise ReaderTooSlowError
        now = self.since = clock()
        if now - self.charged_at >= _CHARGE_EVERY_S:
            self.charged_at = now
            readers.gate.charge(self.ticket)
        self.task = asyncio.current_task()
        readers.sending[self] = None
        try:
            await send(message)
        except asyncio.CancelledError:
            if self.closed and self.task is not None:
                self.task.uncancel()  # it was ours, not the server's
                raise ReaderTooSlowError from None
            raise
        finally:
            self.blocked_s += clock() - now
            self.since = None
            readers.sending.pop(self, None)

    def close(self) -> None:
        """End the response; the send that waits for the client is interrupted."""
        self.closed = True
        if self.since is not None and self.task is not None:
            self.task.get_loop().call_soon_threadsafe(self._interrupt)

    def _interrupt(self) -> None:
        if self.since is not None and self.task is not None:
            self.task.cancel()


class Readers:
    """Looks after all responses that are being sent; ``care`` is called by the gate's ticks."""

    def __init__(self, gate: Gate, *, max_hold: float, tell: Callable[[SlowReader], None]) -> None:
        self.gate = gate
        self.max_hold = max_hold
        self.sending: dict[Delivery, None] = {}
        self.lingering: dict[Delivery, None] = {}  # go on without a slot
        self._tell = tell

    def done(self, delivery: Delivery) -> None:
        """Forget a response that has ended."""
        self.lingering.pop(delivery, None)

    def care(self, now: float) -> None:
        """Take the slots of responses that were read too slowly, and close the slowest when there are too many."""
        for delivery in tuple(self.sending):
            ticket = delivery.ticket
            if delivery not in self.lingering and delivery.waited_s(now) >= self.max_hold:
                self.lingering[delivery] = None
                with self.gate.lock:
                    self.gate.scheduler.restrain(now, ticket, _RESTRAINED_HOLDS * self.max_hold)
                self.gate.detach(ticket)
                self._report(delivery, now)
                self._make_room(ticket, now)
        for delivery in tuple(self.lingering):
            self.gate.charge(delivery.ticket)

    def _make_room(self, ticket: Ticket, now: float) -> None:
        """Keep lingering responses to a quarter of the pool's slots, and those of one customer to half of that."""
        pool = ticket.pool
        open_ = [other for other in self.lingering if other.ticket.pool is pool and not other.closed]
        own = [other for other in open_ if other.ticket.customer == ticket.customer]
        crowded = own if len(own) > most_per_customer(pool) else open_ if len(open_) > pool.quarter else None
        if crowded is not None:
            slowest = max(crowded, key=lambda other: other.waited_s(now))
            slowest.close()
            self._report(slowest, now)

    def _report(self, delivery: Delivery, now: float) -> None:
        ticket = delivery.ticket
        self._tell(SlowReader(held_s=now - ticket.granted_at, closed=delivery.closed, **whose(ticket, now)))


def most_per_customer(pool: Pool) -> int:
    """Return how many slot-less slow responses one customer may have."""
    return max(1, pool.quarter // 2)
