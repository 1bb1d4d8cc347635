"""The demo: a noisy neighbour being contained, live, on a real server over real sockets.

``ezthrottle demo`` plays it. Three processes, so that none takes the time of another: this one draws, the customers
(``load``) ask, and the API (``server``) is started afresh for every act. ``acts`` says what is played, ``cast`` who
takes part, ``verdict`` what was seen. Needs the extra ``demo`` (Starlette, uvicorn); everything stays on 127.0.0.1.
"""

from __future__ import annotations

import importlib.util
import json
from functools import partial
from typing import Final

from rich.console import Console

from .acts import ACTS, Act, DemoError, Tally, play
from .cast import FLOOD, IMPORTER, QUIET, SLOTS, TIERS
from .playground import playground
from .stage import Stage, stage_for
from .table import results
from .verdict import Verdict, judge

__all__ = ["DEFAULT_SECONDS", "perform", "run"]

DEFAULT_SECONDS: Final = 30.0
_SHORTEST_S: Final = 4.0
_LONGEST_S: Final = 45.0  # with the starts of four servers and the last answers of each act, less than a minute

_INTERRUPTED: Final = 130  # what shells report for a command that ctrl-C ended
_NEEDS: Final = ("starlette", "uvicorn")

_WHAT_NEXT: Final = f"""
All that act 3 has more than act 1 is this (customer_of says whose key it is):

  app.add_middleware(FairQueueMiddleware, identify="header:x-api-key",
                     resolve=customer_of, max_concurrent={SLOTS},
                     tiers={json.dumps(TIERS)})

To play with this API yourself: ezthrottle demo --serve
"""


def run(*, serve: bool = False, port: int = 8000, seconds: float = DEFAULT_SECONDS, plain: bool = False) -> int:
    """Play the demo and return the exit code: 0 when the promise held, 1 when not, 2 when it cannot run, 130 on ctrl-C.

    ``seconds`` (4 to 45; what is beyond is cut) is about how long it takes. ``plain`` prints lines instead of a live
    table, as does every stdout that is no terminal. With ``serve`` nothing is played: the API stays up on ``port``
    (0: any free one) until ctrl-C.
    """
    errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        errors.print(f"The demo needs {' and '.join(missing)}: pip install 'ezthrottle-provider[demo]'")
        return 2
    try:
        if serve:
            return playground(Console(highlight=False), port=port)
        with stage_for(plain=plain) as stage:
            stage.console.print(_introduction())
            tallies, verdict = perform(stage, seconds=min(_LONGEST_S, max(_SHORTEST_S, seconds)))
        _epilogue(stage.console, tallies, verdict)
        if not verdict.held:
            errors.print(f"The promise did not hold in this run. {verdict.hint}")
        return 0 if verdict.held else 1
    except DemoError as error:
        errors.print(str(error))
        return 2
    except KeyboardInterrupt:
        errors.print("Interrupted: nothing is left running.")
        return _INTERRUPTED


def perform(stage: Stage, *, seconds: float) -> tuple[dict[Act, Tally], Verdict]:
    """Play all acts before a stage and judge them; raises ``DemoError``."""
    tallies: dict[Act, Tally] = {}
    for act in ACTS:
        stage.begin(act, tallies)
        tallies[act] = play(act, seconds=act.part * seconds, progress=partial(stage.progress, act))
        stage.end(act, tallies[act])
    return tallies, judge(tallies)


def _introduction() -> str:
    weights = {tier: terms["weight"] for tier, terms in TIERS.items()}
    quiet = ", ".join(f"{role.name} ({role.tier})" for role in QUIET)
    return f"""\
[bold]A noisy neighbour, and what helps[/bold]

A real uvicorn on 127.0.0.1 serves an API. Behind it is a pretend database: a query takes 10-30 ms \
while {SLOTS} or fewer run. More of them share what it can do, and lose a little more to crowding.

  {quiet}: quiet customers, {QUIET[0].per_s:.0f} requests/s each
  {FLOOD.name} ({FLOOD.tier}): a runaway script, {FLOOD.connections} connections that never pause
  {IMPORTER.name} ({IMPORTER.tier}): a big job of a paying customer, {IMPORTER.connections} connections

Free customers have weight {weights["free"]}, pro customers {weights["pro"]}; only the fair queues know that.
"""


def _epilogue(console: Console, tallies: dict[Act, Tally], verdict: Verdict) -> None:
    console.print()
    console.print(results(tallies))
    console.print(f"\n{verdict.sentence}", style="bold" if verdict.held else "")
    if verdict.held:
        console.print(_WHAT_NEXT, markup=False, soft_wrap=True)
