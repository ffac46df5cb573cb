"""`GET /metrics`: the counters of the server for Prometheus, as text or OpenMetrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from twisted.web.server import Request

from pushserver.web.gate import Gate
from pushserver.web.resource import RETRY, Answer, LeafResource, Refusal, wants

if TYPE_CHECKING:
    # Imported where it is used, with the first request: it takes time to import.
    from prometheus_client.metrics_core import Metric

PLAIN = "text/plain"
PLAIN_TYPE = f"{PLAIN}; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text"


class Collects(Protocol):
    """Measures a part of the process; called for each request."""

    def collect(self) -> Iterator[Metric]:
        """Yield the present values."""


class MetricsResource(LeafResource):
    """The metrics of one server, and those of the process that the library's registry has.

    With a `gate`, a request needs a key that may read or administer the whole server; while no keys
    are configured, a program on this machine needs none. Without a gate, anybody may read.
    """

    def __init__(self, server: Collects, gate: Gate | None):
        super().__init__()
        self._server = server
        self._gate = gate

    def answer_get(self, request: Request) -> Answer:
        if self._gate is not None:
            key = self._gate.check_caller(request)
            if not key.allows("admin", None):
                key.check("read", None)
        try:
            from prometheus_client import exposition
            from prometheus_client.openmetrics import exposition as openmetrics
        except OSError as error:
            # There may be no file left to read it.
            problem = f"the library for metrics cannot be read now: {error.strerror}"
            raise Refusal(503, problem, RETRY) from None
        is_open = wants(request, (PLAIN, OPENMETRICS)) == OPENMETRICS
        kind = openmetrics.CONTENT_TYPE_LATEST if is_open else PLAIN_TYPE
        request.setHeader(b"content-type", kind.encode())
        request.setHeader(b"cache-control", b"no-store")
        return openmetrics.generate_latest(self) if is_open else exposition.generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        """The metrics of the server, then those of the process and of the application."""
        from prometheus_client import REGISTRY

        yield from self._server.collect()
        yield from REGISTRY.collect()
