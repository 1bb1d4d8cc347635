"""What a decision costs: submit + pick + finish with 10, 100,000 and 1,000,000 waiting customers, in time and memory.

The loop is closed (who was served asks again), its order random, and all sizes live in one process and are measured in
turns, so that the machine is the same for each. Memory is what the scheduler allocates; the callers are made before.
Then a million customers come once each, one after another and in crowds, verified or not, and nothing may be left.

    python -m loadtests.bench_decision_cost [--quick]
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import tracemalloc
from collections.abc import Sequence
from statistics import median

from rich.console import Console
from rich.table import Table

from ezthrottle_provider.scheduling import Scheduler
from tests.attack.crowds import ClosedLoop, callers, census, in_crowds, one_after_another

__all__ = ["main"]

_MOST_TIMES = 2.0
_MOST_BYTES = 1_000
_MOST_OBJECTS = 100
_ROUNDS = 7
_STEPS = 20_000


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns 0 when every figure is within its limit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the customers")
    most = 100_000 if parser.parse_args(argv).quick else 1_000_000
    sizes = (10, most // 10, most)
    table = Table(title="submit + pick + finish, everybody waiting", title_justify="left")
    for column in ("waiting customers", "µs (median)", "times the smallest"):
        table.add_column(column, justify="right")
    times = _decision_us(sizes)
    ratios = {size: times[size] / times[sizes[0]] for size in sizes}
    for size in sizes:
        table.add_row(f"{size:,}", f"{times[size]:.2f}", f"{ratios[size]:.2f}")
    used = _bytes_per_customer(most // 5)
    left = {
        f"{'verified' if verified else 'unverified'}, {'in crowds' if crowded else 'one after another'}": _left_behind(
            most, verified=verified, crowded=crowded
        )
        for verified in (True, False)
        for crowded in (False, True)
    }
    console = Console(width=120)
    console.print(table)
    console.print(f"bytes per waiting customer: {used:.0f} (at most {_MOST_BYTES})")
    for how, objects in left.items():
        console.print(f"left of {most:,} one-off customers, {how}: {objects or 'nothing'}")
    ok = max(ratios.values()) <= _MOST_TIMES and used <= _MOST_BYTES and not any(left.values())
    result = {
        "ok": ok,
        "us": {str(size): round(times[size], 2) for size in sizes},
        "ratio": round(max(ratios.values()), 3),
        "bytes_per_waiting_customer": round(used),
        "objects_left": left,
    }
    print("RESULT " + json.dumps(result), flush=True)
    return 0 if ok else 1


def _decision_us(sizes: Sequence[int]) -> dict[int, float]:
    loops = {size: ClosedLoop(callers(size)) for size in sizes}
    for size, loop in loops.items():
        loop.run(min(2 * size, 2 * max(sizes)) + _STEPS)  # until turns come in random order
    gc.collect()
    taken: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(_ROUNDS):
        for size, loop in loops.items():
            begun = time.perf_counter()
            loop.run(_STEPS)
            taken[size].append((time.perf_counter() - begun) / _STEPS * 1e6)
    return {size: median(rounds) for size, rounds in taken.items()}


def _bytes_per_customer(number: int) -> float:
    crowd = callers(number)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        loop = ClosedLoop(crowd)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert loop.scheduler.waiting.count == number
    return (after - before) / number


def _left_behind(number: int, *, verified: bool, crowded: bool) -> dict[str, int]:
    """Serve so many customers once each; return the objects that are left, by type."""
    scheduler = Scheduler(slots=8)
    crowd = callers(number, verified=verified)
    now = in_crowds(scheduler, crowd[:1_000], 100.0, size=100) + 60.0
    before = census(scheduler, now, steps=1_000)
    now = in_crowds(scheduler, crowd, now, size=number // 10) if crowded else one_after_another(scheduler, crowd, now)
    after = census(scheduler, now + 60.0, steps=number)
    return {kind: more for kind, had in after.items() if (more := had - before[kind]) > _MOST_OBJECTS}


if __name__ == "__main__":
    sys.exit(main())
