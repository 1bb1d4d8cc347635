"""The scheduler when there is too much of everything: who is refused, who makes room for whom, what is kept of whom."""

from __future__ import annotations

import pytest

from ezthrottle_provider.scheduling import State

from .desks import Desk, caller, stranger

# Refusals


def test_a_key_may_have_max_queue_requests_waiting_and_no_more():
    desk = Desk(max_queue=3)
    tickets = [desk.submit() for _ in range(5)]
    assert [State.WAITING] * 3 == [ticket.state for ticket in tickets[1:4]]
    assert (State.REFUSED, "max_queue", 3) == (tickets[4].state, tickets[4].reason, tickets[4].position)


def test_a_request_is_refused_when_it_has_waited_for_max_wait():
    desk = Desk(max_wait=10.0)
    desk.submit()
    waiting = desk.submit()
    assert 110.0 == desk.scheduler.next_due()
    assert [] == desk.pull(after_s=9.9)
    assert [waiting] == desk.pull(after_s=0.1)
    assert (State.REFUSED, "max_wait") == (waiting.state, waiting.reason)


def test_in_a_full_queue_the_flood_makes_room_for_a_customer_with_less():
    desk = Desk(max_queue_total=10)
    flood = [desk.submit("flood") for _ in range(11)]
    quiet = desk.submit("quiet")
    assert State.WAITING is quiet.state
    assert (State.REFUSED, "max_queue_total") == (flood[10].state, flood[10].reason)
    assert State.REFUSED is desk.submit("flood").state


@pytest.mark.parametrize("verified_ones_waiting", [0, 1, 80])
def test_a_crowd_of_strangers_always_makes_room_for_a_verified_customer(verified_ones_waiting):
    desk = Desk(max_queue_total=200)
    for number in range(300):
        desk.submit(stranger(f"address{number}"))
    for number in range(verified_ones_waiting):
        assert State.WAITING is desk.submit(f"customer{number}").state
    assert State.WAITING is desk.submit("one more").state
    assert 200 == desk.scheduler.waiting.count


def test_a_flood_in_one_pool_makes_room_for_a_customer_of_another():
    desk = Desk(pools={"exports": 1}, max_queue_total=10)
    for number in range(20):
        desk.submit(caller("flood", f"key{number}"), pool="exports")
    desk.submit("quiet")
    assert State.WAITING is desk.submit("quiet").state


def test_draining_hands_out_every_waiting_request_once():
    desk = Desk()
    tickets = [desk.submit(name) for name in "abcde"]
    desk.scheduler.refuse_all(desk.now, "draining")
    assert float("-inf") == desk.scheduler.next_due()
    assert tickets[1:] == desk.pull()
    assert {"draining"} == {ticket.reason for ticket in tickets[1:]}
    assert [] == desk.pull()


# What is forgotten


@pytest.mark.parametrize("requests", [1, 5])
def test_everybody_is_forgotten_when_nothing_happens_any_more(requests):
    desk = Desk(slots=8)
    for name in ("a", "b", "c"):
        for ticket in [desk.submit(name) for _ in range(requests)]:
            desk.finish(ticket, 1.0)
    desk.now += 60.0
    for _ in range(10):
        desk.scheduler.housekeep(desk.now)
    assert [] == desk.table()
    assert not desk.scheduler.housekeep(desk.now)


def test_one_off_customers_are_forgotten_while_others_are_served():
    desk = Desk()
    for number in range(2_000):
        desk.finish(desk.submit(f"once{number}"), 0.01)
        desk.now += 0.01
    assert len(desk.table()) < 300


def test_a_debt_outlives_the_request_so_that_a_client_with_one_thread_is_not_new_each_time():
    desk = Desk(unit="requests")
    running = desk.submit("busy")
    for _ in range(20):
        desk.submit("busy")
    dear = desk.submit("debtor", factor=10.0)
    order = []
    while running is not None and len(order) < 16:
        order.append(running.customer)
        granted = desk.finish(running)
        if running is dear:
            desk.submit("debtor")  # its one thread asks again as soon as it is answered
        running = granted[0] if granted else None
    paid_for = order[order.index("debtor") + 1 :]
    assert ["busy"] * 8 == paid_for[:8]
    assert "debtor" in paid_for


def test_keys_that_were_only_ever_refused_are_not_kept():
    desk = Desk(max_queue_total=10)
    for number in range(11):
        desk.submit(caller(key=f"key{number}"))
    for number in range(1_000):
        assert State.REFUSED is desk.submit(caller(key=f"invented{number}")).state
    assert len(desk.pool.ring.children["acme"].ring.children) < 100


def test_strangers_that_were_only_ever_refused_are_not_kept():
    desk = Desk(max_queue_total=10)
    for number in range(11):
        desk.submit(stranger(f"address{number}"))
    for number in range(1_000):
        assert State.REFUSED is desk.submit(stranger(f"invented{number}")).state
    assert len(desk.pool.strangers.children) < 100


# Predictions and sums


def test_the_predicted_wait_is_right_when_costs_are_steady():
    desk = Desk(slots=2, max_wait=1_000.0, max_queue=1_000)
    running = [desk.submit("a"), desk.submit("b")]
    for _ in range(200):
        desk.submit("a")
        desk.submit("b")
    for _ in range(100):
        desk.now += 0.1
        running = [granted for ticket in running for granted in desk.finish(ticket)]
    desk.scheduler.max_wait = 1e-9
    refused = desk.submit("a")  # behind 100 of its own, of which one is served every 0.1 s
    assert State.REFUSED is refused.state
    assert 10.0 == pytest.approx(refused.predicted_s, rel=0.3)


def test_a_customer_over_its_share_whose_turn_would_come_too_late_is_told_so_on_arrival():
    desk = Desk(max_wait=1.0, max_queue=1_000)
    running = [desk.submit("flood")]
    for _ in range(15):
        desk.submit("flood")
    for _ in range(5):
        desk.now += 0.15
        running = [granted for granted in desk.finish(running[0]) if granted.state is State.GRANTED]
    for _ in range(30):
        last = desk.submit("flood")
    assert (State.REFUSED, "predicted_wait") == (last.state, last.reason)
    assert State.WAITING is desk.submit("quiet").state


def test_an_absurd_cost_neither_breaks_the_order_nor_raises():
    desk = Desk(slots=2)
    absurd, other = desk.submit(stranger("absurd"), factor=1e6), desk.submit(stranger("other"))
    waiting = [desk.submit(stranger(name)) for name in ("absurd", "other")]
    desk.finish(absurd, 1e305)
    desk.finish(other, 1.0)
    assert [State.GRANTED] * 2 == [ticket.state for ticket in waiting]
