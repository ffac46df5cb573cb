"""The resource of a WSGI application: its threads, and their bounds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from pushserver.errors import TooMany
from pushserver.usercode.rate import LOGGED_AT_ONCE, LogLimiter
from pushserver.usercode.reactor import Reactor
from pushserver.usercode.thread_pool import Counts, ThreadPool
from pushserver.usercode.tracebacks import own_part
from pushserver.web.mount import surroundings
from pushserver.web.resource import refuse
from pushserver.wsgi.answer import Answer, Memory
from pushserver.wsgi.call import Call
from pushserver.wsgi.environ import environ
from pushserver.wsgi.interface import Application

WAIT_SECONDS = 30.0
"""The longest time that a request waits for a thread."""

SWITCH_SECONDS = 0.0001
"""The interval after which Python lets another thread run, while an application is served.

Each socket that the fan-out writes to releases Python's lock, and a thread that computes keeps it
for this time. With 20 threads that compute, the last of 300 readers got a publication after 690 ms
with Python's 5 ms, and after 140 ms with 0.1 ms; with 0.02 ms that was no better.
"""

_GROUP = "wsgi"


class Gateway(Resource):
    """Calls the application for each request, in one of `threads` threads.

    Up to `waiting` requests wait for a thread; further ones are refused with 503.

    twisted.web has such a resource too (`twisted.web.wsgi`). That one takes all of an answer while
    the client does not read, has no bound on requests that wait, does not close the iterable of an
    application that fails, and fails for peers on Unix sockets.
    """

    isLeaf = True
    _log = Logger()

    def __init__(
        self,
        application: Application,
        reactor: Reactor,
        monotonic: Callable[[], float],
        threads: int,
        waiting: int,
    ):
        super().__init__()
        self.application = application
        self._reactor = reactor
        self._monotonic = monotonic
        self._most = threads
        self._waiting = waiting
        self._pool = ThreadPool(reactor, monotonic, threads, threads, "wsgi")
        self._memory = Memory()
        self._calls: set[Call] = set()
        self._when_idle: Deferred[None] | None = None
        self._interval = 0.0
        self._failures, self._refusals = LogLimiter(LOGGED_AT_ONCE), LogLimiter()

    @property
    def counts(self) -> Counts:
        """The threads, and the requests that wait for one."""
        return self._pool.counts

    def start(self) -> None:
        """The server starts: let its thread run often enough."""
        interval = sys.getswitchinterval()
        if interval > SWITCH_SECONDS:
            self._interval = interval
            sys.setswitchinterval(SWITCH_SECONDS)

    def settle(self) -> Deferred[None]:
        """Fires when no request is in the application, or waits for it."""
        if not self._calls:
            return succeed(None)
        idle = self._when_idle = Deferred()
        return idle

    def close(self) -> None:
        """End the threads when they are free; nothing waits for a call that hangs."""
        self._pool.close()
        if self._interval:
            sys.setswitchinterval(self._interval)

    def render(self, request: Request) -> bytes | int:
        if self.counts.waiting >= self._waiting:
            return refuse(request, self._busy())
        answer = Answer(request, self._reactor, self._memory)
        # The application owns the body: twisted.web would close it when the client leaves.
        body: Any = request.content
        request.content = None
        values = environ(request, surroundings(request).trust, body)
        call = Call(self.application, values, answer, self._monotonic)
        self._calls.add(call)
        waiting = self._pool.call(call, _GROUP)
        request.notifyFinish().addErrback(lambda _: self._give_up(waiting))
        if self._pool.waits(waiting, _GROUP):
            self._bound_waiting(waiting, answer)
        waiting.addBoth(self._end, call, answer)
        return NOT_DONE_YET

    def _bound_waiting(self, waiting: Deferred[Any], answer: Answer) -> None:
        def give_up() -> None:
            if self._give_up(waiting):
                answer.fail(self._busy())

        late = self._reactor.callLater(WAIT_SECONDS, give_up)

        def stop(result: Any) -> Any:
            if late.active():
                late.cancel()
            return result

        waiting.addBoth(stop)

    def _give_up(self, waiting: Deferred[Any]) -> bool:
        """Cancel a call that waits for a thread; return whether it waited."""
        waits = self._pool.waits(waiting, _GROUP)
        if waits:
            waiting.cancel()
        return waits

    def _end(self, result: Any, call: Call, answer: Answer) -> None:
        self._calls.discard(call)
        if not isinstance(result, Failure):
            answer.finish(call.unsent)
        elif not result.check(CancelledError):
            self._note(result, call)
            answer.fail()
        if not self._calls and self._when_idle is not None:
            idle, self._when_idle = self._when_idle, None
            idle.callback(None)

    def _busy(self) -> TooMany:
        """The error for a request that gets no thread; the log says which requests have them."""
        more = self._refusals.suffix(self._monotonic())
        began = [(call.began, str(call)) for call in self._calls if call.began is not None]
        if more is not None and began:
            since, longest = min(began)
            self._log.warn(
                "all {threads} threads of the WSGI application are busy, and {n} requests wait;"
                " {request} has run for {seconds:.1f} s{more}",
                threads=self._most,
                n=self.counts.waiting,
                request=longest,
                seconds=self._monotonic() - since,
                more=more,
                event_name="wsgi_busy",
            )
        return TooMany(
            f"all {self._most} threads of the application are busy", "wsgi_threads", http_status=503
        )

    def _note(self, failure: Failure, call: Call) -> None:
        more = self._failures.suffix(self._monotonic())
        if more is not None:
            self._log.failure(
                "the WSGI application failed for {request}{more}",
                own_part(failure),
                request=str(call),
                more=more,
                event_name="wsgi_failed",
            )
