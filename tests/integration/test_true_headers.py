"""The pace that a response shows: the short version of ``bench_true_headers``, limits twice as wide."""

from __future__ import annotations

import pytest

from loadtests.bench_true_headers import QUICK, SATURATING, measure
from loadtests.harness.reports import Report, first_that_holds

pytestmark = pytest.mark.slow

KEYS = [key for key, _ in SATURATING]


@pytest.fixture(scope="module")
def report() -> Report:
    return first_that_holds(lambda placement: measure(QUICK, placement))


@pytest.mark.parametrize("key", KEYS)
def test_a_saturating_customer_gets_the_pace_that_it_is_shown(report: Report, key: str) -> None:
    check = report.checks[f"{key}: off by"]
    assert check.holds, check


@pytest.mark.parametrize("key", KEYS)
def test_the_pace_shown_is_steady(report: Report, key: str) -> None:
    check = report.checks[f"{key}: unsteady by"]
    assert check.holds, check


def test_what_a_newcomer_is_shown_counts_its_own_weight(report: Report) -> None:
    check = report.checks["newcomer's first: off by"]
    assert check.holds, check


@pytest.mark.parametrize("key", KEYS)
def test_control_a_pace_from_the_last_cost_is_not_steady(report: Report, key: str) -> None:
    check = report.checks[f"{key}, control: unsteady by, from the last cost"]
    assert check.holds, check


def test_control_a_share_without_the_newcomer_is_not_what_it_is_shown(report: Report) -> None:
    check = report.checks["newcomer's first, control: off by"]
    assert check.holds, check
