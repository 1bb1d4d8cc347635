"""Who asks for service, and how: clients with threads, streams that do not wait for answers, and what requests take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, log
from random import Random

__all__ = ["Client", "Draw", "Source", "Stream", "constant", "either", "exponential", "lognormal", "uniform"]

Draw = Callable[[Random], float]


def constant(value: float) -> Draw:
    """Always the same."""
    return lambda random: value


def uniform(low: float, high: float) -> Draw:
    """Evenly between two values."""
    return lambda random: random.uniform(low, high)


def exponential(mean: float) -> Draw:
    """Memoryless."""
    return lambda random: random.expovariate(1.0 / mean)


def lognormal(mean: float, sigma: float) -> Draw:
    """Skewed, as service times of real handlers are; ``sigma`` is that of the logarithm."""
    mu = log(mean) - sigma * sigma / 2
    return lambda random: random.lognormvariate(mu, sigma)


def either(usual: Draw, rare: Draw, *, chance: float) -> Draw:
    """Mostly the one, and with a chance the other: cached and uncached, list and export."""
    return lambda random: rare(random) if random.random() < chance else usual(random)


_ONE = constant(1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What all who ask have in common. Times are in seconds, ``service`` is what a slot is held for when alone."""

    customer: str
    service: Draw
    width: Draw = _ONE  # units charged per second of service
    price: Draw | None = None  # told at the end instead of what was measured
    weight: float = 1.0
    rps: float | None = None
    max_concurrent: int | None = None
    verified: bool = True
    keys: int = 1
    fresh_keys: bool = False  # another key with each request
    start_s: float = 0.0
    stop_s: float = inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Client(Source):
    """A closed loop: each thread sends, waits for the answer, thinks, and sends again.

    A refused thread comes back after ``retry_s``.
    """

    threads: int
    think: Draw | None = None
    retry_s: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream(Source):
    """An open loop: a Poisson process of ``rate`` requests per second while it is on, nothing while it is off."""

    rate: float
    on_s: float = inf
    off_s: float = 0.0
    batch: int = 1  # requests that arrive together

    def clock(self, active_s: float) -> float:
        """Turn time spent on into time of day."""
        if self.on_s == inf:
            return self.start_s + active_s
        phases = int(active_s // self.on_s)
        return self.start_s + phases * (self.on_s + self.off_s) + active_s - phases * self.on_s
