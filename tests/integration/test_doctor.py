"""``ezthrottle doctor`` before real servers: sound ones, and one for each thing that it is there to find."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from click.testing import CliRunner
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from ezthrottle_provider import ASGIFairQueue
from ezthrottle_provider.cli import main
from ezthrottle_provider.cli.findings import BUDGET
from ezthrottle_provider.customers import public_hash

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]

KEY = "sk_live_PXk5nbUVZM9YBZdDk5V4Q8L1x2s0uA7f"
LISTED = {"acme": {"key_hashes": [public_hash(KEY.encode())]}}
SOUND = {b"x-ezthrottle-rps": b"10", b"x-ezthrottle-max-concurrent": b"32", b"x-ezthrottle-account-queue": b"enabled"}


@contextlib.contextmanager
def served(app: App, **options: Any) -> Iterator[str]:
    """The address of a real uvicorn that serves the app from a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings: dict[str, Any] = {"log_level": "error", "ws": "none", "proxy_headers": False, **options}
        server = uvicorn.Server(uvicorn.Config(app, **settings))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(10)
    assert not thread.is_alive()


def api(response: Response | None = None, *, takes_s: float = 0.0) -> Starlette:
    async def page(request: Request) -> Response:
        await asyncio.sleep(takes_s)
        return response or PlainTextResponse("fine")

    return Starlette(
        routes=[Route("/{path:path}", page)],
        middleware=[Middleware(CORSMiddleware, allow_origins=["*"])],
    )


