"""The application, as sessions ask it: its handlers are called, and what becomes of that."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.app.client import Client
from pushserver.app.failures import Faults, HandlerFailure
from pushserver.app.handlers import Events, Handler
from pushserver.app.service import Running
from pushserver.channels import jsontext
from pushserver.channels.names import namespace_of
from pushserver.errors import HandlerFailed, NotHandled, Refused
from pushserver.protocols.centrifuge import request_data
from pushserver.sessions.callbacks import ClientSession
from pushserver.usercode import fork
from pushserver.usercode.awaiting import awaited
from pushserver.usercode.thread_pool import Busy, Threads


class AppHandlers:
    """The application, as sessions ask it (`callbacks.Handlers`).

    A handler that raises is logged with its traceback, and the client learns that it failed.
    One that takes longer than `seconds` is not waited for. `monotonic` is the steady clock.

    For each `connect` that was let in `disconnect` is called once.
    """

    _log = Logger()

    def __init__(
        self,
        events: Events,
        threads: Threads,
        timer: IReactorTime,
        monotonic: Callable[[], float],
        seconds: float,
    ):
        self.clients: dict[ClientSession, Client] = {}
        self._events = events
        self._faults = Faults(monotonic)
        self._running: Running | None = None
        self._threads = threads
        self._timer = timer
        self._monotonic = monotonic
        self._seconds = seconds
        self._starting: list[Deferred[None]] | None = None
        self._leaving = 0
        self._when_left: Deferred[None] | None = None
        self._timers: set[IDelayedCall] = set()

    def begin(self, running: Running) -> None:
        """A server runs the application from now on; nobody is connected before `start`."""
        self._running = running
        self._faults.clock = running.node.clock
        self._starting = None if self._events.find("start") is None else []

    async def start(self) -> None:
        """Call what the application has for it."""
        await self._tell_all("start", self._seconds)
        waiting, self._starting = self._starting or [], None
        for one in waiting:
            one.callback(None)

    async def stop(self, seconds: float) -> None:
        """Call what the application has for it, once `start` is over; so long at the most."""
        until = self._monotonic() + seconds
        try:
            await self._started().addTimeout(seconds, self._timer)
        except TimeoutError:
            self._log.warn("the server stops before the handler of start is over")
        else:
            await self._tell_all("stop", max(0.001, until - self._monotonic()))

    def _started(self) -> Deferred[None]:
        """Fires when `start` is over."""
        started: Deferred[None] = Deferred()
        if self._starting is None:
            started.callback(None)
        else:
            self._starting.append(started)
        return started

    async def end(self, seconds: float) -> None:
        """The server has stopped: what is called for those who left is waited for so long.

        Nothing is waited for after that.
        """
        if self._leaving:
            left = self._when_left = Deferred()
            try:
                await left.addTimeout(seconds, self._timer)
            except TimeoutError:
                self._log.warn("{n} handlers of disconnect are left behind", n=self._leaving)
            self._when_left = None
        while self._timers:
            self._timers.pop().cancel()
        self._threads.close()

    def failures(self, channel: str) -> list[HandlerFailure]:
        """The last failure of each handler of the channel's namespace, and of none."""
        return self._faults.last(namespace_of(channel))

    async def connect(self, session: ClientSession, data: bytes) -> bytes:
        assert self._running is not None, "a session before the start"
        if self._starting is not None:
            await self._started()
        if self._threads.crowded:
            self._faults.crowded()
            raise HandlerFailed("too many calls wait for the application")
        client = self.clients[session] = Client(session, self._running)
        found = self._events.find("connect")
        if found is None:
            return b""
        try:
            answer = await self._call(found, client, _value(data))
            if answer is False:
                raise Refused
            return b"" if answer is None or answer is True else self._encoded(found, answer)
        except BaseException:
            self.clients.pop(session, None)
            raise

    def disconnect(self, session: ClientSession, reason: str) -> None:
        client = self.clients.pop(session, None)
        found = self._events.find("disconnect")
        if client is not None and found is not None:
            self._leaving += 1
            Deferred.fromCoroutine(self._tell(found, self._seconds, client, reason)).addBoth(
                self._left
            )

    def _left(self, _: object) -> None:
        self._leaving -= 1
        if not self._leaving and self._when_left is not None:
            self._when_left.callback(None)

    async def subscribe(self, session: ClientSession, channel: str, data: bytes) -> None:
        found = self._events.find("subscribe", namespace_of(channel))
        if found is not None:
            client = self.clients[session]
            if await self._call(found, client, channel, _value(data)) is False:
                raise Refused(f"subscribing to {channel} was refused by the application")

    def guards(self, channel: str) -> bool:
        return self._events.find("subscribe", namespace_of(channel)) is not None

    def decides(self, channel: str) -> bool:
        return self._events.find("publish", namespace_of(channel)) is not None

    async def publish(self, session: ClientSession, channel: str, data: bytes) -> None:
        found = self._events.find("publish", namespace_of(channel))
        assert found is not None, "publish without a handler: see `decides`"
        if await self._call(found, self.clients[session], channel, _value(data)) is False:
            raise Refused(f"publishing to {channel} was refused by the application")

    async def rpc(self, session: ClientSession, method: str, data: bytes) -> bytes:
        found = self._events.named(method)
        if found is None:
            raise NotHandled(f"the application has no handler for {method[:80]!r}")
        answer = await self._call(found, self.clients[session], _value(data))
        return self._encoded(found, answer)

    async def message(self, session: ClientSession, data: bytes) -> None:
        if not self._events.heard:
            # No value of the data has a handler, so the data need not be read.
            self._faults.unheard(data[:_SHOWN_BYTES].decode("utf-8", "replace"), [])
            raise NotHandled("the application has no handler for what was sent")
        found, value = self._meant(_value(data))
        if found is None:
            self._faults.unheard(value, sorted(self._events))
            raise NotHandled("the application has no handler for what was sent")
        await self._call(found, self.clients[session], value)

    def _meant(self, value: Any) -> tuple[Handler | None, Any]:
        """Who takes something that was sent: a named event's handler, `message` or `json`."""
        if isinstance(value, dict) and "event" in value and value.keys() <= {"event", "data"}:
            name = value["event"]
            found = self._events.named(name) if isinstance(name, str) else None
            if found is not None:
                return found, value.get("data")
        kind = "message" if isinstance(value, str) else "json"
        return self._events.find(kind) or self._events.find("message"), value

    async def _tell_all(self, event: str, seconds: float) -> None:
        """Call what there is for something that happens to the server."""
        found = self._events.find(event)
        if found is not None:
            await self._tell(found, min(seconds, self._seconds))

    async def _tell(self, found: Handler, seconds: float, *arguments: Any) -> None:
        """Call it for something to which nobody wants an answer."""
        try:
            await self._call(found, *arguments, seconds=seconds)
        except Refused as error:
            self._faults.raised(found, error)
        except HandlerFailed:
            # It has been logged.
            pass

    async def _call(self, found: Handler, *arguments: Any, seconds: float = 0.0) -> Any:
        """What the handler answers; raises Refused, or HandlerFailed, which has been logged."""
        seconds = seconds or self._seconds
        made = _Made(found, arguments[: found.takes])
        answer = Deferred.fromCoroutine(self._answer(made))
        try:
            return await self._in_time(made, answer, seconds)
        except Refused:
            raise
        except Busy:
            self._faults.busy(found)
            raise HandlerFailed("too many calls wait for the application") from None
        except _Late:
            limit = " (handler_seconds)" if seconds == self._seconds else ""
            self._faults.late(found, made.late(seconds) + limit)
            raise HandlerFailed("the application did not answer in time") from None
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            # asyncio's CancelledError and SystemExit are no reason to leave a client waiting.
            self._faults.raised(found, error)
            raise HandlerFailed("the application failed") from None

    def _in_time(self, made: _Made, giving: Deferred[Any], seconds: float) -> Deferred[Any]:
        """What it gives, or _Late; then it is cancelled, which it may take as it likes."""
        if giving.called:
            return giving
        answer: Deferred[Any] = Deferred()

        def late() -> None:
            self._timers.discard(timer)
            answer.errback(_Late())
            giving.cancel()

        def over(result: Any) -> None:
            self._timers.discard(timer)
            if timer.active():
                timer.cancel()
                answer.callback(result)
            elif isinstance(result, Failure) and result.check(CancelledError) is None:
                self._faults.raised_late(made.found, result)

        timer: IDelayedCall = self._timer.callLater(seconds, late)
        self._timers.add(timer)
        giving.addBoth(over)
        return answer

    async def _answer(self, made: _Made) -> Any:
        if made.found.thread:
            place = made.found.place
            must = place[1] in ("start", "stop", "disconnect")
            answer = await self._threads.call(made, place, must)
        else:
            answer = made()
        return await awaited(answer) if inspect.isawaitable(answer) else answer

    def _encoded(self, found: Handler, answer: object) -> bytes:
        try:
            return jsontext.encode(answer)
        except ValueError as error:
            self._faults.answered(found, error)
            raise HandlerFailed("the application answered what JSON cannot hold") from None


class _Made:
    """One call of a handler; `begun` is set in its thread."""

    def __init__(self, found: Handler, arguments: tuple[Any, ...]):
        self.found = found
        self.begun = False
        self._arguments = arguments

    def __call__(self) -> Any:
        self.begun = True
        return fork.call(self.found.function, *self._arguments)

    def late(self, seconds: float) -> str:
        """What is wrong with it after so long."""
        if self.begun:
            return f"has not answered in {seconds:g} s"
        return f"was not called: it waited for a thread (handler_threads) for {seconds:g} s"


class _Late(Exception):
    """A handler has not answered in time."""


_SHOWN_BYTES = 120


def _value(data: bytes) -> Any:
    return json.loads(request_data(data)) if data else None
