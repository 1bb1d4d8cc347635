"""The oracle itself, against examples from textbooks and against what max-min fairness means."""

from __future__ import annotations

from math import inf, isclose

import pytest
from hypothesis import given
from hypothesis import strategies as st

from .oracle import Demand, Tenant, fluid, max_min

_AMOUNTS = st.one_of(st.just(inf), st.floats(0.0, 100.0))
_DEMANDS = st.lists(
    st.builds(Demand, _AMOUNTS, st.floats(0.1, 10.0), st.one_of(st.just(inf), st.floats(0.0, 50.0))), max_size=8
)


def equal_weights(begins: float, ends: float, name: str) -> float:
    return 1.0


def test_four_sources_share_a_link_as_in_keshav() -> None:
    # S. Keshav, An Engineering Approach to Computer Networking, chapter 9: capacity 10, demands 2, 2.6, 4 and 5.
    demands = [Demand(2.0), Demand(2.6), Demand(4.0), Demand(5.0)]
    assert [2.0, 2.6, 2.7, 2.7] == pytest.approx(max_min(10.0, demands))


def test_four_weighted_sources_share_a_link_as_in_keshav() -> None:
    # The same chapter: capacity 16, demands 4, 2, 10 and 4, weights 2.5, 4, 0.5 and 1.
    demands = [Demand(4.0, 2.5), Demand(2.0, 4.0), Demand(10.0, 0.5), Demand(4.0, 1.0)]
    assert [4.0, 2.0, 6.0, 4.0] == pytest.approx(max_min(16.0, demands))


def test_saturating_customers_share_by_weight() -> None:
    assert [2.0, 8.0] == pytest.approx(max_min(10.0, [Demand(inf, 1.0), Demand(inf, 4.0)]))


def test_what_a_cap_leaves_goes_to_the_others_by_weight() -> None:
    demands = [Demand(inf, 4.0, cap=2.0), Demand(inf, 1.0), Demand(inf, 2.0)]
    assert [2.0, 2.0, 4.0] == pytest.approx(max_min(8.0, demands))


def test_nobody_gets_more_than_asked_for_when_there_is_plenty() -> None:
    assert [1.0, 2.0] == max_min(100.0, [Demand(1.0), Demand(5.0, cap=2.0)])


def test_no_demand_no_share() -> None:
    assert [] == max_min(8.0, [])


@given(capacity=st.floats(0.1, 100.0), demands=_DEMANDS)
def test_an_allocation_is_feasible_work_conserving_and_max_min_fair(capacity: float, demands: list[Demand]) -> None:
    shares = max_min(capacity, demands)
    bounds = [min(demand.amount, demand.cap) for demand in demands]
    assert all(0.0 <= share <= bound for share, bound in zip(shares, bounds, strict=True))
    assert isclose(min(capacity, sum(bounds)), sum(shares), rel_tol=1e-9, abs_tol=1e-9)
    # Whoever is not satisfied has the highest level of all, so it could only gain from somebody at or below its own.
    levels = [share / demand.weight for share, demand in zip(shares, demands, strict=True)]
    for share, bound, level in zip(shares, bounds, levels, strict=True):
        assert share == bound or level >= max(levels) * (1.0 - 1e-9)


def test_work_that_comes_late_is_not_served_early() -> None:
    # Over all 20 s a half each would be 80; but of what arrives in the last second only its share can be served.
    tenants = {"early": Tenant(saturated_from_s=0.0), "late": Tenant(arrivals=[(19.0, 80.0)])}
    before, after = fluid(tenants, equal_weights, capacity=8.0, edges_s=[0.0, 19.0, 20.0], step_s=0.01)
    assert {"early": 152.0, "late": 0.0} == pytest.approx(before)
    assert {"early": 4.0, "late": 4.0} == pytest.approx(after)


def test_who_drains_its_backlog_leaves_the_rest_to_the_others() -> None:
    tenants = {"flood": Tenant(saturated_from_s=0.0), "burst": Tenant(arrivals=[(0.0, 4.0)])}
    (got,) = fluid(tenants, equal_weights, capacity=8.0, edges_s=[0.0, 10.0], step_s=0.01)
    assert {"flood": 76.0, "burst": 4.0} == pytest.approx(got)


def test_time_away_earns_no_credit() -> None:
    tenants = {"flood": Tenant(saturated_from_s=0.0), "back": Tenant(saturated_from_s=10.0)}
    _, after = fluid(tenants, equal_weights, capacity=2.0, edges_s=[0.0, 10.0, 20.0], step_s=0.1)
    assert {"flood": 10.0, "back": 10.0} == pytest.approx(after)


def test_a_weight_counts_from_the_edge_at_which_it_changes() -> None:
    tenants = {"a": Tenant(saturated_from_s=0.0), "b": Tenant(saturated_from_s=0.0)}

    def weight(begins: float, ends: float, name: str) -> float:
        return 3.0 if name == "a" and begins >= 5.0 else 1.0

    before, after = fluid(tenants, weight, capacity=4.0, edges_s=[0.0, 5.0, 10.0], step_s=0.1)
    assert {"a": 10.0, "b": 10.0} == pytest.approx(before)
    assert {"a": 15.0, "b": 5.0} == pytest.approx(after)


def test_a_cap_in_slots_holds_in_the_fluid() -> None:
    tenants = {"capped": Tenant(saturated_from_s=0.0, cap=1.5), "other": Tenant(saturated_from_s=0.0)}
    (got,) = fluid(tenants, equal_weights, capacity=8.0, edges_s=[0.0, 10.0], step_s=0.1)
    assert {"capped": 15.0, "other": 65.0} == pytest.approx(got)
