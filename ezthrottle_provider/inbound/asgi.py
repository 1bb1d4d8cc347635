"""The ASGI wrapper: translates between a server, an app and the gate. It decides nothing.

``__call__`` is the whole journey of an HTTP request. Its first half is what a request pays that nothing delays; all
that is rare (waiting, refusals, large or chunked responses, WebSockets) is behind a call.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from ezthrottle_provider.scheduling import State

from .disconnects import Inbox
from .provider import Provider
from .responses import SMALL_BODY, Delivery

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from ezthrottle_provider.scheduling import Ticket

    from .refusals import Refusal

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]

__all__ = ["ASGIFairQueue"]

_GRANTED: Final = State.GRANTED
_MARK: Final = "ezthrottle"  # scope["ezthrottle"] is the request's ticket while it is inside
_MARKER: Final = "ezthrottle.marker"


class ASGIFairQueue:
    """Gives every customer of an ASGI app a fair queue of its own.

    ``ASGIFairQueue(app, identify="bearer", max_concurrent=32)``: takes every key of the config as a keyword, or a
    ``config`` (path, mapping), or a ``provider`` shared with others. Raises ``ConfigError`` with every mistake.
    """

    def __init__(self, app: App, /, *, provider: Provider | None = None, config: Any = None, **options: Any) -> None:
        if provider is not None and (config is not None or options):
            raise TypeError("give either a provider, or a config and its keywords")
        self.app = app
        self.provider = provider if provider is not None else Provider(config, **options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection: HTTP requests through the queue, the handshake of WebSockets too, the rest as it is."""
        provider = self.provider
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        if not provider.enabled or _MARK in scope:  # the outer of two wrappers has already decided
            await self.app(scope, receive, send)
            return
        gate = provider.gate
        ticket = refusal = inbox = None
        long: _Long | None = None
        try:
            method = scope["method"]
            policy = provider.policies.match(method, scope["path"])
            if not policy.exempt and not (method == "OPTIONS" and is_preflight(scope)):
                caller = provider.caller(scope)
                if caller is None:
                    caller = await provider.find(scope)
                if provider.has_objections:
                    refusal = provider.objection(caller, policy)
                if refusal is None:
                    ticket = scope[_MARK] = gate.enter(caller, policy)
                    if gate.dormant:
                        provider.awake()
        except Exception as error:  # the limiter's own failure must never take the API down: the request passes
            provider.failed("enter", error)
        if ticket is None:
            if refusal is None:
                await self.app(scope, receive, send)
            else:
                await answer_refusal(send, refusal)
            return

        # Not a coroutine itself, but what hands out the server's: two coroutines less for each response.
        def answer(message: Message) -> Awaitable[None]:
            nonlocal long
            kind = message["type"]
            if kind == "http.response.start":
                try:
                    shown = ticket.flow.customer.context
                    if shown is None or gate.clock() >= shown.until:
                        shown = provider.advisor.refresh(ticket)
                    message = {**message, "headers": [*message.get("headers", ()), *shown.headers]}
                    if provider.priced:
                        scope["ezthrottle.response"] = message
                except Exception as error:  # as above: a header may not cost anybody a response
                    provider.failed("headers", error)
            elif kind == "http.response.body":
                if long is not None or message.get("more_body", False) or len(message.get("body", b"")) >= SMALL_BODY:
                    if long is None:
                        long = _Long(provider, ticket, scope.get("ezthrottle.hold", policy.hold))
                    return long.send(send, message, scope)
                # It is the last, and the buffers take it: nobody waits for the client.
                if provider.priced:
                    provider.done(ticket, scope)
                else:
                    gate.leave(ticket)
            return send(message)

        try:
            if ticket.state is not _GRANTED:
                inbox = await self._turn(ticket, scope, receive, send)
                if inbox is None:
                    return
                receive = inbox.receive
            if provider.quotas.active and (refusal := provider.spend(ticket, policy)) is not None:
                gate.leave(ticket, 0.0)
                await answer_refusal(send, refusal)
                return
            if policy.hold == "none":
                long = _Long(provider, ticket, "none")
            scope[_MARKER] = provider.marker  # for nested_headers
            await self.app(scope, receive, answer)
        except Exception:  # the app's own goes on to the server; but not our ReaderTooSlowError, however wrapped
            if long is None or not long.closed:
                raise
        finally:
            if ticket.state is _GRANTED:
                provider.done(ticket, scope)
            if long is not None:
                provider.readers.done(long.delivery)
            if inbox is not None:
                inbox.close()
            if policy.hold != "body" and caller is not None:
                provider.streams.close(caller.customer)  # not the ticket's: a nested call may have been transferred

    async def _turn(self, ticket: Ticket, scope: Scope, receive: Receive, send: Send) -> Inbox | None:
        """Wait for the turn of a request that was not granted at once; None when it was answered or its client left."""
        provider = self.provider
        gate = provider.gate
        inbox = Inbox(receive, provider.room, lambda: gate.abandon(ticket))
        try:
            if provider.overrules(ticket, scope):
                gate.overrule(ticket)
            elif ticket.state is State.WAITING:
                await gate.wait(ticket, inbox.watch)
                inbox.stop()
        except BaseException:  # cancelled, or closed by the interpreter
            inbox.close()
            raise
        state = ticket.state
        if state is _GRANTED:
            return inbox
        inbox.close()
        if state is State.REFUSED:
            await answer_refusal(send, provider.refuse(ticket))
        return None

    # -- what is not an HTTP request -----------------------------------------------------------------------------

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "websocket" and self.provider.enabled and _MARK not in scope:
            await self._websocket(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        provider = self.provider

        async def watch() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                provider.gate.draining = False
                provider.awake()
            elif message["type"] == "lifespan.shutdown":
                await asyncio.to_thread(provider.close)  # it writes to a disk
            return message

        await self.app(scope, watch, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Gate the handshake; what comes after it holds no slot, and only counts against the customer's streams."""
        provider = self.provider
        gate = provider.gate
        ticket = refusal = inbox = None
        try:
            policy = provider.policies.match("GET", scope["path"])
            if not policy.exempt:
                caller = provider.caller(scope) or await provider.find(scope)
                refusal = provider.objection(caller, policy, stream=True)
                if refusal is None:
                    ticket = scope[_MARK] = gate.enter(caller, policy)
                    provider.awake()
        except Exception as error:  # as for HTTP: the connection passes
            provider.failed("enter", error)
        if ticket is None:
            if refusal is None:
                await self.app(scope, receive, send)
            else:
                await answer_refusal(_denying(scope, send), refusal)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "websocket.accept":
                message = {**message, "headers": [*message.get("headers", ()), *provider.advisor.headers(ticket)]}
            await send(message)
            gate.leave(ticket)

        try:
            if ticket.state is not _GRANTED:
                inbox = await self._turn(ticket, scope, receive, _denying(scope, send))
                if inbox is None:
                    return
                receive = inbox.receive
            if provider.quotas.active and (refusal := provider.spend(ticket, policy)) is not None:
                gate.leave(ticket, 0.0)
                await answer_refusal(_denying(scope, send), refusal)
                return
            scope[_MARKER] = provider.marker
            await self.app(scope, receive, answer)
        finally:
            gate.leave(ticket)
            if inbox is not None:
                inbox.close()
            provider.streams.close(caller.customer)


class _Long:
    """The part of a response that takes more than one small message: how long it keeps its slot."""

    __slots__ = ("_hold", "_provider", "_ticket", "delivery")

    def __init__(self, provider: Provider, ticket: Ticket, hold: str) -> None:
        self._provider = provider
        self._ticket = ticket
        self._hold = hold
        self.delivery = Delivery(provider.readers, ticket, provider.gate.clock())
        if hold == "none":
            provider.gate.leave(ticket)  # nothing of its response can price it any more

    @property
    def closed(self) -> bool:
        """Whether we closed it ourselves, because its client reads too slowly."""
        return self.delivery.closed

    async def send(self, send: Send, message: Message, scope: Scope) -> None:
        """Send a body message; the slot goes back when its hold says so."""
        provider, ticket = self._provider, self._ticket
        if ticket.state is not _GRANTED:
            await send(message)
            return
        if provider.gate.dormant:
            provider.awake()
        await self.delivery.send(send, message)
        if not message.get("more_body", False) or (self._hold == "first-byte" and message.get("body")):
            provider.done(ticket, scope)


async def answer_refusal(send: Send, refusal: Refusal) -> None:
    """Send a refusal as a whole HTTP response."""
    await send({"type": "http.response.start", "status": refusal.status, "headers": refusal.headers})
    await send({"type": "http.response.body", "body": refusal.body})


def is_preflight(scope: Scope) -> bool:
    """Tell a CORS preflight: it carries no credentials, and a browser takes its refusal for a broken API."""
    return any(name == b"access-control-request-method" for name, _ in scope["headers"])


def _denying(scope: Scope, send: Send) -> Send:
    """Let an HTTP response answer a WebSocket handshake, or close it where the server knows no such answer."""

    async def deny(message: Message) -> None:
        if "websocket.http.response" in scope.get("extensions", {}):
            await send({**message, "type": "websocket." + message["type"]})
        elif message["type"] == "http.response.start":
            await send({"type": "websocket.close", "code": 1013, "reason": "try again later"})

    return deny
