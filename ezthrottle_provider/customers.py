"""Who is asking: the customer, the key that a request presents, and the network address that it comes from.

Three rules hold everywhere below.

1. A raw key leaves this module only as a keyed hash: no ``repr``, error text or log line ever holds one.
2. What cannot be told for certain counts as not given: two keys at once are no key, a forwarded address that does not
   parse ends the walk. A caller can lose an identity by sending nonsense, never gain one.
3. Nothing that a caller sends costs more than a bounded amount of work or memory.
"""

from __future__ import annotations

import hashlib
import inspect
import ipaddress
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise
from typing import Any, Final, NamedTuple
from uuid import UUID

__all__ = [
    "ClientAddress",
    "Customer",
    "check_key_strength",
    "hash_key",
    "key_extractor",
    "public_hash",
]

Headers = Iterable[tuple[bytes, bytes]]
Key = bytes | str
KeyExtractor = Callable[[Headers, Mapping[str, Any]], Key | None]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_KEY_LENGTH: Final = 8192
"""Longer than any token in use (servers refuse header lines of 8 to 64 KiB); what is longer counts as no key."""


@dataclass(frozen=True, slots=True)
class Customer:
    """The account behind a key: what ``resolve`` returns.

    ``id`` names the account in metrics, pages and Redis, so it must not be the key. ``tier`` names a configured tier
    (empty: the one called ``default``). ``weight`` (> 0) replaces the tier's; ``priority`` (0-9, higher first) orders
    this customer's own requests and never those of others.

    Raises ``TypeError`` or ``ValueError`` for anything else.
    """

    id: str
    _: KW_ONLY
    tier: str = ""
    weight: float | None = None
    priority: int = 5

    def __post_init__(self) -> None:
        _check_label("id", self.id, at_most=256)
        if not self.id:
            raise ValueError("a customer's id must not be empty")
        _check_label("tier", self.tier, at_most=64)
        if self.weight is not None:
            if isinstance(self.weight, bool) or not isinstance(self.weight, (int, float)):
                raise TypeError("a customer's weight must be a number or None")
            if not (self.weight > 0 and math.isfinite(self.weight)):
                raise ValueError("a customer's weight must be finite and above 0")
        if isinstance(self.priority, bool) or not isinstance(self.priority, int):
            raise TypeError("a customer's priority must be an int")
        if not 0 <= self.priority <= 9:
            raise ValueError("a customer's priority must be from 0 to 9")


def _check_label(name: str, value: object, *, at_most: int) -> None:
    if not isinstance(value, str):
        raise TypeError(f"a customer's {name} must be a str")
    # Printable: it ends up in log lines, metric labels and UTF-8 encoded Redis keys, where control characters and
    # lone surrogates do harm. The value itself stays out of the message: somebody may have passed a key.
    if len(value) > at_most or not value.isprintable():
        raise ValueError(f"a customer's {name} must be printable and at most {at_most} characters")


# Hashes


def key_bytes(key: Key) -> bytes:
    """The bytes of a key that are hashed, whatever type its extractor returned."""
    return key if isinstance(key, bytes) else key.encode("utf-8", "surrogatepass")


def hash_key(raw: bytes, secret: bytes) -> str:
    """The keyed hash under which a key is known everywhere outside this process's memory: 32 hex digits.

    BLAKE2b in its keyed mode (RFC 7693) with a digest of 16 bytes. Raises ``ValueError`` for an empty secret.
    """
    if len(secret) > 64:
        secret = hashlib.blake2b(secret).digest()
    elif not secret:
        raise ValueError("the secret that keys are hashed with must not be empty")
    return hashlib.blake2b(raw, digest_size=16, key=secret).hexdigest()


def public_hash(raw: bytes) -> str:
    """The unkeyed hash that a config file may list under ``key_hashes``: ``sha256$`` and 64 hex digits.

    It can be searched by brute force, so only keys that pass ``check_key_strength`` should be listed.
    """
    return "sha256$" + hashlib.sha256(raw).hexdigest()


