from __future__ import annotations

import secrets
import uuid
from contextlib import suppress
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.authentication import SimpleUser, UnauthenticatedUser

from ezthrottle_provider.customers import (
    MAX_KEY_LENGTH,
    Customer,
    check_key_strength,
    hash_key,
    key_extractor,
    public_hash,
)

SECRET = b"the secret of these tests"
PRESENTED: list[object] = []


def key_from_tenant(headers, scope):
    PRESENTED.append((headers, scope))
    return scope["tenant"]


async def async_key(headers, scope):
    return "key"


def key_of(identify, *headers, scope=None, on_failure=None):
    return key_extractor(identify, on_failure=on_failure)(headers, scope or {})


# Customer


def test_a_customer_is_a_value_with_named_options():
    customer = Customer("acme", tier="pro", weight=2, priority=9)

    assert customer == Customer("acme", tier="pro", weight=2, priority=9)
    assert "Customer(id='acme', tier='pro', weight=2, priority=9)" == repr(customer)
    with pytest.raises(AttributeError):
        customer.tier = "free"
    with pytest.raises(TypeError):
        Customer("acme", "pro")


@pytest.mark.parametrize(
    ("id_", "options"),
    [
        ("", {}),
        ("x" * 257, {}),
        ("line\nbreak", {}),
        ("lone surrogate \ud800", {}),
        ("a", {"tier": "x" * 65}),
        ("a", {"tier": "\x00"}),
        ("a", {"weight": 0}),
        ("a", {"weight": -1}),
        ("a", {"weight": float("nan")}),
        ("a", {"weight": float("inf")}),
        ("a", {"priority": 10}),
        ("a", {"priority": -1}),
    ],
)
def test_a_customer_with_a_value_out_of_range_is_refused(id_, options):
    with pytest.raises(ValueError, match="a customer's"):
        Customer(id_, **options)


@pytest.mark.parametrize(
    ("id_", "options"),
    [
        (b"acme", {}),
        (7, {}),
        (None, {}),
        ("a", {"tier": None}),
        ("a", {"weight": "2"}),
        ("a", {"weight": True}),
        ("a", {"priority": 5.0}),
        ("a", {"priority": True}),
    ],
)
def test_a_customer_with_a_value_of_another_type_is_refused(id_, options):
    with pytest.raises(TypeError, match="a customer's"):
        Customer(id_, **options)


def test_a_refused_customer_does_not_quote_what_may_be_a_key():
    with pytest.raises(ValueError, match="printable") as caught:
        Customer("very-secret-key\n")

    assert "very-secret-key" not in str(caught.value)


# Hashes


def test_a_keyed_hash_is_stable_and_depends_on_the_secret():
    assert hash_key(b"key", SECRET) == hash_key(b"key", SECRET)
    assert hash_key(b"key", SECRET) != hash_key(b"key", b"another secret")
    assert hash_key(b"key", SECRET) != hash_key(b"kez", SECRET)
    assert 32 == len(hash_key(b"key", SECRET))


def test_a_secret_of_any_length_but_zero_will_do():
    long = b"s" * 64
    assert hash_key(b"key", long) != hash_key(b"key", long + b"t") != hash_key(b"key", long + b"u")
    with pytest.raises(ValueError, match="secret"):
        hash_key(b"key", b"")


def test_the_public_hash_is_plain_sha256():
    # The vector of FIPS 180-2 for "abc".
    assert "sha256$ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" == public_hash(b"abc")


@pytest.mark.parametrize("make", [secrets.token_urlsafe, secrets.token_hex])
@pytest.mark.parametrize("random_bytes", [16, 32])
def test_keys_that_were_drawn_at_random_are_strong_enough(make, random_bytes):
    for _ in range(500):
        key = make(random_bytes).encode()
        check_key_strength(key)
        check_key_strength(b"sk_live_" + key)


@pytest.mark.parametrize(
    "weak",
    [
        "",
        "hunter2",
        "0123456789abcdef",
        "b7a1f20c95d3e84610f7c2a95e3b1d",
        "Xw3-kP9qZ_7LmT2vRb8Y",
        "2b6f0cc9-04d1-4f6e-9a3b-7d1c5e8f0a42",
        "a" * 100,
        "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOP",
        "deadbeef" * 8,
        "9" * MAX_KEY_LENGTH + "9",
    ],
)
def test_a_weak_key_is_refused_without_being_quoted(weak):
    with pytest.raises(ValueError, match=r"key|UUID") as caught:
        check_key_strength(weak.encode())

    assert not weak or weak not in str(caught.value)


@given(st.binary(max_size=200))
def test_judging_a_key_never_fails_in_another_way(raw):
    with suppress(ValueError):
        check_key_strength(raw)


# Keys


def test_a_header_names_the_key():
    assert b"k1" == key_of("header:X-Api-Key", (b"host", b"h"), (b"x-api-key", b" k1\t"), (b"accept", b"*/*"))


