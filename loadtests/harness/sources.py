"""Who sends: a flood that never stops, a customer on a fixed schedule, clients that read a byte per second.

Service times are drawn here, from a seed, and written into the requests. A customer sends the very same ones in every
leg of a round, so a ratio of two legs compares what was done to them and not which were drawn.
"""

from __future__ import annotations

import math
import random
import socket
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Final

from .clients import Answer, Connection, Generator, header

__all__ = ["Flood", "Readers", "Shown", "Steady", "trivial", "work"]

_DRAWN: Final = 4096  # requests, sent in turn
_MOST_OPEN: Final = 2000
_BYTE_EVERY_S: Final = 1.0
_TINY_BUFFER: Final = 1024


def work(key: str, *, seed: int, mean_s: float = 0.01, sigma: float = 0.5) -> list[bytes]:
    """Return requests of a customer whose service times are lognormal with that mean."""
    draw = random.Random(f"{key} {seed}")
    mu = math.log(mean_s) - sigma * sigma / 2.0
    return [_request(f"/work?{draw.lognormvariate(mu, sigma) * 1e6:.0f}", key) for _ in range(_DRAWN)]


def trivial(key: str) -> list[bytes]:
    """Return the request of a customer that costs the API nothing."""
    return [_request("/trivial", key)]


class Flood:
    """Sends the next request as soon as one is answered, on many connections; a refused one waits its Retry-After."""

    def __init__(self, generator: Generator, requests: Sequence[bytes], *, connections: int) -> None:
        self._generator = generator
        self._requests = cycle(requests)
        self.served = 0
        self.refused = 0
        self.lost_count = 0
        self._connections = [Connection(generator, self) for _ in range(connections)]
        for connection in self._connections:
            connection.send(next(self._requests))

    def reset(self) -> None:
        """Begin to count."""
        self.served = self.refused = 0

    def stop(self) -> None:
        """Go away, and leave what is on its way unanswered."""
        for connection in self._connections:
            connection.close()

    def answered(self, connection: Connection, answer: Answer) -> None:
        """Count, and go on."""
        if answer.status == 200:
            self.served += 1
            self.note(answer)
            connection.send(next(self._requests))
        else:
            self.refused += 1
            wait_s = float(header(answer.head, b"retry-after") or b"0")
            self._generator.at(answer.at + wait_s, lambda: self._again(connection))

    def lost(self, connection: Connection) -> None:
        """Count it: no flood should lose its connections."""
        self.lost_count += 1

    def note(self, answer: Answer) -> None:
        """Look at an answer; nothing is noted by default."""

    def _again(self, connection: Connection) -> None:
        if connection.socket.fileno() >= 0:
            connection.send(next(self._requests))


class Shown(Flood):
    """A flood that writes down what pace it is shown: ``shown`` holds (when, requests per second)."""

    def __init__(self, generator: Generator, requests: Sequence[bytes], *, connections: int) -> None:
        self.shown: list[tuple[float, float]] = []
        super().__init__(generator, requests, connections=connections)

    def reset(self) -> None:
        """Begin to count."""
        super().reset()
        self.shown.clear()

    def note(self, answer: Answer) -> None:
        """Write down the header."""
        rps = header(answer.head, b"x-ezthrottle-rps")
        self.shown.append((answer.at, float(rps) if rps else math.nan))


class Steady:
    """Sends on a fixed schedule, whatever becomes of earlier requests (open loop).

    Latencies count from when a request *should* have been sent, so a stall is felt by all that fall into it. They are
    recorded for requests of the window that ``begin`` and ``end`` mark.
    """

    def __init__(self, generator: Generator, requests: Sequence[bytes], *, per_second: float) -> None:
        self._generator = generator
        self._requests = cycle(requests)
        self._interval_s = 1.0 / per_second
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._from = math.inf
        self._to = math.inf
        self._due = 0
        self.latencies: list[float] = []
        self.refused = 0
        self.failed = 0
        self._start = generator.clock() + self._interval_s
        self._sent = 0
        generator.at(self._start, self._fire)

    def begin(self) -> None:
        """Record what is sent from now on."""
        self._from = self._generator.clock()

    def end(self, *, patience_s: float) -> None:
        """Send no more, and wait a while for what is on its way; what is still out then took at least that long."""
        self._to = self._generator.clock()
        self._generator.run(patience_s, until=lambda: len(self.latencies) + self.refused + self.failed >= self._due)
        now = self._generator.clock()
        self.latencies += [now - each.intended for each in self._open if each.busy and self._counts(each.intended)]
        for connection in self._open:
            connection.close()

    def answered(self, connection: Connection, answer: Answer) -> None:
        """Record the latency."""
        self._idle.append(connection)
        if not self._counts(connection.intended):
            return
        if answer.status == 200:
            self.latencies.append(answer.at - connection.intended)
            self._generator.lags.append(answer.at - self._generator.unread_since)
        elif answer.status == 429:
            self.refused += 1
        else:
            self.failed += 1

    def lost(self, connection: Connection) -> None:
        """Count a request that got no answer."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        elif self._counts(connection.intended):
            self.failed += 1

    def _counts(self, intended: float) -> bool:
        return self._from <= intended < self._to

    def _fire(self) -> None:
        intended = self._start + self._sent * self._interval_s
        if intended >= self._to:
            return
        request = next(self._requests)
        self._sent += 1
        self._generator.at(self._start + self._sent * self._interval_s, self._fire)
        counts = self._counts(intended)
        self._due += counts
        if self._idle:
            connection = self._idle.pop()
        elif len(self._open) < _MOST_OPEN:
            connection = Connection(self._generator, self)
            self._open.add(connection)
        else:
            self.failed += counts
            return
        connection.intended = intended
        if counts:
            self._generator.lags.append(self._generator.clock() - intended)
        connection.send(request)


class Readers:
    """Clients that ask for a large body and read a byte of it per second; one that is closed asks again."""

    def __init__(self, generator: Generator, key: str, *, count: int, size: int = 5_000_000) -> None:
        self._generator = generator
        self._request = _request(f"/big?{size}", key)
        self._open: set[socket.socket] = set()
        self._going = True
        self.closed = 0
        for _ in range(count):
            self._connect()

    def stop(self) -> None:
        """Go away."""
        self._going = False
        for each in self._open:
            each.close()

    def _connect(self) -> None:
        if not self._going:
            return
        reader = socket.socket()
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _TINY_BUFFER)  # before connecting: it sets the window
        reader.connect(("127.0.0.1", self._generator.port))
        reader.setblocking(False)
        reader.send(self._request)
        self._open.add(reader)
        self._later(lambda: self._read(reader))

    def _read(self, reader: socket.socket) -> None:
        if not self._going:
            return
        try:
            gone = not reader.recv(1)
        except BlockingIOError:
            gone = False
        except OSError:
            gone = True
        if gone:
            self.closed += 1
            self._open.discard(reader)
            reader.close()
            self._later(self._connect)
        else:
            self._later(lambda: self._read(reader))

    def _later(self, call: Callable[[], None]) -> None:
        self._generator.at(self._generator.clock() + _BYTE_EVERY_S, call)


def _request(target: str, key: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\nhost: test\r\nx-api-key: {key}\r\n\r\n".encode()
