"""Every header of the product: what a customer is told about its pace, rendered, and the same read back.

Pure: no I/O and no clock. Rendering never raises for what a scheduler may say: a number out of range is clamped, since
a header may not cost anybody a response. Parsing never raises at all: what it cannot read it ignores and counts.

Sources: RateLimit fields, draft-ietf-httpapi-ratelimit-headers-11 (serialised by http-sf, RFC 9651); problem bodies,
RFC 9457; Retry-After and its dates, RFC 9110 sections 10.2.3 and 5.6.7.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec
from http_sf import ser

if TYPE_CHECKING:
    from http_sf.types import BareItemType, ListType

__all__ = [
    "AQUEDUCT",
    "AQUIFER",
    "EZTHROTTLE",
    "FAMILIES",
    "NESTED_CALL",
    "PROBLEM_JSON",
    "RATELIMIT",
    "RATELIMIT_POLICY",
    "RETRY_AFTER",
    "X_RATELIMIT_LIMIT",
    "X_RATELIMIT_REMAINING",
    "X_RATELIMIT_RESET",
    "Advice",
    "Pace",
    "Policy",
    "parse",
    "problem",
    "render",
    "retry_after",
]

# Lower case, as ASGI wants them; HTTP does not care.
RETRY_AFTER = b"retry-after"
NESTED_CALL = b"x-ezthrottle-nested-call"
"""Carries the signed marker by which a provider's calls to its own API pass the queue."""


class _PaceNames(NamedTuple):
    rps: bytes
    max_concurrent: bytes
    account_queue: bytes


EZTHROTTLE = _PaceNames(b"x-ezthrottle-rps", b"x-ezthrottle-max-concurrent", b"x-ezthrottle-account-queue")
AQUEDUCT = _PaceNames(b"x-aqueduct-rps", b"x-aqueduct-max-concurrent", b"x-aqueduct-account-queue")
AQUIFER = _PaceNames(b"x-aquifer-rps", b"x-aquifer-max-concurrent", b"x-aquifer-account-queue")

RATELIMIT_POLICY = b"ratelimit-policy"
RATELIMIT = b"ratelimit"

X_RATELIMIT_LIMIT = b"x-ratelimit-limit"
X_RATELIMIT_REMAINING = b"x-ratelimit-remaining"
X_RATELIMIT_RESET = b"x-ratelimit-reset"

PROBLEM_JSON = b"application/problem+json"
"""The Content-Type of ``problem`` (RFC 9457)."""

_SF_MAX = 999_999_999_999_999  # the largest Integer of a structured field (RFC 9651 section 3.3.1)
_SECONDS_MAX = 2**31 - 1  # what every recipient must be able to read as delta-seconds (RFC 9111 section 1.2.2)
_RPS_MIN = 0.001  # one request in 17 minutes; a smaller number would be rounded to a zero that halts the reader
_VALUE_MAX = 128  # characters; the longest valid value is an HTTP date of 33


@dataclass(frozen=True, slots=True)
class Policy:
    """One limit that a customer is under, and how much of it is left.

    ``quota`` and ``remaining`` are in ``unit``, ``window_s`` and ``reset_s`` in whole seconds; ``None``: has none, or
    not known. ``name`` must be the same in every response and differ from that of any other policy of the customer.
    """

    name: str
    quota: int
    unit: Literal["requests", "content-bytes", "concurrent-requests"] = "requests"
    window_s: int | None = None
    remaining: int | None = None
    reset_s: int | None = None


@dataclass(frozen=True, slots=True)
class Advice:
    """How fast one customer may go right now.

    ``rps`` in requests per second, ``max_concurrent`` in requests in flight; ``account_queue`` is false when the
    customer shares a queue with others.
    """

    rps: float
    max_concurrent: int
    account_queue: bool
    policies: tuple[Policy, ...] = ()


@dataclass(frozen=True, slots=True)
class Pace:
    """What a response said about pace; ``None`` where it said nothing that can be used.

    ``rps`` is finite and > 0, ``max_concurrent`` >= 1, ``retry_after_s`` >= 0. ``ignored`` counts the values that
    were there and made no sense.
    """

    rps: float | None = None
    max_concurrent: int | None = None
    account_queue: bool | None = None
    retry_after_s: float | None = None
    ignored: int = 0


def render(advice: Advice, families: tuple[str, ...]) -> list[tuple[bytes, bytes]]:
    """Give ``advice`` in each of ``families``, as header pairs with lower-case names.

    A family that has nothing to say is left out. Raises ``KeyError`` for a family that is not in ``FAMILIES``.
    """
    headers: list[tuple[bytes, bytes]] = []
    for family in families:
        headers += _RENDERERS[family](advice)
    return headers


def retry_after(seconds: float) -> bytes:
    """Give the value of Retry-After: whole seconds, rounded up, at least 1."""
    return b"%d" % _whole_seconds(seconds)


