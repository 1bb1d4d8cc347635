"""What happened, as frozen records: the one stream that logs, metrics and a user's own code listen to.

Nothing here is on the path of a request unless somebody listens: ``if hooks: hooks.emit(Granted(...))``. Records and
snapshots hold keyed hashes, configured names and network addresses, never what a caller presented.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import Protocol, TypeAlias

__all__ = [
    "Abandoned",
    "ConfigReloaded",
    "CustomerSnapshot",
    "Event",
    "Finished",
    "Granted",
    "Hinted",
    "Hook",
    "Hooks",
    "LimiterFailed",
    "LoggingHook",
    "PoolSnapshot",
    "Queued",
    "Refused",
    "RequestEvent",
    "ResolverFailed",
    "SlowReader",
    "Snapshot",
]

_log = logging.getLogger(__name__)

_MINUTE_S = 60.0


# --- events: what happened to one request


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestEvent:
    """What all events of one request share: when (seconds, monotonic clock), whose, and where.

    ``customer`` and ``key`` are those of the scheduler's ``Caller``; ``route`` is the pattern that matched, "" if none.
    """

    at: float
    customer: str
    key: str
    tier: str
    route: str
    pool: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued(RequestEvent):
    """The request has to wait; ``depth`` requests of its key are waiting now, itself included."""

    depth: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted(RequestEvent):
    """The request runs now, after ``wait_s`` seconds; 0 when nothing delayed it."""

    wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished(RequestEvent):
    """The request is over: charged ``cost`` in the configured unit, ran for ``held_s`` after ``wait_s`` in line."""

    cost: float
    held_s: float
    wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(RequestEvent):
    """The request met the limit ``reason`` and was told to come back after ``retry_after_s``.

    ``position`` is its place in line, from 1, if it had one. ``enforced`` is false in shadow mode: the request would
    have been refused, but it ran, and its ``Granted`` and ``Finished`` follow.
    """

    reason: str
    retry_after_s: float
    position: int | None
    enforced: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Abandoned(RequestEvent):
    """The client went away after ``waited_s`` seconds in line; the request never ran."""

    waited_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowReader(RequestEvent):
    """A response was read so slowly that its slot was given back after ``held_s``, or that it was ``closed``."""

    held_s: float
    closed: bool


# --- events: what happened to the service
# ``error`` is the name of an exception's class and never its text: the text may quote the key that caused it.


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolverFailed:
    """``resolve`` raised or timed out, so callers count as what they were, or as unverified."""

    at: float
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LimiterFailed:
    """The limiter itself failed in ``where`` (a fixed name, not data) and let the request pass."""

    at: float
    where: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hinted:
    """The deployment looks wrong in the way that ``id`` names; ``text`` says what to change."""

    at: float
    id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigReloaded:
    """The config was read again; when not ``ok`` the old one stays in force and ``text`` says why."""

    at: float
    ok: bool
    text: str


Event: TypeAlias = (
    Queued
    | Granted
    | Finished
    | Refused
    | Abandoned
    | SlowReader
    | ResolverFailed
    | LimiterFailed
    | Hinted
    | ConfigReloaded
)


# --- what is


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerSnapshot:
    """One customer in one pool.

    ``share`` is its part (0..1) of the weights of all who have demand; ``served_cost`` and ``mean_cost`` are in the
    configured unit; ``rps_shown`` and ``max_concurrent_shown`` are what its headers say.
    """

    customer: str
    tier: str
    verified: bool
    weight: float
    waiting: int
    in_flight: int
    share: float
    served_cost: float
    mean_cost: float
    rps_shown: float
    max_concurrent_shown: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSnapshot:
    """One pool of slots; ``in_flight``, ``waiting`` and ``streams`` also count the ``customers_omitted``."""

    name: str
    slots: int
    in_flight: int
    waiting: int
    streams: int
    customers: tuple[CustomerSnapshot, ...]
    customers_omitted: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of a provider at one moment (``at``: seconds, monotonic clock)."""

    at: float
    pools: tuple[PoolSnapshot, ...]
    enforce: bool
    enabled: bool


# --- hooks


class Hook(Protocol):
    """Anything that takes an event.

    It is called on the request's own thread or event loop, so it must be quick and must not block; it may be called
    from several threads at once.
    """

    def __call__(self, event: Event, /) -> None: ...


class _Listener:
    __slots__ = ("failures", "hook", "name")

    def __init__(self, hook: Hook) -> None:
        self.hook = hook
        # Not the hook's repr, which is foreign code too and may show what it was configured with.
        self.name: str = getattr(hook, "__qualname__", type(hook).__qualname__)
        self.failures = 0


