"""The pure middle: decides whose request runs next. No I/O, clock, threads or asyncio; a test guards the imports.

Where the idea comes from
    Networks share a link between flows by fair queuing: each flow has a queue of its own, and the server picks by what
    each flow has had so far. Deficit round robin (Shreedhar and Varghese, SIGCOMM 1995) does it in O(1): flows take
    turns in rounds, a flow that has used up its quantum waits for a later round. Start-time fair queuing (Goyal, Vin
    and Cheng, SIGCOMM 1996) places flows that come back by a clock, and SFQ(D) (Jin, Chase and Kaur, SIGMETRICS 2004)
    serves D requests at once, as the slots of an API do. Kubernetes' API Priority and Fairness does the same for one
    API server; this scheduler differs from it in three ways: it queues per customer and not per hash of it, it charges
    what a request really took and corrects its estimate, and its cost does not grow with the number of customers.

How it works
    Each flow has one number, its normalised service (``tag``): charged cost / weight. A round is a quantum of it;
    ``Ring`` keeps a FIFO of flows per occupied round and a heap of the round numbers, and the next request comes from
    the oldest round. A request is charged an estimate when it is granted and trued up when it ends; either is one
    addition. There are two levels: customers (and, as one of them, the group of all unverified callers, whose members
    form a ring of their own), and the keys of one customer.

    While nobody waits there is nothing to be fair about: a request only takes its slot (``Pool.admit``), and what it
    used moves the clock when it ends. Should somebody begin to wait before that, what runs is booked as if picked.

The bound
    Let two flows i and j be backlogged through an interval, with weights w and largest costs c, and D slots in use.
    Then their normalised service over that interval differs by at most ``(D + 1) * (c_i / w_i + c_j / w_j)``: each
    flow's tag leads the ring's clock by at most one request's cost, and at most D requests are still charged by
    estimate. The quantum stays below the smallest cost, so the FIFO inside a round adds nothing. With several
    processes, D also counts what the others have not told yet. ``tests/fairness/test_lag_bound.py`` checks it.

Follow a request: ``scheduler`` (submit, pull, finish), then ``pools``, ``flows``, ``waiting``; ``parking``,
``estimates``, ``pacing``, ``backlog`` and ``overflow`` are what their names say.
"""

from __future__ import annotations

from .callers import Caller, Terms
from .flows import DEMAND_WINDOW_S, Flow
from .pools import Pool, Share
from .scheduler import Scheduler, Unit
from .tickets import State, Ticket

__all__ = ["DEMAND_WINDOW_S", "Caller", "Flow", "Pool", "Scheduler", "Share", "State", "Terms", "Ticket", "Unit"]
