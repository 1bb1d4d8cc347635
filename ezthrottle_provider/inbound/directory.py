"""The directory: from the key and the address of a request to the caller that the scheduler knows.

Who a key belongs to is decided once and remembered for at most a minute, so that a request of a known caller costs one
look-up. In this order: a customer of the config that lists the key's hash; the customer that the user's ``resolve``
names; the key itself, where something in front of us or the framework has verified it; else nobody, and the caller is
one of the unverified ones of its address. A raw key is held in memory as an index of that cache and nowhere else.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from itertools import islice
from typing import Any, Final, Protocol, TypeVar
from weakref import WeakValueDictionary

from ezthrottle_provider.customers import (
    ClientAddress,
    Customer,
    Key,
    Network,
    hash_key,
    key_bytes,
    key_extractor,
    public_hash,
)
from ezthrottle_provider.inbound.lookups import Answer
from ezthrottle_provider.inbound.resolver import Resolver
from ezthrottle_provider.scheduling.callers import Caller, Terms

__all__ = ["CustomerLike", "Directory", "TierLike"]

MAX_REMEMBERED: Final = 10_000
REMEMBERED_FOR_S: Final = 60.0
MAX_INDEX_LENGTH: Final = 256
"""Longer keys are indexed by their hash: the cache holds 10,000 of whatever anybody sends."""

T = TypeVar("T")

_ALWAYS: Final = ("default", "unverified")
_NO_TIER: Final = Terms()
_MAX_REPORTED: Final = 100

logger = logging.getLogger(__name__)


class TierLike(Protocol):
    """What the directory reads of a tier. Its limits are each customer's; on a shared queue, those of all together."""

    @property
    def weight(self) -> float: ...
    @property
    def rps(self) -> float | None: ...
    @property
    def max_concurrent(self) -> int | None: ...
    @property
    def shared_queue(self) -> bool: ...


class CustomerLike(Protocol):
    """What the directory reads of a customer that the config lists; ``None`` leaves the tier's value."""

    @property
    def tier(self) -> str: ...
    @property
    def key_hashes(self) -> Collection[str]: ...
    @property
    def weight(self) -> float | None: ...
    @property
    def rps(self) -> float | None: ...
    @property
    def max_concurrent(self) -> int | None: ...


class _OwnTerms(Terms):
    """Terms of one customer whose weight or limits differ from its tier's; found again by its id while in use."""

    __slots__ = ("__weakref__", "own_weight", "tier")

    def __init__(self) -> None:
        super().__init__()
        self.tier = ""
        self.own_weight: float | None = None  # from resolve; what the config lists is looked up


