"""Values of the config that no message, ``repr`` or log may show: the secret, addresses with passwords, key hashes."""

from __future__ import annotations

import hmac
import re
from urllib.parse import urlsplit

from .kinds import Kind, Report, shown

__all__ = ["Secret", "key_hash", "redacted_url", "redis_url", "secret"]


class Secret:
    """Bytes that no ``repr``, ``str`` or format shows; only ``reveal`` hands them out.

    Raises UnicodeEncodeError for a text with lone surrogates other than those by which Python keeps the bytes of the
    environment.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str | bytes) -> None:
        self._value = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")

    def reveal(self) -> bytes:
        """The bytes themselves, to key a hash with; never to be printed or stored."""
        return self._value

    def __eq__(self, other: object) -> bool:
        return hmac.compare_digest(self._value, other._value) if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "Secret(***)"


def secret() -> Kind:
    """Bytes or a text that becomes a ``Secret``; no message shows it."""
    expects = 'a secret text, best as "env:NAME"'

    def check(value: object, report: Report) -> Secret | None:
        if isinstance(value, Secret):
            return value
        if _is_unset(value, report):
            return None
        if isinstance(value, str | bytes) and value:
            try:
                return Secret(value)
            except UnicodeEncodeError:
                pass
        report("E004", "must be a text that is not empty (its value is not shown)")
        return None

    return Kind(expects, check, indirect=True)


def _is_unset(value: object, report: Report) -> bool:
    # Variables are read where the sources are, before any check; what arrives here was not found.
    unset = isinstance(value, str) and value.startswith("env:")
    if unset:
        report("E010", f"{shown(value)} names a variable of the environment that is not set")
    return unset


def redis_url() -> Kind:
    """The address of a Redis or Valkey; it may hold a password, so no message shows it."""
    expects = "a redis://, rediss:// or unix:// URL"

    def check(value: object, report: Report) -> str | None:
        if _is_unset(value, report):
            return None
        if isinstance(value, str) and redacted_url(value):
            return str(value)
        report("E012", f"must be {expects} (its value is not shown)")
        return None

    return Kind(expects, check, indirect=True)


def redacted_url(url: str) -> str:
    """The URL without user, password and query, fit to be shown; empty when it is no URL of a Redis."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return ""
    if parts.scheme == "unix" and parts.path.isprintable() and parts.path.strip("/"):
        return f"unix://{parts.path}"
    # A path that is no number of a database may be the rest of a password with an unescaped slash.
    if parts.scheme in ("redis", "rediss") and host.isprintable() and host and re.fullmatch(r"(/\d*)?", parts.path):
        address = f"[{host}]" if ":" in host else host
        return f"{parts.scheme}://{address}{f':{port}' if port else ''}{parts.path}"
    return ""


def key_hash() -> Kind:
    """``sha256$`` and 64 hexadecimal digits; whatever else stands there may be a raw key, so no message shows it."""
    expects = '"sha256$" and 64 hexadecimal digits'

    def check(value: object, report: Report) -> str:
        if isinstance(value, str) and re.fullmatch(r"sha256\$[0-9a-fA-F]{64}", value):
            return value.lower()
        report("E013", f"must be {expects} (a raw key? hash it with `ezthrottle hash-key`; the value is not shown)")
        return ""

    return Kind(expects, check)
