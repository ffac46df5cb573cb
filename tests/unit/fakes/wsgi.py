"""The whole server with a WSGI application, whose threads are real."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from twisted.internet.testing import MemoryReactorClock

from pushserver.server.embedding import PushServer
from pushserver.wsgi.gateway import Gateway
from pushserver.wsgi.interface import Application
from tests.unit.fakes.web import Line, Response, Server, request

WAIT_SECONDS = 30.0
"""For threads on a busy machine; a test that fails takes as long."""


class ThreadReactor(MemoryReactorClock):
    """A memory_reactor whose test makes the calls of threads."""

    def __init__(self) -> None:
        super().__init__()
        self._brought: SimpleQueue[Callable[[], object]] = SimpleQueue()

    def callFromThread(self, call: Callable[..., object], *arguments: Any) -> None:
        self._brought.put(lambda: call(*arguments))

    def take(self) -> None:
        """Wait for the next call of a thread, and make it."""
        self._brought.get(timeout=WAIT_SECONDS)()


class WsgiServer(Server):
    """The whole server with this application; `get` waits for its threads."""

    def __init__(self, application: Application, **more: Any):
        self.push = PushServer(wsgi=application)
        super().__init__(clock=ThreadReactor(), app=self.push, **more)
        gateway = self.service.gateway
        assert gateway is not None
        self.gateway: Gateway = gateway

    def until(self, done: Callable[[], bool]) -> None:
        """Make the calls of threads until this is so."""
        while not done():
            self.clock.take()

    @property
    def idle(self) -> bool:
        """Whether no request is in a thread or waits for one."""
        counts = self.gateway.counts
        return not counts.running and not counts.waiting

    def ask(self, data: bytes, line: Line | None = None) -> bytes:
        """The bytes of the answer to these of a request."""
        line = line or self.connect()
        line.send(data)
        self.until(lambda: self.idle)
        return line.take()

    def get(self, path: str, method: str = "GET", body: bytes = b"", /, **headers: str) -> Response:
        line = self.connect()
        line.send(request(path, method, body, **headers))
        self.until(lambda: self.idle)
        return line.response(method)
