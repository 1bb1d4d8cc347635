"""Clients that read a byte per second: the short version of ``bench_slow_readers``, limits twice as wide."""

from __future__ import annotations

import pytest

from loadtests.bench_slow_readers import QUICK, measure
from loadtests.harness.reports import Report, first_that_holds

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report() -> Report:
    return first_that_holds(lambda placement: measure(QUICK, placement))


def test_slow_readers_do_not_keep_their_slots(report: Report) -> None:
    check = report.checks["beside the readers: p99 ratio"]
    assert check.holds, check


def test_nobody_is_refused_because_others_read_slowly(report: Report) -> None:
    check = report.checks["beside the readers: quiet refused or failed"]
    assert check.holds, check


def test_control_without_max_hold_they_shut_others_out(report: Report) -> None:
    check = report.checks["control: p99 ratio"]
    assert check.holds, check
