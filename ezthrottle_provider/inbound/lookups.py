"""Lookups: what is known of keys, who waits for an answer, and what runs. The deciding half of the resolver.

At most ``limit`` lookups run at once; the others wait by network address: one of each address in turn, first come first
served inside it. All who ask for the same key share one lookup. No outcome is ever a refusal: in doubt the last good
answer counts, or the caller counts as unverified. Time is passed in; nothing here waits or runs anything.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final

from ezthrottle_provider.customers import Customer

__all__ = ["BUSY", "Answer", "Lookup", "Lookups", "Run"]

Run = Callable[["Lookup"], None]

GOOD_FOR_S: Final = 60.0
LAST_GOOD_FOR_S: Final = 600.0
BAD_FOR_S: Final = 10.0
RETRY_AFTER_S: Final = 5.0
"""How long a fallback is repeated before asking again: each attempt at a dead service costs its caller a second."""
BUSY: Final = "Busy"
"""How a lookup is reported that found no call free in time; other failures go by their exception's type."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Whose key it is, ``None`` for nobody's, and the time (of the clock in use) until which that may be relied on.

    ``last_good_until`` is for how long it stands in when asking again fails.
    """

    customer: Customer | None
    until: float
    last_good_until: float = 0.0


@dataclass(slots=True, eq=False, repr=False)
class Lookup:
    """One question, shared by all who ask for the same key; it waits, runs, and has an answer in the end.

    ``deadline`` is when those who wait for it stop: for a call to come free, then for the call. A call that overruns
    keeps its place among the running ones until it returns: a thread cannot be stopped.
    """

    key: str
    address: str
    deadline: float
    run: Run  # it holds the raw key; no repr of a lookup shows it
    running: bool = False
    answer: Answer | None = None
    task: asyncio.Task[None] | None = None  # kept here, since a loop holds its tasks only weakly
    wakers: set[Callable[[], None]] = field(default_factory=set)


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class Lookups:
    """What is known, who waits and what runs. Pure: time is passed in. Not thread-safe: its owner holds a lock.

    Invariants: running <= ``limit``; waiting <= ``max_waiting``; a lookup is in ``_open`` until its call has returned,
    or until it left the line. Good and bad answers are bounded apart, so that invented keys cannot push out known ones.
    """

    limit: int = 16
    time_limit_s: float = 1.0
    max_waiting: int = 1_000
    max_remembered: int = 10_000
    waiting: int = field(default=0, init=False)  # lookups that wait for a call
    running: int = field(default=0, init=False)  # calls that have not returned, those that overrun included
    _overdue: int = field(default=0, init=False)  # those that overrun
    _open: dict[str, Lookup] = field(default_factory=dict, init=False)
    _lines: OrderedDict[str, OrderedDict[Lookup, None]] = field(default_factory=OrderedDict, init=False)  # by address
    _good: dict[str, Answer] = field(default_factory=dict, init=False)
    _bad: dict[str, Answer] = field(default_factory=dict, init=False)

    def known(self, key: str, now: float) -> Answer | None:
        """The answer that need not be asked for."""
        for answer in (self._good.get(key), self._bad.get(key)):
            if answer is not None and now < answer.until:
                return answer
        return None

    def join(self, key: str, address: str, now: float, run: Run) -> tuple[Lookup | Answer, Lookup | None]:
        """Take part in the lookup of a key, or begin one.

        The first of the pair is that lookup, or a fallback when there is no place; the second is another lookup that
        had to make place: the newest of the longest line, and it has been given its answer.
        """
        if lookup := self._open.get(key):
            # One that has an answer and is still open overruns: nobody waits for that again.
            if lookup.answer is None and len(lookup.wakers) < self.max_waiting:
                return lookup, None
            return self._fall_back(key, now), None
        full = self.waiting >= self.max_waiting
        victim = self._victim(address) if full else None
        # When every call overruns, waiting for one would only add to the delay.
        if self._overdue >= self.limit or (full and victim is None):
            return self._fall_back(key, now), None
        if victim is not None:
            self._unline(victim)
            del self._open[victim.key]
            victim.answer = self._fall_back(victim.key, now)
        lookup = self._open[key] = Lookup(key, address, now + self.time_limit_s, run)
        self._lines.setdefault(address, OrderedDict())[lookup] = None
        self.waiting += 1
        return lookup, victim

    def start(self, now: float) -> list[Lookup]:
        """The lookups whose calls begin now: one of each address in turn while there are calls free."""
        started = []
        while self._lines and self.running < self.limit:
            address, line = next(iter(self._lines.items()))
            lookup = next(iter(line))
            self._unline(lookup)
            if line:
                self._lines.move_to_end(address)
            lookup.running = True
            lookup.deadline = now + self.time_limit_s
            self.running += 1
            started.append(lookup)
        return started

    def settle(self, lookup: Lookup, now: float, *, customer: Customer | None, failed: bool) -> None:
        """A call has returned: remember what it said, also when nobody waits for it any more, and free its place."""
        self.running -= 1
        self._overdue -= lookup.answer is not None
        del self._open[lookup.key]
        if failed:
            lookup.answer = lookup.answer or self._fall_back(lookup.key, now)
            return
        self._good.pop(lookup.key, None)
        if customer is not None:
            lookup.answer = Answer(customer, now + GOOD_FOR_S, now + LAST_GOOD_FOR_S)
            self._bad.pop(lookup.key, None)
            self._remember(self._good, lookup.key, lookup.answer)
        else:
            lookup.answer = Answer(None, now + BAD_FOR_S)
            self._remember(self._bad, lookup.key, lookup.answer)

    def give_up(self, lookup: Lookup, now: float) -> bool:
        """Those who wait for it have waited long enough? Then it has an answer now; true for the one who found out."""
        if lookup.answer is not None or now < lookup.deadline:
            return False
        if lookup.running:
            self._overdue += 1
        else:
            self._unline(lookup)
            del self._open[lookup.key]
        lookup.answer = self._fall_back(lookup.key, now)
        return True

    def leave(self, lookup: Lookup, waker: Callable[[], None]) -> None:
        """One of those who wait goes away. A lookup that nobody waits for does not start."""
        lookup.wakers.discard(waker)
        if not lookup.wakers and not lookup.running and lookup.answer is None:
            self._unline(lookup)
            del self._open[lookup.key]

    def _fall_back(self, key: str, now: float) -> Answer:
        """What to say when it could not be asked; it is repeated for a while before it is asked again."""
        good = self._good.get(key)
        if good is not None and now < good.last_good_until:
            answer = replace(good, until=min(now + RETRY_AFTER_S, good.last_good_until))
            self._good[key] = answer  # where it stands: only a fresh answer makes it younger
        else:
            answer = Answer(None, now + RETRY_AFTER_S)
            self._remember(self._bad, key, answer)
        return answer

    def _victim(self, address: str) -> Lookup | None:
        """Whose place somebody from this address may take: nobody's, when its own line is as long as any."""
        longest = max(self._lines.values(), key=len)
        own = len(self._lines.get(address, ()))
        return next(reversed(longest)) if len(longest) > own + 1 else None

    def _unline(self, lookup: Lookup) -> None:
        line = self._lines[lookup.address]
        del line[lookup]
        if not line:
            del self._lines[lookup.address]
        self.waiting -= 1

    def _remember(self, table: dict[str, Answer], key: str, answer: Answer) -> None:
        table.pop(key, None)  # so that it goes to the end
        if len(table) >= self.max_remembered:
            # The older half at once: a dict keeps the order, but is slow at losing its first entry again and again.
            for old in list(islice(table, (self.max_remembered + 1) // 2)):
                del table[old]
        table[key] = answer
