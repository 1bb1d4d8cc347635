"""What fair queues complete beside a plain limiter: the short version of ``bench_throughput``, limits twice as wide."""

from __future__ import annotations

import pytest

from loadtests.bench_throughput import QUICK, QUICK_TRIVIAL, measure
from loadtests.harness.reports import Report, first_that_holds

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def at_work() -> Report:
    return first_that_holds(lambda placement: measure(QUICK, placement))


@pytest.fixture(scope="module")
def trivial() -> Report:
    return first_that_holds(lambda placement: measure(QUICK_TRIVIAL, placement))


def test_fair_queues_complete_nearly_what_a_shared_fifo_does(at_work: Report) -> None:
    assert at_work.checks["10 ms, 8 slots: throughput ratio"].holds, at_work.checks
    assert at_work.checks["10 ms, 8 slots, fair: lost connections"].holds, at_work.checks


def test_control_one_slot_of_eight_less_is_noticed(at_work: Report) -> None:
    assert at_work.checks["10 ms, 8 slots, control: throughput ratio"].holds, at_work.checks


def test_fair_queues_leave_most_of_a_saturated_core_to_a_trivial_handler(trivial: Report) -> None:
    assert trivial.checks["trivial handler: throughput ratio"].holds, trivial.checks
    assert trivial.checks["trivial handler, fair: lost connections"].holds, trivial.checks
