"""Turns a run of a scenario into one number: how far a policy was from the oracle.

A customer is judged by its class:

1. *saturating*, a client whose threads are far more than its share: backlogged through the whole window, with at least
   1,000 requests served in it;
2. *quiet*, far below its share: all that arrived must be served, and soon. The error is the part of their requests that
   waited more than eight mean service times, so an error of 1 % is a p99. It is taken over all quiet customers together
   (some hundred requests have no p99); alone each is judged by the part that is still not served after that time;
3. *open*, a stream near or above its share: weighted max-min over the work that arrived, at each moment.

For 1 and 3 the error is that of the service in a window against the fluid oracle. The verdict is the largest error of
any customer in any window. A closed-loop client whose threads are within 1.5 times its share stays out: a thread waits
for its own answer, so the best of schedulers shows 13 % there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf

from ezthrottle_provider.scheduling import Scheduler

from .oracle import Tenant, fluid
from .scenarios import Change, Scenario
from .simulator import Policy, Simulator, Usage
from .workloads import Client

__all__ = ["LIMIT", "Verdict", "judge", "unbounded"]

LIMIT = 0.01
QUIET_WAIT = 8.0  # mean service times
LEAST_REQUESTS = 1000


@dataclass(slots=True)
class Verdict:
    """How far a policy was from the oracle, and where.

    ``flaws`` are the ways in which the run did not test what it claims to. A control may well cause some (where nobody
    waits, nobody is backlogged); a policy that is said to pass must have none.
    """

    error: float = 0.0
    where: str = ""
    flaws: list[str] = field(default_factory=list)

    def note(self, error: float, where: str) -> None:
        """Keep the larger error."""
        if error > self.error:
            self.error, self.where = error, where


def unbounded(slots: int) -> Scheduler:
    """Return the scheduler with queues and patience without end: whoever is refused cannot be judged by its share."""
    return Scheduler(slots=slots, max_queue=10**9, max_queue_total=10**9, max_wait=1e9)


def judge(scenario: Scenario, make: Callable[[int], Policy]) -> Verdict:
    """Run a scenario against the policy that ``make(slots)`` returns."""
    simulator = Simulator(make(scenario.slots), slots=scenario.slots, seed=scenario.seed)
    for source in scenario.sources:
        simulator.add(source)
    for change in scenario.changes:
        simulator.at(change.at_s, _reweigh, (simulator, change))
    edges = {edge for window in scenario.windows for edge in window} | {change.at_s for change in scenario.changes}
    books = {0.0: simulator.usage()}
    for edge in sorted(edges):
        simulator.run(edge)
        books[edge] = simulator.usage()
    expected = _expected(scenario, simulator, books)
    verdict = Verdict()
    for begins, ends in scenario.windows:
        for name in simulator.accounts:
            where = f"{name}, {begins:g}-{ends:g} s"
            if name in scenario.quiet:
                continue
            due = sum(got[name] for edge, got in expected.items() if begins < edge <= ends)
            if due == 0.0:
                continue  # not there yet
            used = books[ends][name].since(books[begins][name])
            verdict.note(abs(used.slot_s - due) / due, f"{where}: {used.slot_s:.2f} slot-seconds, due {due:.2f}")
            verdict.flaws.extend(f"{where}: {flaw}" for flaw in _flaws(scenario, name, used))
        _judge_quiet(scenario, simulator, begins, ends, verdict)
    refused = sum(sum(account.refused.values()) for account in simulator.accounts.values())
    if refused:
        verdict.flaws.append(f"{refused} requests were refused")
    return verdict


def _reweigh(argument: tuple[Simulator, Change]) -> None:
    simulator, change = argument
    simulator.accounts[change.customer].terms.weight = change.weight


def _expected(
    scenario: Scenario, simulator: Simulator, books: Mapping[float, Mapping[str, Usage]]
) -> dict[float, dict[str, float]]:
    """Ask the oracle what each should have got between an edge and the one before it."""
    edges = list(books)
    weights: dict[str, float] = {}
    tenants: dict[str, Tenant] = {}
    for source in scenario.sources:
        name = source.customer
        weights[name] = source.weight
        if isinstance(source, Client):
            tenants[name] = Tenant(saturated_from_s=source.start_s, cap=scenario.caps.get(name, inf))
        else:
            tenants[name] = Tenant(arrivals=simulator.accounts[name].arrivals)

    def weight(begins: float, ends: float, name: str) -> float:
        past = [change.weight for change in scenario.changes if change.customer == name and change.at_s <= begins]
        used = books[ends][name].since(books[begins][name])
        width = used.charged / used.slot_s if used.slot_s else 1.0
        # Equal levels of slot-seconds per (weight / width) are equal levels of charged service per weight.
        return (past[-1] if past else weights[name]) / width

    served = fluid(tenants, weight, capacity=scenario.slots, edges_s=edges, step_s=scenario.step_s)
    return dict(zip(edges[1:], served, strict=True))


def _judge_quiet(scenario: Scenario, simulator: Simulator, begins: float, ends: float, verdict: Verdict) -> None:
    accounts = simulator.accounts.values()
    limit = QUIET_WAIT * sum(one.slot_s for one in accounts) / sum(one.finished for one in accounts)
    overdue = Counter(name for name, since in simulator.outstanding() if begins <= since < ends - limit)
    served = late = 0
    for name in scenario.quiet:
        waits = [delay for arrived, delay in simulator.accounts[name].delays if begins <= arrived < ends]
        served += len(waits)
        late += sum(wait > limit for wait in waits)
        arrived = len(waits) + overdue[name]
        verdict.note(overdue[name] / arrived if arrived else 1.0, f"{name}, {begins:g}-{ends:g} s: not served")
    if scenario.quiet:
        unserved = sum(overdue[name] for name in scenario.quiet)
        verdict.note((late + unserved) / (served + unserved), f"the quiet, {begins:g}-{ends:g} s: waited too long")


def _flaws(scenario: Scenario, name: str, used: Usage) -> list[str]:
    if not any(source.customer == name and isinstance(source, Client) for source in scenario.sources):
        return []
    flaws = []
    if used.finished < LEAST_REQUESTS:
        flaws.append(f"only {used.finished} requests")
    if name not in scenario.alternating and used.dry_s > 0.0:
        flaws.append(f"nothing waited for {used.dry_s:.3f} s")
    return flaws
