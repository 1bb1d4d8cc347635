"""A real uvicorn in a process of its own, pinned to a core that the load generator does not use.

with Placement() as placement, Server(Serve(limiter="fair", slots=8), placement) as server:
    connect to 127.0.0.1:server.port
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal

import uvicorn

from .apps import Framework, build

__all__ = ["Placement", "Serve", "Server", "raise_open_files", "stack"]

_ROOT: Final = Path(__file__).resolve().parents[2]
_STAT: Final = Path("/proc/stat")
_BACKLOG: Final = 4096  # a flood connects at once
_OPEN_FILES: Final = 8192
_IDLE_FOR_S: Final = 600  # a connection that the server closed between two requests would count as a failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Serve:
    """What to serve. ``options`` are those of ``ASGIFairQueue``; ``workers`` bounds the API itself (see ``Api``)."""

    limiter: Literal["fair", "fifo", "none"]
    slots: int
    framework: Framework = "none"
    workers: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    loop: Literal["auto", "asyncio"] = "auto"
    http: Literal["auto", "h11"] = "auto"


class Placement:
    """Server and generator on a core each, where the system can do that; afterwards all is as it was before."""

    def __init__(self) -> None:
        self._before: frozenset[int] = frozenset()
        self.server_core: int | None = None
        self._own_core: int | None = None

    def __enter__(self) -> Placement:
        """Take the second core for this process, and keep the first for servers."""
        if hasattr(os, "sched_setaffinity"):
            self._before = frozenset(os.sched_getaffinity(0))
            if len(self._before) > 1:
                self.server_core, self._own_core, *_ = sorted(self._before)
                os.sched_setaffinity(0, {self._own_core})
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.server_core is not None:
            os.sched_setaffinity(0, self._before)

    def busy_s(self) -> float | None:
        """Return the seconds that the two cores have worked so far, for whomever; None where nobody counts them."""
        if self.server_core is None or not _STAT.exists():
            return None
        ticks = 0
        for line in _STAT.read_text(encoding="ascii").splitlines():
            name, *fields = line.split()
            if name in (f"cpu{self.server_core}", f"cpu{self._own_core}"):
                user, nice, system, _, _, irq, softirq, steal, *_ = map(int, fields)
                ticks += user + nice + system + irq + softirq + steal
        return ticks / os.sysconf("SC_CLK_TCK")

    def __str__(self) -> str:
        return "not pinned" if self.server_core is None else "server and generator pinned to a core each"


class Server:
    """A uvicorn that runs until the block ends. The socket listens before this returns, so nobody has to wait."""

    def __init__(self, serve: Serve, placement: Placement) -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG) as listener:
            self.port: int = listener.getsockname()[1]
            order = {**asdict(serve), "fd": listener.fileno(), "core": placement.server_core}
            self._process = subprocess.Popen(
                [sys.executable, "-m", "loadtests.harness.servers", json.dumps(order)],
                cwd=_ROOT,
                stdin=subprocess.PIPE,  # its end tells the server to end, also when this process is killed
                pass_fds=[listener.fileno()],
            )

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._process:  # waits, and closes its stdin
            self._process.kill()  # nothing in it is worth the second that a graceful end takes


def raise_open_files() -> None:
    """Allow this process as many sockets as a flood needs; macOS starts with 256."""
    import resource  # not on Windows, where there is no such limit

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def stack() -> str:
    """Return what uvicorn's ``auto`` picks here."""
    loop = "uvloop" if importlib.util.find_spec("uvloop") else "asyncio"
    http = "httptools" if importlib.util.find_spec("httptools") else "h11"
    return f"uvicorn {uvicorn.__version__} ({loop}, {http})"


def _main(order: dict[str, Any]) -> None:
    if order["core"] is not None:
        os.sched_setaffinity(0, {order["core"]})
    raise_open_files()
    # It hints that so few slots leave the process idle, which is true and the point of a service time that is slept.
    logging.getLogger("ezthrottle_provider").setLevel(logging.ERROR)
    kinds = ("slots", "workers", "options", "framework")
    app: Any = build(order["limiter"], **{kind: order[kind] for kind in kinds})
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            loop=order["loop"],
            http=order["http"],
            lifespan="off",
            access_log=False,
            log_level="critical",  # it logs each slow reader that is cut off; errors of a handler are seen as answers
            timeout_keep_alive=_IDLE_FOR_S,
            timeout_graceful_shutdown=1,
        )
    )

    def end_with_parent() -> None:
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=end_with_parent, daemon=True).start()
    server.run(sockets=[socket.socket(fileno=order["fd"])])


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
