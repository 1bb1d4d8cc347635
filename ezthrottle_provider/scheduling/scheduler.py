"""The scheduler: submit, pull, finish, cancel. Every decision is taken here, and nothing else happens here.

Rule 1: time is an argument. Nothing sleeps, calls back, or reads a clock.
Rule 2: a ticket is settled by one write of its ``state``. Callers that share a scheduler between threads hold one lock
around each call, act on what it returns after they released it, and need nothing else.
Rule 3: after ``pull`` there is no free slot with a request that may have it (the queue is work-conserving), so a new
request finds either a free slot and nobody before it, or a queue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from .callers import Caller
from .estimates import Profile, Profiles
from .flows import Flow, Parked, Ring, predict_wait
from .overflow import choose_victim
from .parking import Parking
from .pools import Pool
from .tickets import State, Ticket
from .waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Scheduler", "Unit"]

Unit = Literal["seconds", "requests"]

_ROUNDS_PER_LEAST_COST: Final = 8  # a quantum below the smallest charge keeps the order inside a round out of the bound
_GRANTED: Final = State.GRANTED  # looked up once: an enum member costs 40 ns a time
_MOST_COST: Final = 1e9  # of one request; the clocks are sums, and beyond 1e15 a float has no room for small ones
_KNOWN_CUSTOMERS: Final = 10_000
_KNOWN_AFTER: Final = 3  # requests; one-off customers leave nothing behind


class Scheduler:
    """Decides whose request runs next: weighted deficit round robin over customers, and over the keys of each.

    ``slots`` is the size of the pool ``"default"``; ``pools`` adds others by name. Times are seconds of any monotone
    clock; costs are seconds of held slots, at least ``min_cost``, or requests, by ``unit``. ``max_queue`` bounds what
    one key may have waiting, ``max_queue_total`` what all have, ``max_wait`` the seconds that a request waits.
    These three are plain attributes and act on the backlog when they change.
    """

    def __init__(
        self,
        *,
        slots: int,
        pools: Mapping[str, int] | None = None,
        max_queue: int = 100,
        max_queue_total: int = 10_000,
        max_wait: float = 10.0,
        unverified_share: float = 0.2,
        min_cost: float = 0.001,
        unit: Unit = "seconds",
    ) -> None:
        self.max_queue = max_queue
        self.max_queue_total = max_queue_total
        self.max_wait = max_wait
        self.waiting = Waiting()
        self.pools: dict[str, Pool] = {}
        self._by_time = unit == "seconds"
        self._min_cost = min_cost if unit == "seconds" else 1.0
        self._unverified_share = unverified_share
        self._settled: list[Ticket] = []  # refused in passing; the next pull hands them out
        self._parking = Parking(self.pools)
        self._profiles = Profiles(_KNOWN_CUSTOMERS)
        self.resize({"default": slots, **(pools or {})})

    # -- a request's journey -------------------------------------------------------------------------------------

    def submit(
        self,
        now: float,
        caller: Caller,
        route: str = "",  # not keyword-only, like other options here: the gate passes them with every request
        factor: float = 1.0,
        pool: str = "default",
        priority: int | None = None,
    ) -> Ticket:
        """Take a request in: the ticket is GRANTED at once, WAITING, or REFUSED (then ``reason`` says by which limit).

        ``factor`` multiplies what the request will be charged; ``route`` names what it is expected to cost like;
        ``priority`` replaces the caller's.
        """
        slots = self.pools[pool]
        known = (slots.ring if caller.verified else slots.strangers).children.get(caller.customer)
        leaf = known if known is not None and known.sole_key == caller.key else self._leaf(slots, caller)
        customer = leaf.customer
        if customer.terms is not caller.terms:
            self._parking.reterm(customer, caller.terms)
        ticket = Ticket(caller, leaf, slots, now, route, factor)
        obstacle = Parked.NOT
        if slots.in_flight < slots.slots and not customer.waiting:
            terms = customer.terms
            if terms.max_concurrent is None and terms.rps is None and leaf is customer and not slots.restrained:
                slots.admit(now, ticket)
                return ticket
            obstacle = self._parking.obstacle(now, customer, slots)
            if not obstacle:
                slots.come_back(leaf)
                self._grant(now, ticket)
                return ticket
        self._enqueue(now, ticket, caller.priority if priority is None else priority, obstacle)
        if customer.parent.litter_at <= now:
            self._forget(now, customer.parent)
        return ticket

    def finish(self, now: float, ticket: Ticket, cost: float | None = None) -> float:
        """End a granted request: true up its charge, free its slot, and return its cost.

        ``cost`` is what it really took before the ticket's factor; None: the time since it was granted (or one, when
        requests are counted). Call ``pull`` afterwards.
        """
        assert ticket.state is _GRANTED, ticket
        pool = ticket.pool
        customer = ticket.flow.customer
        held_s = now - ticket.granted_at
        if cost is None:
            cost = held_s if held_s > self._min_cost and self._by_time else self._min_cost
        elif not cost * ticket.factor <= _MOST_COST:
            cost = _MOST_COST / ticket.factor
        charged = cost * ticket.factor
        profile = customer.profile
        if profile is None:
            profile = customer.profile = Profile()
        if profile.observe(ticket.route, cost, charged):
            pool.observe(cost, charged, held_s)
        customer.served += charged
        ticket.state = State.FINISHED
        pool.end(now, ticket, charged)
        if customer.terms.max_concurrent is not None or pool.restrained:
            self._parking.slot_freed(customer, pool)
        ring = customer.parent
        if ring.litter_at <= now:
            self._forget(now, ring)
        return charged

    def pull(self, now: float) -> list[Ticket]:
        """Settle all that can be settled now: return tickets that were granted, and those that were refused."""
        settled, self._settled = self._settled, []
        self._parking.expire(now)
        oldest = self.waiting.oldest
        while oldest is not None and oldest.submitted_at + self.max_wait <= now:
            self._withdraw(now, oldest)
            settled.append(self._refuse(oldest, "max_wait"))
            oldest = self.waiting.oldest
        for pool in self.pools.values():
            if not pool.ring.filed:
                continue
            while pool.in_flight < pool.slots:
                ticket = self._pick(now, pool)
                if ticket is None:
                    break
                settled.append(ticket)
            for ring in pool.rings():
                if ring.filed:
                    ring.clock(now)
        return settled

    def cancel(self, now: float, ticket: Ticket) -> None:
        """Give up a request that waits. One that was granted meanwhile must be finished instead."""
        assert ticket.state is State.WAITING, ticket
        self._withdraw(now, ticket)
        ticket.state = State.ABANDONED

    def next_due(self) -> float | None:
        """Return when ``pull`` may next have something to do by the mere passing of time; None: never."""
        if self._settled:
            return float("-inf")
        due = self._parking.next_due()
        oldest = self.waiting.oldest
        if oldest is not None:
            deadline = oldest.submitted_at + self.max_wait
            due = deadline if due is None or deadline < due else due
        return due

    def overrule(self, now: float, ticket: Ticket) -> None:
        """Run a request that waits or was just refused, whatever the queue says; its slot comes on top of the others.

        For what must not be delayed although it is charged like any other: shadow mode, and calls that a provider makes
        to itself while it holds a slot.
        """
        if ticket.state is State.WAITING:
            self._withdraw(now, ticket)
        else:
            assert ticket.state is State.REFUSED, ticket
            ticket.flow = self._leaf(ticket.pool, ticket.caller)  # the refusal may have been the last of its flow
        ticket.pool.come_back(ticket.flow)
        self._grant(now, ticket)

    def transfer(self, now: float, ticket: Ticket, customer: str, verified: bool) -> None:
        """Put a request that waits or was refused on another customer's account, if that is known; to be overruled."""
        pool = ticket.pool
        flow = (pool.ring if verified else pool.strangers).children.get(customer)
        if flow is not None and ticket.state is not _GRANTED:
            if ticket.state is State.WAITING:
                self._withdraw(now, ticket)
                ticket.state = State.REFUSED
            ticket.flow = flow
            ticket.caller = Caller(flow.id, flow.key, flow.verified, flow.terms, tier=flow.tier)

    def refuse_all(self, now: float, reason: str) -> None:
        """Refuse every waiting request; the next ``pull`` hands them out."""
        while (ticket := self.waiting.oldest) is not None:
            self._withdraw(now, ticket)
            self._settled.append(self._refuse(ticket, reason))

    # -- requests that run for long ------------------------------------------------------------------------------

    def detach(self, ticket: Ticket) -> None:
        """Take the slot back from a request that goes on; its cost goes on too. Call ``pull`` afterwards."""
        assert ticket.state is State.GRANTED and ticket.holds_slot, ticket
        ticket.pool.detach(ticket)
        self._parking.slot_freed(ticket.flow.customer, ticket.pool)

    def charge(self, now: float, ticket: Ticket) -> None:
        """Charge a running request for what it has used beyond its estimate, as streams are once a second."""
        if ticket.state is State.GRANTED:
            used = (now - ticket.granted_at) * ticket.factor
            if self._by_time and ticket.booked and used > ticket.charged:
                ticket.pool.charge(ticket, used - ticket.charged)
                ticket.charged = used

    def restrain(self, now: float, ticket: Ticket, seconds: float) -> None:
        """Hold a customer whose clients read slowly to a quarter of the slots for a while (strangers: all of them)."""
        customer, pool = ticket.flow.customer, ticket.pool
        self._parking.restrain(customer if customer.verified else pool.group, pool, now + seconds)

    # -- configuration, care, and views --------------------------------------------------------------------------

    def resize(self, slots: Mapping[str, int]) -> None:
        """Set the slots of each pool; pools that are new are made, none is removed. Call ``pull`` afterwards."""
        quantum = self._min_cost / _ROUNDS_PER_LEAST_COST
        for name, number in slots.items():
            if name in self.pools:
                self.pools[name].resize(number)
            else:
                share = self._unverified_share
                self.pools[name] = Pool(
                    name, number, unverified_share=share, quantum=quantum, first_guess=self._min_cost
                )

    def set_unverified_share(self, share: float) -> None:
        """Set the most that unverified callers get together while verified ones wait (0 < share <= 1)."""
        self._unverified_share = share
        for pool in self.pools.values():
            pool.set_unverified_share(share)

    def recheck(self) -> None:
        """Look again at every customer that a limit of its own held back: terms have changed. Call ``pull`` then."""
        self._parking.release_all()

    def housekeep(self, now: float) -> bool:
        """Take one bounded step of forgetting, for times without traffic; return whether another one would help now."""
        more = False
        for pool in self.pools.values():
            if not pool.in_flight and not pool.ring.filed:
                pool.settle()
            for ring in pool.rings():
                if ring.litter_at <= now:
                    more = self._forget(now, ring) or more
        return more

    def litter_at(self) -> float:
        """Return when there may be something to forget next; infinity: nothing is remembered."""
        return min(ring.litter_at for pool in self.pools.values() for ring in pool.rings())

    def customers(self) -> Iterator[tuple[Pool, Flow]]:
        """Iterate over all customers in the table, for snapshots."""
        for pool in self.pools.values():
            yield from ((pool, flow) for ring in pool.rings() for flow in ring.children.values())

    # -- how it is done ------------------------------------------------------------------------------------------

    def _leaf(self, pool: Pool, caller: Caller) -> Flow:
        leaf = pool.leaf(caller)
        if leaf is None:
            leaf = pool.join(caller)
            leaf.profile = self._profiles.take(leaf.id)
            if len(self.pools) > 1:
                self._parking.reterm(leaf, caller.terms)  # it may be known from another pool, by other terms
        return leaf

    def _grant(self, now: float, ticket: Ticket) -> None:
        ticket.pool.grant(now, ticket)
        customer = ticket.flow.customer
        if customer.terms.rps is not None:
            self._parking.pace_of(customer).take(now, customer.terms.rps)

    def _pick(self, now: float, pool: Pool) -> Ticket | None:
        """Grant the request whose turn it is; flows that may not run now leave the ring until they may."""
        root, group = pool.ring, pool.group
        while True:
            customer = root.first()
            if customer is None:
                return None
            if customer is group:
                if group.slow_until > now and group.in_flight >= pool.quarter:
                    root.unfile(group)
                    group.parked = Parked.SLOW
                    continue
                customer = pool.strangers.first()
                assert customer is not None, "the group stands in the ring only while a member does"
            obstacle = self._parking.obstacle(now, customer, pool)
            if not obstacle:
                break
            pool.step_out(customer)
            self._parking.park(customer, pool, obstacle)
        leaf = customer
        if customer.ring is not None:
            key = customer.ring.first()
            assert key is not None, "a customer stands in the ring only while a key of it does"
            leaf = key
            leaf.parent.unfile(leaf)
        ticket = leaf.head
        assert ticket is not None, "a leaf stands in the ring only while a request of it waits"
        ring = customer.parent
        ring.unfile(customer)
        if ring is not root:
            root.unfile(group)
        self.waiting.leave(ticket)
        self._grant(now, ticket)
        if leaf is not customer:
            if leaf.waiting:
                leaf.parent.refile(leaf)
            else:
                leaf.parent.leave(leaf, now)
        if customer.waiting:
            ring.refile(customer)
        else:
            ring.leave(customer, now)
        if ring is not root and ring.filed:
            root.refile(group)
        return ticket

    def _enqueue(self, now: float, ticket: Ticket, priority: int, obstacle: int) -> None:
        leaf, pool = ticket.flow, ticket.pool
        customer = leaf.customer
        ticket.position = leaf.waiting
        reason = self._objection(leaf, customer, pool, now)
        if reason:
            self._refuse(ticket, reason)
            if leaf is not customer:
                leaf.parent.disown(leaf)
            customer.parent.disown(customer)
            return
        ticket.state = State.WAITING
        ticket.priority = priority
        self.waiting.enter(ticket)
        if leaf is not customer and leaf.waiting == 1:
            leaf.parent.place(leaf, 0.0)
        if not customer.counted:
            customer.parent.count(customer, customer.terms.weight, now)
        if customer.waiting == 1 and customer.parked == Parked.NOT:
            if obstacle and (customer.verified or obstacle != Parked.SLOW):  # slow strangers are parked as a group
                self._parking.park(customer, pool, obstacle)
            else:
                pool.stand(customer)

    def _objection(self, leaf: Flow, customer: Flow, pool: Pool, now: float) -> str:
        """Return by which limit a request may not even wait; make room for it where that is fair."""
        if leaf.waiting >= self.max_queue:
            return "max_queue"
        if customer.waiting and customer.tag > customer.parent.v and predict_wait(leaf) > 2.0 * self.max_wait:
            return "predicted_wait"
        if self.waiting.count >= self.max_queue_total:
            victim = choose_victim(self.waiting, self.pools.values(), customer)
            if victim is None:
                return "max_queue_total"
            self._withdraw(now, victim)
            self._settled.append(self._refuse(victim, "max_queue_total"))
        return ""

    def _refuse(self, ticket: Ticket, reason: str) -> Ticket:
        ticket.predicted_s = predict_wait(ticket.flow)
        ticket.reason = reason
        ticket.state = State.REFUSED
        return ticket

    def _withdraw(self, now: float, ticket: Ticket) -> None:
        """Take a waiting ticket out of every list and count."""
        leaf, pool = ticket.flow, ticket.pool
        customer = leaf.customer
        self.waiting.leave(ticket)
        if leaf is not customer and not leaf.waiting:
            leaf.parent.unfile(leaf)
        if not customer.waiting and customer.filed:
            pool.step_out(customer)
        pool.withdrawn(now, leaf)

    def _forget(self, now: float, ring: Ring) -> bool:
        """Let a ring forget; return whether it did."""
        dropped = ring.housekeep(now)
        for flow in dropped:
            if flow.verified and flow.profile is not None and flow.profile.count >= _KNOWN_AFTER:
                self._profiles.keep(flow.id, flow.profile)
        return bool(dropped)
