"""The ASGI wrapper by direct calls: it hands on what it gets, holds a slot exactly as long as it should, and never fails."""

from __future__ import annotations

import asyncio
import json

import pytest
from attack.exchanges import Exchange, Handshake, Latch, MovingClock, hello, turns

from ezthrottle_provider import ASGIFairQueue, Provider, nested_headers
from ezthrottle_provider.instrumentation import LimiterFailed, Refused, SlowReader
from ezthrottle_provider.testing import RecordingHook


class Service:
    """An app behind a fair queue with one slot, watched."""

    def __init__(self, app=hello, *, max_concurrent=1, **options):
        self.clock = MovingClock(100.0)
        self.provider = Provider(clock=self.clock, max_concurrent=max_concurrent, **options)
        self.app = ASGIFairQueue(app, provider=self.provider)
        self.seen = RecordingHook()
        self.provider.hooks.add(self.seen)
        self.pools = self.provider.gate.scheduler.pools

    async def get(self, path="/x", **options):
        return await Exchange(path, **options).through(self.app)

    @property
    def state(self):
        """(slots in use, requests waiting, requests without a slot, streams, bytes read ahead): all 0 when at rest."""
        provider, pools = self.provider, self.provider.snapshot().pools
        running, waiting = sum(pool.in_flight for pool in pools), sum(pool.waiting for pool in pools)
        return running, waiting, sum(pool.streams for pool in pools), provider.streams.total(), provider.room.used

    async def pass_time(self, seconds):
        self.clock.advance(seconds)
        self.provider.gate.tick()
        await turns()


AT_REST = (0, 0, 0, 0, 0)


# What a request meets


async def test_an_admitted_request_gets_the_apps_own_response_and_its_pace():
    exchange = await Service().get(key=b"k")
    assert (200, b"hello") == (exchange.status, exchange.body)
    pace = {name for name in exchange.headers if name.startswith(b"x-ezthrottle-")}
    assert {b"x-ezthrottle-rps", b"x-ezthrottle-max-concurrent", b"x-ezthrottle-account-queue"} == pace
    assert b"5" == exchange.headers[b"content-length"]


async def test_an_app_that_sends_one_and_the_same_message_each_time_gets_it_back_unchanged():
    start = {"type": "http.response.start", "status": 200, "headers": [(b"x-mine", b"1")]}

    async def thrifty(scope, receive, send):
        await send(start)
        await send({"type": "http.response.body", "body": b""})

    service = Service(thrifty)
    for _ in range(3):
        exchange = await service.get()
    assert [(b"x-mine", b"1")] == start["headers"]
    assert b"1" == exchange.headers[b"x-mine"]


async def test_requests_wait_for_a_slot_and_are_served_in_turn():
    latch = Latch()
    service = Service(latch)
    first, second = Exchange(), Exchange()
    tasks = [first.start(service.app), second.start(service.app)]
    await turns()
    assert (1, 1, 0, 0, 0) == service.state
    assert 1 == len(latch.inside)
    latch.open()
    await asyncio.gather(*tasks)
    assert (200, 200) == (first.status, second.status)
    assert AT_REST == service.state


async def test_the_slot_is_free_as_soon_as_the_last_body_message_is_sent():
    during = []

    async def with_background_task(scope, receive, send):
        await hello(scope, receive, send)
        during.append(service.state)

    service = Service(with_background_task)
    await service.get()
    assert [AT_REST] == during


async def test_a_whole_queue_refuses_with_429_and_says_why_and_when_to_come_back():
    latch = Latch()
    service = Service(latch, max_queue=1)
    tasks = [Exchange().start(service.app) for _ in range(2)]
    await turns()
    refused = await service.get()
    assert 429 == refused.status
    assert int(refused.headers[b"retry-after"]) >= 1
    problem = json.loads(refused.body)
    assert ("max_queue", 429) == (problem["limit"], problem["status"])
    latch.open()
    await asyncio.gather(*tasks)
    assert AT_REST == service.state


async def test_a_wait_beyond_max_wait_ends_with_429():
    latch = Latch()
    service = Service(latch, max_wait=5.0)
    first, second = Exchange(), Exchange()
    tasks = [first.start(service.app), second.start(service.app)]
    await turns()
    await service.pass_time(5.1)
    assert 429 == second.status
    assert "max_wait" == json.loads(second.body)["limit"]
    latch.open()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("options", [{"enabled": False}, {"exempt": ["/x"]}])
