"""Who waits and on what terms: the values that the scheduler is given with every request."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Caller", "Terms"]


class Terms:
    """What a customer was promised: its weight and its own limits.

    Deliberately mutable and shared: all customers of a tier hold the same object, and the scheduler reads it when
    it picks a request. So changing one attribute re-weights the whole backlog at once, at no cost per customer.

    ``weight`` is relative (> 0), ``rps`` requests per second (``None``: no pace), ``max_concurrent`` requests in
    flight (``None``: no limit of its own).
    """

    __slots__ = ("max_concurrent", "rps", "weight")

    def __init__(self, *, weight: float = 1.0, rps: float | None = None, max_concurrent: int | None = None) -> None:
        self.weight = weight
        self.rps = rps
        self.max_concurrent = max_concurrent

    def __repr__(self) -> str:
        return f"Terms(weight={self.weight}, rps={self.rps}, max_concurrent={self.max_concurrent})"


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request this is, at both levels of fairness.

    ``customer`` is the account that is weighed against others: a verified identity, or the network address of a
    caller that nobody verified. ``key`` is what the caller presented, as a keyed hash: the keys of one customer share
    its weight, so minting keys gains nothing. Neither may ever be a raw key: both end up in snapshots and metrics.
    ``priority`` (0-9, higher first) orders the requests inside one key. ``account_queue`` is false when all customers
    of the tier share one queue; then ``customer`` names the tier and ``key`` the customer.
    """

    customer: str
    key: str
    verified: bool
    terms: Terms
    priority: int = 5
    tier: str = ""
    account_queue: bool = True
