"""A benchmark's verdict: a table of its legs, the checks that its figures pass or fail, and the ``RESULT`` line."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.table import Table

from .legs import Leg
from .servers import Placement, stack

__all__ = ["ANYHOW", "CALM", "Calm", "Check", "Options", "Report", "first_that_holds", "parse"]

_INVALID: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Calm:
    """How much a run may be disturbed before it shows nothing either way."""

    lag_s: float  # p99 of the generator's own lateness
    others: float  # what other processes may take of the two cores, in parts of a core


CALM: Final = Calm(lag_s=0.002, others=0.2)
# For shares, which stay the same however little of the machine is left; and for quick runs: a shared machine must not
# turn them into no test at all, and that their control fails in the same run shows that they could tell.
ANYHOW: Final = Calm(lag_s=math.inf, others=math.inf)


@dataclass(frozen=True, slots=True)
class Check:
    """One figure and what it had to be."""

    value: float
    limit: float
    sense: str  # "≤" or "≥"

    @property
    def holds(self) -> bool:
        """Whether it was. What is not a number holds nothing."""
        return self.value <= self.limit if self.sense == "≤" else self.value >= self.limit

    def __str__(self) -> str:
        return f"{self.value:.4g} {self.sense} {self.limit:.4g}: {'yes' if self.holds else 'NO'}"


@dataclass(frozen=True, slots=True)
class Options:
    """What a benchmark's command line says."""

    quick: bool
    rounds: int | None


class Report:
    """Collects rows, figures and checks. A run that others disturbed is ``invalid``, whatever its figures are."""

    def __init__(self, title: str, *columns: str, calm: Calm = CALM) -> None:
        self._calm = calm
        self._lag_s = 0.0
        self._others = 0.0
        self.checks: dict[str, Check] = {}
        self.invalid = ""
        self._title = title
        self._figures: dict[str, object] = {}
        self._table = Table(title=title, title_justify="left")
        for number, column in enumerate(columns):
            self._table.add_column(column, justify="right" if number else "left")

    @property
    def ok(self) -> bool:
        """Whether the run is valid and everything in it held."""
        return not self.invalid and all(check.holds for check in self.checks.values())

    def row(self, *cells: object) -> None:
        """Add a line to the table."""
        self._table.add_row(*(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in cells))

    def figure(self, name: str, value: object) -> None:
        """Keep a figure that nothing depends on."""
        self._figures[name] = value

    def at_most(self, name: str, value: float, limit: float) -> None:
        """Demand that a figure does not exceed its limit."""
        self.checks[name] = Check(value, limit, "≤")

    def at_least(self, name: str, value: float, limit: float) -> None:
        """Demand that a figure reaches its limit."""
        self.checks[name] = Check(value, limit, "≥")

    def disturbed(self, legs: Iterable[Leg]) -> None:
        """Take note of what disturbed some legs: a late generator, other processes on the two cores."""
        for leg in legs:
            self._lag_s = max(self._lag_s, leg.lag_s)
            self._others = max(self._others, leg.others)
        if self._lag_s > self._calm.lag_s:
            self.invalid = f"the load generator itself was late (p99 {self._lag_s * 1e3:.1f} ms)"
        elif self._others > self._calm.others:
            self.invalid = f"other processes took {self._others:.0%} of a core"

    def show(self, placement: Placement) -> int:
        """Print everything; return the exit code."""
        console = Console(width=140)
        console.print(self._table)
        console.print(f"{stack()}, {placement}")
        for name, check in self.checks.items():
            console.print(f"  {name}: {check}", highlight=False)
        if self.invalid:
            console.print(f"INVALID, which is not failed, as the machine was busy: {self.invalid}", highlight=False)
        result = {"ok": self.ok, **{name: _finite(check.value) for name, check in self.checks.items()}, **self._figures}
        result |= {"generator_lag_p99_ms": round(self._lag_s * 1e3, 3), "others_cpu": round(self._others, 3)}
        if self.invalid:
            result["invalid"] = self.invalid
        print("RESULT " + json.dumps(result), flush=True)
        return _INVALID if self.invalid else 0 if self.ok else 1


def parse(description: str | None, argv: Sequence[str] | None) -> Options:
    """Read a benchmark's command line."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few seconds, with the limits twice as wide")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often each leg is run; 3 or more for a figure")
    options = parser.parse_args(argv)
    return Options(options.quick, options.rounds)


def first_that_holds(measure: Callable[[Placement], Report], *, attempts: int = 3) -> Report:
    """Measure again when a run did not hold: on a machine that others use, a bad run may be theirs; three are not."""
    with Placement() as placement:
        for _ in range(attempts - 1):
            report = measure(placement)
            if report.ok:
                return report
        return measure(placement)


def _finite(value: float) -> float | None:
    return round(value, 5) if math.isfinite(value) else None
