from __future__ import annotations

import math

import pytest

from ezthrottle_provider.instrumentation import Hinted, Hooks, ResolverFailed
from ezthrottle_provider.testing import FakeClock, RecordingHook


def test_the_clock_stands_still_until_it_is_turned():
    clock = FakeClock(5.0)
    assert [5.0, 5.0] == [clock(), clock()]
    clock.advance(0.25)
    assert 5.25 == clock()


@pytest.mark.parametrize("seconds", [-1, -1e-9, math.nan])
def test_the_clock_never_goes_back(seconds: float):
    clock = FakeClock()
    with pytest.raises(ValueError, match="cannot advance"):
        clock.advance(seconds)
    assert 0.0 == clock()


def test_the_recording_hook_keeps_events_in_order_and_finds_them_by_class():
    hook = RecordingHook()
    hooks = Hooks(hook)
    first, second, third = (
        Hinted(at=1.0, id="W020", text="a"),
        ResolverFailed(at=2.0, error="TimeoutError"),
        Hinted(at=3.0, id="W021", text="b"),
    )
    for event in (first, second, third):
        hooks.emit(event)
    assert [first, second, third] == hook.events
    assert [first, third] == hook.of(Hinted)
    assert [second] == hook.of(ResolverFailed)
