"""The provider's config: every key of ``[inbound]`` as a typed value, and how it is read.

::

    load("ezthrottle.toml", max_wait=5)        the config, or a ConfigError with every mistake
    examine("ezthrottle.toml")                 also the doubts, and where each value came from
    config.updated(tiers={"pro": {"weight": 8}})

Precedence: keyword > framework settings > environment (``EZTHROTTLE_MAX_WAIT``, ``EZTHROTTLE_TIERS__PRO__WEIGHT``)
> file or mapping > default. Tables under names (tiers, customers, pools) are merged key by key, lists replaced whole.
"""

from __future__ import annotations

import importlib
import ipaddress
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from ezthrottle_provider.errors import ConfigError, Problem
from ezthrottle_provider.headers import FAMILIES

from . import kinds, secrets
from .checks import PROBLEMS, contradictions, doubts_about
from .kinds import shown
from .secrets import Secret, redacted_url
from .sources import read_layers
from .tables import ROOT, KeyPath, Layer, Option, Table, build, options_of, origin

__all__ = [
    "PROBLEMS",
    "CustomerEntry",
    "Examination",
    "InboundConfig",
    "Pool",
    "Route",
    "Secret",
    "Setting",
    "Tier",
    "examine",
    "load",
    "redacted_url",
    "reference",
    "resolve_reference",
]

Function = Callable[..., Any]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network | Literal["unix"]

# Beyond these a value is a slip of the keyboard: no process runs a million requests at once, none waits for a day.
_MOST: Final = 1_000_000
_HOUR_S: Final = 3600
_DAY_S: Final = 86_400

_above_zero = kinds.number(above=0, most=_MOST)
_count = kinds.number(above=0, most=_MOST, whole=True)
_identities = '"header:NAME", "bearer", "ip", "user" or "module:function"'
_costs = '"seconds", "requests", "module:function" or a function'

