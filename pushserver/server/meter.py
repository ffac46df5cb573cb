"""Measures this process: its counters, its load and what it takes of the machine."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Sequence
from contextlib import suppress

from twisted.application.service import Service

from pushserver.cluster.measures import Measure
from pushserver.diagnosis.facts import TemplateFailure
from pushserver.resources.top import slow_readers
from pushserver.server.pulse import Pulse
from pushserver.sessions.node import Node
from pushserver.transports.unsent import Unsent
from pushserver.usercode.reactor import Reactor
from pushserver.usercode.repeating import Repeating

REPORT_SECONDS = 1.0
"""Between two reports of a worker."""
MOST_FAILURES = 20
"""The failures of templates in a report."""


class Meter:
    """Measures the process with this node."""

    def __init__(
        self,
        node: Node,
        unsent: Unsent,
        pulse: Pulse,
        failures: Callable[[], Sequence[TemplateFailure]] = tuple,
    ):
        self._failures = failures
        self._node = node
        self._unsent = unsent
        self._pulse = pulse
        self._started = node.monotonic()

    def measure(self) -> Measure:
        """The present numbers; the counters in them are those that the process goes on counting."""
        node, unsent, turns = self._node, self._unsent, self._pulse.turns
        used = resource.getrusage(resource.RUSAGE_SELF)
        return Measure(
            node.metrics,
            self._pulse.lag,
            len(node.peers),
            unsent.bytes,
            len(unsent),
            slow_readers(node, unsent),
            None if turns is None else turns.seconds,
            used.ru_utime + used.ru_stime,
            _resident_bytes(),
            node.monotonic() - self._started,
            newest(self._failures()),
        )


def newest(failures: Sequence[TemplateFailure]) -> list[TemplateFailure]:
    """The newest of these failures, which a worker reports each second."""
    return sorted(failures, key=lambda failure: -failure.time)[:MOST_FAILURES]


class Reports(Service):
    """Calls `report` once a second from its start, and at its stop."""

    def __init__(self, report: Callable[[], object], reactor: Reactor):
        self._report = report
        self._clock = Repeating(report, reactor)

    def startService(self) -> None:
        super().startService()
        self._clock.start(REPORT_SECONDS)

    def stopService(self) -> None:
        if self.running:
            self._clock.stop()
            self._report()
        super().stopService()


def _resident_bytes() -> int:
    """The memory of the process; 0 where the system does not say."""
    with suppress(OSError), open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0