class Directory:
    """Knows every caller; its callers' terms follow ``update`` at once, also those of requests that already wait.

    ``tiers`` and ``customers`` map names to what the config says of them. Customers without a tier, or with one that
    does not exist, get the tier ``default``, callers that nobody verified ``unverified``; both weigh 1 where they
    are not configured. ``secret`` keys every hash. ``on_failure``, which must not raise, hears of failures of the
    user's functions by the name of their exception, and of unknown tiers as ``"UnknownTier"``. Thread-safe.
    """

    def __init__(
        self,
        *,
        identify: str | Callable[..., Any],
        secret: bytes,
        trust_keys: bool = False,
        resolve: Callable[[str], Customer | None] | Callable[[str], Awaitable[Customer | None]] | None = None,
        tiers: Mapping[str, TierLike] | None = None,
        customers: Mapping[str, CustomerLike] | None = None,
        trusted_proxies: Iterable[Network | str] = (),
        client_header: str = "x-forwarded-for",
        on_failure: Callable[[str], None] = lambda name: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.key_of = key_extractor(identify, on_failure=on_failure)
        self.address_of = ClientAddress(trusted_proxies, client_header).address
        self.resolver = None if resolve is None else Resolver(resolve, on_failure=on_failure, clock=clock)
        self._by_ip = identify == "ip"
        self._verified_prefix = "user:" if identify == "user" else "key:" if trust_keys else ""
        self._trust_addresses = trust_keys and self._by_ip
        self._secret = secret
        self._on_failure = on_failure
        self._clock = clock
        self._lock = threading.Lock()
        self._sweep_at = clock() + REMEMBERED_FOR_S
        # Apart, so that invented keys never push out those of customers.
        self.by_key: dict[object, tuple[float, Caller]] = {}
        self._by_address: dict[object, tuple[float, Caller]] = {}
        self._terms = {name: Terms() for name in _ALWAYS}
        self._own_terms: WeakValueDictionary[str, _OwnTerms] = WeakValueDictionary()
        self._unknown_tiers: set[str] = set()
        self.update(tiers=tiers or {}, customers=customers or {})

    def __repr__(self) -> str:
        return f"<Directory tiers={len(self._tiers)} callers={len(self.by_key) + len(self._by_address)}>"

    def caller(self, key: Key | None, address: str) -> Caller | None:
        """Whose request this is; ``None`` exactly when the user's ``resolve`` has to be asked, by ``find``."""
        now = self._clock()
        index: object = key
        if key is not None and len(key) > MAX_INDEX_LENGTH:
            index = self._index(key)
        known = self.by_key.get(index) or self._by_address.get((index, address))
        if known is not None and now < known[0]:
            return known[1]
        return self._classify(key, address, now)

    async def find(self, key: Key | None, address: str) -> Caller:
        """Whose request this is, by asking ``resolve``; within two seconds, and whatever it does there is a caller."""
        assert self.resolver is not None
        answer = await self.resolver.resolve(address if key is None else key, address)
        return self._take(key, address, answer)

    def find_blocking(self, key: Key | None, address: str) -> Caller:
        """The same for a thread, which it blocks."""
        assert self.resolver is not None
        answer = self.resolver.resolve_blocking(address if key is None else key, address)
        return self._take(key, address, answer)

    def update(self, *, tiers: Mapping[str, TierLike], customers: Mapping[str, CustomerLike]) -> None:
        """Replace what the config says of all tiers and customers; what waits is re-weighted where it waits.

        A request that waits keeps its queue and its tier, and a customer that was not listed gets terms of its own
        with its next request.
        """
        with self._lock:
            self._tiers = dict(tiers)
            self._customers = dict(customers)
            self._ids = {known: id_ for id_, entry in customers.items() for known in entry.key_hashes}
            for name in self._terms.keys() | tiers.keys():
                terms = self._terms.setdefault(name, Terms())
                tier = tiers.get(name) or (None if name == "unverified" else tiers.get("default"))
                _assign(terms, tier or _NO_TIER)
                if name not in tiers and name not in _ALWAYS:
                    del self._terms[name]
            for identity, own in list(self._own_terms.items()):
                self._settle_own(identity, own)
            self.by_key.clear()
            self._by_address.clear()

    def _classify(self, key: Key | None, address: str, now: float) -> Caller | None:
        with self._lock:
            id_ = self._ids.get(public_hash(key_bytes(key))) if key is not None and self._ids else None
            if id_ is not None:
                caller = self._make("id:" + id_, self._hash(key), tier=self._customers[id_].tier)
            elif self.resolver is not None and (key is not None or self._by_ip):
                return None
            else:
                caller = self._unresolved(key, address)
            self._remember(key, address, caller, now, now + REMEMBERED_FOR_S)
        return caller

    def _take(self, key: Key | None, address: str, answer: Answer) -> Caller:
        customer = answer.customer
        with self._lock:
            if customer is None:
                caller = self._unresolved(key, address)
            else:
                listed = self._customers.get(customer.id)
                tier = customer.tier or (listed.tier if listed is not None else "")
                identity, hashed = "id:" + customer.id, self._hash(key)
                caller = self._make(identity, hashed, tier=tier, weight=customer.weight, priority=customer.priority)
            self._remember(key, address, caller, self._clock(), answer.until)
        if customer is not None and customer.tier and customer.tier != caller.tier:
            self._report_tier(customer.tier)
        return caller

    def _unresolved(self, key: Key | None, address: str) -> Caller:
        hashed = self._hash(key)
        if key is not None and self._verified_prefix:
            return self._make(self._verified_prefix + hashed, hashed)
        if self._trust_addresses:
            return self._make("ip:" + address, hashed)
        return self._make("ip:" + address, hashed, tier="unverified", verified=False)

    def _make(
        self,
        identity: str,
        key: str,
        *,
        tier: str = "",
        weight: float | None = None,
        priority: int = 5,
        verified: bool = True,
    ) -> Caller:
        if tier not in self._terms:
            tier = "default"
        terms, settings = self._terms[tier], self._tiers.get(tier)
        if settings is not None and settings.shared_queue:
            return Caller("tier:" + tier, identity, verified, terms, priority, tier, account_queue=False)
        own = self._own_terms.get(identity)
        if own is None and (weight is not None or self._listed(identity) is not None):
            own = self._own_terms[identity] = _OwnTerms()
        if own is not None:
            own.tier, own.own_weight = tier, weight
            self._settle_own(identity, own)
        return Caller(identity, key, verified, terms if own is None else own, priority, tier)

    def _settle_own(self, identity: str, own: _OwnTerms) -> None:
        # Each value is assigned once: the scheduler may read it at any moment, and must not see the tier's in between.
        tier, listed = self._terms.get(own.tier, self._terms["default"]), self._listed(identity)
        if listed is None:
            own.weight, own.rps, own.max_concurrent = _first(own.own_weight, tier.weight), tier.rps, tier.max_concurrent
        else:
            own.weight = _first(own.own_weight, _first(listed.weight, tier.weight))
            own.rps = _first(listed.rps, tier.rps)
            own.max_concurrent = _first(listed.max_concurrent, tier.max_concurrent)

    def _listed(self, identity: str) -> CustomerLike | None:
        return self._customers.get(identity[3:]) if identity.startswith("id:") else None

    def _remember(self, key: Key | None, address: str, caller: Caller, now: float, until: float) -> None:
        if now >= self._sweep_at:
            self._sweep_at = now + REMEMBERED_FOR_S
            for table in (self.by_key, self._by_address):
                for index in [index for index, known in table.items() if known[0] <= now]:
                    del table[index]
        index = self._index(key)
        self.by_key.pop(index, None)
        self._by_address.pop((index, address), None)
        if key is not None and caller.verified:
            table, place = self.by_key, index
        else:
            table, place = self._by_address, (index, address)
        if len(table) >= MAX_REMEMBERED:
            # The older half at once: a dict keeps the order, but is slow at losing its first entry again and again.
            for old in list(islice(table, MAX_REMEMBERED // 2)):
                del table[old]
        table[place] = (until, caller)

    def _index(self, key: Key | None) -> object:
        # A tuple, which no key is: nobody can present the hash of another's long key in its place.
        return (self._hash(key),) if key is not None and len(key) > MAX_INDEX_LENGTH else key

    def _hash(self, key: Key | None) -> str:
        return "-" if key is None else hash_key(key_bytes(key), self._secret)

    def _report_tier(self, name: str) -> None:
        if name not in self._unknown_tiers and len(self._unknown_tiers) < _MAX_REPORTED:
            self._unknown_tiers.add(name)
            logger.warning("resolve names the tier %r, which is not configured; such customers get the default", name)
        self._on_failure("UnknownTier")


def _first(own: T | None, else_: T) -> T:
    return else_ if own is None else own


def _assign(terms: Terms, source: TierLike | Terms) -> None:
    terms.weight, terms.rps, terms.max_concurrent = source.weight, source.rps, source.max_concurrent
