"""Hostile input: no exception of ours, no raw key anywhere, the app's own behaviour unchanged, every table bounded."""

from __future__ import annotations

import asyncio
import gc
import logging
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ezthrottle_provider import ASGIFairQueue, Customer, Provider
from ezthrottle_provider.scheduling import Flow, Ticket

from .exchanges import Exchange, Handshake, Latch, MovingClock, hello, turns
from .witnesses import Witness

SECRET = b"K9q~zW"  # in every key that a test looks for; neither a hash nor a number holds such a text
MEGABYTE = SECRET * 160_000


class HandlerError(Exception):
    """The app's own."""


def leaky_identify(headers, scope):
    """A user's function that fails with the key in the text of its exception, or returns what it must not."""
    value = dict(headers).get(b"x-api-key", b"")
    if value[:1] > b"k":
        raise ValueError(value)
    return [value] if value[:1] > b"a" else value


async def leaky_resolve(key):
    """The same for ``resolve``."""
    await asyncio.sleep(0)
    if key[:1] > "k":
        raise LookupError(key)
    return key if key[:1] > "a" else Customer("acme", tier="pro")


names = st.sampled_from(
    [
        b"x-api-key",
        b"authorization",
        b"x-forwarded-for",
        b"forwarded",
        b"x-real-ip",
        b"cf-connecting-ip",
        b"x-ezthrottle-nested-call",
        b"access-control-request-method",
        b"content-length",
        b"\xff",
        b"",
    ]
)
hops = st.lists(
    st.sampled_from(
        ["10.0.0.1", "203.0.113.7", "::1", "[2001:db8::1]:443", "for=1.2.3.4", 'for="[::1]"', "unknown", "", "999.1"]
    )
    | st.text(max_size=12),
    max_size=6,
).map(lambda parts: ", ".join(parts).encode("utf-8", "surrogatepass"))
values = st.one_of(
    st.binary(max_size=40),
    hops,
    st.binary(max_size=20).map(lambda token: SECRET + token),
    st.binary(max_size=20).map(lambda token: b"Bearer " + token + SECRET),
    st.sampled_from(
        [b"", b" ", b"\x00", MEGABYTE, SECRET, b"\xc3\x28", b"9999999999.v.YQ==.00", b"a\r\nset-cookie: x"]
    ),
)
headers = st.lists(st.tuples(names, values), max_size=8)
clients = st.sampled_from(
    [
        None,
        ("10.0.0.1", 1),
        ("203.0.113.9", 0),
        ["testclient", 1],
        ("", 0),
        ("unix:/run/x", None),
        ("::ffff:1.2.3.4", 1),
    ]
) | st.tuples(st.text(max_size=50), st.integers())
paths = st.text(max_size=60).map(lambda text: "/" + text) | st.sampled_from(["", "*", "//", "/v1/s/" + "a" * 9_000])
methods = st.sampled_from(["GET", "POST", "OPTIONS", "HEAD", "get", ""]) | st.text(max_size=20)
configs = st.fixed_dictionaries(
    {
        "identify": st.sampled_from(["header:x-api-key", "bearer", "ip", "user", f"{__name__}:leaky_identify"]),
        "trust_keys": st.booleans(),
        "resolve": st.sampled_from([None, leaky_resolve]),
        "trusted_proxies": st.sampled_from([[], ["10.0.0.0/8"], ["0.0.0.0/0", "::/0"]]),
        "client_header": st.sampled_from(["x-forwarded-for", "forwarded", "x-real-ip"]),
        "cost": st.sampled_from(["seconds", "requests"]),
        "enforce": st.booleans(),
        "headers": st.sampled_from([["ezthrottle", "ratelimit"], ["x-ratelimit", "aqueduct"], []]),
        "max_concurrent": st.integers(1, 3),
        "max_queue": st.integers(1, 4),
        "max_queue_total": st.integers(1, 6),
        "max_wait": st.sampled_from([0, 0.001, 10]),
        "tiers": st.sampled_from(
            [
                {},
                {"pro": {"weight": 1e-6}, "default": {"weight": 1e6, "rps": 1e-6}},
                {"unverified": {"rps": 1e6, "max_concurrent": 1}, "default": {"shared_queue": True}},
            ]
        ),
        "routes": st.sampled_from(
            [[], [{"path": "/*", "hold": "first-byte", "cost": 1e6}, {"path": "*", "hold": "none"}]]
        ),
    }
)
requests = st.lists(st.tuples(methods, paths, headers, clients, st.sampled_from("aehsw")), min_size=1, max_size=6)


