from __future__ import annotations

import dataclasses
import gc
import logging
import threading
from collections.abc import Collection
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ezthrottle_provider.config import CustomerEntry, Tier
from ezthrottle_provider.customers import Customer, hash_key, public_hash
from ezthrottle_provider.inbound.directory import MAX_REMEMBERED, Directory
from ezthrottle_provider.scheduling.callers import Caller, Terms
from ezthrottle_provider.testing import FakeClock

SECRET = b"the secret of these tests"
KEY = b"key of acme"
HASH = hash_key(KEY, SECRET)
ADDRESS = "203.0.113.9"


def directory(identify="header:x-api-key", **options):
    return Directory(**{"identify": identify, "secret": SECRET, "clock": FakeClock(), **options})


def values(terms):
    return (terms.weight, terms.rps, terms.max_concurrent)


class Accounts:
    """A user's ``resolve``: keys and their customers, and how often it was asked."""

    def __init__(self, **customers):
        self.customers = customers
        self.asked: list[str] = []

    def __call__(self, key):
        self.asked.append(key)
        answer = self.customers.get(key)
        if isinstance(answer, Exception):
            raise answer
        return answer


# Who is who


def test_a_key_that_nobody_verified_belongs_to_its_address():
    caller = directory().caller(KEY, ADDRESS)

    assert ("ip:203.0.113.9", HASH, False, "unverified") == (caller.customer, caller.key, caller.verified, caller.tier)
    assert 1.0 == caller.terms.weight


def test_a_thousand_forged_keys_are_one_customer_and_control_with_trust_they_are_a_thousand():
    keys = [b"forged %d" % number for number in range(1_000)]
    forged = [directory().caller(key, ADDRESS) for key in keys]
    trusted = [directory(trust_keys=True).caller(key, ADDRESS) for key in keys]

    assert 1 == len({caller.customer for caller in forged})
    assert 1_000 == len({caller.key for caller in forged})
    assert 1_000 == len({caller.customer for caller in trusted})


def test_no_key_is_the_key_dash():
    for trust_keys in (False, True):
        caller = directory(trust_keys=trust_keys).caller(None, ADDRESS)

        assert ("ip:203.0.113.9", "-", False) == (caller.customer, caller.key, caller.verified)


def test_all_unverified_callers_share_their_terms():
    known = directory(tiers={"unverified": Tier(weight=0.5, max_concurrent=2)})
    one, other = known.caller(KEY, ADDRESS), known.caller(None, "another address")

    assert one.terms is other.terms
    assert (0.5, None, 2) == values(one.terms)


def test_a_trusted_key_is_the_customer_from_whatever_address():
    known = directory(trust_keys=True, tiers={"default": Tier(weight=3)})
    caller = known.caller(KEY, ADDRESS)

    assert ("key:" + HASH, HASH, True, "default") == (caller.customer, caller.key, caller.verified, caller.tier)
    assert 3 == caller.terms.weight
    assert caller is known.caller(KEY, "another address")


def test_the_user_of_the_framework_is_a_verified_customer():
    caller = directory("user").caller("ann", ADDRESS)

    assert ("user:" + hash_key(b"ann", SECRET), True) == (caller.customer, caller.verified)
    assert not directory("user").caller(None, ADDRESS).verified


def test_an_address_is_the_customer_and_verified_only_when_trusted():
    assert ("ip:203.0.113.9", "-", False) == dataclasses.astuple(directory("ip").caller(None, ADDRESS))[:3]
    assert ("ip:203.0.113.9", "-", True) == dataclasses.astuple(directory("ip", trust_keys=True).caller(None, ADDRESS))[
        :3
    ]


def test_a_customer_of_the_config_is_known_by_the_hash_of_any_of_its_keys():
    entry = CustomerEntry(tier="pro", rps=7, key_hashes=(public_hash(KEY), public_hash(b"another")))
    known = directory(tiers={"pro": Tier(weight=4, max_concurrent=10)}, customers={"acme": entry})
    one, other = known.caller(KEY, ADDRESS), known.caller(b"another", ADDRESS)

    assert ("id:acme", HASH, True, "pro") == (one.customer, one.key, one.verified, one.tier)
    assert (4, 7, 10) == values(one.terms)
    assert "id:acme" == other.customer
    assert one.terms is other.terms
    assert not known.caller(b"a third", ADDRESS).verified


