"""The application, as sessions ask it: its handlers are called, and what becomes of that."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver import payload, wire
from pushserver.broker import Unavailable
from pushserver.calls import Busy, Threads
from pushserver.client import Client
from pushserver.events import Events, Handler, full_name
from pushserver.handlers import HandlerFailed, NotHandled, Refused
from pushserver.running import Running
from pushserver.session import Session
from pushserver.sources.awaiting import awaited
from pushserver.sources.record import describe
from pushserver.sources.traces import own_part

BUSY_SECONDS = 60.0
"""How often it is logged that calls are turned away, at the most."""


@dataclass(frozen=True, slots=True)
class HandlerFailure:
    """How a handler failed the last time; `time` in Unix seconds."""

    name: str
    event: str
    error: str
    time: float


class AppHandlers:
    """The application, as sessions ask it (`handlers.Handlers`).

    A handler that raises is logged with its traceback, and the client learns that it failed.
    One that takes longer than `seconds` is not waited for.

    For each `connect` that was let in `disconnect` is called once.
    """

    _log = Logger()

    def __init__(
        self,
        events: Events,
        threads: Threads,
        clock: IReactorTime,
        seconds: float,
    ):
        self.clients: dict[Session, Client] = {}
        self._events = events
        self._failures: dict[tuple[str, str], HandlerFailure] = {}
        self._running: Running | None = None
        self._threads = threads
        self._clock = clock
        self._seconds = seconds
        self._starting: list[Deferred[None]] | None = None
        self._leaving = 0
        self._when_left: Deferred[None] | None = None
        self._told_busy: float | None = None

    def begin(self, running: Running) -> None:
        """A server runs the application from now on; nobody is connected before `start`."""
        self._running = running
        self._starting = None if self._events.find("start") is None else []

    async def start(self) -> None:
        """Call what the application has for it."""
        await self._tell("start", self._seconds)
        waiting, self._starting = self._starting or [], None
        for one in waiting:
            one.callback(None)

    async def stop(self, seconds: float) -> None:
        """Call what the application has for it, once `start` is over; so long at the most."""
        until = self._clock.seconds() + seconds
        try:
            await self._started().addTimeout(seconds, self._clock)
        except TimeoutError:
            self._log.warn("the server stops before the handler of start is over")
        else:
            await self._tell("stop", max(0.001, until - self._clock.seconds()))

    def _started(self) -> Deferred[None]:
        """Fires when `start` is over."""
        started: Deferred[None] = Deferred()
        if self._starting is None:
            started.callback(None)
        else:
            self._starting.append(started)
        return started

    async def end(self, seconds: float) -> None:
        """The server has stopped: what is called for those who left is waited for so long."""
        if self._leaving:
            left = self._when_left = Deferred()
            try:
                await left.addTimeout(seconds, self._clock)
            except TimeoutError:
                self._log.warn("{n} handlers of disconnect are left behind", n=self._leaving)
            self._when_left = None
        self._threads.close()

    def failures(self, channel: str) -> list[HandlerFailure]:
        """The last failure of each handler of the channel's namespace, and of none."""
        spaces = ("", _namespace(channel))
        return [failed for (space, _), failed in self._failures.items() if space in spaces]

    async def connect(self, session: Session, data: bytes) -> bytes:
        assert self._running is not None, "a session before the start"
        if self._starting is not None:
            await self._started()
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

    def disconnect(self, session: Session, reason: str) -> None:
        client = self.clients.pop(session, None)
        found = self._events.find("disconnect")
        if client is not None and found is not None:
            self._leaving += 1
            # What it raises has been logged.
            Deferred.fromCoroutine(self._call(found, client, reason)).addBoth(self._left)

    def _left(self, _: object) -> None:
        self._leaving -= 1
        if not self._leaving and self._when_left is not None:
            self._when_left.callback(None)

    async def subscribe(self, session: Session, channel: str, data: bytes) -> None:
        found = self._events.find("subscribe", _namespace(channel))
        if found is not None:
            client = self.clients[session]
            if await self._call(found, client, channel, _value(data)) is False:
                raise Refused(f"subscribing to {channel} was refused by the application")

    def guards(self, channel: str) -> bool:
        return self._events.find("subscribe", _namespace(channel)) is not None

    async def publish(self, session: Session, channel: str, data: bytes) -> bool:
        found = self._events.find("publish", _namespace(channel))
        if found is None:
            return False
        if await self._call(found, self.clients[session], channel, _value(data)) is False:
            raise Refused(f"publishing to {channel} was refused by the application")
        return True

    async def rpc(self, session: Session, method: str, data: bytes) -> bytes:
        found = self._events.named(method)
        if found is None:
            raise NotHandled(f"the application has no handler for {method[:80]!r}")
        answer = await self._call(found, self.clients[session], _value(data))
        return self._encoded(found, answer)

    async def message(self, session: Session, data: bytes) -> None:
        value = _value(data)
        found, value = self._meant(value)
        if found is None:
            raise NotHandled("the application has no handler for what was sent")
        await self._call(found, self.clients[session], value)

    def _meant(self, value: Any) -> tuple[Handler | None, Any]:
        """Who takes something that was sent: a named event's handler, `message` or `json`."""
        if isinstance(value, dict) and value.keys() == {"event", "data"}:
            name = value["event"]
            found = self._events.named(name) if isinstance(name, str) else None
            if found is not None:
                return found, value["data"]
        kind = "message" if isinstance(value, str) else "json"
        return self._events.find(kind) or self._events.find("message"), value

    async def _tell(self, event: str, seconds: float) -> None:
        """Call what there is for something to which nobody wants an answer."""
        found = self._events.find(event)
        if found is None:
            return
        try:
            await self._call(found, seconds=min(seconds, self._seconds))
        except Refused as error:
            self._fault(found, error)
        except HandlerFailed:
            # It has been logged.
            pass

    async def _call(self, found: Handler, *arguments: Any, seconds: float = 0.0) -> Any:
        """What the handler answers; raises Refused, or HandlerFailed, which has been logged."""
        seconds = seconds or self._seconds
        answer = Deferred.fromCoroutine(self._answer(found, arguments))
        try:
            return await self._in_time(answer, seconds)
        except Refused:
            raise
        except Busy:
            self._tell_busy(found)
            raise HandlerFailed("too many calls wait for the application") from None
        except _Late:
            limit = " (handler_seconds)" if seconds == self._seconds else ""
            problem = f"has not answered in {seconds:g} s{limit}"
            self._failed(found, problem)
            self._log.error("{name} {problem}", name=found.name, problem=problem)
            raise HandlerFailed("the application did not answer in time") from None
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            # asyncio's CancelledError and SystemExit are no reason to leave a client waiting.
            self._fault(found, error)
            raise HandlerFailed("the application failed") from None

    def _fault(self, found: Handler, error: BaseException) -> None:
        self._failed(found, describe(error))
        if isinstance(error, Unavailable) and error.cause == "stopping":
            # For each client that is there when the server stops.
            self._log.info("{name}: {error}", name=found.name, error=error)
        else:
            failure = own_part(Failure(error))
            self._log.failure("the handler {name} failed", failure, name=found.name)

    def _in_time(self, made: Deferred[Any], seconds: float) -> Deferred[Any]:
        """What it gives, or _Late; then it is cancelled, which it may take as it likes."""
        if made.called:
            return made
        answer: Deferred[Any] = Deferred()

        def late() -> None:
            answer.errback(_Late())
            made.cancel()

        def over(result: Any) -> None:
            if call.active():
                call.cancel()
                answer.callback(result)
            elif isinstance(result, Failure) and result.check(CancelledError) is None:
                self._log.failure("a handler that was late has failed", result)

        call = self._clock.callLater(seconds, late)
        made.addBoth(over)
        return answer

    async def _answer(self, found: Handler, arguments: tuple[Any, ...]) -> Any:
        given = arguments[: found.takes]
        if found.thread:
            must = found.place[1] in ("start", "stop", "disconnect")
            answer = await self._threads.call(lambda: found.function(*given), must)
        else:
            answer = found.function(*given)
        return await awaited(answer) if inspect.isawaitable(answer) else answer

    def _tell_busy(self, found: Handler) -> None:
        now, told = self._clock.seconds(), self._told_busy
        if told is None or now - told >= BUSY_SECONDS:
            self._told_busy = now
            problem = "is not called: too many calls wait for a thread (handler_threads)"
            self._failed(found, problem)
            self._log.error("{name} {problem}", name=found.name, problem=problem)

    def _encoded(self, found: Handler, answer: object) -> bytes:
        try:
            return payload.encode(answer)
        except ValueError as error:
            self._failed(found, f"answered what JSON cannot hold: {describe(error)}")
            self._log.error("the handler {name} answered: {error}", name=found.name, error=error)
            raise HandlerFailed("the application answered what JSON cannot hold") from None

    def _failed(self, found: Handler, error: str) -> None:
        """Keep it; there is one for each handler at the most."""
        assert self._running is not None, "a call before the start"
        now, event = round(self._running.node.clock(), 3), full_name(*found.place)
        self._failures[found.place] = HandlerFailure(found.name, event, error, now)


class _Late(Exception):
    """A handler has not answered in time."""


def _value(data: bytes) -> Any:
    try:
        return json.loads(payload.compact(data)) if data else None
    except payload.InvalidData as error:
        raise wire.WireError(wire.BAD_REQUEST, f"bad request: data: {error}") from None


def _namespace(channel: str) -> str:
    return channel.partition(":")[0] if ":" in channel else ""
