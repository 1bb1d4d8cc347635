"""The app that the real servers serve under attack: handlers that end in every way there is, behind a fair queue.

``/-/state`` (exempt) says what is held. ``app`` is behind the queue as a user would put it there; ``forgetful`` is the
control: it enters the gate once more for some requests and never leaves.
"""

from __future__ import annotations

import asyncio
import json
import random

from ezthrottle_provider import ASGIFairQueue, Provider
from ezthrottle_provider.inbound.policies import Policy
from ezthrottle_provider.instrumentation import LimiterFailed
from ezthrottle_provider.scheduling import Caller, Terms
from ezthrottle_provider.testing import RecordingHook

__all__ = ["SLOTS", "app", "forgetful", "held"]

SLOTS = 6
_FORGET_EVERY = 50

provider = Provider(
    max_concurrent=SLOTS,
    max_queue=20,
    max_queue_total=60,
    max_wait=0.5,
    max_hold=0.5,
    max_streams=4,
    routes=[{"path": "/first-byte", "hold": "first-byte"}, {"path": "/none", "hold": "none"}],
)
_failures = RecordingHook()


@provider.hooks.add
def _note_failure(event):
    if isinstance(event, LimiterFailed):
        _failures(event)


class HandlerError(Exception):
    """What a broken handler raises."""


def held():
    """Everything that a request may hold, and the number of our own failures: all zero when nobody is inside."""
    (pool,) = provider.snapshot().pools
    return {
        "in_flight": pool.in_flight,
        "waiting": pool.waiting,
        "slotless": pool.streams,
        "streams": provider.streams.total(),
        "bytes_read_ahead": provider.room.used,
        "sending": len(provider.readers.sending),
        "lingering": len(provider.readers.lingering),
        "failures": len(_failures.events),
    }


async def _respond(send, *chunks, status=200):
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    for chunk in chunks[:-1]:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await asyncio.sleep(0.002)
    await send({"type": "http.response.body", "body": chunks[-1], "more_body": False})


async def _http(scope, receive, send):
    path = scope["path"]
    await asyncio.sleep(random.uniform(0.0, 0.006))
    if path == "/error":
        raise HandlerError
    if path == "/late-error":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise HandlerError
    if path in ("/stream", "/first-byte", "/none"):
        await _respond(send, *[b"x" * 100] * 4, b"")
    elif path == "/big":
        await _respond(send, *[b"x" * 65_536] * 6, b"")
    elif path == "/timeout":
        try:
            async with asyncio.timeout(0.004):
                await asyncio.sleep(10.0)
        except TimeoutError:
            await _respond(send, b"too late", status=504)
    elif path == "/cancel":
        raise asyncio.CancelledError
    elif path == "/background":
        await _respond(send, b"done")
        await asyncio.sleep(0.01)
    elif path == "/upload":
        while (message := await receive())["type"] == "http.request" and message.get("more_body"):
            pass
        await _respond(send, b"taken")
    elif path == "/hold":
        while (await receive())["type"] != "http.disconnect":
            pass
    else:
        await _respond(send, b"done")


async def _websocket(scope, receive, send):
    await receive()
    if scope["path"] == "/broken":
        raise HandlerError
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def _api(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = (await receive())["type"]
            await send({"type": event + ".complete"})
            if event == "lifespan.shutdown":
                return
    elif scope["type"] == "websocket":
        await _websocket(scope, receive, send)
    elif scope["path"] == "/-/state":
        await _respond(send, json.dumps(held()).encode())
    else:
        await _http(scope, receive, send)


app = ASGIFairQueue(_api, provider=provider)


class _Forgetful:
    """Enters for some requests and forgets to leave: what the tests must notice."""

    def __init__(self):
        self._requests = 0

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http" and scope["path"] != "/-/state":
            self._requests += 1
            if self._requests % _FORGET_EVERY == 0:
                provider.gate.enter(Caller("forgotten", "key", True, Terms()), Policy("forgotten"))
        await app(scope, receive, send)


forgetful = _Forgetful()
