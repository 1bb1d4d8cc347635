"""Hints: when the numbers say that the deployment is set up wrong, say so, in one log line and an event.

W010: everybody comes from one private address, which is probably a proxy that nobody told us to trust. W020 and W021:
``max_concurrent`` is too high (latency rises, the slots never fill) or too low (requests queue, the process idles).
"""

from __future__ import annotations

import ipaddress
import time
from typing import TYPE_CHECKING, Final

from ezthrottle_provider.instrumentation import Hinted

if TYPE_CHECKING:
    from collections.abc import Callable

    from ezthrottle_provider.scheduling import Pool, Scheduler

__all__ = ["Hints"]

_WINDOW_S: Final = 30.0
_QUIET_S: Final = 600.0  # the same hint is not repeated sooner
_SLOWER: Final = 3.0  # times the best window's time per request: latency has risen
_IDLE_CPU: Final = 0.3
_OFTEN: Final = 0.5  # of all samples
_BEHIND_PROXY: Final = 1000  # requests, with several keys, from one private address and from no other


class Hints:
    """Samples the pools at every tick of the gate and judges them every 30 s. ``cpu_s``: CPU seconds of the process."""

    def __init__(
        self, scheduler: Scheduler, tell: Callable[[Hinted], None], cpu_s: Callable[[], float] = time.process_time
    ) -> None:
        self.trusts_proxies = False  # follows the config
        self._scheduler = scheduler
        self._tell = tell
        self._cpu_s = cpu_s
        self._begun: float | None = None
        self._cpu_begun = 0.0
        self._samples = 0
        self._peak: dict[str, int] = {}
        self._queued: dict[str, int] = {}
        self._best: dict[str, float] = {}
        self._said: dict[str, float] = {}

    def care(self, now: float) -> None:
        """Take a sample; at the end of a window, judge it."""
        if self._begun is None:
            self._begin(now)
        assert self._begun is not None
        self._samples += 1
        for name, pool in self._scheduler.pools.items():
            self._peak[name] = max(self._peak.get(name, 0), pool.in_flight)
            if pool.ring.filed:
                self._queued[name] = self._queued.get(name, 0) + 1
        elapsed = now - self._begun
        if elapsed >= _WINDOW_S:
            if elapsed < 2 * _WINDOW_S:  # ticks stop when nothing happens: such a window says nothing
                busy = (self._cpu_s() - self._cpu_begun) / elapsed
                for pool in self._scheduler.pools.values():
                    self._judge(pool, now, busy)
                    if not self.trusts_proxies:
                        self._look_for_proxy(pool, now)
            self._begin(now)

    def _begin(self, now: float) -> None:
        self._begun = now
        self._cpu_begun = self._cpu_s()
        self._samples = 0
        self._peak.clear()
        self._queued.clear()

    def _judge(self, pool: Pool, now: float, busy: float) -> None:
        best = self._best[pool.name] = min(self._best.get(pool.name, pool.held), pool.held)
        queued = self._queued.get(pool.name, 0) / self._samples
        if not queued and self._peak.get(pool.name, 0) < pool.slots and best > 0.0 and pool.held >= _SLOWER * best:
            self._hint(
                f"W020:{pool.name}",
                now,
                f"pool {pool.name!r}: requests take {pool.held / best:.1f} times as long as at best, but never fill "
                f"the {pool.slots} slots, so nobody is queued. Lower max_concurrent to what the service can really do.",
            )
        elif queued >= _OFTEN and busy < _IDLE_CPU:
            self._hint(
                f"W021:{pool.name}",
                now,
                f"pool {pool.name!r}: requests wait for the {pool.slots} slots while this process uses {busy:.0%} of a "
                f"core. If what is behind it has room too, raise max_concurrent.",
            )

    def _look_for_proxy(self, pool: Pool, now: float) -> None:
        addresses = pool.strangers.children
        if len(addresses) != 1 or pool.ring.children:
            return
        (flow,) = addresses.values()
        several_keys = flow.ring is not None and flow.profile is not None and flow.profile.count >= _BEHIND_PROXY
        if several_keys and _is_private(flow.id.removeprefix("ip:")):
            self._hint(
                "W010",
                now,
                "all requests come from one private address and trusted_proxies is empty: it is probably a proxy. "
                "Callers that nobody verified all count as one; name the proxy in trusted_proxies.",
            )

    def _hint(self, key: str, now: float, text: str) -> None:
        if now - self._said.get(key, -_QUIET_S) >= _QUIET_S:
            self._said[key] = now
            self._tell(Hinted(at=now, id=key.partition(":")[0], text=text))


def _is_private(address: str) -> bool:
    try:
        return ipaddress.ip_network(address, strict=False).is_private
    except ValueError:  # a unix socket, or a test client
        return False
