from __future__ import annotations

import email.utils
import math
from collections.abc import Iterable

import http_sf
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ezthrottle_provider.headers import (
    AQUEDUCT,
    AQUIFER,
    EZTHROTTLE,
    FAMILIES,
    RETRY_AFTER,
    Advice,
    Pace,
    Policy,
    parse,
    problem,
    render,
    retry_after,
)

REASONS = ("max_queue", "max_queue_total", "max_wait", "predicted_wait", "quota", "max_streams", "draining")
NAMES = [name.decode() for family in (AQUEDUCT, EZTHROTTLE, AQUIFER) for name in family] + ["retry-after"]
NOW = 784_111_777.0  # 1994-11-06 08:49:37 UTC, the moment of RFC 9110's examples

policies = st.builds(
    Policy,
    name=st.text(),
    quota=st.integers(),
    unit=st.sampled_from(["requests", "content-bytes", "concurrent-requests"]),
    window_s=st.none() | st.integers(),
    remaining=st.none() | st.integers(),
    reset_s=st.none() | st.integers(),
)
advices = st.builds(
    Advice,
    rps=st.floats(),
    max_concurrent=st.integers(max_value=10**12),
    account_queue=st.booleans(),
    policies=st.lists(policies, max_size=4).map(tuple),
)


def advice(*policies: Policy, rps: float = 12.5, max_concurrent: int = 3, account_queue: bool = True) -> Advice:
    return Advice(rps=rps, max_concurrent=max_concurrent, account_queue=account_queue, policies=policies)


def read(*pairs: tuple[str | bytes, str | bytes], now: float = NOW) -> Pace:
    return parse(pairs, now=now)


# --- rendering


def test_the_own_family_says_pace_slots_and_queue():
    assert [
        (b"x-ezthrottle-rps", b"12.5"),
        (b"x-ezthrottle-max-concurrent", b"3"),
        (b"x-ezthrottle-account-queue", b"enabled"),
    ] == render(advice(), ("ezthrottle",))


def test_a_shared_queue_is_shown_as_disabled():
    assert (b"x-ezthrottle-account-queue", b"disabled") in render(advice(account_queue=False), ("ezthrottle",))


def test_the_aqueduct_family_says_the_same_under_its_own_names():
    assert [
        (b"x-aqueduct-rps", b"12.5"),
        (b"x-aqueduct-max-concurrent", b"3"),
        (b"x-aqueduct-account-queue", b"enabled"),
    ] == render(advice(), ("aqueduct",))


def test_the_ratelimit_family_is_that_of_draft_11():
    concurrent = Policy("conc", 10, unit="concurrent-requests")
    per_minute = Policy("permin", 50, window_s=60, remaining=20, reset_s=23)
    assert [
        (b"ratelimit-policy", b'"conc";q=10;qu="concurrent-requests", "permin";q=50;w=60'),
        (b"ratelimit", b'"permin";r=20;t=23'),
    ] == render(advice(concurrent, per_minute), ("ratelimit",))


def test_the_x_ratelimit_family_shows_the_request_policy_with_least_left():
    per_minute = Policy("permin", 50, window_s=60, remaining=20, reset_s=23)
    per_month = Policy("month", 1_000_000, window_s=2_592_000, remaining=19, reset_s=86_400)
    slots = Policy("conc", 10, unit="concurrent-requests", remaining=1)
    assert [
        (b"x-ratelimit-limit", b"1000000"),
        (b"x-ratelimit-remaining", b"19"),
        (b"x-ratelimit-reset", b"86400"),
    ] == render(advice(per_minute, slots, per_month), ("x-ratelimit",))


def test_of_two_policies_with_equally_little_left_the_one_that_lasts_longer_is_shown():
    per_minute = Policy("permin", 50, window_s=60, remaining=0, reset_s=23)
    per_month = Policy("month", 1_000_000, window_s=2_592_000, remaining=0, reset_s=86_400)
    headers = dict(render(advice(per_minute, per_month), ("x-ratelimit",)))
    assert b"86400" == headers[b"x-ratelimit-reset"]


@pytest.mark.parametrize("family", ["ratelimit", "x-ratelimit"])
def test_a_family_with_nothing_to_say_is_left_out(family: str):
    assert [] == render(advice(), (family,))


def test_families_come_in_the_order_asked_for():
    names = [name for name, _ in render(advice(Policy("p", 1, remaining=1)), ("ratelimit", "ezthrottle"))]
    assert [b"ratelimit-policy", b"ratelimit", *EZTHROTTLE] == names


def test_an_unknown_family_is_a_key_error():
    with pytest.raises(KeyError, match="x-rate"):
        render(advice(), ("x-rate",))


