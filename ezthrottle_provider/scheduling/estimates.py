"""Estimates: what a request will probably cost, before it runs, and what a customer's requests cost on average."""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["Profile", "Profiles"]

# A customer's mean is shown to it as a rate, so it must be steady: over 200 requests a lognormal cost with sigma 0.5
# leaves 2.7 % of noise. A route's mean only has to be roughly right, as every estimate is trued up: 16 follow changes.
_MEAN_SPAN = 200
_ROUTE_SPAN = 16
_LEARNT_FROM_ALL = 64
_ROUTES_PER_CUSTOMER = 16


class Profile:
    """Moving averages of one customer's cost, over all of its requests and per route. Bounded: at most 16 routes.

    ``mean`` and ``routes`` are what requests really took (before their factor), ``charged`` what was charged for them.
    """

    __slots__ = ("charged", "count", "mean", "routes")

    def __init__(self) -> None:
        self.mean = 0.0
        self.charged = 0.0
        self.count = 0
        self.routes: dict[str, float] | None = None

    def observe(self, route: str, cost: float, charged: float) -> bool:
        """Learn from a request that has ended; return whether it was one to learn from.

        All of the first 64 are, and every fourth of the others: they tell as much, and most requests pay less.
        """
        count = self.count = self.count + 1
        if count & 3 and count > _LEARNT_FROM_ALL:
            return False
        span = count if count < _MEAN_SPAN else _MEAN_SPAN
        self.mean += (cost - self.mean) / span
        self.charged += (charged - self.charged) / span
        self._observe_route(route, cost)
        return True

    def _observe_route(self, route: str, cost: float) -> None:
        count, routes = self.count, self.routes
        if routes is None:
            if not route:
                return
            routes = self.routes = {}
        known = routes.get(route)
        if known is not None:
            routes[route] = known + (cost - known) / (count if count < _ROUTE_SPAN else _ROUTE_SPAN)
        elif len(routes) < _ROUTES_PER_CUSTOMER:
            routes[route] = cost


class Profiles:
    """Profiles of customers that are gone for now: bounded, the longest unseen is forgotten first."""

    __slots__ = ("_bound", "_known")

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._known: OrderedDict[str, Profile] = OrderedDict()

    def take(self, customer: str) -> Profile | None:
        """Return and remove what is known of a customer that comes back."""
        return self._known.pop(customer, None) if self._known else None

    def keep(self, customer: str, profile: Profile) -> None:
        """Remember a customer that leaves."""
        self._known[customer] = profile
        if len(self._known) > self._bound:
            self._known.popitem(last=False)

    def __len__(self) -> int:
        return len(self._known)
