"""A server on a fake clock: sources ask a policy for slots, and what each customer was served is written down.

The server has as many processors as slots. Requests beyond that (a policy without a limit admits them) share the
processors equally, as they would on a real machine; so *work* is what a request would take alone, and a customer's
service is the work done for it, wherever it was admitted. A policy that never admits more than the slots never
notices.

An answer goes out before its client asks again: ``finish``, then ``pull``, then the next ``submit`` of that thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf
from random import Random
from typing import Any, Protocol, runtime_checkable

from ezthrottle_provider.scheduling import Caller, State, Terms

from .workloads import Client, Source, Stream

__all__ = ["MIN_COST_S", "Account", "Foretold", "Policy", "Simulator", "Usage"]

# What a request is charged at least, in seconds: the default of the scheduler, part of what it promises.
MIN_COST_S = 0.001
# A policy that asks to be called again at the same instant, over and over, would stop the clock.
_STALLED_AFTER = 1000


class Policy(Protocol):
    """What the scheduler and the controls have in common."""

    def submit(self, now: float, caller: Caller, *, route: str, factor: float) -> Any: ...
    def finish(self, now: float, ticket: Any, cost: float | None = None) -> object: ...
    def cancel(self, now: float, ticket: Any) -> None: ...
    def pull(self, now: float) -> Iterable[Any]: ...
    def next_due(self) -> float | None: ...


@runtime_checkable
class Foretold(Protocol):
    """A policy that is told what the next request will be charged: only an ideal can be."""

    def foretell(self, cost: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Usage:
    """What one customer has had up to a moment: work done, what that was charged, time with nothing waiting."""

    slot_s: float = 0.0
    charged: float = 0.0
    dry_s: float = 0.0
    finished: int = 0

    def since(self, earlier: Usage) -> Usage:
        """Return what was added since."""
        return Usage(
            self.slot_s - earlier.slot_s,
            self.charged - earlier.charged,
            self.dry_s - earlier.dry_s,
            self.finished - earlier.finished,
        )


class Account:
    """The books of one customer."""

    __slots__ = (
        "arrivals",
        "charged",
        "customer",
        "delays",
        "dry_from",
        "dry_s",
        "finished",
        "refused",
        "slot_s",
        "terms",
        "waiting",
    )

    def __init__(self, customer: str, terms: Terms) -> None:
        self.customer = customer
        self.terms = terms
        self.arrivals: list[tuple[float, float]] = []  # when, and its work
        self.delays: list[tuple[float, float]] = []  # when it arrived, and its response time less its work
        self.waiting = 0
        self.finished = 0
        self.refused: dict[str, int] = {}
        self.slot_s = 0.0
        self.charged = 0.0
        self.dry_s = 0.0
        self.dry_from = 0.0


class _Request:
    __slots__ = ("account", "arrived_s", "charge", "origin", "started", "ticket", "work")

    def __init__(self, origin: _Origin, arrived_s: float, work: float, charge: float) -> None:
        self.origin = origin
        self.account = origin.account
        self.arrived_s = arrived_s
        self.work = work
        self.charge = charge
        self.started = 0.0
        self.ticket: Any = None


class _Origin:
    """A source at work: its random numbers are its own, so they are the same whatever the policy does."""

    __slots__ = ("account", "callers", "random", "serial", "source")

    def __init__(self, source: Source, account: Account, seed: str) -> None:
        self.source = source
        self.account = account
        self.random = Random(seed)
        self.serial = 0
        keys = [f"{source.customer}#{number}" for number in range(source.keys)]
        self.callers = [Caller(source.customer, key, source.verified, account.terms) for key in keys]

    def caller(self) -> Caller:
        self.serial += 1
        if self.source.fresh_keys:
            source = self.source
            return Caller(source.customer, f"{source.customer}#{self.serial}", source.verified, self.account.terms)
        return self.callers[self.serial % len(self.callers)]


class Simulator:
    """Runs sources against a policy; ``run`` may be called again and again, ``usage`` reads the books in between."""

    def __init__(self, policy: Policy, *, slots: int, seed: int = 0) -> None:
        self.policy = policy
        self.slots = slots
        self.now = 0.0
        self.accounts: dict[str, Account] = {}
        self.most_in_service = 0
        self._seed = seed
        self._events: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._serial = 0
        self._work = 0.0  # what a request that ran from the beginning would have done by now
        self._in_service: list[tuple[float, int, _Request]] = []  # by the value of _work at which they end
        self._waiting: dict[int, _Request] = {}  # by the identity of their tickets, which they keep alive
        self._foretell = policy.foretell if isinstance(policy, Foretold) else None

    # -- what to simulate ----------------------------------------------------------------------------------------

    def add(self, source: Source) -> None:
        """Let a source take part. Sources of one customer share its account and the terms that came first."""
        account = self.accounts.get(source.customer)
        if account is None:
            terms = Terms(weight=source.weight, rps=source.rps, max_concurrent=source.max_concurrent)
            account = self.accounts[source.customer] = Account(source.customer, terms)
        origin = _Origin(source, account, f"{self._seed} {len(self.accounts)} {source.customer}")
        if isinstance(source, Client):
            for _ in range(source.threads):
                self.at(source.start_s, self._ask, origin)
        elif isinstance(source, Stream):
            self._next_arrival(origin, 0.0)

    def at(self, time_s: float, act: Callable[[Any], None], argument: Any = None) -> None:
        """Call ``act(argument)`` when the time has come."""
        self._serial += 1
        heappush(self._events, (time_s, self._serial, act, argument))

    # -- what came of it -----------------------------------------------------------------------------------------

    def usage(self) -> dict[str, Usage]:
        """Return what each customer has had up to now, the part of the requests in service included."""
        partial: dict[str, tuple[float, float]] = {}
        for _, _, request in self._in_service:
            done = self._work - request.started
            work, charged = partial.get(request.account.customer, (0.0, 0.0))
            partial[request.account.customer] = work + done, charged + request.charge * done / request.work
        result = {}
        for name, account in self.accounts.items():
            work, charged = partial.get(name, (0.0, 0.0))
            dry_s = account.dry_s + (0.0 if account.waiting else self.now - account.dry_from)
            result[name] = Usage(account.slot_s + work, account.charged + charged, dry_s, account.finished)
        return result

    def outstanding(self) -> list[tuple[str, float]]:
        """Return customer and time of arrival of each request that waits or is in service now."""
        requests = [request for _, _, request in self._in_service] + list(self._waiting.values())
        return [(request.account.customer, request.arrived_s) for request in requests]

    # -- the clock -----------------------------------------------------------------------------------------------

    def run(self, until_s: float) -> None:
        """Move the clock to ``until_s`` through all that happens before it."""
        policy, events, in_service = self.policy, self._events, self._in_service
        stalled = 0
        while True:
            rate = self.slots / len(in_service) if len(in_service) > self.slots else 1.0
            ends = self.now + (in_service[0][0] - self._work) / rate if in_service else inf
            happens = events[0][0] if events else inf
            due = policy.next_due()
            when = min(ends, happens, until_s, inf if due is None else due)
            if when > self.now:
                self._work += (when - self.now) * rate
                self.now = when
                stalled = 0
            if due is not None and due <= when:
                self._pull()
                stalled += 1
                if stalled > _STALLED_AFTER:
                    raise AssertionError(f"the policy is due at {due} again and again, the time is {self.now}")
            elif when == until_s:
                return
            elif ends <= happens:
                self._end(heappop(in_service)[2])
            else:
                _, _, act, argument = heappop(events)
                act(argument)

    def _next_arrival(self, origin: _Origin, active_s: float) -> None:
        source = origin.source
        assert isinstance(source, Stream)
        active_s += origin.random.expovariate(source.rate / source.batch)
        if source.clock(active_s) < source.stop_s:
            self.at(source.clock(active_s), self._arrive, (origin, active_s))

    def _arrive(self, argument: tuple[_Origin, float]) -> None:
        origin, active_s = argument
        source = origin.source
        assert isinstance(source, Stream)
        for _ in range(source.batch):
            self._ask(origin)
        self._next_arrival(origin, active_s)

    def _ask(self, origin: _Origin) -> None:
        source, account, random, now = origin.source, origin.account, origin.random, self.now
        if now >= source.stop_s:
            return
        work = source.service(random)
        width = source.width(random)
        charge = max(MIN_COST_S, work) * width if source.price is None else source.price(random)
        request = _Request(origin, now, work, charge)
        account.arrivals.append((now, work))
        if self._foretell is not None:
            self._foretell(charge)
        ticket = request.ticket = self.policy.submit(now, origin.caller(), route="r", factor=width)
        state = ticket.state
        if state is State.GRANTED:
            self._start(request)
        elif state is State.WAITING:
            self._waiting[id(ticket)] = request
            if not account.waiting:
                account.dry_s += now - account.dry_from
            account.waiting += 1
        else:
            self._refuse(request)

    def _start(self, request: _Request) -> None:
        request.started = self._work
        self._serial += 1
        heappush(self._in_service, (self._work + request.work, self._serial, request))
        if len(self._in_service) > self.most_in_service:
            self.most_in_service = len(self._in_service)

    def _end(self, request: _Request) -> None:
        account, source = request.account, request.origin.source
        account.finished += 1
        account.slot_s += request.work
        account.charged += request.charge
        account.delays.append((request.arrived_s, self.now - request.arrived_s - request.work))
        if source.price is None:
            self.policy.finish(self.now, request.ticket)
        else:
            self.policy.finish(self.now, request.ticket, cost=request.charge)
        self._pull()
        if isinstance(source, Client):
            if source.think is None:
                self._ask(request.origin)
            else:
                self.at(self.now + source.think(request.origin.random), self._ask, request.origin)

    def _pull(self) -> None:
        for ticket in self.policy.pull(self.now):
            request = self._waiting.pop(id(ticket))
            account = request.account
            account.waiting -= 1
            if not account.waiting:
                account.dry_from = self.now
            if ticket.state is State.GRANTED:
                self._start(request)
            else:
                assert ticket.state is State.REFUSED
                self._refuse(request)

    def _refuse(self, request: _Request) -> None:
        account, source = request.account, request.origin.source
        reason = request.ticket.reason
        account.refused[reason] = account.refused.get(reason, 0) + 1
        if isinstance(source, Client):
            self.at(self.now + source.retry_s, self._ask, request.origin)
