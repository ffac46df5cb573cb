"""Tells systemd that the server works: WATCHDOG=1 after a self-check, and STATUS=.

systemd ends a service that is silent for WatchdogSec= by SIGABRT, and starts it again. A program
that embeds the server has its own watchdog, or none.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress

from twisted.application.service import Service
from twisted.logger import Logger

from pushserver.cluster.measures import Measure, Measures
from pushserver.server.systemd import notify
from pushserver.sessions.node import Node
from pushserver.usercode.reactor import Reactor
from pushserver.usercode.repeating import Repeating

STATUS_SECONDS = 10.0
"""Between two checks; less if a third of the watchdog's time is less."""
SHORTEST = 0.1
NOT_DELIVERED = "publications are not delivered"


def watchdog_seconds(environment: Mapping[str, str], pid: int) -> float:
    """The time within which systemd expects WATCHDOG=1; 0 if it expects none of this process.

    Raises ValueError for a time that is no number of microseconds (sd_watchdog_enabled(3)).
    """
    text = environment.get("WATCHDOG_USEC", "")
    if not text or environment.get("WATCHDOG_PID", "") not in ("", str(pid)):
        return 0.0
    if not (text.isascii() and text.isdigit() and int(text[:20])):
        raise ValueError(f"WATCHDOG_USEC {text!r:.60}, expected microseconds, 1 or more")
    return int(text[:20]) / 1_000_000


class Watchdog(Service):
    """Checks the server regularly, in the reactor: one that is blocked sends nothing.

    Each time, all ports must accept connections (`closed_port` names one that does not), and a
    publication must pass the fan-out. The store is not a part: a restart does not mend a disk.
    The status has the sums of `measures`.
    No-op without NOTIFY_SOCKET in the `environment`, which is read at the start, in the daemon.
    """

    _log = Logger()

    def __init__(
        self,
        node: Node,
        measures: Measures,
        closed_port: Callable[[], str],
        reactor: Reactor,
        environment: Mapping[str, str],
    ):
        self._node = node
        self._measures = measures
        self._closed_port = closed_port
        self._environment = environment
        self._probe = node.hub.probe()
        self._problem = ""
        self._counts = (0.0, 0, 0)
        self._clock = Repeating(self._check, reactor)

    def startService(self) -> None:
        super().startService()
        if not self._environment.get("NOTIFY_SOCKET"):
            return
        interval = STATUS_SECONDS
        try:
            seconds = watchdog_seconds(self._environment, os.getpid())
        except ValueError as error:
            self._log.warn("{error}", error=str(error), event_name="watchdog_invalid")
        else:
            if seconds:
                interval = max(SHORTEST, min(interval, seconds / 3))
                _show_stacks()
        self._counts = self._count(self._measures.whole())
        self._clock.start(interval)

    def stopService(self) -> None:
        super().stopService()
        self._clock.stop()

    def _check(self) -> None:
        try:
            problem = self._closed_port() or (NOT_DELIVERED if self._probe.waits else "")
        except Exception as error:
            self._log.failure("the self-check failed", event_name="self_check_error")
            problem = str(error) or type(error).__name__
        self._note(problem)
        self._notify(f"STATUS={self._status()}")
        self._probe.start(self._delivered)

    def _note(self, problem: str) -> None:
        """Log a problem when it comes, and when it is over."""
        if problem == self._problem:
            return
        self._problem = problem
        if problem:
            self._log.error(
                "the self-check found: {problem}", problem=problem, event_name="self_check_failed"
            )
        else:
            self._log.info("the self-check finds no problem", event_name="self_check_passed")

    def _delivered(self) -> None:
        if self._problem in ("", NOT_DELIVERED):
            self._notify("WATCHDOG=1")

    def _notify(self, state: str) -> None:
        # With a full socket, one of the next two arrives in time.
        notify(state, self._environment)

    def _status(self) -> str:
        whole = self._measures.whole()
        before, self._counts = self._counts, self._count(whole)
        seconds, published, delivered = (
            now - then for now, then in zip(self._counts, before, strict=True)
        )
        text = (
            f"connections: {whole.clients:,}, "
            f"publications: {published / max(seconds, SHORTEST):,.1f}/s, "
            f"deliveries: {delivered / max(seconds, SHORTEST):,.1f}/s"
        )
        return f"{self._problem}; {text}" if self._problem else text

    def _count(self, whole: Measure) -> tuple[float, int, int]:
        metrics = whole.metrics
        return self._node.monotonic(), metrics.publications, metrics.deliveries


def _show_stacks() -> None:
    """Let SIGABRT write the stacks of all threads to the log, which show what blocks the server."""
    if not faulthandler.is_enabled():
        # There may be no standard error.
        with suppress(AttributeError, ValueError, OSError):
            faulthandler.enable(sys.__stderr__)  # type: ignore[arg-type]