class Hooks:
    """The hooks of one provider; false while nobody listens, so that callers need not build records.

    A failing hook never fails a request: its exceptions are counted, and the first is logged.
    """

    __slots__ = ("_failures", "_listeners", "_lock", "active")

    def __init__(self, *hooks: Hook) -> None:
        self._lock = threading.Lock()
        # Replaced and never changed, so that ``emit`` needs no lock while others add and remove.
        self._listeners: tuple[_Listener, ...] = ()
        self.active = False  # the same as ``bool``, where a call is too dear: on the path of every request
        self._failures = 0
        for hook in hooks:
            self.add(hook)

    def __bool__(self) -> bool:
        return self.active

    @property
    def failures(self) -> int:
        """How many calls of a hook have raised so far."""
        return self._failures

    def add(self, hook: Hook) -> None:
        """Call ``hook`` with every event from now on; adding it again changes nothing."""
        with self._lock:
            if all(listener.hook != hook for listener in self._listeners):
                self._listeners += (_Listener(hook),)
                self.active = True

    def remove(self, hook: Hook) -> None:
        """Stop calling ``hook``; removing one that is not there changes nothing."""
        with self._lock:
            self._listeners = tuple(listener for listener in self._listeners if listener.hook != hook)
            self.active = bool(self._listeners)

    def emit(self, event: Event) -> None:
        """Hand ``event`` to every hook, in the order in which they were added."""
        for listener in self._listeners:
            try:
                listener.hook(event)
            except Exception:  # a hook is foreign code: whatever it raises, the request that it watches goes on
                self._count_failure(listener)

    def _count_failure(self, listener: _Listener) -> None:
        with self._lock:
            self._failures += 1
            listener.failures += 1
            first = listener.failures == 1
        if first:
            _log.exception("instrumentation hook %s raised; further failures are only counted", listener.name)


class _Budget:
    """How many lines one kind of event still has in its minute."""

    __slots__ = ("lines", "since", "suppressed")

    def __init__(self, since: float) -> None:
        self.since = since
        self.lines = 0
        self.suppressed = 0


class LoggingHook:
    """Log what an operator should know: refusals, slow readers, hints, failures, reloads.

    At most ``lines_per_minute`` lines per kind of event, by the events' own time; the first line of a later minute says
    how many were left out. Levels: refusals and slow readers INFO (they are the limiter at work), hints and a failing
    resolver WARNING, a failing limiter and a refused config ERROR.
    """

    def __init__(self, logger: logging.Logger | None = None, *, lines_per_minute: int = 10) -> None:
        self._logger = logger or logging.getLogger("ezthrottle_provider")
        self._lines_per_minute = lines_per_minute
        self._lock = threading.Lock()
        self._budgets: dict[type, _Budget] = {}

    def __call__(self, event: Event, /) -> None:
        """Log ``event`` if it is worth a line and its kind has one left."""
        level = _level(event)
        if level is None or not self._logger.isEnabledFor(level):
            return
        suppressed = self._take_line(event)
        if suppressed is None:
            return
        suffix = f" ({suppressed} more like this were not logged)" if suppressed else ""
        self._logger.log(level, "%s%s", _line(event), suffix)

    def _take_line(self, event: Event) -> int | None:
        """Return how many lines were held back before this one, or ``None`` to hold this one back."""
        with self._lock:
            budget = self._budgets.setdefault(type(event), _Budget(event.at))
            suppressed = 0
            if event.at - budget.since >= _MINUTE_S:
                suppressed = budget.suppressed
                budget.since, budget.lines, budget.suppressed = event.at, 0, 0
            if budget.lines >= self._lines_per_minute:
                budget.suppressed += 1
                return None
            budget.lines += 1
            return suppressed


def _level(event: Event) -> int | None:
    match event:
        case Refused() | SlowReader():
            return logging.INFO
        case Hinted() | ResolverFailed():
            return logging.WARNING
        case LimiterFailed():
            return logging.ERROR
        case ConfigReloaded(ok=ok):
            return logging.INFO if ok else logging.ERROR
        case _:
            return None


def _line(event: Event) -> str:
    # Names that came from outside are quoted (!r): a line feed in one must not start a forged line.
    match event:
        case Refused():
            verb = "refused" if event.enforced else "would have refused (shadow mode)"
            place = "" if event.position is None else f", place {event.position}"
            return (
                f"{verb} customer {event.customer!r} on {event.route!r}: {event.reason}{place}, "
                f"come back after {event.retry_after_s:.1f} s"
            )
        case SlowReader():
            what = "closed" if event.closed else "no longer holds a slot"
            return f"slow reader of customer {event.customer!r} on {event.route!r} {what} after {event.held_s:.1f} s"
        case Hinted():
            return f"{event.id}: {event.text}"
        case ResolverFailed():
            return f"resolve failed: {event.error}"
        case LimiterFailed():
            return f"the limiter failed in {event.where}: {event.error}"
        case ConfigReloaded():
            return f"config {'reloaded' if event.ok else 'refused, the old one stays'}: {event.text}"
        case _:
            return repr(event)
