"""What ``ezthrottle doctor`` looks for: each check asks a running deployment and says what could be seen.

Whether a forged address or a made-up key is believed shows in what *we* are told. X-EZTHROTTLE-MAX-CONCURRENT is our
part of the slots among all customers that had demand in the last two seconds: if it falls after a few disguised
requests and comes back when they are forgotten, the disguises counted as customers; if it stays, they counted as us.
Where other limits or other customers could hide that, the verdict is ``unknown``.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from .probes import Answer, Headers, Prober, UnansweredError

if TYPE_CHECKING:
    from ezthrottle_provider.config import InboundConfig

__all__ = ["BUDGET", "Doctor", "Finding", "Verdict", "key_header"]

Verdict = Literal["ok", "problem", "doubt", "unknown"]
Seen = tuple[Verdict, str]
Check = Callable[[], Seen]

BUDGET: Final = 25
"""Requests that one examination sends at most."""

_BURST: Final = 8
_DISGUISES: Final = 3
_FRESH_S: Final = 0.12  # a customer is told the same for 100 ms
_FORGOTTEN_S: Final = 2.3  # demand counts for two seconds
_FALLEN: Final = 0.75
_RECOVERED: Final = 0.9
# With this large a part of the slots there are few other customers, so three more would show.
_LARGE_PART: Final = 8
_MOST_CUSTOMERS: Final = 8
_HEALTH_PATHS: Final = ("/health", "/livez")
_CACHE_HIT: Final = re.compile(r"\bhit\b", re.IGNORECASE)
_SHARED_CACHE: Final = re.compile(r"\bpublic\b|\bs-maxage=[1-9]|\bmax-age=[1-9]", re.IGNORECASE)
_NOT_SHARED: Final = re.compile(r"\bprivate\b|\bno-store\b|\bno-cache\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check saw."""

    check: str
    verdict: Verdict
    text: str


def key_header(identify: str, key: bytes) -> tuple[str, bytes] | None:
    """The header in which ``identify`` looks for a key, or None when only the app knows."""
    if identify == "bearer":
        return "Authorization", b"Bearer " + key
    kind, _, name = identify.partition(":")
    return (name, key) if kind == "header" and name else None


