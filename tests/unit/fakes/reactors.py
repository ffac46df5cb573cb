"""Reactors and thread pools for the parts of a server that do more than keep time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.internet.task import Clock

from pushserver.testing.reactor import InlinePool
from pushserver.usercode.thread_pool import Busy


class LifeCycle(Clock):
    """A reactor whose start and end the test chooses; `stops` counts the calls of `stop`."""

    _exitSignal: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.stops = 0
        self._at_start: list[Callable[[], None]] = []
        self._at_end: dict[str, list[Callable[[], None]]] = {"before": [], "after": []}
        self.waiting: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()

    def callWhenRunning(self, call: Callable[[], None]) -> None:
        self._at_start.append(call)

    def addSystemEventTrigger(self, phase: str, event: str, call: Callable[[], None]) -> None:
        assert event == "shutdown"
        self._at_end[phase].append(call)

    def callFromThread(self, call: Callable[..., None], *arguments: Any) -> None:
        self.waiting.append((call, arguments))

    def stop(self) -> None:
        self.stops += 1
        if self.stops > 1:
            raise ReactorNotRunning

    def start(self) -> None:
        """Run from here on."""
        for call in self._at_start:
            call()

    def turn(self) -> None:
        """Make the calls from threads."""
        while self.waiting:
            call, arguments = self.waiting.popleft()
            call(*arguments)

    def begin_to_end(self) -> None:
        """Call the triggers before the shutdown."""
        for call in self._at_end["before"]:
            call()

    def end(self, signal: int | None = None) -> None:
        """Call the triggers after the shutdown, which the signal caused if one is given."""
        self._exitSignal = signal
        for call in self._at_end["after"]:
            call()


class FullPool(InlinePool):
    """A thread pool that refuses all calls but the mandatory ones."""

    def call(
        self, function: Callable[[], Any], group: Hashable, must: bool = False
    ) -> Deferred[Any]:
        if not must:
            raise Busy
        return super().call(function, group)


def one_turn(clock: Any) -> None:
    """Run only the calls that are due now; `advance(0)` also runs those that they schedule."""
    now = clock.seconds()
    for call in [call for call in clock.calls if call.getTime() <= now]:
        if call.active():
            clock.calls.remove(call)
            call.called = True
            call.func(*call.args, **call.kw)
