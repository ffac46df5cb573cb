"""Collects the facts about a server for `/status` and `pushserver doctor`."""

from __future__ import annotations

import os
import platform
import resource
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict

from twisted.web.server import Request

import twisted
from pushserver import __version__
from pushserver.auth.proxies import Trust
from pushserver.cluster.measures import Measure, Measures
from pushserver.config.settings import Config
from pushserver.diagnosis.facts import BrokerFacts, Facts, RequestFacts, StoreFacts, WorkerFacts
from pushserver.server.bounds import PeerBounds
from pushserver.server.readiness import Readiness
from pushserver.sessions.node import Node
from pushserver.sources.engine.runner import Runner
from pushserver.store.service import Storage
from pushserver.web.checks import client_address, forwarded_by, is_forwarding, own_origin
from pushserver.web.peer import host
from pushserver.web.resource import header

MAX_VALUE = 200
"""The characters of a header."""

_VERSIONS = {
    "pushserver": __version__,
    "python": platform.python_version(),
    "twisted": twisted.__version__,
}


class ServerFacts:
    """The facts about one server."""

    def __init__(
        self,
        node: Node,
        peers: PeerBounds,
        readiness: Readiness,
        storage: Storage | None,
        measures: Measures,
        broker: Callable[[], BrokerFacts] | None = None,
    ):
        self._node = node
        self._peers = peers
        self._readiness = readiness
        self._storage = storage
        self._measures = measures
        self._broker = broker
        self._started = node.monotonic()

    def of(
        self, request: Request, config: Config, trust: Trust, sources: Sequence[Runner]
    ) -> Facts:
        """The present facts, with those of this request and this configuration."""
        node, auth = self._node, config.auth
        return Facts(
            round(node.clock(), 3),
            round(node.monotonic() - self._started, 3),
            _VERSIONS,
            self._readiness.checks(),
            self._peers.connections.open,
            _open_files(),
            resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            asdict(config.limits),
            self._store(config.store.path),
            [source.status() for source in sources],
            self._peers.refusals.recent.newest_first(),
            request_facts(request, trust),
            bool(auth.api_keys or auth.keys),
            self._workers(),
            None if self._broker is None else self._broker(),
            self._measures.failures(),
        )

    def _workers(self) -> list[WorkerFacts]:
        measures, none = self._measures.by_worker(), Measure()
        return [
            WorkerFacts(
                worker.number,
                worker.pid,
                worker.state,
                worker.restarts,
                measures.get(worker.number, none).clients,
                round(measures.get(worker.number, none).uptime, 3),
            )
            for worker in self._measures.states()
        ]

    def _store(self, path: str) -> StoreFacts | None:
        store = self._storage
        if store is None:
            return None
        free = _free_bytes(path)
        return StoreFacts(path, store.problem, store.waiting[0], store.file_bytes(), free)


def request_facts(request: Request, trust: Trust) -> RequestFacts:
    """The facts about the sender of a request."""
    peer = host(request.getClientAddress())
    scheme, own = own_origin(request, trust.near)
    headers = {}
    for name, _ in request.requestHeaders.getAllRawHeaders():
        if name.lower() in (b"host", b"origin") or is_forwarding(name.lower()):
            text = name.decode("latin-1")
            headers[text] = (header(request, text) or "")[:MAX_VALUE]
    return RequestFacts(
        getattr(request, "clientproto", b"HTTP/1.1").decode("latin-1"),
        peer,
        client_address(request, trust.proxies),
        f"{scheme}://{own}",
        headers,
        forwarded_by(request),
        peer in trust.proxies,
    )


def _open_files() -> int | None:
    with suppress(OSError):
        return len(os.listdir("/proc/self/fd"))
    return None


def _free_bytes(path: str) -> int | None:
    """The free space of the disk of a file, for an ordinary user."""
    with suppress(OSError):
        found = os.statvfs(os.path.dirname(path) or ".")
        return found.f_bavail * found.f_frsize
    return None
