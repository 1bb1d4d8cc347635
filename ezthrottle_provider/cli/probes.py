"""Requests to a deployment, by the standard library alone: few of them, bounded, and never through a proxy.

A key may be among the headers, so no error here quotes a header; and what a server sends is counted and cut.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, quote, urlsplit

from ezthrottle_provider.headers import PROBLEM_JSON, Pace, parse

__all__ = ["Answer", "Headers", "Prober", "UnansweredError"]

Headers = Sequence[tuple[str, bytes]]

_MOST_BODY: Final = 64 * 1024
_REFUSAL_TYPE: Final = "urn:ezthrottle:problem:"
_PACE_NAME: Final = re.compile(r"x-(ezthrottle|aqueduct)-(rps|max-concurrent|account-queue)")


class UnansweredError(Exception):
    """A request that no answer came to; the text says why, in one phrase."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One response: its headers in lower case and in order, and the body only if it is short."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    elapsed_s: float

    @property
    def pace(self) -> Pace:
        """What it says about pace."""
        return parse(self.headers, now=time.time())

    @property
    def pace_headers(self) -> tuple[tuple[str, str], ...]:
        """The headers of ours that it carries."""
        return tuple(pair for pair in self.headers if _PACE_NAME.fullmatch(pair[0]))

    @property
    def refusal(self) -> str | None:
        """The limit that was met, if this is a refusal of ours."""
        if self.status not in (429, 503) or self.first("content-type").partition(";")[0] != PROBLEM_JSON.decode():
            return None
        try:
            kind = json.loads(self.body)["type"]
        except (ValueError, LookupError, TypeError, RecursionError):
            return None
        found = isinstance(kind, str) and kind.startswith(_REFUSAL_TYPE)
        return kind.removeprefix(_REFUSAL_TYPE)[:64] if found else None

    def first(self, name: str) -> str:
        """The first value of a header, or an empty text."""
        return next((value.strip() for header, value in self.headers if header == name), "")


class Prober:
    """Sends at most ``budget`` requests to one URL and its origin, each on a connection of its own.

    Raises ``ValueError`` for a URL that it cannot or should not ask. A redirect is an answer like any other.
    """

    def __init__(self, url: str, *, timeout_s: float, budget: int, agent: str) -> None:
        self._parts = _checked(url)
        self._timeout_s = timeout_s
        self._budget = budget
        self._agent = agent
        self._tls = ssl.create_default_context() if self._parts.scheme == "https" else None
        self.sent = 0
        self.source = ""
        """The address that the last request came from."""

    @property
    def left(self) -> int:
        """How many more requests may be sent."""
        return self._budget - self.sent

    @property
    def path(self) -> str:
        """The path of the URL, as the app sees it."""
        return quote(self._parts.path or "/", safe="/%:@!$&'()*+,;=~-._")

    @property
    def shown(self) -> str:
        """The URL without its query, which may hold a key."""
        return f"{self._parts.scheme}://{self._parts.netloc}{self.path}"

    @property
    def is_confidential(self) -> bool:
        """Whether nobody on the way can read what is sent."""
        return self._tls is not None or self._parts.hostname in ("localhost", "127.0.0.1", "::1")

    def ask(self, *, method: str = "GET", path: str = "", headers: Headers = ()) -> Answer:
        """Send one request, to the URL or to another path of its origin. Raises ``UnansweredError``."""
        if self.left <= 0:
            raise UnansweredError("the number of requests is used up")
        self.sent += 1
        return self._ask(method, path, headers)

    def together(self, count: int, headers: Headers = ()) -> list[Answer | UnansweredError]:
        """Send up to ``count`` requests at the same time and wait for all of them."""
        count = max(0, min(count, self.left))
        self.sent += count
        outcomes: list[Answer | UnansweredError] = [UnansweredError("no end of an answer came")] * count

        def send(place: int) -> None:
            try:
                outcomes[place] = self._ask("GET", "", headers)
            except UnansweredError as error:
                outcomes[place] = error

        # Daemons: an answer that never ends must not keep the process.
        threads = [threading.Thread(target=send, args=(place,), daemon=True) for place in range(count)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 2 * self._timeout_s
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        return list(outcomes)

    def _ask(self, method: str, path: str, headers: Headers) -> Answer:
        connection = self._connection()
        target = path or (f"{self.path}?{self._parts.query}" if self._parts.query else self.path)
        began = time.monotonic()
        try:
            connection.connect()
            self.source = connection.sock.getsockname()[0]
            connection.putrequest(method, target)
            for name, value in (("User-Agent", self._agent.encode()), ("Connection", b"close"), *headers):
                connection.putheader(name, value)
            connection.endheaders()
            response = connection.getresponse()
            elapsed_s = time.monotonic() - began
            pairs = tuple((name.lower(), value) for name, value in response.getheaders())
            # A body of unknown length may be a stream without an end; none of ours is.
            short = response.length is not None and response.length <= _MOST_BODY
            return Answer(response.status, pairs, response.read() if short else b"", elapsed_s)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise UnansweredError(_reason(error, self._timeout_s)) from None
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        host = self._parts.hostname or ""
        if self._tls is not None:
            return http.client.HTTPSConnection(
                host, self._parts.port or 443, timeout=self._timeout_s, context=self._tls
            )
        return http.client.HTTPConnection(host, self._parts.port or 80, timeout=self._timeout_s)


def _checked(url: str) -> SplitResult:
    if not url.isprintable() or " " in url:
        raise ValueError("it holds spaces or control characters")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("give the whole URL, such as http://localhost:8000/v1/items")
    if "@" in parts.netloc:
        raise ValueError("leave the user and password out: a command line is public")
    if not parts.query.isascii():
        raise ValueError("escape what is not ASCII in its query")
    parts.hostname.encode("idna")  # a UnicodeError is a ValueError
    if parts.port == 0:
        raise ValueError("0 is no port")
    return parts


def _reason(error: Exception, timeout_s: float) -> str:
    """What went wrong, without the text of the error where that may quote what was sent."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return "no TLS connection could be made; is it an http:// address?"
    if isinstance(error, TimeoutError):
        return f"no answer came within {timeout_s:g} seconds"
    if isinstance(error, socket.gaierror):
        return "its name cannot be resolved"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: nobody listens there"
    if isinstance(error, http.client.RemoteDisconnected | ConnectionResetError | BrokenPipeError):
        return "the connection was closed without an answer"
    if isinstance(error, http.client.IncompleteRead):
        return "the answer broke off"
    if isinstance(error, OSError):
        return error.strerror or "the connection failed"
    return "what came back is not HTTP"
