"""The simulated server: time, sharing of processors, and books that add up whatever the policy does."""

from __future__ import annotations

import pytest

from .controls import NoLimit, SharedFifo
from .simulator import Simulator
from .workloads import Client, Stream, constant, exponential


class AlwaysDue(NoLimit):
    def next_due(self) -> float | None:
        return 0.0


def run(policy: NoLimit | SharedFifo, *sources: Client | Stream, slots: int, seconds: float) -> Simulator:
    simulator = Simulator(policy, slots=slots, seed=1)
    for source in sources:
        simulator.add(source)
    simulator.run(seconds)
    return simulator


def test_requests_beyond_the_slots_share_the_processors_equally() -> None:
    client = Client(customer="a", service=constant(1.0), threads=3)
    simulator = run(NoLimit(), client, slots=1, seconds=3.5)
    assert 3 == simulator.most_in_service
    assert [2.0, 2.0, 2.0] == pytest.approx([delay for _, delay in simulator.accounts["a"].delays])


def test_a_queue_serves_one_after_the_other_on_one_slot() -> None:
    client = Client(customer="a", service=constant(1.0), threads=3)
    simulator = run(SharedFifo(slots=1), client, slots=1, seconds=3.5)
    assert 1 == simulator.most_in_service
    assert [0.0, 1.0, 2.0] == pytest.approx([delay for _, delay in simulator.accounts["a"].delays])


def test_what_is_in_service_counts_for_the_part_that_is_done() -> None:
    client = Client(customer="a", service=constant(1.0), threads=1, width=constant(5.0))
    used = run(SharedFifo(slots=1), client, slots=1, seconds=2.25).usage()["a"]
    assert (2, 2.25, 11.25) == pytest.approx((used.finished, used.slot_s, used.charged))


def test_a_customer_is_dry_while_nothing_of_it_waits() -> None:
    client = Client(customer="a", service=constant(1.0), threads=2, stop_s=0.5)
    used = run(SharedFifo(slots=1), client, slots=1, seconds=3.0).usage()["a"]
    assert 2.0 == pytest.approx(used.dry_s)


def test_a_stream_is_the_same_whatever_the_policy_does() -> None:
    stream = Stream(customer="a", service=exponential(0.05), rate=100.0, on_s=0.5, off_s=0.5)
    queued = run(SharedFifo(slots=2), stream, slots=2, seconds=5.0).accounts["a"].arrivals
    crowded = run(NoLimit(), stream, slots=2, seconds=5.0).accounts["a"].arrivals
    assert queued == crowded
    assert all(time_s % 1.0 < 0.5 for time_s, _ in queued)


def test_a_refused_thread_comes_back_after_a_while() -> None:
    client = Client(customer="a", service=constant(1.0), threads=3, retry_s=0.5)
    account = run(SharedFifo(slots=1, max_queue=1), client, slots=1, seconds=0.9).accounts["a"]
    assert {"max_queue": 2} == account.refused


def test_a_policy_that_is_always_due_does_not_stop_the_clock_unnoticed() -> None:
    with pytest.raises(AssertionError, match="again and again"):
        run(AlwaysDue(), Client(customer="a", service=constant(1.0), threads=1), slots=1, seconds=1.0)
