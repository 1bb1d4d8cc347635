"""The demo, played in five seconds for real, and the ways in which it ends."""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from ezthrottle_provider.demo import perform, run
from ezthrottle_provider.demo.acts import ACTS, ALONE, FAIR, SHARED, UNGUARDED, Act, DemoError, Tally, play
from ezthrottle_provider.demo.cast import FLOOD, IMPORTER, QUIET, ROLES
from ezthrottle_provider.demo.stage import Lines, picture
from ezthrottle_provider.demo.verdict import TOLERATED, judge

ESCAPE = "\x1b"
PATIENCE_S = 20.0
GONE_S = 3.0


@contextlib.contextmanager
def started(**options: object) -> Iterator[subprocess.Popen[str]]:
    """``run`` in a process of its own, that ctrl-C reaches wherever the tests were started from."""
    source = (
        "import signal, sys; from ezthrottle_provider.demo import run;"
        f"signal.signal(signal.SIGINT, signal.default_int_handler); sys.exit(run(**{options!r}))"
    )
    command = [sys.executable, "-u", "-c", source]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    """The first match in what a process prints."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        found = re.search(pattern, line)
        if found is not None:
            return found
    raise AssertionError(f"it ended without {pattern!r}:\n{seen}")


def children_of(pid: int) -> list[int]:
    """The processes that a process started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if state != "Z" and int(parent) == pid:
                found.append(int(path.parent.name))
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def happens(condition: Callable[[], bool], *, within_s: float) -> bool:
    """Whether a condition comes true in time."""
    give_up_at = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > give_up_at:
            return False
        time.sleep(0.05)
    return True


