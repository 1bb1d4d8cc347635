"""What the middleware costs a request that nothing delays, beside two popular limiters that have no queue.

Direct ASGI calls, no server: a Starlette app with one route, bare and behind each limiter, in one process. The legs
take turns, and the figure of a leg is the median of its rounds less that of the bare app. Ours shows its headers, with
the default families; asgi-ratelimit has its memory backend; slowapi is its ASGI middleware without headers, which is
its cheapest. Other legs are printed only: trusted keys, and the smallest ASGI app there is, bare and behind ours.

    python -m loadtests.bench_middleware_cost [--quick] [--rounds 9]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from ratelimit import RateLimitMiddleware, Rule
from ratelimit.backends.simple import MemoryBackend
from rich.console import Console
from rich.table import Table
from slowapi import Limiter
from slowapi.middleware import SlowAPIASGIMiddleware
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from starlette_ezthrottle import FairQueueMiddleware

__all__ = ["main"]

_MOST_OF_ASGI_RATELIMIT = 1.25
_MOST_OF_SLOWAPI = 0.2
_UNREACHED = 10**9  # no limiter may refuse anything here

_HEADERS = [(b"host", b"api.test"), (b"user-agent", b"bench"), (b"accept", b"*/*"), (b"x-api-key", b"a-key-of-acme")]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns 0 when ours costs no more than it may beside either of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer calls, with the limits twice as wide")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="how often each leg is run; 5 or more")
    options = parser.parse_args(argv)
    calls = 1_000 if options.quick else 4_000
    taken = asyncio.run(_measure(_apps(), rounds=options.rounds, calls=calls))
    us = {name: median(rounds) for name, rounds in taken.items()}
    cost = {name: us[name] - us["bare minimum" if "minimum" in name else "bare"] for name in us}
    beside_ratelimit = cost["ours"] / cost["asgi-ratelimit"]
    beside_slowapi = cost["ours"] / cost["slowapi"]
    slack = 2.0 if options.quick else 1.0
    ok = beside_ratelimit <= _MOST_OF_ASGI_RATELIMIT * slack and beside_slowapi <= _MOST_OF_SLOWAPI * slack
    table = Table(title="µs per call", title_justify="left")
    for column in ("app", "median", "overhead"):
        table.add_column(column, justify="left" if column == "app" else "right")
    for name, taken_us in us.items():
        table.add_row(name, f"{taken_us:.2f}", f"{cost[name]:.2f}")
    Console(width=100).print(table)
    print(f"ours / asgi-ratelimit: {beside_ratelimit:.2f} (at most {_MOST_OF_ASGI_RATELIMIT * slack})")
    print(f"ours / slowapi: {beside_slowapi:.3f} (at most {_MOST_OF_SLOWAPI * slack})")
    result = {
        "ok": ok,
        "beside_asgi_ratelimit": round(beside_ratelimit, 3),
        "beside_slowapi": round(beside_slowapi, 3),
        "overhead_us": {name: round(value, 2) for name, value in cost.items()},
        "bare_us": round(us["bare"], 2),
    }
    print("RESULT " + json.dumps(result), flush=True)
    return 0 if ok else 1


def _apps() -> dict[str, Any]:
    ours = {"identify": "header:x-api-key", "max_concurrent": 32}
    return {
        "bare": _starlette(),
        "ours": FairQueueMiddleware(_starlette(), **ours),
        "ours, trusted keys": FairQueueMiddleware(_starlette(), trust_keys=True, **ours),
        "ours, one family of headers": FairQueueMiddleware(_starlette(), headers=["ezthrottle"], **ours),
        "asgi-ratelimit": RateLimitMiddleware(
            _starlette(),
            authenticate=_authenticate,
            backend=MemoryBackend(),
            config={r"^/x": [Rule(second=_UNREACHED, group="default")]},
        ),
        "slowapi": _slowapi(headers=False),
        "slowapi, with headers": _slowapi(headers=True),
        "bare minimum": _minimum,
        "ours around the minimum": FairQueueMiddleware(_minimum, **ours),
    }


async def _endpoint(request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


def _starlette() -> Starlette:
    return Starlette(routes=[Route("/x", _endpoint)])


async def _authenticate(scope: Any) -> tuple[str, str]:
    return "acme", "default"


def _slowapi(*, headers: bool) -> Starlette:
    app = _starlette()
    app.state.limiter = Limiter(
        key_func=lambda request: request.headers["x-api-key"],
        default_limits=[f"{_UNREACHED}/second"],
        headers_enabled=headers,
    )
    app.add_middleware(SlowAPIASGIMiddleware)
    return app


async def _minimum(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def _measure(apps: dict[str, Any], *, rounds: int, calls: int) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {name: [] for name in apps}
    for app in apps.values():
        await _call(app, calls // 10)
    gc.collect()
    for _ in range(rounds):
        for name, app in apps.items():
            begun = time.perf_counter()
            await _call(app, calls)
            taken[name].append((time.perf_counter() - begun) / calls * 1e6)
    return taken


async def _call(app: Callable[..., Any], times: int) -> None:
    for _ in range(times):
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/x",
            "raw_path": b"/x",
            "query_string": b"",
            "root_path": "",
            "headers": list(_HEADERS),
            "client": ("203.0.113.9", 50000),
            "server": ("127.0.0.1", 80),
            "state": {},
        }
        await app(scope, _receive, _send)


async def _receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(message: Any) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main())