def test_another_header_does_not():
    assert key_of("header:x-api-key", (b"x-api-key2", b"k1"), (b"x_api_key", b"k1")) is None


def test_the_same_key_twice_is_one_key_and_two_keys_are_none():
    assert b"k1" == key_of("header:x-api-key", (b"x-api-key", b"k1"), (b"x-api-key", b"k1"))
    assert key_of("header:x-api-key", (b"x-api-key", b"k1"), (b"x-api-key", b"k2")) is None
    assert key_of("header:x-api-key", (b"x-api-key", b""), (b"x-api-key", b"k2")) is None
    assert key_of("bearer", (b"authorization", b"Bearer k1"), (b"authorization", b"Bearer k2")) is None


@pytest.mark.parametrize("value", [b"", b" \t ", b"k" * (MAX_KEY_LENGTH + 1), b"k" * 1_000_000])
def test_an_empty_or_endless_key_is_none(value):
    assert key_of("header:x-api-key", (b"x-api-key", value)) is None
    assert key_of("bearer", (b"authorization", b"Bearer " + value)) is None


def test_the_longest_key_is_one():
    assert b"k" * MAX_KEY_LENGTH == key_of("header:x-api-key", (b"x-api-key", b"k" * MAX_KEY_LENGTH))


@pytest.mark.parametrize("scheme", [b"Bearer", b"bearer", b"BEARER"])
def test_a_bearer_token_is_the_key_in_any_case_of_the_scheme(scheme):
    assert b"abc.def" == key_of("bearer", (b"authorization", scheme + b"  abc.def "))


@pytest.mark.parametrize("value", [b"Basic abc", b"Bearer", b"Bearerabc", b"abc", b""])
def test_any_other_authorization_holds_no_bearer_token(value):
    assert key_of("bearer", (b"authorization", value)) is None


def test_an_address_is_no_key():
    assert key_of("ip", (b"x-api-key", b"k1")) is None


@dataclass
class User:
    identity: object = None
    display_name: object = None
    is_authenticated: object = True


class UserWhoseIdentityIsNotImplemented(SimpleUser):
    @property
    def identity(self):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        (SimpleUser("ann"), "ann"),
        (UserWhoseIdentityIsNotImplemented("ann"), "ann"),
        (User(identity=7), "7"),
        (User(identity=uuid.UUID(int=7)), "00000000-0000-0000-0000-000000000007"),
        (User(display_name="ann"), "ann"),
        (UnauthenticatedUser(), None),
        (User(identity="ann", is_authenticated=False), None),
        (User(identity="ann", is_authenticated=lambda: False), None),
        (User(identity=object()), None),
        (User(identity=""), None),
        (User(identity="x" * (MAX_KEY_LENGTH + 1)), None),
        (object(), None),
        (None, None),
    ],
)
def test_an_authenticated_user_is_known_by_identity_or_name(user, expected):
    assert expected == key_of("user", scope={"user": user})
    assert key_of("user") is None


def test_a_function_of_ones_own_gets_headers_and_scope():
    PRESENTED.clear()
    headers, scope = ((b"a", b"b"),), {"tenant": "t1"}

    assert "t1" == key_of(key_from_tenant, *headers, scope=scope)
    assert [(headers, scope)] == PRESENTED


@pytest.mark.parametrize(
    ("scope", "failures"),
    [
        ({"no tenant": 1}, ["KeyError"]),
        ({"tenant": 7}, ["TypeError"]),
        ({"tenant": None}, []),
        ({"tenant": ""}, []),
        ({"tenant": "t" * (MAX_KEY_LENGTH + 1)}, []),
    ],
)
def test_a_function_of_ones_own_that_fails_or_overdoes_it_finds_no_key(scope, failures):
    heard: list[str] = []

    assert key_of(key_from_tenant, scope=scope, on_failure=heard.append) is None
    assert failures == heard


@pytest.mark.parametrize(
    "identify",
    [
        "",
        "header:",
        "header:two words",
        "header:né",
        "nonsense",
        "module:",
        ":function",
        "no.such.module:function",
        async_key,
    ],
)
def test_a_spec_that_means_nothing_is_refused(identify):
    with pytest.raises(ValueError, match="identify"):
        key_extractor(identify)


header_names = st.sampled_from([b"x-api-key", b"authorization", b"host", b"", b"X-Api-Key"])
headers = st.lists(st.tuples(header_names, st.binary(max_size=50) | st.sampled_from([b"Bearer x", b"k1"])), max_size=6)


@given(headers, st.sampled_from(["header:x-api-key", "bearer", "ip", "user"]))
def test_no_header_makes_an_extractor_raise_or_return_what_was_not_sent(sent, identify):
    key = key_of(identify, *sent)

    assert key is None or (key and any(key in value for _, value in sent))
