"""The scenarios that the oracle judges: together, what is known to go wrong in fair queues.

Each is built so that a shared FIFO and a server without a limit fail it: where demands are equal the weights are not,
and where the weights are equal the threads are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .workloads import Client, Source, Stream, constant, either, exponential, lognormal, uniform

__all__ = ["SCENARIOS", "Change", "Scenario"]


@dataclass(frozen=True, slots=True)
class Change:
    """A weight that changes while the scenario runs."""

    at_s: float
    customer: str
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Who takes part, and the windows (begin, end) in which each is judged.

    ``quiet`` names the customers far below their share. ``alternating`` names clients that always have a request
    somewhere although their queue is empty while it runs. ``caps`` says what a customer's own limits mean in slots.
    """

    name: str
    sources: tuple[Source, ...]
    windows: tuple[tuple[float, float], ...]
    slots: int = 8
    changes: tuple[Change, ...] = ()
    quiet: frozenset[str] = frozenset()
    alternating: frozenset[str] = frozenset()
    caps: Mapping[str, float] = field(default_factory=dict)
    step_s: float = 0.02
    seed: int = 1

    def __str__(self) -> str:
        return self.name


_HANDLER = lognormal(0.01, 0.5)


def _zipf(*, customers: int, requests_per_s: float) -> tuple[Stream, ...]:
    harmonic = sum(1.0 / rank for rank in range(1, customers + 1))
    return tuple(
        Stream(customer=f"rank{rank}", service=_HANDLER, rate=requests_per_s / harmonic / rank)
        for rank in range(1, customers + 1)
    )


SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        name="equal demand, unequal weights",
        sources=tuple(
            Client(customer=name, service=_HANDLER, threads=32, weight=weight)
            for name, weight in (("a", 1.0), ("b", 1.0), ("c", 2.0), ("d", 4.0))
        ),
        windows=((5.0, 30.0),),
    ),
    Scenario(
        name="unequal demand, equal weights, one quiet",
        sources=(
            Client(customer="a", service=_HANDLER, threads=24),
            Client(customer="b", service=_HANDLER, threads=48),
            Client(customer="c", service=_HANDLER, threads=96),
            Stream(customer="quiet", service=_HANDLER, rate=50.0),  # a quarter of its share
        ),
        windows=((5.0, 30.0),),
        quiet=frozenset({"quiet"}),
    ),
    Scenario(
        name="mixed widths and costs",
        sources=(
            Client(customer="narrow", service=lognormal(0.005, 0.5), threads=32),
            Client(customer="double", service=lognormal(0.01, 0.5), threads=48, width=constant(2.0)),
            Client(customer="wide", service=lognormal(0.02, 0.5), threads=32, width=constant(5.0)),
            Client(
                customer="mixed",
                service=lognormal(0.01, 0.5),
                threads=64,
                width=either(constant(1.0), constant(8.0), chance=0.1),
                weight=2.0,
            ),
        ),
        windows=((5.0, 45.0),),
    ),
    Scenario(
        name="unknown costs",
        sources=(
            Client(customer="light tail", service=exponential(0.01), threads=32),
            Client(customer="short", service=lognormal(0.004, 1.0), threads=32),
            Client(customer="long", service=lognormal(0.02, 1.0), threads=64),
            Client(customer="bimodal", service=either(constant(0.002), constant(0.1), chance=0.1), threads=48),
        ),
        windows=((10.0, 60.0),),
    ),
    Scenario(
        name="prices that have nothing to do with time",
        sources=(
            Client(customer="rows", service=_HANDLER, threads=32, price=exponential(1.0)),
            Client(customer="tokens", service=_HANDLER, threads=48, price=uniform(1.0, 9.0)),
            Client(customer="calls", service=_HANDLER, threads=64, price=constant(2.0), weight=2.0),
        ),
        windows=((5.0, 35.0),),
    ),
    Scenario(
        name="on/off wind-up",
        sources=(
            Client(customer="a", service=_HANDLER, threads=24),
            Client(customer="b", service=_HANDLER, threads=64),
            # Above its share while it is on, below it in the mean: it drains before it comes back.
            Stream(customer="on and off", service=_HANDLER, rate=500.0, on_s=4.0, off_s=8.0),
        ),
        windows=((12.0, 16.0), (24.0, 28.0), (36.0, 40.0), (12.0, 48.0)),
    ),
    Scenario(
        name="short bursts",
        sources=(
            Client(customer="a", service=_HANDLER, threads=32),
            Client(customer="b", service=_HANDLER, threads=64),
            # Too short for a share of its own to be seen in one of them; together they must not add up to a gain.
            Stream(customer="below its share", service=_HANDLER, rate=400.0, on_s=0.5, off_s=1.5),
            Stream(customer="above its share", service=_HANDLER, rate=1600.0, on_s=0.5, off_s=1.5),
        ),
        windows=((10.0, 40.0),),
    ),
    Scenario(
        name="late arrival",
        sources=(
            Client(customer="a", service=_HANDLER, threads=32),
            Client(customer="b", service=_HANDLER, threads=48, weight=2.0),
            Client(customer="late", service=_HANDLER, threads=96, start_s=20.0),
        ),
        windows=((2.0, 20.0), (20.0, 40.0)),
    ),
    Scenario(
        name="live re-weighting",
        sources=(
            Client(customer="a", service=_HANDLER, threads=32),
            Client(customer="b", service=_HANDLER, threads=48),
            Client(customer="c", service=_HANDLER, threads=64, weight=2.0),
        ),
        windows=((2.0, 15.0), (15.0, 30.0), (30.0, 45.0)),
        changes=(Change(15.0, "a", 4.0), Change(30.0, "c", 0.5)),
    ),
    Scenario(
        name="caps and paces",
        sources=(
            Client(customer="capped", service=_HANDLER, threads=32, weight=4.0, max_concurrent=2),
            Client(customer="paced", service=constant(0.01), threads=16, rps=50.0),
            Client(customer="a", service=_HANDLER, threads=64),
            Client(customer="b", service=_HANDLER, threads=32),
        ),
        caps={"capped": 2.0, "paced": 0.5},
        windows=((5.0, 30.0),),
    ),
    Scenario(
        name="100 customers, Zipf",
        sources=_zipf(customers=100, requests_per_s=1200.0),
        windows=((10.0, 80.0),),
        quiet=frozenset(f"rank{rank}" for rank in range(33, 101)),  # below a quarter of the 28/s that the first get
        step_s=0.25,
    ),
    Scenario(
        name="a queue that empties between requests",
        sources=(
            Client(customer="a", service=_HANDLER, threads=32, weight=16.0),
            Client(customer="b", service=_HANDLER, threads=64, weight=16.0),
            Client(customer="one thread", service=_HANDLER, threads=1),
            Client(customer="one thread, twice the weight", service=_HANDLER, threads=1, weight=2.0),
        ),
        windows=((5.0, 55.0),),
        alternating=frozenset({"one thread", "one thread, twice the weight"}),
    ),
    Scenario(
        name="many keys",
        sources=(
            Client(customer="one key", service=_HANDLER, threads=32),
            Client(customer="50 keys", service=_HANDLER, threads=96, keys=50),
            Client(customer="fresh keys", service=_HANDLER, threads=64, fresh_keys=True),
        ),
        windows=((5.0, 25.0),),
    ),
)
