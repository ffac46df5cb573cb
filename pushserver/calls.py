"""Calls of an application's handlers: plain functions in threads, as they may take their time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.sources.worker import Worker

WAITING = 1_000
"""How many calls may wait for a thread."""


class Busy(Exception):
    """So many calls wait for a thread that no other may."""


class Threads(Protocol):
    """Where plain functions are called."""

    def call(self, function: Callable[[], Any], must: bool = False) -> Deferred[Any]:
        """What it returns or raises, on the reactor's thread; raises Busy.

        `must`: call it whoever waits already, and even when nobody waits for it any more.
        """

    def close(self) -> None:
        """Let the threads go; those that hang keep nobody."""


class Pool:
    """So many daemon threads at the most, begun when they are needed.

    A call that is cancelled while it waits for a thread is not made. One that is made goes on;
    only when it has returned does its thread take another.
    """

    _log = Logger()

    def __init__(self, reactor: Any, most: int):
        self._reactor = reactor
        self._most = most
        self._workers: list[Worker] = []
        self._idle: list[Worker] = []
        self._waiting: OrderedDict[Deferred[Any], Callable[[], Any]] = OrderedDict()

    def call(self, function: Callable[[], Any], must: bool = False) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred(None if must else self._forget)
        if self._idle:
            self._begin(self._idle.pop(), function, answer)
        elif len(self._workers) < self._most:
            worker = Worker(f"handler {len(self._workers)}")
            self._workers.append(worker)
            self._begin(worker, function, answer)
        elif must or len(self._waiting) < WAITING:
            self._waiting[answer] = function
        else:
            raise Busy
        return answer

    def close(self) -> None:
        if self._waiting:
            self._log.warn("{n} calls of handlers are not made any more", n=len(self._waiting))
        self._waiting.clear()
        for worker in self._workers:
            worker.close()

    def _begin(self, worker: Worker, function: Callable[[], Any], answer: Deferred[Any]) -> None:
        worker.call(self._reactor, function).addBoth(self._done, worker, answer)

    def _done(self, result: Any, worker: Worker, answer: Deferred[Any]) -> None:
        if self._waiting:
            waiting, function = self._waiting.popitem(last=False)
            self._begin(worker, function, waiting)
        else:
            self._idle.append(worker)
        if not answer.called:
            answer.callback(result)
        elif isinstance(result, Failure):
            self._log.failure("a call that was late has failed", result)

    def _forget(self, answer: Deferred[Any]) -> None:
        self._waiting.pop(answer, None)
