"""Backlog: which flow of a ring has the most waiting for its weight, so that overflow is taken out on that one."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .flows import Flow

__all__ = ["Backlog"]

_CANDIDATES = 8


class Backlog:
    """An index of the flows with two or more waiting requests, by the power of two of waiting / weight.

    A change costs anything only when it crosses a power of two, and a flow with a single waiting request (all of
    a crowd of a million) is not in it at all. ``heaviest`` is exact among the first candidates of the top level, so
    what it returns is never less than half of the largest.
    """

    __slots__ = ("_levels",)

    def __init__(self) -> None:
        self._levels: dict[int, dict[Flow, None]] = {}

    def note(self, flow: Flow) -> None:
        """Follow a change of a flow's waiting count."""
        waiting = flow.waiting
        level = (int(64.0 * waiting / flow.terms.weight) | 1).bit_length() if waiting > 1 else 0
        if level == flow.level:
            return
        if flow.level:
            members = self._levels[flow.level]
            del members[flow]
            if not members:
                del self._levels[flow.level]
        if level:
            self._levels.setdefault(level, {})[flow] = None
        flow.level = level

    def heaviest(self) -> Flow | None:
        """Return the flow with the largest backlog for its weight; None when none has more than one request waiting."""
        if not self._levels:
            return None
        members = iter(self._levels[max(self._levels)])
        best = next(members)
        for flow in islice(members, _CANDIDATES - 1):
            if flow.waiting * best.terms.weight > best.waiting * flow.terms.weight:
                best = flow
        return best
