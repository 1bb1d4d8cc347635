"""A storm of clients that behave as badly as clients do: they vanish, reset, stall, send halves, and read halves."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import Counter

__all__ = ["storm"]

_PATHS = [
    "/work",
    "/work",
    "/work",
    "/error",
    "/late-error",
    "/stream",
    "/big",
    "/timeout",
    "/cancel",
    "/background",
    "/upload",
    "/first-byte",
    "/none",
]
_ENDINGS = ["read", "read", "read", "vanish", "vanish later", "reset", "half a head", "half a body", "half an answer"]
_AT_ONCE = 64
_PATIENCE_S = 10.0
_BODY = b"b" * 2_000


async def storm(port, requests, *, seed=0):
    """Send so many requests; return how they ended: ``"read 200"``, ``"vanish"``, and so on."""
    random_ = random.Random(seed)
    todo = [(random_.choice(_PATHS), random_.choice(_ENDINGS), random_.randrange(7)) for _ in range(requests)]
    ended = Counter()

    async def client():
        while todo:
            path, ending, key = todo.pop()
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    ended[await _request(port, path, ending, key, random_)] += 1
            except (OSError, asyncio.IncompleteReadError):
                ended["connection lost"] += 1

    await asyncio.gather(*(client() for _ in range(_AT_ONCE)))
    return ended


async def _request(port, path, ending, key, random_):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = _head(path, key, with_body=path == "/upload" or ending == "half a body")
        if ending == "half a head":
            writer.write(head[: len(head) // 2])
            await writer.drain()
            return ending
        writer.write(head)
        if ending == "half a body":
            writer.write(_BODY[:500])
        elif path == "/upload":
            writer.write(_BODY)
        await writer.drain()
        if ending in ("vanish later", "reset", "half a body"):
            await asyncio.sleep(random_.uniform(0.0, 0.3))
        if ending == "reset":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        if ending == "half an answer":
            await reader.read(20)
        if ending == "read":
            answer = await reader.read()
            return f"read {answer[9:12].decode() or 'nothing'}"
        return ending
    finally:
        writer.transport.abort() if ending == "reset" else writer.close()


def _head(path, key, *, with_body):
    lines = [f"{'POST' if with_body else 'GET'} {path} HTTP/1.1", "host: localhost", "connection: close"]
    if key:
        lines.append(f"x-api-key: key-{key}")
    if with_body:
        lines.append(f"content-length: {len(_BODY)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
