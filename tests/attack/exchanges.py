"""One connection by direct ASGI calls, as a server would carry it: no socket, no server, no waiting for time.

``await exchange.through(app)`` carries it from begin to end; ``exchange.start(app)`` in a task of its own, and
``exchange.disconnect()`` takes the client away. Then ``status``, ``headers`` and ``body`` are what was answered.
"""

from __future__ import annotations

import asyncio
from collections import deque

from ezthrottle_provider.testing import FakeClock

__all__ = ["Exchange", "Handshake", "Latch", "MovingClock", "hello", "turns"]


class MovingClock(FakeClock):
    """A fake clock that moves on by a microsecond whenever it is read, as no code may rely on time standing still."""

    __slots__ = ()

    def __call__(self):
        self.advance(1e-6)
        return super().__call__()


async def turns(number=10):
    """Let every other task run, some times over."""
    for _ in range(number):
        await asyncio.sleep(0)


async def hello(scope, receive, send):
    """Answer in one small message."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


class Latch:
    """An app whose requests stay inside until ``open``; ``inside`` holds their scopes, in order of arrival."""

    def __init__(self):
        self.inside = []
        self._opened = asyncio.Event()

    async def __call__(self, scope, receive, send):
        self.inside.append(scope)
        await self._opened.wait()
        await hello(scope, receive, send)

    def open(self):
        """Let all go, also those who come later."""
        self._opened.set()


class _Connection:
    def __init__(self, incoming):
        self.sent = []
        self._incoming = deque(incoming)
        self._gone = asyncio.Event()
        self.received = 0

    async def receive(self):
        self.received += 1
        if self._incoming:
            return self._incoming.popleft()
        await self._gone.wait()
        return {"type": self.farewell}

    async def send(self, message):
        self.sent.append(message)

    def disconnect(self):
        """The client goes away."""
        self._gone.set()

    async def through(self, app):
        """Carry it from begin to end in this task."""
        await app(self.scope, self.receive, self.send)
        return self

    def start(self, app):
        """Carry it in a task of its own."""
        return asyncio.ensure_future(self.through(app))


class Exchange(_Connection):
    """An HTTP request and what was answered; the client stays until ``disconnect``."""

    farewell = "http.disconnect"

    def __init__(
        self, path="/x", *, key=None, method="GET", headers=(), body=(b"",), client=("203.0.113.9", 50000), **scope
    ):
        last = len(body) - 1
        super().__init__(
            {"type": "http.request", "body": part, "more_body": number < last} for number, part in enumerate(body)
        )
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode("utf-8", "surrogatepass"),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"api.test"), *([] if key is None else [(b"x-api-key", key)]), *headers],
            "client": client,
            "server": ("127.0.0.1", 80),
            "state": {},
            **scope,
        }

    @property
    def status(self):
        """The status of the answer; None while there is none."""
        statuses = [message["status"] for message in self.sent if message["type"] == "http.response.start"]
        assert len(statuses) <= 1, "answered twice"
        return statuses[0] if statuses else None

    @property
    def headers(self):
        """The answer's headers by name; none may come twice."""
        (start,) = (message for message in self.sent if message["type"] == "http.response.start")
        pairs = list(start["headers"])
        headers = dict(pairs)
        assert len(headers) == len(pairs), "a header came twice"
        return headers

    @property
    def body(self):
        """All that was sent as its body."""
        return b"".join(message.get("body", b"") for message in self.sent if message["type"] == "http.response.body")


class Handshake(_Connection):
    """A WebSocket; ``denial`` says whether the server can answer a handshake with an HTTP response."""

    farewell = "websocket.disconnect"

    def __init__(self, path="/ws", *, key=None, denial=True, client=("203.0.113.9", 50000)):
        super().__init__([{"type": "websocket.connect"}])
        self.scope = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"api.test"), *([] if key is None else [(b"x-api-key", key)])],
            "client": client,
            "server": ("127.0.0.1", 80),
            "subprotocols": [],
            "state": {},
            "extensions": {"websocket.http.response": {}} if denial else {},
        }

    @property
    def types(self):
        """The kinds of messages that were sent, in order."""
        return [message["type"] for message in self.sent]
