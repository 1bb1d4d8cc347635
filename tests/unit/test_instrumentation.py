from __future__ import annotations

import dataclasses
import logging
import typing

import pytest

from ezthrottle_provider.instrumentation import (
    Abandoned,
    ConfigReloaded,
    Event,
    Finished,
    Granted,
    Hinted,
    Hook,
    Hooks,
    LimiterFailed,
    LoggingHook,
    Queued,
    Refused,
    ResolverFailed,
    SlowReader,
)
from ezthrottle_provider.testing import RecordingHook

HINT = Hinted(at=0.0, id="W020", text="slots never fill")


def refused(
    *,
    at: float = 0.0,
    customer: str = "acme",
    route: str = "/v1/*",
    reason: str = "max_queue",
    position: int | None = 101,
    enforced: bool = True,
) -> Refused:
    return Refused(
        at=at,
        customer=customer,
        key="hash",
        tier="pro",
        route=route,
        pool="default",
        reason=reason,
        retry_after_s=2.5,
        position=position,
        enforced=enforced,
    )


WHOSE = {"at": 0.0, "customer": "acme", "key": "hash", "tier": "pro", "route": "/v1/*", "pool": "default"}
EVENTS: tuple[Event, ...] = (
    Queued(**WHOSE, depth=3),
    Granted(**WHOSE, wait_s=0.5),
    Finished(**WHOSE, cost=0.1, held_s=0.1, wait_s=0.5),
    refused(),
    Abandoned(**WHOSE, waited_s=1.5),
    SlowReader(**WHOSE, held_s=10.0, closed=True),
    ResolverFailed(at=0.0, error="TimeoutError"),
    LimiterFailed(at=0.0, where="submit", error="KeyError"),
    HINT,
    ConfigReloaded(at=0.0, ok=True, text="ezthrottle.toml"),
)


class Failing:
    """A hook that always raises, and that would give away a secret if it were shown."""

    def __call__(self, event: Event, /) -> None:
        raise LookupError("broken hook")

    def __repr__(self) -> str:
        return "Failing(token='hook-secret')"


# --- records


def test_the_examples_cover_every_kind_of_event():
    assert set(typing.get_args(Event)) == {type(event) for event in EVENTS}


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_is_frozen_and_has_no_room_for_more(event: Event):
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.at = 1.0  # type: ignore[misc]
    assert not hasattr(event, "__dict__")
    assert event == dataclasses.replace(event)


# --- hooks


def test_hooks_are_false_while_nobody_listens():
    hooks = Hooks()
    hook = RecordingHook()
    assert not hooks
    hooks.add(hook)
    assert hooks
    hooks.remove(hook)
    assert not hooks


def test_every_hook_gets_every_event_in_the_order_of_adding():
    seen: list[tuple[str, Event]] = []
    hooks = Hooks(lambda event: seen.append(("first", event)), lambda event: seen.append(("second", event)))
    hooks.emit(HINT)
    assert [("first", HINT), ("second", HINT)] == seen


def test_a_hook_added_twice_is_called_once_and_removed_by_one_call():
    events: list[Event] = []
    hooks = Hooks(events.append)
    hooks.add(events.append)  # another bound method, equal to the first
    hooks.emit(HINT)
    assert [HINT] == events
    hooks.remove(events.append)
    assert not hooks


def test_removing_a_hook_that_is_not_there_changes_nothing():
    kept = RecordingHook()
    hooks = Hooks(kept)
    hooks.remove(RecordingHook())
    hooks.emit(HINT)
    assert [HINT] == kept.events


def test_a_hook_may_add_and_remove_hooks_while_an_event_is_handed_out():
    late = RecordingHook()

    def replace_myself(event: Event, /) -> None:
        hooks.remove(replace_myself)
        hooks.add(late)

    last = RecordingHook()
    hooks = Hooks(replace_myself, last)
    hooks.emit(HINT)
    assert ([HINT], []) == (last.events, late.events)
    hooks.emit(HINT)
    assert ([HINT, HINT], [HINT]) == (last.events, late.events)


def test_a_failing_hook_neither_raises_nor_keeps_the_event_from_others(caplog: pytest.LogCaptureFixture):
    last = RecordingHook()
    hooks = Hooks(Failing(), last)
    for _ in range(5):
        hooks.emit(HINT)
    assert [HINT] * 5 == last.events
    assert 5 == hooks.failures