async def test_resolve_names_the_customer_with_tier_weight_and_priority():
    accounts = Accounts(k1=Customer("acme", tier="pro", priority=9), k2=Customer("acme", tier="pro", weight=6))
    known = directory(resolve=accounts, tiers={"pro": Tier(weight=4, rps=50)})

    assert known.caller(b"k1", ADDRESS) is None
    found = await known.find(b"k1", ADDRESS)
    assert ("id:acme", True, 9, "pro") == (found.customer, found.verified, found.priority, found.tier)
    assert (4, 50, None) == values(found.terms)
    assert found is known.caller(b"k1", "another address")
    assert (6, 50, None) == values((await known.find(b"k2", ADDRESS)).terms)


def test_what_resolve_does_not_know_is_unverified_and_threads_can_ask_too():
    accounts = Accounts()
    known = directory(resolve=accounts)

    assert known.caller(b"k1", ADDRESS) is None
    assert not known.find_blocking(b"k1", ADDRESS).verified
    assert "ip:203.0.113.9" == known.caller(b"k1", ADDRESS).customer
    assert known.caller(b"k1", "another address") is None
    assert ["k1"] == accounts.asked


def test_resolve_is_not_asked_about_no_key_nor_about_a_customer_of_the_config():
    known = directory(resolve=Accounts(), customers={"acme": CustomerEntry(key_hashes=(public_hash(KEY),))})

    assert not known.caller(None, ADDRESS).verified
    assert "id:acme" == known.caller(KEY, ADDRESS).customer


def test_what_is_verified_already_stays_so_when_resolve_does_not_know_it_or_fails():
    accounts = Accounts(boom=OSError())
    for identify, options in (("user", {}), ("header:x-api-key", {"trust_keys": True})):
        known = directory(identify, resolve=accounts, **options)

        assert known.find_blocking("ann", ADDRESS).verified
        assert known.find_blocking("boom", ADDRESS).verified


def test_a_failing_resolve_makes_callers_unverified_with_an_event_and_never_raises():
    heard: list[str] = []
    known = directory(resolve=Accounts(k1=OSError()), on_failure=heard.append)

    assert not known.find_blocking(b"k1", ADDRESS).verified
    assert ["OSError"] == heard


def test_addresses_can_be_resolved_too():
    known = directory("ip", resolve=Accounts(**{ADDRESS: Customer("acme")}))

    assert known.caller(None, ADDRESS) is None
    assert "id:acme" == known.find_blocking(None, ADDRESS).customer
    assert "id:acme" == known.caller(None, ADDRESS).customer
    assert not known.find_blocking(None, "another address").verified


def test_a_tier_that_is_not_configured_is_the_default_with_one_warning(caplog):
    heard: list[str] = []
    accounts = Accounts(k1=Customer("a", tier="gold"), k2=Customer("b", tier="gold"))
    known = directory(resolve=accounts, tiers={"default": Tier(weight=2)}, on_failure=heard.append)
    with caplog.at_level(logging.WARNING):
        callers = [known.find_blocking(key, ADDRESS) for key in (b"k1", b"k2")]

    assert [("default", 2)] * 2 == [(caller.tier, caller.terms.weight) for caller in callers]
    assert ["UnknownTier"] * 2 == heard
    assert 1 == len(caplog.records)
    assert "'gold'" in caplog.text


def test_a_customer_that_resolve_names_gets_what_the_config_lists_of_it():
    accounts = Accounts(k1=Customer("acme"), k2=Customer("acme", tier="free"))
    entry = CustomerEntry(tier="pro", max_concurrent=3)
    known = directory(resolve=accounts, tiers={"pro": Tier(weight=4), "free": Tier()}, customers={"acme": entry})

    caller = known.find_blocking(b"k1", ADDRESS)
    assert ("pro", (4, None, 3)) == (caller.tier, values(caller.terms))
    caller = known.find_blocking(b"k2", ADDRESS)
    assert ("free", (1, None, 3)) == (caller.tier, values(caller.terms))


def test_all_customers_of_a_shared_queue_are_one_with_a_key_each():
    accounts = Accounts(k1=Customer("acme", tier="free", weight=9), k2=Customer("other", tier="free"))
    known = directory(resolve=accounts, tiers={"free": Tier(shared_queue=True, max_concurrent=5)})
    one, other = known.find_blocking(b"k1", ADDRESS), known.find_blocking(b"k2", ADDRESS)

    assert ("tier:free", "id:acme", True, False) == (one.customer, one.key, one.verified, one.account_queue)
    assert ("tier:free", "id:other") == (other.customer, other.key)
    assert one.terms is other.terms
    assert (1, None, 5) == values(one.terms)


def test_unverified_callers_can_share_a_queue_and_stay_unverified():
    known = directory(tiers={"unverified": Tier(shared_queue=True)})
    caller = known.caller(KEY, ADDRESS)

    assert ("tier:unverified", "ip:203.0.113.9", False) == (caller.customer, caller.key, caller.verified)


