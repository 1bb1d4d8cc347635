"""The runner behind ``make bench`` must not call a benchmark good that broke, hung or measured nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from loadtests.run_all import main, parse_result, run_script

HOLDS = 'print("a line"); print(\'RESULT {"ok": true, "ratio": 1.125}\')'
# What a benchmark starts and may forget to end.
SERVER = [sys.executable, "-c", "import threading; threading.Event().wait(600)"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for scripts, of another name than the real one, which would be found first."""
    folder = tmp_path / "measurements"
    folder.mkdir()
    return folder


def script(folder: Path, name: str, source: str) -> Path:
    path = folder / f"{name}.py"
    path.write_text(source, encoding="utf-8")
    return path


def test_a_script_that_holds_gives_its_figures(folder: Path) -> None:
    outcome = run_script(script(folder, "bench_good", HOLDS))
    assert outcome.ok
    assert {"ok": True, "ratio": 1.125} == outcome.figures


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ('print("RESULT {}"); raise SystemExit(3)', "exit code 3"),
        ('print("nothing measured")', "printed no RESULT line"),
        ('print("RESULT [1, 2]")', "printed no RESULT line"),
        ("print('RESULT {\"ok\": false}')", 'said "ok": false'),
    ],
)
def test_a_script_that_does_not_hold_is_a_failure(folder: Path, source: str, problem: str) -> None:
    assert problem == run_script(script(folder, "bench_bad", source)).problem


def test_a_script_that_hangs_is_ended_together_with_what_it_started(folder: Path) -> None:
    source = f"import subprocess; subprocess.run({SERVER})"
    outcome = run_script(script(folder, "bench_stuck", source), time_limit_s=0.5)
    assert "took longer than 0.5 s" == outcome.problem
    assert outcome.elapsed_s < 30


def test_a_server_that_a_script_forgot_does_not_keep_the_run_waiting(folder: Path) -> None:
    forget = f"import subprocess; subprocess.Popen({SERVER})\n"
    outcome = run_script(script(folder, "bench_forgetful", forget + HOLDS), time_limit_s=60)
    assert outcome.ok
    assert outcome.elapsed_s < 30


def test_one_failure_fails_the_whole_run_and_every_figure_is_kept(folder: Path) -> None:
    script(folder, "bench_good", HOLDS)
    script(folder, "bench_bad", "raise SystemExit(1)")
    assert 1 == main(["bench"], folder=folder)
    report = json.loads((folder.parent / "build" / "bench.json").read_text(encoding="utf-8"))
    assert [("bench_bad", False), ("bench_good", True)] == [(row["name"], row["ok"]) for row in report["results"]]
    assert 1.125 == report["results"][1]["figures"]["ratio"]


def test_only_picks_by_a_part_of_the_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script(folder, "bench_good", HOLDS)
    script(folder, "bench_bad", "raise SystemExit(1)")
    script(folder, "chaos_good", HOLDS)
    assert 0 == main(["bench", "--only", "good"], folder=folder)
    assert "bench_good: ok" in capsys.readouterr().out


def test_a_run_that_finds_nothing_is_not_a_success(folder: Path) -> None:
    assert 2 == main(["chaos"], folder=folder)


@pytest.mark.parametrize("line", ["", "RESULT", "RESULT ", "RESULT nothing", " RESULT {}", "result {}", "RESULT 1"])
def test_only_a_json_object_counts_as_a_result(line: str) -> None:
    assert parse_result(line) is None
