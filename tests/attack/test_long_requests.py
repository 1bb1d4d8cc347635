"""What lasts, by direct ASGI calls: streams, slow readers, WebSockets, calls to oneself, and the app's own life."""

from __future__ import annotations

import asyncio

import pytest

from ezthrottle_provider import nested_headers
from ezthrottle_provider.instrumentation import LimiterFailed, SlowReader

from .exchanges import Exchange, Handshake, Latch, hello, turns
from .services import AT_REST, Service

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
