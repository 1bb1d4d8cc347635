"""Every customer gets its weighted max-min share of the slots, in every scenario and within 1 %.

The judge is on trial as well: an ideal scheduler passes all scenarios, what people use instead fails all of them, and
each of the known mistakes of fair queues is caught.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ezthrottle_provider.scheduling import Scheduler

from .controls import Amnesiac, CountsRequests, Ideal, NoLimit, SharedFifo, WindsUp
from .judge import LIMIT, judge, unbounded
from .scenarios import SCENARIOS, Scenario
from .simulator import Policy, Simulator
from .workloads import Client, lognormal

_BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
every_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=str)


def slot_seconds(policy: Policy, clients: tuple[Client, ...], *, slots: int = 8, seconds: float = 60.0) -> list[float]:
    simulator = Simulator(policy, slots=slots, seed=7)
    for client in clients:
        simulator.add(client)
    simulator.run(5.0)
    before = simulator.usage()
    simulator.run(5.0 + seconds)
    after = simulator.usage()
    return [after[client.customer].since(before[client.customer]).slot_s for client in clients]


FOUR_TO_ONE = (
    Client(customer="four", service=lognormal(0.01, 0.5), threads=32, weight=4.0),
    Client(customer="one", service=lognormal(0.01, 0.5), threads=32),
)
ONE_TO_FIVE = (
    Client(customer="quick", service=lognormal(0.01, 0.5), threads=32),
    Client(customer="slow", service=lognormal(0.05, 0.5), threads=32),
)


def test_weights_of_four_to_one_get_slot_seconds_of_four_to_one() -> None:
    four, one = slot_seconds(Scheduler(slots=8), FOUR_TO_ONE)
    assert 4.0 == pytest.approx(four / one, rel=0.02)


def test_a_shared_queue_knows_no_weights() -> None:
    four, one = slot_seconds(SharedFifo(slots=8), FOUR_TO_ONE)
    assert 1.0 == pytest.approx(four / one, rel=0.05)


def test_service_times_of_one_to_five_get_equal_slot_seconds() -> None:
    quick, slow = slot_seconds(Scheduler(slots=8), ONE_TO_FIVE)
    assert 1.0 == pytest.approx(quick / slow, rel=0.03)


def test_a_shared_queue_gives_slow_requests_a_multiple() -> None:
    quick, slow = slot_seconds(SharedFifo(slots=8), ONE_TO_FIVE)
    assert slow / quick > 4.0


@pytest.mark.parametrize("slots", [1, 2, 32])
def test_any_number_of_slots_is_shared_by_weight(slots: int) -> None:
    four, one = slot_seconds(Scheduler(slots=slots), FOUR_TO_ONE, slots=slots, seconds=240.0 / slots)
    assert 4.0 == pytest.approx(four / one, rel=0.02)


@pytest.mark.slow
@every_scenario
def test_the_scheduler_is_within_one_per_cent_of_the_oracle(scenario: Scenario) -> None:
    verdict = judge(scenario, unbounded)
    assert [] == verdict.flaws
    assert verdict.error <= LIMIT, verdict.where


@pytest.mark.slow
@every_scenario
def test_an_ideal_scheduler_passes_so_the_scenario_can_be_passed(scenario: Scenario) -> None:
    verdict = judge(scenario, lambda slots: Ideal(slots=slots))
    assert [] == verdict.flaws
    assert verdict.error <= LIMIT, verdict.where


@pytest.mark.slow
@every_scenario
def test_a_shared_queue_fails_every_scenario(scenario: Scenario) -> None:
    assert judge(scenario, lambda slots: SharedFifo(slots=slots)).error > LIMIT


@pytest.mark.slow
@every_scenario
def test_no_limit_at_all_fails_every_scenario(scenario: Scenario) -> None:
    assert judge(scenario, lambda slots: NoLimit()).error > LIMIT


@pytest.mark.parametrize(
    ("mistake", "caught_by"),
    [
        (CountsRequests, "unknown costs"),
        (CountsRequests, "mixed widths and costs"),
        (CountsRequests, "prices that have nothing to do with time"),
        (Amnesiac, "a queue that empties between requests"),
        (WindsUp, "on/off wind-up"),
        (WindsUp, "late arrival"),
    ],
)
def test_a_known_mistake_is_caught(mistake: Callable[..., Policy], caught_by: str) -> None:
    assert judge(_BY_NAME[caught_by], lambda slots: mistake(slots=slots)).error > 2.0 * LIMIT


def test_a_slot_that_is_free_is_never_left_idle_while_somebody_waits() -> None:
    scenario = _BY_NAME["unknown costs"]
    simulator = Simulator(unbounded(scenario.slots), slots=scenario.slots, seed=3)
    for source in scenario.sources:
        simulator.add(source)
    simulator.run(20.0)
    assert scenario.slots == simulator.most_in_service
    assert 20.0 * scenario.slots == pytest.approx(sum(used.slot_s for used in simulator.usage().values()))
