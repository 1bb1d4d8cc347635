"""Quotas: how many requests a customer may make per minute, hour, day, month or year, and what it used of them.

A quota is counted per customer, also where a tier shares one queue. Callers that nobody verified have one only if the
tier ``unverified`` has, per address. Days, months and years are the calendar's, in UTC.

In one process exactly the quota is admitted, also from many threads. **Several processes each count by themselves**:
a customer may use its quota once in every process, less what the file ``usage_db`` held when that process began. One
count over all of them needs shared state, in Redis.

With ``usage_db`` the counts of customers for a day and longer survive a restart, also that of one worker, but for the
last 5 seconds of a process that was killed; without it they begin at 0 with the process. (A customer that is known by
its hashed key alone is the same one after a restart only if ``secret`` is configured.) Beyond 100,000 customers
(10,000 addresses) with a count, some of those who used least are forgotten.
"""

from __future__ import annotations

import atexit
import math
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, Final

from ezthrottle_provider.headers import Policy

from .usage import Ledger, read_usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ezthrottle_provider.config import Tier
    from ezthrottle_provider.scheduling import Caller

    from .counts import Quota, Tally, Window
    from .usage import UsageRow, Used

__all__ = ["Quotas"]

_MOST_CUSTOMERS: Final = 100_000  # some 250 bytes each
_MOST_ADDRESSES: Final = 10_000
_ANY_ADDRESS: Final = "ip:*"  # no address is called that


class Quotas:
    """Tells who may go on and who has used its quota up, and keeps the books. Safe to use from several threads.

    ``active`` is false when there is nothing to do: no tier has a quota and no ``usage_db`` is set. ``clock`` gives
    seconds since 1970. Raises nothing while it serves: a file that cannot be used is logged, and tried again.
    """

    def __init__(
        self, tiers: Mapping[str, Tier], *, usage_db: str = "", clock: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._usage_db = usage_db
        self._begin()
        self.update(tiers)
        if usage_db:
            self._catch_up()
            atexit.register(_weakly(self.close))
            if hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=_weakly(self._begin))

    def update(self, tiers: Mapping[str, Tier]) -> None:
        """Take the quotas of these tiers from now on; what was used of a quota that changes stays used."""
        quotas: dict[str, Quota] = {}
        for name, tier in tiers.items():
            if tier.quota:
                from .counts import Quota  # takes its time to import, and most have no quota

                quotas[name] = Quota(tier.quota, self._time, rejects=tier.overage == "reject")
        self._quotas = quotas
        self._prices = {name: tier.overage_price for name, tier in tiers.items()}
        self.active = bool(quotas or self._usage_db)

    def exhausted(self, caller: Caller) -> float | None:
        """Return the seconds (above 0) until a caller's quota comes back, None if it may go on. Counts nothing."""
        quota = self._quotas.get(caller.tier)
        if quota is None or not quota.rejects:
            return None
        if self._behind:
            self._catch_up()
        account = _account(caller)
        with self._lock:
            tally, window = self._open(quota, caller.verified)
            return None if tally.test(window, account) else tally.left_s(window, account)

    def spend(self, caller: Caller) -> float | None:
        """Count a request that is about to run; if its quota is used up, return what ``exhausted`` does.

        Where the tier allows overage the request counts as one over the quota, and the answer is None.
        """
        if not self.active:
            return None
        quota = self._quotas.get(caller.tier)
        account = _account(caller)
        over, window = False, None
        if quota is not None:
            if self._behind:
                self._catch_up()
            with self._lock:
                tally, window = self._open(quota, caller.verified)
                over = not tally.hit(window, account)
                if over and quota.rejects:
                    tally.hit(window, account, cost=-1)
                    return tally.left_s(window, account)
        if not caller.verified:
            # One line for all of them: an address is nobody's account, and anybody can come from ever new ones.
            self._ledger.count(_ANY_ADDRESS, caller.tier, over_quota=over)
        elif window is None or window.ends is None:
            self._ledger.count(account, caller.tier, over_quota=over)
        else:
            self._ledger.count(account, caller.tier, over_quota=over, period=window.label, ends=window.ends)
        return None

    def policies(self, caller: Caller) -> tuple[Policy, ...]:
        """Return a caller's quota as a policy for the RateLimit headers; ``reset_s`` is rounded up."""
        quota = self._quotas.get(caller.tier)
        if quota is None:
            return ()
        account = _account(caller)
        with self._lock:
            tally, window = self._open(quota, caller.verified)
            left = tally.remaining(window, account)
            reset_s = math.ceil(tally.left_s(window, account))
        # Where overage is allowed nothing is left unsaid but the zero, which would halt a client that may go on.
        remaining = left if left or quota.rejects else None
        return (Policy("quota", quota.amount, window_s=window.multiples, remaining=remaining, reset_s=reset_s),)

    def usage(self) -> list[UsageRow]:
        """Return the usage report: all that ``usage_db`` holds; without it, what this process counted this month.

        Raises ``OSError`` or ``sqlite3.Error`` when the file cannot be read.
        """
        if not self._usage_db:
            return self._ledger.rows(prices=self._prices)
        self._ledger.flush()
        return read_usage(self._usage_db, prices=self._prices)

    def close(self) -> None:
        """Write down what was counted. It may be called twice, and counting may go on after it."""
        self._ledger.close()

    def _begin(self) -> None:
        """Start from nothing: here, and in a forked child, where a lock may belong to a thread that is not there.

        What the parent counted is the parent's to write. The child reads it in the file, like any process that begins.
        """
        self._lock = threading.Lock()
        self._now = 0.0
        self._tallies: dict[bool, Tally] = {}
        self._ledger = Ledger(self._usage_db, restore=self._restore, clock=self._clock)
        self._behind = bool(self._usage_db)

    def _catch_up(self) -> None:
        # Whoever comes meanwhile waits in there as well: nobody is judged before the file's counts are added.
        self._ledger.flush()
        self._behind = False

    def _restore(self, counts: Iterable[Used]) -> None:
        with self._lock:
            self._now = self._clock()
            for account, period, ends, used in counts:
                self._tally(True).restore(account, period, ends, used)

    def _open(self, quota: Quota, verified: bool) -> tuple[Tally, Window]:
        self._now = self._clock()
        return self._tally(verified), quota.window()

    def _tally(self, verified: bool) -> Tally:
        # Two, so that invented addresses never push out a customer.
        tally = self._tallies.get(verified)
        if tally is None:
            from .counts import Tally  # as above

            most = _MOST_CUSTOMERS if verified else _MOST_ADDRESSES
            tally = self._tallies[verified] = Tally(self._time, most=most)
        return tally

    def _time(self) -> float:
        # Stands still during a decision, under its lock: the parts of one must agree on the period.
        return self._now


def _account(caller: Caller) -> str:
    """Whose quota it is: on a shared queue the scheduler's customer is the tier, and the key is the customer."""
    return caller.customer if caller.account_queue else caller.key


def _weakly(method: Callable[[], None]) -> Callable[[], None]:
    """Call a method for as long as its object lives: what the interpreter was told to call it never forgets."""
    known = weakref.WeakMethod(method)

    def call() -> None:
        alive = known()
        if alive is not None:
            alive()

    return call