async def moody(scope, receive, send):
    """Answer, fail before or after the response began, or stream, as the request's state says."""
    mood = scope["state"]["mood"]
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    if mood == "e":
        raise HandlerError("early")
    if mood == "w":
        await asyncio.sleep(0)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if mood == "h":
        raise HandlerError("halfway")
    if mood == "s":
        for _ in range(3):
            await send({"type": "http.response.body", "body": b"x" * 20_000, "more_body": True})
    await send({"type": "http.response.body", "body": b"done"})


async def fuzz(config, given_requests):
    clock = MovingClock(100.0)
    provider = Provider(clock=clock, **config)
    app = ASGIFairQueue(moody, provider=provider)
    exchanges = []
    with Witness(provider) as witness:
        for method, path, pairs, client, mood in given_requests:
            if mood == "a":
                exchange = Handshake(path, client=client)
                exchange.scope["headers"] += pairs
            else:
                exchange = Exchange(path, method=method, headers=pairs, client=client)
            exchange.scope["state"]["mood"] = mood
            exchanges.append(exchange)
        outcomes = asyncio.gather(*(exchange.through(app) for exchange in exchanges), return_exceptions=True)
        for _ in range(20):
            await turns(20)
            if outcomes.done():
                break
            clock.advance(1.0)
            provider.gate.tick()
        ended = await outcomes
        said = witness.said(*exchanges)
    assert [] == witness.failures
    for exchange, outcome in zip(exchanges, ended, strict=True):
        if isinstance(outcome, BaseException):
            assert isinstance(outcome, HandlerError), repr(outcome)
            assert exchange.scope["state"]["mood"] in "eh"
    for pool in provider.snapshot().pools:
        assert (0, 0, 0) == (pool.in_flight, pool.waiting, pool.streams)
    assert (0, 0) == (provider.streams.total(), provider.room.used)
    assert SECRET.decode() not in said + "".join(map(str, ended))


TWO_KEYS = [(b"x-api-key", SECRET + b"1"), (b"x-api-key", SECRET + b"2")]
DEFAULTS = {
    "identify": "header:x-api-key",
    "trust_keys": False,
    "resolve": None,
    "enforce": True,
    "max_concurrent": 1,
    "max_queue_total": 2,
}


@given(configs, requests)
@settings(max_examples=150)
@example(DEFAULTS, [("GET", "/x", TWO_KEYS, None, "h"), ("GET", "/x", [(b"x-api-key", MEGABYTE)], None, "s")])
@example(
    {**DEFAULTS, "trust_keys": True}, [("GET", "/x", [(b"x-api-key", b"\xff\x00" + SECRET + b"\r\n")], None, "w")] * 4
)
def test_whatever_comes_in_nothing_of_ours_goes_wrong_and_no_key_gets_out(config, given_requests):
    asyncio.run(fuzz(config, given_requests))


def test_the_witness_sees_a_key_that_gets_out():
    async def careless(scope, receive, send):
        key = dict(scope["headers"])[b"x-api-key"]
        logging.getLogger("careless").info("served %r", key)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def run():
        provider = Provider()
        exchange = Exchange(key=b"\xff" + SECRET)
        with Witness(provider) as witness:
            await exchange.through(ASGIFairQueue(careless, provider=provider))
            return witness.said(exchange)

    assert SECRET.decode() in asyncio.run(run())


def test_the_fuzz_sees_a_limiter_that_fails(monkeypatch):
    def broken(self, scope):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(Provider, "caller", broken)
    with pytest.raises(AssertionError):
        asyncio.run(fuzz(DEFAULTS, [("GET", "/x", [], None, "h")]))


@pytest.mark.parametrize("trust_keys", [False, True])
def test_a_flood_of_invented_keys_and_addresses_leaves_every_bound_in_place_and_then_nothing(trust_keys):
    async def run():
        latch = Latch()
        clock = MovingClock(100.0)
        provider = Provider(
            clock=clock,
            trust_keys=trust_keys,
            max_concurrent=2,
            max_queue=5,
            max_queue_total=50,
            trusted_proxies=["10.0.0.0/8"],
        )
        app = ASGIFairQueue(latch, provider=provider)
        exchanges = [
            Exchange(
                f"/v1/{number:x}/{number % 7}",
                key=b"invented %d" % number,
                client=("10.0.0.1", 1),
                headers=[(b"x-forwarded-for", b"198.51.%d.%d" % (number % 100, number % 250))],
            )
            for number in range(3_000)
        ]
        tasks = []
        for number, exchange in enumerate(exchanges):
            tasks.append(exchange.start(app))
            if not number % 100:
                await turns(2)
                assert provider.snapshot().pools[0].waiting <= 50
        await turns()
        assert 2 == len(latch.inside)
        latch.open()
        await asyncio.gather(*tasks)
        for _ in range(400):
            clock.advance(0.25)
            provider.gate.tick()
        assert set() <= {exchange.status for exchange in exchanges} <= {200, 429, 503}
        return [flow.id for _, flow in provider.gate.scheduler.customers()]

    assert [] == asyncio.run(run())


