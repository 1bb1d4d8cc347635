"""The lag bound over ten million grants: two backlogged customers differ by at most (D + 1) · (c_i/w_i + c_j/w_j).

    python -m loadtests.bench_lag_bound [--grants 10000000]

Seeded runs on a fake clock, each a cold start of 8 customers with random weights, slots and costs, refunds, cancels
and newcomers; every interval of every pair is checked. Holds with no violation. One shared FIFO is the control.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from tests.fairness.churn import measure_lag
from tests.fairness.controls import SharedFifo
from tests.fairness.judge import unbounded
from tests.fairness.lag import Lag

__all__ = ["main"]

GRANTS_PER_RUN = 10_000  # many cold starts rather than few long runs: that is where costs are least known


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Check the lag bound of the scheduler.")
    parser.add_argument("--grants", type=int, default=10_000_000)
    grants = parser.parse_args().grants
    started = time.perf_counter()
    total = Lag(0, 0, 0.0, "")
    seed = 0
    while total.grants < grants:
        lag = measure_lag(unbounded, grants=min(GRANTS_PER_RUN, grants - total.grants), seed=seed)
        total += lag
        if lag.violations:
            print(f"violated: {lag.worst:.3f} of the bound, {lag.where}", flush=True)
        seed += 1
        if seed % 50 == 0:
            print(f"{total.grants:>10,} grants, at most {total.worst:.3f} of the bound ({total.where})", flush=True)
    elapsed_s = time.perf_counter() - started
    control = Lag(0, 0, 0.0, "")
    for control_seed in range(10):
        control += measure_lag(lambda slots: SharedFifo(slots=slots), grants=2000, seed=control_seed)
    figures = {
        "ok": total.violations == 0 and control.violations > 0,
        "grants": total.grants,
        "violations": total.violations,
        "worst_part_of_bound": round(total.worst, 4),
        "control_fifo_violations": control.violations,
        "control_fifo_worst": round(control.worst, 1),
        "us_per_grant": round(elapsed_s / total.grants * 1e6, 2),
    }
    print(f"RESULT {json.dumps(figures)}")
    return 0 if figures["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
