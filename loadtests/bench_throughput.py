"""Throughput: what fair queues complete under a flood, divided by what a plain shared FIFO completes.

The FIFO is an ``asyncio.Semaphore`` and nothing else: it does not know who asks and sends no headers. Once at a service
time of 10 ms, where the slots are the limit, and once with a handler that does nothing on a core that is saturated,
where each microsecond of ours is missing from the throughput: in Starlette, in FastAPI and as a bare ASGI callable.
Legs are interleaved and the figure is the median over the rounds. The control is a FIFO with one slot of eight missing,
which must not reach what is demanded of the fair queues.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

from loadtests.harness.apps import Framework
from loadtests.harness.clients import Generator
from loadtests.harness.legs import Leg, run_leg, settle
from loadtests.harness.reports import ANYHOW, CALM, Calm, Report, parse
from loadtests.harness.servers import Placement, Serve, Server
from loadtests.harness.sources import Flood, trivial, work

__all__ = ["FULL", "QUICK", "QUICK_TRIVIAL", "Plan", "main", "measure"]

Side = Literal["fair", "fifo", "control"]

PER_SLOT = 16
# Enough to keep a core busy. More would only be slow to begin with: a busy libuv accepts one connection per turn.
SATURATING = 64
# Below this it was the generator that was the limit, and not the server.
SATURATED = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A comparison: what the flood asks for, and with what the server is run."""

    name: str
    slots: int
    requests: Callable[[int], list[bytes]]
    sides: tuple[Side, ...] = ("fair", "fifo")
    saturates: bool = False  # the core, and not the slots
    framework: Framework = "none"

    @property
    def connections(self) -> int:
        """Return how many clients the flood has."""
        return SATURATING if self.saturates else PER_SLOT * self.slots

    def serve(self, side: Side) -> Serve:
        """Return the server of one side."""
        if side == "fair":
            serve = Serve(limiter="fair", slots=self.slots, options={"max_queue": 2 * self.connections})
        else:
            serve = Serve(limiter="fifo", slots=self.slots - (side == "control"))
        return replace(serve, framework=self.framework)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much to measure, and the least ratio for each load.

    With ``by_cpu`` the saturating loads are compared by requests per second of CPU time. On a saturated core that is
    the same, and on one that others use as well it is the only one of the two that says anything.
    """

    least: dict[Load, float]
    rounds: int
    seconds: float
    warm_up_s: float
    by_cpu: bool = False
    calm: Calm = CALM


def _working(number: int) -> list[bytes]:
    return work("free-flood", seed=number)


def _trivial(number: int) -> list[bytes]:
    return trivial("free-flood")


AT_32 = Load(name="10 ms, 32 slots", slots=32, requests=_working)
AT_8 = Load(name="10 ms, 8 slots", slots=8, requests=_working, sides=("fair", "fifo", "control"))
TRIVIAL = Load(name="trivial handler", slots=32, requests=_trivial, saturates=True, framework="starlette")
FASTAPI = Load(name="trivial handler, FastAPI", slots=32, requests=_trivial, saturates=True, framework="fastapi")
# Not a promise, but said: the dearest case that there is, an app without a framework that does nothing at all.
RAW = Load(name="trivial handler, raw ASGI", slots=32, requests=_trivial, saturates=True)

FULL = Plan(
    least={AT_32: 0.98, AT_8: 0.98, TRIVIAL: 0.85, FASTAPI: 0.85, RAW: 0.0}, rounds=5, seconds=4.0, warm_up_s=1.0
)
QUICK = Plan(least={AT_8: 0.96}, rounds=1, seconds=0.6, warm_up_s=0.1, calm=ANYHOW)
QUICK_TRIVIAL = Plan(least={TRIVIAL: 0.70}, rounds=8, seconds=0.2, warm_up_s=0.05, by_cpu=True, calm=ANYHOW)


def measure(plan: Plan, placement: Placement) -> Report:
    """Run all sides of each load, in turn."""
    columns = ("requests/s", "÷ FIFO", "server CPU", "requests per CPU second", "÷ FIFO")
    report = Report("Throughput (medians over the rounds)", "load", *columns, calm=plan.calm)
    with ExitStack() as running:
        servers = {
            (load, side): running.enter_context(Server(load.serve(side), placement))
            for load in plan.least
            for side in load.sides
        }
        for server in servers.values():
            with Generator(server.port) as generator:
                generator.ask("/figures")  # it has started
        legs: dict[tuple[Load, Side], list[Leg]] = {key: [] for key in servers}
        for number in range(plan.rounds):
            # Backwards every other time: whatever drifts must not favour a side.
            for load, side in legs if number % 2 == 0 else reversed(legs):
                legs[load, side].append(_leg(servers[load, side], placement, plan, load, number))
                settle()
    for load, least in plan.least.items():
        _judge(report, plan, load, least, {side: legs[load, side] for side in load.sides})
    return report


def _judge(report: Report, plan: Plan, load: Load, least: float, sides: dict[Side, list[Leg]]) -> None:
    for side, those in sides.items():
        ratios = [leg.flood_per_s / fifo.flood_per_s for leg, fifo in zip(those, sides["fifo"], strict=True)]
        by_cpu = [_per_cpu_s(leg) / _per_cpu_s(fifo) for leg, fifo in zip(those, sides["fifo"], strict=True)]
        report.row(
            f"{load.name}, {side}",
            f"{median(leg.flood_per_s for leg in those):.0f}",
            median(ratios),
            median(leg.server_cpu for leg in those),
            f"{median(_per_cpu_s(leg) for leg in those):.0f}",
            median(by_cpu),
        )
        ratio = median(ratios)
        if plan.by_cpu and load.saturates:
            # The best of many short legs: what a busy machine adds to a leg it adds to some and not to all.
            ratio = max(map(_per_cpu_s, those)) / max(map(_per_cpu_s, sides["fifo"]))
        if side == "fair":
            report.at_least(f"{load.name}: throughput ratio", ratio, least)
        elif side == "control":
            report.at_most(f"{load.name}, control: throughput ratio", ratio, least)
        report.at_most(f"{load.name}, {side}: lost connections", sum(leg.failed for leg in those), 0)
        report.disturbed(those)
        if load.saturates and not plan.by_cpu and median(leg.server_cpu for leg in those) < SATURATED:
            report.invalid = f"{load.name}, {side}: the server's core was not saturated"


def _per_cpu_s(leg: Leg) -> float:
    return leg.flood_per_s / leg.server_cpu


def _leg(server: Server, placement: Placement, plan: Plan, load: Load, number: int) -> Leg:
    with Generator(server.port) as generator:
        flood = Flood(generator, load.requests(number), connections=load.connections)
        return run_leg(generator, placement, seconds=plan.seconds, warm_up_s=plan.warm_up_s, floods=[flood])


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    options = parse(__doc__, argv)
    plans = (QUICK, QUICK_TRIVIAL) if options.quick else (FULL,)
    with Placement() as placement:
        reports = [measure(replace(plan, rounds=options.rounds or plan.rounds), placement) for plan in plans]
        return max(report.show(placement) for report in reports)


if __name__ == "__main__":
    sys.exit(main())