# Live changes


def test_an_update_changes_the_terms_of_those_who_wait_already():
    entry = CustomerEntry(tier="pro", key_hashes=(public_hash(KEY),))
    accounts = Accounts(k1=Customer("one", tier="pro"), k2=Customer("two", tier="pro", weight=7))
    known = directory(resolve=accounts, tiers={"pro": Tier(weight=4)}, customers={"acme": entry})
    listed = known.caller(KEY, ADDRESS)
    plain, weighted = (known.find_blocking(key, ADDRESS) for key in (b"k1", b"k2"))
    unverified = known.find_blocking(b"k3", ADDRESS)

    known.update(
        tiers={"pro": Tier(weight=8, rps=50), "unverified": Tier(weight=0.1)},
        customers={"acme": dataclasses.replace(entry, max_concurrent=2)},
    )
    assert (8, 50, 2) == values(listed.terms)
    assert (8, 50, None) == values(plain.terms)
    assert (7, 50, None) == values(weighted.terms)
    assert 0.1 == unverified.terms.weight

    known.update(tiers={"default": Tier(weight=2)}, customers={})
    assert [2, 2, 7, 1] == [caller.terms.weight for caller in (listed, plain, weighted, unverified)]


def test_an_update_is_seen_by_the_next_request_of_a_known_caller():
    known = directory(trust_keys=True)
    assert "key:" + HASH == known.caller(KEY, ADDRESS).customer

    known.update(
        tiers={"pro": Tier(weight=8)}, customers={"acme": CustomerEntry(tier="pro", key_hashes=(public_hash(KEY),))}
    )
    caller = known.caller(KEY, ADDRESS)
    assert ("id:acme", "pro", 8) == (caller.customer, caller.tier, caller.terms.weight)

    known.update(tiers={}, customers={})
    assert "key:" + HASH == known.caller(KEY, ADDRESS).customer


def test_the_newest_word_of_resolve_counts_for_all_requests_of_a_customer():
    accounts, clock = Accounts(k1=Customer("acme", weight=5)), FakeClock()
    known = directory(resolve=accounts, clock=clock)
    waiting = known.find_blocking(b"k1", ADDRESS)
    clock.advance(60.0)
    accounts.customers["k1"] = Customer("acme", weight=9)

    assert waiting.terms is known.find_blocking(b"k1", ADDRESS).terms
    assert 9 == waiting.terms.weight


def test_terms_of_single_customers_live_no_longer_than_their_callers():
    accounts = Accounts(**{f"k{number}": Customer(f"c{number}", weight=5) for number in range(100)})
    known = directory(resolve=accounts)
    for number in range(100):
        known.find_blocking(f"k{number}", ADDRESS)
    assert 100 == len(known._own_terms)

    known.update(tiers={}, customers={})
    gc.collect()
    assert 0 == len(known._own_terms)


def test_names_of_tiers_that_are_gone_do_not_pile_up():
    known = directory()
    for number in range(100):
        known.update(tiers={f"tier {number}": Tier()}, customers={})

    assert {"default", "unverified", "tier 99"} == set(known._terms)


def test_a_listed_name_does_not_reach_callers_that_only_look_like_it():
    known = directory(customers={"ip:203.0.113.9": CustomerEntry(weight=100)})

    assert 1 == known.caller(None, ADDRESS).terms.weight


# The cache


def test_a_known_caller_is_remembered_for_a_minute():
    clock = FakeClock()
    known = directory(trust_keys=True, clock=clock)
    caller = known.caller(KEY, ADDRESS)
    clock.advance(59.9)
    assert caller is known.caller(KEY, ADDRESS)
    clock.advance(0.1)
    assert caller is not known.caller(KEY, ADDRESS)


@pytest.mark.parametrize(("customer", "seconds"), [(Customer("acme"), 60.0), (None, 10.0)])
def test_an_answer_of_resolve_is_relied_on_for_its_time_and_not_twice(customer, seconds):
    accounts, clock = Accounts(k1=customer), FakeClock()
    known = directory(resolve=accounts, clock=clock)
    known.find_blocking(b"k1", ADDRESS)
    clock.advance(seconds - 1)
    known.update(tiers={}, customers={})  # forgets the caller, not the answer
    assert known.find_blocking(b"k1", ADDRESS).verified is (customer is not None)
    assert 1 == len(accounts.asked)
    clock.advance(1)
    assert known.caller(b"k1", ADDRESS) is None


