"""All that wait: one queue per leaf, best first, and one list over everything in order of arrival, for deadlines.

Both are intrusive lists through the tickets: linking and unlinking cost the same for one waiting request or a million,
and a ticket that leaves the middle (cancelled, dropped) leaves nothing behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .flows import Flow
    from .tickets import Ticket

__all__ = ["Waiting"]

_SEARCH: Final = 64  # how far back a victim is looked for; who asks copes with finding none


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

    def newest_of(self, customer: Flow) -> Ticket | None:
        """Return a late ticket of a customer (of its largest queue, when it has several), or None."""
        if customer.ring is None:
            return customer.tail
        key = customer.ring.backlog.heaviest()
        if key is not None:
            return key.tail
        ticket = self.newest  # many keys with one request each
        for _ in range(_SEARCH):
            if ticket is None or ticket.flow.customer is customer:
                return ticket
            ticket = ticket.older
        key = customer.ring.first()
        return key.tail if key is not None else None

    def newest_stranger(self) -> Ticket | None:
        """Return a late ticket of an unverified caller, or None when the last arrivals were all verified."""
        ticket = self.newest
        for _ in range(_SEARCH):
            if ticket is None or not ticket.flow.verified:
                return ticket
            ticket = ticket.older
        return None

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
