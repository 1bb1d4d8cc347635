"""WebSockets on real servers: the handshake is gated, an open socket holds no slot, each customer may have a few."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake, InvalidMessage, InvalidStatus

from .apps import SLOTS
from .servers import SERVERS, Server

pytestmark = pytest.mark.slow

MAX_STREAMS = 4  # as apps.py says
MAX_QUEUE = 20
ANSWERS_HANDSHAKES = {"uvicorn", "hypercorn"}


@pytest.fixture(scope="module", params=SERVERS)
def server(request):
    with Server(request.param) as server:
        yield server


def opened(server, path="/ws", *, key="k"):
    return connect(f"ws://127.0.0.1:{server.port}{path}", additional_headers={"x-api-key": key}, proxy=None)


async def refused(server):
    """Open one that is expected to be refused; return the status of the refusal, or None without an answer."""
    try:
        async with opened(server):
            return "accepted"
    except InvalidStatus as error:
        return error.response.status_code
    except (InvalidHandshake, InvalidMessage, OSError):
        return None


async def test_open_websockets_hold_no_slot_and_one_too_many_is_refused(server):
    async with AsyncExitStack() as sockets:
        for _ in range(MAX_STREAMS):
            await sockets.enter_async_context(opened(server))
        state = await asyncio.to_thread(server.state)
        assert (0, MAX_STREAMS) == (state["in_flight"], state["streams"])
        status = await refused(server)
        if server.kind in ANSWERS_HANDSHAKES:
            assert 429 == status
        assert "accepted" != status
    assert {} == await asyncio.to_thread(server.at_rest)
    async with opened(server):
        pass
    assert {} == await asyncio.to_thread(server.at_rest)


async def test_a_handshake_waits_for_a_slot_and_is_accepted_in_its_turn(server):
    holders = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(SLOTS)]
    for _, writer in holders:
        writer.write(b"GET /hold HTTP/1.1\r\nhost: x\r\n\r\n")
    await asyncio.to_thread(server.await_state, 5.0, in_flight=SLOTS)
    waiting = asyncio.ensure_future(opened(server).__aenter__())
    state, _ = await asyncio.to_thread(server.await_state, 0.3, waiting=1)
    assert 1 == state["waiting"]
    assert not waiting.done()
    holders[0][1].close()
    socket = await asyncio.wait_for(waiting, 5.0)
    await socket.close()
    for _, writer in holders:
        writer.close()
    assert {} == await asyncio.to_thread(server.at_rest)


async def test_a_handshake_that_waits_too_long_is_refused(server):
    holders = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(SLOTS)]
    for _, writer in holders:
        writer.write(b"GET /hold HTTP/1.1\r\nhost: x\r\n\r\n")
    await asyncio.to_thread(server.await_state, 5.0, in_flight=SLOTS)
    status = await refused(server)
    for _, writer in holders:
        writer.close()
    assert {} == await asyncio.to_thread(server.at_rest)
    assert "accepted" != status
    if server.kind in ANSWERS_HANDSHAKES:
        assert 429 == status


async def test_a_handler_that_fails_before_it_accepts_keeps_neither_slot_nor_stream(server):
    for _ in range(2 * MAX_STREAMS):
        with pytest.raises((InvalidHandshake, OSError, EOFError)):
            async with opened(server, "/broken"):
                pass
    assert {} == await asyncio.to_thread(server.at_rest)
