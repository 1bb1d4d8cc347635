"""The API under load, and the limiters in front of it: fair queues, one shared FIFO, none.

The API is as cheap as an ASGI app can be, so that what a limiter costs is seen. How long a request takes is written in
its query, in microseconds: the load generator draws the service times, so two legs can be given the very same ones.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final, Literal

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from ezthrottle_provider import ASGIFairQueue, Customer

__all__ = ["FIGURES", "TIERS", "Api", "Framework", "SharedFifo", "build", "customer_of", "routed"]

Framework = Literal["none", "starlette", "fastapi"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

FIGURES: Final = "/figures"  # asks for the app's own measurements; never limited
TIERS: Final = {"free": {"weight": 1}, "pro": {"weight": 4}}
_CHUNK: Final = 64 * 1024


class Account:
    """What one customer got, as the handler itself measured it."""

    __slots__ = ("_ended_s", "_running", "_starts", "served")

    def __init__(self) -> None:
        self.served = 0
        self._ended_s = 0.0
        self._running = 0
        self._starts = 0.0

    def begin(self, now: float) -> None:
        """A request of the customer starts."""
        self._running += 1
        self._starts += now

    def end(self, started: float, now: float) -> None:
        """A request of the customer ends."""
        self._running -= 1
        self._starts -= started
        self._ended_s += now - started
        self.served += 1

    def slot_s(self, now: float) -> float:
        """Return the seconds of service so far, those of requests that still run included."""
        return self._ended_s + self._running * now - self._starts


class Api:
    """``/work?µs`` takes its time, ``/trivial`` none, ``/big?bytes`` sends that much; ``/figures`` tells what happened.

    With ``workers``, no more requests than that do their work at once and the others wait in order of arrival, as they
    do for the connections of a database: that is what an API without a limiter falls back on.
    """

    def __init__(self, *, workers: int = 0) -> None:
        self._workers = asyncio.Semaphore(workers) if workers else None
        self._accounts: dict[bytes, Account] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path = scope["path"]
        if path == "/work":
            await self._work(scope, send)
        elif path == "/trivial":
            await _answer(send, b"done\n")
        elif path == "/big":
            await _stream(send, int(scope["query_string"]))
        elif path == FIGURES:
            await _answer(send, json.dumps(self._figures()).encode())
        else:
            await _answer(send, b"not here\n", status=404)

    async def _work(self, scope: Scope, send: Send) -> None:
        started = time.monotonic()
        key = next((value for name, value in scope["headers"] if name == b"x-api-key"), b"")
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = Account()
        account.begin(started)
        try:
            service_s = int(scope["query_string"]) / 1e6
            if self._workers is not None:
                async with self._workers:
                    await asyncio.sleep(service_s)
            else:
                await asyncio.sleep(service_s)
            await _answer(send, b"done\n")
        finally:
            account.end(started, time.monotonic())

    def _figures(self) -> dict[str, object]:
        now = time.monotonic()
        return {
            "at": now,
            "cpu_s": time.process_time(),
            "slot_s": {key.decode(): account.slot_s(now) for key, account in self._accounts.items()},
            "served": {key.decode(): account.served for key, account in self._accounts.items()},
        }


class SharedFifo:
    """What people use instead: at most ``slots`` requests at once, one queue for all."""

    def __init__(self, app: App, *, slots: int) -> None:
        self._app = app
        self._semaphore = asyncio.Semaphore(slots)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request when a slot is free, in order of arrival."""
        if scope["path"] == FIGURES:
            await self._app(scope, receive, send)
            return
        async with self._semaphore:
            await self._app(scope, receive, send)


def customer_of(key: str) -> Customer:
    """Resolve a key: ``pro-acme`` is the customer of that name in the tier ``pro``."""
    return Customer(key, tier=key.partition("-")[0])


def routed(api: App, framework: Framework) -> App:
    """Return the API with its trivial handler written as one writes it in a framework."""
    if framework == "starlette":

        async def trivial(request: Request) -> Response:
            return PlainTextResponse("done\n")

        return Starlette(routes=[Route("/trivial", trivial), Mount("/", api)])
    if framework == "fastapi":
        app = FastAPI()

        @app.get("/trivial")
        async def answer() -> str:
            return "done"

        app.mount("/", api)
        return app
    return api


def build(limiter: str, *, slots: int, workers: int, options: Mapping[str, Any], framework: Framework) -> App:
    """Return the API behind a limiter: ``fair`` (with these options of ours), ``fifo`` or ``none``."""
    api = routed(Api(workers=workers), framework)
    if limiter == "none":
        return api
    if limiter == "fifo":
        return SharedFifo(api, slots=slots)
    if limiter == "fair":
        known = {"identify": "header:x-api-key", "resolve": customer_of, "tiers": TIERS, "exempt": [FIGURES]}
        return ASGIFairQueue(api, **{**known, "max_concurrent": slots, **options})
    raise ValueError(f"no limiter is called {limiter!r}")


async def _answer(send: Send, body: bytes, *, status: int = 200) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _stream(send: Send, size: int) -> None:
    headers = [(b"content-type", b"application/octet-stream"), (b"content-length", b"%d" % size)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    chunk = bytes(_CHUNK)
    for sent in range(0, size, _CHUNK):
        left = size - sent
        await send({"type": "http.response.body", "body": chunk[:left], "more_body": left > _CHUNK})
        # As an app does that reads its chunks from somewhere. The kernel takes megabytes before a send has to wait, and
        # without this a handler would copy them in one go while nobody else runs.
        await asyncio.sleep(0)
