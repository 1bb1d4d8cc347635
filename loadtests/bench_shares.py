"""Shares: two customers that both saturate the API get slot-seconds by their weights, whatever their requests cost.

Weights 4:1 must give slot-seconds of 4:1, and equal weights with service times of 1:5 equal slot-seconds. They are
measured in the handler, not taken from the scheduler's books. The control is a shared FIFO under the same load, which
gives 1:1 and 1:5. The figure is the median over the rounds.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from statistics import median

from loadtests.harness.clients import Generator
from loadtests.harness.legs import Leg, run_leg, settle
from loadtests.harness.reports import ANYHOW, Report, parse
from loadtests.harness.servers import Placement, Serve, Server
from loadtests.harness.sources import Flood, work

__all__ = ["FULL", "QUICK", "Plan", "main", "measure"]

SLOTS = 8
# Each customer's share is at most 6.4 slots; a customer is saturating with clients enough for ten times that.
CONNECTIONS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two customers (key and mean service time) and how many slot-seconds the first gets for each of the second's."""

    name: str
    first: tuple[str, float]
    second: tuple[str, float]
    expected: float


BY_WEIGHT = Pair(name="weights 4:1", first=("pro-a", 0.01), second=("free-b", 0.01), expected=4.0)
BY_COST = Pair(name="service times 1:5", first=("free-short", 0.01), second=("free-long", 0.05), expected=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much to measure, and by how much the ratio of each pair may be off."""

    limits: dict[Pair, float]
    rounds: int
    seconds: float
    control_seconds: float
    warm_up_s: float


FULL = Plan(limits={BY_WEIGHT: 0.02, BY_COST: 0.03}, rounds=3, seconds=20.0, control_seconds=5.0, warm_up_s=2.0)
QUICK = Plan(limits={BY_WEIGHT: 0.04, BY_COST: 0.06}, rounds=1, seconds=1.5, control_seconds=0.5, warm_up_s=0.2)


def measure(plan: Plan, placement: Placement) -> Report:
    """Run both pairs behind fair queues and behind a shared FIFO."""
    columns = ("slot-s", "slot-s", "ratio", "due", "off by", "requests/s")
    report = Report("Shares (medians over the rounds)", "pair", *columns, calm=ANYHOW)
    legs: dict[tuple[Pair, bool], list[Leg]] = {(pair, fair): [] for pair in plan.limits for fair in (True, False)}
    with ExitStack() as running:
        servers = {
            True: running.enter_context(Server(Serve(limiter="fair", slots=SLOTS), placement)),
            False: running.enter_context(Server(Serve(limiter="fifo", slots=SLOTS), placement)),
        }
        for number in range(plan.rounds):
            for (pair, fair), those in legs.items():
                those.append(_leg(servers[fair], placement, plan, pair, number, fair=fair))
                settle()
    for (pair, fair), those in legs.items():
        ratios = [leg.slot_s[pair.first[0]] / leg.slot_s[pair.second[0]] for leg in those]
        off = median(abs(ratio / pair.expected - 1.0) for ratio in ratios)
        report.row(
            f"{pair.name}, {'fair' if fair else 'shared FIFO'}",
            median(leg.slot_s[pair.first[0]] for leg in those),
            median(leg.slot_s[pair.second[0]] for leg in those),
            median(ratios),
            pair.expected,
            f"{off:.2%}",
            median(leg.flood_per_s for leg in those),
        )
        if fair:
            report.at_most(f"{pair.name}: off by", off, plan.limits[pair])
            report.at_most(f"{pair.name}: lost connections", sum(leg.failed for leg in those), 0)
        else:
            report.at_least(f"{pair.name}, control: off by", off, plan.limits[pair])
        report.disturbed(those)
    return report


def _leg(server: Server, placement: Placement, plan: Plan, pair: Pair, number: int, *, fair: bool) -> Leg:
    seconds = plan.seconds if fair else plan.control_seconds
    with Generator(server.port) as generator:
        floods = [
            Flood(generator, work(key, seed=number, mean_s=mean_s), connections=CONNECTIONS)
            for key, mean_s in (pair.first, pair.second)
        ]
        return run_leg(generator, placement, seconds=seconds, warm_up_s=plan.warm_up_s, floods=floods)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    options = parse(__doc__, argv)
    plan = QUICK if options.quick else FULL
    with Placement() as placement:
        return measure(replace(plan, rounds=options.rounds or plan.rounds), placement).show(placement)


if __name__ == "__main__":
    sys.exit(main())
