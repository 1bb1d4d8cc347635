"""What a customer is told about its pace, in every response: its share of the slots, as requests per second.

``X-EZTHROTTLE-RPS`` = min(own rps, slots x weight / weights with demand / own mean cost). It falls at once and at most
doubles per second, so that a customer who left a crowd does not come back as one. ``X-EZTHROTTLE-MAX-CONCURRENT`` is
the same share in slots. Both count the customer's own weight, also when it is new.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from ezthrottle_provider.headers import Advice, Policy, render
from ezthrottle_provider.scheduling import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ezthrottle_provider.scheduling import Caller, Flow, Pool, Ticket

__all__ = ["Advisor", "Shown"]

_FRESH_S: Final = 0.1  # shares move with arrivals and ends; nobody can follow a pace that changes faster than this
_RENDERED: Final = 4096

Headers = tuple[tuple[bytes, bytes], ...]


class Shown:
    """What a customer was last shown, and until when that is fresh."""

    __slots__ = ("at", "headers", "max_concurrent", "rps", "until")

    def __init__(self, at: float, rps: float, max_concurrent: int, headers: Headers) -> None:
        self.at = at
        self.until = at + _FRESH_S
        self.rps = rps
        self.max_concurrent = max_concurrent
        self.headers = headers


class Advisor:
    """Renders the headers of a customer, at most once in 100 ms for each.

    ``quota_policies`` gives a caller's quota as policies of the RateLimit families. Reads the scheduler without its
    lock: what it says is advice, and a number that is a moment old is as good.
    """

    def __init__(
        self,
        families: tuple[str, ...],
        quota_policies: Callable[[Caller], Iterable[Policy]],
        clock: Callable[[], float],
    ) -> None:
        self.families = families
        self._quota_policies = quota_policies
        self._clock = clock

    def headers(self, ticket: Ticket) -> Headers:
        """Return the header pairs for a response to this ticket's customer."""
        shown: Shown | None = ticket.flow.customer.context
        if shown is None or self._clock() >= shown.until:
            shown = self.refresh(ticket)
        return shown.headers

    def for_caller(self, caller: Caller) -> Headers:
        """Return what a caller is told that never got as far as the queue: the policies of its quota."""
        return tuple(render_limits(tuple(self._quota_policies(caller)), self.families))

    def refresh(self, ticket: Ticket) -> Shown:
        """Compute the advice for a ticket's customer afresh, and remember it."""
        now = self._clock()
        caller, customer = ticket.caller, ticket.flow.customer
        first_cost = (now - ticket.granted_at) * ticket.factor if ticket.state is State.GRANTED else 0.0
        rps, max_concurrent = entitlement(customer, ticket.pool, first_cost=first_cost)
        before: Shown | None = customer.context
        if before is not None and rps > before.rps:
            rps = min(rps, before.rps * 2.0 ** (now - before.at))
        policies = self._policies(caller, customer, max_concurrent) if self._counts else ()
        advice = Advice(round_to_three(rps), max_concurrent, caller.account_queue, policies)
        shown = customer.context = Shown(now, rps, max_concurrent, _render(advice, self.families))
        return shown

    @property
    def _counts(self) -> bool:
        return any(family in ("ratelimit", "x-ratelimit") for family in self.families)

    def _policies(self, caller: Caller, customer: Flow, max_concurrent: int) -> tuple[Policy, ...]:
        """Only what the customer is held to: its share of the slots is advice, and it may go beyond it and wait."""
        policies = []
        terms = customer.terms
        if terms.max_concurrent is not None:
            left = max(0, max_concurrent - customer.in_flight)
            policies.append(Policy("concurrency", terms.max_concurrent, unit="concurrent-requests", remaining=left))
        if terms.rps is not None:
            window_s = 1 if terms.rps >= 1.0 else math.ceil(1.0 / terms.rps)
            policies.append(Policy("pace", max(1, int(terms.rps * window_s)), window_s=window_s))
        policies.extend(self._quota_policies(caller))
        return tuple(policies)


def entitlement(customer: Flow, pool: Pool, *, first_cost: float = 0.0) -> tuple[float, int]:
    """Return a customer's (requests per second, requests in flight) while all who had demand lately compete.

    ``first_cost`` is what the first request of a newcomer has cost so far: nothing else is known of it.
    """
    terms = customer.terms
    slots = pool.slots * pool.share(customer).part
    profile = customer.profile
    mean = profile.charged if profile is not None and profile.count else max(first_cost, pool.mean)
    rps = slots * pool.turnover() / mean if mean > 0.0 else float(pool.slots)
    if terms.rps is not None and terms.rps < rps:
        rps = terms.rps
    if terms.max_concurrent is not None and terms.max_concurrent < slots:
        rps *= terms.max_concurrent / slots if terms.rps is None else 1.0
        slots = terms.max_concurrent
    return rps, max(1, int(slots + 1e-9))


def round_to_three(rps: float) -> float:
    """Round to three significant digits, which is what is shown; so that equal texts are rendered once."""
    return float(f"{rps:.3g}")


def render_limits(policies: tuple[Policy, ...], families: tuple[str, ...]) -> Headers:
    """Render only the families that speak of limits: there is no pace to show."""
    wanted = tuple(family for family in families if family in ("ratelimit", "x-ratelimit"))
    return _render(Advice(1.0, 1, True, policies), wanted)


@lru_cache(maxsize=_RENDERED)
def _render(advice: Advice, families: tuple[str, ...]) -> Headers:
    return tuple(render(advice, families))
