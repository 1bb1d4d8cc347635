"""A scheduler as the gate uses it, one call at a time, with the time passed in."""

from __future__ import annotations

from ezthrottle_provider.scheduling import Caller, Scheduler, State, Terms

__all__ = ["EQUAL", "Desk", "caller", "stranger"]

EQUAL = Terms()


def caller(name="acme", key="key", *, verified=True, terms=EQUAL, priority=5):
    return Caller(name, key, verified, terms, priority)


def stranger(name, key="-"):
    return caller(name, key, verified=False)


class Desk:
    """A scheduler whose every step is followed by ``pull``, as in the gate; the time is what the test says."""

    def __init__(self, slots=1, **options):
        self.scheduler = Scheduler(slots=slots, **options)
        self.pool = self.scheduler.pools["default"]
        self.now = 100.0

    def submit(self, who="acme", **options):
        ticket = self.scheduler.submit(self.now, caller(who) if isinstance(who, str) else who, **options)
        self.pull()
        return ticket

    def finish(self, ticket, cost=None):
        self.scheduler.finish(self.now, ticket, cost)
        return self.pull()

    def pull(self, after_s=0.0):
        self.now += after_s
        return self.scheduler.pull(self.now)

    def serve(self, cost=1.0, *, of=None):
        """Finish what runs, request by request, until nothing does; return who was served in which order."""
        order = []
        running = list(of)
        while running:
            ticket = running.pop(0)
            order.append(ticket.caller.customer)
            running += [granted for granted in self.finish(ticket, cost) if granted.state is State.GRANTED]
        return order

    def table(self):
        return sorted(flow.id for _, flow in self.scheduler.customers())
