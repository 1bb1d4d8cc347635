"""A ticket: one request's place in the queue, from submission to the end of its service."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .callers import Caller
    from .flows import Flow
    from .pools import Pool

__all__ = ["State", "Ticket"]


class State(enum.IntEnum):
    """Where a ticket stands.

    Legal moves: from WAITING to any other but FINISHED, from GRANTED to FINISHED, and, where a refusal is overruled
    (shadow mode, nested calls), from REFUSED to GRANTED.
    """

    WAITING = 0
    GRANTED = 1
    REFUSED = 2
    ABANDONED = 3
    FINISHED = 4


class Ticket:
    """One request, as the scheduler sees it.

    ``state`` is the only truth about it: whoever holds the gate's lock may move it once, so a request cannot be both
    granted and given up. ``reason`` says which limit refused it; ``predicted_s`` when it might have had its turn.
    ``context`` belongs to the caller of the scheduler (the gate keeps the way to wake the waiter there).

    Slots are filled in two steps: a request that nothing delays never pays for the fields that only waiting needs.
    """

    __slots__ = (
        "booked",
        "caller",
        "charged",
        "context",
        "factor",
        "flow",
        "granted_at",
        "group_rate",
        "holds_slot",
        "newer",
        "next",
        "older",
        "pool",
        "position",
        "predicted_s",
        "prev",
        "priority",
        "rate",
        "reason",
        "route",
        "state",
        "submitted_at",
        "waived",
    )

    def __init__(self, caller: Caller, flow: Flow, pool: Pool, submitted_at: float, route: str, factor: float) -> None:
        self.caller = caller
        self.flow = flow
        self.pool = pool
        self.submitted_at = submitted_at
        self.route = route
        self.factor = factor
        self.context: Any = None

    # The fields below are assigned by the scheduler when they come to mean something.
    state: State
    granted_at: float  # when service began
    booked: (
        bool  # its estimate was charged; not while nobody waits (see Pool.admit), and then the next four mean nothing
    )
    charged: float  # cost charged so far (seconds or requests, after the factor)
    rate: float  # 1 / the customer's weight then: what is trued up uses the same rate
    group_rate: float  # 1 / the weight of the group of unverified callers then; 0.0 for verified ones
    waived: bool  # its charge stays at the estimate: a first guess, when nobody waited (see Pool.charge)
    holds_slot: bool
    priority: int
    reason: str
    predicted_s: float
    position: int  # requests of the same key that were waiting before it when it was submitted
    prev: Ticket | None  # neighbours in the flow's queue, best first
    next: Ticket | None
    older: Ticket | None  # neighbours among all that wait, in order of arrival
    newer: Ticket | None

    @property
    def customer(self) -> str:
        """The customer that the request is charged to."""
        return self.flow.customer.id

    def __repr__(self) -> str:
        return f"<Ticket {self.state.name.lower()} of {self.customer}>"