async def test_what_is_disabled_or_exempt_passes_untouched_whatever_runs(options):
    latch = Latch()
    service = Service(latch, **options)
    exchanges = [Exchange() for _ in range(3)]
    tasks = [exchange.start(service.app) for exchange in exchanges]
    await turns()
    assert 3 == len(latch.inside)
    latch.open()
    await asyncio.gather(*tasks)
    assert {b"content-length"} == set(exchanges[0].headers)


async def test_a_cors_preflight_passes_and_a_plain_options_request_queues():
    latch = Latch()
    service = Service(latch)
    preflight = [(b"access-control-request-method", b"POST")]
    tasks = [
        Exchange().start(service.app),
        Exchange(method="OPTIONS", headers=preflight).start(service.app),
        Exchange(method="OPTIONS").start(service.app),
    ]
    await turns()
    assert ["GET", "OPTIONS"] == [scope["method"] for scope in latch.inside]
    latch.open()
    await asyncio.gather(*tasks)


async def test_shadow_mode_reports_a_refusal_and_lets_the_request_run():
    latch = Latch()
    service = Service(latch, enforce=False, max_queue=1)
    exchanges = [Exchange() for _ in range(4)]
    tasks = [exchange.start(service.app) for exchange in exchanges]
    await turns()
    assert 4 == len(latch.inside)
    latch.open()
    await asyncio.gather(*tasks)
    assert [200] * 4 == [exchange.status for exchange in exchanges]
    assert all(not event.enforced for event in service.seen.of(Refused))
    assert AT_REST == service.state


async def test_the_inner_of_two_wrappers_leaves_the_request_alone():
    inner = Service()
    outer = Service(inner.app)
    exchange = await outer.get()
    assert 200 == exchange.status
    assert [] == inner.seen.events


# However it ends


class BrokenHandlerError(Exception):
    """Raised by an app."""


@pytest.mark.parametrize("begun", [False, True])
async def test_the_apps_exception_passes_unchanged_and_the_slot_comes_back(begun):
    raised = BrokenHandlerError()

    async def broken(scope, receive, send):
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise raised

    service = Service(broken)
    with pytest.raises(BrokenHandlerError) as caught:
        await service.get()
    assert raised is caught.value
    assert AT_REST == service.state
    assert [] == service.seen.of(LimiterFailed)


@pytest.mark.parametrize("error", [OSError("gone"), asyncio.CancelledError()])
@pytest.mark.parametrize("at", ["http.response.start", "http.response.body"])
async def test_a_send_that_fails_costs_no_slot(error, at):
    service = Service()
    exchange = Exchange()

    async def send(message):
        if message["type"] == at:
            raise error

    with pytest.raises(type(error)):
        await service.app(exchange.scope, exchange.receive, send)
    assert AT_REST == service.state


async def test_a_refusal_that_cannot_be_sent_is_no_failure_of_ours_and_does_not_run_the_app():
    latch = Latch()
    service = Service(latch, max_streams=1, routes=[{"path": "/s", "hold": "none"}])
    task = Exchange("/s").start(service.app)
    await turns()
    refused = Exchange("/s")

    async def send(message):
        raise OSError("gone")

    refusal = asyncio.ensure_future(service.app(refused.scope, refused.receive, send))
    await turns()
    latch.open()
    await task
    with pytest.raises(OSError, match="gone"):
        await refusal
    assert 1 == len(latch.inside)
    assert [] == service.seen.of(LimiterFailed)


async def test_a_request_that_is_cancelled_while_it_runs_gives_its_slot_back():
    service = Service(Latch())
    task = Exchange().start(service.app)
    await turns()
    assert (1, 0, 0, 0, 0) == service.state
    task.cancel()
    await turns()
    assert task.cancelled()
    assert AT_REST == service.state


async def test_a_request_that_is_cancelled_while_it_waits_gives_its_place_back():
    latch = Latch()
    service = Service(latch)
    first, second = Exchange().start(service.app), Exchange().start(service.app)
    await turns()
    second.cancel()
    await turns()
    assert (1, 0, 0, 0, 0) == service.state
    latch.open()
    await first
    assert AT_REST == service.state


