"""Overflow: whose request is dropped when all queues together are full."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .flows import Flow
    from .pools import Pool
    from .tickets import Ticket
    from .waiting import Waiting

__all__ = ["choose_victim"]


def choose_victim(waiting: Waiting, pool: Pool, arriving: Flow) -> Ticket | None:
    """Return a late ticket of the customer that is furthest over its share; None when that is the one that arrives.

    Furthest over: the most waiting for its weight, where unverified callers first count as one customer. So a crowd of
    a million addresses with one request each makes room for a verified customer, and one that floods for all others.
    """
    group = pool.group
    crowd = group.waiting / pool.group_weight() if group.waiting else 0.0
    heaviest = pool.ring.backlog.heaviest()
    load = heaviest.waiting / heaviest.terms.weight if heaviest is not None else 0.0
    own = (arriving.waiting + 1) / arriving.terms.weight
    if arriving.verified and own >= crowd and own >= load:
        return None
    if load > crowd:
        assert heaviest is not None
        return waiting.newest_of(heaviest)
    heaviest = pool.strangers.backlog.heaviest()
    if not arriving.verified and (heaviest is None or own >= heaviest.waiting / heaviest.terms.weight):
        return None
    return waiting.newest_of(heaviest) if heaviest is not None else waiting.newest_stranger()
