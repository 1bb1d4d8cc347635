"""Events and snapshots as Prometheus metrics named ``ezthrottle_inbound_*``; extra ``metrics``.

Counters come from events, gauges from the provider's snapshot at the moment of a scrape. However many customers there
are, the series are bounded: those with the largest recent cost have series of their own, the rest are
``customer="other"``, and every other label takes a bounded number of values. Labels hold what events hold: never a raw
key.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable

try:
    from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.exposition import CONTENT_TYPE_LATEST
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError(
        "ezthrottle_provider.metrics needs prometheus-client: pip install 'ezthrottle-provider[metrics]'"
    ) from error

from .instrumentation import (
    Abandoned,
    ConfigReloaded,
    Event,
    Finished,
    Granted,
    Hinted,
    LimiterFailed,
    Refused,
    ResolverFailed,
    SlowReader,
    Snapshot,
)

__all__ = ["PrometheusHook"]

_OTHER = "other"
_OUTCOMES = ("served", "refused", "abandoned")
_WAIT_BUCKETS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LABEL_MAX = 64  # characters of a label that came from outside
_NAMES_MAX = 32  # values of a label that configuration decides: tiers, reasons, places, hints
_HALF_LIFE_S = 60.0  # how soon past cost stops counting as recent
_AGING_STEP_S = 10.0  # how often it is worth going through all candidates to let them age
_CANDIDATES_PER_SERIES = 10  # how far down the ranking cost is still followed


class PrometheusHook:
    """A hook that counts what happens, for Prometheus to scrape.

    Metrics go to ``registry`` (default: one of its own, so nothing else is exposed by accident); ``snapshot`` is
    the provider's snapshot call and gives the gauges; ``top_customers`` have series of their own. Raises
    ``ValueError`` when the registry has these metrics already.
    """

    def __init__(
        self,
        *,
        registry: CollectorRegistry | None = None,
        snapshot: Callable[[], Snapshot] | None = None,
        top_customers: int = 20,
    ) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        self._customers = _TopCustomers(top_customers)
        self._tier, self._reason, self._where, self._hint = _Names(), _Names(), _Names(), _Names()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"ezthrottle_inbound_{name}", text, labels, registry=self.registry)

        self._requests = counter("requests", "Requests by how they ended", "outcome", "tier")
        self._cost = counter("cost", "Cost charged, in the configured unit", "tier")
        self._refused = counter("refused", "Refusals by the limit that was met", "reason", "enforced")
        self._slow_readers = counter("slow_readers", "Responses read too slowly to keep their slot", "closed")
        self._hints = counter("hints", "Hints that the deployment looks wrong", "id")
        self._resolver_failures = counter("resolver_failures", "Calls of resolve that raised or timed out")
        self._limiter_failures = counter("limiter_failures", "Failures of the limiter itself", "where")
        self._reloads = counter("config_reloads", "Reloads of the config", "ok")
        self._waits = Histogram(
            "ezthrottle_inbound_wait_seconds",
            "How long admitted requests waited for their turn",
            ("tier",),
            buckets=_WAIT_BUCKETS_S,
            registry=self.registry,
        )
        self.registry.register(_ScrapeCollector(self._customers, snapshot))

    def __call__(self, event: Event, /) -> None:
        """Count ``event``."""
        match event:
            case Granted():
                self._waits.labels(self._tier(event.tier)).observe(event.wait_s)
            case Finished():
                # A price function is foreign code, and one NaN would spoil a sum for ever.
                cost = event.cost if 0 < event.cost < math.inf else 0.0
                self._requests.labels("served", self._tier(event.tier)).inc()
                self._cost.labels(self._tier(event.tier)).inc(cost)
                self._customers.count(event.customer, "served", cost=cost, at=event.at)
            case Refused():
                self._refused.labels(self._reason(event.reason), _flag(event.enforced)).inc()
                if event.enforced:  # else it runs, and ends as something else
                    self._requests.labels("refused", self._tier(event.tier)).inc()
                    self._customers.count(event.customer, "refused", at=event.at)
            case Abandoned():
                self._requests.labels("abandoned", self._tier(event.tier)).inc()
                self._customers.count(event.customer, "abandoned", at=event.at)
            case SlowReader():
                self._slow_readers.labels(_flag(event.closed)).inc()
            case Hinted():
                self._hints.labels(self._hint(event.id)).inc()
            case ResolverFailed():
                self._resolver_failures.inc()
            case LimiterFailed():
                self._limiter_failures.labels(self._where(event.where)).inc()
            case ConfigReloaded():
                self._reloads.labels(_flag(event.ok)).inc()

    def render(self) -> tuple[bytes, str]:
        """Give the body and the Content-Type of a scrape, for a route of your own to return."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


