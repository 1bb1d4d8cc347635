"""Random runs for the lag bound: few customers, always more work than slots, and all that can upset their accounts.

Weights, slots and costs are random; costs are unknown beforehand, some are settled at a price that has nothing to do
with what was measured (so an estimate is charged and given back), a customer may have several keys. Now and then one
stops sending, drains, and comes back with a full queue, also under a new name; now and then one gives up a request
that waits.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Any

from ezthrottle_provider.scheduling import Caller, State, Terms

from .lag import Lag, LagMeter
from .simulator import MIN_COST_S, Foretold, Policy
from .workloads import Draw, constant, either, exponential, lognormal, uniform

__all__ = ["measure_lag"]

_CUSTOMERS = 8
_CANCEL_CHANCE = 0.02  # per completion
_TURN_CHANCE = 0.002  # per completion: somebody goes away, or comes back
_NEWCOMER_CHANCE = 0.3  # that it comes back as somebody else


class _Load:
    """One customer: how it asks, and what it has waiting (by the ticket's identity)."""

    __slots__ = ("away", "callers", "depth", "keys", "price", "service", "terms", "waiting")

    def __init__(self, name: str, random: Random, slots: int) -> None:
        terms = Terms(weight=random.choice((1.0, 1.0, 2.0, 4.0, 10.0, random.uniform(0.1, 10.0))))
        mean = 10 ** random.uniform(-2.5, -1.0)
        services: tuple[Draw, ...] = (
            constant(0.01),
            constant(mean),
            uniform(0.001, 2 * mean),
            exponential(mean),
            lognormal(mean, 1.0),
            either(constant(0.002), constant(10 * mean), chance=0.05),
        )
        prices: tuple[Draw | None, ...] = (
            None,
            None,
            None,
            uniform(0.001, 0.1),
            either(constant(0.001), constant(0.5), chance=0.1),
        )
        self.service = random.choice(services)
        self.price = random.choice(prices)
        self.keys = random.choice((1, 1, 3))
        self.terms = terms
        self.appear_as(name)
        self.depth = slots + random.randint(1, 8)  # one grant of each slot cannot empty the queue
        self.waiting: dict[int, _Request] = {}
        self.away = False

    def appear_as(self, name: str) -> None:
        """Take a name: under a new one, nobody knows what its requests cost."""
        self.callers = [Caller(name, f"{name}#{key}", True, self.terms) for key in range(self.keys)]


class _Request:
    __slots__ = ("cost", "load", "service_s", "ticket")

    def __init__(self, load: int, service_s: float, cost: float) -> None:
        self.load = load
        self.service_s = service_s
        self.cost = cost
        self.ticket: Any = None


class _Churn:
    def __init__(self, make: Callable[[int], Policy], seed: int) -> None:
        self.random = Random(seed)
        self.slots = self.random.choice((1, 2, 4, 8, 8, 16, 32))
        self.loads = [_Load(f"c{number}", self.random, self.slots) for number in range(_CUSTOMERS)]
        self.meter = LagMeter([load.terms.weight for load in self.loads], slots=self.slots)
        self.policy = make(self.slots)
        self.now = 0.0
        self._foretell = self.policy.foretell if isinstance(self.policy, Foretold) else None
        self._waiting: dict[int, _Request] = {}
        self._running: list[tuple[float, int, _Request]] = []

    def run(self, grants: int) -> None:
        random, loads, running, meter, policy = self.random, self.loads, self._running, self.meter, self.policy
        for number in range(_CUSTOMERS):
            self._fill(number)
        while meter.grants < grants:
            self.now, _, request = heappop(running)
            load = loads[request.load]
            meter.finish(request.load, request.cost)
            if load.price is None:
                policy.finish(self.now, request.ticket)
            else:
                policy.finish(self.now, request.ticket, cost=request.cost)
            self._pull()
            if random.random() < _CANCEL_CHANCE:
                self._cancel(random.randrange(_CUSTOMERS))
            if random.random() < _TURN_CHANCE:
                self._turn(random.randrange(_CUSTOMERS))
            if not running:  # all of them were away
                for number, load in enumerate(loads):
                    load.away = False
                    self._fill(number)

    def _turn(self, number: int) -> None:
        load = self.loads[number]
        load.away = not load.away
        if not load.away and not load.waiting and self.random.random() < _NEWCOMER_CHANCE:
            load.appear_as(f"c{number} since {self.meter.grants}")
        self._fill(number)

    def _fill(self, number: int) -> None:
        load = self.loads[number]
        while not load.away and len(load.waiting) < load.depth:
            self._submit(number)

    def _submit(self, number: int) -> None:
        load, random = self.loads[number], self.random
        service_s = max(MIN_COST_S, load.service(random))
        request = _Request(number, service_s, service_s if load.price is None else load.price(random))
        if self._foretell is not None:
            self._foretell(request.cost)
        ticket = request.ticket = self.policy.submit(self.now, random.choice(load.callers), route="r", factor=1.0)
        if ticket.state is State.GRANTED:
            self._start(request)
        else:
            assert ticket.state is State.WAITING, f"refused: {ticket.reason}"
            if not load.waiting:
                self.meter.arrive(number)
            load.waiting[id(ticket)] = self._waiting[id(ticket)] = request

    def _start(self, request: _Request) -> None:
        self.meter.grant()
        heappush(self._running, (self.now + request.service_s, self.meter.grants, request))

    def _pull(self) -> None:
        for ticket in self.policy.pull(self.now):
            assert ticket.state is State.GRANTED
            request = self._waiting[id(ticket)]
            self._depart(request)
            self._start(request)
            self._fill(request.load)

    def _cancel(self, number: int) -> None:
        load = self.loads[number]
        if load.waiting:
            request = load.waiting[next(reversed(load.waiting))]
            self.policy.cancel(self.now, request.ticket)
            self._depart(request)
            self._pull()
            self._fill(number)

    def _depart(self, request: _Request) -> None:
        waiting = self.loads[request.load].waiting
        del self._waiting[id(request.ticket)], waiting[id(request.ticket)]
        if not waiting:
            self.meter.leave(request.load)


def measure_lag(make: Callable[[int], Policy], *, grants: int, seed: int) -> Lag:
    """Run a number of grants of the policy that ``make(slots)`` returns, and measure every pair of customers."""
    churn = _Churn(make, seed)
    churn.run(grants)
    return churn.meter.result(f"seed {seed}, {churn.slots} slots")
