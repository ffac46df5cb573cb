"""`GET /metrics`: the counters of the server for Prometheus, as text or OpenMetrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from prometheus_client import REGISTRY
from prometheus_client.exposition import generate_latest as plain_text
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_text
from twisted.web.server import Request

from pushserver.web.gate import Gate
from pushserver.web.resource import Answer, LeafResource, wants

PLAIN = "text/plain"
OPENMETRICS = "application/openmetrics-text"
CONTENT_TYPES = {
    PLAIN: "text/plain; version=0.0.4; charset=utf-8",
    OPENMETRICS: CONTENT_TYPE_LATEST,
}


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
        form = wants(request, (PLAIN, OPENMETRICS)) or PLAIN
        request.setHeader(b"content-type", CONTENT_TYPES[form].encode())
        request.setHeader(b"cache-control", b"no-store")
        generate = openmetrics_text if form == OPENMETRICS else plain_text
        return generate(self)

    def collect(self) -> Iterator[Metric]:
        """The metrics of the server, then those of the process and of the application."""
        yield from self._server.collect()
        yield from REGISTRY.collect()
