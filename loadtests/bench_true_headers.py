"""True headers: the pace that a response shows is the pace that its customer then gets.

Two saturating customers of different weights and service times, in steady load. For each: *off by*, the largest
difference between what is shown (the mean over a second) and what the customer gets (its completed requests per second
over the whole window), in parts of the latter; and *unsteady by*, how far 99 of 100 values shown are at most from their
median. Then newcomers of weight 1, one after another, beside two saturating customers of weight 1: what their first
response shows, over a third of the capacity just measured.

The controls are computed from the same run and must fail: a pace from the last request's cost instead of a mean, which
is not steady, and a newcomer's share that leaves out its own weight.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from loadtests.harness.clients import Answer, Connection, Generator, header
from loadtests.harness.legs import percentile, settle
from loadtests.harness.reports import ANYHOW, Report, parse
from loadtests.harness.servers import Placement, Serve, Server
from loadtests.harness.sources import Flood, Shown, work

__all__ = ["FULL", "QUICK", "Plan", "main", "measure"]

SLOTS = 8
CONNECTIONS = 64
# Key and mean service time. `pro` weighs 4, `free` 1.
SATURATING = (("pro-a", 0.01), ("free-b", 0.02))
EQUAL = ("free-c", "free-d")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much to measure, and by how much a shown pace may be off and unsteady."""

    limit: float
    rounds: int
    seconds: int
    warm_up_s: float
    newcomers: int
    apart_s: float


# Demand counts for 2 s: a newcomer must not find the last one still counted.
FULL = Plan(limit=0.10, rounds=3, seconds=10, warm_up_s=3.0, newcomers=5, apart_s=3.0)
QUICK = Plan(limit=0.20, rounds=1, seconds=1, warm_up_s=2.0, newcomers=1, apart_s=0.8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What one customer was shown and got."""

    shown: float
    got: float
    off_by: float
    unsteady_by: float
    naive_unsteady_by: float


class Newcomer:
    """Asks once on a connection of its own, and remembers what the answer shows."""

    def __init__(self, generator: Generator, request: bytes) -> None:
        self.rps = math.nan
        self.over = False
        Connection(generator, self).send(request)

    def answered(self, connection: Connection, answer: Answer) -> None:
        """Read the header."""
        self.rps = float(header(answer.head, b"x-ezthrottle-rps") or b"nan")
        self.over = True
        connection.close()

    def lost(self, connection: Connection) -> None:
        """Remember that nothing came."""
        self.over = True


def measure(plan: Plan, placement: Placement) -> Report:
    """Run the steady load and the newcomers, in turn."""
    report = Report(
        "True headers (medians over the rounds)", "customer", "shown/s", "got/s", "off by", "unsteady by", calm=ANYHOW
    )
    truths: dict[str, list[Truth]] = {key: [] for key, _ in SATURATING}
    newcomers: list[float] = []
    serve = Serve(limiter="fair", slots=SLOTS)
    # A server each: what had demand in one leg would still count in the other.
    with Server(serve, placement) as steady, Server(serve, placement) as crowded:
        for number in range(plan.rounds):
            with Generator(steady.port) as generator:
                for key, truth in _steady(generator, plan, number).items():
                    truths[key].append(truth)
            settle()
            with Generator(crowded.port) as generator:
                newcomers.extend(_newcomers(generator, plan, number))
            settle()
    for key, those in truths.items():
        off_by, unsteady_by = median(truth.off_by for truth in those), median(truth.unsteady_by for truth in those)
        shown, got = median(truth.shown for truth in those), median(truth.got for truth in those)
        report.row(f"{key} (saturating)", shown, got, f"{off_by:.1%}", f"{unsteady_by:.1%}")
        report.at_most(f"{key}: off by", off_by, plan.limit)
        report.at_most(f"{key}: unsteady by", unsteady_by, plan.limit)
        naive = median(truth.naive_unsteady_by for truth in those)
        report.at_least(f"{key}, control: unsteady by, from the last cost", naive, plan.limit)
    share = median(newcomers)
    report.row("newcomer's first, ÷ (capacity ÷ 3)", share, 1.0, f"{abs(share - 1.0):.1%}", "")
    report.at_most("newcomer's first: off by", abs(share - 1.0), plan.limit)
    # Without its own weight it would be told capacity ÷ 2.
    report.at_least("newcomer's first, control: off by", abs(share * 1.5 - 1.0), plan.limit)
    return report


def _steady(generator: Generator, plan: Plan, number: int) -> dict[str, Truth]:
    requests = {key: work(key, seed=number, mean_s=mean_s) for key, mean_s in SATURATING}
    floods = {key: Shown(generator, requests[key], connections=CONNECTIONS) for key, _ in SATURATING}
    generator.run(plan.warm_up_s)
    for flood in floods.values():
        flood.reset()
    began = generator.clock()
    generator.run(plan.seconds)
    elapsed = generator.clock() - began
    for flood in floods.values():
        flood.stop()
    return {key: _truth(flood, requests[key], began, elapsed) for key, flood in floods.items()}


def _truth(flood: Shown, requests: Sequence[bytes], began: float, elapsed: float) -> Truth:
    got = flood.served / elapsed
    values = [rps for _, rps in flood.shown]
    by_second: dict[int, list[float]] = {}
    for at, rps in flood.shown:
        by_second.setdefault(min(int(at - began), int(elapsed) - 1), []).append(rps)
    off_by = max(abs(sum(those) / len(those) - got) / got for those in by_second.values())
    naive = [1.0 / float(request.split(b"?", 1)[1].split(b" ", 1)[0]) for request in requests]
    return Truth(
        shown=sum(values) / len(values),
        got=got,
        off_by=off_by,
        unsteady_by=_unsteady_by(values),
        naive_unsteady_by=_unsteady_by(naive),
    )


def _newcomers(generator: Generator, plan: Plan, number: int) -> list[float]:
    """Return what newcomers were first shown, in parts of a third of the capacity."""
    floods = [Flood(generator, work(key, seed=number), connections=CONNECTIONS) for key in EQUAL]
    parts = []
    generator.run(plan.apart_s)
    for each in range(plan.newcomers):
        for flood in floods:
            flood.reset()
        began = generator.clock()
        generator.run(plan.apart_s)
        capacity = sum(flood.served for flood in floods) / (generator.clock() - began)
        key = f"free-new-{number}-{each}"
        newcomer = Newcomer(generator, work(key, seed=number)[0])
        generator.run(2.0, until=lambda: newcomer.over)  # noqa: B023 - it is called before the next is made
        parts.append(newcomer.rps / (capacity / (len(EQUAL) + 1)))
    for flood in floods:
        flood.stop()
    return parts


def _unsteady_by(values: Sequence[float]) -> float:
    middle = median(values)
    return percentile([abs(value - middle) / middle for value in values], 0.99)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    options = parse(__doc__, argv)
    plan = QUICK if options.quick else FULL
    with Placement() as placement:
        return measure(replace(plan, rounds=options.rounds or plan.rounds), placement).show(placement)


if __name__ == "__main__":
    sys.exit(main())
