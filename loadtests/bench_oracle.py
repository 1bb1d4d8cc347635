"""How far the scheduler is from the weighted max-min oracle in each scenario, beside what people use instead.

    python -m loadtests.bench_oracle [--seeds 5]

On a fake clock, so the figures do not depend on the machine. Holds when the scheduler's error is at most 1 % in every
scenario and for every seed, and both controls fail every scenario.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace

from tests.fairness.controls import NoLimit, SharedFifo
from tests.fairness.judge import LIMIT, judge, unbounded
from tests.fairness.scenarios import SCENARIOS, Scenario
from tests.fairness.simulator import Policy

__all__ = ["main"]


def worst_of(scenario: Scenario, make: Callable[[int], Policy], *, seeds: int) -> float:
    """The largest error over the seeds; a run that does not test what it claims counts as failed."""
    worst = 0.0
    for seed in range(1, seeds + 1):
        verdict = judge(replace(scenario, seed=seed), make)
        if make is unbounded and verdict.flaws:
            raise SystemExit(f"{scenario}, seed {seed}: {verdict.flaws[0]}")
        worst = max(worst, verdict.error)
    return worst


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Share error against the weighted max-min oracle.")
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    print(f"{'scenario':45} {'scheduler':>10} {'one FIFO':>10} {'no limit':>10}   (largest error of {seeds} seeds)")
    errors: dict[str, float] = {}
    weakest_control = float("inf")
    for scenario in SCENARIOS:
        error = errors[scenario.name] = worst_of(scenario, unbounded, seeds=seeds)
        fifo = worst_of(scenario, lambda slots: SharedFifo(slots=slots), seeds=1)
        none = worst_of(scenario, lambda slots: NoLimit(), seeds=1)
        weakest_control = min(weakest_control, fifo, none)
        print(f"{scenario.name:45} {error:10.3%} {fifo:10.1%} {none:10.1%}", flush=True)
    worst = max(errors.values())
    figures = {
        "ok": worst <= LIMIT < weakest_control,
        "worst_error": round(worst, 6),
        "worst_scenario": max(errors, key=errors.__getitem__),
        "least_control_error": round(weakest_control, 4),
        "scenarios": len(errors),
        "seeds": seeds,
    }
    print(f"RESULT {json.dumps(figures)}")
    return 0 if figures["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