_ALPHABETS: Final = ((re.compile(r"[0-9]+"), 10), (re.compile(r"[0-9a-f]+|[0-9A-F]+"), 16))
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def check_key_strength(raw: bytes) -> None:
    """Refuse a key that does not look like 128 random bits, so that publishing its hash gives nothing away.

    Raises ``ValueError`` with the reason, never with the key. The estimate is from above: it counts the alphabet in
    use times the length and looks for repetition and sequences. A pass-phrase can look random to it.
    """
    if len(raw) > MAX_KEY_LENGTH:
        raise ValueError(f"the key is longer than {MAX_KEY_LENGTH} bytes and would never be accepted")
    text = raw.decode("latin-1")
    if _UUID.fullmatch(text):
        raise ValueError("a UUID holds at most 122 random bits; 128 are needed")
    tail = text[-64:]  # the end: keys have a constant prefix, and this much is 200 bits even of digits
    letters = "".join(character for character in tail if character.isalnum())
    alphabet = next((size for pattern, size in _ALPHABETS if pattern.fullmatch(letters)), 0)
    if not alphabet:
        alphabet = 36 if letters in (letters.lower(), letters.upper()) else 62
    bits = len(tail) * math.log2(alphabet)
    if bits < 128:
        raise ValueError(f"the key looks like at most {int(bits)} random bits; 128 are needed")
    triples = len(tail) - 2
    if len({tail[i : i + 3] for i in range(triples)}) < 0.75 * triples:
        raise ValueError("the key repeats itself; 128 random bits are needed")
    steps = sum(abs(ord(left) - ord(right)) <= 1 for left, right in pairwise(tail))
    if steps > len(tail) / 2:
        raise ValueError("the key looks like a sequence; 128 random bits are needed")


# Keys


