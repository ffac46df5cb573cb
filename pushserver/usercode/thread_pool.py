"""Calls of an application's handlers: plain functions in threads, as they may take their time."""

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
from pushserver.usercode.worker import Worker

WAITING = 1_000
"""How many calls of one handler may wait for a thread."""


class Busy(PushServerError):
    """So many calls of this handler wait for a thread that no other may."""


class Threads(Protocol):
    """Where plain functions are called."""

    @property
    def crowded(self) -> bool:
        """Whether so many calls wait that must be made that nobody may cause more of them."""

    def call(
        self, function: Callable[[], Any], place: Hashable, must: bool = False
    ) -> Deferred[Any]:
        """What it returns or raises, on the reactor's thread; raises Busy.

        `place` says whose call it is. `must`: call it whoever waits already, and even when
        nobody waits for it any more.
        """

    def close(self) -> None:
        """Let the threads go; those that hang keep nobody."""


@dataclass(slots=True, eq=False)
class _Call:
    """One that waits for a thread."""

    number: int
    function: Callable[[], Any]
    place: Hashable
    must: bool
    answer: Deferred[Any]


class Pool:
    """So many daemon threads at the most, begun when they are needed.

    One place has half of them at the most, so that a slow one does not keep all others waiting;
    and what must be called gets a thread more if they are all taken, unless the same is being
    called already.

    A call that is cancelled while it waits for a thread is not made. One that is made goes on;
    only when it has returned does its thread take another. `monotonic` is the steady clock.
    """

    _log = Logger()

    def __init__(self, reactor: IReactorFromThreads, monotonic: Callable[[], float], most: int):
        self._reactor = reactor
        self._monotonic = monotonic
        self._most = most
        self._share = max(1, most // 2)
        self._workers: list[Worker] = []
        self._idle: list[Worker] = []
        self._begun: Counter[Hashable] = Counter()
        self._waiting: dict[Hashable, dict[Deferred[Any], _Call]] = {}
        self._numbers = itertools.count()
        self._late = LogLimiter(LOGGED_AT_ONCE)

    @property
    def crowded(self) -> bool:
        return any(len(calls) >= WAITING and _first(calls).must for calls in self._waiting.values())

    def call(
        self, function: Callable[[], Any], place: Hashable, must: bool = False
    ) -> Deferred[Any]:
        calls = self._waiting.setdefault(place, {})
        if len(calls) >= WAITING and not must:
            raise Busy

        def forget(answer: Deferred[Any]) -> None:
            calls.pop(answer, None)

        answer: Deferred[Any] = Deferred(None if must else forget)
        calls[answer] = _Call(next(self._numbers), function, place, must, answer)
        self._go_on()
        return answer

    def close(self) -> None:
        if waiting := sum(map(len, self._waiting.values())):
            self._log.warn("{n} calls of handlers are not made any more", n=waiting)
        self._waiting.clear()
        for worker in self._workers:
            worker.close()

    def _go_on(self) -> None:
        """Begin all calls that may be, the oldest first."""
        while (call := self._next()) is not None:
            try:
                self._begin(call)
            except RuntimeError as error:
                # "can't start new thread": there are threads that will be free, or there are none.
                if self._begun.total():
                    return
                del self._waiting[call.place][call.answer]
                call.answer.errback(error)

    def _next(self) -> _Call | None:
        first = (_first(calls) for calls in self._waiting.values() if calls)
        may = (call for call in first if self._may_begin(call))
        return min(may, key=lambda call: call.number, default=None)

    def _may_begin(self, call: _Call) -> bool:
        begun = self._begun[call.place]
        if call.must and not begun:
            return True
        return begun < self._share and self._begun.total() < self._most

    def _begin(self, call: _Call) -> None:
        """Raises RuntimeError if there is no thread for it; nothing has happened then."""
        new = not self._idle
        worker = Worker(f"handler {len(self._workers)}") if new else self._idle[-1]
        made = worker.call(self._reactor, call.function)
        if new:
            self._workers.append(worker)
        else:
            self._idle.pop()
        del self._waiting[call.place][call.answer]
        self._begun[call.place] += 1
        made.addBoth(self._done, worker, call)

    def _done(self, result: Any, worker: Worker, call: _Call) -> None:
        self._begun[call.place] -= 1
        self._idle.append(worker)
        self._go_on()
        if not call.answer.called:
            call.answer.callback(result)
        elif isinstance(result, Failure):
            more = self._late.suffix(self._monotonic())
            if more is not None:
                self._log.failure("a call that was late has failed{more}", result, more=more)


def _first(calls: dict[Deferred[Any], _Call]) -> _Call:
    return next(iter(calls.values()))
