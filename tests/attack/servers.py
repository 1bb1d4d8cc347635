"""Real ASGI servers in processes of their own, each on a port of its own, ended with all that they started."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

__all__ = ["SERVERS", "Server"]

_FOLDER = Path(__file__).resolve().parents[1]
_STARTS_WITHIN_S = 20.0
_ENDS_WITHIN_S = 5.0

SERVERS = {
    "uvicorn": ["uvicorn", "{app}", "--host=127.0.0.1", "--port={port}", "--log-level=critical"],
    "hypercorn": ["hypercorn", "{app}", "--bind=127.0.0.1:{port}", "--workers=0", "--log-level=CRITICAL"],
    "granian": [
        "granian",
        "{app}",
        "--interface=asgi",
        "--host=127.0.0.1",
        "--port={port}",
        "--workers=1",
        "--log-level=critical",
    ],
}


class Server:
    """One server, running until the block ends; ``state`` asks the app what is held."""

    def __init__(self, kind, *, app="app"):
        self.kind = kind
        self.port = _free_port()
        self._app = f"attack.apps:{app}"

    def __enter__(self):
        self._output = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-m", *(part.format(app=self._app, port=self.port) for part in SERVERS[self.kind])],
            cwd=_FOLDER,  # "python -m" finds the app there
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(_FOLDER), *filter(None, sys.path)])},
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            self._await_start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *details):
        for number, patience_s in ((signal.SIGTERM, _ENDS_WITHIN_S), (signal.SIGKILL, None)):
            try:
                os.killpg(self._process.pid, number)
                self._process.wait(patience_s)
                break
            except subprocess.TimeoutExpired:
                continue
            except ProcessLookupError:
                self._process.wait()
                break
        self._output.close()

    def _await_start(self):
        deadline = time.monotonic() + _STARTS_WITHIN_S
        while True:
            try:
                self.state()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self._output.seek(0)
                    raise AssertionError(f"{self.kind} did not start: {self._output.read().decode()}") from None
                time.sleep(0.02)

    def state(self):
        """What requests hold inside the server, by ``apps.held``."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5.0)
        try:
            connection.request("GET", "/-/state")
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def await_state(self, within_s, **expected):
        """Ask until the state is as expected, for the seconds that are given; return the last state and the seconds."""
        begun = time.monotonic()
        while True:
            state = self.state()
            took_s = time.monotonic() - begun
            if all(state[name] == value for name, value in expected.items()) or took_s > within_s:
                return state, took_s
            time.sleep(0.02)

    def at_rest(self, within_s=3.0):
        """Wait until nothing is held any more; return what still is."""
        begun = time.monotonic()
        while (held := {name: value for name, value in self.state().items() if value}) and (
            time.monotonic() - begun < within_s
        ):
            time.sleep(0.05)
        return held


def _free_port():
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