def test_a_key_that_was_withdrawn_is_unverified_after_a_minute():
    accounts, clock = Accounts(k1=Customer("acme")), FakeClock()
    known = directory(resolve=accounts, clock=clock)
    known.find_blocking(b"k1", ADDRESS)
    accounts.customers.clear()
    clock.advance(60)

    assert known.caller(b"k1", ADDRESS) is None
    assert not known.find_blocking(b"k1", ADDRESS).verified
    assert not known.caller(b"k1", ADDRESS).verified


def test_any_number_of_forged_keys_is_bounded_and_pushes_out_no_customer():
    known = directory(customers={"acme": CustomerEntry(key_hashes=(public_hash(KEY),))})
    caller = known.caller(KEY, ADDRESS)
    for number in range(MAX_REMEMBERED + 10):
        known.caller(b"forged %d" % number, ADDRESS)

    assert caller is known.caller(KEY, ADDRESS)
    assert len(known._by_address) <= MAX_REMEMBERED
    assert (b"forged %d" % (MAX_REMEMBERED + 9), ADDRESS) in known._by_address, "the oldest go first"


def test_a_long_key_is_remembered_by_its_hash_alone():
    known, long = directory(trust_keys=True), b"k" * 257
    caller = known.caller(long, ADDRESS)

    assert caller is known.caller(long, ADDRESS)
    assert [(caller.key,)] == list(known.by_key)


def test_nobody_becomes_another_by_presenting_the_hash_of_its_long_key():
    known = directory(lambda headers, scope: None, trust_keys=True)
    victim = known.caller("k" * 300, ADDRESS)

    assert victim.customer != known.caller(victim.key, ADDRESS).customer


def test_raw_keys_are_swept_a_minute_later():
    clock = FakeClock()
    known = directory(clock=clock, customers={"acme": CustomerEntry(key_hashes=(public_hash(KEY),))})
    known.caller(KEY, ADDRESS)
    known.caller(b"another", ADDRESS)
    clock.advance(60)
    known.caller(None, ADDRESS)

    assert ({}, [(None, ADDRESS)]) == (known.by_key, list(known._by_address))


def test_no_raw_key_and_no_secret_stands_in_a_repr(caplog):
    known = directory(
        resolve=Accounts(**{"very-secret-key": ValueError("very-secret-key")}), secret=b"very-secret-secret"
    )
    caller = known.find_blocking(b"very-secret-key", ADDRESS)

    assert "secret" not in repr(known) + str(known) + repr(caller) + caplog.text


def test_threads_see_one_customer_while_the_config_changes():
    entry = CustomerEntry(key_hashes=(public_hash(KEY),))
    known, seen = directory(customers={"acme": entry}), set()
    stop = threading.Event()

    def look():
        while not stop.is_set():
            seen.add(known.caller(KEY, ADDRESS).customer)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for weight in range(1, 200):
        known.update(tiers={"default": Tier(weight=weight)}, customers={"acme": entry})
    stop.set()
    for thread in threads:
        thread.join(10)

    assert {"id:acme"} == seen
    assert 199 == known.caller(KEY, ADDRESS).terms.weight


# What it takes


@dataclass(frozen=True)
class AnyTier:
    weight: float = 2.0
    rps: float | None = None
    max_concurrent: int | None = None
    shared_queue: bool = False


@dataclass(frozen=True)
class AnyCustomer:
    tier: str = "default"
    key_hashes: Collection[str] = (public_hash(KEY),)
    weight: float | None = None
    rps: float | None = None
    max_concurrent: int | None = None


def test_tiers_and_customers_may_be_of_any_class_that_has_the_attributes():
    known = directory(tiers={"default": AnyTier()}, customers={"acme": AnyCustomer()})

    assert Caller("id:acme", HASH, True, known.caller(KEY, ADDRESS).terms, 5, "default") == known.caller(KEY, ADDRESS)


def test_keys_and_addresses_are_read_from_a_request_by_the_same_object():
    known = directory("bearer")

    assert b"abc" == known.key_of([(b"authorization", b"Bearer abc")], {})
    assert ADDRESS == known.address_of(ADDRESS, [(b"x-forwarded-for", b"6.6.6.6")])


keys = st.none() | st.binary(min_size=1, max_size=300) | st.text(min_size=1, max_size=300)


@given(keys, st.text(max_size=64), st.booleans())
def test_any_key_and_address_is_somebody_and_the_key_is_not_shown(key, address, trust_keys):
    known = directory(trust_keys=trust_keys)
    caller = known.caller(key, address)

    assert caller == known.caller(key, address)
    assert isinstance(caller.terms, Terms)
    assert caller.verified is (trust_keys and key is not None)
    assert key is None or len(key) < 3 or str(key) not in caller.key
