"""Quotas: exactly as many requests as were promised, per customer and calendar period."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ezthrottle_provider.config import Tier
from ezthrottle_provider.headers import Policy
from ezthrottle_provider.inbound.counts import Quota, Tally
from ezthrottle_provider.inbound.quotas import Quotas
from ezthrottle_provider.inbound.usage import UsageRow, read_usage
from ezthrottle_provider.scheduling.callers import Caller, Terms
from ezthrottle_provider.testing import FakeClock

DAY_S = 86_400
TERMS = Terms()


def at(*date):
    return datetime(*date, tzinfo=UTC).timestamp()


NOON = at(2025, 3, 9, 12)


def caller(customer="id:acme", tier="pro", *, key="k", verified=True):
    return Caller(customer, key, verified, TERMS, 5, tier)


def visitor(address, tier="unverified"):
    return caller(f"ip:{address}", tier, verified=False)


def on_a_shared_queue(customer, tier="pro"):
    return Caller(f"tier:{tier}", customer, True, TERMS, 5, tier, account_queue=False)


def quotas(quota, *, clock=None, usage_db="", tier="pro", **options):
    tiers = {tier: Tier(quota=quota, **options)}
    return Quotas(tiers, usage_db=str(usage_db), clock=FakeClock(NOON) if clock is None else clock)


def spent(subject, who, requests=1):
    """What became of some requests; None for each that was admitted."""
    return [subject.spend(who) for _ in range(requests)]


def admitted(subject, who, requests):
    return spent(subject, who, requests).count(None)


# Without a quota


def test_without_a_quota_there_is_nothing_to_do():
    subject = quotas(None)

    assert not subject.active
    assert subject.exhausted(caller()) is None
    assert [None] * 5 == spent(subject, caller(), 5)
    assert () == subject.policies(caller())
    assert [] == subject.usage()
    subject.close()


def test_a_tier_without_a_quota_has_none_beside_one_that_has():
    subject = quotas("1/day", tier="free")

    assert subject.active
    assert 5 == admitted(subject, caller(tier="pro"), 5)
    assert () == subject.policies(caller(tier="pro"))
    assert 1 == admitted(subject, caller(tier="free"), 5)


@pytest.mark.parametrize(("tier", "loaded"), [({}, "False"), ({"quota": "5/day"}, "True")])
def test_only_who_has_a_quota_pays_for_importing_limits(tier, loaded):
    source = f"""
        import sys
        from ezthrottle_provider import Provider
        Provider(identify="ip", tiers={{"pro": {tier}}})
        print("limits" in sys.modules)
    """

    assert loaded == run(source)


# Counting


def test_what_is_above_the_quota_is_refused_until_the_period_ends():
    clock = FakeClock(NOON)
    subject = quotas("3/day", clock=clock)

    assert [None, None, None, DAY_S / 2, DAY_S / 2] == spent(subject, caller(), 5)
    assert DAY_S / 2 == subject.exhausted(caller())

    clock.advance(DAY_S / 2 - 1.0)
    assert 1.0 == subject.exhausted(caller())

    clock.advance(1.0)
    assert subject.exhausted(caller()) is None
    assert 3 == admitted(subject, caller(), 5)


def test_asking_whether_a_quota_is_exhausted_uses_none_of_it():
    subject = quotas("1/day")

    assert [None] * 5 == [subject.exhausted(caller()) for _ in range(5)]
    assert [None] == spent(subject, caller())


def test_overage_that_is_allowed_is_counted_and_never_refused():
    subject = quotas("3/month", overage="allow", overage_price=0.5)

    assert [None] * 5 == spent(subject, caller(), 5)
    assert subject.exhausted(caller()) is None
    assert [
        UsageRow(month="2025-03", customer="id:acme", tier="pro", requests=5, over_quota=2, amount=1.0)
    ] == subject.usage()


def test_a_request_that_was_refused_is_neither_used_nor_billed():
    subject = quotas("3/month", overage_price=0.5)
    spent(subject, caller(), 10)

    assert [(3, 0, 0.0)] == [(row.requests, row.over_quota, row.amount) for row in subject.usage()]
    subject.update({"pro": Tier(quota="4/month")})
    assert 1 == admitted(subject, caller(), 5)


def test_customers_have_a_quota_each_and_keys_of_one_customer_share_it():
    subject = quotas("3/day")

    assert 2 == admitted(subject, caller(key="k1"), 2)
    assert 1 == admitted(subject, caller(key="k2"), 2)
    assert 3 == admitted(subject, caller("id:other"), 5)


def test_on_a_shared_queue_each_customer_still_has_a_quota_of_its_own():
    subject = quotas("3/day", shared_queue=True)

    assert 3 == admitted(subject, on_a_shared_queue("id:a"), 5)
    assert 3 == admitted(subject, on_a_shared_queue("id:b"), 5)
    assert {"id:a", "id:b"} == {row.customer for row in subject.usage()}


def test_callers_that_nobody_verified_are_counted_by_address_and_reported_together():
    subject = quotas("3/day", tier="unverified")

    assert 3 == admitted(subject, visitor("192.0.2.1"), 5)
    assert 3 == admitted(subject, visitor("192.0.2.2"), 5)
    assert [("ip:*", 6)] == [(row.customer, row.requests) for row in subject.usage()]


@pytest.mark.parametrize("overage", ["reject", "allow"])
def test_threads_together_get_exactly_the_quota(overage):
    subject = quotas("1000/month", overage=overage)
    together = threading.Barrier(8)
    got = []

    def flood():
        together.wait()
        got.append(admitted(subject, caller(), 300))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=flood) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)

    requests, over = (1000, 0) if overage == "reject" else (2400, 1400)
    assert requests == sum(got)
    assert [(requests, over)] == [(row.requests, row.over_quota) for row in subject.usage()]


# Periods


@pytest.mark.parametrize(
    ("quota", "now", "next_period"),
    [
        ("1/day", (2025, 3, 9, 23, 59, 59), (2025, 3, 10)),
        ("1/month", (2025, 1, 1), (2025, 2, 1)),  # 31 days, where limits' months have 30
        ("1/month", (2025, 1, 31, 23, 59, 59), (2025, 2, 1)),
        ("1/month", (2024, 2, 28), (2024, 3, 1)),
        ("1/month", (2024, 2, 29, 12), (2024, 3, 1)),
        ("1/month", (2025, 2, 28), (2025, 3, 1)),
        ("1/month", (2025, 12, 31), (2026, 1, 1)),
        ("1 per 3 months", (2025, 6, 30), (2025, 7, 1)),
        ("1 per 7 days", (2025, 3, 9), (2025, 3, 10)),
        ("1/year", (2024, 12, 31), (2025, 1, 1)),
    ],
)
def test_a_quota_comes_back_when_its_calendar_period_ends(quota, now, next_period):
    clock = FakeClock(at(*now))
    subject = quotas(quota, clock=clock)
    left_s = at(*next_period) - at(*now)

    assert [None, left_s] == spent(subject, caller(), 2)
    clock.advance(left_s - 0.5)
    assert [0.5] == spent(subject, caller())
    clock.advance(0.5)
    assert [None] == spent(subject, caller())


def test_shorter_periods_begin_with_a_customers_first_request():
    clock = FakeClock(NOON + 1000.0)
    subject = quotas("2 per 10 minutes", clock=clock)

    assert [None] == spent(subject, caller())
    clock.advance(599.0)
    assert [None, 1.0] == spent(subject, caller(), 2)
    assert [None] == spent(subject, caller("id:other"))
    clock.advance(1.0)
    assert [None] == spent(subject, caller())
    assert 600 == subject.policies(caller())[0].reset_s


def test_a_clock_that_is_set_back_locks_nobody_out_for_longer_than_a_window():
    now = NOON + 10 * DAY_S
    subject = quotas("1/minute", clock=lambda: now)
    assert [None, 60.0] == spent(subject, caller(), 2)

    now = NOON

    assert [None, 60.0] == spent(subject, caller(), 2)


# Live changes


def test_a_quota_that_changes_while_it_runs_keeps_what_was_used():
    subject = quotas("3/month")
    spent(subject, caller(), 3)

    subject.update({"pro": Tier(quota="5/month")})
    assert 2 == admitted(subject, caller(), 5)

    subject.update({"pro": Tier(quota="2/month")})
    assert 0 == admitted(subject, caller(), 5)
    assert 0 == subject.policies(caller())[0].remaining

    subject.update({"pro": Tier()})
    assert not subject.active
    assert 5 == admitted(subject, caller(), 5)


def test_a_customer_that_changes_its_tier_takes_along_what_it_used():
    subject = Quotas({"free": Tier(quota="3/month"), "pro": Tier(quota="10/month")}, clock=FakeClock(NOON))
    spent(subject, caller(tier="free"), 3)

    assert 7 == admitted(subject, caller(tier="pro"), 20)


# What the customer is told


def test_the_policy_says_what_is_left_and_until_when():
    subject = quotas("3/month", clock=FakeClock(at(2025, 3, 31, 23, 59, 58) + 0.5))

    assert (Policy("quota", 3, window_s=31 * DAY_S, remaining=3, reset_s=2),) == subject.policies(caller())
    spent(subject, caller(), 5)
    assert (Policy("quota", 3, window_s=31 * DAY_S, remaining=0, reset_s=2),) == subject.policies(caller())


def test_a_window_that_has_not_begun_lasts_whole():
    assert (Policy("quota", 3, window_s=60, remaining=3, reset_s=60),) == quotas("3/minute").policies(caller())


def test_where_overage_is_allowed_nobody_is_told_that_nothing_is_left():
    subject = quotas("2/day", overage="allow")
    told = []
    for _ in range(3):
        spent(subject, caller())
        told.append(subject.policies(caller())[0].remaining)

    assert [1, None, None] == told


UNITS = st.sampled_from(["second", "minute", "hour", "day", "month", "year"])


@example(now=1.3595810651142477, steps=[], amount=1, multiples=7, unit="second")  # now + 7 - now is more than 7
@given(
    now=st.floats(at(1970, 1, 1), at(2900, 1, 1)),
    steps=st.lists(st.floats(-1e8, 1e8) | st.floats(-2.0, 2.0), max_size=8),
    amount=st.integers(1, 3),
    multiples=st.integers(1, 1000),
    unit=UNITS,
)
def test_a_reset_is_always_ahead_and_at_most_a_period_away(now, steps, amount, multiples, unit):
    subject = quotas(f"{amount} per {multiples} {unit}", clock=lambda: max(0.0, now))
    for step in [0.0, *steps]:
        now += step
        answers = [subject.exhausted(caller()), *spent(subject, caller(), 2), subject.exhausted(caller())]
        [policy] = subject.policies(caller())

        assert all(0.0 < left_s <= policy.window_s for left_s in answers if left_s is not None)
        assert 1 <= policy.reset_s <= policy.window_s
        assert 0 <= policy.remaining <= amount


@given(
    requests=st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.0, 3e5)), max_size=60),
    amount=st.integers(1, 4),
    unit=st.sampled_from(["day", "month"]),
)
def test_in_every_period_a_customer_gets_what_it_asked_for_up_to_the_quota(requests, amount, unit):
    clock = FakeClock(NOON)
    subject = quotas(f"{amount}/{unit}", clock=clock)
    asked, got = {}, {}
    for name, gap_s in requests:
        clock.advance(gap_s)
        place = name, datetime.fromtimestamp(clock(), UTC).strftime("%Y-%m-%d"[: 8 if unit == "day" else 5])
        asked[place] = asked.get(place, 0) + 1
        got[place] = got.get(place, 0) + admitted(subject, caller(f"id:{name}"), 1)

    assert {place: min(count, amount) for place, count in asked.items()} == got


# Bounds


def test_counts_beyond_the_bound_make_room_by_forgetting_whoever_used_least():
    tally, window = Tally(lambda: NOON, most=1000), Quota("1000/month", lambda: NOON).window()
    for _ in range(500):
        tally.hit(window, "id:heavy")
    for number in range(20_000):
        tally.hit(window, f"id:{number}")

    assert 1000 == len(tally.counts)
    assert 500 == tally.remaining(window, "id:heavy")


def test_counts_of_past_periods_are_gone_after_as_many_requests_as_there_were_counts():
    clock = FakeClock(NOON)
    tally, quota = Tally(clock, most=1000), Quota("1000/month", clock)
    for number in range(1000):
        tally.hit(quota.window(), f"id:{number}")
    clock.advance(31 * DAY_S)
    for _ in range(1000):
        tally.hit(quota.window(), "id:0")

    assert 1 == len(tally.counts)


@pytest.mark.slow
def test_a_hundred_thousand_addresses_that_come_once_leave_little_behind_and_push_out_no_customer():
    tier = Tier(quota="3/month")
    subject = Quotas({"pro": tier, "unverified": tier}, clock=FakeClock(NOON))
    spent(subject, caller(), 3)
    spent(subject, visitor("192.0.2.1"), 3)
    gc.collect()
    before = len(gc.get_objects())
    for number in range(100_000):
        subject.spend(visitor(number))

    gc.collect()
    assert len(gc.get_objects()) - before < 11_000
    assert subject.exhausted(caller()) is not None
    assert subject.exhausted(visitor("192.0.2.1")) is not None


# The file: restarts, processes, forks


def test_a_restart_forgets_nothing_of_a_day_and_longer(tmp_path):
    clock = FakeClock(NOON)
    tiers = {
        name: Tier(quota=quota) for name, quota in {"a": "5/hour", "b": "5/day", "c": "5/month", "d": "5/year"}.items()
    }
    for expected in ([3, 3, 3, 3], [3, 2, 2, 2], [3, 0, 0, 0]):
        subject = Quotas(tiers, usage_db=str(tmp_path / "usage.db"), clock=clock)
        assert expected == [admitted(subject, caller(f"id:{tier}", tier), 3) for tier in tiers]
        subject.close()

    clock.advance(DAY_S)
    subject = Quotas(tiers, usage_db=str(tmp_path / "usage.db"), clock=clock)
    assert [3, 3, 0, 0] == [admitted(subject, caller(f"id:{tier}", tier), 3) for tier in tiers]
    subject.close()


def test_without_a_file_a_restart_forgets():
    for _ in range(2):
        assert 3 == admitted(quotas("3/month"), caller(), 5)


def test_a_file_keeps_the_books_also_where_nobody_has_a_quota(tmp_path):
    subject = quotas(None, usage_db=tmp_path / "usage.db")

    assert subject.active
    spent(subject, caller(), 5)
    spent(subject, visitor("192.0.2.1"), 2)
    assert [("id:acme", 5), ("ip:*", 2)] == [(row.customer, row.requests) for row in subject.usage()]
    subject.close()


def test_addresses_are_not_written_to_the_file(tmp_path):
    path = tmp_path / "usage.db"
    subject = quotas("3/month", tier="unverified", usage_db=path)
    spent(subject, visitor("192.0.2.1"), 3)
    subject.close()

    assert b"192.0.2.1" not in path.read_bytes()
    assert 3 == admitted(quotas("3/month", tier="unverified", usage_db=path), visitor("192.0.2.1"), 5)


def test_a_file_that_cannot_be_read_at_the_start_is_added_as_soon_as_it_can(tmp_path, caplog):
    path = tmp_path / "usage.db"
    first = quotas("5/month", usage_db=path)
    spent(first, caller(), 2)
    first.close()
    content = path.read_bytes()
    path.write_bytes(b"spoilt " * 1000)

    subject = quotas("5/month", usage_db=path)
    assert 2 == admitted(subject, caller(), 2)
    path.write_bytes(content)
    subject.close()

    assert 1 == admitted(subject, caller(), 5)
    subject.close()
    assert [5] == [row.requests for row in read_usage(path)]
    assert 2 == len(caplog.messages)


SERVE = """
    import os, sys
    from ezthrottle_provider.config import Tier
    from ezthrottle_provider.inbound.quotas import Quotas
    from ezthrottle_provider.inbound.usage import read_usage
    from ezthrottle_provider.scheduling.callers import Caller, Terms

    path, requests = sys.argv[1], int(sys.argv[2])
    acme = Caller("id:acme", "k", True, Terms(), 5, "pro")
    quotas = Quotas({"pro": Tier(quota="100/year")}, usage_db=path)

    def serve(requests):
        return sum(quotas.spend(acme) is None for _ in range(requests))
