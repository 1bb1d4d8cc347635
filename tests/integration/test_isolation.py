"""A flood beside a quiet customer, over sockets: the short version of ``bench_isolation``, limits twice as wide."""

from __future__ import annotations

import pytest

from loadtests.bench_isolation import QUICK, measure
from loadtests.harness.reports import Report, first_that_holds

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report() -> Report:
    return first_that_holds(lambda placement: measure(QUICK, placement))


@pytest.mark.parametrize("bounds", ["", ", default bounds"])
def test_a_quiet_customer_hardly_feels_a_flood(report: Report, bounds: str) -> None:
    check = report.checks[f"32 slots, fair{bounds} + flood: p99 ratio"]
    assert check.holds, check


@pytest.mark.parametrize("bounds", ["", ", default bounds"])
def test_a_quiet_customer_is_never_refused_because_another_one_floods(report: Report, bounds: str) -> None:
    check = report.checks[f"32 slots, fair{bounds} + flood: quiet refused or failed"]
    assert check.holds, check


def test_control_behind_a_shared_fifo_the_quiet_customer_feels_the_flood(report: Report) -> None:
    check = report.checks["32 slots, control: p99 ratio"]
    assert check.holds, check
