"""Fakes for tests of code that uses this library: a clock that you turn, a hook that remembers."""

from __future__ import annotations

from typing import TypeVar

from .instrumentation import Event

__all__ = ["FakeClock", "RecordingHook"]

_EventT = TypeVar("_EventT", bound=Event)


class FakeClock:
    """A clock that stands still until it is told otherwise; call it for the time in seconds."""

    __slots__ = ("_now_s",)

    def __init__(self, now_s: float = 0.0) -> None:
        self._now_s = now_s

    def __call__(self) -> float:
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Move the time on by ``seconds``. Raises ``ValueError`` for a step back: a monotonic clock takes none."""
        if not seconds >= 0:
            raise ValueError(f"a clock cannot advance by {seconds} s")
        self._now_s += seconds


class RecordingHook:
    """A hook that keeps every event in ``events``, oldest first."""

    __slots__ = ("events",)

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event, /) -> None:
        self.events.append(event)

    def of(self, kind: type[_EventT]) -> list[_EventT]:
        """Return the events of one class, oldest first."""
        return [event for event in self.events if isinstance(event, kind)]
