"""One leg of a comparison: some load for some seconds after a warm-up, and what became of it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .apps import FIGURES
from .clients import Generator
from .servers import Placement
from .sources import Flood, Steady

__all__ = ["Books", "Leg", "books", "percentile", "run_leg", "settle"]

_SETTLE_S: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """What the app itself has measured so far: per key the seconds of service and the requests served."""

    at: float
    cpu_s: float
    slot_s: dict[str, float]
    served: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """What became of a leg's load. CPU is in parts of a core."""

    latencies: list[float]
    refused: int
    failed: int
    flood_per_s: float
    slot_s: dict[str, float]  # by key, as the handler measured them
    flood_refused: int
    lag_s: float
    others: float  # what other processes took of the two cores
    server_cpu: float
    generator_cpu: float

    @property
    def p50_s(self) -> float:
        return percentile(self.latencies, 0.50)

    @property
    def p99_s(self) -> float:
        return percentile(self.latencies, 0.99)


def percentile(values: Sequence[float], part: float) -> float:
    """Return the smallest value that at least this part of all does not exceed; NaN of none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]


def books(generator: Generator) -> Books:
    """Ask the app for its books."""
    return Books(**json.loads(generator.ask(FIGURES)))


def run_leg(
    generator: Generator,
    placement: Placement,
    *,
    seconds: float,
    warm_up_s: float,
    quiet: Steady | None = None,
    floods: Sequence[Flood] = (),
    patience_s: float = 2.0,
) -> Leg:
    """Let load that has just begun run for ``seconds`` after the warm-up, then end it."""
    generator.run(warm_up_s)
    before, own_before, busy_before = books(generator), time.process_time(), placement.busy_s()
    for flood in floods:
        flood.reset()
    if quiet is not None:
        quiet.begin()
    began = generator.clock()
    generator.run(seconds)
    elapsed = generator.clock() - began
    served = sum(flood.served for flood in floods)
    refused = sum(flood.refused for flood in floods)
    lost = sum(flood.lost_count for flood in floods)
    own, busy = time.process_time() - own_before, placement.busy_s()
    after = books(generator)
    taken = {key: after.slot_s[key] - before.slot_s.get(key, 0.0) for key in after.slot_s}
    served_cpu = after.cpu_s - before.cpu_s
    others_s = 0.0 if busy is None or busy_before is None else busy - busy_before - own - served_cpu
    if quiet is not None:
        quiet.end(patience_s=patience_s)
    for flood in floods:
        flood.stop()
    return Leg(
        latencies=quiet.latencies if quiet is not None else [],
        refused=quiet.refused if quiet is not None else 0,
        failed=lost + (quiet.failed if quiet is not None else 0),
        flood_per_s=served / elapsed,
        slot_s=taken,
        flood_refused=refused,
        lag_s=percentile(generator.lags, 0.99) if generator.lags else 0.0,
        others=max(0.0, others_s / elapsed),
        server_cpu=served_cpu / (after.at - before.at),
        generator_cpu=own / elapsed,
    )


def settle() -> None:
    """Wait until a server has served what the last leg left behind."""
    time.sleep(_SETTLE_S)