class Doctor:
    """Examines one deployment. ``key`` is the header of a real customer, ``config`` what the deployment should run."""

    def __init__(
        self,
        prober: Prober,
        *,
        config: InboundConfig | None = None,
        identify: str = "header:x-api-key",
        key: tuple[str, bytes] | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._prober = prober
        self._config = config
        self._identify = identify
        self._key: Headers = (key,) if key is not None else ()
        self._pause = pause
        self._usual: Headers = ()
        """What our ordinary requests carry: nothing, or the key where nothing passes without one."""
        self._answers: list[Answer] = []

    def findings(self) -> Iterator[Finding]:
        """Make one check after the other; the first two decide which of the others make sense."""
        try:
            answer = self._ask()
        except UnansweredError as error:
            yield Finding("reachable", "problem", str(error))
            return
        yield Finding("reachable", *_reached(answer))
        present = yield from self._made("middleware", lambda: self._middleware(answer))
        if present == "problem":
            return
        checks: dict[str, Check] = {"preflight": self._preflight, "burst": self._burst}
        if present == "ok":
            checks = {
                "values": self._values,
                "caching": self._caching,
                "preflight": self._preflight,
                "exempt": self._exempt,
                "addresses": self._addresses,
                "made-up keys": self._made_up_keys,
                **({"real key": self._real_key} if self._key else {}),
                "burst": self._burst,
            }
        for name, check in checks.items():
            yield from self._made(name, check)

    def _made(self, name: str, check: Check) -> Generator[Finding, None, Verdict]:
        try:
            verdict, text = check()
        except UnansweredError as error:
            verdict, text = "problem", f"a request failed: {error}"
        yield Finding(name, verdict, text)
        return verdict

    def _ask(self, headers: Headers = ()) -> Answer:
        answer = self._prober.ask(headers=(*self._usual, *headers))
        self._answers.append(answer)
        return answer

    # -- is it there ---------------------------------------------------------------------------------------------

    def _middleware(self, answer: Answer) -> Seen:
        if not _is_ours(answer) and self._key:
            self._usual = self._key
            answer = self._ask()
        if answer.pace_headers:
            return "ok", "its headers are in the response"
        if answer.refusal:
            text = f"it refuses us ({answer.refusal}), so little can be seen now"
            return "unknown", f"{text}; look again later, or with another key"
        return self._why_absent(answer)

    def _why_absent(self, answer: Answer) -> Seen:
        config = self._config
        if config is not None:
            from ezthrottle_provider.inbound.policies import Policies

            if not config.enabled:
                return "problem", "no X-EZTHROTTLE headers: enabled is false in the config"
            if Policies(config.routes, config.exempt).match("GET", self._prober.path).exempt:
                return "problem", "no X-EZTHROTTLE headers: the config exempts this path; give the URL of another"
            if not {"ezthrottle", "aqueduct"} & set(config.headers):
                return "unknown", "the config emits no headers about pace, so nothing can be seen from outside"
        text = (
            "no X-EZTHROTTLE headers: no middleware is installed, this path is exempt, enabled is false, or something"
        )
        text += " on the way takes our headers out (then ask the app itself, past its proxy or CDN)"
        if answer.status in (401, 403) and not self._key:
            text += ". The answer may come from something in front that wants a key: try --key-from-stdin"
        return "problem", text

    # -- what it says --------------------------------------------------------------------------------------------

    def _values(self) -> Seen:
        self._pause(_FRESH_S)
        faults: list[str] = []
        for answer in (self._answers[-1], self._ask()):
            pace, counts = answer.pace, Counter(name for name, _ in answer.pace_headers)
            twice = sorted(name for name, count in counts.items() if count > 1)
            if twice:
                faults.append(f"{', '.join(twice)} came twice: two middlewares or servers add them")
            if pace.ignored:
                faults.append(f"{pace.ignored} of the values make no sense")
            if answer.refusal is None and (pace.rps is None or pace.max_concurrent is None):
                faults.append("RPS or MAX-CONCURRENT is missing")
            faults.extend(_malformed_fields(answer))
        if faults:
            return "problem", "; ".join(dict.fromkeys(faults))
        shown = {name.split("-", 2)[2].upper(): value for name, value in self._answers[-2].pace_headers}
        return "ok", ", ".join(f"{name} {value}" for name, value in shown.items())

    def _caching(self) -> Seen:
        for answer in self._answers:
            hits = answer.first("x-cache"), answer.first("cf-cache-status")
            if answer.first("age").strip("0").isdigit() or any(map(_CACHE_HIT.search, hits)):
                return "problem", "a cache answered: one customer's pace is handed to others"
            control = answer.first("cache-control")
            if _SHARED_CACHE.search(control) and not _NOT_SHARED.search(control):
                text = "shared caches may store the response, and one customer's pace with it"
                return "doubt", f"{text}: say Cache-Control: private"
        return "ok", "no cache on the way keeps our headers"

    # -- what passes untouched -----------------------------------------------------------------------------------

    def _preflight(self) -> Seen:
        asked = (("Origin", b"https://doctor.example"), ("Access-Control-Request-Method", b"GET"))
        answer = self._prober.ask(method="OPTIONS", headers=asked)
        if answer.refusal:
            return "problem", f"a CORS preflight was refused ({answer.refusal}): browsers give up"
        if answer.pace_headers:
            return "problem", "a CORS preflight went through the queue; it must pass untouched"
        return "ok", f"a CORS preflight passed untouched (answered {answer.status})"

    def _exempt(self) -> Seen:
        answers = {path: self._prober.ask(path=path) for path in _HEALTH_PATHS}
        queued = [path for path, answer in answers.items() if _is_ours(answer)]
        if queued:
            text = f"{' and '.join(queued)} went through the queue: under load the probes of an orchestrator would fail"
            return "problem", text
        return "ok", f"{' and '.join(answers)} pass untouched"

    # -- whom it believes ----------------------------------------------------------------------------------------

    def _addresses(self) -> Seen:
        if self._usual:
            return "unknown", "nothing passes here without a key, and a key comes before an address"
        header = self._config.client_header if self._config is not None else "x-forwarded-for"
        hidden = self._hidden()
        outcome = self._newcomers([_forged(header) for _ in range(_DISGUISES)])
        if outcome == "seen":
            return self._who_believes(header)
        if outcome == "unclear" or hidden:
            return "unknown", hidden or _OTHERS
        return "ok", f"{_DISGUISES} forged client addresses made no new customers"

    def _who_believes(self, header: str) -> Seen:
        alone = self._newcomers([_forged(header)[:1] for _ in range(2)]) == "seen"
        name = header if alone else "Forwarded, X-Real-IP or X-Forwarded-For"
        source = ipaddress.ip_address(self._prober.source.partition("%")[0])
        trusted = self._config.trusted_proxies if self._config is not None else ()
        believed = f"a forged {name} from {source} is believed: each made-up address is a new customer"
        if any(source in network for network in trusted):
            return "unknown", f"{believed}. Here that is meant so: {source} is in trusted_proxies. Look from elsewhere"
        if source.is_loopback or source.is_private:
            text = f"{believed}. That is right only if {source} is a proxy: see trusted_proxies, and what the server"
            return "doubt", f"{text} itself trusts (uvicorn: --forwarded-allow-ips, by default 127.0.0.1)"
        return "problem", f"{believed}. See trusted_proxies, and what the server itself trusts (--forwarded-allow-ips)"

    def _made_up_keys(self) -> Seen:
        if self._usual:
            return "unknown", "nothing passes here without a real key"
        header = key_header(self._identify, b"")
        if header is None:
            return "unknown", f"{self._identify} does not say how a key is sent"
        hidden = self._hidden()
        made_up = [[(header[0], header[1] + secrets.token_urlsafe(32).encode())] for _ in range(_DISGUISES)]
        outcome = self._newcomers(made_up)
        if outcome == "seen":
            text = "every made-up key is a customer with a share of its own"
            if self._config is not None and self._config.trust_keys:
                return "doubt", f"{text}: trust_keys is true, and nothing in front refused them"
            return "problem", f"{text}; is trust_keys true, or does resolve accept anything?"
        if outcome == "unclear" or hidden:
            return "unknown", hidden or _OTHERS
        return "ok", f"{_DISGUISES} made-up keys made no new customers"

    def _real_key(self) -> Seen:
        if self._usual:
            return "unknown", "nothing passes here without a key, so there is nothing to compare with"
        hidden = self._hidden()
        before = self._answers[-1].pace
        keyed = self._prober.ask(headers=self._key)
        self._pause(_FRESH_S)
        after = self._share()
        if keyed.pace.max_concurrent != before.max_concurrent or after <= _FALLEN * (before.max_concurrent or 1):
            return "ok", "your key has an account of its own"
        if hidden:
            return "unknown", hidden
        text = "your key counts like no key at all: no key_hashes or resolve knows it, or identify reads another header"
        return "doubt", text

    def _newcomers(self, disguises: Sequence[Headers]) -> Literal["seen", "unseen", "unclear"]:
        """Tell whether requests in disguise count as other customers than we do."""
        before = self._answers[-1].pace.max_concurrent or 1
        for disguise in disguises:
            self._prober.ask(headers=disguise)
        self._pause(_FRESH_S)
        if self._share() > _FALLEN * before:
            return "unseen"
        self._pause(_FORGOTTEN_S)
        return "seen" if self._share() >= _RECOVERED * before else "unclear"

    def _share(self) -> int:
        """Our part of the slots, as we are told now."""
        return self._ask().pace.max_concurrent or 1

    def _hidden(self) -> str:
        """Why other customers than we could go unseen, if so."""
        part = self._answers[-1].pace.max_concurrent or 1
        config = self._config
        if config is not None and config.tiers["unverified"].max_concurrent is not None:
            return "max_concurrent of the unverified tier hides what would tell"
        slots = config.max_concurrent if config is not None else None
        if part >= _LARGE_PART or (slots is not None and 2 <= part and slots <= _MOST_CUSTOMERS * part):
            return ""
        return f"too few slots are ours (MAX-CONCURRENT {part}) for others to show: look when the server is idle"

    # -- does it hold --------------------------------------------------------------------------------------------

    def _burst(self) -> Seen:
        outcomes = self._prober.together(_BURST, self._usual or self._key)
        answers = [outcome for outcome in outcomes if isinstance(outcome, Answer)]
        failures = Counter(str(outcome) for outcome in outcomes if isinstance(outcome, UnansweredError))
        faults = [f"{count} of {len(outcomes)} requests: {reason}" for reason, count in failures.items()]
        for answer in answers:
            faults.extend(_bad_refusal(answer))
        if faults:
            return "problem", "; ".join(dict.fromkeys(faults))
        statuses = Counter(answer.status for answer in answers)
        tally = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
        slowest_ms = 1000 * max(answer.elapsed_s for answer in answers)
        text = f"{len(answers)} requests at once were all answered ({tally}), the slowest in {slowest_ms:.0f} ms"
        if any(status >= 500 and status != 503 for status in statuses):
            return "doubt", text
        return "ok", text


_OTHERS: Final = "other customers came or went at the same moment: look when the server is idle"


def _is_ours(answer: Answer) -> bool:
    return bool(answer.pace_headers) or answer.refusal is not None


def _reached(answer: Answer) -> Seen:
    text = f"answered {answer.status} in {1000 * answer.elapsed_s:.0f} ms"
    if 300 <= answer.status < 400 and answer.first("location"):
        return "doubt", f"{text}: it redirects, so give the URL that it redirects to"
    if answer.status == 404 or (answer.status >= 500 and not answer.refusal):
        return "doubt", f"{text}: give a URL that the app answers"
    return "ok", text


def _forged(header: str) -> list[tuple[str, bytes]]:
    """A client that does not exist, in every header that might be believed, the one that should be first.

    From a range of addresses for benchmarks (RFC 2544): no real client has one, and no two runs meet.
    """
    number = int(ipaddress.IPv4Address("198.18.0.0")) + secrets.randbelow(1 << 17)
    address = str(ipaddress.IPv4Address(number)).encode()
    values = {"x-forwarded-for": address, "forwarded": b"for=" + address, "x-real-ip": address}
    return [(header, values.pop(header, address)), *values.items()]


def _malformed_fields(answer: Answer) -> Iterator[str]:
    from http_sf import parse

    for name in ("ratelimit-policy", "ratelimit"):
        lines = [value for header, value in answer.headers if header == name]
        try:
            if lines:
                parse(", ".join(lines).encode("latin-1", "replace"), tltype="list")
        except ValueError:  # also what http_sf raises
            yield f"{name} is not the list that RFC 9651 defines"


def _bad_refusal(answer: Answer) -> Iterator[str]:
    if answer.status != 429 and answer.refusal is None:
        return
    wait = answer.first("retry-after")
    if not re.fullmatch(r"0*[1-9][0-9]*", wait, re.ASCII):
        yield f"a {answer.status} without a Retry-After of at least one whole second"
    if answer.refusal is None:
        yield "a 429 that is not ours, or whose problem+json body got lost: is there another limiter?"
    elif "no-store" not in answer.first("cache-control"):
        yield "a refusal that caches may store"
