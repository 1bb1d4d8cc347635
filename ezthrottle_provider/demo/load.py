"""The load: every customer of the demo over real sockets, in a process of its own.

``python -m ezthrottle_provider.demo.load --port 8000 --seconds 5 --lead-in 1 --flood`` prints, every 250 ms, an object
``{"samples": [[name, status, latency_ms], ...], "counted_s": x, "late_ms": y}``. What happens in the lead-in, while
queues still fill, is not counted. ``late_ms`` is how late the load itself was with a request at worst.

Quiet customers are an open loop: requests leave on a fixed schedule, however slow the API is, and their latency counts
from the moment at which they should have left. The flood is a closed loop: each connection asks again as soon as it is
answered, and a refusal waits for its Retry-After.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import Any, Final

from .cast import ROLES, Role
from .children import end_with_parent

__all__ = ["Answer", "Connection", "Load", "main"]

_HOST: Final = "127.0.0.1"
_TELL_EVERY_S: Final = 0.25
_STRAGGLERS_S: Final = 3.0
_BROKEN_S: Final = 0.5  # pause of a flooding connection that broke
_UNANSWERED: Final = 0
_BROKEN: Final = (OSError, EOFError, ValueError)

Answer = tuple[int, float]
"""Status and seconds to wait (0 without a Retry-After)."""


class Connection:
    """One keep-alive connection that speaks as much HTTP/1.1 as the demo API: bodies come with their length."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Connection:
        """Connect; raises ``OSError``."""
        return cls(*await asyncio.open_connection(_HOST, port))

    async def get(self, role: Role) -> Answer:
        """Ask for the report with a customer's key; raises ``OSError``, ``EOFError`` or ``ValueError`` when broken."""
        self._writer.write(b"GET /report HTTP/1.1\r\nhost: demo\r\nx-api-key: %s\r\n\r\n" % role.key.encode())
        status_line, *lines = (await self._reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[:-2]
        headers = dict(line.lower().split(b": ", 1) for line in lines)
        await self._reader.readexactly(int(headers[b"content-length"]))
        return int(status_line.split(b" ", 2)[1]), float(headers.get(b"retry-after", b"0"))

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


class Load:
    """All customers for ``seconds``; those that flood only with ``flood``."""

    def __init__(self, port: int, *, seconds: float, lead_in_s: float, flood: bool) -> None:
        self._port = port
        self._roles = tuple(role for role in ROLES if role.quiet or flood)
        self._begin = time.perf_counter()
        self._counts_from = self._begin + lead_in_s
        self._end = self._begin + seconds
        self._samples: list[tuple[str, int, float]] = []
        self._late_s = 0.0

    async def run(self) -> None:
        """Run it all and print what happens; the flood goes on until the last quiet request is answered."""
        telling = asyncio.create_task(self._tell_regularly())
        quiet = [role for role in self._roles if role.quiet]
        flood = [
            asyncio.create_task(self._hammer(role))
            for role in self._roles
            for _ in range(role.connections)
        ]  # fmt: skip
        # Each starts at a moment of its own, or all of them would ask in the same millisecond, always.
        await asyncio.gather(*(self._keep_schedule(role, n / len(quiet)) for n, role in enumerate(quiet)))
        for task in (*flood, telling):
            task.cancel()
        await asyncio.wait((*flood, telling))
        self._tell()

    async def _keep_schedule(self, role: Role, phase: float) -> None:
        idle: list[Connection] = []
        asked: list[asyncio.Task[None]] = []
        due = self._begin + phase / role.per_s
        while due < self._end:
            await asyncio.sleep(due - time.perf_counter())
            asked.append(asyncio.create_task(self._ask(role, due, idle)))
            due += 1.0 / role.per_s
        _, stragglers = await asyncio.wait(asked, timeout=_STRAGGLERS_S)
        for task in stragglers:
            task.cancel()  # counts as unanswered, with the time that it has taken so far

    async def _ask(self, role: Role, due: float, idle: list[Connection]) -> None:
        if due >= self._counts_from:
            self._late_s = max(self._late_s, time.perf_counter() - due)
        status = _UNANSWERED
        connection = None
        try:
            connection = idle.pop() if idle else await Connection.open(self._port)
            status, _ = await connection.get(role)
            idle.append(connection)
        except _BROKEN:
            pass
        finally:
            if status == _UNANSWERED and connection is not None:
                connection.close()
            self._note(role, status, since=due, counted_at=due)

    async def _hammer(self, role: Role) -> None:
        connection = None
        while True:
            sent = time.perf_counter()
            try:
                connection = connection or await Connection.open(self._port)
                status, wait_s = await connection.get(role)
            except _BROKEN:
                status, wait_s, connection = _UNANSWERED, _BROKEN_S, None
            self._note(role, status, since=sent, counted_at=time.perf_counter())
            if status != 200:
                await asyncio.sleep(wait_s)

    def _note(self, role: Role, status: int, *, since: float, counted_at: float) -> None:
        # A schedule is judged by all that left within the window, however late they came back; a closed loop by what
        # came back within it, or the waiting that the window cuts off at its ends would look like lost throughput.
        if self._counts_from <= counted_at < self._end:
            self._samples.append((role.name, status, round((time.perf_counter() - since) * 1e3, 3)))

    async def _tell_regularly(self) -> None:
        while True:
            await asyncio.sleep(_TELL_EVERY_S)
            self._tell()

    def _tell(self) -> None:
        counted_s = max(0.0, min(time.perf_counter(), self._end) - self._counts_from)
        batch: dict[str, Any] = {
            "samples": self._samples,
            "counted_s": round(counted_s, 3),
            "late_ms": round(self._late_s * 1e3, 1),
        }
        self._samples, self._late_s = [], 0.0
        print(json.dumps(batch), flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Run the load once."""
    parser = argparse.ArgumentParser(prog="ezthrottle_provider.demo.load")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--lead-in", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--flood", action="store_true")
    options = parser.parse_args(arguments)
    end_with_parent(at_most_s=options.seconds + 2 * _STRAGGLERS_S)

    async def run() -> None:
        await Load(options.port, seconds=options.seconds, lead_in_s=options.lead_in, flood=options.flood).run()

    asyncio.run(run())


if __name__ == "__main__":
    main()
