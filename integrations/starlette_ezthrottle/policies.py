"""Per-route policy where the framework knows the route: a FastAPI dependency, which runs after admission."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal

from starlette.requests import HTTPConnection

__all__ = ["policy"]

_MOST_COST: Final = 1_000_000  # as for the cost of a configured route


def policy(
    *, cost: float | None = None, hold: Literal["body", "first-byte"] | None = None
) -> Callable[[HTTPConnection], Awaitable[None]]:
    """Make a FastAPI dependency that sets what requests to a route cost and how long they keep their slot.

    ``cost`` multiplies what is charged (seconds x 10, or 10 requests) and replaces the factor of a configured route;
    ``hold`` as in ``[[inbound.routes]]``. It runs after admission, so it cannot choose a pool or exempt a route: those
    need a path in the config. Without our middleware it does nothing. Raises ``ValueError`` for a cost that is not a
    number above 0 and at most 1,000,000, or another ``hold``.
    """
    if cost is not None and not (0.0 < cost <= _MOST_COST):
        raise ValueError("cost must be a number above 0 and at most 1,000,000")
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
