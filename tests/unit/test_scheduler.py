"""The scheduler, call by call, with the time passed in: who runs next, who is held back, and for how long."""

from __future__ import annotations

import pytest
from attack.desks import EQUAL, Desk, caller, stranger

from ezthrottle_provider.scheduling import State, Terms

# Whose turn it is


def test_two_customers_take_turns_however_much_one_of_them_sent_first():
    desk = Desk()
    first = desk.submit("flood")
    for _ in range(6):
        desk.submit("flood")
    for _ in range(3):
        desk.submit("quiet")
    order = desk.serve(of=[first])
    assert order[1:8].count("quiet") == 3
    assert 10 == len(order)


def test_weights_divide_the_cost():
    desk = Desk(unit="requests", max_queue=1000)
    first = desk.submit("light")
    for _ in range(400):
        desk.submit(caller("light"))
        desk.submit(caller("heavy", terms=Terms(weight=4.0)))
    assert 160 == pytest.approx(desk.serve(of=[first])[:200].count("heavy"), abs=3)


def test_dear_requests_are_paid_for_by_waiting_longer():
    desk = Desk(max_queue=1000)
    first = desk.submit("cheap")
    for _ in range(200):
        desk.submit("cheap")
        desk.submit(caller("dear"), factor=5.0)
    order = desk.serve(of=[first], cost=0.1)[:120]
    assert 20 == pytest.approx(order.count("dear"), abs=3)


def test_a_new_weight_acts_on_what_already_waits():
    desk = Desk(unit="requests", max_queue=1000)
    terms = Terms()
    first = desk.submit("other")
    for _ in range(100):
        desk.submit("other")
        desk.submit(caller("upgraded", terms=terms))
    terms.weight = 3.0
    assert 60 == pytest.approx(desk.serve(of=[first])[:80].count("upgraded"), abs=3)


def test_priorities_order_a_customers_own_requests_and_equals_by_arrival():
    desk = Desk()
    first = desk.submit()
    low, high, also_high, highest = (desk.submit(caller(priority=priority)) for priority in (1, 7, 7, 9))
    order, running = [], first
    while running is not None:
        granted = desk.finish(running)
        running = granted[0] if granted else None
        order.append(running)
    assert [highest, high, also_high, low, None] == order


def test_no_priority_passes_another_customers_turn():
    desk = Desk(unit="requests")
    first = desk.submit("first")
    for _ in range(4):
        desk.submit(caller("urgent", priority=9))
        desk.submit(caller("patient", priority=0))
    assert 2 == desk.serve(of=[first])[1:5].count("patient")


def test_keys_of_one_customer_share_its_turn():
    desk = Desk(unit="requests")
    first = desk.submit("first")
    for number in range(8):
        desk.submit(caller("minter", f"key{number}"))
        desk.submit("plain")
    assert 4 == desk.serve(of=[first])[1:9].count("minter")


def test_a_customer_that_shows_a_second_key_keeps_the_place_of_what_waits_under_the_first():
    desk = Desk()
    first = desk.submit(caller(key="a"))
    waiting = [desk.submit(caller(key="a")), desk.submit(caller(key="b")), desk.submit(caller(key="a"))]
    assert 3 == desk.scheduler.waiting.count
    served, running = [], first
    while running is not None:
        granted = desk.finish(running)
        running = granted[0] if granted else None
        served.append(running)
    assert [waiting[0], waiting[1], waiting[2], None] == served


def test_strangers_together_get_their_part_while_a_verified_customer_waits_and_all_when_none_does():
    desk = Desk(unit="requests", unverified_share=0.2, max_queue=1000)
    first = desk.submit("verified")
    for number in range(100):
        desk.submit("verified")
        desk.submit(stranger(f"address{number}"))
    order = desk.serve(of=[first])
    assert 20 == pytest.approx(sum(name != "verified" for name in order[:100]), abs=3)
    assert 201 == len(order)


def test_a_cancelled_request_leaves_the_queue_and_the_next_one_follows():
    desk = Desk()
    first, second, third = desk.submit(), desk.submit(), desk.submit()
    desk.scheduler.cancel(desk.now, second)
    assert State.ABANDONED is second.state
    assert [third] == desk.finish(first)


# Limits of a customer's own


def test_a_customers_own_limit_holds_over_all_pools_and_its_capacity_goes_to_others():
    capped = Terms(max_concurrent=2)
    desk = Desk(slots=4, pools={"exports": 4})
    running = [desk.submit(caller(terms=capped)), desk.submit(caller(terms=capped), pool="exports")]
    third = desk.submit(caller(terms=capped))
    other = desk.submit("other")
    assert (State.WAITING, State.GRANTED) == (third.state, other.state)
    assert [third] == desk.finish(running[1])


def test_a_pace_spaces_starts_and_says_when_to_ask_again():
    paced = caller(terms=Terms(rps=2.0))
    desk = Desk(slots=10)
    burst = [desk.submit(paced) for _ in range(4)]
    assert [State.GRANTED] * 2 + [State.WAITING] * 2 == [ticket.state for ticket in burst]
    assert 100.5 == desk.scheduler.next_due()
    assert [] == desk.pull(after_s=0.4)
    assert [burst[2]] == desk.pull(after_s=0.1)
    assert [burst[3]] == desk.pull(after_s=0.5)