def problem(reason: str, *, status: int = 429, retry_after_s: float, position: int | None = None) -> bytes:
    """Give the problem+json body of a refusal (RFC 9457).

    ``reason`` names the limit that was met and is ``limit`` in the body. ``status`` is that of the response: 503 only
    when nobody could be taken. ``position`` is the caller's place in line, from 1, if it had one. ``retry_after`` in
    the body is the number that ``retry_after(retry_after_s)`` puts into the header.
    """
    title, detail = _REFUSALS.get(reason, _OTHER_REFUSAL)
    body: dict[str, str | int] = {
        "type": f"urn:ezthrottle:problem:{reason}",
        "title": title,
        "status": status,
        "detail": detail,
        "limit": reason,
        "retry_after": _whole_seconds(retry_after_s),
    }
    if position is not None:
        body["position"] = position
    return msgspec.json.encode(body)


def parse(headers: Iterable[tuple[str | bytes, str | bytes]], *, now: float) -> Pace:
    """Read the pace from a provider's response headers, whatever they hold.

    For each value X-Aqueduct-N is believed before X-EZTHROTTLE-N before X-Aquifer-N, and of the same name the first
    that can be read. ``now`` in seconds since the epoch turns a Retry-After date into a wait; a date gone by is 0.
    """
    best: dict[str, tuple[int, float]] = {}
    ignored = 0
    for raw_name, raw_value in headers:
        known = _READ.get(_text(raw_name).lower())
        if known is None:
            continue
        field, rank = known
        value = _READERS[field](_text(raw_value).strip(" \t"), now)
        if value is None:
            ignored += 1
        elif field not in best or rank < best[field][0]:
            best[field] = rank, value
    if not best and not ignored:
        return _NOTHING_SAID
    values = {field: value for field, (_, value) in best.items()}
    return Pace(
        rps=values.get("rps"),
        max_concurrent=int(values["max_concurrent"]) if "max_concurrent" in values else None,
        account_queue=bool(values["account_queue"]) if "account_queue" in values else None,
        retry_after_s=values.get("retry_after_s"),
        ignored=ignored,
    )


# --- rendering


def _render_pace(names: _PaceNames, advice: Advice) -> list[tuple[bytes, bytes]]:
    return [
        (names.rps, _rate(advice.rps)),
        (names.max_concurrent, b"%d" % max(advice.max_concurrent, 1)),
        (names.account_queue, b"enabled" if advice.account_queue else b"disabled"),
    ]


def _render_ratelimit(advice: Advice) -> list[tuple[bytes, bytes]]:
    policies: ListType = []
    states: ListType = []
    for policy in advice.policies:
        name = _printable(policy.name)
        limits: dict[str, BareItemType] = {"q": _sf_integer(policy.quota)}
        if policy.unit != "requests":  # the draft's default
            limits["qu"] = policy.unit
        if policy.window_s is not None:
            limits["w"] = _sf_integer(policy.window_s)
        policies.append((name, limits))
        if policy.remaining is not None:
            state: dict[str, BareItemType] = {"r": _sf_integer(policy.remaining)}
            if policy.reset_s is not None:
                state["t"] = _sf_integer(policy.reset_s)
            states.append((name, state))
    # An empty list has no serialisation: then the field is left out (RFC 9651 section 4.1).
    fields = ((RATELIMIT_POLICY, policies), (RATELIMIT, states))
    return [(name, ser(members).encode("ascii")) for name, members in fields if members]


def _render_x_ratelimit(advice: Advice) -> list[tuple[bytes, bytes]]:
    # This family can only speak of requests in a window: another unit would be read as requests.
    known = [
        (policy.remaining, policy)
        for policy in advice.policies
        if policy.unit == "requests" and policy.remaining is not None
    ]
    if not known:
        return []
    remaining, tightest = min(known, key=lambda pair: (pair[0], -(pair[1].reset_s or 0)))
    headers = [
        (X_RATELIMIT_LIMIT, b"%d" % _sf_integer(tightest.quota)),
        (X_RATELIMIT_REMAINING, b"%d" % _sf_integer(remaining)),
    ]
    if tightest.reset_s is not None:
        headers.append((X_RATELIMIT_RESET, b"%d" % _sf_integer(tightest.reset_s)))
    return headers


_RENDERERS: Mapping[str, Callable[[Advice], list[tuple[bytes, bytes]]]] = MappingProxyType(
    {
        "ezthrottle": partial(_render_pace, EZTHROTTLE),
        "aqueduct": partial(_render_pace, AQUEDUCT),
        "ratelimit": _render_ratelimit,
        "x-ratelimit": _render_x_ratelimit,
    }
)
FAMILIES: tuple[str, ...] = tuple(_RENDERERS)
"""The header families that ``render`` knows."""


def _rate(rps: float) -> bytes:
    """Three significant digits or all of the integer part; no exponent, which not every reader understands."""
    if not rps > _RPS_MIN:  # also NaN
        return b"0.001"
    if rps < 100:
        return f"{rps:.3g}".encode()
    return f"{min(rps, _SF_MAX):.0f}".encode()


