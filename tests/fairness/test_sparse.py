"""A customer that asks seldom waits little, and one that bursts and idles gets no more than its share by it."""

from __future__ import annotations

import pytest

from ezthrottle_provider.scheduling import Scheduler

from .controls import Ideal, SharedFifo
from .judge import judge, unbounded
from .scenarios import Scenario
from .simulator import Policy, Simulator
from .workloads import Client, Stream, lognormal

_MEAN_S = 0.01
_HANDLER = lognormal(_MEAN_S, 0.5)
_SLOTS = 8
_FLOODS = 100


def p99_wait_of_the_sparse(policy: Policy) -> float:
    """Return the p99 wait in mean service times of Poisson customers at a quarter of their share, beside 100 floods.

    Ten of them, so that a minute holds enough of their requests for a p99. They are known: the first 30 s don't count.
    """
    sparse = [f"sparse{number}" for number in range(10)]
    share = _SLOTS / _MEAN_S / (_FLOODS + len(sparse))
    simulator = Simulator(policy, slots=_SLOTS, seed=5)
    for number in range(_FLOODS):
        simulator.add(Client(customer=f"flood{number}", service=_HANDLER, threads=4))
    for name in sparse:
        simulator.add(Stream(customer=name, service=_HANDLER, rate=share / 4))
    simulator.run(130.0)
    waits = sorted(wait for name in sparse for arrived, wait in simulator.accounts[name].delays if arrived > 30.0)
    assert len(waits) > 1000
    assert all({} == simulator.accounts[name].refused for name in sparse)
    return waits[int(0.99 * len(waits))] / _MEAN_S


@pytest.mark.slow
def test_a_sparse_customer_waits_at_most_eight_service_times_beside_a_hundred_floods() -> None:
    assert p99_wait_of_the_sparse(Scheduler(slots=_SLOTS)) <= 8.0


@pytest.mark.slow
def test_a_sparse_customer_waits_long_in_a_shared_queue() -> None:
    assert p99_wait_of_the_sparse(SharedFifo(slots=_SLOTS)) > 24.0


@pytest.mark.slow
def test_fair_shares_alone_do_not_make_the_wait_short() -> None:
    assert p99_wait_of_the_sparse(Ideal(slots=_SLOTS, credit_requests=0.0)) > 24.0


@pytest.mark.slow
def test_bursts_of_any_length_get_no_more_than_their_share() -> None:
    # Each burst is more than the share and each pause is long enough to drain it; so the mean is no excuse.
    for on_s, off_s in ((2.0, 4.0), (5.0, 10.0)):
        windows = tuple((on, on + on_s) for on in (2 * (on_s + off_s), 3 * (on_s + off_s), 4 * (on_s + off_s)))
        scenario = Scenario(
            name="bursts",
            sources=(
                Client(customer="a", service=_HANDLER, threads=96),
                Stream(customer="bursts", service=_HANDLER, rate=900.0, on_s=on_s, off_s=off_s),
            ),
            windows=windows,
        )
        verdict = judge(scenario, unbounded)
        assert verdict.error <= 0.01, verdict.where


def refused_by_customer(policy: Policy) -> dict[str, int]:
    """Count who is refused while 20 customers send ten times what there is room for, and five a little."""
    simulator = Simulator(policy, slots=_SLOTS, seed=9)
    for number in range(20):
        simulator.add(Stream(customer=f"flood{number}", service=_HANDLER, rate=400.0))
    for number in range(5):
        simulator.add(Stream(customer=f"quiet{number}", service=_HANDLER, rate=8.0))
    simulator.run(10.0)
    return {name: sum(account.refused.values()) for name, account in simulator.accounts.items()}


@pytest.mark.parametrize("max_queue_total", [300, 10_000])
def test_a_quiet_customer_is_never_refused_because_others_flood(max_queue_total: int) -> None:
    refused = refused_by_customer(Scheduler(slots=_SLOTS, max_queue_total=max_queue_total))
    assert {f"quiet{number}": 0 for number in range(5)} == {n: c for n, c in refused.items() if n.startswith("quiet")}
    assert sum(refused.values()) > 10_000


def test_a_quiet_customer_is_refused_where_all_share_one_bounded_queue() -> None:
    refused = refused_by_customer(SharedFifo(slots=_SLOTS, max_queue=300))
    assert all(refused[f"quiet{number}"] > 40 for number in range(5))