async def test_a_request_whose_coroutine_is_closed_leaves_nothing_behind():
    latch = Latch()
    service = Service(latch)
    first = Exchange().start(service.app)
    await turns()
    waiting = Exchange()
    coroutine = service.app(waiting.scope, waiting.receive, waiting.send)
    coroutine.send(None)
    assert (1, 1, 0, 0, 0) == service.state
    coroutine.close()
    assert (1, 0, 0, 0, 0) == service.state
    latch.open()
    await first
    assert AT_REST == service.state


async def test_a_disconnect_while_waiting_frees_the_place_and_answers_nobody():
    latch = Latch()
    service = Service(latch)
    first = Exchange().start(service.app)
    await turns()
    leaving = Exchange(body=(b"part one", b"part two"))
    task = leaving.start(service.app)
    await turns()
    await service.pass_time(0.6)
    assert (1, 1, 0, 0, 16) == service.state
    leaving.disconnect()
    await turns()
    assert task.done()
    assert [] == leaving.sent
    assert (1, 0, 0, 0, 0) == service.state
    latch.open()
    await first


async def test_what_was_read_ahead_reaches_the_app_in_order_and_once():
    got = []

    async def reader(scope, receive, send):
        if scope["path"] == "/first":
            await gate.wait()
        else:
            while True:
                message = await receive()
                got.append(message["body"])
                if not message["more_body"]:
                    break
        await hello(scope, receive, send)

    gate = asyncio.Event()
    service = Service(reader)
    first = Exchange("/first").start(service.app)
    await turns()
    parts = tuple(b"%d" % number for number in range(20))
    second = Exchange(body=parts).start(service.app)
    await turns()
    await service.pass_time(0.6)
    assert service.provider.room.used > 0
    gate.set()
    await asyncio.gather(first, second)
    assert list(parts) == got
    assert AT_REST == service.state


async def test_reading_ahead_stops_at_the_bound_of_a_request_and_of_the_process():
    latch = Latch()
    service = Service(latch)
    first = Exchange().start(service.app)
    await turns()
    large = Exchange(body=(b"x" * 30_000,) * 10)
    waiting = [large.start(service.app)]
    await turns()
    await service.pass_time(0.6)
    assert 90_000 == service.provider.room.used
    service.provider.room.used = 16 * 1024 * 1024  # as if others had filled it
    late = Exchange(body=(b"x" * 30_000,))
    waiting.append(late.start(service.app))
    await turns()
    await service.pass_time(0.6)
    assert 0 == late.received
    service.provider.room.used = 90_000
    latch.open()
    await asyncio.gather(first, *waiting)
    assert AT_REST == service.state


# How long a slot is held


