"""Runs the benchmarks (``bench_*.py``) or the fault runs (``chaos_*.py``) of this folder, one after another.

A script prints what it likes and, last, one line ``RESULT {json object}`` with its figures. It has failed when it exits
non-zero, prints no such line, says ``"ok": false`` in it, or takes too long. The scripts never run side by side: each
would measure the other. All figures go to ``build/<kind>.json``, the exit code says whether every script held.

    python -m loadtests.run_all bench --only isolation --only shares
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

__all__ = ["Outcome", "discover", "main", "parse_result", "run_script"]

HERE = Path(__file__).resolve().parent
RESULT_PREFIX = "RESULT "
# The longest of them interleaves its legs three times; one that needs longer than this is stuck.
TIME_LIMIT_S = 1200.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one script ended: ``problem`` is empty when it held, ``figures`` is what it measured."""

    name: str
    elapsed_s: float
    problem: str = ""
    figures: Mapping[str, object] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.problem


def discover(folder: Path, kind: str, only: Sequence[str] = ()) -> list[Path]:
    """The scripts of a kind, by name; with ``only``, those whose name contains one of its words."""
    scripts = sorted(folder.glob(f"{kind}_*.py"))
    return [script for script in scripts if not only or any(word in script.stem for word in only)]


def parse_result(line: str) -> dict[str, object] | None:
    """The figures of a ``RESULT`` line, ``None`` for any other line."""
    if not line.startswith(RESULT_PREFIX):
        return None
    try:
        figures = json.loads(line.removeprefix(RESULT_PREFIX))
    except ValueError:
        return None
    return figures if isinstance(figures, dict) else None


def run_script(script: Path, *, time_limit_s: float = TIME_LIMIT_S) -> Outcome:
    """Run one script, showing its output as it comes. It and all that it started are gone afterwards."""
    started = time.monotonic()
    figures: dict[str, object] | None = None
    # A session of its own, so that servers that a script started can be ended with it.
    process = subprocess.Popen(
        [sys.executable, "-m", f"{script.parent.name}.{script.stem}"],
        cwd=script.parent.parent,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    timed_out = threading.Event()

    def supervise() -> None:
        try:
            process.wait(time_limit_s)
        except subprocess.TimeoutExpired:
            timed_out.set()
        _end_group(process)  # a forgotten server would hold our end of the pipe open

    supervisor = threading.Thread(target=supervise)
    supervisor.start()
    try:
        for line in _lines(process):
            figures = parse_result(line) or figures
            print(line, end="", flush=True)
    except KeyboardInterrupt:
        _end_group(process)  # being in a session of its own, it heard nothing of the interrupt
        raise
    finally:
        supervisor.join()
    exit_code = process.returncode
    if timed_out.is_set():
        problem = f"took longer than {time_limit_s:g} s"
    elif exit_code != 0:
        problem = f"exit code {exit_code}"
    elif figures is None:
        problem = "printed no RESULT line"
    elif figures.get("ok") is False:
        problem = 'said "ok": false'
    else:
        problem = ""
    return Outcome(
        name=script.stem, elapsed_s=round(time.monotonic() - started, 1), problem=problem, figures=figures or {}
    )


def main(argv: Sequence[str] | None = None, *, folder: Path = HERE) -> int:
    """The command line; returns the exit code: 0 when every script held, 1 when one did not, 2 when there was none."""
    options = _parser().parse_args(argv)
    scripts = discover(folder, options.kind, options.only)
    if options.list:
        print("\n".join(script.stem for script in scripts))
        return 0
    if not scripts:
        print(f"no {options.kind}_*.py in {folder.name}/ matches", file=sys.stderr)
        return 2
    outcomes: list[Outcome] = []
    try:
        for number, script in enumerate(scripts, start=1):
            print(f"\n==> [{number}/{len(scripts)}] {script.stem}", flush=True)
            outcome = run_script(script, time_limit_s=options.time_limit)
            outcomes.append(outcome)
            print(f"<== {script.stem}: {outcome.problem or 'ok'}, {outcome.elapsed_s} s", flush=True)
    except KeyboardInterrupt:
        print("\nstopped; what had ended:", file=sys.stderr)
    report = folder.parent / "build" / f"{options.kind}.json"
    _write_report(report, outcomes)
    _print_table(outcomes)
    print(f"figures: {report.relative_to(folder.parent)}")
    return 0 if len(outcomes) == len(scripts) and all(outcome.ok for outcome in outcomes) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.run_all", description="Run benchmarks or fault runs.")
    parser.add_argument("kind", choices=["bench", "chaos"])
    parser.add_argument("--only", action="append", default=[], metavar="WORD", help="those whose name contains it")
    parser.add_argument("--list", action="store_true", help="print their names and stop")
    parser.add_argument("--time-limit", type=float, default=TIME_LIMIT_S, metavar="SECONDS", help="for each of them")
    return parser


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    with process.stdout:
        yield from process.stdout


def _end_group(process: subprocess.Popen[str]) -> None:
    """End whatever is left of a script's session, the servers that it forgot included."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # the usual case: nothing was left
    except PermissionError:
        pass  # macOS says this of a group of which only the unreaped leader is left
    process.wait()


def _write_report(path: Path, outcomes: Sequence[Outcome]) -> None:
    path.parent.mkdir(exist_ok=True)
    machine = {"python": platform.python_version(), "system": platform.platform(), "cores": os.cpu_count()}
    results = [{"ok": outcome.ok, **asdict(outcome)} for outcome in outcomes]
    path.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n", encoding="utf-8")


def _print_table(outcomes: Sequence[Outcome]) -> None:
    table = Table(title="\nSummary", title_justify="left")
    for header in ("script", "held", "seconds", "figures"):
        table.add_column(header, justify="right" if header == "seconds" else "left", overflow="fold")
    for outcome in outcomes:
        figures = ", ".join(f"{name} {_short(value)}" for name, value in outcome.figures.items() if name != "ok")
        held = "[green]yes[/]" if outcome.ok else f"[red]no[/]: {outcome.problem}"
        table.add_row(outcome.name, held, f"{outcome.elapsed_s:.1f}", figures)
    Console().print(table)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value).strip('"')


if __name__ == "__main__":
    sys.exit(main())
