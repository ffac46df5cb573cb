"""Fakes for tests of sources that use HTTP, with real sockets on loopback."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from twisted.internet import reactor as _reactor
from twisted.internet.defer import CancelledError, Deferred, DeferredQueue, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import directlyProvides, providedBy

from pushserver.channels.publication import Receipt
from tests.unit.fakes.tools import EPOCH

Result = TypeVar("Result")
reactor: Any = _reactor


class StillReactor:
    """The real reactor with a clock that only the test advances."""

    def __init__(self) -> None:
        self.clock = Clock()
        directlyProvides(self, providedBy(reactor))

    def seconds(self) -> float:
        return self.clock.seconds()

    def callLater(self, *arguments: Any, **named: Any) -> Any:
        return self.clock.callLater(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


class Visit(Protocol):
    """One connection to a Remote, and its requests.

    `gone` fires when it is lost; `was_dropped`: it was aborted, not closed.
    """

    remote: Remote

    def __init__(self) -> None:
        self.path = ""
        self.headers: dict[str, str] = {}
        self.gone: Deferred[None] = Deferred()
        self.was_dropped = False
        self._head = b""

    def connectionMade(self) -> None:
        self.remote.open.add(self)

    def dataReceived(self, data: bytes) -> None:
        self._head += data
        if self._head.endswith(b"\r\n\r\n"):
            first, *lines = self._head.decode("latin-1").strip().split("\r\n")
            self._head = b""
            method, self.path, _ = first.split(" ")
            assert method == "GET"
            pairs = (line.split(": ", 1) for line in lines)
            self.headers = {name.lower(): value for name, value in pairs}
            self.remote.visits.put(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.remote.open.discard(self)
        self.was_dropped = reason.check(ConnectionDone) is None
        self.gone.callback(None)
        self.remote.check_empty()

    def write(self, data: bytes) -> None:
        """Send these bytes."""
        cast(ITCPTransport, self.transport).write(data)

    def answer(self, body: bytes = b"", status: int = 200, /, **headers: str) -> None:
        """Send a whole answer; `_` in names is `-`."""
        fields = {"content-length": str(len(body)), **headers}
        self.begin(status, **fields)
        self.write(body)

    def begin(self, status: int = 200, /, **headers: str) -> None:
        """Send the head of an answer."""
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items() if value]
        self.write("\r\n".join([f"HTTP/1.1 {status} Whatever", *lines, "", ""]).encode())

    def json(self, value: object, **headers: str) -> None:
        """Send an answer of JSON."""
        self.answer(json.dumps(value).encode(), content_type="application/json", **headers)

    def chunk(self, data: bytes) -> None:
        """Send a piece of a body without a length; the empty one is the last."""
        self.write(b"%x\r\n%b\r\n" % (len(data), data))

    def close(self) -> None:
        """End the connection in order."""
        cast(ITCPTransport, self.transport).loseConnection()

    def cut(self) -> None:
        """Break the connection."""
        cast(ITCPTransport, self.transport).abortConnection()


class Remote(Factory):
    """An HTTP server whose responses the test writes one by one."""

    noisy = False

    def __init__(self, context: Any = None) -> None:
        self.visits: DeferredQueue[Visit] = DeferredQueue()
        self.open: set[Visit] = set()
        self._empty: Deferred[None] | None = None
        if context is None:
            self._port = reactor.listenTCP(0, self, interface="127.0.0.1")
        else:
            self._port = reactor.listenSSL(0, self, context, interface="127.0.0.1")
        self.host = f"127.0.0.1:{self._port.getHost().port}"
        self.url = f"{'http' if context is None else 'https'}://{self.host}/"

    def buildProtocol(self, addr: IAddress | None) -> Visit:
        visit = Visit()
        visit.remote = self
        return visit

    def visit(self) -> Deferred[Visit]:
        """Return the connection of the next request."""
        return self.visits.get()

    async def stop(self) -> None:
        """Stop listening, and abort all connections."""
        await self._port.stopListening()
        for visit in tuple(self.open):
            visit.cut()
        await self.empty()

    def empty(self) -> Deferred[None]:
        """Fires when there is no connection."""
        if not self.open:
            return succeed(None)
        self._empty = Deferred()
        return self._empty

    def check_empty(self) -> None:
        empty = self._empty
        if not self.open and empty is not None:
            self._empty = None
            empty.callback(None)


class FakeFeed:
    """A feed whose `happens` returns the steps of the source, in order.

    `sleep` waits for `wake`, and `publish` for `gate`, if there is one.
    """

    name = "news"
    channel = "numbers"

    def __init__(self, reactor: Any = None, memory: object = None, event: str = "message"):
        self.reactor: Any = StillReactor() if reactor is None else reactor
        self.monotonic: Callable[[], float] = self.reactor.seconds
        self.event = event
        self.memory = memory
        self.kept: list[object] = []
        self.published: list[tuple[object, str]] = []
        self.keys: list[str] = []
        self.troubles: list[str] = []
        self.oks = 0
        self.busy = 0.0
        self.gate: Deferred[None] | None = None
        self.refusal: Exception | None = None
        self._steps: DeferredQueue[tuple[str, Any]] = DeferredQueue()
        self._sleeping: Deferred[None] | None = None

    async def publish(
        self,
        data: object,
        event: str = "",
        channel: str = "",
        tags: dict[str, str] | None = None,
        key: str = "",
    ) -> Receipt:
        if self.gate is not None:
            self._steps.put(("waits", data))
            await self.gate
        if self.refusal is not None:
            raise self.refusal
        self.published.append((data, event or self.event))
        self.keys.append(key)
        self._steps.put(("publishes", data))
        offset = len(self.published)
        return Receipt(EPOCH, offset, offset)

    def delay(self) -> float:
        return self.busy

    async def sleep(self, seconds: float) -> None:
        self._sleeping = Deferred()
        self._steps.put(("sleeps", seconds))
        try:
            await self._sleeping
        finally:
            self._sleeping = None
        clock = getattr(self.reactor, "clock", None)
        if clock is not None:
            clock.advance(seconds)

    def remembered(self) -> object:
        return self.memory

    def remember(self, value: object) -> None:
        self.memory = json.loads(json.dumps(value))
        self.kept.append(self.memory)

    def trouble(self, message: str) -> None:
        self.troubles.append(message)
        self._steps.put(("trouble", message))

    def ok(self) -> None:
        self.oks += 1

    @property
    def asleep(self) -> bool:
        """Whether the source sleeps."""
        return self._sleeping is not None

    def wake(self) -> None:
        """End the sleep of the source."""
        assert self._sleeping is not None, "does not sleep"
        self._sleeping.callback(None)

    async def happens(self) -> tuple[str, Any]:
        """Return the next step of the source, after the turn in which it happened."""
        step = await self._steps.get()
        await deferLater(reactor, 0)
        return step

    @property
    def data(self) -> list[object]:
        """The data of all publications."""
        return [data for data, _ in self.published]


class RemoteCase(TestCase):
    """A test on the real reactor; trial fails one that leaves a connection or a timer."""

    timeout = 30

    def remote(self, context: Any = None) -> Remote:
        """Start a server, which is stopped at the end of the test."""
        remote = Remote(context)
        self.addCleanup(lambda: Deferred.fromCoroutine(remote.stop()))
        return remote

    def start(self, coroutine: Coroutine[Any, Any, Result]) -> Deferred[Result]:
        """Start a coroutine, which is cancelled at the end of the test."""
        running = Deferred.fromCoroutine(coroutine)
        self.addCleanup(_end, running)
        return running

    def run_source(self, source: Any, feed: FakeFeed) -> Deferred[None]:
        """Run a source until the test ends."""
        return self.start(source.run(feed))


async def failure_of(running: Deferred[Any]) -> Exception:
    """Return the exception of the Deferred."""
    caught: list[Failure] = []
    result = await running.addErrback(caught.append)
    assert caught, f"gave {result!r}"
    error = caught[0].value
    assert isinstance(error, Exception)
    return error


def _end(running: Deferred[Any]) -> None:
    running.addErrback(lambda failure: failure.trap(CancelledError))
    running.cancel()
