"""Noticing that a client went away while its request waits.

No ASGI server tells an app of a disconnect but through ``receive``, so while a request waits a ``receive`` is kept
pending. What comes through it is kept for the app, within bounds, and handed over in order; the pending call itself is
handed over too, since cancelling it could lose a message.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]

__all__ = ["WATCH_AFTER_S", "Inbox", "Room"]

# Watching costs a task; most waits are shorter than this. A disconnect is noticed one tick (250 ms) later at most.
WATCH_AFTER_S: Final = 0.5
_PER_REQUEST: Final = 64 * 1024
_PER_PROCESS: Final = 16 * 1024 * 1024


class Room:
    """The bytes of bodies that all waiting requests of a process have read early; bounded."""

    __slots__ = ("used",)

    def __init__(self) -> None:
        self.used = 0

    def left(self) -> bool:
        """Tell whether another message may be read (one message may go beyond the bound, never two)."""
        return self.used < _PER_PROCESS


class Inbox:
    """The receiving side of one request that waits; ``receive`` gives the app every message exactly once."""

    __slots__ = ("_buffer", "_on_disconnect", "_pending", "_receive", "_room", "_size", "_watching")

    def __init__(self, receive: Receive, room: Room, on_disconnect: Callable[[], None]) -> None:
        self._receive = receive
        self._room = room
        self._on_disconnect = on_disconnect
        self._buffer: deque[Message] = deque()
        self._pending: asyncio.Future[Message] | None = None
        self._size = 0
        self._watching = False

    def watch(self) -> None:
        """Begin to read ahead, until the client is gone or the bound is reached."""
        self._watching = self._room.left()
        if self._watching:
            self._read()

    def stop(self) -> None:
        """End the watch: from now on only the app reads."""
        self._watching = False

    def close(self) -> None:
        """Let go of what nobody will ask for any more."""
        self._watching = False
        self._room.used -= self._size
        self._size = 0
        self._buffer.clear()
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None

    async def receive(self) -> Message:
        """Return the next message for the app."""
        if self._buffer:
            message = self._buffer.popleft()
            size = len(message.get("body") or b"")
            self._size -= size
            self._room.used -= size
            return message
        pending = self._pending
        if pending is not None:
            message = await asyncio.shield(pending)  # an app that gives up waiting must not lose the message either
            if self._pending is pending:
                self._pending = None
            return message
        return await self._receive()

    def _read(self) -> None:
        self._pending = asyncio.ensure_future(self._receive())
        self._pending.add_done_callback(self._arrived)

    def _arrived(self, pending: asyncio.Future[Message]) -> None:
        if not self._watching or pending.cancelled():
            return
        if pending.exception() is not None:
            self._watching = False  # the app meets it when it reads
            return
        message = pending.result()
        self._pending = None
        self._buffer.append(message)
        size = len(message.get("body") or b"")
        self._size += size
        self._room.used += size
        if message["type"] in ("http.disconnect", "websocket.disconnect"):
            self._watching = False
            self._on_disconnect()
        elif self._size < _PER_REQUEST and self._room.left():
            self._read()