class _Names:
    """Lets a bounded number of names through as labels; any further one is "other"."""

    __slots__ = ("_labels",)

    def __init__(self) -> None:
        self._labels: dict[str, str] = {}

    def __call__(self, name: str) -> str:
        label = self._labels.get(name)
        if label is None:
            if len(self._labels) >= _NAMES_MAX:
                return _OTHER
            label = self._labels[name] = _label(name)
        return label


class _Tally:
    """The counters of one customer since it got series of its own."""

    __slots__ = ("cost", "requests")

    def __init__(self) -> None:
        self.requests = dict.fromkeys(_OUTCOMES, 0)
        self.cost = 0.0


class _TopCustomers:
    """Counts per customer for the few that cost most lately, and for all others together.

    Cost that fades with a half-life is followed for a bounded number of candidates by the summary of Misra and Gries
    ("Finding repeated elements", 1982): when the table is full, the value of the middle one is taken off all and what
    is left with nothing goes. So a customer is underrated by at most 1/keep of all recent cost, and a flood of
    one-time customers pushes nobody out who costs more than that.

    Who has series changes at a scrape only. A customer's count starts at zero when it gets them, what it did before
    stays in "other", and what it did while it had them goes with them: no counter ever goes back, and none jumps. So
    these counters are for rates; totals are in the metrics without a customer.
    """

    def __init__(self, top: int) -> None:
        self._top = top
        self._keep = max(top * _CANDIDATES_PER_SERIES, 1)
        self._lock = threading.Lock()
        self._shown: dict[str, _Tally] = {}
        self._other = _Tally()
        self._recent: dict[str, float] = {}
        self._recent_total = 0.0
        self._aged_at = -math.inf

    def count(self, customer: str, outcome: str, *, at: float, cost: float = 0.0) -> None:
        """Count one request of ``customer`` that ended as ``outcome`` at time ``at``."""
        customer = _label(customer)
        with self._lock:
            tally = self._shown.get(customer)
            if tally is None:
                tally = self._other
                # A customer may be named like the label for all others; its series may not exist twice.
                if cost > 0 and len(self._shown) < self._top and customer != _OTHER:
                    tally = self._shown[customer] = _Tally()
            tally.requests[outcome] += 1
            tally.cost += cost
            if cost > 0:
                self._follow(customer, cost, at)

    def scrape(self) -> dict[str, _Tally]:
        """Decide anew who has series, and return a copy of them with "other" as the last."""
        with self._lock:
            self._elect()
            return {name: _copy(tally) for name, tally in self._shown.items()} | {_OTHER: _copy(self._other)}

    def _follow(self, customer: str, cost: float, at: float) -> None:
        if at - self._aged_at >= _AGING_STEP_S:
            fading = 0.5 ** ((at - self._aged_at) / _HALF_LIFE_S)
            self._recent = {name: value * fading for name, value in self._recent.items()}
            self._recent_total *= fading
            self._aged_at = at
        self._recent[customer] = self._recent.get(customer, 0.0) + cost
        self._recent_total += cost
        if len(self._recent) >= 2 * self._keep:
            floor = sorted(self._recent.values(), reverse=True)[self._keep]
            self._recent = {name: value - floor for name, value in self._recent.items() if value > floor}

    def _elect(self) -> None:
        """Swap a customer for one that costs twice as much: a narrower margin would make series come and go."""
        recent = self._recent
        last_first = sorted(self._shown, key=lambda name: recent.get(name, 0.0))
        others = (name for name in recent if name not in self._shown and name != _OTHER)
        for loser, winner in zip(last_first, sorted(others, key=recent.__getitem__, reverse=True), strict=False):
            # Below the error of the summary nobody is distinguished, so one-time customers do not take turns.
            if recent[winner] < max(2 * recent.get(loser, 0.0), self._recent_total / self._keep):
                break
            del self._shown[loser]
            self._shown[winner] = _Tally()


