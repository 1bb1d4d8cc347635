"""The provider: one object that holds the config and all that follows from it, shared by the apps it protects."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ezthrottle_provider.config import PROBLEMS, InboundConfig, load, resolve_reference
from ezthrottle_provider.customers import is_async
from ezthrottle_provider.errors import ConfigError, Problem
from ezthrottle_provider.instrumentation import (
    ConfigReloaded,
    Hinted,
    Hooks,
    LimiterFailed,
    LoggingHook,
    Refused,
    ResolverFailed,
)
from ezthrottle_provider.scheduling import Caller, Scheduler, State

from .advice import Advisor
from .directory import Directory
from .disconnects import Room
from .gate import Gate, whose
from .hints import Hints
from .nested import Marker
from .policies import Policies
from .pricing import Pricer
from .quotas import Quotas
from .refusals import Refusal, refuse
from .responses import Readers, Streams
from .snapshots import snapshot_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping

    from ezthrottle_provider.instrumentation import Event, Snapshot
    from ezthrottle_provider.scheduling import Ticket

    from .policies import Policy

    Scope = MutableMapping[str, Any]

__all__ = ["Provider"]

_DEFAULT_SLOTS: Final = 32
_STREAM_WAIT_S: Final = 5.0  # nobody can predict when a stream ends; long enough not to be a storm
_FIXED: Final = ("cost", "redis_url", "namespace", "usage_db", "secret")  # a restart is needed to change these
_IDENTITY: Final = ("identify", "trust_keys", "resolve", "trusted_proxies", "client_header")


class Provider:
    """A configured limiter: ``Provider(config="ezthrottle.toml")``, or with every key of the config as a keyword.

    Give it to several apps, ``update`` it while they run, ask for a ``snapshot``, add a hook to ``hooks``. With a file
    as its config it reads that again on SIGHUP. Raises ``ConfigError`` with every mistake at once.
    """

    def __init__(
        self,
        config: Any = None,
        *,
        framework: Mapping[str, Any] | None = None,
        default_slots: int = _DEFAULT_SLOTS,
        clock: Callable[[], float] = time.monotonic,
        **options: Any,
    ) -> None:
        self.config: InboundConfig = load(config, framework=framework, **options)
        self._source = (config, framework, options)
        self._default_slots = default_slots
        self._clock = clock
        self._listens = False
        self.hooks = Hooks()
        self._log = LoggingHook()
        secret = self.config.secret
        self._secret = secret.reveal() if secret is not None else secrets.token_bytes(32)
        self._pricer = self._make_pricer(self.config.cost)
        self.priced = self._pricer is not None
        scheduler = Scheduler(slots=1, unit="seconds" if self.config.cost == "seconds" else "requests")
        self.gate = Gate(scheduler, hooks=self.hooks, clock=clock)
        self.marker = Marker(self._secret, time.time)
        self.room = Room()
        self.streams = Streams(self.config.max_streams)
        self.readers = Readers(self.gate, max_hold=self.config.max_hold, tell=self.tell)
        self._hints = Hints(scheduler, self.tell)
        self.gate.care += [self.readers.care, self._hints.care]
        self.quotas = Quotas(self.config.tiers, usage_db=self.config.usage_db)
        self.directory = self._make_directory(self.config)
        self._apply(self.config)
        if self.config.redis_url:
            self.tell(Hinted(at=clock(), id="W022", text=PROBLEMS["W022"]))

    # -- what users call -----------------------------------------------------------------------------------------

    def update(self, **changes: Any) -> None:
        """Change the config while it runs: ``update(tiers={"pro": {"weight": 8}})`` acts on what waits, at once.

        Raises ``ConfigError`` with every mistake (also for a key that needs a restart); then nothing has changed.
        """
        self._replace(self.config.updated(**changes))

    def reload(self) -> None:
        """Read the config again from where it came, as SIGHUP does. A mistake in it is logged and changes nothing."""
        config, framework, options = self._source
        try:
            self._replace(load(config, framework=framework, **options))
        except ConfigError as error:
            self.tell(ConfigReloaded(at=self._clock(), ok=False, text=str(error)))
        else:
            self.tell(ConfigReloaded(at=self._clock(), ok=True, text=str(config or "environment")))

    def snapshot(self, *, customers: int = 100) -> Snapshot:
        """Return pools, depths, slots in use and shares as they are now, with at most so many ``customers`` a pool."""
        gate = self.gate
        gate.poll()
        with gate.lock:
            return snapshot_of(
                gate.scheduler, gate.clock(), enforce=self.enforce, enabled=self.enabled, customers=customers
            )

    def close(self) -> None:
        """Refuse all who wait and write down what was counted; what runs may end."""
        self.gate.drain()
        self.quotas.close()

    def __repr__(self) -> str:
        return f"<Provider {self.config!r}>"

    # -- what adapters call --------------------------------------------------------------------------------------

    def caller(self, scope: Scope) -> Caller | None:
        """Return whose request this is, or None when ``find`` has to ask for it."""
        directory = self.directory
        headers = scope["headers"]
        key = directory.key_of(headers, scope)
        known = directory.by_key.get(key)  # what belongs to a key needs no address
        if known is not None and self._clock() < known[0]:
            return known[1]
        client = scope.get("client")
        return directory.caller(key, directory.address_of(client[0] if client else None, headers))

    async def find(self, scope: Scope) -> Caller:
        """Ask the user's ``resolve`` whose request this is."""
        directory = self.directory
        headers = scope["headers"]
        client = scope.get("client")
        address = directory.address_of(client[0] if client else None, headers)
        return await directory.find(directory.key_of(headers, scope), address)

    def objection(self, caller: Caller, policy: Policy, *, stream: bool = False) -> Refusal | None:
        """Return why a request may not even queue: its quota is used up, or it would be one stream too many.

        A stream (WebSocket, or a hold other than "body") that meets no objection is counted: ``streams.close`` it.
        """
        left_s = self.quotas.exhausted(caller)
        refusal = None if left_s is None else self._object(caller, policy, "quota", left_s)
        if refusal is None and (stream or policy.hold != "body") and not self.streams.open(caller.customer):
            refusal = self._object(caller, policy, "max_streams", _STREAM_WAIT_S)
            if refusal is None:  # shadow mode: it is let in all the same
                self.streams.open(caller.customer, force=True)
        return refusal

    def spend(self, ticket: Ticket, policy: Policy) -> Refusal | None:
        """Count a granted request against its quota; a refusal when that ran out while it waited."""
        left_s = self.quotas.spend(ticket.caller)
        if left_s is None or not self.enforce:  # in shadow mode it was reported on arrival
            return None
        return self._object(ticket.caller, policy, "quota", left_s)

    def overrules(self, ticket: Ticket, scope: Scope) -> bool:
        """Tell whether a request that would have to wait (or be refused) runs all the same."""
        if not self.enforce:
            if ticket.state is State.REFUSED:
                self.tell(self._refused(ticket, ticket.predicted_s, enforced=False))
            return True
        nested = self.marker.read(scope["headers"])
        if nested is None:
            return False
        self._charge_to(ticket, *nested)
        return True

    def refuse(self, ticket: Ticket) -> Refusal:
        """Render the refusal of a ticket."""
        nobody_can = ticket.reason == "draining" or (ticket.reason == "max_queue_total" and not ticket.position)
        refusal = refuse(
            ticket.reason,
            wait_s=ticket.predicted_s,
            position=ticket.position + 1,
            status=503 if nobody_can else 429,
            headers=self.advisor.headers(ticket),
        )
        self.tell(self._refused(ticket, refusal.retry_after_s, enforced=True))
        return refusal

    def done(self, ticket: Ticket, scope: Scope) -> None:
        """Let a request leave, at the price that the user's function gives it, if there is one."""
        try:
            cost: float | None = None
            if self._pricer is not None and ticket.state is State.GRANTED:
                response = scope.get("ezthrottle.response", {})
                cost = self._pricer.price(ticket, self.gate.clock(), scope["method"], scope["path"], response)
            self.gate.leave(ticket, cost)
        except Exception as error:  # our own failure may not cost a response that is already there
            self.failed("leave", error)

    def awake(self) -> None:
        """Keep the time in the running event loop, and listen for SIGHUP where that is possible."""
        self.gate.ticker(asyncio.get_running_loop())
        if not self._listens:
            self._listens = True
            self._listen()

    def tell(self, event: Event) -> None:
        """Log an event that an operator should know, and hand it to the hooks."""
        self._log(event)
        if self.hooks:
            self.hooks.emit(event)

    def failed(self, where: str, error: Exception) -> None:
        """Report that we ourselves failed. Names the place in the code, never the error's text: it may quote a key."""
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace is not None else ""
        self.tell(LimiterFailed(at=self._clock(), where=where, error=type(error).__name__ + place))

    # -- config --------------------------------------------------------------------------------------------------

    def _replace(self, config: InboundConfig) -> None:
        changed = [key for key in _FIXED if getattr(config, key) != getattr(self.config, key)]
        if changed:
            text = "cannot change while the app runs: restart it"
            raise ConfigError([Problem("E023", ("inbound", key), "keyword", text) for key in changed])
        if any(getattr(config, key) != getattr(self.config, key) for key in _IDENTITY):
            self.directory = self._make_directory(config)
        else:
            self.directory.update(tiers=config.tiers, customers=config.customers)
        self._apply(config)

    def _apply(self, config: InboundConfig) -> None:
        self.config = config
        self.enabled = config.enabled
        self.enforce = config.enforce
        self.advisor = Advisor(config.headers, self.quotas.policies, self._clock)
        self.quotas.update(config.tiers)
        self.has_objections = self.quotas.active or any(route.hold != "body" for route in config.routes)
        self.streams.bound = config.max_streams
        self._hints.trusts_proxies = bool(config.trusted_proxies)
        self.readers.max_hold = config.max_hold
        scheduler = self.gate.scheduler
        with self.gate.lock:
            scheduler.max_queue = config.max_queue
            scheduler.max_queue_total = config.max_queue_total
            scheduler.max_wait = config.max_wait
            scheduler.set_unverified_share(config.unverified_share)
            scheduler.resize(self._slots(config))
            scheduler.recheck()
            for _, flow in scheduler.customers():
                flow.context = None  # what it was shown
        self.policies = Policies(config.routes, config.exempt)  # after the pools that they name
        self.gate.poll()

    def _slots(self, config: InboundConfig) -> dict[str, int]:
        slots = config.max_concurrent or self._default_slots
        if config.max_concurrent_total:
            slots = min(slots, config.max_concurrent_total)
        return {"default": slots, **{name: pool.max_concurrent for name, pool in config.pools.items()}}

    def _make_directory(self, config: InboundConfig) -> Directory:
        resolve, identify = config.resolve, _function_or_word(config.identify)
        if callable(identify) and is_async(identify):
            raise ConfigError([Problem("E020", ("inbound", "identify"), "keyword", "is async; only resolve may be")])
        return Directory(
            identify=identify,
            secret=self._secret,
            trust_keys=config.trust_keys,
            resolve=resolve_reference(resolve, key="resolve") if isinstance(resolve, str) else resolve,
            tiers=config.tiers,
            customers=config.customers,
            trusted_proxies=config.trusted_proxies,
            client_header=config.client_header,
            on_failure=lambda name: self.tell(ResolverFailed(at=self._clock(), error=name)),
        )

    def _make_pricer(self, cost: Any) -> Pricer | None:
        if isinstance(cost, str):
            if ":" not in cost:
                return None
            cost = resolve_reference(cost, key="cost")
        return Pricer(cost, self.failed)

    def _listen(self) -> None:
        """Reload on SIGHUP when the config is a file. The handler only starts a thread: it may interrupt the gate."""
        path = self._source[0] or os.environ.get("EZTHROTTLE_CONFIG")
        if not isinstance(path, str | os.PathLike) or threading.current_thread() is not threading.main_thread():
            return
        if not hasattr(signal, "SIGHUP"):
            return
        before = signal.getsignal(signal.SIGHUP)

        def on_hangup(number: int, frame: Any) -> None:
            threading.Thread(target=self.reload, name="ezthrottle-reload", daemon=True).start()
            if callable(before):
                before(number, frame)

        signal.signal(signal.SIGHUP, on_hangup)

    # -- refusals ------------------------------------------------------------------------------------------------

    def _object(self, caller: Caller, policy: Policy, reason: str, wait_s: float) -> Refusal | None:
        now = self.gate.clock()
        refusal = refuse(reason, wait_s=wait_s, jitter=reason != "quota", headers=self.advisor.for_caller(caller))
        self.tell(
            Refused(
                at=now,
                customer=caller.customer,
                key=caller.key,
                tier=caller.tier,
                route=policy.label,
                pool=policy.pool,
                reason=reason,
                retry_after_s=refusal.retry_after_s,
                position=None,
                enforced=self.enforce,
            )
        )
        return refusal if self.enforce else None

    def _refused(self, ticket: Ticket, retry_after_s: float, *, enforced: bool) -> Refused:
        return Refused(
            reason=ticket.reason,
            retry_after_s=retry_after_s,
            position=ticket.position + 1,
            enforced=enforced,
            **whose(ticket, self.gate.clock()),
        )

    def _charge_to(self, ticket: Ticket, customer: str, verified: bool) -> None:
        """Put a nested call on the account of the customer whose request makes it, if it is known in this process."""
        with self.gate.lock:
            self.gate.scheduler.transfer(self.gate.clock(), ticket, customer, verified)


def _function_or_word(identify: str) -> Any:
    """Return the function that ``module:function`` names; any other value of ``identify`` as it is."""
    if ":" in identify and not identify.startswith("header:"):
        return resolve_reference(identify, key="identify")
    return identify
