"""Calling the handlers of an application for its sessions."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pushserver.app.call import Call, Late, TimeLimits
from pushserver.app.client import Client, current_client
from pushserver.app.failures import HandlerFailure, HandlerFailures
from pushserver.app.handlers import Handler, HandlerRegistry, full_name
from pushserver.app.link import ServerLink
from pushserver.app.visitor import Visitor, identity_of
from pushserver.auth.identity import Identity
from pushserver.channels import jsontext
from pushserver.channels.names import namespace_of
from pushserver.errors import HandlerFailed, NotHandled, Refused
from pushserver.hub.metrics import Metrics
from pushserver.protocols.centrifuge import request_data
from pushserver.protocols.socketio import Values, values
from pushserver.sessions.callbacks import ClientSession
from pushserver.sessions.visit import Visit
from pushserver.usercode.awaiting import awaited
from pushserver.usercode.coroutines import start
from pushserver.usercode.stopwatch import Stopwatch
from pushserver.usercode.thread_pool import Busy, Pool


class Dispatcher:
    """Calls the handlers of an application; the `callbacks.Handlers` of its sessions.

    An exception of a handler is logged with its traceback, and the client is told that the handler
    failed. `seconds` is the time limit of a handler; `monotonic` is the steady clock.

    `disconnect` is called once for each client that `connect` let in.
    """

    _log = Logger()

    def __init__(
        self,
        registry: HandlerRegistry,
        threads: Pool,
        timer: IReactorTime,
        monotonic: Callable[[], float],
        seconds: float,
        metrics: Metrics | None = None,
    ):
        self._metrics = metrics or Metrics()
        self.clients: dict[ClientSession, Client] = {}
        self._registry = registry
        self._failures = HandlerFailures(monotonic)
        self._link: ServerLink | None = None
        self._threads = threads
        self._timer = timer
        self._monotonic = monotonic
        self.seconds = seconds
        self._starting: list[Deferred[None]] | None = None
        self._leaving = 0
        self._when_left: Deferred[None] | None = None
        self._limits = TimeLimits(timer, self._failures.raised_late)
        self._stopwatches: dict[tuple[str, str], Stopwatch] = {}

    def attach(self, link: ServerLink) -> None:
        """A server starts to run the application; clients wait until `start` is over."""
        self._link = link
        self._failures.clock = link.node.clock
        self._starting = None if self._registry.find("start") is None else []
        for handler, near in self._registry.misspelt():
            self._failures.misspelt(handler, near)

    async def start(self) -> None:
        """Call the `start` handler, and then let the waiting clients in."""
        await self._notify_server("start", self.seconds)
        waiting, self._starting = self._starting or [], None
        for started in waiting:
            started.callback(None)

    async def stop(self, seconds: float) -> None:
        """Call the `stop` handler after that of `start`; `seconds` is the limit for both."""
        until = self._monotonic() + seconds
        try:
            await self._started().addTimeout(seconds, self._timer)
        except TimeoutError:
            self._log.warn(
                "the server stops before the handler of start has returned",
                event_name="start_handler_unfinished",
            )
        else:
            await self._notify_server("stop", max(0.001, until - self._monotonic()))

    def _started(self) -> Deferred[None]:
        """Fires when `start` is over."""
        started: Deferred[None] = Deferred()
        if self._starting is None:
            started.callback(None)
        else:
            self._starting.append(started)
        return started

    async def end(self, seconds: float) -> None:
        """The server has stopped: wait up to `seconds` for the `disconnect` handlers.

        Afterwards nothing waits for a handler.
        """
        if self._leaving:
            left = self._when_left = Deferred()
            try:
                await left.addTimeout(seconds, self._timer)
            except TimeoutError:
                self._log.warn(
                    "{n} handlers of disconnect still run, and are abandoned",
                    n=self._leaving,
                    event_name="disconnect_handlers_abandoned",
                )
            self._when_left = None
        self._limits.end()
        self._threads.close()

    def failures(self, channel: str) -> list[HandlerFailure]:
        """The last failure of each handler for the channel."""
        return self._failures.last(namespace_of(channel))

    @property
    def decides_on_clients(self) -> bool:
        return self._registry.has("connect")

    @property
    def authenticates(self) -> bool:
        return self._registry.find("authenticate") is not None

    async def authenticate(self, visit: Visit, data: bytes) -> Identity:
        handler = self._registry.find("authenticate")
        assert handler is not None, "authenticate without a handler: see `authenticates`"
        if self._starting is not None:
            await self._started()
        visitor = Visitor(visit.address, visit.protocol, visit.headers, _value(data))
        answer = await self._call(handler, visitor)
        if answer is False:
            raise Refused
        try:
            identity = identity_of(answer)
        except (TypeError, ValueError) as error:
            self._failures.raised(handler, error)
            raise HandlerFailed("the application failed") from None
        if 0 < identity.expires <= self._failures.clock():
            raise Refused("the login has expired")
        return identity

    async def connect(self, session: ClientSession, data: bytes) -> bytes:
        assert self._link is not None, "a session before the start"
        if self._starting is not None:
            await self._started()
        if self._threads.crowded:
            self._failures.crowded()
            raise HandlerFailed("too many calls wait for the application")
        client = self.clients[session] = Client(session, self._link)
        handler = self._registry.find("connect", session.namespace)
        try:
            if handler is None:
                return b""
            answer = await self._call(handler, client, _value(data))
            if answer is False:
                raise Refused
            return b"" if answer is None or answer is True else self._encode(handler, answer)
        except BaseException:
            self.clients.pop(session, None)
            raise
        finally:
            client.admitted()

    def disconnect(self, session: ClientSession, reason: str) -> None:
        client = self.clients.pop(session, None)
        handler = self._registry.find("disconnect", session.namespace)
        if client is not None and handler is not None:
            self._leaving += 1
            call = self._notify(handler, self.seconds, client, reason)
            Deferred.fromCoroutine(call).addBoth(self._left)

    def _left(self, _: object) -> None:
        self._leaving -= 1
        if not self._leaving and self._when_left is not None:
            self._when_left.callback(None)

    async def subscribe(self, session: ClientSession, channel: str, data: bytes) -> None:
        handler = self._registry.find("subscribe", namespace_of(channel))
        if handler is not None:
            client = self.clients[session]
            if await self._call(handler, client, channel, _value(data)) is False:
                raise Refused(f"subscribing to {channel} was refused by the application")

    def guards(self, channel: str) -> bool:
        return self._registry.find("subscribe", namespace_of(channel)) is not None

    def decides(self, channel: str) -> bool:
        return self._registry.find("publish", namespace_of(channel)) is not None

    async def publish(self, session: ClientSession, channel: str, data: bytes) -> None:
        handler = self._registry.find("publish", namespace_of(channel))
        assert handler is not None, "publish without a handler: see `decides`"
        client = self.clients.get(session) or await self._requester(session)
        if await self._call(handler, client, channel, _value(data)) is False:
            raise Refused(f"publishing to {channel} was refused by the application")

    async def _requester(self, session: ClientSession) -> Client:
        """The client of a request, which `connect` has not seen."""
        if self._starting is not None:
            await self._started()
        assert self._link is not None, "a request before the start"
        return Client(session, self._link)

    async def rpc(self, session: ClientSession, method: str, data: bytes) -> bytes:
        handler = self._registry.find_method(method)
        if handler is None:
            self._failures.uncalled(method, self._registry.methods)
            raise NotHandled(f"the application has no handler for {method[:80]!r}")
        answer = await self._call(handler, self.clients[session], _value(data))
        return self._encode(handler, answer)

    async def message(self, session: ClientSession, data: bytes) -> None:
        if not self._registry.methods:
            # No value has a handler, so there is no need to decode this one.
            self._failures.unhandled(data[:_SHOWN_BYTES].decode("utf-8", "replace"), [])
            raise NotHandled("the application has no handler for this message")
        handler, value = self._route(_value(data))
        if handler is None:
            self._failures.unhandled(value, sorted(self._registry))
            raise NotHandled("the application has no handler for this message")
        await self._call(handler, self.clients[session], value)

    async def event(self, session: ClientSession, event: str, arguments: list[Any]) -> Values:
        handler = self._registry.find_event(event, session.namespace)
        if handler is None:
            self._failures.uncalled(event, self._registry.methods)
            raise NotHandled(f"the application has no handler for {event[:80]!r}")
        client = self.clients[session]
        if handler.raw:
            answer = await self._call(handler, client, event, arguments)
        else:
            # A handler has one argument for the data; several of an event are a tuple, in both
            # directions.
            data = arguments[0] if len(arguments) == 1 else tuple(arguments) or None
            answer = await self._call(handler, client, data)
        if answer is None:
            return Values(b"[]")
        try:
            return values(answer if isinstance(answer, tuple) else (answer,))
        except ValueError as error:
            self._failures.not_json(handler, error)
            raise HandlerFailed("the application's answer does not fit into JSON") from None

    def _route(self, value: Any) -> tuple[Handler | None, Any]:
        """The handler for a message, and its argument: a named event, or `message` or `json`."""
        if isinstance(value, dict) and "event" in value and value.keys() <= {"event", "data"}:
            name = value["event"]
            handler = self._registry.find_method(name) if isinstance(name, str) else None
            if handler is not None:
                return handler, value.get("data")
        kind = "message" if isinstance(value, str) else "json"
        return self._registry.find(kind) or self._registry.find("message"), value

    def notify(self, handler: Handler, *arguments: Any) -> None:
        """Call a function of the application, in its thread, whose result nobody waits for."""
        start(self._notify(handler, self.seconds, *arguments))

    async def _notify_server(self, event: str, seconds: float) -> None:
        """Call the handler for an event of the server, if there is one."""
        handler = self._registry.find(event)
        if handler is not None:
            await self._notify(handler, min(seconds, self.seconds))

    async def _notify(self, handler: Handler, seconds: float, *arguments: Any) -> None:
        """Call the handler and ignore its result; raises nothing."""
        try:
            await self._call(handler, *arguments, seconds=seconds)
        except Refused as error:
            self._failures.raised(handler, error)
        except HandlerFailed:
            # It has been logged.
            pass

    async def _call(self, handler: Handler, *arguments: Any, seconds: float = 0.0) -> Any:
        """Return the handler's result; raises Refused, or HandlerFailed, which has been logged."""
        seconds = seconds or self.seconds
        client = arguments[0] if arguments and isinstance(arguments[0], Client) else None
        call = Call(handler, arguments[: handler.arity], client)
        name, started = full_name(*handler.key), self._monotonic()
        answer = Deferred.fromCoroutine(self._answer(call))
        try:
            return await self._limits.apply(call, answer, seconds)
        except Refused:
            raise
        except Busy:
            self._failures.busy(handler)
            self._metrics.handler_failures[name] += 1
            raise HandlerFailed("too many calls wait for the application") from None
        except Late:
            limit = " (handler_seconds)" if seconds == self.seconds else ""
            self._failures.late(handler, call.late(seconds) + limit)
            self._metrics.handler_failures[name] += 1
            raise HandlerFailed("the application did not answer in time") from None
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            # Also asyncio's CancelledError and SystemExit: the client must get an answer.
            self._failures.raised(handler, error)
            self._metrics.handler_failures[name] += 1
            raise HandlerFailed("the application failed") from None
        finally:
            self._metrics.handled(name, self._monotonic() - started)

    async def _answer(self, call: Call) -> Any:
        handler, stopwatch = call.handler, self._stopwatch(call.handler)
        # For a coroutine, whose Deferred has a context of its own.
        current_client.set(call.client)
        if handler.thread:
            key = handler.key
            must = key[1] in ("start", "stop", "disconnect")
            answer = await self._threads.call(call, key, must)
        else:
            answer = stopwatch.call(call)
        # Also what a coroutine function returns that forgot an await: a coroutine is not False, and
        # would permit what the handler decides on.
        while inspect.isawaitable(answer):
            answer = await awaited(answer, stopwatch.call)
        if inspect.isgenerator(answer) or inspect.isasyncgen(answer):
            raise TypeError("the handler returned a generator, expected a value")
        return answer

    def _stopwatch(self, handler: Handler) -> Stopwatch:
        stopwatch = self._stopwatches.get(handler.key)
        if stopwatch is None:
            name = f"the handler {handler.name} of {full_name(*handler.key)}"
            stopwatch = self._stopwatches[handler.key] = Stopwatch(name, handler.is_async)
        return stopwatch

    def _encode(self, handler: Handler, answer: object) -> bytes:
        try:
            return jsontext.encode(answer)
        except ValueError as error:
            self._failures.not_json(handler, error)
            raise HandlerFailed("the application's answer does not fit into JSON") from None


_SHOWN_BYTES = 120


def _value(data: bytes) -> Any:
    return json.loads(request_data(data)) if data else None
