"""What fair queues complete beside a plain limiter: the short version of ``bench_throughput``, limits twice as wide."""

from __future__ import annotations

import pytest

from loadtests.bench_throughput import QUICK, measure
from loadtests.harness.reports import Report, first_that_holds

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report() -> Report:
    return first_that_holds(lambda placement: measure(QUICK, placement))


@pytest.mark.parametrize("load", ["10 ms, 8 slots", "trivial handler"])
def test_fair_queues_complete_nearly_what_a_shared_fifo_does(report: Report, load: str) -> None:
    check = report.checks[f"{load}: throughput ratio"]
    assert check.holds, check


@pytest.mark.parametrize("load", ["10 ms, 8 slots", "trivial handler"])
def test_no_connection_is_lost_under_a_flood(report: Report, load: str) -> None:
    check = report.checks[f"{load}, fair: lost connections"]
    assert check.holds, check


def test_control_one_slot_of_eight_less_is_noticed(report: Report) -> None:
    check = report.checks["10 ms, 8 slots, control: throughput ratio"]
    assert check.holds, check
