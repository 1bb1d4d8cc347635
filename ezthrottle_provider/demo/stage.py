"""Where the demo is seen: a table that lives in a terminal, or lines for everything else."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from .acts import Act, Tally
from .cast import FLOOD, IMPORTER, QUIET
from .table import latency, results

__all__ = ["Lines", "Stage", "Terminal", "picture", "stage_for"]

_LINE_EVERY_S: Final = 2.0


class Stage(Protocol):
    """What the demo needs to be seen."""

    console: Console

    def begin(self, act: Act, before: Mapping[Act, Tally]) -> None:
        """Announce an act; ``before`` are those that have been played."""

    def progress(self, act: Act, tally: Tally) -> None:
        """Show an act as far as it has come."""

    def end(self, act: Act, tally: Tally) -> None:
        """Show an act as it ended."""


class Terminal:
    """The table itself, redrawn in place while the acts are played, and gone when they are over."""

    def __init__(self, console: Console, live: Live) -> None:
        self.console = console
        self._live = live
        self._before: Mapping[Act, Tally] = {}

    def begin(self, act: Act, before: Mapping[Act, Tally]) -> None:
        """Announce an act."""
        self._before = before
        self._live.update(picture(act, before), refresh=True)

    def progress(self, act: Act, tally: Tally) -> None:
        """Redraw with its figures so far."""
        self._live.update(picture(act, {**self._before, act: tally}), refresh=True)

    def end(self, act: Act, tally: Tally) -> None:
        """Nothing to add: the next picture keeps its column."""


def picture(act: Act, tallies: Mapping[Act, Tally]) -> Group:
    """Draw what a terminal shows while an act is played: what it is about, how long it goes on, and the table."""
    tally = tallies.get(act)
    if tally is None:
        state = "starting ..."
    elif not tally.counted_s:
        state = "queues fill, nothing is counted yet ..."
    elif tally.counted_s < tally.seconds:
        state = f"{math.ceil(tally.seconds - tally.counted_s)} s left ..."
    else:
        state = "the last answers come in ..."
    return Group(Text.assemble((act.text, "bold"), f"\n{state}"), results(tallies))


class Lines:
    """A line when an act begins, every two seconds of it, and when it ends; no control codes."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._next_s = 0.0

    def begin(self, act: Act, before: Mapping[Act, Tally]) -> None:
        """Say what is played."""
        self._next_s = _LINE_EVERY_S
        self.console.print(act.text)

    def progress(self, act: Act, tally: Tally) -> None:
        """Say how far it has come, if it is time for that."""
        if tally.counted_s >= self._next_s:
            self._next_s += _LINE_EVERY_S
            self._say(act, tally)

    def end(self, act: Act, tally: Tally) -> None:
        """Say how it ended."""
        self._say(act, tally, "in all")

    def _say(self, act: Act, tally: Tally, when: str = "") -> None:
        line = f"  {when or f'{tally.counted_s:.0f} s':>6}: quiet customers p50 / p99 {latency(tally, *QUIET)} ms"
        if act.flood:
            rates = (f"{role.name} {tally.served_per_s(role):.0f}/s" for role in (IMPORTER, FLOOD))
            line += f"; {', '.join(rates)}; refused {sum(tally.refused.values())}"
        self.console.print(line, soft_wrap=True)


@contextmanager
def stage_for(*, plain: bool) -> Iterator[Stage]:
    """Choose the stage for stdout: a live table in a terminal, unless it is a dumb one or ``plain`` is asked for."""
    console = Console(highlight=False)
    if plain or not sys.stdout.isatty() or not console.is_terminal or console.is_dumb_terminal:
        yield Lines(Console(highlight=False, force_terminal=False, color_system=None, emoji=False))
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield Terminal(console, live)