# What a key may be: its type, and the kind that checks it.
Flag = Annotated[bool, kinds.boolean()]
Positive = Annotated[float, _above_zero]
PositiveOrNone = Annotated[float | None, kinds.optional(_above_zero)]
Share = Annotated[float, kinds.number(above=0, most=1)]
Price = Annotated[float, kinds.number(most=_MOST)]
WaitSeconds = Annotated[float, kinds.number(most=_HOUR_S)]
HoldSeconds = Annotated[float, kinds.number(most=_DAY_S)]
Count = Annotated[int, _count]
CountOrNone = Annotated[int | None, kinds.optional(_count)]
PriorityOrNone = Annotated[int | None, kinds.optional(kinds.number(most=9, whole=True))]
CountOrZero = Annotated[int, kinds.number(most=_MOST, whole=True)]
Name = Annotated[str, kinds.text("a name", r"\S(?:[^\x00-\x1f\x7f]{0,254}\S)?")]
Pattern = Annotated[str, kinds.path_pattern()]
Patterns = Annotated[tuple[str, ...], kinds.listing(kinds.path_pattern(), "path patterns")]
Methods = Annotated[tuple[str, ...], kinds.listing(kinds.token("a method", upper=True), "methods")]
Quota = Annotated[str | None, kinds.optional(kinds.quota())]
Overage = Annotated[Literal["reject", "allow"], kinds.choice("reject", "allow")]
Hold = Annotated[Literal["body", "first-byte", "none"], kinds.choice("body", "first-byte", "none")]
KeyHashes = Annotated[tuple[str, ...], kinds.listing(secrets.key_hash(), "key hashes")]
Identify = Annotated[str, kinds.selector("bearer", "ip", "user", header=True, expects=_identities)]
Resolve = Annotated[
    str | Function | None, kinds.optional(kinds.selector(function=True, expects='"module:function" or a function'))
]
Cost = Annotated[str | Function, kinds.selector("seconds", "requests", function=True, expects=_costs)]
RedisUrl = Annotated[str | None, kinds.optional(secrets.redis_url())]
SecretOrNone = Annotated[Secret | None, kinds.optional(secrets.secret())]
Namespace = Annotated[str, kinds.text("1 to 64 letters, digits, dots, dashes or underscores", "[A-Za-z0-9._-]{1,64}")]
Families = Annotated[tuple[str, ...], kinds.listing(kinds.choice(*FAMILIES), "header families")]
Networks = Annotated[tuple[Network, ...], kinds.listing(kinds.network(), "networks")]
Header = Annotated[str, kinds.token("the name of exactly one header", lower=True)]
FilePath = Annotated[str, kinds.text("the path of a file", r"[^\x00-\x1f\x7f]{0,1024}", path_like=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier(Table):
    """What each customer of a tier was promised. Raises ``ConfigError`` when a value is wrong."""

    weight: Annotated[Positive, "Share of the service, relative to the weights of others."] = 1.0
    rps: Annotated[PositiveOrNone, "Requests per second over all processes; absent: no pace, only fairness."] = None
    max_concurrent: Annotated[CountOrNone, "Requests in flight over all processes."] = None
    shared_queue: Annotated[Flag, "All customers of the tier share one queue."] = False
    quota: Annotated[Quota, "Requests per calendar period (UTC), in the notation of limits."] = None
    overage: Annotated[Overage, "What happens to requests above the quota."] = "reject"
    overage_price: Annotated[Price, "Price of each request above the quota, for the usage report."] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerEntry(Table):
    """A customer that the config lists; its own weight and limits replace its tier's. Raises ``ConfigError``."""

    tier: Annotated[Name, "The tier whose terms apply."] = "default"
    key_hashes: Annotated[KeyHashes, "Its keys, as `ezthrottle hash-key` makes them."] = ()
    weight: Annotated[PositiveOrNone, "Replaces the tier's weight."] = None
    rps: Annotated[PositiveOrNone, "Replaces the tier's pace."] = None
    max_concurrent: Annotated[CountOrNone, "Replaces the tier's limit."] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Route(Table):
    """What is special about the requests of a path. Raises ``ConfigError`` when a value is wrong."""

    path: Annotated[Pattern, "Pattern of the path; * stands for anything, slashes included."]
    methods: Annotated[Methods, "Absent or empty: all methods."] = ()
    cost: Annotated[Positive, "Multiplies what is charged."] = 1.0
    hold: Annotated[Hold, "How long a response keeps its slot."] = "body"
    pool: Annotated[Name, "The pool that its slots come from; default is the common one."] = "default"
    priority: Annotated[PriorityOrNone, "0-9, higher first; orders a customer's own requests, never others'."] = None
    exempt: Annotated[Flag, "Passes untouched and is not charged."] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool(Table):
    """Slots set apart for some routes. Raises ``ConfigError`` when a value is wrong."""

    max_concurrent: Annotated[Count, "Requests of its routes running at once in this process."]


Tiers = Annotated[Mapping[str, Tier], kinds.named(Tier, blank=Tier, always=("default", "unverified"))]
Customers = Annotated[Mapping[str, CustomerEntry], kinds.named(CustomerEntry, blank=CustomerEntry, longest=256)]
Routes = Annotated[tuple[Route, ...], kinds.rows(Route)]
Pools = Annotated[Mapping[str, Pool], kinds.named(Pool, blank=lambda: Pool(max_concurrent=1))]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class InboundConfig(Table):
    """The whole config; what ``load`` returns. Times in seconds.

    ``tiers`` always holds ``"default"`` (verified customers without a tier) and ``"unverified"`` (callers that nobody
    verified). Raises ``ConfigError`` with every mistake when a value is wrong or two contradict each other.
    """

    identify: Annotated[Identify, "What names the caller."] = "header:x-api-key"
    trust_keys: Annotated[Flag, "Something in front has verified the key, so the key is the customer."] = False
    resolve: Annotated[Resolve, "Key to Customer or None; sync or async; makes keys verified."] = None
    max_concurrent: Annotated[CountOrNone, "Slots of this process; absent: what its server can run."] = None
    max_concurrent_total: Annotated[CountOrZero, "Slots of all processes together; 0: no such limit."] = 0
    max_wait: Annotated[WaitSeconds, "Seconds that a request may wait for its turn."] = 10.0
    max_hold: Annotated[HoldSeconds, "Seconds after which a slow reader's response no longer holds a slot."] = 10.0
    max_queue: Annotated[Count, "Requests that one key may have waiting."] = 100
    max_queue_total: Annotated[Count, "Requests that may wait in all, per process."] = 10_000
    max_streams: Annotated[Count, "WebSockets and slot-less streams that one customer may have open."] = 100
    cost: Annotated[Cost, "What is charged."] = "seconds"
    unverified_share: Annotated[Share, "Most that all unverified callers get while verified ones wait."] = 0.2
    exempt: Annotated[Patterns, "Paths that pass untouched, besides the defaults."] = ()
    redis_url: Annotated[RedisUrl, "For state shared between processes, which this version does not do yet."] = None
    secret: Annotated[SecretOrNone, "Keys are hashed with it; needed with redis_url."] = None
    namespace: Annotated[Namespace, "Keeps several apps apart in one Redis."] = "default"
    headers: Annotated[Families, "Families of headers to emit."] = ("ezthrottle", "ratelimit")
    trusted_proxies: Annotated[Networks, "Peers whose client header may be believed."] = ()
    client_header: Annotated[Header, "The one header that is read for the caller's address."] = "x-forwarded-for"
    enforce: Annotated[Flag, "False: decide and report, but never delay or refuse."] = True
    enabled: Annotated[Flag, "False: pass everything through untouched."] = True
    usage_db: Annotated[FilePath, "SQLite file for usage and quota counts; empty: memory only."] = ""
    tiers: Annotated[Tiers, "Terms by tier."] = field(default_factory=dict)
    customers: Annotated[Customers, "Customers that need no resolve."] = field(default_factory=dict)
    routes: Annotated[Routes, "What is special about some paths; the first match counts."] = ()
    pools: Annotated[Pools, "Slots set apart for some routes."] = field(default_factory=dict)

    def _contradictions(self, faulty: frozenset[str]) -> Iterator[Problem]:
        return contradictions(self, faulty)

    def updated(self, **changes: object) -> InboundConfig:
        """A config with some keys changed, merged like keywords over this one; raises ``ConfigError``."""
        problems: list[Problem] = []
        layers = [Layer(changes, lambda path: "keyword", "keyword"), Layer(self, lambda path: "config", "mapping")]
        made = build(InboundConfig, layers, os.environ, problems)
        if made is None or problems:
            raise ConfigError(problems)
        return made

    def __repr__(self) -> str:
        shown_values = (f"{name}={_display(name, getattr(self, name))}" for name in options_of(InboundConfig))
        return f"InboundConfig({', '.join(shown_values)})"


def _display(key: str, value: object) -> str:
    """A value as people may see it: no secret, no password, tables by their number."""
    if key == "redis_url" and isinstance(value, str):
        return shown(redacted_url(value))
    if isinstance(value, Secret):
        return "***"
    if isinstance(value, Mapping):
        return f"<{len(value)}>"
    if isinstance(value, tuple):
        if value and isinstance(value[0], Route):
            return f"<{len(value)}>"
        return "[" + ", ".join(shown(str(item)) for item in value) + "]"
    if callable(value):
        return f"{getattr(value, '__module__', '')}:{getattr(value, '__qualname__', type(value).__qualname__)}"
    return shown(value)


@dataclass(frozen=True, slots=True)
class Setting:
    """One effective value: its key, the value as people may see it, where it came from, and what the key is for."""

    key: str
    value: str
    place: str
    doc: str


@dataclass(frozen=True, slots=True)
class Examination:
    """What ``ezthrottle check`` reports: the config or None, every mistake, every doubt, and the effective values."""

    config: InboundConfig | None
    problems: tuple[Problem, ...]
    doubts: tuple[Problem, ...]
    settings: tuple[Setting, ...]


Config = str | os.PathLike[str] | Mapping[str, Any] | InboundConfig | None


def load(
    config: Config = None,
    *,
    framework: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    **options: Any,
) -> InboundConfig:
    """The config from all sources; raises ``ConfigError`` with every mistake at once.

    ``config`` is the path of a TOML file, a mapping with the same keys, or a config; without it ``EZTHROTTLE_CONFIG``
    names the file. ``framework`` holds a framework's settings under our names. References to functions are not
    imported here, see ``resolve_reference``.
    """
    made, problems, _, _ = _read(config, framework, environ, options)
    if made is None:
        raise ConfigError(problems)
    return made


def examine(
    config: Config = None,
    *,
    framework: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    **options: Any,
) -> Examination:
    """Everything that can be said about a config without running it; takes what ``load`` takes and raises nothing."""
    made, problems, doubts, layers = _read(config, framework, environ, options)
    if made is None:
        return Examination(None, tuple(problems), tuple(doubts), ())
    doubts.extend(doubts_about(made, layers))
    return Examination(made, (), tuple(doubts), tuple(_settings(made, layers, ())))


def _read(
    config: object, framework: Mapping[str, Any] | None, environ: Mapping[str, str] | None, options: Mapping[str, Any]
) -> tuple[InboundConfig | None, list[Problem], list[Problem], list[Layer]]:
    environ = os.environ if environ is None else environ
    problems: list[Problem] = []
    doubts: list[Problem] = []
    layers = read_layers(
        config,
        framework={} if framework is None else framework,
        environ=environ,
        keywords=options,
        options=options_of(InboundConfig),
        problems=problems,
        doubts=doubts,
    )
    made = build(InboundConfig, layers, environ, problems)
    return (None if problems else made), problems, doubts, layers


def _settings(table: Table, layers: list[Layer], path: KeyPath) -> Iterator[Setting]:
    for name, spec in options_of(type(table)).items():
        value, where = getattr(table, name), (*path, name)
        if spec.kind.table is None:
            key = Problem("", (*ROOT, *where), "", "").key
            yield Setting(key, _display(name, value), origin(layers, where), spec.doc)
        else:
            for step, entry in enumerate(value) if spec.kind.rows else value.items():
                yield from _settings(entry, layers, (*where, step))


def reference() -> Iterator[tuple[str, Option]]:
    """Every key of the config (``"tiers.NAME.weight"``) with what is known about it, for documentation."""
    for name, spec in options_of(InboundConfig).items():
        if spec.kind.table is None:
            yield name, spec
        else:
            step = "[]" if spec.kind.rows else ".NAME"
            yield from ((f"{name}{step}.{inner}", found) for inner, found in options_of(spec.kind.table).items())


def resolve_reference(text: str, *, key: str = "", place: str = "keyword") -> Function:
    """The callable that ``module:function`` names; imports the module.

    ``key`` (such as ``"resolve"``) and ``place`` say in messages where the reference stands. Raises ``ConfigError``
    when it is malformed, cannot be imported or cannot be called.
    """

    def failure(id: str, message: str) -> ConfigError:
        return ConfigError([Problem(id, (*ROOT, key) if key else (), place, message)])

    module, _, names = text.partition(":")
    if not module or not names:
        raise failure("E019", f'must be "module:function", got {shown(text)}')
    try:
        found: Any = importlib.import_module(module)
        for name in names.split("."):
            found = getattr(found, name)
    except Exception as error:  # importing runs the operator's code, which may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise failure("E020", f"cannot import {shown(text)}: {reason}") from error
    if not callable(found):
        raise failure("E020", f"{shown(text)} cannot be called")
    function: Function = found
    return function