@pytest.mark.parametrize(
    ("rps", "text"),
    [
        (12.5, b"12.5"),
        (0.75, b"0.75"),
        (1250, b"1250"),
        (1250.4, b"1250"),
        (10, b"10"),
        (99.99, b"100"),
        (123.456, b"123"),
        (0.012345, b"0.0123"),
        (0.0001, b"0.001"),
        (0, b"0.001"),
        (-3, b"0.001"),
        (math.nan, b"0.001"),
        (1e12, b"1000000000000"),
        (math.inf, b"999999999999999"),
    ],
)
def test_a_rate_is_compact_and_positive_and_has_no_exponent(rps: float, text: bytes):
    assert text == render(advice(rps=rps), ("ezthrottle",))[0][1]


def test_nobody_is_told_to_send_nothing_at_a_time():
    assert b"1" == render(advice(max_concurrent=0), ("ezthrottle",))[1][1]


@given(advices)
def test_whatever_is_rendered_is_a_valid_header(given_advice: Advice):
    for name, value in render(given_advice, FAMILIES):
        assert name == name.lower()
        assert value
        assert all(0x20 <= byte < 0x7F for byte in value)
        if name.startswith(b"ratelimit"):
            http_sf.parse(value, tltype="list")


@given(advices, st.sampled_from(["ezthrottle", "aqueduct"]))
def test_what_is_rendered_is_what_is_read(given_advice: Advice, family: str):
    pace = parse(render(given_advice, (family,)), now=NOW)
    assert 0 == pace.ignored
    assert max(given_advice.max_concurrent, 1) == pace.max_concurrent
    assert given_advice.account_queue == pace.account_queue
    assert pace.rps is not None
    if 0.001 <= given_advice.rps <= 999_999_999_999_999:
        assert given_advice.rps == pytest.approx(pace.rps, rel=0.005)
    else:
        assert 0 < pace.rps < math.inf


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, b"1"),
        (-5, b"1"),
        (math.nan, b"1"),
        (1, b"1"),
        (1.0001, b"2"),
        (59.2, b"60"),
        (math.inf, b"2147483647"),
    ],
)
def test_retry_after_is_whole_seconds_rounded_up_and_at_least_one(seconds: float, text: bytes):
    assert text == retry_after(seconds)


# --- refusals


def test_a_refusal_says_which_limit_which_place_and_when_to_come_back():
    body = msgspec.json.decode(problem("max_queue", retry_after_s=2.1, position=101))
    assert "max_queue" == body["limit"]
    assert 101 == body["position"]
    assert 3 == body["retry_after"]
    assert "urn:ezthrottle:problem:max_queue" == body["type"]
    assert 429 == body["status"]


def test_a_place_that_nobody_had_is_left_out():
    assert "position" not in msgspec.json.decode(problem("quota", retry_after_s=60))


def test_the_status_in_the_body_is_that_of_the_response():
    assert 503 == msgspec.json.decode(problem("draining", status=503, retry_after_s=5))["status"]


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_has_words_of_its_own(reason: str):
    texts = [
        (body["title"], body["detail"])
        for body in (msgspec.json.decode(problem(other, retry_after_s=1)) for other in (*REASONS, "something-new"))
    ]
    body = msgspec.json.decode(problem(reason, retry_after_s=1))
    assert 1 == texts.count((body["title"], body["detail"]))


def test_a_reason_without_words_still_gives_a_body():
    body = msgspec.json.decode(problem("something-new", retry_after_s=1))
    assert "something-new" == body["limit"]
    assert body["title"]
    assert body["detail"]


@given(st.floats())
def test_header_and_body_name_the_same_time(seconds: float):
    body = msgspec.json.decode(problem("quota", retry_after_s=seconds))
    assert int(retry_after(seconds)) == body["retry_after"]


# --- parsing


def test_nothing_said_is_nothing_known():
    assert Pace() == read(("Content-Type", "text/plain"), ("X-EZTHROTTLE-Something", "1"))


@pytest.mark.parametrize("spell", [str.upper, str.lower, str.title, str.encode])
def test_names_are_read_in_any_case_as_text_or_bytes(spell):
    assert 10.0 == read((spell("x-ezthrottle-rps"), "10")).rps
    assert 10.0 == read((spell("x-ezthrottle-rps"), b" 10\t")).rps


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_aqueduct_is_believed_before_ezthrottle_before_aquifer(order: Iterable[int]):
    said = [("x-aqueduct-rps", "1"), ("x-ezthrottle-rps", "2"), ("x-aquifer-rps", "3")]
    assert 1.0 == read(*(said[index] for index in order)).rps
    assert 2.0 == read(*(said[index] for index in order if index != 0)).rps
    assert 3.0 == read(said[2]).rps


