"""Slow readers: 200 clients that read a byte per second of a large body, beside a quiet customer.

Each of them holds a slot with a response that would take months. Once ``max_hold`` has passed their slots must be back:
the quiet customer's p99 is compared with its p99 alone. The clients are one customer's, and one that is cut off comes
back a second later. In the control ``max_hold`` is an hour, and the quiet customer must be shut out. The figure is the
median over the rounds; each round's readers are a new customer, else what is remembered of the last would help.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from statistics import median

from loadtests.harness.clients import Generator
from loadtests.harness.legs import Leg, run_leg, settle
from loadtests.harness.reports import ANYHOW, CALM, Calm, Report, parse
from loadtests.harness.servers import Placement, Serve, Server
from loadtests.harness.sources import Readers, Steady, work

__all__ = ["FULL", "QUICK", "Plan", "main", "measure"]

SLOTS = 32
READERS = 200
PER_SECOND = 0.05 * SLOTS / 0.01  # 5 % of the capacity
NEVER_S = 3600.0
AFTER_S = 0.5  # slots are looked after every 250 ms
# Requests that nobody answers: what they are still owed after this is what they took.
PATIENCE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much to measure, and the largest ratio."""

    limit: float
    rounds: int
    max_hold_s: float
    samples: int
    control_samples: int
    warm_up_s: float
    calm: Calm = CALM


FULL = Plan(limit=1.5, rounds=3, max_hold_s=10.0, samples=2000, control_samples=320, warm_up_s=2.0)
QUICK = Plan(limit=3.0, rounds=1, max_hold_s=0.5, samples=150, control_samples=50, warm_up_s=0.3, calm=ANYHOW)
LEGS = {"alone": "fair", "control: max_hold 1 h": "never", "beside the readers": "fair"}


def measure(plan: Plan, placement: Placement) -> Report:
    """Run all legs."""
    columns = ("p50 ms", "p99 ms", "÷ alone", "samples", "refused", "readers closed", "lag p99 ms")
    report = Report("Slow readers (medians over the rounds)", "leg", *columns, calm=plan.calm)
    legs: dict[str, list[Leg]] = {name: [] for name in LEGS}
    closed = dict.fromkeys(LEGS, 0)
    with ExitStack() as running:
        servers = {
            name: running.enter_context(
                Server(Serve(limiter="fair", slots=SLOTS, options={"max_hold": hold_s, "max_queue": 1000}), placement)
            )
            for name, hold_s in (("fair", plan.max_hold_s), ("never", NEVER_S))
        }
        for number in range(plan.rounds):
            for name, variant in LEGS.items():
                with Generator(servers[variant].port) as generator:
                    leg, cut_off = _leg(generator, placement, plan, name, number)
                legs[name].append(leg)
                closed[name] += cut_off
                settle()
    ratios = {
        name: [leg.p99_s / alone.p99_s for leg, alone in zip(legs[name], legs["alone"], strict=True)] for name in LEGS
    }
    for name, those in legs.items():
        report.row(
            name,
            median(leg.p50_s for leg in those) * 1e3,
            median(leg.p99_s for leg in those) * 1e3,
            median(ratios[name]),
            sum(len(leg.latencies) for leg in those),
            sum(leg.refused for leg in those),
            closed[name],
            max(leg.lag_s for leg in those) * 1e3,
        )
        report.disturbed(those)
    report.at_most("beside the readers: p99 ratio", median(ratios["beside the readers"]), plan.limit)
    spoiled = sum(leg.refused + leg.failed for leg in legs["beside the readers"])
    report.at_most("beside the readers: quiet refused or failed", spoiled, 0)
    report.at_least("control: p99 ratio", median(ratios["control: max_hold 1 h"]), plan.limit)
    report.figure("max_hold_s", plan.max_hold_s)
    return report


def _leg(generator: Generator, placement: Placement, plan: Plan, name: str, number: int) -> tuple[Leg, int]:
    warm_up_s, samples = plan.warm_up_s, plan.samples
    readers = None
    if name != "alone":
        readers = Readers(generator, f"free-readers-{number}", count=READERS)
        if "control" in name:
            samples = plan.control_samples
        else:
            # Before its slots are back the quiet customer waits like anybody; it comes when max_hold has passed.
            generator.run(plan.max_hold_s + AFTER_S)
    quiet = Steady(generator, work("free-quiet", seed=number), per_second=PER_SECOND)
    seconds = samples / PER_SECOND
    leg = run_leg(generator, placement, seconds=seconds, warm_up_s=warm_up_s, quiet=quiet, patience_s=PATIENCE_S)
    if readers is None:
        return leg, 0
    readers.stop()
    return leg, readers.closed


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    options = parse(__doc__, argv)
    plan = QUICK if options.quick else FULL
    with Placement() as placement:
        return measure(replace(plan, rounds=options.rounds or plan.rounds), placement).show(placement)


if __name__ == "__main__":
    sys.exit(main())
