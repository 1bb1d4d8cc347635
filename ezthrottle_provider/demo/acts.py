"""The acts: the same API and the same customers behind no limiter, one shared queue and fair queues."""

from __future__ import annotations

import http.client
import json
import math
import socket
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Final

from .cast import QUIET, ROLES, SLOTS, Role
from .children import Child

__all__ = ["ACTS", "ALONE", "FAIR", "SHARED", "UNGUARDED", "Act", "DemoError", "Tally", "listen", "play", "serve"]

_HOST: Final = "127.0.0.1"
_START_S: Final = 20.0
_SPARE_S: Final = 30.0
_LEAD_IN: Final = 0.2  # of an act: queues fill, and nothing is counted
_LONGEST_LEAD_IN_S: Final = 1.0


class DemoError(Exception):
    """The demo could not be run; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """One act: ``part`` of the whole demo's time. ``number`` 0 is the prologue, without the flood."""

    number: int
    title: str
    limiter: str
    text: str
    part: float = 0.26

    @property
    def label(self) -> str:
        """Its number as people read it; the prologue has none."""
        return f"Act {self.number}" if self.number else ""

    @property
    def flood(self) -> bool:
        """Whether the flooding customers take part."""
        return self.number > 0


ALONE: Final = Act(
    number=0,
    title="Alone",
    limiter="none",
    part=0.14,
    text="Prologue: only the quiet customers ask. Nobody is in their way.",
)
UNGUARDED: Final = Act(
    number=1,
    title="No limiter",
    limiter="none",
    text="Act 1 of 3: now the scraper floods the API, and nothing guards it. All queries run at once "
    "and slow each other down.",
)
SHARED: Final = Act(
    number=2,
    title="Shared queue",
    limiter="shared",
    text=f"Act 2 of 3: the usual remedy, a middleware with asyncio.Semaphore({SLOTS}). The database is well again, "
    "but everybody stands in one line behind the flood.",
)
FAIR: Final = Act(
    number=3,
    title="Fair queues",
    limiter="fair",
    text=f"Act 3 of 3: FairQueueMiddleware with max_concurrent={SLOTS}. Everybody has a queue of their own, and they "
    "take turns by weight.",
)
ACTS: Final = (ALONE, UNGUARDED, SHARED, FAIR)


def _of_each() -> dict[str, int]:
    return {role.name: 0 for role in ROLES}


@dataclass(slots=True)
class Tally:
    """What happened to each customer in one act, ``counted_s`` of its ``seconds`` so far. Latencies in milliseconds."""

    seconds: float
    counted_s: float = 0.0
    late_ms: float = 0.0
    latencies_ms: dict[str, list[float]] = field(default_factory=lambda: {role.name: [] for role in ROLES})
    served: dict[str, int] = field(default_factory=_of_each)
    refused: dict[str, int] = field(default_factory=_of_each)
    unanswered: dict[str, int] = field(default_factory=_of_each)

    def note(self, name: str, status: int, latency_ms: float) -> None:
        """Count one request; a status of 0 stands for no answer at all."""
        if status == 200:
            self.served[name] += 1
        elif status:
            self.refused[name] += 1
            return
        else:
            self.unanswered[name] += 1
        self.latencies_ms[name].append(latency_ms)

    def percentile(self, part: float, *roles: Role) -> float | None:
        """Return the latency within which ``part`` (0.5, 0.99) of these roles' requests were answered."""
        ordered = sorted(latency for role in roles for latency in self.latencies_ms[role.name])
        return ordered[math.ceil(part * len(ordered)) - 1] if ordered else None

    def asked(self, role: Role) -> int:
        """How many requests of a role were answered, refused or given up."""
        return self.served[role.name] + self.refused[role.name] + self.unanswered[role.name]

    def served_per_s(self, role: Role) -> float:
        """Return the rate at which a role was served so far."""
        return self.served[role.name] / max(1e-9, self.counted_s)

    @property
    def quiet_p99_ms(self) -> float:
        """The latency within which 99 of 100 requests of all quiet customers were answered; infinite without any."""
        found = self.percentile(0.99, *QUIET)
        return math.inf if found is None else found

    @property
    def quiet_refused(self) -> int:
        """How many requests of quiet customers were refused or never answered."""
        return sum(self.refused[role.name] + self.unanswered[role.name] for role in QUIET)

    @property
    def quiet_asked(self) -> int:
        """How many requests the quiet customers sent."""
        return sum(self.asked(role) for role in QUIET)


def play(act: Act, *, seconds: float, progress: Callable[[Tally], None]) -> Tally:
    """Play an act and return its tally, which ``progress`` sees four times per second; raises ``DemoError``."""
    lead_in_s = min(_LONGEST_LEAD_IN_S, _LEAD_IN * seconds)
    tally = Tally(seconds=seconds - lead_in_s)
    listening = listen(0)
    options = [f"--port={listening.getsockname()[1]}", f"--seconds={seconds}", f"--lead-in={lead_in_s}"]
    if act.flood:
        options.append("--flood")
    with serve(act.limiter, listening, at_most_s=seconds + _SPARE_S), Child("load", *options) as load:
        for line in load.stdout:
            batch = json.loads(line)
            for name, status, latency_ms in batch["samples"]:
                tally.note(name, status, latency_ms)
            tally.counted_s = batch["counted_s"]
            tally.late_ms = max(tally.late_ms, batch["late_ms"])
            progress(tally)
        if load.wait(timeout_s=_START_S):
            raise DemoError(f"The load generator failed:\n{load.last_words()}")
    return tally


def listen(port: int) -> socket.socket:
    """Listen on a loopback port (0: any free one); raises ``DemoError``."""
    try:
        return socket.create_server((_HOST, port), backlog=512)
    except (OSError, OverflowError) as error:
        raise DemoError(f"Cannot listen on {_HOST}:{port}: {error}") from error


def serve(limiter: str, listening: socket.socket, *, at_most_s: float) -> Child:
    """Start the API on a listening socket and return when it answers; raises ``DemoError``."""
    port, descriptor = listening.getsockname()[1], listening.fileno()
    options = [f"--limiter={limiter}", f"--fd={descriptor}", f"--at-most={at_most_s}"]
    with ExitStack() as stack:
        with listening:
            child = stack.enter_context(Child("server", *options, pass_fds=(descriptor,)))
        # The child alone has the socket now: if it dies, connecting fails instead of waiting.
        connection = stack.enter_context(closing(http.client.HTTPConnection(_HOST, port, timeout=_START_S)))
        try:
            connection.request("GET", "/health")
            connection.getresponse().read()
        except (OSError, http.client.HTTPException) as error:
            name = type(error).__name__
            raise DemoError(f"The demo API did not start ({name}):\n{child.last_words()}") from error
        connection.close()
        stack.pop_all()  # from here on it is the caller's to end
    return child
