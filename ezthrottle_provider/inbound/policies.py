"""What a path means: exempt or not, which pool, what its requests cost, how long a response keeps its slot."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import translate
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ezthrottle_provider.config import Route

__all__ = ["DEFAULT_EXEMPT", "Hold", "Policies", "Policy"]

Hold = Literal["body", "first-byte", "none"]

DEFAULT_EXEMPT: Final = ("/health*", "/livez", "/readyz", "/ready", "/metrics", "/-/*")
_CACHED_PATHS: Final = 4096
_CACHED_LENGTH: Final = 256
_LABEL_SEGMENTS: Final = 3
_LABEL_LENGTH: Final = 64


@dataclass(frozen=True, slots=True)
class Policy:
    """How requests to one path are treated; ``label`` groups paths that are expected to cost alike."""

    label: str
    cost: float = 1.0
    hold: Hold = "body"
    pool: str = "default"
    priority: int | None = None  # None: the customer's own
    exempt: bool = False


class Policies:
    """Finds the policy of a method and path. The first route that matches wins; exempt patterns come before all.

    Matches are cached by path, bounded: when the cache is full it starts afresh, so that invented paths cost a match
    each and no memory.
    """

    def __init__(self, routes: Iterable[Route], exempt: Iterable[str]) -> None:
        self._exempt = [re.compile(translate(pattern)) for pattern in (*DEFAULT_EXEMPT, *exempt)]
        self._routes = [
            (
                re.compile(translate(route.path)),
                frozenset(route.methods),
                Policy(route.path, route.cost, route.hold, route.pool, route.priority, route.exempt),
            )
            for route in routes
        ]
        self._cache: dict[tuple[str, str], Policy] = {}

    def match(self, method: str, path: str) -> Policy:
        """Return the policy of a request."""
        policy = self._cache.get((method, path))
        if policy is None:
            policy = self._find(method, path)
            if len(path) <= _CACHED_LENGTH:
                if len(self._cache) >= _CACHED_PATHS:
                    self._cache.clear()
                self._cache[method, path] = policy
        return policy

    def _find(self, method: str, path: str) -> Policy:
        if any(pattern.match(path) for pattern in self._exempt):
            return Policy("exempt", exempt=True)
        for pattern, methods, policy in self._routes:
            if (not methods or method in methods) and pattern.match(path):
                return policy
        return Policy(_label(method, path))


def _label(method: str, path: str) -> str:
    """Name an unconfigured path for cost estimates: its first segments, with those that look like ids left open."""
    segments = path[: 4 * _LABEL_LENGTH].split("/", _LABEL_SEGMENTS + 1)[1 : _LABEL_SEGMENTS + 1]
    shape = "/".join("*" if any(char.isdigit() for char in segment) else segment for segment in segments)
    return f"{method} /{shape}"[:_LABEL_LENGTH]