def test_a_paced_customer_that_waits_does_not_hold_up_the_others():
    desk = Desk(slots=1)
    paced = caller("paced", terms=Terms(rps=1.0))
    first = desk.submit(paced)
    waiting = [desk.submit(paced) for _ in range(3)]
    other = desk.submit("other")
    granted = desk.finish(first)
    assert granted in ([waiting[0]], [other])
    assert State.GRANTED is other.state or [other] == desk.finish(granted[0])


@pytest.mark.parametrize("limited", [Terms(max_concurrent=1), Terms(rps=0.1)], ids=["max_concurrent", "rps"])
def test_a_customer_that_is_moved_to_a_tier_without_the_limit_is_not_held_by_the_old_one(limited):
    desk = Desk(slots=4, max_wait=1_000.0)
    running = [desk.submit(caller(terms=limited)) for _ in range(2)]
    held = [desk.submit(caller(terms=limited)) for _ in range(2)]
    assert {State.WAITING} == {ticket.state for ticket in held}
    desk.submit(caller(terms=EQUAL))  # what the directory says of it from now on
    desk.finish(running[0])
    desk.pull(after_s=20.0)
    assert [State.GRANTED] * 2 == [ticket.state for ticket in held]


def test_a_limit_that_is_lifted_acts_on_what_waits():
    terms = Terms(max_concurrent=1)
    desk = Desk(slots=4)
    desk.submit(caller(terms=terms))
    held = desk.submit(caller(terms=terms))
    terms.max_concurrent = None
    desk.scheduler.recheck()
    assert [held] == desk.pull()


def test_slow_readers_keep_to_a_quarter_of_the_slots_and_only_for_as_long_as_they_are_told():
    desk = Desk(slots=8, max_wait=1_000.0)
    slow = [desk.submit("slow") for _ in range(2)]
    desk.scheduler.restrain(desk.now, slow[0], 30.0)
    held = desk.submit("slow")
    assert State.WAITING is held.state
    assert State.GRANTED is desk.submit("other").state
    desk.pull(after_s=31.0)
    assert State.GRANTED is held.state


def test_strangers_who_were_held_together_run_again_in_order_when_the_time_is_over():
    desk = Desk(slots=4, max_wait=1_000.0)
    slow = desk.submit(stranger("slow"))
    desk.scheduler.restrain(desk.now, slow, 30.0)
    held = desk.submit(stranger("held"))
    assert State.WAITING is held.state
    desk.pull(after_s=31.0)
    newcomer = desk.submit(stranger("newcomer"))
    assert (State.GRANTED, State.GRANTED) == (held.state, newcomer.state)


# Long requests, overruled and transferred ones


def test_a_detached_request_gives_its_slot_away_and_is_charged_to_its_end():
    desk = Desk()
    stream, waiting = desk.submit(), desk.submit()
    desk.scheduler.detach(stream)
    assert [waiting] == desk.pull()
    assert (1, 1) == (desk.pool.in_flight, desk.pool.streams)
    desk.now += 7.0
    desk.scheduler.charge(desk.now, stream)
    assert 7.0 == pytest.approx(stream.charged)
    desk.finish(stream)
    assert (1, 0) == (desk.pool.in_flight, desk.pool.streams)


def test_overruling_runs_a_request_beside_a_full_pool_and_delays_who_comes_next():
    desk = Desk(max_queue=1)
    running, waiting, refused = desk.submit(), desk.submit(), desk.submit()
    desk.scheduler.overrule(desk.now, waiting)
    desk.scheduler.overrule(desk.now, refused)
    assert 3 == desk.pool.in_flight
    following = desk.submit("other")
    for ticket in (running, waiting):
        assert [] == desk.finish(ticket)
    assert [following] == desk.finish(refused)


def test_a_transferred_request_is_charged_to_the_other_customer():
    desk = Desk(slots=2, max_queue=1)
    outer = desk.submit("outer")
    desk.submit("other")
    nested = desk.submit("api itself")
    desk.scheduler.transfer(desk.now, nested, "outer", True)
    desk.scheduler.overrule(desk.now, nested)
    assert ("outer", "outer") == (nested.customer, nested.caller.customer)
    assert 2 == outer.flow.in_flight
    desk.finish(nested)
    desk.finish(outer)
    assert (0, 0) == (outer.flow.in_flight, outer.flow.running)


def test_transferring_what_was_granted_meanwhile_changes_nothing():
    desk = Desk()
    first, second = desk.submit("first"), desk.submit("second")
    desk.finish(first)
    assert State.GRANTED is second.state
    desk.scheduler.transfer(desk.now, second, "first", True)
    assert "second" == second.customer
    desk.finish(second)
    assert {0} == {flow.in_flight for _, flow in desk.scheduler.customers()}


def test_new_terms_for_everybody_do_not_make_slow_readers_wait_longer_than_they_were_told():
    desk = Desk(slots=8, max_wait=1_000.0)
    slow = [desk.submit("slow") for _ in range(2)]
    desk.scheduler.restrain(desk.now, slow[0], 30.0)
    desk.scheduler.recheck()
    desk.pull()
    held = desk.submit("slow")
    assert State.WAITING is held.state
    desk.pull(after_s=31.0)
    assert State.GRANTED is held.state


def test_a_customer_that_was_moved_to_another_tier_is_followed_in_every_pool():
    desk = Desk(slots=4, pools={"exports": 4}, max_wait=1_000.0)
    running = desk.submit(caller(terms=EQUAL))
    held = desk.submit(caller(terms=Terms(max_concurrent=1)), pool="exports")
    assert State.WAITING is held.state
    assert [held] == desk.finish(running)
