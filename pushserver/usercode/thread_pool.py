"""A pool of threads that calls the plain functions of an application, which may block."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.errors import PushServerError
from pushserver.usercode.rate import LOGGED_AT_ONCE, LogLimiter
from pushserver.usercode.worker import ThreadWorker

WAITING = 1_000
"""The highest number of calls of one group that wait for a thread, mandatory ones excepted."""


class Busy(PushServerError):
    """Too many calls of the group wait for a thread."""


class Pool(Protocol):
    """Calls plain functions; `ThreadPool` calls them in threads."""

    @property
    def crowded(self) -> bool:
        """Whether the queue of mandatory calls is full, so that new clients must be refused."""

    def call(
        self, function: Callable[[], Any], group: Hashable, must: bool = False
    ) -> Deferred[Any]:
        """Call the function; the Deferred fires in the reactor's thread. Raises Busy.

        Calls of the same `group` share a part of the threads. A call that `must` be made is never
        refused, and is made even if its Deferred was cancelled.
        """

    def close(self) -> None:
        """End the threads when they are free; nothing waits for a call that hangs."""


@dataclass(frozen=True, slots=True)
class Counts:
    """The threads that run a call, those that are free, and the calls that wait for one."""

    running: int
    idle: int
    waiting: int


@dataclass(slots=True, eq=False)
class _Call:
    """A call that waits for a thread."""

    number: int
    function: Callable[[], Any]
    group: Hashable
    must: bool
    answer: Deferred[Any]


class ThreadPool:
    """Up to `most` daemon threads, started when they are needed.

    One group uses at most `share` of them, by default half, so that a slow handler does not block
    the others. A mandatory call gets an extra thread if all are in use, unless a call of its group
    is running. `name` is the beginning of the threads' names.

    A call that is cancelled while it waits for a thread is not made. A running call cannot be
    stopped: its thread is free when the call returns. `monotonic` is the steady clock.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorFromThreads,
        monotonic: Callable[[], float],
        most: int,
        share: int = 0,
        name: str = "handler",
    ):
        self._name = name
        self._reactor = reactor
        self._monotonic = monotonic
        self._most = most
        self._share = share or max(1, most // 2)
        self._workers: list[ThreadWorker] = []
        self._idle: list[ThreadWorker] = []
        self._running: Counter[Hashable] = Counter()
        self._waiting: dict[Hashable, dict[Deferred[Any], _Call]] = {}
        self._numbers = itertools.count()
        self._late = LogLimiter(LOGGED_AT_ONCE)

    @property
    def crowded(self) -> bool:
        return any(len(calls) >= WAITING and _first(calls).must for calls in self._waiting.values())

    @property
    def counts(self) -> Counts:
        """The threads and calls now."""
        waiting = sum(map(len, self._waiting.values()))
        return Counts(self._running.total(), len(self._idle), waiting)

    def call(
        self, function: Callable[[], Any], group: Hashable, must: bool = False
    ) -> Deferred[Any]:
        calls = self._waiting.setdefault(group, {})
        if len(calls) >= WAITING and not must:
            raise Busy

        def forget(answer: Deferred[Any]) -> None:
            calls.pop(answer, None)

        answer: Deferred[Any] = Deferred(None if must else forget)
        calls[answer] = _Call(next(self._numbers), function, group, must, answer)
        self._start_waiting()
        return answer

    def waits(self, answer: Deferred[Any], group: Hashable) -> bool:
        """Whether the call of this Deferred waits for a thread."""
        return answer in self._waiting.get(group, ())

    def close(self) -> None:
        if waiting := sum(map(len, self._waiting.values())):
            self._log.warn(
                "{n} waiting calls of handlers are dropped",
                n=waiting,
                event_name="handler_calls_dropped",
            )
        self._waiting.clear()
        for worker in self._workers:
            worker.close()

    def _start_waiting(self) -> None:
        """Start all calls that may start, the oldest first."""
        while (call := self._next()) is not None:
            try:
                self._start(call)
            except RuntimeError as error:
                # "can't start new thread": wait for a running call, if there is one.
                if self._running.total():
                    return
                del self._waiting[call.group][call.answer]
                call.answer.errback(error)

    def _next(self) -> _Call | None:
        heads = (_first(calls) for calls in self._waiting.values() if calls)
        ready = (call for call in heads if self._may_start(call))
        return min(ready, key=lambda call: call.number, default=None)

    def _may_start(self, call: _Call) -> bool:
        running = self._running[call.group]
        if call.must and not running:
            return True
        return running < self._share and self._running.total() < self._most

    def _start(self, call: _Call) -> None:
        """Start a call; raises RuntimeError, and changes nothing, if no thread can be started."""
        new = not self._idle
        worker = ThreadWorker(f"{self._name} {len(self._workers)}") if new else self._idle[-1]
        result = worker.call(self._reactor, call.function)
        if new:
            self._workers.append(worker)
        else:
            self._idle.pop()
        del self._waiting[call.group][call.answer]
        self._running[call.group] += 1
        result.addBoth(self._done, worker, call)

    def _done(self, result: Any, worker: ThreadWorker, call: _Call) -> None:
        self._running[call.group] -= 1
        self._idle.append(worker)
        self._start_waiting()
        if not call.answer.called:
            call.answer.callback(result)
        elif isinstance(result, Failure):
            more = self._late.suffix(self._monotonic())
            if more is not None:
                self._log.failure(
                    "a call that was late has failed{more}",
                    result,
                    more=more,
                    event_name="late_call_failed",
                )


def _first(calls: dict[Deferred[Any], _Call]) -> _Call:
    return next(iter(calls.values()))
