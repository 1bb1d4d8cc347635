"""Calls that a provider makes to its own API while it serves a request: they pass at once, charged to that customer.

Without this such an API can deadlock: every slot is held by a request that waits for a nested one, which waits for a
slot. The marker is signed with the provider's secret, names the customer by its (hashed) id and expires, so that one
that leaks is worth little. It is only looked at when a request would otherwise have to wait.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from ezthrottle_provider.headers import NESTED_CALL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ezthrottle_provider.scheduling import Caller

__all__ = ["Marker", "nested_headers"]

_LIFETIME_S: Final = 30.0
_LONGEST: Final = 1024
_DIGEST_BYTES: Final = 16


class Marker:
    """Signs and checks markers. ``clock`` gives seconds since the epoch: the call may reach another process."""

    __slots__ = ("_clock", "_secret")

    def __init__(self, secret: bytes, clock: Callable[[], float]) -> None:
        self._secret = secret
        self._clock = clock

    def sign(self, caller: Caller) -> str:
        """Return a marker for calls on behalf of a customer, valid for 30 s."""
        kind = "v" if caller.verified else "u"
        name = urlsafe_b64encode(caller.customer.encode()).decode()
        text = f"{int(self._clock() + _LIFETIME_S)}.{kind}.{name}"
        return f"{text}.{self._signature(text)}"

    def read(self, headers: Iterable[tuple[bytes, bytes]]) -> tuple[str, bool] | None:
        """Return (customer, verified) of a valid marker among request headers, else None; never raises."""
        for name, value in headers:
            if name == NESTED_CALL:
                return self._check(value)
        return None

    def _check(self, value: bytes) -> tuple[str, bool] | None:
        if len(value) > _LONGEST or not value.isascii():
            return None
        text, _, signature = value.decode("ascii").rpartition(".")
        if not hmac.compare_digest(signature, self._signature(text)):
            return None
        try:
            expires, kind, name = text.split(".")
            if float(expires) < self._clock():
                return None
            return urlsafe_b64decode(name).decode(), kind == "v"
        except (ValueError, NotBase64):
            return None

    def _signature(self, text: str) -> str:
        key = self._secret[:64]
        return hashlib.blake2b(text.encode(), key=key, digest_size=_DIGEST_BYTES, person=b"nested").hexdigest()


def nested_headers(request: Any) -> dict[str, str]:
    """Return the header to add to calls that the handler of ``request`` makes to its own API; {} outside the queue.

    ``request`` is the framework's request, or an ASGI scope. Such calls pass the queue at once and are charged to the
    customer whose request makes them. Send the header to nobody else: whoever has it skips the queue for 30 s.
    """
    scope = request if isinstance(request, Mapping) else getattr(request, "scope", {})
    ticket = scope.get("ezthrottle")
    if ticket is None:
        return {}
    marker: Marker = scope["ezthrottle.marker"]
    return {NESTED_CALL.decode(): marker.sign(ticket.caller)}