"""


def run(source, *args):
    """Run a script in a process of its own; return what it printed."""
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(source), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


@pytest.mark.slow
def test_two_processes_on_one_file_count_by_themselves_and_report_together(tmp_path):
    path = tmp_path / "usage.db"
    meet = """
    print(serve(requests), flush=True)
    input()
    quotas.close()
    """
    command = [sys.executable, "-c", textwrap.dedent(SERVE + meet), str(path), "60"]
    pair = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    served = [process.stdout.readline().strip() for process in pair]
    for process in pair:
        process.communicate("\n", timeout=30)

    assert ["60", "60"] == served  # both began before either had written
    assert [120] == [row.requests for row in read_usage(path)]
    assert "0" == run(SERVE + "\n    print(serve(requests))", path, 60)  # a third one knows of both


def test_a_process_that_ends_without_a_close_has_written_its_counts(tmp_path):
    path = tmp_path / "usage.db"

    assert "60" == run(SERVE + "\n    print(serve(requests))", path, 60)
    assert [60] == [row.requests for row in read_usage(path)]
    assert "40" == run(SERVE + "\n    print(serve(requests))", path, 60)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_worker_counts_nothing_twice_and_begins_with_what_the_file_holds(tmp_path):
    path = tmp_path / "usage.db"
    fork = """
    def work(requests):
        child = os.fork()
        if child == 0:
            print(serve(requests), flush=True)
            quotas.close()
            os._exit(0)
        os.waitpid(child, 0)

    serve(10)
    quotas._lock.acquire()  # as another thread of the parent might hold it at this moment
    work(30)
    work(30)  # a worker that takes the place of another does not begin at the parent's count
    work(100)
    quotas._lock.release()
    print(serve(10))
    """

    # 10 are the parent's, which has not written them yet; each worker begins with what those before it wrote.
    assert ["30", "30", "40", "10"] == run(SERVE + fork, path, 0).split()
    assert [120] == [row.requests for row in read_usage(path)]
