from __future__ import annotations

import importlib
import math
import random
import sys
import tracemalloc

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from ezthrottle_provider.instrumentation import (
    Abandoned,
    ConfigReloaded,
    CustomerSnapshot,
    Finished,
    Granted,
    Hinted,
    LimiterFailed,
    PoolSnapshot,
    Queued,
    Refused,
    ResolverFailed,
    SlowReader,
    Snapshot,
)
from ezthrottle_provider.metrics import PrometheusHook

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]
WHOSE = {"at": 0.0, "customer": "acme", "key": "hash", "tier": "pro", "route": "/v1/*", "pool": "default"}


def finished(customer: str = "acme", *, at: float = 0.0, cost: float = 1.0, tier: str = "pro") -> Finished:
    whose = WHOSE | {"customer": customer, "at": at, "tier": tier}
    return Finished(**whose, cost=cost, held_s=cost, wait_s=0.0)


def refused(customer: str = "acme", *, reason: str = "max_queue", enforced: bool = True) -> Refused:
    whose = WHOSE | {"customer": customer}
    return Refused(**whose, reason=reason, retry_after_s=1.0, position=None, enforced=enforced)


def in_pool(customer: str, *, waiting: int, in_flight: int) -> CustomerSnapshot:
    return CustomerSnapshot(
        customer=customer,
        tier="pro",
        verified=True,
        weight=1.0,
        waiting=waiting,
        in_flight=in_flight,
        share=0.5,
        served_cost=1.0,
        mean_cost=0.1,
        rps_shown=10.0,
        max_concurrent_shown=4,
    )


def scrape(hook: PrometheusHook) -> Series:
    """What a server that scrapes the hook stores; that a series comes twice would be its error, so it is ours."""
    series: Series = {}
    for family in text_string_to_metric_families(hook.render()[0].decode()):
        for sample in family.samples:
            identity = (sample.name, frozenset(sample.labels.items()))
            assert identity not in series
            series[identity] = sample.value
    return series


def value(hook: PrometheusHook, name: str, **labels: str) -> float | None:
    return scrape(hook).get((f"ezthrottle_inbound_{name}", frozenset(labels.items())))


def customers_shown(hook: PrometheusHook) -> set[str]:
    return {dict(labels)["customer"] for name, labels in scrape(hook) if name.endswith("_customer_cost_total")}


# --- what is counted


def test_each_request_is_counted_once_by_how_it_ended():
    hook = PrometheusHook()
    for event in (finished(), finished(), refused(), Abandoned(**WHOSE, waited_s=2.0), Queued(**WHOSE, depth=1)):
        hook(event)
    for outcome, count in (("served", 2.0), ("refused", 1.0), ("abandoned", 1.0)):
        assert count == value(hook, "requests_total", outcome=outcome, tier="pro")
        assert count == value(hook, "customer_requests_total", outcome=outcome, customer="acme")


def test_a_refusal_in_shadow_mode_is_a_refusal_but_no_end_of_a_request():
    hook = PrometheusHook()
    hook(refused(enforced=False))
    hook(finished())
    assert 1.0 == value(hook, "refused_total", reason="max_queue", enforced="false")
    assert None is value(hook, "requests_total", outcome="refused", tier="pro")
    assert 1.0 == value(hook, "requests_total", outcome="served", tier="pro")


def test_waits_are_a_histogram_by_tier():
    hook = PrometheusHook()
    for wait_s in (0.0, 0.02, 3.0):
        hook(Granted(**WHOSE, wait_s=wait_s))
    assert 1.0 == value(hook, "wait_seconds_bucket", tier="pro", le="0.001")
    assert 2.0 == value(hook, "wait_seconds_bucket", tier="pro", le="0.025")
    assert 3.0 == value(hook, "wait_seconds_count", tier="pro")
    assert 3.02 == value(hook, "wait_seconds_sum", tier="pro")


def test_what_happens_to_the_service_is_counted():
    hook = PrometheusHook()
    for event in (
        Hinted(at=0.0, id="W020", text="slots never fill"),
        ResolverFailed(at=0.0, error="TimeoutError"),
        LimiterFailed(at=0.0, where="pick", error="KeyError"),
        SlowReader(**WHOSE, held_s=10.0, closed=True),
        ConfigReloaded(at=0.0, ok=False, text="E003"),
    ):
        hook(event)
    assert 1.0 == value(hook, "hints_total", id="W020")
    assert 1.0 == value(hook, "resolver_failures_total")
    assert 1.0 == value(hook, "limiter_failures_total", where="pick")
    assert 1.0 == value(hook, "slow_readers_total", closed="true")
    assert 1.0 == value(hook, "config_reloads_total", ok="false")