def test_a_failing_hook_is_logged_once_each_with_its_traceback(caplog: pytest.LogCaptureFixture):
    hooks: Hooks = Hooks(Failing(), Failing())
    for _ in range(5):
        hooks.emit(HINT)
    assert 10 == hooks.failures
    assert 2 == len(caplog.records)
    assert "LookupError: broken hook" in caplog.text
    assert "hook-secret" not in caplog.text


def test_a_request_to_stop_the_process_is_not_held_up():
    def stop(event: Event, /) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Hooks(stop).emit(HINT)


# --- logging


def lines_of(caplog: pytest.LogCaptureFixture, hook: Hook, *events: Event, level: int = logging.DEBUG) -> list[str]:
    with caplog.at_level(level, logger="ezthrottle_provider"):
        for event in events:
            hook(event)
    return caplog.messages


def test_what_an_operator_should_know_is_logged_at_a_fitting_level(caplog: pytest.LogCaptureFixture):
    lines_of(caplog, LoggingHook(), *EVENTS, ConfigReloaded(at=0.0, ok=False, text="E003"))
    assert [
        logging.INFO,  # refused
        logging.INFO,  # slow reader
        logging.WARNING,  # resolver
        logging.ERROR,  # limiter
        logging.WARNING,  # hint
        logging.INFO,  # reloaded
        logging.ERROR,  # not reloaded
    ] == [record.levelno for record in caplog.records]


def test_a_refusal_is_one_line_that_says_who_why_and_when(caplog: pytest.LogCaptureFixture):
    assert [
        "refused customer 'acme' on '/v1/*': max_queue, place 101, come back after 2.5 s",
        "would have refused (shadow mode) customer 'acme' on '/v1/*': quota, come back after 2.5 s",
    ] == lines_of(caplog, LoggingHook(), refused(), refused(reason="quota", position=None, enforced=False))


def test_a_name_with_line_feeds_forges_no_line(caplog: pytest.LogCaptureFixture):
    name = "acme\nERROR root: all is lost"
    lines = lines_of(
        caplog,
        LoggingHook(),
        refused(customer=name, route=name),
        SlowReader(**WHOSE | {"customer": name}, held_s=1, closed=False),
    )
    assert 2 == len(lines)
    assert not any("\n" in line for line in lines)


def test_a_flood_of_one_kind_takes_its_lines_and_no_others(caplog: pytest.LogCaptureFixture):
    flood = [refused(at=index / 100) for index in range(5_000)]
    lines = lines_of(
        caplog, LoggingHook(lines_per_minute=3), *flood, LimiterFailed(at=50.0, where="pick", error="KeyError")
    )
    assert 4 == len(lines)
    assert "the limiter failed in pick: KeyError" == lines[-1]


def test_the_first_line_of_a_later_minute_says_how_many_were_left_out(caplog: pytest.LogCaptureFixture):
    hook = LoggingHook(lines_per_minute=3)
    first_minute = [refused(at=100.0 + second) for second in range(60)]
    second_minute = [refused(at=160.0 + second) for second in range(4)]
    lines = lines_of(caplog, hook, *first_minute, *second_minute, refused(at=220.0))
    assert 7 == len(lines)
    assert [3, 6] == [index for index, line in enumerate(lines) if line.endswith("not logged)")]
    assert lines[3].endswith(" (57 more like this were not logged)")
    assert lines[6].endswith(" (1 more like this were not logged)")


def test_time_that_runs_back_gives_no_new_lines(caplog: pytest.LogCaptureFixture):
    hook = LoggingHook(lines_per_minute=1)
    assert 1 == len(lines_of(caplog, hook, refused(at=1000.0), refused(at=900.0), refused(at=10.0)))


def test_a_line_that_the_level_hides_is_not_paid_for(caplog: pytest.LogCaptureFixture):
    hook = LoggingHook(lines_per_minute=1)
    assert [] == lines_of(caplog, hook, *[refused()] * 5, level=logging.WARNING)
    lines = lines_of(caplog, hook, refused(), level=logging.INFO)
    assert 1 == len(lines)
    assert "not logged" not in lines[0]


def test_the_lines_go_to_the_logger_that_was_given(caplog: pytest.LogCaptureFixture):
    LoggingHook(logging.getLogger("elsewhere"))(HINT)
    assert [("elsewhere", logging.WARNING, "W020: slots never fill")] == caplog.record_tuples