class _ScrapeCollector(Collector):
    """Gives the metrics that exist only at the moment of a scrape."""

    def __init__(self, customers: _TopCustomers, snapshot: Callable[[], Snapshot] | None) -> None:
        self._customers = customers
        self._snapshot = snapshot

    def describe(self) -> Iterable[Metric]:
        """Name the metrics, so that registering takes no snapshot and finds a registry that has them already."""
        return (*_customer_counters({}), *_gauges(None, ()))

    def collect(self) -> Iterable[Metric]:
        """Give all metrics with their values of now."""
        tallies = self._customers.scrape()
        yield from _customer_counters(tallies)
        if self._snapshot is not None:
            yield from _gauges(self._snapshot(), tallies)


def _customer_counters(tallies: dict[str, _Tally]) -> tuple[Metric, ...]:
    requests = CounterMetricFamily(
        "ezthrottle_inbound_customer_requests",
        "Requests of the customers with the largest recent cost, since they are among them",
        labels=("customer", "outcome"),
    )
    cost = CounterMetricFamily(
        "ezthrottle_inbound_customer_cost",
        "Cost of the customers with the largest recent cost, since they are among them",
        labels=("customer",),
    )
    for name, tally in tallies.items():
        for outcome, count in tally.requests.items():
            requests.add_metric((name, outcome), count)
        cost.add_metric((name,), tally.cost)
    return requests, cost


def _gauges(snapshot: Snapshot | None, shown: Iterable[str]) -> tuple[Metric, ...]:
    def gauge(name: str, text: str, label: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"ezthrottle_inbound_{name}", text, labels=(label,))

    slots = gauge("slots", "Requests that may run at once", "pool")
    in_flight = gauge("in_flight", "Requests that run now", "pool")
    waiting = gauge("waiting", "Requests that wait for their turn", "pool")
    streams = gauge("streams", "Open streams and WebSockets", "pool")
    customer_in_flight = gauge("customer_in_flight", "Requests of a customer that run now", "customer")
    customer_waiting = gauge("customer_waiting", "Requests of a customer that wait for their turn", "customer")
    running_by_customer = dict.fromkeys(shown, 0)
    waiting_by_customer = dict.fromkeys(shown, 0)
    for pool in snapshot.pools if snapshot is not None else ():
        pool_label = (_label(pool.name),)
        slots.add_metric(pool_label, pool.slots)
        in_flight.add_metric(pool_label, pool.in_flight)
        waiting.add_metric(pool_label, pool.waiting)
        streams.add_metric(pool_label, pool.streams)
        # "other" is what is left of the totals: a snapshot need not list every customer.
        running_by_customer[_OTHER] += pool.in_flight
        waiting_by_customer[_OTHER] += pool.waiting
        for customer in pool.customers:
            label = _label(customer.customer)
            if label != _OTHER and label in running_by_customer:
                running_by_customer[label] += customer.in_flight
                running_by_customer[_OTHER] -= customer.in_flight
                waiting_by_customer[label] += customer.waiting
                waiting_by_customer[_OTHER] -= customer.waiting
    for name, running in running_by_customer.items():
        customer_in_flight.add_metric((name,), running)
        customer_waiting.add_metric((name,), waiting_by_customer[name])
    return slots, in_flight, waiting, streams, customer_in_flight, customer_waiting


def _label(name: str) -> str:
    """Make a label of any name: short, and never one (a lone surrogate, a NUL) that would spoil the whole scrape."""
    name = name[:_LABEL_MAX]
    return name if name.isprintable() else name.encode("unicode_escape").decode("ascii")


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _copy(tally: _Tally) -> _Tally:
    copy = _Tally()
    copy.requests = dict(tally.requests)
    copy.cost = tally.cost
    return copy
