"""The provider: one config, changed while it runs, read again when it is told to, and never half applied."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from attack.exchanges import Exchange, Latch, MovingClock, hello, turns

from ezthrottle_provider import ASGIFairQueue, ConfigError, Provider
from ezthrottle_provider.instrumentation import ConfigReloaded
from ezthrottle_provider.testing import RecordingHook


def watched(provider):
    seen = RecordingHook()
    provider.hooks.add(seen)
    return seen


class Crowd:
    """Requests that wait at an app with one slot until the provider lets them in."""

    def __init__(self, provider, *keys):
        self.latch = Latch()
        self.exchanges = [Exchange(key=key) for key in keys]
        self._app = ASGIFairQueue(self.latch, provider=provider)

    async def __aenter__(self):
        self._tasks = []
        for exchange in self.exchanges:
            self._tasks.append(exchange.start(self._app))
            await turns(2)
        return self

    async def __aexit__(self, *details):
        self.latch.open()
        await asyncio.gather(*self._tasks)

    @property
    def inside(self):
        return len(self.latch.inside)


# Live changes


async def test_more_slots_let_those_in_who_wait():
    provider = Provider(max_concurrent=1)
    async with Crowd(provider, b"a", b"a", b"a") as crowd:
        assert 1 == crowd.inside
        provider.update(max_concurrent=3)
        await turns()
        assert 3 == crowd.inside


async def test_a_limit_that_is_lifted_for_a_tier_lets_those_in_who_were_held_by_it():
    provider = Provider(trust_keys=True, max_concurrent=9, tiers={"default": {"max_concurrent": 1}})
    async with Crowd(provider, b"a", b"a", b"a") as crowd:
        assert 1 == crowd.inside
        provider.update(tiers={"default": {"max_concurrent": None}})
        await turns()
        assert 3 == crowd.inside


async def test_keys_that_become_trusted_while_requests_wait_strand_none_of_them():
    clock = MovingClock(100.0)
    limited = {"default": {"max_concurrent": 1}, "unverified": {"max_concurrent": 1}}
    provider = Provider(clock=clock, max_concurrent=9, tiers=limited)
    async with Crowd(provider, b"a", b"a", b"a") as crowd:
        assert 1 == crowd.inside
        provider.update(trust_keys=True, tiers={"unverified": {"max_concurrent": None}})
        await Exchange(key=b"b").through(ASGIFairQueue(hello, provider=provider))
        crowd.latch.open()
        await turns()
        clock.advance(0.5)
        provider.gate.tick()
        await turns(30)
        assert [200] * 3 == [exchange.status for exchange in crowd.exchanges]


async def test_a_new_weight_is_shown_and_acts_at_once():
    provider = Provider(trust_keys=True, max_concurrent=8, tiers={"default": {"weight": 1}})
    app = ASGIFairQueue(hello, provider=provider)
    await Exchange(key=b"a").through(app)
    provider.update(tiers={"default": {"weight": 8}})
    assert 8.0 == provider.snapshot().pools[0].customers[0].weight


async def test_turning_enforcement_off_lets_everybody_in():
    provider = Provider(max_concurrent=1)
    app = ASGIFairQueue(latch := Latch(), provider=provider)
    first = Exchange().start(app)
    await turns()
    provider.update(enforce=False)
    second = Exchange().start(app)
    await turns()
    assert 2 == len(latch.inside)
    latch.open()
    await asyncio.gather(first, second)


async def test_a_pool_that_is_added_while_requests_come_serves_them():
    provider = Provider(max_concurrent=1)
    app = ASGIFairQueue(latch := Latch(), provider=provider)
    first = Exchange().start(app)
    await turns()
    provider.update(pools={"exports": {"max_concurrent": 2}}, routes=[{"path": "/export", "pool": "exports"}])
    second = Exchange("/export").start(app)
    await turns()
    assert 2 == len(latch.inside)
    assert {"default": 1, "exports": 1} == {pool.name: pool.in_flight for pool in provider.snapshot().pools}
    latch.open()
    await asyncio.gather(first, second)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"max_concurrent": 0}, "E003"),
        ({"max_wiat": 5}, "E007"),
        ({"cost": "requests"}, "E023"),
        ({"namespace": "other"}, "E023"),
        ({"secret": "another secret of some length"}, "E023"),
        ({"identify": "no.such.module:function"}, "E020"),
        ({"resolve": "no.such.module:function"}, "E020"),
    ],
)
def test_an_update_with_a_mistake_says_which_and_changes_nothing(changes, problem):
    provider = Provider(max_wait=7.0)
    before = provider.config
    with pytest.raises(ConfigError) as caught:
        provider.update(max_queue=5, **changes)
    assert [problem] == [found.id for found in caught.value.problems]
    assert before is provider.config
    assert 100 == provider.gate.scheduler.max_queue


@pytest.mark.parametrize("key", ["identify", "resolve", "cost"])
def test_a_function_that_cannot_be_imported_is_a_mistake_in_the_config(key):
    with pytest.raises(ConfigError):
        Provider(**{key: "no.such.module:function"})


# Reload


def config_file(folder, **values):
    path = folder / "ezthrottle.toml"
    path.write_text("[inbound]\n" + "".join(f"{key} = {value}\n" for key, value in values.items()), encoding="utf-8")
    return path


def test_a_reload_reads_the_file_again_and_keywords_still_come_first(tmp_path):
    path = config_file(tmp_path, max_wait=3, max_queue=7)
    provider = Provider(config=path, max_queue=9)
    seen = watched(provider)
    config_file(tmp_path, max_wait=4, max_queue=8)
    provider.reload()
    assert (4.0, 9) == (provider.config.max_wait, provider.config.max_queue)
    assert [True] == [event.ok for event in seen.of(ConfigReloaded)]


@pytest.mark.parametrize(
    "mistake",
    [
        {"max_wait": '"soon"'},
        {"namespace": '"other"'},
        {"identify": '"no.such.module:function"'},
        {"resolve": '"no.such.module:function"'},
        {"max_concurrent": "0", "max_queue": "-1"},
    ],
)
def test_a_reload_with_a_mistake_is_reported_and_changes_nothing(tmp_path, mistake):
    provider = Provider(config=config_file(tmp_path, max_wait=3))
    seen = watched(provider)
    config_file(tmp_path, **mistake)
    provider.reload()
    assert 3.0 == provider.config.max_wait
    (event,) = seen.of(ConfigReloaded)
    assert not event.ok
    assert next(iter(mistake)) in event.text


def test_a_reload_of_a_file_that_is_gone_is_reported(tmp_path):
    path = config_file(tmp_path, max_wait=3)
    provider = Provider(config=path)
    seen = watched(provider)
    path.unlink()
    provider.reload()
    assert [False] == [event.ok for event in seen.of(ConfigReloaded)]


@pytest.fixture
def hangups():
    """The handler of SIGHUP, put back afterwards, so that no test is left listening."""
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


async def reloaded(seen):
    """Wait until a provider has read its config again, which it does in a thread of its own."""
    async with asyncio.timeout(10.0):
        while not seen.of(ConfigReloaded):
            await turns()


@pytest.mark.usefixtures("hangups")
async def test_a_hangup_reloads_the_file_and_calls_who_listened_before(tmp_path):
    heard = []
    signal.signal(signal.SIGHUP, lambda number, frame: heard.append(number))
    provider = Provider(config=config_file(tmp_path, max_concurrent=1))
    seen = watched(provider)
    async with Crowd(provider, b"a", b"a") as crowd:
        assert 1 == crowd.inside
        config_file(tmp_path, max_concurrent=2)
        os.kill(os.getpid(), signal.SIGHUP)
        await reloaded(seen)
        await turns()
        assert 2 == crowd.inside
    assert [signal.SIGHUP] == heard


@pytest.mark.usefixtures("hangups")
async def test_a_config_that_is_no_file_leaves_hangups_alone(monkeypatch):
    monkeypatch.delenv("EZTHROTTLE_CONFIG", raising=False)
    before = signal.getsignal(signal.SIGHUP)
    await Exchange().through(ASGIFairQueue(hello, provider=Provider()))
    assert before is signal.getsignal(signal.SIGHUP)


# The snapshot


async def test_a_snapshot_says_who_runs_and_waits_and_leaves_out_who_is_least_busy():
    provider = Provider(trust_keys=True, max_concurrent=2)
    async with Crowd(provider, b"a", b"b", b"b", b"b"):
        (pool,) = provider.snapshot(customers=1).pools
        assert (2, 2, 2, 1) == (pool.slots, pool.in_flight, pool.waiting, pool.customers_omitted)
        (busiest,) = pool.customers
        assert (1, 2, 0.5) == (busiest.in_flight, busiest.waiting, busiest.share)
    (pool,) = provider.snapshot().pools
    assert (0, 0) == (pool.in_flight, pool.waiting)
    assert {0} == {customer.in_flight + customer.waiting for customer in pool.customers}


def test_what_a_provider_says_of_itself_holds_no_secret():
    provider = Provider(secret="0123456789abcdef secret", redis_url="redis://user:pass word@host/0".replace(" ", ""))
    assert "secret=***" in repr(provider)
    assert "0123456789abcdef" not in repr(provider)
    assert "password" not in repr(provider)


def test_a_wrapper_takes_a_provider_or_a_config_and_not_both():
    with pytest.raises(TypeError):
        ASGIFairQueue(hello, provider=Provider(), max_concurrent=3)
