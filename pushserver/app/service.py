"""An application's way into the server that runs it, from whatever thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

from pushserver.app.result import Published
from pushserver.channels.publication import Draft
from pushserver.errors import Unavailable
from pushserver.sessions.node import Node
from pushserver.usercode.coroutines import start
from pushserver.usercode.fork import Process

Result = TypeVar("Result")

LOOK_SECONDS = 0.5
"""How often a thread that waits for an answer looks whether the server has stopped."""


LAST_SECONDS = 2.0
"""How long a stopping server waits for the handler of `stop`, and for those of who left."""


class Running:
    """One server, for as long as it runs; made in the process that runs it.

    A fork of that process has it too, and gets NotRunning for all that it asks of it.
    """

    def __init__(self, node: Node, reactor: IReactorFromThreads):
        self.node = node
        self.here: Callable[[], bool] = partial(_is_thread, threading.get_ident())
        """Whether this is the reactor's thread."""
        self._process = Process()
        self._reactor = reactor
        self._stopped = threading.Event()

    def stop(self) -> None:
        """The server has stopped: nobody waits for it any more."""
        self._stopped.set()

    def publish(self, draft: Draft) -> Published:
        """Publish from any thread; raises Unavailable and NotRunning."""
        self._process.check()
        if self.here():
            return Published(start(self.node.publish(draft)))
        publishing = partial(self.node.publish, draft)
        return Published(self._wait_for(lambda: Deferred.fromCoroutine(publishing())))

    def soon(self, call: Callable[[], object]) -> None:
        """Call on the reactor's thread: at once if this is it; raises as `publish` does."""
        self._process.check()
        if self.here():
            call()
        elif self._stopped.is_set():
            raise Unavailable("the server has stopped", "stopping")
        else:
            self._reactor.callFromThread(call)

    def _wait_for(self, begin: Callable[[], Deferred[Result]]) -> Result:
        answers: SimpleQueue[Any] = SimpleQueue()
        self.soon(lambda: begin().addBoth(answers.put))
        while True:
            # All that began before the stop has its answer when that is over.
            stopped = self._stopped.is_set()
            try:
                answer = answers.get(timeout=0 if stopped else LOOK_SECONDS)
            except Empty:
                if stopped:
                    raise Unavailable("the server has stopped", "stopping") from None
                continue
            if isinstance(answer, Failure):
                answer.raiseException()
            result: Result = answer
            return result


def _is_thread(thread: int) -> bool:
    return threading.get_ident() == thread


class Application(Protocol):
    """What is told that a server runs it."""

    def begin(self, running: Running, handlers: Any) -> None:
        """From now on."""

    def end(self) -> None:
        """No longer."""


class AppService(Service):
    """Runs an application from the start of the server to its end, and what that calls."""

    def __init__(self, app: Application, handlers: Any, node: Node, reactor: IReactorFromThreads):
        self._app = app
        self._handlers = handlers
        self._node = node
        self._reactor = reactor

    def startService(self) -> None:
        super().startService()
        running = Running(self._node, self._reactor)
        self._app.begin(running, self._handlers)
        self._handlers.begin(running)

    async def tell_start(self) -> None:
        """The reactor runs: call what there is for `start`; fires when that is over."""
        await self._handlers.start()

    async def tell_stop(self) -> None:
        """The server stops, but still publishes: call what there is for `stop`."""
        await self._handlers.stop(LAST_SECONDS)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self._handlers.end(LAST_SECONDS)

    def end(self) -> None:
        """Everything has stopped: who waits for a commit that has not come waits in vain."""
        self._app.end()
