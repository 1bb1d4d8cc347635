"""Per-route policy where the framework knows the route: a FastAPI dependency, which runs after admission."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from starlette.requests import HTTPConnection

__all__ = ["policy"]


def policy(
    *, cost: float | None = None, hold: Literal["body", "first-byte"] | None = None
) -> Callable[[HTTPConnection], Awaitable[None]]:
    """Make a FastAPI dependency that sets what requests to a route cost and how long they keep their slot.

    ``cost`` multiplies what is charged (seconds x 10, or 10 requests) and replaces the factor of a configured route;
    ``hold`` as in ``[[inbound.routes]]``. It runs after admission, so it cannot choose a pool or exempt a route: those
    need a path in the config. Without our middleware it does nothing. Raises ``ValueError`` for a cost that is not a
    finite number above 0, or another ``hold``.
    """
    if cost is not None and not (0.0 < cost < math.inf):
        raise ValueError("cost must be a finite number above 0")
    if hold not in (None, "body", "first-byte"):
        raise ValueError('hold must be "body" or "first-byte"; for "none" give the route a path in the config')

    async def apply(connection: HTTPConnection) -> None:
        scope: Any = connection.scope
        ticket = scope.get("ezthrottle")
        if ticket is not None and cost is not None:
            ticket.factor = cost
        if hold is not None:
            scope["ezthrottle.hold"] = hold

    return apply
