"""What can be wrong with a config as a whole, and what may be: contradictions, doubts, and the table of all ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from ezthrottle_provider.errors import Problem

from .kinds import shown
from .tables import MISSING, ROOT, Layer, Table, origin

if TYPE_CHECKING:
    from . import InboundConfig

__all__ = ["COMMON_POOL", "PROBLEMS", "contradictions", "doubts_about"]

PROBLEMS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "E001": "The config file cannot be read: it is missing, unreadable, too large or not UTF-8.",
        "E002": "The config file is not TOML.",
        "E003": "Not a finite number in the range of this key (true and false are not numbers).",
        "E004": "Not a text of the form that this key needs.",
        "E005": "Neither true nor false.",
        "E006": "Not one of the words that this key knows.",
        "E007": "A key that is not known here. A misspelt key would otherwise be ignored in silence.",
        "E008": "Not a table or a list where one is needed, or a list that is too long.",
        "E009": "A key that this table needs is missing.",
        "E010": "env:NAME names a variable of the environment that is not set.",
        "E011": "redis_url without secret: names in Redis would differ between processes, or give the keys away.",
        "E012": "Not the URL of a Redis.",
        "E013": "Not the hash of a key. Raw keys do not belong in a config; ezthrottle hash-key makes the hash.",
        "E014": "The same key belongs to two customers.",
        "E015": "A customer's tier is not defined.",
        "E016": "A route's pool is not defined.",
        "E017": "Not an IP address or network.",
        "E018": "Not one quota in the notation of limits, such as 1000000/month.",
        "E019": "Not a reference of the form module:function.",
        "E020": "What a reference names cannot be imported, or cannot be called.",
        "E021": "A name of a tier, customer or pool that is empty, too long or not printable.",
        "E022": "default is the name of the slots that all routes have in common.",
        "E023": "A key that is read once: the process must be restarted to change it.",
        "W001": "max_wait is 0: whatever cannot start at once is refused.",
        "W002": "unverified_share is 1: callers that nobody verified may take everything.",
        "W003": "trust_keys is true, but nothing says that something in front verifies keys: forged ones would count.",
        "W004": "An exempt pattern lets every request through.",
        "W005": "client_header is set, but no proxy is trusted: the header is never read.",
        "W006": "A trusted network holds every address: anybody may forge the client header.",
        "W007": "The secret stands in the file, or is shorter than 16 bytes.",
        "W008": "Nothing is delayed or refused: enforce or enabled is false.",
        "W009": "Clients, proxies and servers usually give up before this time has passed.",
        "W010": "All requests come from one private address and trusted_proxies is empty: it is probably a proxy, and "
        "all callers that nobody verified count as one.",
        "W011": "One key may fill the whole queue: max_queue is not below max_queue_total.",
        "W012": "A limit can never be reached, because another one is lower.",
        "W013": "A variable of the environment looks like a misspelt key.",
        "W014": "A limit over all processes holds in each process by itself: there is no redis_url.",
        "W015": "Keys of customers are listed, but identify reads no key.",
        "W016": "A tier or customer that nothing leads to.",
        "W017": "A quota is counted in memory only and starts anew with the process.",
        "W018": "An overage without a quota is never counted.",
        "W019": "usage_db without secret: customers known by their key have another name after each restart.",
        "W020": "max_concurrent is probably too high: requests became slower, but its slots were never all in use.",
        "W022": "redis_url is not used by this version: each process is fair by itself, and limits hold in each.",
        "W021": "max_concurrent is probably too low: requests wait for slots while the process idles.",
    }
)
"""Every id with its explanation; ids are stable. E023, W010, W020 and W021 are not found here but at run time."""


COMMON_POOL: Final = "default"
"""The pool of all routes that name no other; it is not defined under ``pools`` but by ``max_concurrent``."""

_LONG_WAIT_S: Final = 60.0  # beyond it gunicorn (30 s), nginx (60 s) and most load balancers (60 s) have given up
_LONG_HOLD_S: Final = 300.0
_SHORT_SECRET: Final = 16


def contradictions(config: InboundConfig, faulty: frozenset[str]) -> Iterator[Problem]:
    """What is wrong between fields; ``faulty`` fields hold a stand-in, so nothing is concluded from them."""

    def problem(id: str, message: str, *path: str | int) -> Problem:
        return Problem(id, path, "keyword", message)

    if config.redis_url and config.secret is None and not faulty & {"redis_url", "secret"}:
        yield problem("E011", "needs a secret too: keys are hashed with it before they are shared", "redis_url")
    owners: dict[str, str] = {}
    for name, customer in config.customers.items():
        if customer.tier not in config.tiers:
            yield problem(
                "E015", f"names the tier {shown(customer.tier)}, which is not defined", "customers", name, "tier"
            )
        for place, key_hash in enumerate(customer.key_hashes, 1):
            if owners.setdefault(key_hash, name) != name:
                message = f"item {place} is already a key of the customer {shown(owners[key_hash])}"
                yield problem("E014", message, "customers", name, "key_hashes")
    if COMMON_POOL in config.pools:
        yield problem("E022", "is the name of the common slots; their number is max_concurrent", "pools", COMMON_POOL)
    for index, route in enumerate(config.routes):
        if route.pool != COMMON_POOL and route.pool not in config.pools:
            yield problem("E016", f"names the pool {shown(route.pool)}, which is not defined", "routes", index, "pool")


_SIMPLE: Final[tuple[tuple[str, str, Callable[[InboundConfig], object], str], ...]] = (
    ("W001", "max_wait", lambda c: c.max_wait == 0, "is 0: whatever cannot start at once is refused"),
    ("W002", "unverified_share", lambda c: c.unverified_share == 1, "is 1: nothing is kept for verified customers"),
    (
        "W003",
        "trust_keys",
        lambda c: c.trust_keys and not c.trusted_proxies,
        "is true, but trusted_proxies is empty: if callers come directly, whoever forges keys gains a share for each",
    ),
    (
        "W008",
        "enforce",
        lambda c: not c.enforce,
        "is false: requests are decided about, but none is delayed or refused",
    ),
    ("W008", "enabled", lambda c: not c.enabled, "is false: every request passes untouched"),
    (
        "W009",
        "max_wait",
        lambda c: c.max_wait > _LONG_WAIT_S,
        "is longer than clients, proxies and servers usually wait",
    ),
    ("W009", "max_hold", lambda c: c.max_hold > _LONG_HOLD_S, "lets a slow reader hold a slot for minutes"),
    (
        "W022",
        "redis_url",
        lambda c: c.redis_url,
        "is not used by this version: each process is fair by itself, and every limit holds in each",
    ),
    (
        "W011",
        "max_queue",
        lambda c: c.max_queue >= c.max_queue_total,
        "is not below max_queue_total: one key may fill the whole queue",
    ),
    (
        "W012",
        "max_concurrent",
        lambda c: c.max_concurrent and 0 < c.max_concurrent_total < c.max_concurrent,
        "is above max_concurrent_total and can never be reached",
    ),
    (
        "W014",
        "max_concurrent_total",
        lambda c: c.max_concurrent_total and not c.redis_url,
        "holds in each process by itself: there is no redis_url",
    ),
)


def doubts_about(config: InboundConfig, layers: Sequence[Layer]) -> Iterator[Problem]:
    """What the config allows but hardly anybody means, each with the place that decided it."""

    def doubt(id: str, message: str, *path: str | int) -> Problem:
        return Problem(id, (*ROOT, *path), origin(layers, path), message)

    for id, key, applies, message in _SIMPLE:
        if applies(config):
            yield doubt(id, message, key)
    yield from _about_identity(config, layers, doubt)
    yield from _about_customers(config, doubt)


def _about_identity(config: InboundConfig, layers: Sequence[Layer], doubt: Callable[..., Problem]) -> Iterator[Problem]:
    for place, pattern in enumerate(config.exempt, 1):
        if "*" in pattern and not pattern.strip("/*"):
            yield doubt("W004", f"item {place} lets every request through", "exempt")
    said = (layer.at(("client_header",)) for layer in layers if not isinstance(layer.tree, Table))
    if not config.trusted_proxies and any(value is not MISSING for value in said):
        yield doubt("W005", "is never read: trusted_proxies is empty", "client_header")
    for place, network in enumerate(config.trusted_proxies, 1):
        if not isinstance(network, str) and network.prefixlen == 0:
            yield doubt("W006", f"item {place} trusts every address", "trusted_proxies")
    if config.secret is not None:
        decisive = next((layer for layer in layers if layer.at(("secret",)) is not MISSING), None)
        written = decisive.at(("secret",)) if decisive is not None and decisive.source == "file" else None
        if isinstance(written, str) and not written.startswith("env:"):
            yield doubt("W007", 'stands in the file; "env:NAME" would keep it out', "secret")
        if len(config.secret.reveal()) < _SHORT_SECRET:
            yield doubt("W007", f"is shorter than {_SHORT_SECRET} bytes and may be guessed", "secret")
    elif config.usage_db and (config.trust_keys or config.identify == "user"):
        yield doubt("W019", "is set without secret: keys are hashed with another one after each restart", "usage_db")


def _about_customers(config: InboundConfig, doubt: Callable[..., Problem]) -> Iterator[Problem]:
    if config.identify in ("ip", "user") and any(customer.key_hashes for customer in config.customers.values()):
        yield doubt("W015", "reads no key, but customers list theirs", "identify")
    if config.resolve is None:
        for name, customer in config.customers.items():
            if not customer.key_hashes and not config.trust_keys:
                yield doubt(
                    "W016", "lists no key_hashes, and there is no resolve that could name it", "customers", name
                )
        led_to = {"default", "unverified"} | {customer.tier for customer in config.customers.values()}
        for name in config.tiers:
            if name not in led_to:
                message = "is named by no customer, and there is no resolve that could name it"
                yield doubt("W016", message, "tiers", name)
    for name, tier in config.tiers.items():
        if tier.max_concurrent and 0 < config.max_concurrent_total < tier.max_concurrent:
            yield doubt(
                "W012", "is above max_concurrent_total and can never be reached", "tiers", name, "max_concurrent"
            )
        if tier.quota and not config.usage_db and not config.redis_url:
            yield doubt(
                "W017", "is counted in memory only: neither usage_db nor redis_url is set", "tiers", name, "quota"
            )
        if not tier.quota and (tier.overage == "allow" or tier.overage_price):
            key = "overage" if tier.overage == "allow" else "overage_price"
            yield doubt("W018", "has no effect without a quota", "tiers", name, key)
