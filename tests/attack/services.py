"""An app behind a fair queue, on a clock that the test moves, with everything that it may hold in one tuple."""

from __future__ import annotations

from ezthrottle_provider import ASGIFairQueue, Provider
from ezthrottle_provider.testing import RecordingHook

from .exchanges import Exchange, MovingClock, hello, turns

__all__ = ["AT_REST", "Service"]

AT_REST = (0, 0, 0, 0, 0)


class Service:
    """An app behind a fair queue with one slot, watched."""

    def __init__(self, app=hello, *, max_concurrent=1, **options):
        self.clock = MovingClock(100.0)
        self.provider = Provider(clock=self.clock, max_concurrent=max_concurrent, **options)
        self.app = ASGIFairQueue(app, provider=self.provider)
        self.seen = RecordingHook()
        self.provider.hooks.add(self.seen)
        self.pools = self.provider.gate.scheduler.pools

    async def get(self, path="/x", **options):
        return await Exchange(path, **options).through(self.app)

    @property
    def state(self):
        """(slots in use, requests waiting, requests without a slot, streams, bytes read ahead): all 0 when at rest."""
        provider, pools = self.provider, self.provider.snapshot().pools
        running, waiting = sum(pool.in_flight for pool in pools), sum(pool.waiting for pool in pools)
        return running, waiting, sum(pool.streams for pool in pools), provider.streams.total(), provider.room.used

    async def pass_time(self, seconds):
        self.clock.advance(seconds)
        self.provider.gate.tick()
        await turns()
