"""A pool of slots and the flows that compete for it: verified customers, and the group of all unverified callers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .callers import Terms
from .flows import MOST_CREDIT, Flow, Parked, Ring, credit_of
from .tickets import State

if TYPE_CHECKING:
    from .callers import Caller
    from .tickets import Ticket

__all__ = ["Pool", "Share"]

_MEAN_SPAN: Final = 256
_GRANTED: Final = State.GRANTED
_EQUAL: Final = Terms()  # keys of one customer share equally


@dataclass(frozen=True, slots=True)
class Share:
    """What a customer is entitled to now: a part (0..1) of the pool, from its weight among the weights with demand."""

    part: float
    weight: float
    weights: float


class Pool:
    """Slots, and two rings over them.

    Verified customers stand in ``ring``; so does one flow for all unverified callers, who stand in ``strangers``, the
    ring of that ``group``. The group's weight is the sum of its members' weights, but at most what gives it
    ``unverified_share`` of the pool against the verified customers that are busy: fresh identities gain a newcomer's
    share inside the group and nothing outside it.
    """

    __slots__ = (
        "_ratio",
        "_seen",
        "charged",
        "direct",
        "group",
        "held",
        "in_flight",
        "mean",
        "name",
        "quantum",
        "restrained",
        "ring",
        "slots",
        "strangers",
        "streams",
    )

    def __init__(self, name: str, slots: int, *, unverified_share: float, quantum: float, first_guess: float) -> None:
        self.name = name
        self.quantum = quantum
        self.in_flight = 0
        self.direct: dict[Ticket, None] = {}  # those that run and were granted while nobody waited, in that order
        self.restrained = False  # some customer was ever held to a quarter of the slots: rare, so kept off the path
        self.streams = 0  # requests that run without a slot
        # Averages over all requests. ``mean`` is the estimate for customers not known yet; before any request has
        # ended it must not be above what one costs, or the lag bound breaks in a cold start. The other two say how much
        # cost a slot turns over per second: 1 unless costs are multiplied, or not seconds at all.
        self._seen = 0
        self.mean = first_guess
        self.charged = 0.0
        self.held = 0.0
        self.ring = Ring(quantum)
        self.group = Flow("unverified", "", self.ring, _EQUAL, verified=False)
        self.strangers = self.group.ring = Ring(quantum)
        self.resize(slots)
        self.set_unverified_share(unverified_share)

    def resize(self, slots: int) -> None:
        """Set how many requests may run at once.

        The credit of sparse customers comes out of the lag bound, which grows with the slots: with few there is none.
        """
        self.slots = slots
        self.ring.credit_requests = float(min(MOST_CREDIT, slots - 1))

    def set_unverified_share(self, share: float) -> None:
        """Set the most that unverified callers get together while verified ones wait (0 < share <= 1)."""
        self._ratio = share / (1.0 - share) if share < 1.0 else float("inf")

    @property
    def quarter(self) -> int:
        """The slots that slow readers may hold: a quarter, at least one."""
        return max(1, self.slots // 4)

    def rings(self) -> tuple[Ring, Ring]:
        """Return the two rings in which customers stand."""
        return self.ring, self.strangers

    def find(self, customer: Flow) -> Flow | None:
        """Return this pool's flow of a customer that is known from another pool."""
        return (self.ring if customer.verified else self.strangers).children.get(customer.id)

    # -- accounts ------------------------------------------------------------------------------------------------

    def leaf(self, caller: Caller) -> Flow | None:
        """Return the flow in which a caller's requests queue; None when its customer is new here."""
        flow = (self.ring if caller.verified else self.strangers).children.get(caller.customer)
        if flow is None:
            return None
        if flow.sole_key == caller.key:
            return flow
        keys = flow.ring or self._split(flow)
        leaf = keys.children.get(caller.key)
        if leaf is None:
            leaf = keys.children[caller.key] = Flow(caller.key, caller.key, keys, _EQUAL, caller.verified)
            leaf.customer = flow
        return leaf

    def join(self, caller: Caller) -> Flow:
        """Make the flow of a customer that is new here; with one key, it is its own leaf."""
        ring = self.ring if caller.verified else self.strangers
        flow = Flow(caller.customer, caller.key, ring, caller.terms, caller.verified, caller.tier)
        ring.children[caller.customer] = flow
        return flow

    def _split(self, flow: Flow) -> Ring:
        """Give a customer that shows a second key a ring of keys; what waits under its first key moves there.

        What runs stays charged to the customer alone: between its own keys that is a matter of one request each.
        """
        keys = flow.ring = Ring(self.quantum)
        flow.sole_key = None
        if flow.waiting:
            first = keys.children[flow.key] = Flow(flow.key, flow.key, keys, _EQUAL, flow.verified)
            first.customer = flow
            first.head, first.tail, flow.head, flow.tail = flow.head, flow.tail, None, None
            first.waiting = flow.waiting
            ticket = first.head
            while ticket is not None:
                ticket.flow = first
                ticket = ticket.next
            keys.backlog.note(first)
            keys.place(first, 0.0)
        return keys

    def group_weight(self, arriving: Flow) -> float:
        """Return the weight of all unverified callers together, now that a customer arrives."""
        own, verified = self.strangers.demand, self.ring.demand
        if arriving.verified and not arriving.counted:
            verified += arriving.terms.weight
        return own if verified <= 0.0 else min(own, self._ratio * verified)

    # -- a request's account -------------------------------------------------------------------------------------

    def admit(self, now: float, ticket: Ticket) -> None:
        """Start a request while nobody waits: nothing is charged but the slot.

        What it uses is nobody else's until somebody waits. Should that happen before it ends, ``book`` charges it as if
        it had been picked; else ``end`` only moves the clock past it. Most requests of most APIs take this path.
        """
        flow = ticket.flow
        ticket.booked = False
        ticket.granted_at = now
        ticket.charged = 0.0
        ticket.holds_slot = True
        ticket.state = _GRANTED
        weight = flow.terms.weight
        if flow.counted != weight:
            flow.parent.count(flow, weight, now)
        flow.running += 1
        self.in_flight += 1
        self.direct[ticket] = None
        if not flow.verified:
            self.group.running += 1

    def grant(self, now: float, ticket: Ticket) -> None:
        """Start a request that was picked, or that has a reason to be charged at once."""
        leaf = ticket.flow
        customer = leaf.customer
        ticket.granted_at = now
        ticket.holds_slot = True
        ticket.state = _GRANTED
        weight = customer.terms.weight
        if customer.counted != weight:
            customer.parent.count(customer, weight, now)
        if leaf is not customer:
            if not leaf.counted:
                leaf.parent.count(leaf, 1.0, now)
            leaf.running += 1
        self._charge_estimate(ticket)
        customer.running += 1
        self.in_flight += 1
        if not customer.verified:
            self.group.running += 1

    def come_back(self, leaf: Flow) -> None:
        """Let the flows of a request that starts without having queued claim nothing of the past."""
        customer = leaf.customer
        if not customer.filed:
            customer.parent.lift(customer, credit_of(customer))
        if leaf is not customer and not leaf.filed:
            leaf.parent.lift(leaf, 0.0)
        if not customer.verified and self.group.home is None:
            self.ring.lift(self.group, 0.0)

    def book(self) -> None:
        """Somebody begins to wait: charge the requests that run already, in the order in which they were granted."""
        running, self.direct = self.direct, {}
        for ticket in running:
            self.come_back(ticket.flow)
            self._charge_estimate(ticket)

    def _charge_estimate(self, ticket: Ticket) -> None:
        """Charge what a request is expected to cost, at every level, and let the clocks follow its start tags."""
        leaf = ticket.flow
        customer = leaf.customer
        ring = customer.parent
        profile = customer.profile
        if profile is None:
            cost = self.mean * ticket.factor
        else:
            routes = profile.routes
            cost = (profile.mean if routes is None else routes.get(ticket.route, profile.mean)) * ticket.factor
        ticket.booked = True
        ticket.charged = cost
        ticket.rate = rate = 1.0 / customer.terms.weight
        ticket.waived = profile is None and not self.ring.filed
        if customer.tag > ring.v:
            ring.v = customer.tag
        ring.advance(customer, cost * rate)
        if leaf is not customer:
            keys = leaf.parent
            if leaf.tag > keys.v:
                keys.v = leaf.tag
            keys.advance(leaf, cost)
        if customer.verified:
            ticket.group_rate = 0.0
        else:
            group, root = self.group, self.ring
            if group.tag > root.v:
                root.v = group.tag
            ticket.group_rate = rate = 1.0 / self.group_weight(customer)
            root.advance(group, cost * rate)

    def charge(self, ticket: Ticket, amount: float) -> None:
        """Add cost (or give it back) at every level, at the weights that held when the request was booked.

        What a newcomer's first requests were guessed to cost, when nobody waited, stays as it was: those who came
        meanwhile were placed by a clock that held the guess, so correcting one side alone would put the other behind
        by as many requests as there are slots. The group of unverified callers is always corrected.
        """
        leaf = ticket.flow
        customer = leaf.customer
        if not ticket.waived:
            customer.parent.advance(customer, amount * ticket.rate)
            if leaf is not customer:
                leaf.parent.advance(leaf, amount)
        if ticket.group_rate:
            self.ring.advance(self.group, amount * ticket.group_rate)

    def end(self, now: float, ticket: Ticket, charged: float) -> None:
        """End a request: true up its charge, give back its slot, and let the clocks follow where nobody waits."""
        leaf = ticket.flow
        customer = leaf.customer
        ring, root = customer.parent, self.ring
        if ticket.booked:
            self.charge(ticket, charged - ticket.charged)
            if leaf is not customer:
                leaf.running -= 1
                leaf.parent.leave(leaf, now)
                self._tidy(leaf, now)
            if not ring.filed and customer.tag > ring.v:
                ring.v = customer.tag  # nobody waits: what was used was nobody else's, so no debt remains
            if not customer.verified and not root.filed and self.group.tag > root.v:
                root.v = self.group.tag
        else:
            del self.direct[ticket]
            tag, v = customer.tag, ring.v
            ring.v = customer.tag = (tag if tag > v else v) + charged / customer.terms.weight
            if not customer.verified:
                group = self.group
                root.v = group.tag = max(group.tag, root.v) + charged / self.group_weight(customer)
        if not customer.verified:
            self.group.running -= 1
        customer.running -= 1
        if ticket.holds_slot:
            self.in_flight -= 1
        else:
            self.streams -= 1
            customer.detached -= 1
            if leaf is not customer:
                leaf.detached -= 1
            if not customer.verified:
                self.group.detached -= 1
        customer.seen_at = now
        if customer.home is None:
            ring.leave(customer, now)

    def detach(self, ticket: Ticket) -> None:
        """Take the slot back from a request that goes on."""
        ticket.holds_slot = False
        leaf = ticket.flow
        customer = leaf.customer
        customer.detached += 1
        if leaf is not customer:
            leaf.detached += 1
        if not customer.verified:
            self.group.detached += 1
        self.in_flight -= 1
        self.streams += 1

    def withdrawn(self, now: float, leaf: Flow) -> None:
        """Follow a request that left its queue without being served."""
        customer = leaf.customer
        if leaf is not customer:
            leaf.parent.leave(leaf, now)
            self._tidy(leaf, now)
        customer.parent.leave(customer, now)

    def _tidy(self, leaf: Flow, now: float) -> None:
        keys = leaf.parent
        if not keys.filed and leaf.tag > keys.v:
            keys.v = leaf.tag
        if keys.litter_at <= now:
            keys.housekeep(now)

    def observe(self, cost: float, charged: float, held_s: float) -> None:
        """Learn what requests cost here, what was charged for them, and for how long they held a slot."""
        seen = self._seen = self._seen + 1
        span = seen if seen < _MEAN_SPAN else _MEAN_SPAN
        self.mean += (cost - self.mean) / span
        self.charged += (charged - self.charged) / span
        self.held += (held_s - self.held) / span

    def turnover(self) -> float:
        """Return the cost that one busy slot serves per second."""
        return self.charged / self.held if self.held > 0.0 else 1.0

    def share(self, customer: Flow) -> Share:
        """Return the part of the pool that a customer gets while it and all who had demand lately compete."""
        verified, strangers = self.ring.demand, self.strangers.demand
        weight = customer.terms.weight
        if not customer.counted:  # it has no demand now: what it is told must count its own weight too
            if customer.verified:
                verified += weight
            else:
                strangers += weight
        group = min(strangers, self._ratio * verified) if verified > 0.0 else strangers
        part = weight / (verified + group)
        if not customer.verified:
            part *= group / strangers
        part = min(1.0, part)
        return Share(part, weight, weight / part)

    # -- order ---------------------------------------------------------------------------------------------------

    def stand(self, customer: Flow) -> None:
        """File a customer that has something waiting and may run; its group follows."""
        if self.direct:
            self.book()
        ring = customer.parent
        ring.place(customer, credit_of(customer))
        group = self.group
        if ring is self.strangers and group.home is None and group.parked == Parked.NOT:
            self.ring.place(group, 0.0)

    def step_out(self, customer: Flow) -> None:
        """Take a customer out of its ring; its group follows when it was the last there."""
        ring = customer.parent
        ring.unfile(customer)
        if ring is self.strangers and not ring.filed and self.group.home is not None:
            self.ring.unfile(self.group)

    def settle(self) -> None:
        """Nobody is served and nobody waits: debts to nobody end, one at a time, so that they can be forgotten."""
        for ring in self.rings():
            flow = ring.owing.first
            if flow is not None and flow.parked == Parked.NOT:
                ring.v = max(ring.v, flow.tag + credit_of(flow))
