"""What a request cost when a function of the provider's decides: rows, tokens, anything that its response can tell."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ezthrottle_provider.scheduling import Ticket

__all__ = ["Pricer", "Served"]


@dataclass(frozen=True, slots=True)
class Served:
    """A request that was served, as a ``cost`` function sees it.

    ``status`` is 0 and ``headers`` (the response's, lower-case names) empty when it ended before its response began;
    ``seconds`` for which it ran. ``customer`` is the account that is charged, never a raw key.
    """

    method: str
    path: str
    status: int
    headers: Mapping[str, str]
    seconds: float
    customer: str


class Pricer:
    """Calls ``cost(served) -> number``; a failure or a senseless number costs what such requests have cost so far."""

    def __init__(self, function: Callable[[Served], float], failed: Callable[[str, Exception], None]) -> None:
        self._function = function
        self._failed = failed

    def price(self, ticket: Ticket, now: float, method: str, path: str, response: Mapping[str, Any]) -> float:
        """Return the cost of a request that ends now, before its factor."""
        try:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in response.get("headers", ())}
            served = Served(
                method, path, response.get("status", 0), headers, now - ticket.granted_at, ticket.caller.customer
            )
            cost = float(self._function(served))
            if not (math.isfinite(cost) and cost >= 0.0):
                raise ValueError("a cost must be finite and at least 0")
            return cost
        except Exception as error:  # the user's code may raise anything, and the request is already served
            self._failed("cost", error)
            profile = ticket.flow.customer.profile
            return profile.mean if profile is not None and profile.count else ticket.pool.mean
