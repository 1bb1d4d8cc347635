"""The usage ledger: what each customer used in each calendar month (UTC), in memory and in a file.

The file is SQLite, made for its owner alone (0600), and may be shared by any number of processes: each adds what it
counted, every 5 seconds and when it closes, in one transaction from a thread of its own. A process that is killed loses
what it counted since the last one. While the file cannot be used, counts are kept (up to a bound, beyond which
customers are counted together) and tried again; that is logged once. No request fails by it or waits for it, but for
the first one of a forked worker, which waits for the file to be read (a second at most).

With its rollback journal and not in WAL mode: SQLite before 3.51.3 can corrupt a WAL that several processes write
(https://sqlite.org/wal.html#walresetbug), and a transaction in 5 seconds gains nothing from it. No connection outlives
its transaction, so none is ever carried across a fork.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from .periods import period_at

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .periods import Period

__all__ = ["Ledger", "UsageRow", "Used", "read_usage"]

_INTERVAL_S: Final = 5.0
_BUSY_S: Final = 1.0
_MOST: Final = 100_000  # rows in memory, and rows that are read back: about 30 MB
_OTHERS: Final = "*"
_FILE_ERRORS: Final = (sqlite3.Error, OSError, ValueError)  # ValueError: what SQLite cannot store, or we cannot read

_SCHEMA: Final = (
    """CREATE TABLE IF NOT EXISTS ezthrottle_usage (
        month TEXT NOT NULL, customer TEXT NOT NULL, tier TEXT NOT NULL,
        requests INTEGER NOT NULL, over_quota INTEGER NOT NULL,
        PRIMARY KEY (month, customer, tier)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS ezthrottle_quotas (
        ends REAL NOT NULL, account TEXT NOT NULL, period TEXT NOT NULL, used INTEGER NOT NULL,
        PRIMARY KEY (ends, account, period)) WITHOUT ROWID""",
)
_ADD_USAGE: Final = """INSERT INTO ezthrottle_usage VALUES (?, ?, ?, ?, ?) ON CONFLICT (month, customer, tier) DO UPDATE
    SET requests = requests + excluded.requests, over_quota = over_quota + excluded.over_quota"""
_ADD_USED: Final = """INSERT INTO ezthrottle_quotas (account, period, ends, used) VALUES (?, ?, ?, ?)
    ON CONFLICT (ends, account, period) DO UPDATE SET used = used + excluded.used"""
_READ_USED: Final = """SELECT account, period, ends, used FROM ezthrottle_quotas
    WHERE ends > ? AND used > 0 ORDER BY used DESC LIMIT ?"""
_READ_USAGE: Final = """SELECT month, customer, tier, requests, over_quota FROM ezthrottle_usage
    WHERE :month IS NULL OR month = :month ORDER BY month, customer, tier"""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """What one customer used in one month (``2025-03``) on one tier.

    ``requests`` are those that ran, ``over_quota`` how many of them were above the quota, ``amount`` what those cost at
    the tier's price. ``customer`` is ``ip:*`` for all callers together that nobody verified, and ``*`` for customers
    that were too many to tell apart.
    """

    month: str
    customer: str
    tier: str
    requests: int
    over_quota: int
    amount: float


class Used(NamedTuple):
    """What an account had used of its quota in a period that goes on; ``ends`` in seconds since 1970."""

    account: str
    period: str
    ends: float
    used: int


def read_usage(
    path: str | os.PathLike[str], *, month: str | None = None, prices: Mapping[str, float] | None = None
) -> list[UsageRow]:
    """Read the report from a file that others may be writing: all months or one, by month, customer and tier.

    ``prices`` holds the price of a request over the quota by tier. Raises ``ValueError`` for a month that is not like
    ``2025-03``, ``OSError`` when there is no file, ``sqlite3.Error`` when it is not one of ours or cannot be read.
    """
    if month is not None and (len(month) != 7 or not _is_date(f"{month}-01")):
        raise ValueError(f"a month is written like 2025-03, not {month!r}")
    file = Path(path).absolute()
    if not file.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    # "rw" creates nothing and is read-only where it has to be. "ro" could not read past a writer's crash.
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=_BUSY_S)) as db:
        return [_priced(prices or {}, *row) for row in db.execute(_READ_USAGE, {"month": month})]


class Ledger:
    """Counts what customers use. Safe to use from several threads; one process's own (see ``Quotas`` for forks).

    Without a ``path`` it holds the current month. ``restore`` is given, once, what the file held of periods that go on,
    before anything of this process is added to it; ``clock`` gives seconds since 1970.
    """

    def __init__(
        self,
        path: str = "",
        *,
        restore: Callable[[list[Used]], None] = lambda counts: None,
        clock: Callable[[], float] = time.time,
        interval_s: float = _INTERVAL_S,
    ) -> None:
        self._path = Path(path).absolute() if path else None  # absolute: a daemon may change its directory
        self._restore = restore
        self._clock = clock
        self._interval_s = interval_s
        self._restored = False
        self._failing = False
        self._file = threading.Lock()  # for one transaction after the other; taken before the other lock, if both are
        self._lock = threading.Lock()  # for what follows
        self._writer: tuple[threading.Thread, threading.Event] | None = None
        self._month = period_at(clock(), "month")
        self._usage: dict[tuple[str, str, str], list[int]] = {}
        self._used: dict[tuple[str, str, float], int] = {}

    def count(self, customer: str, tier: str, *, over_quota: bool = False, period: str = "", ends: float = 0.0) -> None:
        """Count one request; with its quota's ``period`` and when that ``ends``, also what a restart should know."""
        with self._lock:
            now = self._clock()
            month = self._month
            if not month.starts <= now < month.ends:
                month = self._turn_page(now)
            self._add_usage((month.name, customer, tier), 1, over_quota)
            if self._path is not None:
                if period:
                    self._add_used((customer, period, ends), 1)
                if self._writer is None:
                    self._start_writer()

    def rows(self, *, prices: Mapping[str, float] | None = None) -> list[UsageRow]:
        """Return what was counted here and is in no file (yet)."""
        with self._lock:
            usage = sorted((*key, requests, over) for key, (requests, over) in self._usage.items())
        return [_priced(prices or {}, *row) for row in usage]

    def flush(self) -> None:
        """Restore from the file, the first time, and add to it what was counted. Raises nothing; may take seconds."""
        if self._path is None:
            return
        with self._file:
            with self._lock:
                usage, self._usage = self._usage, {}
                used, self._used = self._used, {}
            if self._restored and not usage:
                return
            try:
                counts = self._exchange(self._path, usage, used)
            except _FILE_ERRORS as error:
                self._put_back(usage, used)
                if not self._failing:
                    self._failing = True
                    _log.warning("usage is kept in memory until %s can be written: %s", self._path, error)
                return
            if self._failing:
                self._failing = False
                _log.warning("usage is written to %s again", self._path)
            if not self._restored:
                self._restored = True
                self._restore(counts)

    def close(self) -> None:
        """End the thread and write down what was counted. What is counted later starts a new one."""
        with self._lock:
            writer, self._writer = self._writer, None
        if writer is not None:
            thread, stop = writer
            stop.set()
            thread.join()
        self.flush()

    def _exchange(
        self, path: Path, usage: dict[tuple[str, str, str], list[int]], used: dict[tuple[str, str, float], int]
    ) -> list[Used]:
        counts: list[Used] = []
        # Created by hand, since SQLite would let others read it. Exclusively: opening and closing a file that is there
        # would drop the locks that this process has on it.
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with closing(sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)) as db:  # closing it rolls back
            now = self._clock()
            db.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA:
                db.execute(statement)
            if not self._restored:
                counts = [Used(str(a), str(p), float(e), int(u)) for a, p, e, u in db.execute(_READ_USED, (now, _MOST))]
            db.executemany(_ADD_USAGE, ((*key, *counted) for key, counted in usage.items()))
            db.executemany(_ADD_USED, ((*key, counted) for key, counted in used.items()))
            db.execute("DELETE FROM ezthrottle_quotas WHERE ends <= ?", (now,))
            db.execute("COMMIT")
        return counts

    def _put_back(self, usage: dict[tuple[str, str, str], list[int]], used: dict[tuple[str, str, float], int]) -> None:
        with self._lock:
            for key, (requests, over_quota) in usage.items():
                self._add_usage(key, requests, over_quota)
            for place, counted in used.items():
                self._add_used(place, counted)

    def _turn_page(self, now: float) -> Period:
        self._month = period_at(now, "month")
        if self._path is None:
            self._usage.clear()
        return self._month

    def _add_usage(self, key: tuple[str, str, str], requests: int, over_quota: int) -> None:
        counted = self._usage.get(key)
        if counted is None:
            if len(self._usage) >= _MOST:
                key = (key[0], _OTHERS, key[2])
            counted = self._usage.setdefault(key, [0, 0])
        counted[0] += requests
        counted[1] += over_quota

    def _add_used(self, key: tuple[str, str, float], counted: int) -> None:
        if key in self._used or len(self._used) < _MOST:
            self._used[key] = self._used.get(key, 0) + counted

    def _start_writer(self) -> None:
        stop = threading.Event()

        def write() -> None:
            while not stop.wait(self._interval_s):
                self.flush()

        thread = threading.Thread(target=write, name="ezthrottle-usage", daemon=True)
        with suppress(RuntimeError):  # no more threads, or the interpreter is ending: the next request tries again
            thread.start()
            self._writer = thread, stop


def _priced(
    prices: Mapping[str, float], month: str, customer: str, tier: str, requests: int, over_quota: int
) -> UsageRow:
    # In decimals: 3 requests at 0.1 are 0.3, on an invoice.
    amount = float(over_quota * Decimal(repr(float(prices.get(tier, 0.0)))))
    return UsageRow(month=month, customer=customer, tier=tier, requests=requests, over_quota=over_quota, amount=amount)


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
