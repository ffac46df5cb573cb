"""The sources that run: those of the start, and those that a reload put in their place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.logger import Logger

from pushserver.sources.engine.runner import Runner, Status


class RunningSources:
    """Starts and stops services, most of which run a source."""

    _log = Logger()

    def __init__(self) -> None:
        self._sources: list[Service] = []
        self._run = False
        # Those that a reload has removed, until they have stopped.
        self._ending: list[tuple[str, Deferred[Any]]] = []

    def replace(self, sources: Sequence[Service]) -> None:
        """Run these sources; those that are among them already are not touched.

        A new one starts when those of its name have stopped.
        """
        before, self._sources = self._sources, list(sources)
        if not self._run:
            return
        for source in before:
            if source not in sources:
                self._end(source)
        for source in sources:
            if source not in before:
                started = Deferred.fromCoroutine(self._start_replaced(source))
                started.addErrback(
                    lambda failure: self._log.failure(
                        "a source did not start", failure, event_name="source_not_started"
                    )
                )

    def _end(self, source: Service) -> None:
        ending = (_name(source), self._stopped(source))
        self._ending.append(ending)
        ending[1].addBoth(lambda _: self._ending.remove(ending))

    async def _start_replaced(self, source: Service) -> None:
        for name, stopped in tuple(self._ending):
            if name == _name(source):
                await stopped
        if self._run and source in self._sources:
            source.startService()

    def __iter__(self) -> Iterator[Service]:
        return iter(self._sources)

    @property
    def statuses(self) -> list[Status]:
        """The status of each source of the configuration."""
        return [source.status() for source in self._sources if isinstance(source, Runner)]

    def start(self) -> None:
        """Start all sources."""
        self._run = True
        for source in self._sources:
            source.startService()

    async def stop(self) -> None:
        """Stop all at once, as each of them may take long; and wait for their ends."""
        self._run = False
        ending = [stopped for _, stopped in self._ending]
        await gatherResults([*ending, *(self._stopped(source) for source in self._sources)])

    def _stopped(self, service: Service) -> Deferred[Any]:
        stopped = maybeDeferred(service.stopService)
        return stopped.addErrback(
            lambda failure: self._log.failure(
                "a source did not stop", failure, event_name="source_not_stopped"
            )
        )


def _name(source: Service) -> str:
    return source.plan.name if isinstance(source, Runner) else ""
