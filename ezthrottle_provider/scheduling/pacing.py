"""Pace: when a customer with a rate of its own may start its next request (GCRA, one interval of tolerance)."""

from __future__ import annotations

__all__ = ["Pace"]


class Pace:
    """Spaces starts ``1 / rps`` seconds apart, without losing rate to jitter.

    The generic cell rate algorithm (ITU-T I.371, appendix): one number, the theoretical arrival time. A start is
    early by at most one interval, which is what makes a caller that comes back slightly late catch up; with no
    tolerance 5 % of the rate was lost to jitter. So any window of ``t`` seconds holds at most ``rps * t + 2`` starts.

    The rate is an argument of every call, because it may change while requests wait.
    """

    __slots__ = ("due_at",)

    def __init__(self) -> None:
        self.due_at = float("-inf")

    def ready_at(self, rps: float) -> float:
        """Return the earliest time at which the next request may start."""
        return self.due_at - 1.0 / rps

    def take(self, now: float, rps: float) -> None:
        """Account for a request that starts now."""
        self.due_at = (now if now > self.due_at else self.due_at) + 1.0 / rps

    def idle(self, now: float) -> bool:
        """Tell whether forgetting this pace would change nothing."""
        return self.due_at <= now