class Visits:
    """Counts what arrives at an app, and remembers the headers of it."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.seen: list[tuple[str, str, dict[bytes, bytes]]] = []

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.seen.append((scope["method"], scope["path"], dict(scope["headers"])))
        await self._app(scope, receive, send)


def doctor(url: str, *arguments: str, input: str = "") -> tuple[int, dict[str, tuple[str, str]]]:
    """The exit code, and verdict and text of each check; the requests that were counted stand under ``sent``."""
    result = CliRunner().invoke(main, ["doctor", url, "--json", "--timeout", "5", *arguments], input=input)
    assert KEY not in result.output
    assert result.stdout, result.output
    report = json.loads(result.stdout)
    findings = {it["check"]: (it["verdict"], it["text"]) for it in report["findings"]}
    return result.exit_code, findings | {"sent": (str(report["requests"]), "")}


def verdicts(findings: dict[str, tuple[str, str]]) -> dict[str, str]:
    return {check: verdict for check, (verdict, _) in findings.items() if check != "sent"}


# What is sound


@pytest.mark.slow
def test_a_sound_deployment_has_no_finding_and_is_asked_seldom() -> None:
    visits = Visits(ASGIFairQueue(api(), max_concurrent=32, customers=LISTED))
    with served(visits) as url:
        code, findings = doctor(url, "--key-from-stdin", input=KEY)
    assert {"ok"} == set(verdicts(findings).values())
    checks = "reachable middleware values caching preflight exempt addresses|made-up keys|real key|burst".split("|")
    assert [*checks[0].split(), *checks[1:]] == list(verdicts(findings))
    assert 0 == code
    assert str(len(visits.seen)) == findings["sent"][0]
    assert BUDGET >= len(visits.seen)
    assert {"GET", "OPTIONS"} == {method for method, _, _ in visits.seen}


@pytest.mark.slow
def test_each_finding_is_a_line_for_people() -> None:
    with served(ASGIFairQueue(api(), max_concurrent=32)) as url:
        result = CliRunner().invoke(main, ["doctor", f"{url}?token=swordfish"])
    lines = result.output.splitlines()
    assert url == lines[0]
    assert 9 == len([line for line in lines if line.startswith("ok  ")])
    assert lines[-1].startswith("no problems, no doubts (")
    assert "swordfish" not in result.output


def test_a_burst_that_is_refused_as_it_should_be_is_sound() -> None:
    with served(ASGIFairQueue(api(takes_s=0.03), max_concurrent=1, max_queue=2, max_wait=0.05)) as url:
        code, findings = doctor(url)
    assert "ok" == findings["burst"][0]
    assert " x 429" in findings["burst"][1]
    assert 0 == code


def test_somebody_whose_quota_is_used_up_is_told_so() -> None:
    with served(ASGIFairQueue(api(), tiers={"unverified": {"quota": "1/month"}})) as url:
        doctor(url)
        code, findings = doctor(url)
    assert {"reachable": "ok", "middleware": "unknown", "preflight": "ok", "burst": "ok"} == verdicts(findings)
    assert "it refuses us (quota)" in findings["middleware"][1]
    assert "8 x 429" in findings["burst"][1]
    assert 0 == code


# What is not there


def test_an_app_without_the_middleware_is_a_problem() -> None:
    with served(api()) as url:
        code, findings = doctor(url)
    assert {"reachable": "ok", "middleware": "problem"} == verdicts(findings)
    assert "no middleware is installed" in findings["middleware"][1]
    assert 1 == code


@pytest.mark.parametrize(
    ("config", "path", "verdict", "said"),
    [
        ("enabled = false", "", "problem", "enabled is false"),
        ('exempt = ["/free/*"]', "free/lunch", "problem", "exempts this path"),
        ('headers = ["ratelimit"]', "", "unknown", "no headers about pace"),
    ],
)
def test_the_config_tells_why_there_are_no_headers(
    tmp_path: Path, config: str, path: str, verdict: str, said: str
) -> None:
    file = tmp_path / "ezthrottle.toml"
    file.write_text(f'[inbound]\nsecret = "env:NOT_SET_HERE"\n{config}\n', encoding="utf-8")
    with served(ASGIFairQueue(api(), config=str(file), secret="a" * 16)) as url:
        code, findings = doctor(url + path, "--config", str(file))
    assert verdict == findings["middleware"][0]
    assert said in findings["middleware"][1]
    assert int(verdict == "problem") == code


def test_a_gate_in_front_that_wants_a_key_is_passed_with_one() -> None:
    queue = ASGIFairQueue(api(), max_concurrent=32, customers=LISTED)

    async def gate(scope: Scope, receive: Any, send: Any) -> None:
        known = scope["type"] != "http" or dict(scope["headers"]).get(b"x-api-key") == KEY.encode()
        await (queue if known else PlainTextResponse("who are you?", 401))(scope, receive, send)

    with served(gate) as url:
        code, findings = doctor(url)
        assert (1, "problem") == (code, findings["middleware"][0])
        assert "--key-from-stdin" in findings["middleware"][1]
        code, findings = doctor(url, "--key-from-stdin", input=KEY)
    unknown = {check for check, verdict in verdicts(findings).items() if verdict == "unknown"}
    assert {"addresses", "made-up keys", "real key"} == unknown
    assert 0 == code


@pytest.mark.parametrize(
    ("response", "said"),
    [(RedirectResponse("/elsewhere"), "redirects"), (PlainTextResponse("none", 404), "404")],
    ids=["redirect", "not found"],
)
def test_a_page_that_is_no_page_is_doubted(response: Response, said: str) -> None:
    with served(ASGIFairQueue(api(response))) as url:
        assert "doubt" == doctor(url)[1]["reachable"][0]
        assert said in doctor(url)[1]["reachable"][1]


# Nobody there


def test_a_port_without_a_server_is_told_apart_from_findings(free_port: int) -> None:
    code, findings = doctor(f"http://127.0.0.1:{free_port}/")
    assert (2, {"reachable": "problem"}) == (code, verdicts(findings))
    assert "nobody listens" in findings["reachable"][1]


@contextlib.contextmanager
def speaking(reply: bytes) -> Iterator[str]:
    """The address of a server that says this to whoever connects, and closes, or that says nothing and waits."""
    over = threading.Event()

    def speak() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                if reply:
                    connection.sendall(reply)
                else:
                    over.wait(10)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=speak, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        over.set()
        thread.join(10)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (b"", "no answer came within 1 seconds"),
        (b"SSH-2.0-OpenSSH\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", "broke off"),
        (b"HTTP/1.1 200 " + b"x" * 100_000, "not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 500, "not HTTP"),
    ],
    ids=["silence", "another protocol", "half a body", "an endless line", "endless headers"],
)
def test_a_server_that_makes_no_sense_is_told_and_ends_it(reply: bytes, said: str) -> None:
    with speaking(reply) as url:
        code, findings = doctor(url, "--timeout", "1")
    assert (2, {"reachable": "problem"}) == (code, verdicts(findings))
    assert said in findings["reachable"][1]


# Whom it believes


@pytest.mark.slow
def test_a_server_that_believes_forged_addresses_is_found() -> None:
    """The control of all verdicts "made no new customers"; uvicorn believes its own machine unless told otherwise."""
    with served(ASGIFairQueue(api(), max_concurrent=32), proxy_headers=True) as url:
        code, findings = doctor(url)
    assert "doubt" == findings["addresses"][0]
    assert "a forged x-forwarded-for from 127.0.0.1 is believed" in findings["addresses"][1]
    assert "ok" == findings["made-up keys"][0]
    assert 0 == code


@pytest.mark.slow
def test_a_machine_that_the_config_trusts_cannot_tell(tmp_path: Path) -> None:
    file = tmp_path / "ezthrottle.toml"
    file.write_text('[inbound]\ntrusted_proxies = ["127.0.0.0/8"]\nclient_header = "x-real-ip"\n', encoding="utf-8")
    with served(ASGIFairQueue(api(), config=str(file))) as url:
        _, findings = doctor(url, "--config", str(file))
        assert "unknown" == findings["addresses"][0]
        assert "a forged x-real-ip from 127.0.0.1 is believed" in findings["addresses"][1]


@pytest.mark.slow
def test_a_server_that_gives_every_made_up_key_a_share_is_found() -> None:
    with served(ASGIFairQueue(api(), max_concurrent=32, trust_keys=True, identify="bearer")) as url:
        code, findings = doctor(url, "--identify", "bearer")
    assert ("ok", "problem") == (findings["addresses"][0], findings["made-up keys"][0])
    assert 1 == code


def test_a_key_that_nobody_knows_is_doubted_only_when_strict() -> None:
    with served(ASGIFairQueue(api(), max_concurrent=32)) as url:
        code, findings = doctor(url, "--key-from-stdin", input=KEY)
        assert (0, "doubt") == (code, findings["real key"][0])
        assert 1 == doctor(url, "--key-from-stdin", "--strict", input=KEY)[0]


def test_too_few_slots_to_tell_are_said_to_be_so() -> None:
    with served(ASGIFairQueue(api(), max_concurrent=2)) as url:
        _, findings = doctor(url)
    assert ("unknown", "unknown") == (findings["addresses"][0], findings["made-up keys"][0])


# What it says: servers that imitate a broken deployment


def imitation(
    headers: dict[bytes, bytes] | None = None,
    *,
    twice: bool = False,
    preflight: bool = False,
    health: bool = False,
    refusal: dict[bytes, bytes] | None = None,
    body: bytes = b"",
) -> App:
    """An app that speaks for a middleware; ``refusal``: the headers of its 429 from the third request to / on."""
    asked = 0

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        nonlocal asked
        if scope["type"] != "http":
            return
        untouched = scope["path"] in ("/health", "/livez") and not health
        untouched |= scope["method"] == "OPTIONS" and not preflight
        asked += not untouched
        pairs = [] if untouched else list((SOUND | (headers or {})).items()) * (2 if twice else 1)
        refused = refusal is not None and asked > 2 and not untouched
        if refused and refusal is not None:
            pairs += refusal.items()
        start = {"type": "http.response.start", "status": 429 if refused else 200}
        await send(start | {"headers": [*pairs, (b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})

    return app


REFUSAL = b'{"type": "urn:ezthrottle:problem:max_queue", "status": 429}'
COMPLETE = {b"content-type": b"application/problem+json", b"retry-after": b"2", b"cache-control": b"no-store"}


BROKEN = {
    "senseless pace": (imitation({b"x-ezthrottle-rps": b"NaN"}), "values", "problem", "make no sense"),
    "no slot": (imitation({b"x-ezthrottle-max-concurrent": b"0"}), "values", "problem", "MAX-CONCURRENT is missing"),
    "malformed list": (imitation({b"ratelimit": b'"pace";r=;'}), "values", "problem", "RFC 9651"),
    "headers twice": (imitation(twice=True), "values", "problem", "came twice"),
    "aged": (imitation({b"age": b"30"}), "caching", "problem", "a cache answered"),
    "cache hit": (imitation({b"x-cache": b"HIT from edge"}), "caching", "problem", "a cache answered"),
    "cacheable": (imitation({b"cache-control": b"public, max-age=60"}), "caching", "doubt", "private"),
    "cacheable by one": (imitation({b"cache-control": b"private, max-age=60"}), "caching", "ok", ""),
    "cache miss": (imitation({b"age": b"0", b"x-cache": b"MISS"}), "caching", "ok", ""),
    "preflight": (imitation(preflight=True), "preflight", "problem", "went through the queue"),
    "health": (imitation(health=True), "exempt", "problem", "/health and /livez went"),
    "sound refusal": (imitation(refusal=COMPLETE, body=REFUSAL), "burst", "ok", "8 x 429"),
    "no wait": (imitation(refusal=COMPLETE | {b"retry-after": b"0"}, body=REFUSAL), "burst", "problem", "Retry-After"),
    "no number": (
        imitation(refusal=COMPLETE | {b"retry-after": b"a"}, body=REFUSAL),
        "burst",
        "problem",
        "Retry-After",
    ),
    "kept": (imitation(refusal=COMPLETE | {b"cache-control": b""}, body=REFUSAL), "burst", "problem", "may store"),
    "deep body": (imitation(refusal=COMPLETE, body=b"[" * 60_000), "burst", "problem", "not ours"),
    "plain refusal": (imitation(refusal={b"retry-after": b"2"}), "burst", "problem", "not ours"),
}


@pytest.mark.parametrize(("app", "check", "verdict", "said"), BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_found(app: App, check: str, verdict: str, said: str) -> None:
    with served(app) as url:
        code, findings = doctor(url)
    assert verdict == findings[check][0]
    assert said in findings[check][1]
    assert int(verdict == "problem") == code
