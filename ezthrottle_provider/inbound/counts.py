"""How much of a quota is used: the terms of the ``limits`` package, counted by the calendar.

From ``limits`` come the notation, the rule (``FixedWindowRateLimiter``) and the interface of a storage. Its own
``MemoryStorage`` would not do: with 100,000 counts and one busy customer it started a thread up to 60 times a second,
each of which walked over all of them (requests stood still for 11 ms); from several threads at once it admitted too few
in 4 of 20 runs; and it has no bound. Its months are 30 days.

Importing this module imports ``limits``, which takes longer than all of this library: only who has a quota should.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from limits import RateLimitItemPerSecond, parse
from limits.storage.base import Storage
from limits.strategies import FixedWindowRateLimiter

from .periods import CALENDAR_UNITS, Period, period_at

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Quota", "Tally", "Window"]

_COMPARED: Final = 8


class Window(RateLimitItemPerSecond):
    """A quota in one of its periods, as the strategies of ``limits`` take it: an amount per ``multiples`` seconds.

    ``label`` names the period; ``ends`` is when it does, None where that depends on the first request in it. The amount
    is no part of the key, so that a quota that is changed while it runs keeps what was used of it.
    """

    __slots__ = ("_clock", "ends", "label")

    def __init__(self, amount: int, label: str, length_s: int, ends: float | None, clock: Callable[[], float]) -> None:
        super().__init__(amount, length_s)
        self.label = label
        self.ends = ends
        self._clock = clock

    def key_for(self, *identifiers: bytes | str | int | float) -> str:
        """Return what is counted under: the identifiers and the period."""
        return "/".join((*map(str, identifiers), self.label))

    def get_expiry(self) -> int:
        """Return for how many seconds a count that begins now is of use."""
        return self.multiples if self.ends is None else max(1, math.ceil(self.ends - self._clock()))


class Quota:
    """A quota in the notation of ``limits``: days, months and years are the calendar's, shorter units ``limits``' own.

    Those begin with the first request that is counted in them. ``rejects`` tells whether what is above it is refused.
    Raises ``ValueError`` when ``text`` is no such notation.
    """

    __slots__ = ("_clock", "_multiples", "_period", "_unit", "_window", "amount", "rejects")

    def __init__(self, text: str, clock: Callable[[], float], *, rejects: bool = True) -> None:
        item = parse(text)
        self.amount = item.amount
        self.rejects = rejects
        self._clock = clock
        self._multiples = item.multiples
        self._unit = item.GRANULARITY.name
        self._period: Period | None = None
        label = f"{item.multiples} {self._unit}"
        self._window = Window(item.amount, label, item.GRANULARITY.seconds * item.multiples, None, clock)

    def window(self) -> Window:
        """Return the window that a request of now is counted in."""
        if self._unit not in CALENDAR_UNITS:
            return self._window
        now = self._clock()
        if self._period is None or now not in self._period:
            self._period = period = period_at(now, self._unit, self._multiples)
            label = f"{self._multiples} {self._unit} from {period.name}"
            self._window = Window(self.amount, label, round(period.ends - period.starts), period.ends, self._clock)
        return self._window


class _Counts(Storage):
    """A storage of ``limits`` in memory that is bounded; not safe to use from several threads, its owner has a lock.

    Counts that have ended are cleared away as others go on. Beyond ``most`` counts, the one that used least among the
    oldest few is forgotten: callers who come once make room, those who use their quota are remembered.
    """

    STORAGE_SCHEME = None

    def __init__(self, clock: Callable[[], float], *, most: int) -> None:
        super().__init__()
        self._clock = clock
        self._most = most
        self._counts: OrderedDict[str, _Count] = OrderedDict()

    def __len__(self) -> int:
        return len(self._counts)

    @property
    def base_exceptions(self) -> type[Exception]:
        """What a storage of this kind raises: nothing of its own."""
        return ValueError

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Add to a count, which is of use for ``expiry`` seconds if it begins now; return its value."""
        now = self._clock()
        self._sweep(now)
        count = self._counts.get(key)
        if count is None or not count.holds(now):
            if count is None and len(self._counts) >= self._most:
                self._make_room()
            count = self._counts[key] = _Count(now, now + expiry)
        count.used += amount
        return count.used

    def get(self, key: str) -> int:
        """Return a count; 0 when there is none."""
        count = self._counts.get(key)
        return 0 if count is None or not count.holds(self._clock()) else count.used

    def get_expiry(self, key: str) -> float:
        """Return when a count ends; now when there is none."""
        count = self._counts.get(key)
        now = self._clock()
        return now if count is None or not count.holds(now) else count.ends

    def check(self) -> bool:
        """Tell whether the storage can be used: always."""
        return True

    def reset(self) -> int:
        """Forget all counts; return how many there were."""
        forgotten = len(self._counts)
        self._counts.clear()
        return forgotten

    def clear(self, key: str) -> None:
        """Forget one count."""
        self._counts.pop(key, None)

    def _sweep(self, now: float) -> None:
        # One look per request: when as many requests have come as there are counts, none is left that has ended.
        key = next(iter(self._counts), None)
        if key is not None:
            if self._counts[key].holds(now):
                self._counts.move_to_end(key)
            else:
                del self._counts[key]

    def _make_room(self) -> None:
        oldest = [self._counts.popitem(last=False) for _ in range(min(_COMPARED, len(self._counts)))]
        oldest.remove(min(oldest, key=lambda item: item[1].used))
        self._counts.update(oldest)


class _Count:
    __slots__ = ("begins", "ends", "used")

    def __init__(self, begins: float, ends: float) -> None:
        self.begins = begins
        self.ends = ends
        self.used = 0

    def holds(self, now: float) -> bool:
        # Before its beginning when the clock was set back: else a count could outlive its window by any time.
        return self.begins <= now < self.ends


class Tally(FixedWindowRateLimiter):
    """The rule of ``limits`` over at most ``most`` counts. Ask it ``test``, tell it ``hit``."""

    def __init__(self, clock: Callable[[], float], *, most: int) -> None:
        self.counts = _Counts(clock, most=most)
        self._clock = clock
        super().__init__(self.counts)

    def left_s(self, window: Window, account: str) -> float:
        """Return the seconds until an account's count begins anew: above 0, at most the window's length."""
        now = self._clock()
        ends = self.counts.get_expiry(window.key_for(account)) if window.ends is None else window.ends
        return min(ends - now, float(window.multiples)) if ends > now else float(window.multiples)

    def remaining(self, window: Window, account: str) -> int:
        """Return how many requests an account has left."""
        return self.get_window_stats(window, account).remaining

    def restore(self, account: str, label: str, ends: float, used: int) -> None:
        """Add what an account had used in the period of that label before this process began."""
        self.counts.incr(f"{account}/{label}", ends - self._clock(), used)
