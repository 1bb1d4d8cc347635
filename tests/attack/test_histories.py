"""Random histories of a scheduler: after every step all counts can be derived from the tickets, and no slot idles.

The machine does what the gate does: it calls ``pull`` after each step that may have freed something. All times are
passed in. What is checked is written at each invariant; the model keeps nothing but the tickets and the time.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ezthrottle_provider.scheduling import Caller, Scheduler, State, Terms

CUSTOMERS = ("verified1", "verified2", "stranger1", "stranger2")
MAX_QUEUE, MAX_QUEUE_TOTAL, MAX_WAIT_S = 4, 9, 5.0

customers = st.sampled_from(CUSTOMERS)
pools = st.sampled_from(["default", "default", "exports"])


def listed(fifo):
    """The flows of a list, after checking its links."""
    flows, flow, before = [], fifo.first, None
    while flow is not None:
        assert flow.home is fifo
        assert flow.prev is before
        flows.append(flow)
        before, flow = flow, flow.next
    assert fifo.last is before
    return flows


def queued(leaf):
    """The tickets of a leaf's queue, after checking its links."""
    tickets, ticket, before = [], leaf.head, None
    while ticket is not None:
        assert ticket.prev is before
        tickets.append(ticket)
        before, ticket = ticket, ticket.next
    assert leaf.tail is before
    return tickets


