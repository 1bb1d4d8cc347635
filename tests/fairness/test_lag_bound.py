"""For two customers that stay backlogged, normalised service differs by at most (D + 1) · (c_i/w_i + c_j/w_j).

Held over every interval of a million seeded grants, 8 customers each, costs that nobody knows beforehand, refunds,
cancels, newcomers, and customers that go and come back: half of them in long runs, half in a thousand cold starts,
which is where the least is known.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from .churn import measure_lag
from .controls import CountsRequests, Ideal, SharedFifo, WindsUp
from .judge import unbounded
from .lag import Lag, LagMeter
from .simulator import Policy


def total(make: Callable[[int], Policy], *, seeds: range, grants: int) -> Lag:
    lag = Lag(0, 0, 0.0, "")
    for seed in seeds:
        lag += measure_lag(make, grants=grants, seed=seed)
    return lag


@pytest.mark.slow
def test_the_lag_bound_holds_in_a_million_grants() -> None:
    lag = total(unbounded, seeds=range(50), grants=10_000) + total(unbounded, seeds=range(1000), grants=500)
    assert lag.grants >= 1_000_000
    assert lag.violations == 0, lag


@pytest.mark.parametrize(
    "seed",
    [
        640,  # a first guess above all costs, made while nobody waited
        780,  # a clock that stands still for a moment, so that predicted waits have no end
    ],
)
def test_the_lag_bound_holds_after_the_cold_starts_that_broke_it(seed: int) -> None:
    lag = measure_lag(unbounded, grants=2000, seed=seed)
    assert lag.violations == 0, lag


def test_an_ideal_scheduler_that_knows_all_costs_keeps_the_bound() -> None:
    lag = total(lambda slots: Ideal(slots=slots, credit_requests=0.0), seeds=range(20), grants=3000)
    assert lag.violations == 0, lag


@pytest.mark.parametrize("make", [SharedFifo, CountsRequests, WindsUp])
def test_what_is_not_fair_breaks_the_bound(make: Callable[..., Policy]) -> None:
    lag = total(lambda slots: make(slots=slots), seeds=range(10), grants=2000)
    assert lag.violations > 0
    assert lag.worst > 2.0


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("finish"), st.integers(0, 2), st.floats(0.001, 10.0)),
            st.tuples(st.sampled_from(["arrive", "leave"]), st.integers(0, 2), st.just(0.0)),
        ),
        max_size=60,
    )
)
def test_the_meter_finds_the_worst_of_all_intervals(steps: list[tuple[str, int, float]]) -> None:
    weights, slots = [1.0, 2.0, 0.5], 1
    meter = LagMeter(weights, slots=slots)
    service, largest, backlogged = [0.0] * 3, [0.0] * 3, [False] * 3
    history: list[tuple[list[float], list[bool]]] = [([*service], [*backlogged])]
    for kind, i, cost in steps:
        if kind == "finish":
            service[i] += cost / weights[i]
            largest[i] = max(largest[i], cost)
            meter.finish(i, cost)
        elif backlogged[i] is (kind == "arrive"):
            continue
        else:
            backlogged[i] = kind == "arrive"
            (meter.arrive if backlogged[i] else meter.leave)(i)
        history.append(([*service], [*backlogged]))
    worst = 0.0
    for i, j in combinations(range(3), 2):
        bound = (slots + 1) * (largest[i] / weights[i] + largest[j] / weights[j])
        for start in range(len(history) if bound else 0):
            for (_, held), (later, _) in pairwise(history[start:]):
                if not (held[i] and held[j]):
                    break
                before = history[start][0]
                worst = max(worst, abs((later[i] - before[i]) - (later[j] - before[j])) / bound)
    assert worst == pytest.approx(meter.result().worst)
