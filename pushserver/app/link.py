"""The link from an application to the server that runs it, for all threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.app.result import Awaited, Published
from pushserver.auth.issuer import Issuer
from pushserver.channels.position import Start
from pushserver.channels.publication import Draft, Publication
from pushserver.errors import Unavailable
from pushserver.resources.fragment_functions import PublicationView
from pushserver.sessions.node import Node
from pushserver.sessions.orders import Order, carry_out
from pushserver.usercode.coroutines import start
from pushserver.usercode.fork import ForkGuard

Result = TypeVar("Result")

STOP_CHECK_SECONDS = 0.5
"""How often a thread that waits for an answer checks whether the server has stopped."""


class ServerLink:
    """The link to one server while it runs, made in the process of the server.

    In a fork of that process all methods raise NotRunning.
    """

    _log = Logger()

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
        return Published(self.wait(lambda: Deferred.fromCoroutine(self.node.publish(draft))))

    def last(self, channel: str, count: int) -> Any:
        """Read the newest publications from any thread; see `App.last`."""
        self._fork_guard.check()
        read = partial(_last, self.node, channel, count)
        if self.in_reactor_thread():
            return Awaited(Deferred.fromCoroutine(read()).addCallback(_views))
        return _views(self.wait(lambda: Deferred.fromCoroutine(read())))

    def order(self, order: Order) -> None:
        """Carry out an order soon, here and at the servers with a common log; from any thread.

        Raises Unavailable and NotRunning.
        """
        self.call_soon(lambda: self._order(order))

    def _order(self, order: Order) -> None:
        carry_out(self.node, order)
        self.node.run(self._tell_others(order))

    async def _tell_others(self, order: Order) -> None:
        try:
            await self.node.tell_others(order)
        except Unavailable as error:
            self._log.warn(
                "other servers may not know that {what}: {problem}",
                what=f"a {type(order).__name__} was ordered",
                problem=str(error),
                event_name="order_not_told",
            )

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

    def wait(self, start: Callable[[], Deferred[Result]]) -> Result:
        """Call `start` in the reactor's thread, and wait for its result; not in that thread.

        Raises the exception of `start` or of its Deferred, Unavailable and NotRunning.
        """
        answers: SimpleQueue[Result | Failure] = SimpleQueue()
        self.call_soon(lambda: maybeDeferred(start).addBoth(answers.put))
        while True:
            # Read before the queue: a call from before the stop has its answer by then.
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


async def _last(node: Node, channel: str, count: int) -> Sequence[Publication]:
    await node.load((channel,), fresh=True)
    return node.history.read((channel,), Start(last=count), limited=False).publications


def _views(rows: Sequence[Publication]) -> list[PublicationView]:
    return [PublicationView.of(row) for row in rows]


def _is_thread(thread: int) -> bool:
    return threading.get_ident() == thread