class Histories(RuleBasedStateMachine):
    """Every call that a scheduler has, in any order that its callers may use."""

    scheduler: Scheduler

    @initialize(
        slots=st.integers(1, 5),
        exports=st.integers(1, 3),
        unit=st.sampled_from(["seconds", "requests"]),
        share=st.sampled_from([0.2, 0.5, 1.0]),
    )
    def begin(self, slots, exports, unit, share):
        self.now = 100.0
        self.scheduler = Scheduler(
            slots=slots,
            pools={"exports": exports},
            max_queue=MAX_QUEUE,
            max_queue_total=MAX_QUEUE_TOTAL,
            max_wait=MAX_WAIT_S,
            unverified_share=share,
            unit=unit,
        )
        self.terms = [Terms(), Terms(weight=4.0), Terms(max_concurrent=1), Terms(rps=2.0, weight=0.5)]
        self.assigned = dict(zip(CUSTOMERS, self.terms, strict=True))
        self.tickets = []
        self.handed_out = []
        self.clocks = {}

    def of(self, state):
        return [ticket for ticket in self.tickets if ticket.state is state]

    def pull(self):
        """What the gate does after each step; each ticket is handed out once, and only when it has been settled."""
        for ticket in self.scheduler.pull(self.now):
            assert ticket.state in (State.GRANTED, State.REFUSED)
            assert all(ticket is not other for other in self.handed_out)
            self.handed_out.append(ticket)

    # What callers do

    @rule(
        name=customers,
        key=st.sampled_from("ab"),
        priority=st.integers(0, 9),
        pool=pools,
        factor=st.sampled_from([1.0, 1.0, 5.0]),
        then=st.sampled_from(["wait", "wait", "wait", "wait", "overrule", "transfer"]),
        to=customers,
        tier=st.sampled_from([None, None, 0, 1, 2, 3]),
        times=st.integers(1, 3),
    )
    def submit(self, name, key, priority, pool, factor, then, to, tier, times):
        if tier is not None:  # the customer was moved to another tier, which the scheduler learns in passing
            self.assigned[name] = self.terms[tier]
        caller = Caller(name, key, name.startswith("verified"), self.assigned[name], priority=priority)
        for _ in range(times):
            ticket = self.scheduler.submit(self.now, caller, route=key, factor=factor, pool=pool)
            self.tickets.append(ticket)
            if then == "transfer":  # also when it was granted: another thread may have been quicker
                self.scheduler.transfer(self.now, ticket, to, to.startswith("verified"))
            if then != "wait" and ticket.state is not State.GRANTED:
                self.scheduler.overrule(self.now, ticket)
            self.pull()

    @precondition(lambda self: self.of(State.GRANTED))
    @rule(data=st.data(), cost=st.sampled_from([None, None, 0.0, 0.5, 3.0]))
    def finish(self, data, cost):
        self.scheduler.finish(self.now, data.draw(st.sampled_from(self.of(State.GRANTED))), cost)
        self.pull()

    @precondition(lambda self: self.of(State.WAITING))
    @rule(data=st.data())
    def cancel(self, data):
        self.scheduler.cancel(self.now, data.draw(st.sampled_from(self.of(State.WAITING))))
        self.pull()

    @precondition(lambda self: any(ticket.holds_slot for ticket in self.of(State.GRANTED)))
    @rule(data=st.data(), restrain=st.booleans())
    def detach(self, data, restrain):
        ticket = data.draw(st.sampled_from([ticket for ticket in self.of(State.GRANTED) if ticket.holds_slot]))
        if restrain:
            self.scheduler.restrain(self.now, ticket, 3.0)
        self.scheduler.detach(ticket)
        self.pull()

    @precondition(lambda self: self.of(State.GRANTED))
    @rule(data=st.data())
    def charge(self, data):
        self.scheduler.charge(self.now, data.draw(st.sampled_from(self.of(State.GRANTED))))

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0, 3.0]))
    def pass_time(self, seconds):
        self.now += seconds
        self.pull()

    @rule(
        number=st.integers(0, 3),
        weight=st.sampled_from([0.5, 1.0, 4.0]),
        rps=st.sampled_from([None, 1.0, 10.0]),
        most=st.sampled_from([None, 1, 2]),
    )
    def update(self, number, weight, rps, most):
        terms = self.terms[number]
        terms.weight, terms.rps, terms.max_concurrent = weight, rps, most
        self.scheduler.recheck()
        self.pull()

    @rule(slots=st.integers(1, 5))
    def resize(self, slots):
        self.scheduler.resize({"default": slots})
        self.pull()

    @rule()
    def drain(self):
        self.scheduler.refuse_all(self.now, "draining")
        self.pull()

    @rule()
    def housekeep(self):
        self.scheduler.housekeep(self.now)

    # What must hold after every step

    @invariant()
    def all_that_wait_are_in_order_of_arrival_and_none_for_too_long(self):
        if not hasattr(self, "scheduler"):
            return
        waiting = self.scheduler.waiting
        arrivals, ticket = [], waiting.oldest
        while ticket is not None:
            arrivals.append(ticket)
            ticket = ticket.newer
        assert self.of(State.WAITING) == arrivals
        assert len(arrivals) == waiting.count <= MAX_QUEUE_TOTAL
        assert all(self.now - ticket.submitted_at < MAX_WAIT_S for ticket in arrivals)

    @invariant()
    def every_count_can_be_derived_from_the_tickets(self):
        if not hasattr(self, "scheduler"):
            return
        for pool in self.scheduler.pools.values():
            waiting = [ticket for ticket in self.of(State.WAITING) if ticket.pool is pool]
            running = [ticket for ticket in self.of(State.GRANTED) if ticket.pool is pool]
            assert pool.in_flight == sum(ticket.holds_slot for ticket in running)
            assert pool.streams == sum(not ticket.holds_slot for ticket in running)
            for ticket in waiting + running:
                leaf = ticket.flow
                assert leaf.customer.parent.children.get(leaf.customer.id) is leaf.customer
                assert leaf is leaf.customer or leaf.parent.children.get(leaf.id) is leaf
            strangers = [ticket for ticket in waiting + running if not ticket.flow.verified]
            assert pool.group.waiting == sum(ticket.state is State.WAITING for ticket in strangers)
            assert pool.group.in_flight == sum(
                ticket.state is State.GRANTED and ticket.holds_slot for ticket in strangers
            )
            for ring in pool.rings():
                for customer in ring.children.values():
                    self._counted(customer, waiting, running, lambda ticket: ticket.flow.customer)
                    leaves = [customer] if customer.ring is None else customer.ring.children.values()
                    for leaf in leaves:
                        if leaf is not customer:
                            self._counted(leaf, waiting, running, lambda ticket: ticket.flow)
                        mine = [ticket for ticket in waiting if ticket.flow is leaf]
                        assert sorted(mine, key=lambda ticket: -ticket.priority) == queued(leaf)
                        assert len(mine) <= MAX_QUEUE

    @staticmethod
    def _counted(flow, waiting, running, owner):
        mine = [ticket for ticket in running if owner(ticket) is flow]
        assert flow.waiting == sum(owner(ticket) is flow for ticket in waiting)
        assert flow.running == len(mine)
        assert flow.in_flight == sum(ticket.holds_slot for ticket in mine)

    @invariant()
    def who_stands_in_a_ring_has_something_waiting_and_the_sums_of_weights_are_those_of_the_flows(self):
        if not hasattr(self, "scheduler"):
            return
        for pool in self.scheduler.pools.values():
            assert (pool.group.home is not None) == (pool.strangers.filed > 0 and not pool.group.parked)
            rings = [(ring, pool.group if ring is pool.ring else None) for ring in pool.rings()]
            rings += [
                (flow.ring, None) for ring, _ in rings for flow in ring.children.values() if flow.ring is not None
            ]
            for ring, group in rings:
                standing = [flow for bucket in ring.buckets.values() for flow in listed(bucket)]
                assert ring.filed == len(standing)
                assert all(ring.buckets.values())
                assert all(flow.waiting and not flow.parked for flow in standing)
                resting = listed(ring.recent) + listed(ring.owing)
                for flow in ring.children.values():
                    if not (flow.waiting or flow.running):
                        assert any(flow is other for other in resting)
                    if flow.waiting and not flow.parked:
                        assert any(flow is other for other in standing)
                assert all(flow is group or ring.children[flow.id] is flow for flow in standing + resting)
                assert ring.members == sum(flow.counted > 0.0 for flow in ring.children.values())
                assert math.isclose(ring.demand, sum(flow.counted for flow in ring.children.values()), abs_tol=1e-9)
                assert ring.v >= self.clocks.get(id(ring), 0.0)
                self.clocks[id(ring)] = ring.v

    @invariant()
    def no_slot_is_free_while_a_request_waits_that_may_have_it(self):
        if not hasattr(self, "scheduler"):
            return
        for pool in self.scheduler.pools.values():
            if pool.in_flight < pool.slots:
                for ticket in self.of(State.WAITING):
                    assert ticket.pool is not pool or not self._may_run(ticket.flow.customer, pool)

    def _may_run(self, customer, pool):
        terms = customer.terms
        held = [ticket for ticket in self.of(State.GRANTED) if ticket.holds_slot and ticket.customer == customer.id]
        if terms.max_concurrent is not None and len(held) >= terms.max_concurrent:
            return False
        if terms.rps is not None and customer.pace is not None and customer.pace.ready_at(terms.rps) > self.now:
            return False
        slow = customer if customer.verified else pool.group
        return not (slow.slow_until > self.now and slow.in_flight >= pool.quarter)

    @invariant()
    def who_is_held_back_by_time_alone_is_asked_for_again_in_time(self):
        if not hasattr(self, "scheduler") or not self.of(State.WAITING):
            return
        due = self.scheduler.next_due()
        assert due is not None
        assert due <= min(ticket.submitted_at for ticket in self.of(State.WAITING)) + MAX_WAIT_S

    def teardown(self):
        """In the end everything is given back, and everybody is forgotten."""
        if not hasattr(self, "scheduler"):
            return
        self.every_count_can_be_derived_from_the_tickets()
        for ticket in self.of(State.WAITING):
            self.scheduler.cancel(self.now, ticket)
        for ticket in self.of(State.GRANTED):
            self.scheduler.finish(self.now, ticket)
        self.pull()
        self.now += 1_000.0
        for _ in range(60):  # a step forgets some
            self.pull()
            self.scheduler.housekeep(self.now)
        assert [] == [flow for _, flow in self.scheduler.customers()]


@pytest.mark.slow
def test_any_history_leaves_counts_that_the_tickets_explain_and_no_idle_slot():
    run_state_machine_as_test(
        Histories,
        settings=settings(max_examples=250, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow]),
    )
