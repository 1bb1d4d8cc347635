"""The answer to a request that may not even wait: one decision, rendered once, the same bytes in every framework."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ezthrottle_provider.headers import PROBLEM_JSON, RETRY_AFTER, problem, retry_after

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Refusal", "refuse"]

_JITTER: Final = 0.5  # of the wait: those who were refused together should not come back together


@dataclass(frozen=True, slots=True)
class Refusal:
    """A response that an adapter sends as it is."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    reason: str
    retry_after_s: float
    position: int | None


def refuse(
    reason: str,
    *,
    wait_s: float,
    position: int | None = None,
    status: int = 429,
    headers: Iterable[tuple[bytes, bytes]] = (),
    jitter: bool = True,
) -> Refusal:
    """Render a refusal: ``wait_s`` seconds (at least 1) from now the caller may expect to be served.

    ``headers`` are added to it (the customer's pace). The wait is spread by up to a half unless it is exact, as the end
    of a quota's window is.
    """
    wait_s = max(1.0, wait_s)
    if jitter:
        wait_s *= 1.0 + _JITTER * random.random()  # noqa: S311 - spreads load, keeps no secret
    body = problem(reason, status=status, retry_after_s=wait_s, position=position)
    return Refusal(
        status,
        [
            (b"content-type", PROBLEM_JSON),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
            (RETRY_AFTER, retry_after(wait_s)),
            *headers,
        ],
        body,
        reason,
        wait_s,
        position,
    )
