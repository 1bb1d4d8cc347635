"""All that wait: one queue per leaf, best first, and one list over everything in order of arrival, for deadlines.

Both are intrusive lists through the tickets: linking and unlinking cost the same for one waiting request or a million,
and a ticket that leaves the middle (cancelled, dropped) leaves nothing behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .flows import Flow
    from .tickets import Ticket

__all__ = ["Waiting"]


class Waiting:
    """The waiting tickets; ``len`` is their number."""

    __slots__ = ("count", "newest", "oldest")

    def __init__(self) -> None:
        self.count = 0
        self.oldest: Ticket | None = None
        self.newest: Ticket | None = None

    def __len__(self) -> int:
        return self.count

    def enter(self, ticket: Ticket) -> None:
        """Put a ticket into the queue of its leaf, and count it at every level."""
        leaf = ticket.flow
        customer = leaf.customer
        self._link(ticket, leaf)
        leaf.waiting += 1
        leaf.parent.backlog.note(leaf)
        if leaf is not customer:
            customer.waiting += 1
            customer.parent.backlog.note(customer)
        if not customer.verified:
            ticket.pool.group.waiting += 1

    def leave(self, ticket: Ticket) -> None:
        """Take a ticket out of every list and count. Whether its flows still stand is for the caller to see to."""
        leaf = ticket.flow
        customer = leaf.customer
        self._unlink(ticket, leaf)
        leaf.waiting -= 1
        leaf.parent.backlog.note(leaf)
        if leaf is not customer:
            customer.waiting -= 1
            customer.parent.backlog.note(customer)
        if not customer.verified:
            ticket.pool.group.waiting -= 1

    def newest_of(self, flow: Flow) -> Ticket | None:
        """Return a late ticket of what waits under a flow: of its largest queue, or of one that came late."""
        ring = flow.ring
        if ring is None:
            return flow.tail
        child = ring.backlog.heaviest() or ring.latest()
        return self.newest_of(child) if child is not None else None

    def _link(self, ticket: Ticket, leaf: Flow) -> None:
        """Append to the leaf's queue, behind its equals and before lower priorities, and to the list of arrivals."""
        after = leaf.tail
        while after is not None and after.priority < ticket.priority:  # at most max_queue steps, and only upwards
            after = after.prev
        ticket.prev = after
        if after is None:
            behind = leaf.head
            leaf.head = ticket
        else:
            behind = after.next
            after.next = ticket
        ticket.next = behind
        if behind is None:
            leaf.tail = ticket
        else:
            behind.prev = ticket
        newest = self.newest
        ticket.older = newest
        ticket.newer = None
        if newest is None:
            self.oldest = ticket
        else:
            newest.newer = ticket
        self.newest = ticket
        self.count += 1

    def _unlink(self, ticket: Ticket, leaf: Flow) -> None:
        """Take a ticket out of both lists."""
        before, behind = ticket.prev, ticket.next
        if before is None:
            leaf.head = behind
        else:
            before.next = behind
        if behind is None:
            leaf.tail = before
        else:
            behind.prev = before
        older, newer = ticket.older, ticket.newer
        if older is None:
            self.oldest = newer
        else:
            older.newer = newer
        if newer is None:
            self.newest = older
        else:
            newer.older = older
        ticket.prev = ticket.next = ticket.older = ticket.newer = None
        self.count -= 1