def streaming(chunks, stop):
    """An app that sends chunks of a stream and waits for ``stop`` before the last."""

    async def stream(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(chunks):
            await send({"type": "http.response.body", "body": b"chunk", "more_body": True})
        await stop.wait()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return stream


@pytest.mark.parametrize(("hold", "in_use"), [("body", 1), ("first-byte", 0), ("none", 0)])
async def test_a_stream_holds_its_slot_as_long_as_its_route_says(hold, in_use):
    stop = asyncio.Event()
    service = Service(streaming(2, stop), routes=[{"path": "/s", "hold": hold}])
    task = Exchange("/s").start(service.app)
    await turns()
    assert in_use == service.state[0]
    assert 1 - in_use == service.provider.streams.total()
    stop.set()
    await task
    assert AT_REST == service.state


@pytest.mark.parametrize("hold", ["first-byte", "none"])
async def test_the_streams_of_a_customer_are_bounded_also_when_they_come_together(hold):
    latch, stop = Latch(), asyncio.Event()
    stream = streaming(1, stop)

    async def app(scope, receive, send):
        await (stream if scope["path"] == "/s" else latch)(scope, receive, send)

    service = Service(app, max_streams=2, routes=[{"path": "/s", "hold": hold}])
    first = Exchange().start(service.app)
    await turns()
    exchanges = [Exchange("/s") for _ in range(6)]  # all wait for the one slot
    tasks = [exchange.start(service.app) for exchange in exchanges]
    await turns()
    latch.open()
    await turns(50)
    most = service.provider.streams.total()
    stop.set()
    await asyncio.gather(first, *tasks)
    assert 2 == most
    assert [200, 200, 429, 429, 429, 429] == sorted(exchange.status for exchange in exchanges)
    assert AT_REST == service.state


async def test_a_reader_slower_than_max_hold_loses_its_slot_and_not_its_response():
    reading = asyncio.Event()
    service = Service(streaming(1, asyncio.Event()), max_hold=2.0)
    exchange = Exchange()

    async def send(message):
        if message["type"] == "http.response.body":
            await reading.wait()

    task = asyncio.ensure_future(service.app(exchange.scope, exchange.receive, send))
    await turns()
    await service.pass_time(1.9)
    assert (1, 0, 0, 0, 0) == service.state
    await service.pass_time(0.2)
    assert (0, 0, 1, 0, 0) == service.state
    assert [False] == [event.closed for event in service.seen.of(SlowReader)]
    reading.set()
    await turns()
    task.cancel()
    await turns()
    assert AT_REST == service.state


async def test_slow_readers_beyond_a_quarter_of_the_slots_are_closed_without_an_error():
    service = Service(streaming(1, asyncio.Event()), max_hold=1.0, max_concurrent=4)
    never = asyncio.Event()

    async def send(message):
        if message["type"] == "http.response.body":
            await never.wait()

    tasks = []
    for number in range(3):
        exchange = Exchange(client=(f"203.0.113.{number}", 5))
        tasks.append(asyncio.ensure_future(service.app(exchange.scope, exchange.receive, send)))
        await turns()
        await service.pass_time(0.01)
    await service.pass_time(1.2)
    await service.pass_time(0.3)
    await turns(30)
    done = [task for task in tasks if task.done()]
    assert 2 == len(done)
    assert [None, None] == [task.exception() for task in done]
    for task in tasks:
        task.cancel()
    await turns()
    assert AT_REST == service.state


# WebSockets


async def accepting(scope, receive, send):
    """Accept, then wait until the client goes."""
    assert "websocket.connect" == (await receive())["type"]
    await send({"type": "websocket.accept", "headers": []})
    assert "websocket.disconnect" == (await receive())["type"]


async def test_a_websocket_holds_a_slot_until_it_is_accepted_and_counts_as_a_stream_until_it_ends():
    service = Service(accepting)
    socket = Handshake()
    task = socket.start(service.app)
    await turns()
    assert ["websocket.accept"] == socket.types
    assert b"x-ezthrottle-rps" in dict(socket.sent[0]["headers"])
    assert (0, 0, 0, 1, 0) == service.state
    socket.disconnect()
    await task
    assert AT_REST == service.state


@pytest.mark.parametrize("denial", [True, False])
async def test_a_refused_handshake_is_answered_with_429_or_closed_where_the_server_knows_no_answer(denial):
    latch = Latch()
    service = Service(latch, max_queue=1)
    tasks = [Exchange().start(service.app) for _ in range(2)]
    await turns()
    socket = Handshake(denial=denial)
    await socket.through(service.app)
    if denial:
        assert ["websocket.http.response.start", "websocket.http.response.body"] == socket.types
        assert 429 == socket.sent[0]["status"]
    else:
        assert [("websocket.close", 1013)] == [(message["type"], message["code"]) for message in socket.sent]
    latch.open()
    await asyncio.gather(*tasks)


async def test_websockets_are_bounded_per_customer_also_when_they_come_together():
    latch = Latch()

    async def app(scope, receive, send):
        await (accepting if scope["type"] == "websocket" else latch)(scope, receive, send)

    service = Service(app, max_streams=2)
    first = Exchange().start(service.app)
    await turns()
    sockets = [Handshake() for _ in range(5)]  # all wait for the one slot
    tasks = [socket.start(service.app) for socket in sockets]
    await turns()
    latch.open()
    await turns(50)
    other = Handshake(client=("198.51.100.1", 1))
    tasks.append(other.start(service.app))
    await turns()
    accepted = sum(socket.types == ["websocket.accept"] for socket in sockets)
    for socket in [*sockets, other]:
        socket.disconnect()
    await asyncio.gather(first, *tasks)
    assert 2 == accepted
    assert ["websocket.accept"] == other.types
    assert AT_REST == service.state


async def test_a_websocket_that_waited_and_ends_early_leaves_no_reading_task_behind():
    async def refusing(scope, receive, send):
        if scope["type"] == "http":
            await latch(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    latch = Latch()
    service = Service(refusing)
    first = Exchange().start(service.app)
    await turns()
    waiting = Handshake().start(service.app)
    await turns()
    await service.pass_time(0.6)
    latch.open()
    await asyncio.gather(first, waiting)
    await turns()
    assert {asyncio.current_task()} == asyncio.all_tasks()
    assert AT_REST == service.state


# Nested calls


@pytest.mark.parametrize("marked", [True, False])
async def test_a_nested_call_passes_while_all_slots_are_held_and_without_the_marker_waits_for_max_wait(marked):
    nested = Exchange("/inner", client=("198.51.100.1", 1))

    async def handler(scope, receive, send):
        if scope["path"] == "/outer":
            if marked:
                headers = [(name.encode(), value.encode()) for name, value in nested_headers(scope).items()]
                nested.scope["headers"] += headers
            await nested.through(service.app)
        await hello(scope, receive, send)

    service = Service(handler, max_wait=5.0)
    outer = Exchange("/outer")
    task = outer.start(service.app)
    await turns()
    assert marked == task.done()
    await service.pass_time(5.1)
    await task
    assert 200 == outer.status
    assert (200 if marked else 429) == nested.status
    assert AT_REST == service.state


async def test_a_marker_that_was_forged_or_changed_waits_like_everybody():
    latch = Latch()
    service = Service(latch)
    first = Exchange().start(service.app)
    await turns()
    ((name, value),) = nested_headers(latch.inside[0]).items()
    head, _, signature = value.rpartition(".")
    expires, kind, customer = head.split(".")
    forged = [
        b"",
        b"\xff\xfe",
        b"." * 4,
        b"x" * 100_000,
        value.encode() + b"0",
        f"9{expires}.{kind}.{customer}.{signature}".encode(),
        f"nan.{kind}.{customer}.{signature}".encode(),
        f"{expires}.v.{customer}.{signature}".encode(),
    ]
    tasks = [Exchange(headers=[(name.encode(), marker)]).start(service.app) for marker in forged]
    await turns()
    assert 1 == len(latch.inside)
    latch.open()
    await asyncio.gather(first, *tasks)
    assert [] == service.seen.of(LimiterFailed)


# Lifespan


async def lifespan(app):
    """Start and stop an app; return what it answered."""
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    answered = []

    async def receive():
        return next(messages)

    async def send(message):
        answered.append(message["type"])

    await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
    return answered


async def living(scope, receive, send):
    """An app that takes part in the lifespan protocol."""
    if scope["type"] == "lifespan":
        for _ in range(2):
            event = await receive()
            await send({"type": event["type"] + ".complete"})
    else:
        await hello(scope, receive, send)


async def test_lifespan_messages_reach_the_app_and_the_server():
    service = Service(living)
    assert ["lifespan.startup.complete", "lifespan.shutdown.complete"] == await lifespan(service.app)


async def test_an_app_that_is_started_again_after_a_shutdown_queues_again():
    latch = Latch()

    async def app(scope, receive, send):
        await (living if scope["type"] == "lifespan" else latch)(scope, receive, send)

    service = Service(app)
    await lifespan(service.app)
    messages = asyncio.Queue()
    messages.put_nowait({"type": "lifespan.startup"})
    again = asyncio.ensure_future(service.app({"type": "lifespan"}, messages.get, lambda message: turns(1)))
    await turns()
    exchanges = [Exchange(), Exchange()]
    tasks = [exchange.start(service.app) for exchange in exchanges]
    await turns()
    latch.open()
    await asyncio.gather(*tasks)
    assert [200, 200] == [exchange.status for exchange in exchanges]
    messages.put_nowait({"type": "lifespan.shutdown"})
    await again


async def test_a_shutdown_refuses_who_waits_with_503_and_lets_end_what_runs():
    latch = Latch()
    service = Service(latch)
    exchanges = [Exchange(), Exchange()]
    tasks = [exchange.start(service.app) for exchange in exchanges]
    await turns()
    service.provider.close()
    await turns()
    latch.open()
    await asyncio.gather(*tasks)
    assert [200, 503] == [exchange.status for exchange in exchanges]
    assert AT_REST == service.state


async def test_a_scope_of_an_unknown_kind_reaches_the_app():
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["type"])

    await Service(app).app({"type": "somethingnew"}, None, None)
    assert ["somethingnew"] == seen
