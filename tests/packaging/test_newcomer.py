"""A newcomer follows the README from an empty directory to a fair queue: three commands, three lines of code.

The commands and the code are taken from the README itself. Only where a package comes from is different here: the wheel
that was just built, with what it asks for linked from the environment of this run.
"""

from __future__ import annotations

import http.client
import re
import socket
import subprocess
import time
from pathlib import Path

import pytest
from test_wheel import ROOT, make_environment, wheel

__all__ = ["wheel"]

README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICK_START = README.partition("## Quick start")[2].partition("\n## ")[0]


def blocks(language: str) -> list[list[str]]:
    """The code blocks of the quick start in a language, as lines that are not blank."""
    found = re.findall(rf"```{language}\n(.*?)```", QUICK_START, flags=re.DOTALL)
    return [[line for line in block.splitlines() if line.strip()] for block in found]


def test_the_quick_start_is_at_most_three_commands_and_three_lines_of_code() -> None:
    commands, code = blocks("bash")[0], blocks("python")[0]
    assert len(commands) <= 3
    assert len(code) <= 3


@pytest.mark.slow
def test_the_quick_start_leads_from_an_empty_directory_to_a_fair_queue(tmp_path: Path, wheel: Path) -> None:
    make_venv, install, serve = blocks("bash")[0]
    assert make_venv == "python3 -m venv venv"
    extra = re.fullmatch(r'venv/bin/pip install "ezthrottle-provider\[(\w+)\]"', install)
    assert extra is not None
    make_environment(tmp_path / "venv", wheel, extras=frozenset({extra[1]}))
    (tmp_path / "app.py").write_text("\n".join(blocks("python")[0]) + "\n", encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [tmp_path / "venv" / "bin" / "python", "-m", serve.removeprefix("venv/bin/").split()[0]]
    server = subprocess.Popen(
        [*command, *serve.split()[1:], "--port", str(port)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        response = ask(port, {"x-api-key": "me"})
        assert response.status == 200
        assert float(response.headers["x-ezthrottle-rps"]) > 0
        assert response.headers["x-ezthrottle-max-concurrent"] == "32"
    finally:
        server.terminate()
        server.communicate(timeout=10)


def ask(port: int, headers: dict[str, str]) -> http.client.HTTPResponse:
    """Ask for the app's own source as soon as the server answers."""
    give_up = time.monotonic() + 20
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/app.py", headers=headers)
            response = connection.getresponse()
            response.read()
        except ConnectionRefusedError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.05)
        else:
            return response
        finally:
            connection.close()
