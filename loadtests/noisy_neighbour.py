"""Locust scenario: one flood beside many quiet customers, of the tiers free and pro.

``python -m loadtests.run_locust`` (``make loadtest``) runs it headless against a server of its own and judges it. It
can also be watched, against any API that answers ``GET /work?<µs>``:

    locust -f loadtests/noisy_neighbour.py --host http://127.0.0.1:8000

Locust patches ``time.sleep``: one user's does not stop the others. Its users wait for their answers, so a stall hides
the requests that would have been sent meanwhile; for figures that count them, see ``bench_isolation``.
"""

from __future__ import annotations

import random
import time
from itertools import count
from typing import Final

from locust import FastHttpUser, LoadTestShape, constant_throughput, task

__all__ = ["Everybody", "Flood", "QuietFree", "QuietPro"]

FLOOD: Final = 256  # 32 for each of 8 slots
FREE: Final = 15
PRO: Final = 5
PER_SECOND: Final = 2.0  # by each quiet customer: together 5 % of what 8 slots can do
SPAWN_PER_S: Final = 100
# Lognormal with a mean of 10 ms.
MU_US: Final = 9.0853
SIGMA: Final = 0.5
TOO_MANY: Final = 429


class Customer(FastHttpUser):
    """A client with an API key; the key's first word is its tier."""

    abstract = True
    tier = ""
    numbers = count(1)

    def on_start(self) -> None:
        """Get a key of one's own, and begin at a moment of one's own: together they would be a burst."""
        self.key = f"{self.tier}-{next(self.numbers)}"
        time.sleep(random.uniform(0.0, 1.0 / PER_SECOND))

    def ask(self, name: str) -> float:
        """Send a request; return the seconds that the API asks to wait before the next, 0 when it served this one."""
        service_us = random.lognormvariate(MU_US, SIGMA)
        headers = {"x-api-key": self.key}
        with self.client.get(f"/work?{service_us:.0f}", headers=headers, name=name, catch_response=True) as response:
            if response.status_code == TOO_MANY and name == "flood":
                response.success()  # it asked for more than its queue holds, and is told so
                return float(response.headers["retry-after"])
        return 0.0


class Flood(Customer):
    """One customer with many clients, each of which asks again as soon as it has its answer."""

    fixed_count = FLOOD

    def on_start(self) -> None:
        """All of them are the same customer."""
        self.key = "free-flood"

    @task
    def go_on(self) -> None:
        """Ask; when told to wait, wait."""
        time.sleep(self.ask("flood"))


class QuietFree(Customer):
    """A customer of the tier free, far below its share."""

    fixed_count = FREE
    tier = "free"
    wait_time = constant_throughput(PER_SECOND)

    @task
    def use(self) -> None:
        """Ask now and then."""
        self.ask("quiet free")


class QuietPro(Customer):
    """A customer of the tier pro, far below its share."""

    fixed_count = PRO
    tier = "pro"
    wait_time = constant_throughput(PER_SECOND)

    @task
    def use(self) -> None:
        """Ask now and then."""
        self.ask("quiet pro")


class Everybody(LoadTestShape):
    """All of them from the start, until ``--run-time`` is over."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """Return how many users there are now, and how fast they come."""
        assert self.runner is not None
        options = self.runner.environment.parsed_options
        run_time_s = options.run_time if options is not None else None
        if run_time_s and self.get_run_time() > run_time_s:  # type: ignore[no-untyped-call]
            return None
        return FLOOD + FREE + PRO, SPAWN_PER_S
