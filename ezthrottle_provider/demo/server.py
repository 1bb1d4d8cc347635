"""The demo API: one slow route, a pretend database behind it, and three ways of guarding it.

``python -m ezthrottle_provider.demo.server --limiter fair --fd 3 --at-most 60``: a real uvicorn, in a process of its
own, on the listening socket that it is handed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import socket
import time
from typing import TYPE_CHECKING, Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from ezthrottle_provider.customers import Customer
from starlette_ezthrottle import FairQueueMiddleware

from .cast import ROLES, SLOTS, TIERS
from .children import end_with_parent

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["Database", "SharedQueueMiddleware", "main", "make_app"]

_QUERY_S: Final = (0.010, 0.030)
_STEP_S: Final = 0.005
_CROWDING: Final = 0.03
_KEEP_ALIVE_S: Final = 75  # nginx's; above every Retry-After of the demo, so no client finds its connection closed


class Database:
    """A pretend database with 8 cores: a query takes 10-30 ms (evenly spread) while at most 8 run at once.

    Beyond that the queries share the cores, so that twice as many take twice as long; and every further 8 of them cost
    all of them 3 % on top, for locks and caches. That is the way real ones go: too many at once do less work, not more.
    """

    def __init__(self) -> None:
        self._running = 0

    async def query(self) -> None:
        """Take as long as one query takes, by the number of those that run meanwhile."""
        self._running += 1
        try:
            work_s = random.uniform(*_QUERY_S)  # noqa: S311 - a length, not a secret
            before = time.perf_counter()
            while work_s > 0.0:
                slowdown = self._slowdown()
                await asyncio.sleep(min(work_s, _STEP_S) * slowdown)
                now = time.perf_counter()
                work_s -= (now - before) / slowdown  # what the timer overslept counts, or it would add up
                before = now
        finally:
            self._running -= 1

    def _slowdown(self) -> float:
        crowd = max(1.0, self._running / SLOTS)
        return crowd * (1.0 + _CROWDING * (crowd - 1.0))


class SharedQueueMiddleware:
    """What most people use today: ``slots`` requests run at once, the others wait in one line for all."""

    def __init__(self, app: ASGIApp, *, slots: int) -> None:
        self.app = app
        self.slots = asyncio.Semaphore(slots)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app when a slot is free."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        async with self.slots:
            await self.app(scope, receive, send)


def make_app(limiter: str) -> Starlette:
    """Make the demo API behind a limiter: ``none``, ``shared`` or ``fair``."""
    database = Database()

    async def report(request: Request) -> JSONResponse:
        began = time.perf_counter()
        await database.query()
        return JSONResponse({"report": "42 rows", "database_ms": round((time.perf_counter() - began) * 1e3, 1)})

    async def health(request: Request) -> PlainTextResponse:
        return PlainTextResponse("ok")

    app = Starlette(routes=[Route("/report", report), Route("/health", health)])
    if limiter == "shared":
        app.add_middleware(SharedQueueMiddleware, slots=SLOTS)
    elif limiter == "fair":
        app.add_middleware(
            FairQueueMiddleware,
            identify="header:x-api-key",
            resolve=customer_of,
            tiers=TIERS,
            max_concurrent=SLOTS,
        )
    return app


_CUSTOMERS: Final = {role.key: Customer(role.name, tier=role.tier) for role in ROLES}


async def customer_of(key: str) -> Customer | None:
    """Say whose key this is: in a real app, a look-up in its table of accounts."""
    return _CUSTOMERS.get(key)


def main(arguments: list[str] | None = None) -> None:
    """Serve until stdin closes or ``--at-most`` seconds are over."""
    parser = argparse.ArgumentParser(prog="ezthrottle_provider.demo.server")
    parser.add_argument("--limiter", choices=("none", "shared", "fair"), required=True)
    parser.add_argument("--fd", type=int, required=True, help="a listening socket")
    parser.add_argument("--at-most", type=float, required=True, metavar="SECONDS")
    options = parser.parse_args(arguments)
    end_with_parent(at_most_s=options.at_most)
    config: Any = uvicorn.Config(
        make_app(options.limiter), log_level="warning", access_log=False, timeout_keep_alive=_KEEP_ALIVE_S
    )
    with socket.socket(fileno=options.fd) as listening:
        uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