def flows():
    """How many accounts there are in this process."""
    gc.collect()
    return sum(type(found) is Flow for found in gc.get_objects())


@pytest.mark.parametrize("trust_keys", [False, True])
def test_keys_that_are_invented_for_requests_that_are_refused_cost_no_memory(trust_keys):
    async def run():
        latch = Latch()
        provider = Provider(clock=MovingClock(100.0), trust_keys=trust_keys, max_concurrent=1, max_queue_total=20)
        app = ASGIFairQueue(latch, provider=provider)
        tasks = [Exchange(key=b"%d" % number).start(app) for number in range(21)]
        await turns()
        before = flows()
        for number in range(2_000):
            refused = await Exchange(key=b"invented %d" % number).through(app)
            assert refused.status in (429, 503)
        after = flows()
        latch.open()
        await asyncio.gather(*tasks)
        return after - before

    assert asyncio.run(run()) < 100


def test_long_paths_are_not_kept():
    async def run():
        app = ASGIFairQueue(hello, provider=Provider())
        await Exchange("/warm").through(app)
        tracemalloc.start()
        try:
            for number in range(1_500):
                await Exchange(f"/{number}/" + "x" * 16_000).through(app)
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    assert asyncio.run(run()) < 4_000_000


def test_served_requests_leave_no_tickets_behind():
    async def run():
        app = ASGIFairQueue(hello, provider=Provider())
        for number in range(200):
            await Exchange(key=b"%d" % number).through(app)
        gc.collect()
        return sum(type(found) is Ticket for found in gc.get_objects())

    assert asyncio.run(run()) <= 1


def test_requests_that_waited_leave_nothing_that_only_the_garbage_collector_finds():
    """A circle per request costs a full collection of 100 ms every second or two, in which nobody is served."""

    async def run():
        app = ASGIFairQueue(slow, provider=Provider(max_concurrent=1))
        gc.collect()
        gc.disable()
        try:
            await asyncio.gather(*(Exchange(key=b"%d" % number).through(app) for number in range(50)))
            await turns()
            return sum(type(found) is Ticket for found in gc.get_objects())
        finally:
            gc.enable()

    assert asyncio.run(run()) <= 1


async def slow(scope, receive, send):
    """Answer after a while."""
    await turns(3)
    await hello(scope, receive, send)


@pytest.mark.parametrize("cost", [1e308, float("inf"), float("nan"), -1.0, "many", None, 10**400])
def test_a_price_that_makes_no_sense_neither_fails_a_request_nor_stops_the_queue(cost):
    async def run():
        provider = Provider(cost=lambda served: cost, max_concurrent=1, routes=[{"path": "/dear", "cost": 1e6}])
        app = ASGIFairQueue(slow, provider=provider)
        exchanges = [Exchange("/dear", client=(f"203.0.113.{number % 4}", 1)) for number in range(12)]
        ended = await asyncio.gather(*(exchange.through(app) for exchange in exchanges), return_exceptions=True)
        assert [] == [outcome for outcome in ended if isinstance(outcome, BaseException)]
        assert [200] * 12 == [exchange.status for exchange in exchanges]
        assert 0 == provider.snapshot().pools[0].in_flight

    asyncio.run(run())


@pytest.mark.parametrize("absurd", [2.0, 1e300])
def test_one_absurd_price_does_not_end_the_weights_of_everybody_else(absurd):
    served = []

    async def app(scope, receive, send):
        served.append(dict(scope["headers"])[b"x-api-key"])
        await slow(scope, receive, send)

    async def run():
        provider = Provider(
            cost=lambda served: absurd if served.path == "/absurd" else 1.0,
            max_concurrent=1,
            resolve=lambda key: Customer(key, weight=4.0 if key == "heavy" else 1.0),
        )
        queue = ASGIFairQueue(app, provider=provider)
        first = [b"heavy", b"light", b"absurd", b"absurd", b"absurd"]
        await asyncio.gather(
            *(Exchange("/absurd" if key == b"absurd" else "/x", key=key).through(queue) for key in first)
        )
        served.clear()
        await asyncio.gather(*(Exchange(key=key).through(queue) for key in [b"light", b"heavy"] * 40))

    asyncio.run(run())
    assert 28 <= served[:40].count(b"heavy") <= 36