@pytest.mark.parametrize("cost", [math.nan, math.inf, -1.0])
def test_a_price_that_makes_no_sense_spoils_no_sum(cost: float):
    hook = PrometheusHook()
    hook(finished(cost=2.0))
    hook(finished(cost=cost))
    assert 2.0 == value(hook, "cost_total", tier="pro")
    assert 2.0 == value(hook, "customer_cost_total", customer="acme")
    assert 2.0 == value(hook, "requests_total", outcome="served", tier="pro")


def test_gauges_are_read_from_the_snapshot_at_the_scrape():
    calls: list[int] = []

    def snapshot() -> Snapshot:
        calls.append(1)
        quick = PoolSnapshot(
            name="default",
            slots=32,
            in_flight=30,
            waiting=100,
            streams=2,
            customers=(in_pool("acme", waiting=60, in_flight=20), in_pool("unknown", waiting=30, in_flight=5)),
            customers_omitted=7,
        )
        slow = PoolSnapshot(
            name="exports",
            slots=4,
            in_flight=4,
            waiting=1,
            streams=0,
            customers=(in_pool("acme", waiting=1, in_flight=3),),
        )
        return Snapshot(at=1.0, pools=(quick, slow), enforce=True, enabled=True)

    hook = PrometheusHook(snapshot=snapshot)
    hook(finished("acme"))
    assert [] == calls
    assert 30.0 == value(hook, "in_flight", pool="default")
    assert [1] == calls
    assert 100.0 == value(hook, "waiting", pool="default")
    assert 4.0 == value(hook, "slots", pool="exports")
    assert 2.0 == value(hook, "streams", pool="default")
    assert 23.0 == value(hook, "customer_in_flight", customer="acme")
    assert 61.0 == value(hook, "customer_waiting", customer="acme")
    assert 11.0 == value(hook, "customer_in_flight", customer="other")
    assert 40.0 == value(hook, "customer_waiting", customer="other")


# --- that it stays bounded


@pytest.mark.slow
def test_a_hundred_thousand_customers_take_no_more_memory_and_no_more_series_than_a_thousand():
    hook = PrometheusHook(top_customers=20)
    for index in range(1_000):
        hook(finished(f"customer-{index}"))
    series = len(scrape(hook))
    for index in range(1_000, 90_000):
        hook(finished(f"customer-{index}", at=index / 1000))
    tracemalloc.start()  # for the last tenth only: it makes everything several times slower
    try:
        for index in range(90_000, 100_000):
            hook(finished(f"customer-{index}", at=index / 1000))
        added, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The table of candidates has been filled anew, which is some 100 kB. An entry per customer would be 1 MB and more.
    assert added < 250_000
    assert series == len(scrape(hook))
    assert 21 == len(customers_shown(hook))
    assert 100_000.0 == sum(
        count
        for (name, labels), count in scrape(hook).items()
        if name == "ezthrottle_inbound_customer_requests_total" and ("outcome", "served") in labels
    )


def test_labels_that_configuration_decides_are_bounded_too():
    hook = PrometheusHook()
    for index in range(1_000):
        hook(finished(tier=f"tier-{index}"))
    for index in range(1_000):
        hook(refused(reason=f"reason-{index}"))
        hook(Hinted(at=0.0, id=f"W{index}", text=""))
        hook(LimiterFailed(at=0.0, where=f"place-{index}", error="KeyError"))
    names = [name for name, _ in scrape(hook)]
    for name in ("cost_total", "refused_total", "hints_total", "limiter_failures_total"):
        assert 33 == names.count(f"ezthrottle_inbound_{name}")
    assert 1_000 - 32 == value(hook, "cost_total", tier="other")


@pytest.mark.parametrize(
    "name", ["a\nb", 'a"b', "a\\b", "a\0b", "\ud800", "", "другой", "x" * 1_000_000, "\U0010ffff" * 64]
)
def test_no_name_spoils_the_scrape(name: str):
    hook = PrometheusHook()
    hook(finished(name, tier=name))
    hook(refused(name, reason=name))
    assert 2 == len(customers_shown(hook))
    assert max(len(dict(labels).get("customer", "")) for _, labels in scrape(hook)) <= 64 * len("\\U0010ffff")


