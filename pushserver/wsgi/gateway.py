"""The resource of a WSGI application: its threads, and their bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from pushserver.errors import TooMany
from pushserver.usercode.rate import LOGGED_AT_ONCE, LogLimiter
from pushserver.usercode.reactor import Reactor
from pushserver.usercode.thread_pool import Counts, ThreadPool
from pushserver.web.mount import surroundings
from pushserver.web.resource import refuse
from pushserver.wsgi.answer import Answer
from pushserver.wsgi.call import Call
from pushserver.wsgi.environ import environ
from pushserver.wsgi.interface import Application

_GROUP = "wsgi"


class Gateway(Resource):
    """Calls the application for each request, in one of `threads` threads.

    Up to `waiting` requests wait for a thread; further ones are refused with 503. Everything above
    the resource is SCRIPT_NAME only if the server is mounted in another site.

    twisted.web has such a resource too (`twisted.web.wsgi`). That one reads on from the application
    while the client does not read, has no bound on requests that wait, does not always close the
    iterable, and fails for peers on Unix sockets.
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
        self._failures = LogLimiter(LOGGED_AT_ONCE)

    @property
    def counts(self) -> Counts:
        """The threads, and the requests that wait for one."""
        return self._pool.counts

    def close(self) -> None:
        """End the threads when they are free."""
        self._pool.close()

    def render(self, request: Request) -> bytes | int:
        if self.counts.waiting >= self._waiting:
            problem = f"all {self._most} threads of the application are busy, and {self._waiting}"
            return refuse(
                request, TooMany(f"{problem} requests wait", "wsgi_waiting", http_status=503)
            )
        answer = Answer(request, self._reactor)
        path = request.path
        # The application owns the body: twisted.web would close it when the client leaves.
        body: Any = request.content
        request.content = None
        call = Call(
            self.application, environ(request, surroundings(request).trust.proxies, body), answer
        )
        waiting = self._pool.call(call, _GROUP)
        request.notifyFinish().addErrback(lambda _: waiting.cancel())

        def end(result: Any) -> None:
            if not isinstance(result, Failure):
                answer.finish(call.unsent)
            elif not result.check(CancelledError):
                self._note(result, path)
                answer.fail()

        waiting.addBoth(end)
        return NOT_DONE_YET

    def _note(self, failure: Failure, path: bytes) -> None:
        more = self._failures.suffix(self._monotonic())
        if more is not None:
            self._log.failure(
                "the WSGI application failed for {path}{more}",
                failure,
                path=path.decode("latin-1"),
                more=more,
                event_name="wsgi_failed",
            )
