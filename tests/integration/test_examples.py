"""The examples, started as their first lines say and asked as a customer would."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from ezthrottle_provider.config import examine

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ACME = {"x-api-key": "e66bf550d9593ce6ae363b3b6148b8ab"}
ZOE = {"x-api-key": "76e1bc8fc714fb1f54cf19ca65492e26"}
START_S = 20.0
FLOOD_S = 2.5
THREADS = 24  # three for each of the eight slots

pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the examples are in the checkout, not in the wheel")


@contextlib.contextmanager
def served(example: str, port: int) -> Iterator[http.client.HTTPConnection]:
    """A connection to an example that runs as its docstring says."""
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES / example), "app:app", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        with contextlib.closing(connect(server, port)) as connection:
            yield connection
    finally:
        server.terminate()
        output, _ = server.communicate(timeout=10)
    assert "Traceback" not in output, output


def connect(server: subprocess.Popen[str], port: int) -> http.client.HTTPConnection:
    give_up_at = time.monotonic() + START_S
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.connect()
            return connection
        except ConnectionRefusedError:
            assert server.poll() is None, server.communicate()[0]
            assert time.monotonic() < give_up_at
            time.sleep(0.05)


def ask(
    connection: http.client.HTTPConnection, path: str, headers: dict[str, str] | None = None
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection.request("GET", path, headers=headers or {})
    response = connection.getresponse()
    return response.status, response.headers, response.read()


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer demo-key-of-{name}"}


def test_the_starlette_example_tells_each_customer_its_pace(free_port: int) -> None:
    with served("starlette_app", free_port) as connection:
        status, headers, body = ask(connection, "/report", ACME)
        assert (200, b'{"rows":42}') == (status, body)
        assert 50 >= float(headers["x-ezthrottle-rps"])
        assert 6 >= int(headers["x-ezthrottle-max-concurrent"])
        # acme's tier has a pace of its own and zoe's has none, nor has who comes without a key.
        assert '"pace";q=50;w=1' in headers["ratelimit-policy"]
        for others in (ZOE, None):
            assert "ratelimit-policy" not in ask(connection, "/report", others)[1]


def test_the_starlette_example_streams_and_leaves_its_health_alone(free_port: int) -> None:
    with served("starlette_app", free_port) as connection:
        status, _, body = ask(connection, "/stream", ZOE)
        assert (200, 5) == (status, body.count(b"\n"))
        status, headers, _ = ask(connection, "/health")
        assert 200 == status
        assert "x-ezthrottle-rps" not in headers


@pytest.mark.slow
async def test_the_fastapi_example_serves_ten_items_for_one_export(free_port: int) -> None:
    with served("fastapi_app", free_port):
        items, exports = await flood(
            (f"http://127.0.0.1:{free_port}/items/1", bearer("ada")),
            (f"http://127.0.0.1:{free_port}/export", bearer("bob")),
        )
    # Ten, and not one as without the policy: twice as far off either way is the noise of a busy machine.
    assert 5 <= items / exports <= 20


async def flood(*customers: tuple[str, dict[str, str]]) -> list[int]:
    """How many answers each of these customers gets while all of them ask as fast as they can."""
    end = time.monotonic() + FLOOD_S
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def hammer(url: str, headers: dict[str, str]) -> int:
            served = 0
            while time.monotonic() < end:
                async with session.get(url, headers=headers) as response:
                    served += response.status == 200
                    await response.read()
            return served

        async def customer(url: str, headers: dict[str, str]) -> int:
            return sum(await asyncio.gather(*(hammer(url, headers) for _ in range(THREADS))))

        return await asyncio.gather(*(customer(url, headers) for url, headers in customers))


@pytest.mark.parametrize("example", ["starlette_app", "fastapi_app"])
def test_the_config_of_an_example_has_neither_mistakes_nor_doubts(example: str) -> None:
    found = examine(EXAMPLES / example / "ezthrottle.toml", environ={})
    assert () == found.problems
    assert () == found.doubts