def test_a_customer_named_like_the_label_for_all_others_is_counted_there():
    hook = PrometheusHook(
        snapshot=lambda: Snapshot(
            at=0.0,
            pools=(
                PoolSnapshot(
                    name="default",
                    slots=8,
                    in_flight=3,
                    waiting=0,
                    streams=0,
                    customers=(in_pool("other", waiting=0, in_flight=3),),
                ),
            ),
            enforce=True,
            enabled=True,
        )
    )
    hook(finished("other"))
    assert {"other"} == customers_shown(hook)
    assert 1.0 == value(hook, "customer_requests_total", customer="other", outcome="served")
    assert 3.0 == value(hook, "customer_in_flight", customer="other")


# --- who is shown


def test_who_costs_most_is_shown_whoever_came_first():
    hook = PrometheusHook(top_customers=3)
    for customer in ("early-1", "early-2", "early-3"):
        hook(finished(customer, cost=1.0))
    for _ in range(10):
        hook(finished("flood", cost=10.0))
    assert {"early-2", "early-3", "flood", "other"} == customers_shown(hook)


def test_a_customer_is_found_among_any_number_of_others():
    hook = PrometheusHook(top_customers=5)
    rng = random.Random(7)
    for index in range(20_000):
        heavy = rng.random() < 0.1  # a tenth of the cost: far above the summary's error of a fiftieth
        hook(finished("heavy" if heavy else f"once-{index}", at=index / 100))
    assert "heavy" in customers_shown(hook)


def test_one_time_customers_do_not_take_turns_at_being_shown():
    hook = PrometheusHook(top_customers=5)
    shown: set[str] = set()
    for index in range(20_000):
        hook(finished(f"once-{index}", at=index / 100))
        if index % 977 == 0:  # a prime, so as to meet the table of candidates at all stages of filling up
            shown |= customers_shown(hook)
    assert len(shown) <= 6


def test_equal_customers_do_not_push_each_other_out():
    hook = PrometheusHook(top_customers=5)
    rng = random.Random(7)
    shown: set[str] = set()
    for index in range(20_000):
        hook(finished(f"customer-{rng.randrange(10)}", at=index / 100))
        if index % 1_000 == 999:
            shown |= customers_shown(hook)
    assert 6 == len(shown)


def test_past_cost_fades_so_that_yesterdays_flood_makes_room():
    hook = PrometheusHook(top_customers=1)
    hook(finished("yesterday", cost=1_000.0))
    hook(finished("today", cost=1.0))
    assert {"yesterday", "other"} == customers_shown(hook)
    hook(finished("today", cost=1.0, at=86_400.0))
    assert {"today", "other"} == customers_shown(hook)


def test_no_counter_ever_goes_back_or_jumps_while_customers_come_and_go():
    hook = PrometheusHook(top_customers=4)
    rng = random.Random(11)
    before = scrape(hook)
    came, went = 0, 0
    for at in range(0, 6_000, 15):
        served = rng.randrange(200)
        for _ in range(served):
            # The customers who are busy change over time, so series come and go.
            customer = f"customer-{int(rng.expovariate(0.5)) + at // 300}"
            hook(finished(customer, at=float(at)))
        after = scrape(hook)
        for identity in before.keys() & after.keys():
            assert 0 <= after[identity] - before[identity] <= served
        for identity in after.keys() - before.keys():
            assert identity[0].endswith("_created") or 0 <= after[identity] <= served
        came += len(after.keys() - before.keys())
        went += len(before.keys() - after.keys())
        before = after
    assert came > 40
    assert went > 40


# --- how it is plugged in


def test_a_registry_of_its_own_is_the_default_and_another_can_be_given():
    registry = CollectorRegistry(auto_describe=True)
    hook = PrometheusHook(registry=registry)
    assert registry is hook.registry
    assert PrometheusHook().registry is not PrometheusHook().registry
    hook(finished())
    assert 1.0 == registry.get_sample_value(
        "ezthrottle_inbound_customer_requests_total", {"customer": "acme", "outcome": "served"}
    )


def test_the_same_registry_twice_is_an_error_at_once():
    registry = CollectorRegistry()
    PrometheusHook(registry=registry)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        PrometheusHook(registry=registry)


def test_every_metric_has_the_same_prefix_and_the_content_type_is_prometheus_own():
    hook = PrometheusHook()
    hook(finished())
    body, content_type = hook.render()
    assert content_type.startswith("text/plain; version=")
    assert all(
        family.name.startswith("ezthrottle_inbound_") for family in text_string_to_metric_families(body.decode())
    )


def test_without_prometheus_client_the_import_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "ezthrottle_provider.metrics")
    with pytest.raises(ImportError, match=r"ezthrottle-provider\[metrics\]"):
        importlib.import_module("ezthrottle_provider.metrics")
