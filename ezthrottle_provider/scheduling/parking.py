"""Parking: customers whose next request may not start yet, for a reason of their own, and when they may again.

A parked customer is out of its ring: it is not scanned while others are served, and its capacity goes to them. It comes
back by an event (one of its requests ends) or by a timer (its pace), placed like any flow that comes back.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from .flows import Flow, Parked
from .pacing import Pace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .callers import Terms
    from .pools import Pool

__all__ = ["Parking"]


class Parking:
    """The limits that customers have of their own, over all pools, and the timers of those whose pace says later."""

    __slots__ = ("_number", "_pools", "_timers")

    def __init__(self, pools: Mapping[str, Pool]) -> None:
        self._pools = pools
        # A heap of (when, number, what ends, whom, where); per flow one pace at most, and one entry per slow reader.
        self._timers: list[tuple[float, int, int, Flow, Pool]] = []
        self._number = 0

    def obstacle(self, now: float, customer: Flow, pool: Pool) -> int:
        """Return why a customer may not start a request now, apart from the order of the queue (a ``Parked`` value)."""
        terms = customer.terms
        if terms.max_concurrent is not None and self._in_flight(customer) >= terms.max_concurrent:
            return Parked.CAP
        if terms.rps is not None and (
            customer.parked == Parked.PACE or self.pace_of(customer).ready_at(terms.rps) > now
        ):
            return Parked.PACE
        top = customer if customer.verified else pool.group
        if top.slow_until > now and top.in_flight >= pool.quarter:
            return Parked.SLOW
        return Parked.NOT

    def pace_of(self, customer: Flow) -> Pace:
        """Return the pace of a customer, which holds over all pools."""
        pace = customer.pace
        if pace is None:
            for pool in self._pools.values():
                flow = pool.find(customer)
                if flow is not None and flow.pace is not None:
                    pace = flow.pace
                    break
            pace = customer.pace = pace or Pace()
        return pace

    def park(self, customer: Flow, pool: Pool, obstacle: int) -> None:
        """Keep a customer that stands in no ring out of it."""
        customer.parked = obstacle
        if obstacle == Parked.PACE:
            rps = customer.terms.rps
            assert rps is not None
            self._set_timer(self.pace_of(customer).ready_at(rps), Parked.PACE, customer, pool)

    def unpark(self, flow: Flow, pool: Pool) -> None:
        """Let a customer (or the group of strangers) stand again, if something of it waits."""
        if flow.parked == Parked.NOT:
            return
        flow.parked = Parked.NOT
        if flow is pool.group:
            if pool.strangers.filed:
                pool.ring.place(flow, 0.0)
        elif flow.waiting:
            pool.stand(flow)

    def restrain(self, top: Flow, pool: Pool, until: float) -> None:
        """Hold a verified customer, or the group of strangers, to a quarter of the slots until a time."""
        top.slow_until = until
        pool.restrained = True
        self._set_timer(until, Parked.SLOW, top, pool)

    def reterm(self, customer: Flow, terms: Terms) -> None:
        """Follow a customer into another tier: a limit that held it back may be gone."""
        for pool in self._pools.values():
            flow = pool.find(customer)
            if flow is not None:
                flow.terms = terms
                self.unpark(flow, pool)

    def slot_freed(self, customer: Flow, pool: Pool) -> None:
        """Let those stand again that one of the customer's requests held back, in whichever pool."""
        if customer.parked == Parked.SLOW:
            self.unpark(customer, pool)
        if not customer.verified and pool.group.parked:
            self.unpark(pool.group, pool)
        if customer.terms.max_concurrent is not None:
            for other in self._pools.values():
                flow = other.find(customer)
                if flow is not None and flow.parked == Parked.CAP:
                    self.unpark(flow, other)

    def expire(self, now: float) -> None:
        """Let those stand again whose time has come."""
        timers = self._timers
        while timers and timers[0][0] <= now:
            _, _, obstacle, flow, pool = heappop(timers)
            if flow.parked == obstacle:
                self.unpark(flow, pool)

    def next_due(self) -> float | None:
        """Return when ``expire`` has something to do next."""
        return self._timers[0][0] if self._timers else None

    def release_all(self) -> None:
        """Let everybody stand again; who still may not is parked when its turn comes, and its pace sets a new timer."""
        self._timers = [timer for timer in self._timers if timer[2] == Parked.SLOW]
        heapify(self._timers)
        for pool in self._pools.values():
            for flow in [pool.group, *pool.ring.children.values(), *pool.strangers.children.values()]:
                self.unpark(flow, pool)

    def _set_timer(self, at: float, obstacle: int, flow: Flow, pool: Pool) -> None:
        self._number += 1
        heappush(self._timers, (at, self._number, obstacle, flow, pool))

    def _in_flight(self, customer: Flow) -> int:
        if len(self._pools) == 1:
            return customer.in_flight
        return sum(flow.in_flight for pool in self._pools.values() if (flow := pool.find(customer)) is not None)
