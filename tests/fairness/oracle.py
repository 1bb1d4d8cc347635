"""What each customer should have got: the weighted max-min share, at one moment and over a run.

An allocation is max-min fair when nobody's normalised share (share / weight) can grow without taking from somebody
whose normalised share is no larger (Bertsekas and Gallagher, *Data Networks*, 6.5.2). Water-filling finds it: all
levels rise together, whoever is satisfied stops, the others share what is left.

``max_min`` is that for amounts that are all there at once. ``fluid`` repeats it in small steps over a run, so that
work which arrives late cannot be served early: it is generalised processor sharing (Parekh and Gallagher, 1993), the
ideal that a scheduler of whole requests can only approach.

Everything is in slot-seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

__all__ = ["Demand", "Tenant", "fluid", "max_min"]


@dataclass(frozen=True, slots=True)
class Demand:
    """How much a customer asks for (``inf``: all it can get), its weight, and a limit of its own."""

    amount: float
    weight: float = 1.0
    cap: float = inf


def max_min(capacity: float, demands: Sequence[Demand]) -> list[float]:
    """Return the weighted max-min allocation of ``capacity``, in the order of ``demands``."""
    bounds = [min(demand.amount, demand.cap) for demand in demands]
    weights = [demand.weight for demand in demands]
    shares = [0.0] * len(bounds)
    left = capacity
    weight_left = sum(weights)
    # In the order in which a rising level satisfies them, so one pass is enough.
    order = sorted(range(len(bounds)), key=lambda i: bounds[i] / weights[i])
    for place, i in enumerate(order):
        level = left / weight_left
        if bounds[i] > level * weights[i]:
            for j in order[place:]:
                shares[j] = level * weights[j]
            break
        shares[i] = bounds[i]
        left = max(0.0, left - bounds[i])
        weight_left -= weights[i]
    return shares


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A customer as the fluid sees it: work that arrives (seconds, slot-seconds), or all it can get from a time on."""

    arrivals: Sequence[tuple[float, float]] = ()
    saturated_from_s: float = inf
    cap: float = inf  # slots


def fluid(
    tenants: Mapping[str, Tenant],
    weight: Callable[[float, float, str], float],
    *,
    capacity: float,
    edges_s: Sequence[float],
    step_s: float,
) -> list[dict[str, float]]:
    """Serve the tenants as a fluid from the first edge on; return the slot-seconds that each got from edge to edge.

    ``capacity`` is in slots. ``weight(begin, end, name)`` is asked once for each pair of edges, so let each change of
    a weight be one. Work that arrives within a step may be served in it.
    """
    backlog = dict.fromkeys(tenants, 0.0)
    places = dict.fromkeys(tenants, 0)
    results = []
    for begins, ends in pairwise(edges_s):
        got = dict.fromkeys(tenants, 0.0)
        weights = {name: weight(begins, ends, name) for name in tenants}
        steps = max(1, round((ends - begins) / step_s))
        width_s = (ends - begins) / steps
        for step in range(steps):
            until = ends if step == steps - 1 else begins + (step + 1) * width_s
            demands = []
            for name, tenant in tenants.items():
                arrivals, place = tenant.arrivals, places[name]
                while place < len(arrivals) and arrivals[place][0] < until:
                    backlog[name] += arrivals[place][1]
                    place += 1
                places[name] = place
                # Half a step of tolerance: where it begins within one, rounding decides.
                saturated = tenant.saturated_from_s <= until - width_s / 2
                demands.append(Demand(inf if saturated else backlog[name], weights[name], tenant.cap * width_s))
            for name, share in zip(tenants, max_min(capacity * width_s, demands), strict=True):
                got[name] += share
                backlog[name] = max(0.0, backlog[name] - share)
        results.append(got)
    return results
