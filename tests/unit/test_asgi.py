"""The ASGI wrapper by direct calls: it hands on what it gets, holds a slot as long as it should, and never fails."""

from __future__ import annotations

import asyncio
import json

import pytest
from attack.exchanges import Exchange, Latch, hello, turns
from attack.services import AT_REST, Service

from ezthrottle_provider.instrumentation import LimiterFailed, Refused

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
