"""The link from an application to the server that runs it, for all threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

from pushserver.app.result import Published
from pushserver.auth.issuer import Issuer
from pushserver.channels.publication import Draft, Receipt
from pushserver.errors import Unavailable
from pushserver.sessions.node import Node
from pushserver.usercode.coroutines import start
from pushserver.usercode.fork import ForkGuard

STOP_CHECK_SECONDS = 0.5
"""How often a thread that waits for an answer checks whether the server has stopped."""


class ServerLink:
    """The link to one server while it runs, made in the process of the server.

    In a fork of that process all methods raise NotRunning.
    """

    def __init__(self, node: Node, reactor: IReactorFromThreads, issuer: Issuer):
        self.node = node
        self.issuer = issuer
        self.in_reactor_thread: Callable[[], bool] = partial(_is_thread, threading.get_ident())
        self._fork_guard = ForkGuard()
        self._reactor = reactor
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Fail the threads that still wait for an answer: the server has stopped."""
        self._stopped.set()

    def publish(self, draft: Draft) -> Published:
        """Publish from any thread; raises Unavailable and NotRunning."""
        self._fork_guard.check()
        if self.in_reactor_thread():
            return Published(start(self.node.publish(draft)))
        return Published(self._publish_and_wait(draft))

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call the function in the reactor's thread, at once if this is it.

        Raises Unavailable and NotRunning.
        """
        self._fork_guard.check()
        if self.in_reactor_thread():
            function()
        elif self._stopped.is_set():
            raise Unavailable("the server has stopped", "stopping")
        else:
            self._reactor.callFromThread(function)

    def _publish_and_wait(self, draft: Draft) -> Receipt:
        answers: SimpleQueue[Receipt | Failure] = SimpleQueue()

        def publish() -> None:
            Deferred.fromCoroutine(self.node.publish(draft)).addBoth(answers.put)

        self.call_soon(publish)
        while True:
            # Read before the queue: a publication from before the stop has its answer by then.
            stopped = self._stopped.is_set()
            try:
                answer = answers.get(timeout=0 if stopped else STOP_CHECK_SECONDS)
            except Empty:
                if stopped:
                    raise Unavailable("the server has stopped", "stopping") from None
                continue
            if isinstance(answer, Failure):
                answer.raiseException()
            return answer


def _is_thread(thread: int) -> bool:
    return threading.get_ident() == thread