def test_families_may_complete_each_other():
    pace = read(("x-aquifer-max-concurrent", "7"), ("x-aqueduct-rps", "3"), ("x-ezthrottle-account-queue", "Disabled"))
    assert Pace(rps=3.0, max_concurrent=7, account_queue=False) == pace


def test_garbage_in_the_first_family_leaves_the_word_to_the_second():
    assert Pace(rps=4.0, ignored=1) == read(("x-aqueduct-rps", "fast"), ("x-ezthrottle-rps", "4"))


def test_of_the_same_name_the_first_that_can_be_read_counts():
    assert Pace(rps=4.0, ignored=1) == read(("x-aqueduct-rps", ""), ("x-aqueduct-rps", "4"), ("x-aqueduct-rps", "5"))


@pytest.mark.parametrize(("text", "rps"), [("10", 10.0), ("0.5", 0.5), (".5", 0.5), ("5.", 5.0), ("1e2", 100.0)])
def test_a_finite_positive_rate_is_read(text: str, rps: float):
    assert rps == read(("x-ezthrottle-rps", text)).rps


GARBAGE = [
    "",
    "0",
    "-1",
    "nan",
    "inf",
    "10abc",
    "abc",
    "1_0",
    "0x10",
    "10, 20",
    "१०",
    "1 0",
    "--",
    "+",
    "e5",
    "1" * 1000,
]


@pytest.mark.parametrize("value", [*GARBAGE, "1e309", "1e-400", "0.0"])
def test_a_senseless_rate_is_ignored_and_counted(value: str):
    assert Pace(ignored=1) == read(("x-ezthrottle-rps", value))


@pytest.mark.parametrize("value", [*GARBAGE, "1.5", "1e2"])
def test_a_senseless_number_of_slots_is_ignored_and_counted(value: str):
    assert Pace(ignored=1) == read(("x-ezthrottle-max-concurrent", value))


@pytest.mark.parametrize("value", [*GARBAGE, "true", "on", "enabled, disabled"])
def test_a_senseless_queue_mode_is_ignored_and_counted(value: str):
    assert Pace(ignored=1) == read(("x-ezthrottle-account-queue", value))


@pytest.mark.parametrize(
    "value",
    [
        *(value for value in GARBAGE if value != "0"),
        "1.5",
        "Sun, 31 Feb 1994 08:49:37 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 +0900",
        "tomorrow",
    ],
)
def test_a_senseless_time_to_wait_is_ignored_and_counted(value: str):
    assert Pace(ignored=1) == read(("retry-after", value))


@pytest.mark.parametrize(("value", "seconds"), [("0", 0.0), ("120", 120.0), ("9" * 20, 2147483647.0)])
def test_a_time_to_wait_in_seconds_is_read(value: str, seconds: float):
    assert seconds == read(("Retry-After", value)).retry_after_s


@pytest.mark.parametrize(
    "date", ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
)
def test_all_three_forms_of_an_http_date_are_read(date: str):
    assert 30.0 == read(("Retry-After", date), now=NOW - 30).retry_after_s


def test_a_date_gone_by_means_no_wait():
    assert 0.0 == read(("Retry-After", "Sun, 06 Nov 1994 08:49:37 GMT"), now=NOW + 1).retry_after_s


@given(st.integers(min_value=0, max_value=2**31 - 1))
def test_a_date_that_somebody_else_wrote_is_the_wait_they_meant(seconds: int):
    date = email.utils.formatdate(NOW + seconds, usegmt=True)
    assert float(seconds) == read((RETRY_AFTER, date)).retry_after_s


texts = st.text() | st.from_regex(r"[0-9.eE+-]{0,12}") | st.sampled_from(["enabled", "disabled"])
dates = st.from_regex(r"[A-Z][a-z]{2}, [0-9]{2} (Jan|Feb|Xyz) [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT", fullmatch=True)
hostile_names = st.sampled_from(NAMES) | st.text()


@given(
    st.lists(
        st.tuples(
            hostile_names | hostile_names.map(lambda name: name.encode("utf-8", "replace")), texts | dates | st.binary()
        )
    )
)
def test_parsing_never_raises_and_never_gives_what_would_stall(headers: list[tuple[str | bytes, str | bytes]]):
    pace = parse(headers, now=NOW)
    assert pace.rps is None or 0 < pace.rps < math.inf
    assert pace.max_concurrent is None or pace.max_concurrent >= 1
    assert pace.account_queue in (None, True, False)
    assert pace.retry_after_s is None or 0 <= pace.retry_after_s <= 2**31 - 1
    assert 0 <= pace.ignored <= len(headers)
