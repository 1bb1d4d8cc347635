"""The load generator: one thread, plain non-blocking sockets, keep-alive HTTP/1.1.

Python's HTTP clients cost more per request than the server does and would be what is measured. This one takes some
20 µs per request and knows how late it was itself: ``Generator.lags`` holds, for the requests of a fixed schedule, how
long after its time each was sent, and the longest that its answer can have lain unread while others were being read. A
run in which that is not small has measured the generator, and is invalid rather than failed.
"""

from __future__ import annotations

import math
import selectors
import socket
import time
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from types import TracebackType
from typing import Final, Protocol

from .servers import raise_open_files

__all__ = ["Answer", "Connection", "Generator", "Receiver", "header"]

_READ: Final = 64 * 1024
_CONNECT_WITHIN_S: Final = 10.0
# Selectors round up to a millisecond, so the last one before something is due is spent polling.
_SPIN_S: Final = 0.0015
_AT_ONCE_S: Final = 0.000_05  # a poll that takes no longer found its answers waiting
_END_OF_HEAD: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length"


class Answer:
    """A whole response. ``at`` is when it was read, ``head`` its status line and headers as they came, lowered."""

    __slots__ = ("at", "body", "head", "status")

    def __init__(self, at: float, status: int, head: bytes, body: bytes) -> None:
        self.at = at
        self.status = status
        self.head = head
        self.body = body


class Receiver(Protocol):
    """Who sent a request and wants to know what became of it."""

    def answered(self, connection: Connection, answer: Answer) -> None:
        """Take the response; the connection is free again."""

    def lost(self, connection: Connection) -> None:
        """Learn that the server closed the connection; it is of no more use."""


class Connection:
    """A connection that carries one request at a time. ``intended`` is when that should have been sent."""

    __slots__ = ("_generator", "_received", "busy", "intended", "receiver", "socket")

    def __init__(self, generator: Generator, receiver: Receiver) -> None:
        self._generator = generator
        self._received = b""
        self.receiver = receiver
        self.busy = False
        self.intended = 0.0
        self.socket = socket.create_connection(("127.0.0.1", generator.port), timeout=_CONNECT_WITHIN_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        generator.selector.register(self.socket, selectors.EVENT_READ, self)

    def send(self, request: bytes) -> None:
        """Send a request. It is short, and nothing else is on its way, so the kernel takes it at once."""
        self.busy = True
        try:
            self.socket.send(request)
        except OSError:
            self._lose()

    def readable(self) -> None:
        """Read what came."""
        try:
            data = self.socket.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lose()
            return
        if self._received:
            data = self._received + data
        end = data.find(_END_OF_HEAD)
        if end >= 0:
            head = data[:end].lower()
            start = end + len(_END_OF_HEAD)
            if len(data) - start >= int(header(head, _LENGTH) or b"0"):
                self._received = b""
                self.busy = False
                answer = Answer(self._generator.clock(), int(head[9:12]), head, data[start:])
                self.receiver.answered(self, answer)
                return
        self._received = data

    def close(self) -> None:
        """End it, whatever it was doing."""
        if self.socket.fileno() >= 0:
            self._generator.selector.unregister(self.socket)
            self.socket.close()

    def _lose(self) -> None:
        self.close()
        self.receiver.lost(self)


class Generator:
    """Runs timers and connections in one thread, for as long as it is told to; in between, nothing happens."""

    clock = staticmethod(time.monotonic)

    def __init__(self, port: int) -> None:
        raise_open_files()
        self.port = port
        self.selector = selectors.DefaultSelector()
        self.lags: list[float] = []
        self.unread_since = 0.0  # what is being read now came later than this
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for key in list((self.selector.get_map() or {}).values()):
            key.data.close()
        self.selector.close()

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Call something at a time of ``clock``."""
        heappush(self._timers, (when, next(self._numbers), call))

    def run(self, seconds: float, *, until: Callable[[], bool] | None = None) -> None:
        """Send and receive for some seconds, or until something is so."""
        clock, timers = self.clock, self._timers
        polled = clock()
        end = polled + seconds
        while (now := clock()) < end and (until is None or not until()):
            self._fire(now)
            due = min(timers[0][0], end) if timers else end
            asked = clock()
            pause = due - asked - _SPIN_S
            events = self.selector.select(math.floor(pause * 1000) / 1000 if pause > 0.001 else 0)
            now = clock()
            self.unread_since = polled if now - asked < _AT_ONCE_S else now
            polled = now
            for key, _ in events:
                key.data.readable()
                if timers and timers[0][0] <= (now := clock()):
                    self._fire(now)

    def ask(self, path: str, *, within_s: float = 10.0) -> bytes:
        """Return the body of a response, with all else going on meanwhile. Raises ``ConnectionError``."""
        question = _Question()
        connection = Connection(self, question)
        connection.send(b"GET %s HTTP/1.1\r\nhost: test\r\n\r\n" % path.encode())
        self.run(within_s, until=lambda: question.over)
        connection.close()
        if question.answer is None or question.answer.status != 200:
            raise ConnectionError(f"no answer to {path}")
        return question.answer.body

    def _fire(self, now: float) -> None:
        timers = self._timers
        while timers and timers[0][0] <= now:
            heappop(timers)[2]()


class _Question:
    """Waits for one answer."""

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.over = False

    def answered(self, connection: Connection, answer: Answer) -> None:
        self.answer = answer
        self.over = True

    def lost(self, connection: Connection) -> None:
        self.over = True


def header(head: bytes, name: bytes) -> bytes | None:
    """Return the value of a header from a lowered head."""
    at = head.find(b"\r\n%s:" % name)
    if at < 0:
        return None
    start = at + len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()
