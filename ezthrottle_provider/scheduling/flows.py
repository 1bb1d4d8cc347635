"""Flows and the ring that orders them: rounds of a quantum, a FIFO of flows in each, a heap of round numbers.

Rule 1: a flow's ``tag`` is its normalised service (charged cost / weight). Every change of an account (estimate,
true-up, re-weighting, a charge from elsewhere) is one addition to it, and nothing else moves it but ``place``.
Rule 2: the ring clock ``v`` is monotone and only places arrivals. It is not the round being served: a flow that got
cost back belongs in a round *below* ``v``, and must be re-filed at once. Without both, the lag was 3-7 times the bound.
Rule 3: a flow stands in at most one list at a time, its ``home``: a round (it may be picked), ``recent`` (its demand
counts), or ``owing`` (its demand is over, but its debt is not forgotten yet). One that runs stays in ``recent``, which
costs it nothing: housekeeping looks at it again when its time is over.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, Any, Final

from .backlog import Backlog

if TYPE_CHECKING:
    from .callers import Terms
    from .estimates import Profile
    from .pacing import Pace
    from .tickets import Ticket

__all__ = ["DEMAND_WINDOW_S", "MOST_CREDIT", "Fifo", "Flow", "Parked", "Ring", "credit_of", "predict_wait"]

# Customers with demand in the last 2 s count as competitors (the definition of X-EZTHROTTLE-RPS).
DEMAND_WINDOW_S: Final = 2.0
# A known, verified customer that used less than its share may be served about three of its requests ahead of its turn.
# Measured: beside 100 floods the p99 wait of a Poisson customer at a quarter of its share fell from 418 to 64 ms.
MOST_CREDIT: Final = 3
_SAMPLE_S: Final = 0.05  # how long a sample of the clock's speed is, at least
_COMPETITION_GAP_S: Final = 1.0
_SEARCH: Final = 64
_HOUSEKEEPING_STEPS: Final = 4  # per request; one request makes at most one flow idle, so the backlog of them shrinks


class Parked:
    """Why a flow with waiting requests is out of its ring, where it must not be scanned."""

    NOT: Final = 0
    CAP: Final = 1  # its own max-concurrent is full: until one of its requests ends
    PACE: Final = 2  # its pace says later: until a timer
    SLOW: Final = 3  # its clients read slowly and it holds its part of the slots: until one of its requests ends


class Fifo:
    """An intrusive first-in-first-out list of flows; ``round`` is None unless it is a round of a ring."""

    __slots__ = ("first", "last", "round")

    def __init__(self, round_: int | None = None) -> None:
        self.first: Flow | None = None
        self.last: Flow | None = None
        self.round = round_

    def append(self, flow: Flow) -> None:
        last = self.last
        flow.home = self
        flow.prev = last
        flow.next = None
        if last is None:
            self.first = flow
        else:
            last.next = flow
        self.last = flow

    def remove(self, flow: Flow) -> None:
        before, after = flow.prev, flow.next
        if before is None:
            self.first = after
        else:
            before.next = after
        if after is None:
            self.last = before
        else:
            after.prev = before
        flow.home = flow.prev = flow.next = None


class Flow:
    """One account at one level: a key, a customer, or the group of all unverified callers.

    A customer with a single key is its own leaf; it gets a ring of keys only when a second key appears. A leaf holds
    tickets (``head`` is the next to be served), any other flow has a ``ring``.
    """

    __slots__ = (
        "context",
        "counted",
        "customer",
        "detached",
        "head",
        "home",
        "id",
        "key",
        "level",
        "listed_at",
        "next",
        "pace",
        "parent",
        "parked",
        "prev",
        "profile",
        "ring",
        "running",
        "seen_at",
        "served",
        "slow_until",
        "sole_key",
        "tag",
        "tail",
        "terms",
        "tier",
        "verified",
        "waiting",
    )

    def __init__(self, id_: str, key: str, parent: Ring, terms: Terms, verified: bool, tier: str = "") -> None:
        self.id = id_
        self.key = key
        self.sole_key: str | None = key  # None once it has a ring of keys
        self.parent = parent
        self.terms = terms
        self.verified = verified
        self.tier = tier
        self.customer: Flow = self
        self.tag = parent.v
        self.waiting = 0  # requests below it that wait, also while it is parked
        self.running = 0  # requests below it that were granted and have not ended
        self.detached = 0  # those of them that gave their slot back
        self.served = 0.0  # what its requests were charged so far, before its weight
        self.counted = 0.0  # the weight with which it stands in its ring's demand
        self.seen_at = 0.0  # when a request of it last ended or left
        self.listed_at = 0.0  # when housekeeping was last told to look at it
        self.slow_until = 0.0
        self.parked = Parked.NOT
        self.level = 0  # where the backlog index has it
        self.ring: Ring | None = None
        self.head: Ticket | None = None
        self.tail: Ticket | None = None
        self.home: Fifo | None = None
        self.prev: Flow | None = None
        self.next: Flow | None = None
        self.profile: Profile | None = None
        self.pace: Pace | None = None
        self.context: Any = None  # what the gate remembers about the customer (the headers last shown)

    @property
    def in_flight(self) -> int:
        """The slots that it holds."""
        return self.running - self.detached

    @property
    def filed(self) -> bool:
        """Whether it stands in a round, and so may be picked."""
        return self.home is not None and self.home.round is not None

    def __repr__(self) -> str:
        return f"<Flow {self.id} tag={self.tag:.6f} waiting={self.waiting} in_flight={self.in_flight}>"


class Ring:
    """The flows of one level, the order in which their turns come, and the clock that places those who arrive."""

    __slots__ = (
        "_clocked_at",
        "_rounds",
        "_speed_at",
        "_speed_v",
        "backlog",
        "buckets",
        "children",
        "credit_requests",
        "demand",
        "filed",
        "litter_at",
        "members",
        "owing",
        "per_quantum",
        "recent",
        "speed",
        "v",
    )

    def __init__(self, quantum: float, v: float = 0.0) -> None:
        self.per_quantum = 1.0 / quantum
        self.v = v  # the highest tag picked so far
        self.children: dict[str, Flow] = {}
        self.backlog = Backlog()
        self.buckets: dict[int, Fifo] = {}
        self._rounds: list[int] = []  # a heap; may hold numbers of rounds that are gone, skipped when they surface
        self.filed = 0
        self.credit_requests = 0.0  # the credit of known, verified customers, in requests of theirs
        self.demand = 0.0  # weights of the flows that wait or run, or did in the last DEMAND_WINDOW_S
        self.members = 0  # how many these are
        self.recent = Fifo()
        self.owing = Fifo()
        self.litter_at = inf  # when there may be something to forget
        self.speed = 0.0  # measured growth of v per second while there is competition
        self._speed_at = self._clocked_at = 0.0
        self._speed_v = v

    # -- order ---------------------------------------------------------------------------------------------------

    def first(self) -> Flow | None:
        """Return the flow whose turn it is."""
        rounds, buckets = self._rounds, self.buckets
        while rounds:
            bucket = buckets.get(rounds[0])
            if bucket is not None:
                return bucket.first
            heappop(rounds)
        return None

    def latest(self) -> Flow | None:
        """Return a flow whose turn comes late, or at least one with something waiting."""
        if self.buckets:
            return next(reversed(self.buckets.values())).last
        return next((flow for flow in islice(self.children.values(), _SEARCH) if flow.waiting), None)  # all are parked

    def file(self, flow: Flow, round_: int) -> None:
        """Put a flow that may be picked at the end of a round."""
        if flow.home is not None:
            flow.home.remove(flow)
        buckets = self.buckets
        bucket = buckets.get(round_)
        if bucket is None:
            bucket = buckets[round_] = Fifo(round_)
            rounds = self._rounds
            if len(rounds) > 64 + 4 * len(buckets):  # cancelled flows leave stale numbers behind: keep them bounded
                rounds[:] = buckets
                heapify(rounds)
            else:
                heappush(rounds, round_)
        bucket.append(flow)
        self.filed += 1

    def unfile(self, flow: Flow) -> None:
        """Take a flow out of its round."""
        bucket = flow.home
        assert bucket is not None and bucket.round is not None
        bucket.remove(flow)
        if bucket.first is None:
            del self.buckets[bucket.round]
        self.filed -= 1

    def place(self, flow: Flow, credit: float) -> None:
        """File a flow that comes back: at the clock less its credit, and never below where it stopped.

        One that enters at the clock goes first in its round: a tie-break that lets sparse customers pass at no cost to
        the bound, since it moves them by less than a quantum.
        """
        self.lift(flow, credit)
        round_ = int(flow.tag * self.per_quantum)
        self.file(flow, round_ - 1 if flow.tag <= self.v else round_)

    def lift(self, flow: Flow, credit: float) -> None:
        """Let a flow that comes back claim nothing of the past but its credit."""
        floor = self.v - credit
        if flow.tag < floor:
            flow.tag = floor

    def refile(self, flow: Flow) -> None:
        """File a flow behind the others of its round, after it was served."""
        self.file(flow, int(flow.tag * self.per_quantum))

    def advance(self, flow: Flow, amount: float) -> None:
        """Charge (or give back) normalised cost, and move the flow at once if that changes its round."""
        tag = flow.tag = flow.tag + amount
        home = flow.home
        if home is not None and home.round is not None:
            round_ = int(tag * self.per_quantum)
            if round_ != home.round:
                self.unfile(flow)
                self.file(flow, round_)

    # -- demand --------------------------------------------------------------------------------------------------

    def count(self, flow: Flow, weight: float, now: float) -> None:
        """Count a flow's demand, at a weight that may have changed."""
        if not flow.counted:
            self.members += 1
            if flow.home is self.owing:
                self.owing.remove(flow)
            if flow.home is None:
                self._list(flow, now)
        self.demand += weight - flow.counted
        flow.counted = weight

    def leave(self, flow: Flow, now: float) -> None:
        """Note that a request of a flow has ended or left; its demand counts for a while longer."""
        flow.seen_at = now
        if flow.home is None and not flow.waiting:
            self._list(flow, now)

    def disown(self, flow: Flow) -> None:
        """Forget a flow at once whose first request was refused: refused newcomers leave nothing behind."""
        if flow.home is None and not flow.waiting and not flow.running:
            del self.children[flow.id]

    def housekeep(self, now: float) -> list[Flow]:
        """Forget flows whose demand and debt have passed; a bounded step, so that no request pays for a crowd.

        Returns the flows that were dropped. A debt stays until the clock has passed it, else a client with one thread
        would be new at each request; a credit likewise, else one that bursts and idles would earn it again and again.
        """
        dropped: list[Flow] = []
        for _ in range(_HOUSEKEEPING_STEPS):
            flow = self.recent.first
            if flow is None or now - flow.listed_at < DEMAND_WINDOW_S:
                flow = self.owing.first
                if flow is None:
                    break
            assert flow.home is not None
            flow.home.remove(flow)
            if flow.running or flow.waiting:
                self._list(flow, now)
            elif now - flow.seen_at < DEMAND_WINDOW_S:
                self._list(flow, flow.seen_at)
            else:
                self._discount(flow)
                if (
                    flow.parked == Parked.NOT
                    and flow.tag + credit_of(flow) <= self.v
                    and (flow.pace is None or flow.pace.idle(now))
                ):
                    del self.children[flow.id]
                    dropped.append(flow)
                else:
                    self.owing.append(flow)
        first = self.recent.first
        if self.owing.first is not None:
            self.litter_at = now
        else:
            self.litter_at = first.listed_at + DEMAND_WINDOW_S if first is not None else inf
        return dropped

    def _discount(self, flow: Flow) -> None:
        if flow.counted:
            self.members -= 1
            # Sums of floats drift; when nobody is left is where they are exact again.
            self.demand = self.demand - flow.counted if self.members else 0.0
            flow.counted = 0.0

    def _list(self, flow: Flow, at: float) -> None:
        """Have housekeeping look at a flow when the demand that it had at a time no longer counts."""
        flow.listed_at = at
        self.recent.append(flow)
        if self.litter_at == inf:
            self.litter_at = at + DEMAND_WINDOW_S

    def clock(self, now: float) -> None:
        """Measure how fast the clock runs, for predictions; call it while there is competition.

        Sampled at most every 50 ms, and only when the clock has moved: it may stand for a while although others wait,
        and a speed of nearly nothing would predict that nobody is ever served.
        """
        if now - self._clocked_at > _COMPETITION_GAP_S:
            self._speed_at, self._speed_v = now, self.v  # what it did meanwhile was no competition
        self._clocked_at = now
        elapsed, moved = now - self._speed_at, self.v - self._speed_v
        if elapsed < _SAMPLE_S or moved * self.per_quantum < 1.0:
            return
        rate = moved / elapsed
        self.speed += (rate - self.speed) * (min(1.0, 2.0 * elapsed) if self.speed else 1.0)
        self._speed_at, self._speed_v = now, self.v


def credit_of(flow: Flow) -> float:
    """Return how far behind the clock a customer's tag may stay when it comes back (normalised cost); newcomers: 0."""
    profile = flow.profile
    if profile is None or not flow.verified:
        return 0.0
    return flow.parent.credit_requests * profile.mean / flow.terms.weight


def predict_wait(leaf: Flow) -> float:
    """Return the seconds that one more request of a key would wait, by the measured speed of its ring's clock.

    Right within 0.5-1.4 x (p10-p90) where costs are steady and wild where they are wild: for hints, not promises.
    """
    customer = leaf.customer
    ring = customer.parent
    if ring.speed <= 0.0:
        return 0.0
    before = customer.waiting
    if leaf is not customer:
        before = min(before, (leaf.waiting + 1) * (leaf.parent.filed + 1))
    mean = customer.profile.mean if customer.profile is not None else 0.0
    return max(0.0, (customer.tag - ring.v + before * mean / customer.terms.weight) / ring.speed)
