"""Starts the workers of a server, watches them, and stops them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed

from pushserver.diagnosis.facts import WorkerState
from pushserver.server.workers.control import Configure
from pushserver.server.workers.left import Left, dismiss
from pushserver.server.workers.slot import Launch, Slot
from pushserver.usercode.repeating import Repeating

KILL_SECONDS = 1.0
"""The time that a worker has to end after the one that it was given."""


class Supervisor(Service):
    """The workers of a server: `count` of them, from its start to `end`.

    `left` are the workers of an earlier main process; those that do not listen where this one
    does, by `fits`, are replaced. `suspend` and `resume`: see `Slot`.
    `config` returns the present settings, as for `Configure`. `adopted` is called at
    the start, after those that fit were adopted.
    """

    def __init__(
        self,
        count: int,
        launch: Launch,
        config: Callable[[], bytes],
        reactor: Any,
        monotonic: Callable[[], float],
        left: Mapping[int, Left] | None = None,
        fits: Callable[[int], bool] = lambda worker: True,
        adopted: Callable[[], None] = lambda: None,
        suspend: Callable[[int], None] = lambda worker: None,
        resume: Callable[[int], None] = lambda worker: None,
    ):
        self.slots = [
            Slot(number, launch, reactor, monotonic, self._changed, suspend, resume)
            for number in range(1, count + 1)
        ]
        self._left = dict(left or {})
        self._fits = fits
        self._adopted = adopted
        self._config = config
        self._reactor = reactor
        self._on_ready: list[Callable[[], None]] = []
        self._ended: Deferred[None] | None = None
        self._clock = Repeating(self._tick, reactor)

    def startService(self) -> None:
        super().startService()
        # Before the reactor runs, SIGTERM ends this process at once, and would leave them alone.
        self._reactor.callWhenRunning(self._start)

    def _start(self) -> None:
        for slot in self.slots:
            left = self._left.pop(slot.number, None)
            if left is not None and not self._fits(slot.number):
                dismiss(left, "it listens on other ports")
                left = None
            if left is None:
                slot.start()
            else:
                slot.adopt(left)
                slot.send(Configure(self._config()))
        self._adopted()
        self._clock.start(1.0)
        self._changed()

    def configure(self) -> None:
        """Tell all workers the present settings."""
        message = Configure(self._config())
        for slot in self.slots:
            slot.send(message)

    def when_ready(self, call: Callable[[], None]) -> None:
        """Call when all workers accept connections, now or later."""
        self._on_ready.append(call)
        self._changed()

    def problem(self) -> str:
        """The problem of the workers, without details; empty if all are ready."""
        missing = sum(slot.state != "ready" for slot in self.slots)
        return f"{missing} of {len(self.slots)} workers are not ready" if missing else ""

    def states(self) -> list[WorkerState]:
        """The state of each worker."""
        return [slot.facts() for slot in self.slots]

    def drain(self) -> None:
        """Let the workers accept no more connections."""
        for slot in self.slots:
            slot.drain()

    def end(self, seconds: float) -> Deferred[None]:
        """Let the workers close their connections within these seconds; fires when all are gone."""
        self._clock.stop()
        for slot in self.slots:
            slot.stop(seconds)
        if not self._is_running():
            return succeed(None)
        ended = self._ended = Deferred()
        late = self._reactor.callLater(seconds + KILL_SECONDS, self._kill)

        def gone(_: object) -> None:
            if late.active():
                late.cancel()

        return ended.addCallback(gone)

    def _is_running(self) -> bool:
        return any(slot.process is not None for slot in self.slots)

    def _kill(self) -> None:
        for slot in self.slots:
            slot.kill()

    def _tick(self) -> None:
        for slot in self.slots:
            slot.tick()

    def _changed(self) -> None:
        if self._ended is not None and not self._is_running():
            ended, self._ended = self._ended, None
            ended.callback(None)
        if self.running and not self.problem():
            calls, self._on_ready = self._on_ready, []
            for call in calls:
                call()
