"""Readers of one channel with clients of other projects, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tests.e2e.lines import Lines
from tests.e2e.server import CHECKOUT, Server
from tests.e2e.watcher import NODE
from tests.peers.reader import CLIENTS, KINDS

_OF_STREAMS = ("eventsource", "reconnecting-eventsource", "fetch-event-source")
IN_NODE = (
    *_OF_STREAMS,
    "centrifuge, websocket",
    "centrifuge, http_stream",
    "centrifuge, sse",
)
READERS = (*IN_NODE, *CLIENTS)
READERS_OF_SSE = (*_OF_STREAMS, "httpx-sse", "httpx-sse, async", "sseclient-py", "aiohttp, SSE")
READERS_OF_FRAMES = (
    "aiohttp, WebSocket",
    "websocket-client",
    "websocket-client, a loop",
    "websockets",
)
"""Readers of a raw WebSocket."""


class Readers:
    """Several clients on one URL; the events of each are begin, reset, publication and others."""

    def __init__(
        self, server: Server, path: str, clients: Sequence[str] = READERS, last: str = ""
    ) -> None:
        """`last`: an id to begin after, given as each client lets its users give one."""
        url = f"{server.url}{path}"
        options = {"lastEventId": last, "headers": {"Last-Event-ID": last}} if last else {}
        in_node = ["node", "readers.mjs", url, json.dumps(options)]
        in_python = [sys.executable, "-m", "tests.peers.reader", url, last]
        self._lines = {
            "node": Lines(in_node + [name for name in clients if name in IN_NODE], folder=NODE),
            "python": Lines(in_python + [name for name in clients if name in CLIENTS], CHECKOUT),
        }
        self._events: dict[str, deque[tuple[str, Any]]] = defaultdict(deque)

    def next(self, client: str, *kinds: str) -> Any:
        """Wait for the next event of one of these kinds."""
        return self.all_until(client, *kinds)[-1][1]

    def any(self, client: str) -> tuple[str, Any]:
        """Wait for the next event."""
        lines = self._lines["node" if client in IN_NODE else "python"]
        while not self._events[client]:
            name, kind, content = json.loads(lines.next(120))
            if kind == "event":
                # An event without data is no JSON: an error here as it is for users.
                kind = KINDS.get(content["type"], "publication")
                content = json.loads(content["data"])
            self._events[name].append((kind, content))
        return self._events[client].popleft()

    def all_until(self, client: str, *kinds: str) -> list[tuple[str, Any]]:
        """Wait for an event of one of these kinds; all events up to it."""
        events = [self.any(client)]
        while events[-1][0] not in kinds:
            events.append(self.any(client))
        return events

    def until(self, client: str, data: Any) -> list[tuple[str, Any]]:
        """Wait for a publication of this data; all events up to it."""
        events = [self.any(client)]
        while events[-1][0] != "publication" or events[-1][1]["data"] != data:
            events.append(self.any(client))
        return events

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Suspend all clients, as closing a laptop does."""
        for lines in self._lines.values():
            os.kill(lines.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for lines in self._lines.values():
                os.kill(lines.pid, signal.SIGCONT)

    def close(self) -> None:
        for lines in self._lines.values():
            lines.close()