def refuses_connections(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")


# The whole of it


@pytest.fixture(scope="module")
def played() -> tuple[dict[Act, Tally], str]:
    """All acts, and what was printed."""
    output = io.StringIO()
    tallies, _ = perform(Lines(Console(file=output, width=80)), seconds=5)
    return tallies, output.getvalue()


@pytest.mark.slow
def test_the_flood_hurts_in_one_shared_queue_and_not_in_fair_queues(played: tuple[dict[Act, Tally], str]) -> None:
    tallies, _ = played
    alone, unguarded, shared, fair = (tallies[act] for act in ACTS)
    # The controls: if these were not bad, the last act would show nothing.
    assert unguarded.quiet_p99_ms > TOLERATED * alone.quiet_p99_ms
    assert shared.quiet_p99_ms > TOLERATED * alone.quiet_p99_ms
    assert fair.quiet_p99_ms < shared.quiet_p99_ms / 3
    assert 0 == fair.quiet_refused
    assert all(tally.quiet_asked >= 20 for tally in tallies.values())


@pytest.mark.slow
def test_the_paying_customer_gets_more_in_fair_queues_only(played: tuple[dict[Act, Tally], str]) -> None:
    tallies, _ = played
    assert tallies[SHARED].served[IMPORTER.name] < tallies[SHARED].served[FLOOD.name]
    assert tallies[FAIR].served[IMPORTER.name] > 2 * tallies[FAIR].served[FLOOD.name]


@pytest.mark.slow
def test_without_a_terminal_there_are_lines_and_no_control_codes(played: tuple[dict[Act, Tally], str]) -> None:
    _, output = played
    assert ESCAPE not in output
    assert output.isascii()
    assert [1, 1, 1] == [output.count(f"Act {number} of 3") for number in (1, 2, 3)]


# Its judgement, with numbers that nobody measured


def tally(p99_ms: float, **counts: int) -> Tally:
    """An act in which each quiet customer had 100 requests, all of one latency."""
    made = Tally(seconds=5.0, counted_s=5.0)
    for role in QUIET:
        for _ in range(100):
            made.note(role.name, 200, p99_ms)
    for name, served in counts.items():
        made.served[name] = served
    return made


def acts(*, alone: float = 30, unguarded: float = 900, shared: float = 500, fair: float = 40) -> dict[Act, Tally]:
    return {
        ALONE: tally(alone),
        UNGUARDED: tally(unguarded, importer=150, scraper=600),
        SHARED: tally(shared, importer=350, scraper=1300),
        FAIR: tally(fair, importer=1250, scraper=312),
    }


def test_a_run_that_kept_the_promise_is_told_with_its_own_numbers() -> None:
    verdict = judge(acts())
    assert verdict.held
    assert "" == verdict.hint
    for number in ("30 ms", "900 ms", "500 ms", "40 ms", "1.3 x", "of their 300 requests none was", "4.0 times"):
        assert number in verdict.sentence


@pytest.mark.parametrize(
    ("figures", "reason"),
    [
        ({"fair": 500.0}, "waited more than"),
        ({"shared": 31.0}, "hurt nobody"),
    ],
)
def test_a_run_that_did_not_keep_it_or_shows_nothing_says_so(figures: dict[str, float], reason: str) -> None:
    verdict = judge(acts(**figures))
    assert not verdict.held
    assert reason in verdict.hint


@pytest.mark.parametrize("status", [429, 0])
def test_one_quiet_request_refused_or_lost_breaks_the_promise(status: int) -> None:
    tallies = acts()
    tallies[FAIR].note(QUIET[0].name, status, 1.0)
    verdict = judge(tallies)
    assert not verdict.held
    assert "1 requests of quiet customers were refused or not answered" in verdict.hint


def test_a_run_that_measured_nothing_kept_no_promise() -> None:
    assert not judge({**acts(), FAIR: Tally(seconds=5.0)}).held


def test_a_busy_machine_is_named_as_the_likely_reason() -> None:
    tallies = acts(fair=500)
    tallies[FAIR].late_ms = 400.0
    assert "up to 400 ms late" in judge(tallies).hint


# How it looks


def test_the_live_picture_fits_a_terminal_of_80_columns_and_24_rows() -> None:
    tallies = acts()
    tallies[FAIR].refused[FLOOD.name] = 1234
    for act in ACTS:
        tallies[act].counted_s = 4.0
        tallies[act].latencies_ms[FLOOD.name] = [1999.0, 10234.0]
    output = io.StringIO()
    Console(file=output, width=80).print(picture(FAIR, tallies))
    lines = output.getvalue().splitlines()
    assert len(lines) < 24  # one is the cursor's
    assert max(map(len, lines)) <= 80
    assert "1 s left" in output.getvalue()
    assert "1234 refused" in output.getvalue()
    for role in ROLES:
        assert any(line.lstrip().startswith(f"{role.name} ({role.tier})") for line in lines)


@pytest.mark.parametrize(("plain", "stage"), [(False, "Terminal"), (True, "Lines")])
def test_a_terminal_gets_the_live_table_unless_it_wants_it_plain(plain: bool, stage: str) -> None:
    source = (
        "from ezthrottle_provider.demo.stage import stage_for\n"
        f"with stage_for(plain={plain}) as stage: stage.console.print('it is', type(stage).__name__)"
    )
    ours, theirs = os.openpty()
    environment = {**os.environ, "TERM": "xterm-256color"}
    subprocess.run([sys.executable, "-c", source], stdout=theirs, env=environment, check=True, timeout=PATIENCE_S)
    shown = os.read(ours, 4096).decode()
    os.close(theirs)
    os.close(ours)
    assert f"it is {stage}" in shown
    assert plain == (ESCAPE not in shown)


# How it ends


@needs_proc
@pytest.mark.slow
def test_ctrl_c_ends_it_with_130_and_leaves_nothing_running() -> None:
    with started(plain=True) as demo:
        read_until(demo, "Prologue")
        assert happens(lambda: len(children_of(demo.pid)) == 2, within_s=PATIENCE_S)
        children = children_of(demo.pid)
        demo.send_signal(signal.SIGINT)
        read_until(demo, "Interrupted")
        assert 130 == demo.wait(PATIENCE_S)
        assert [] == [pid for pid in children if is_running(pid)]


@needs_proc
@pytest.mark.slow
def test_what_it_started_dies_with_it_even_when_it_is_killed() -> None:
    with started(plain=True) as demo:
        read_until(demo, "Prologue")
        assert happens(lambda: len(children_of(demo.pid)) == 2, within_s=PATIENCE_S)
        children = children_of(demo.pid)
        demo.kill()
        assert happens(lambda: not any(map(is_running, children)), within_s=GONE_S)


@pytest.mark.slow
def test_serve_keeps_a_fair_api_up_until_ctrl_c() -> None:
    with started(serve=True, port=0) as demo:
        port = int(read_until(demo, r"is up at http://127\.0\.0\.1:(\d+)").group(1))
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)) as connection:
            connection.request("GET", "/report", headers={"x-api-key": QUIET[0].key})
            response = connection.getresponse()
            assert 200 == response.status
            assert b"database_ms" in response.read()
            assert float(response.headers["x-ezthrottle-rps"]) > 0
        demo.send_signal(signal.SIGINT)
        read_until(demo, "Stopped")
        assert 0 == demo.wait(PATIENCE_S)
    assert refuses_connections(port)


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert 2 == run(serve=True, port=port)
    assert f"Cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


@pytest.mark.slow
def test_a_server_that_does_not_start_says_why() -> None:
    act = replace(ALONE, limiter="nonsense")
    with pytest.raises(DemoError, match=r"(?s)did not start.*invalid choice: 'nonsense'"):
        play(act, seconds=1.0, progress=lambda tally: None)


@pytest.mark.slow
def test_a_config_of_the_users_does_not_change_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EZTHROTTLE_CONFIG", "/nowhere/ezthrottle.toml")
    tally = play(replace(FAIR, number=0), seconds=1.0, progress=lambda tally: None)
    assert 0 == tally.quiet_refused
    assert tally.quiet_asked > 0
