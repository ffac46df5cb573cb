"""The official JavaScript client, over each of its transports."""

from __future__ import annotations

import json
from typing import Any

from tests.e2e.lines import Lines
from tests.e2e.server import CHECKOUT, Server

NODE = CHECKOUT / "tests" / "node"


class Watcher:
    """The client on one channel; publishes `publish` (JSON text) after it has subscribed."""

    def __init__(self, server: Server, transport: str, channel: str, publish: str = "") -> None:
        command = ["node", "watch.mjs", server.url, transport, channel]
        self._lines = Lines([*command, publish] if publish else command, folder=NODE)

    def next(self, *events: str, seconds: float = 15.0) -> Any:
        """Wait for the next event with one of these names, and return its context."""
        while True:
            [(name, context)] = json.loads(self._lines.next(seconds)).items()
            if name in events:
                return context

    def close(self) -> None:
        """Kill the client."""
        self._lines.close()


class Commanded:
    """The client of an application, whose methods the test calls; see tests/node/app.mjs."""

    def __init__(self, server: Server, data: object = None, cookie: str = ""):
        url = server.websocket("connection/websocket")
        command = ["node", "app.mjs", url, "" if data is None else json.dumps(data), cookie]
        self._lines = Lines(command, folder=NODE, typed=True)

    def do(self, *call: Any) -> None:
        """Call a method of the client."""
        self._lines.type(json.dumps(call))

    def ask(self, *call: Any) -> Any:
        """Call a method and wait for its result or error."""
        self.do(*call)
        return self.next("answer", "refused")

    def next(self, *names: str) -> Any:
        """Wait for the next event with one of these names, and return its context."""
        while True:
            [(name, context)] = json.loads(self._lines.next()).items()
            if name in names:
                return context

    def close(self) -> None:
        """Kill the client."""
        self._lines.close()
