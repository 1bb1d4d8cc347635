"""The lag bound, checked over every interval of a run.

For two customers i and j that stay backlogged, normalised service differs by at most

    (D + 1) · (c_i / w_i + c_j / w_j)

over any interval: D slots, w the weight, c the largest cost of any of that customer's requests. There is no constant
to choose. (The bound is that of SFQ(D): Jin, Chase and Kaur, *Interposed proportional sharing*, 2004.)

With d(t) = S_i(t)/w_i − S_j(t)/w_j, the difference over [t1, t2] is d(t2) − d(t1), so over all intervals in which both
stay backlogged it is largest between the highest and the lowest d: two numbers per pair, updated when either is served.

A request counts when it ends, with what it was charged in the end: the theorem speaks of work completed. What the
scheduler believed in between, its estimates, is not asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

__all__ = ["Lag", "LagMeter"]


@dataclass(frozen=True, slots=True)
class Lag:
    """What a run showed: pairs beyond the bound, and the largest difference as a part of the bound."""

    grants: int
    violations: int
    worst: float
    where: str

    def __add__(self, other: Lag) -> Lag:
        worse = self if self.worst >= other.worst else other
        return Lag(self.grants + other.grants, self.violations + other.violations, worse.worst, worse.where)


class LagMeter:
    """Watches the normalised service of every pair of a few customers; a step costs one comparison per customer."""

    def __init__(self, weights: Sequence[float], *, slots: int) -> None:
        size = len(weights)
        self.grants = 0
        self._slots = slots
        self._weights = weights
        self._largest = [0.0] * size
        self._service = [0.0] * size
        self._backlogged = [False] * size
        # The highest d(i, j) since both are backlogged. The lowest is minus the highest of (j, i).
        self._high = [[0.0] * size for _ in range(size)]
        self._spread = [[0.0] * size for _ in range(size)]

    def grant(self) -> None:
        """A request begins to be served."""
        self.grants += 1

    def finish(self, i: int, cost: float) -> None:
        """A request of customer i ends, and was charged ``cost``."""
        if cost > self._largest[i]:
            self._largest[i] = cost
        service = self._service
        mine = service[i] = service[i] + cost / self._weights[i]
        if self._backlogged[i]:
            high, backlogged = self._high[i], self._backlogged
            for j, other in enumerate(service):
                if mine - other > high[j] and backlogged[j]:
                    high[j] = mine - other

    def arrive(self, i: int) -> None:
        """Customer i, of which nothing waited, is backlogged from now on: a new period for all its pairs."""
        self._backlogged[i] = True
        for j, other in enumerate(self._service):
            self._high[i][j] = self._service[i] - other
            self._high[j][i] = other - self._service[i]

    def leave(self, i: int) -> None:
        """Nothing of customer i waits any more: the periods that it shared with others are over."""
        for j, backlogged in enumerate(self._backlogged):
            if backlogged and j != i:
                low, high = min(i, j), max(i, j)
                self._spread[low][high] = max(self._spread[low][high], self._high[i][j] + self._high[j][i])
        self._backlogged[i] = False

    def result(self, where: str = "") -> Lag:
        """Close all periods and compare each pair with its bound."""
        size = len(self._weights)
        for i in range(size):
            if self._backlogged[i]:
                self.leave(i)
        violations, worst, pair = 0, 0.0, ""
        for i, j in combinations(range(size), 2):
            bound = (self._slots + 1) * (self._largest[i] / self._weights[i] + self._largest[j] / self._weights[j])
            part = self._spread[i][j] / bound if bound else 0.0
            violations += part > 1.0
            if part > worst:
                worst, pair = part, f"{where}: customers {i} and {j}"
        return Lag(self.grants, violations, worst, pair)