def key_extractor(
    identify: str | Callable[..., Any], *, on_failure: Callable[[str], None] | None = None
) -> KeyExtractor:
    """The function ``(headers, scope) -> key or None`` for one value of ``identify``.

    ``header:NAME`` takes that header's value, ``bearer`` the token of ``Authorization``, ``user`` whoever the framework
    has authenticated (``scope["user"]``: its middleware must run outside ours), and ``ip`` takes nothing. A function is
    asked with the same arguments. Header names are lower-case bytes, as ASGI has them. An exception of the user's code
    is passed to ``on_failure`` by its type's name and means no key.

    Raises ``ValueError`` for a spec that is none of these, or a function that is async.
    """
    if not isinstance(identify, str):
        if is_async(identify):
            raise ValueError("identify is async; only resolve may be")
        return _guarded(identify, on_failure)
    if identify == "ip":
        return lambda headers, scope: None
    if identify == "bearer":
        return _bearer_token
    if identify == "user":
        return _guarded(_framework_user, on_failure)
    kind, _, name = identify.partition(":")
    if kind == "header":
        return _header_value(name)
    raise ValueError('identify must be "header:NAME", "bearer", "ip", "user" or a function')


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it makes a coroutine: an ``async def``, a partial of one, an object with such a ``__call__``."""
    return any(map(inspect.iscoroutinefunction, (function, type(function).__call__)))


def _header_value(name: str) -> KeyExtractor:
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
        raise ValueError("identify = header:NAME needs the name of a header")
    wanted = name.lower().encode("ascii")

    def extract(headers: Headers, scope: Mapping[str, Any]) -> bytes | None:
        found = None
        for header, value in headers:
            if header == wanted:
                if found is not None and found != value:
                    return None
                found = value
        if found is None or len(found) > MAX_KEY_LENGTH:
            return None
        return found.strip(b" \t") or None

    return extract


_authorization: Final = _header_value("authorization")


def _bearer_token(headers: Headers, scope: Mapping[str, Any]) -> bytes | None:
    value = _authorization(headers, scope)
    if not isinstance(value, bytes) or value[:7].lower() != b"bearer ":
        return None
    return value[7:].strip(b" \t") or None


def _framework_user(headers: Headers, scope: Mapping[str, Any]) -> Key | None:
    user = scope.get("user")
    # "is True", for a user class on which it is a method would make everybody authenticated.
    if user is None or getattr(user, "is_authenticated", None) is not True:
        return None
    for attribute in ("identity", "display_name"):
        try:
            name = getattr(user, attribute)
        except (AttributeError, NotImplementedError):  # Starlette's BaseUser raises the latter
            continue
        # Only what has a stable text: the repr of some object would make every request a customer of its own.
        if isinstance(name, (str, int, UUID)):
            return str(name)
    return None


def _guarded(function: Callable[..., Any], on_failure: Callable[[str], None] | None) -> KeyExtractor:
    def extract(headers: Headers, scope: Mapping[str, Any]) -> Key | None:
        try:
            key = function(headers, scope)
            if key is not None and not isinstance(key, (bytes, str)):
                raise TypeError("identify must return bytes, str or None")
        except Exception as error:  # the user's code may raise anything; a request without a key is still served
            if on_failure is not None:
                on_failure(type(error).__name__)
            return None
        return key if key and len(key) <= MAX_KEY_LENGTH else None

    return extract


# Addresses


class _Hop(NamedTuple):
    address: str
    trusted: bool


_MAX_HOPS: Final = 32
_MAX_HEADER_BYTES: Final = 8192
_MAX_HOP_BYTES: Final = 64
_MAX_KNOWN: Final = 4096
_WITH_PORT: Final = re.compile(r"(?:\[([^\]]*:[^\]]*)\]|([0-9.]+))(?::(?:[0-9]{1,5}|_[0-9A-Za-z._-]+))?")
_PAIR: Final = re.compile(
    rb"[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)=" rb'([!#$%&\'*+.^_`|~0-9A-Za-z-]+|"(?:[^"\\]|\\.)*")[ \t]*(?:;|\Z)'
)


class ClientAddress:
    """The network address that a request is accounted to: IPv4 whole, IPv6 by its /48.

    Only when the direct peer is one of ``trusted_proxies`` (networks, or ``"unix"`` for the other end of a unix
    socket) is ``client_header`` believed, and it is read from the right: each entry was written by the hop before it,
    so the first one that is not a trusted proxy is the client, and what stands to its left is its own invention. An
    entry that does not parse stops the walk at the last good hop. ``forwarded`` is read as RFC 7239 says, any other
    header as a list of addresses.
    """

    def __init__(self, trusted_proxies: Iterable[Network | str] = (), client_header: str = "x-forwarded-for") -> None:
        trusted = tuple(trusted_proxies)
        self._networks = tuple(proxy for proxy in trusted if not isinstance(proxy, str))
        self._header = client_header.lower().encode("latin-1")
        self._local = _Hop("local", "unix" in trusted)
        # What a server says of its peer and what a header claims are kept apart: only the former may name no address.
        self._peers: dict[str | None, _Hop] = {}
        self._hops: dict[bytes, _Hop] = {}

    def address(self, peer: str | None, headers: Headers) -> str:
        """The address of one request; never raises. ``peer``: the other end of the connection, ``None`` if unknown."""
        hop = self._peers.get(peer) or self._meet(peer)
        if not hop.trusted:
            return hop.address
        for entry in self._entries(headers):
            claimed = self._hops.get(entry) or self._parse(entry)
            if claimed is None:
                break
            hop = claimed
            if not hop.trusted:
                break
        return hop.address

    def _entries(self, headers: Headers) -> list[bytes]:
        """What the client header says, the nearest hop first, at most 32 hops and 8 KiB of it."""
        lines = [value for name, value in headers if name == self._header]
        if not lines:
            return []
        text = b",".join(lines)
        if len(text) > _MAX_HEADER_BYTES:
            text = text[-_MAX_HEADER_BYTES:].partition(b",")[2]  # the first entry may be a part of one
        entries = text.rsplit(b",", _MAX_HOPS)[-_MAX_HOPS:]
        entries.reverse()
        return entries

    def _meet(self, peer: str | None) -> _Hop:
        ip = _parse_ip(peer) if peer else None
        if ip is not None:
            hop = self._hop(ip)
        elif not peer or peer.startswith(("/", "unix:")):
            hop = self._local
        else:  # a server that knows its peer by some other name, such as a test client
            hop = _Hop(peer[:_MAX_HOP_BYTES] if peer.isprintable() else "local", False)
        if len(self._peers) >= _MAX_KNOWN:
            self._peers.clear()
        self._peers[peer] = hop
        return hop

    def _parse(self, entry: bytes) -> _Hop | None:
        node = _forwarded_for(entry) if self._header == b"forwarded" else entry
        ip = _parse_ip(node.decode("latin-1").strip(" \t")) if node is not None else None
        if ip is None:
            return None
        hop = self._hop(ip)
        if len(entry) <= _MAX_HOP_BYTES:
            if len(self._hops) >= _MAX_KNOWN:
                self._hops.clear()
            self._hops[entry] = hop
        return hop

    def _hop(self, ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> _Hop:
        trusted = any(ip in network for network in self._networks)
        if ip.version == 4:
            return _Hop(str(ip), trusted)
        return _Hop(f"{ipaddress.IPv6Address(int(ip) >> 80 << 80)}/48", trusted)


def _parse_ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address in ``1.2.3.4``, ``1.2.3.4:80``, ``2001:db8::1`` or ``[2001:db8::1]:80``; a mapped IPv4 as such."""
    if len(text) > _MAX_HOP_BYTES:
        return None
    with_port = _WITH_PORT.fullmatch(text)
    try:
        ip = ipaddress.ip_address((with_port[1] or with_port[2]) if with_port else text)
    except ValueError:
        return None
    return ip.ipv4_mapped or ip if isinstance(ip, ipaddress.IPv6Address) else ip


def _forwarded_for(element: bytes) -> bytes | None:
    """The node of the ``for`` parameter of one ``Forwarded`` element; ``None`` unless the element is well-formed.

    The header was split at every comma, also at those inside a quoted string. That is safe because such a piece ends
    with a quote that it does not open, so it is no element by this strict grammar and the walk stops there.
    """
    node, position = None, 0
    while position < len(element):
        pair = _PAIR.match(element, position)
        if pair is None:
            return None
        if pair[1].lower() == b"for":
            if node is not None:
                return None
            node = pair[2].strip(b'"')
        position = pair.end()
    return node
