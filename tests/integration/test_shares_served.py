"""What saturating customers are served, over sockets: the short version of ``bench_shares``, limits twice as wide."""

from __future__ import annotations

import pytest

from loadtests.bench_shares import QUICK, measure
from loadtests.harness.reports import Report, first_that_holds

pytestmark = pytest.mark.slow

PAIRS = ["weights 4:1", "service times 1:5"]


@pytest.fixture(scope="module")
def report() -> Report:
    return first_that_holds(lambda placement: measure(QUICK, placement))


@pytest.mark.parametrize("pair", PAIRS)
def test_slot_seconds_follow_the_weights_whatever_requests_cost(report: Report, pair: str) -> None:
    check = report.checks[f"{pair}: off by"]
    assert check.holds, check


@pytest.mark.parametrize("pair", PAIRS)
def test_control_a_shared_fifo_gives_other_shares(report: Report, pair: str) -> None:
    check = report.checks[f"{pair}, control: off by"]
    assert check.holds, check
