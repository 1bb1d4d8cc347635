"""What was seen: judged and said with the numbers of one run, and with no others."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .acts import ALONE, FAIR, SHARED, UNGUARDED, Act, Tally
from .cast import FLOOD, IMPORTER, QUIET, TIERS

__all__ = ["TOLERATED", "Verdict", "judge", "times"]

TOLERATED: Final = 3.0
"""Times its p99 alone that a quiet customer may wait beside the flood here. Other programs run on the machine that a
demo is shown on; the benchmarks hold the limiter to much less."""

_BUSY_MS: Final = 50.0  # a load generator that is later than that with a request did not get its share of a core


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the promise held, the sentence that says what was seen, and what to do when it did not hold."""

    held: bool
    sentence: str
    hint: str = ""


def judge(tallies: Mapping[Act, Tally]) -> Verdict:
    """Judge the tallies of all acts."""
    alone, unguarded, shared, fair = (tallies[act] for act in (ALONE, UNGUARDED, SHARED, FAIR))
    late_ms = max(tally.late_ms for tally in tallies.values())
    if not all(tally.quiet_asked for tally in tallies.values()):
        return Verdict(False, "In this run no request of a quiet customer was counted.", _advice(late_ms))
    bound_ms = TOLERATED * alone.quiet_p99_ms
    hint = ""
    if fair.quiet_refused:
        hint = f"{fair.quiet_refused} requests of quiet customers were refused or not answered with fair queues."
    elif fair.quiet_p99_ms > bound_ms:
        hint = f"With fair queues the quiet customers waited more than {TOLERATED:.0f} times as long as alone."
    elif shared.quiet_p99_ms <= bound_ms:
        hint = "The flood hurt nobody in the shared queue, so this run shows nothing."
    if hint:
        hint = f"{hint} {_advice(late_ms)}"
    return Verdict(not hint, _sentence(alone, unguarded, shared, fair), hint)


def _sentence(alone: Tally, unguarded: Tally, shared: Tally, fair: Tally) -> str:
    names = " and ".join((", ".join(role.name for role in QUIET[:-1]), QUIET[-1].name))
    refused = "none was refused" if not fair.quiet_refused else f"{fair.quiet_refused} were refused or not answered"
    weights = f"{TIERS[IMPORTER.tier]['weight']}:{TIERS[FLOOD.tier]['weight']}"
    return (
        f"In this run 99 of 100 requests of {names} were answered within {alone.quiet_p99_ms:.0f} ms alone, "
        f"{unguarded.quiet_p99_ms:.0f} ms beside the flood without a limiter, {shared.quiet_p99_ms:.0f} ms in one "
        f"shared queue and {fair.quiet_p99_ms:.0f} ms with fair queues ({times(fair, alone)} alone), where of their "
        f"{fair.quiet_asked} requests {refused}; and the {IMPORTER.name} ({IMPORTER.tier}) was served "
        f"{_ratio(fair)} times as often as the {FLOOD.name} ({FLOOD.tier}; weights {weights}), after "
        f"{_ratio(shared)} times in the shared queue."
    )


def times(tally: Tally, alone: Tally) -> str:
    """Say how many times as long as alone the quiet customers waited."""
    return f"{tally.quiet_p99_ms / alone.quiet_p99_ms:.1f} x"


def _ratio(tally: Tally) -> str:
    return f"{tally.served[IMPORTER.name] / max(1, tally.served[FLOOD.name]):.1f}"


def _advice(late_ms: float) -> str:
    if late_ms < _BUSY_MS:
        return "The machine seems to have kept up: run it again, and if it stays like this, please report it."
    return (
        f"This machine is busy with other things (the load itself was up to {late_ms:.0f} ms late; load average "
        f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores): run it again when it is idle."
    )
