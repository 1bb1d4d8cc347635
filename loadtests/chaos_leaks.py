"""No leaks: 10,000 requests with random disconnects, resets, cancellations, errors, timeouts, streams on each server.

In the end no slot may be in use, nothing may wait, and nothing may be kept for anybody who has left; the server must
still fill all of its slots. The control serves the same storm through a wrapper that forgets to leave now and then.

    python -m loadtests.chaos_leaks [--requests 10000]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

from rich.console import Console
from rich.table import Table

from tests.attack.servers import SERVERS, Server
from tests.attack.storms import storm

__all__ = ["main"]

_SLOTS = 6  # as tests/attack/apps.py says
_LONGEST_DISCONNECT_S = 1.5


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns 0 when nothing leaked on any server and the control did."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=10_000, metavar="N", help="per server")
    requests = parser.parse_args(argv).requests
    table = Table(title="What is held after the storm", title_justify="left")
    for column in ("server", "requests", "answered", "given up by the client", "still held", "place freed after"):
        table.add_column(column)
    figures: dict[str, object] = {}
    ok = True
    for kind in SERVERS:
        with Server(kind) as server:
            begun = time.monotonic()
            ended = asyncio.run(storm(server.port, requests, seed=len(kind)))
            held = server.at_rest(within_s=10.0)
            freed_s = _free_a_place(server)
            answered = sum(number for how, number in ended.items() if how.startswith("read "))
            table.add_row(
                kind, str(requests), str(answered), str(requests - answered), json.dumps(held), f"{freed_s:.2f} s"
            )
            figures[kind] = {
                "held": held,
                "place_freed_s": round(freed_s, 2),
                "storm_s": round(time.monotonic() - begun, 1),
                "ended": dict(sorted(ended.items())),
            }
            ok = ok and not held and freed_s <= _LONGEST_DISCONNECT_S
    with Server("uvicorn", app="forgetful") as server:
        asyncio.run(storm(server.port, requests // 20))
        held = server.at_rest(within_s=2.0)
        table.add_row("control: forgets to leave", str(requests // 20), "", "", json.dumps(held), "")
        figures["control_held"] = held
        ok = ok and bool(held)
    Console(width=140).print(table)
    print("RESULT " + json.dumps({"ok": ok, **figures}), flush=True)
    return 0 if ok else 1


def _free_a_place(server: Server) -> float:
    """Fill all slots, let one more wait and leave; return the seconds until its place is free."""
    with ExitStack() as clients:
        for _ in range(_SLOTS):
            clients.enter_context(_sent(server, "/hold"))
        server.await_state(5.0, in_flight=_SLOTS)
        waiting = _sent(server, "/work")
        state, _ = server.await_state(0.3, waiting=1)
        if (state["in_flight"], state["waiting"]) != (_SLOTS, 1):
            return float("inf")  # slots or places are missing: the storm has left something behind
        waiting.close()
        state, took_s = server.await_state(10.0, waiting=0)
        return took_s if not state["waiting"] else float("inf")


def _sent(server: Server, path: str) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.port), timeout=5.0)
    client.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    return client


if __name__ == "__main__":
    sys.exit(main())
