"""On real servers: whatever clients and handlers do, in the end no slot is in use, and nothing waits or is kept."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack

import pytest

from .apps import SLOTS
from .servers import SERVERS, Server
from .storms import storm

pytestmark = pytest.mark.slow

REQUESTS = 1_500


@pytest.fixture(scope="module", params=SERVERS)
def server(request):
    with Server(request.param) as server:
        yield server


def test_a_storm_of_bad_clients_and_broken_handlers_leaves_nothing_held(server):
    ended = asyncio.run(storm(server.port, REQUESTS))
    assert REQUESTS == sum(ended.values())
    assert min(ended["read 200"], ended["read 429"], ended["vanish"], ended["reset"], ended["half an answer"]) > 10
    assert {} == server.at_rest()


def test_the_storm_finds_a_wrapper_that_forgets_to_leave():
    with Server("uvicorn", app="forgetful") as server:
        asyncio.run(storm(server.port, 400))
        assert {"in_flight"} <= server.at_rest(within_s=1.0).keys()


@pytest.mark.parametrize("body", [b"", b"x" * 5_000])
def test_a_client_that_leaves_while_its_request_waits_frees_the_place_within_a_second_and_a_half(server, body):
    with ExitStack() as clients:
        for _ in range(SLOTS):
            clients.enter_context(sent(server, "GET", "/hold"))
        state, _ = server.await_state(5.0, in_flight=SLOTS)
        assert SLOTS == state["in_flight"]
        waiting = sent(server, "POST", "/work", body)
        state, _ = server.await_state(0.3, waiting=1)
        assert 1 == state["waiting"]
        waiting.close()
        state, took_s = server.await_state(2.0, waiting=0)
        assert 0 == state["waiting"]
        assert took_s <= 1.5
    assert {} == server.at_rest()


def test_all_slots_serve_again_after_the_storm(server):
    with ExitStack() as clients:
        for _ in range(SLOTS):
            clients.enter_context(sent(server, "GET", "/hold"))
        state, _ = server.await_state(5.0, in_flight=SLOTS)
        assert SLOTS == state["in_flight"]
    assert {} == server.at_rest()


def sent(server, method, path, body=b""):
    """A connection on which a request has been sent."""
    client = socket.create_connection(("127.0.0.1", server.port), timeout=5.0)
    client.sendall(
        b"%s %s HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (method.encode(), path.encode(), len(body))
    )
    client.sendall(body)
    return client