def _whole_seconds(seconds: float) -> int:
    if not seconds > 1:  # also NaN
        return 1
    return math.ceil(min(seconds, _SECONDS_MAX))


def _sf_integer(number: int) -> int:
    return min(max(number, 0), _SF_MAX)


def _printable(name: str) -> str:
    """A structured-field String holds printable ASCII only; a tier may be called anything."""
    return "".join(char if " " <= char <= "~" else "?" for char in name)


# --- refusals: written for the customer who reads them at three in the morning

_SAFE_TO_REPEAT = "This request did not run, so it is safe to send it again: wait for retry_after seconds first."
_REFUSALS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "max_queue": (
            "You already have as many requests waiting as you may",
            f"{_SAFE_TO_REPEAT} Your key is fine. Send fewer requests at a time; the X-EZTHROTTLE-RPS and "
            "X-EZTHROTTLE-MAX-CONCURRENT headers of our answers say how many are served without waiting.",
        ),
        "max_queue_total": (
            "The line in front of this API is full",
            f"{_SAFE_TO_REPEAT} The places that are left are kept for customers who have fewer requests in line "
            "than you, so sending more at a time will not help.",
        ),
        "max_wait": (
            "Your request waited for as long as it may and its turn did not come",
            f"{_SAFE_TO_REPEAT} You are sending more than your share of this API can serve at the moment.",
        ),
        "predicted_wait": (
            "Your turn would come too late",
            f"{_SAFE_TO_REPEAT} At the present speed your request would wait for longer than it may, because of the "
            "requests that you have in line before it. We say so now instead of letting you wait in vain.",
        ),
        "quota": (
            "Your quota is used up",
            f"{_SAFE_TO_REPEAT} By then your next quota period has begun. If you need more before that, ask the "
            "provider of this API for a larger plan.",
        ),
        "max_streams": (
            "You have as many streams open as you may",
            "Close a stream or WebSocket that you no longer need, or wait for one to end, and connect again.",
        ),
        "draining": (
            "This server is about to restart",
            f"{_SAFE_TO_REPEAT} You did nothing wrong, and no other limit of yours was met.",
        ),
    }
)
_OTHER_REFUSAL = ("This request cannot be served at the moment", _SAFE_TO_REPEAT)


# --- parsing

_NUMBER = re.compile(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII)
_INTEGER = re.compile(r"[0-9]+", re.ASCII)
# The three dates of RFC 9110 section 5.6.7. Their shape is checked first: email.utils takes far more for a date, and
# the year 0000 for 2000.
_HTTP_DATE = re.compile(
    r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [12][0-9]{3} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"
    r"|[A-Z][a-z]{5,8}, [0-9]{2}-[A-Z][a-z]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"
    r"|[A-Z][a-z]{2} [A-Z][a-z]{2} [ 0-9][0-9] [0-9]{2}:[0-9]{2}:[0-9]{2} [12][0-9]{3}",
    re.ASCII,
)


def _text(raw: str | bytes) -> str:
    return raw if isinstance(raw, str) else raw.decode("latin-1")


def _read_rps(value: str, _now: float) -> float | None:
    if len(value) > _VALUE_MAX or not _NUMBER.fullmatch(value):
        return None
    rps = float(value)
    return rps if 0 < rps < math.inf else None


def _read_max_concurrent(value: str, _now: float) -> int | None:
    if len(value) > _VALUE_MAX or not _INTEGER.fullmatch(value):
        return None
    return int(value) or None


def _read_account_queue(value: str, _now: float) -> bool | None:
    return {"enabled": True, "disabled": False}.get(value.lower())


def _read_retry_after(value: str, now: float) -> float | None:
    if len(value) > _VALUE_MAX:
        return None
    if _INTEGER.fullmatch(value):
        return float(min(int(value), _SECONDS_MAX))
    if not _HTTP_DATE.fullmatch(value):
        return None
    try:
        date = parsedate_to_datetime(value).replace(tzinfo=UTC)
    except ValueError:  # a 31st of February
        return None
    return min(max(date.timestamp() - now, 0.0), float(_SECONDS_MAX))


_READERS: Mapping[str, Callable[[str, float], float | None]] = MappingProxyType(
    {
        "rps": _read_rps,
        "max_concurrent": _read_max_concurrent,
        "account_queue": _read_account_queue,
        "retry_after_s": _read_retry_after,
    }
)
# Header name -> (field, rank): the rank is the order in which the same value under several names is believed.
_READ: Mapping[str, tuple[str, int]] = MappingProxyType(
    {RETRY_AFTER.decode(): ("retry_after_s", 0)}
    | {
        name.decode(): (field, rank)
        for rank, names in enumerate((AQUEDUCT, EZTHROTTLE, AQUIFER))
        for field, name in names._asdict().items()
    }
)
_NOTHING_SAID = Pace()
