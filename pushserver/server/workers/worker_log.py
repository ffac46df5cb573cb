"""The log of a worker: its events go over its link to the main process, which writes them."""

from __future__ import annotations

import atexit
import sys
from collections import deque
from typing import cast

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import (
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    PredicateResult,
    formatEvent,
    globalLogBeginner,
)
from zope.interface import implementer

from pushserver.cluster.calls import Send
from pushserver.cluster.log_events import event_of
from pushserver.cluster.messages import Logged, Plain, frame
from pushserver.cluster.uplink import Uplink
from pushserver.config.settings import Log
from pushserver.server.log_output import (
    TEXT_CHARACTERS,
    Levels,
    Output,
    fields_of,
    terminal_observer,
    traceback_of,
)
from pushserver.usercode.rate import Rate
from pushserver.usercode.reactor import Reactor
from pushserver.usercode.steady import steady

KEPT = 1_000
"""The most events that wait for a link."""
PER_SECOND = 1_000.0
"""The most events in a second, of a worker that floods the log."""
NOTE_SECONDS = 1.0
"""The least time between two lines about dropped events."""


@implementer(ILogObserver)
class WorkerLog:
    """An observer that sends each event, as text, from a later turn of the reactor.

    Events that the sending itself causes are sent with the next ones. Without a link, and in a
    flood, the events over the bounds are dropped, and a line says how many. It may be called from
    any thread.
    """

    def __init__(self, worker: int, settings: Log, reactor: Reactor, out: Output):
        """`out` gets the events that no main process got."""
        self._worker = worker
        self._reactor = reactor
        self._monotonic = steady(reactor)
        self._out = out
        self._levels = Levels(settings)
        self._rate = Rate(PER_SECOND)
        self._events: deque[Logged] = deque()
        self._dropped = 0
        self._send: Send | None = None
        self._was_linked = False
        self._asked = False
        self._planned: IDelayedCall | None = None
        self._note_at = 0.0
        self._log = Logger(
            "pushserver.server.workers.worker_log", observer=cast(ILogObserver, self._keep)
        )

    def attach(self, uplink: Uplink, levels: Levels) -> None:
        """Send the events over this link from now on; a reload changes the levels."""
        self._levels = levels
        uplink.log = self

    def connected(self, send: Send) -> None:
        """There is a link: send the events that wait."""
        self._was_linked = True
        self._send = send
        self._flush()

    def lost(self) -> None:
        """The link is gone: keep the events for the next one."""
        self._send = None

    def close(self) -> None:
        """Write the events that wait to `out`; only the warnings if there was a link before."""
        write = terminal_observer(self._out)
        while self._events:
            event = event_of(self._events.popleft())
            if not self._was_linked or event["log_level"] >= LogLevel.warn:
                write(event)

    def __call__(self, event: LogEvent) -> None:
        if self._levels(event) is PredicateResult.no:
            return
        if len(self._events) < KEPT and self._rate.allows(self._monotonic()):
            self._keep(event)
        else:
            self._dropped += 1
        if not self._asked:
            self._asked = True
            self._reactor.callFromThread(self._plan)

    def _keep(self, event: LogEvent) -> None:
        message = _message(event, self._worker)
        if message.text or message.traceback:
            self._events.append(message)

    def _plan(self) -> None:
        self._asked = False
        if self._planned is None:
            self._planned = self._reactor.callLater(0, self._flush)

    def _flush(self) -> None:
        if self._planned is not None and self._planned.active():
            self._planned.cancel()
        self._planned = None
        if self._send is None:
            return
        now = self._monotonic()
        self._send_all(self._send)
        if not self._dropped:
            return
        if now < self._note_at:
            self._planned = self._reactor.callLater(self._note_at - now, self._flush)
            return
        self._note_at = now + NOTE_SECONDS
        dropped, self._dropped = self._dropped, 0
        self._log.warn(
            "{n} lines of the log were dropped, as they were too many",
            n=dropped,
            event_name="worker_log_dropped",
        )
        self._send_all(self._send)

    def _send_all(self, send: Send) -> None:
        # Not those that come meanwhile.
        for _ in range(len(self._events)):
            send(frame(self._events.popleft()))


def start_log(worker: int, settings: Log, reactor: Reactor) -> WorkerLog:
    """Begin the log of this worker; `attach` gives it the link when there is one.

    At the end of the process, events that no main process got are written to standard error.
    """
    log = WorkerLog(worker, settings, reactor, sys.stderr)
    atexit.register(log.close)
    globalLogBeginner.beginLoggingTo([log], redirectStandardIO=False)
    return log


def _message(event: LogEvent, worker: int) -> Logged:
    failure = event.get("log_failure")
    return Logged(
        worker,
        event.get("log_time", 0.0),
        event.get("log_level", LogLevel.info).name,
        _encodable(str(event.get("log_namespace", ""))),
        _encodable(str(event.get("event_name") or "")),
        _encodable(formatEvent(event)[: 4 * TEXT_CHARACTERS]),
        "" if failure is None else _encodable(traceback_of(failure)),
        {_encodable(key): _plain(value) for key, value in fields_of(event).items()},
    )


def _plain(value: Plain) -> Plain:
    """The value, or its digits if it is too large for MessagePack."""
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return hex(value)[:TEXT_CHARACTERS]
    return _encodable(value) if isinstance(value, str) else value


def _encodable(text: str) -> str:
    """The text with escapes for what UTF-8 does not have."""
    return text.encode("utf-8", "backslashreplace").decode()
