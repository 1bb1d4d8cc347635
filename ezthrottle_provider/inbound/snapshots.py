"""The state of a provider at one moment, for pages, metrics and tests."""

from __future__ import annotations

from heapq import nlargest
from typing import TYPE_CHECKING

from ezthrottle_provider.instrumentation import CustomerSnapshot, PoolSnapshot, Snapshot

from .advice import entitlement

if TYPE_CHECKING:
    from ezthrottle_provider.scheduling import Flow, Pool, Scheduler

__all__ = ["snapshot_of"]


def snapshot_of(scheduler: Scheduler, now: float, *, enforce: bool, enabled: bool, customers: int) -> Snapshot:
    """Return the pools with their busiest customers, at most ``customers`` of each; hold the gate's lock around it."""
    return Snapshot(
        at=now,
        pools=tuple(_pool(pool, customers) for pool in scheduler.pools.values()),
        enforce=enforce,
        enabled=enabled,
    )


def _pool(pool: Pool, most: int) -> PoolSnapshot:
    flows = [flow for ring in pool.rings() for flow in ring.children.values()]
    shown = nlargest(most, flows, key=lambda flow: (flow.running + flow.waiting, flow.counted))
    return PoolSnapshot(
        name=pool.name,
        slots=pool.slots,
        in_flight=pool.in_flight,
        waiting=sum(flow.waiting for flow in flows),
        streams=pool.streams,
        customers=tuple(_customer(flow, pool) for flow in shown),
        customers_omitted=len(flows) - len(shown),
    )


def _customer(flow: Flow, pool: Pool) -> CustomerSnapshot:
    rps, max_concurrent = entitlement(flow, pool)
    shown = flow.context
    if shown is not None:
        rps, max_concurrent = shown.rps, shown.max_concurrent
    profile = flow.profile
    return CustomerSnapshot(
        customer=flow.id,
        tier=flow.tier,
        verified=flow.verified,
        weight=flow.terms.weight,
        waiting=flow.waiting,
        in_flight=flow.in_flight,
        share=pool.share(flow).part,
        served_cost=flow.served,
        mean_cost=profile.charged if profile is not None else 0.0,
        rps_shown=rps,
        max_concurrent_shown=max_concurrent,
    )
