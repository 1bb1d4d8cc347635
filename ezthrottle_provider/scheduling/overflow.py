"""Overflow: whose request is dropped when all queues together are full."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .flows import Flow
    from .pools import Pool
    from .tickets import Ticket
    from .waiting import Waiting

__all__ = ["choose_victim"]


def choose_victim(waiting: Waiting, pools: Iterable[Pool], arriving: Flow) -> Ticket | None:
    """Return a late ticket of the customer that is furthest over its share; None when that is the one that arrives.

    Furthest over: the most waiting for its weight, in whichever pool, where unverified callers first count as one
    customer. So a crowd of a million addresses with one request each makes room for a verified customer, and one that
    floods for all others.
    """
    own = (arriving.waiting + 1) / arriving.terms.weight
    worst, worst_load = None, own if arriving.verified else 0.0
    for pool in pools:
        heaviest = pool.ring.backlog.heaviest()
        if heaviest is not None and heaviest.waiting / heaviest.terms.weight > worst_load:
            worst, worst_load = heaviest, heaviest.waiting / heaviest.terms.weight
        if pool.group.waiting:
            crowd = pool.group.waiting / pool.group_weight(arriving)
            if crowd > worst_load:
                worst, worst_load = pool.group, crowd
    if worst is None:
        return None
    if not arriving.verified and not worst.verified:  # among strangers it goes by their own backlogs
        assert worst.ring is not None
        worst = worst.ring.backlog.heaviest()
        if worst is None or own >= worst.waiting / worst.terms.weight:
            return None
    return waiting.newest_of(worst)
