"""The official JavaScript client, over a transport of one's choice."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

from tests.e2e.lines import Lines
from tests.e2e.server import CHECKOUT, Server

NODE = CHECKOUT / "tests" / "node"


class Watcher:
    """The client on one channel; with `publish` (JSON text) it publishes that once it is there."""

    def __init__(self, server: Server, transport: str, channel: str, publish: str = "") -> None:
        command = ["node", "transport.mjs", server.url, transport, channel]
        self._lines = Lines([*command, publish] if publish else command, folder=NODE)

    def next(self, *events: str, seconds: float = 15.0) -> Any:
        """What came with the next event of one of these names; others are passed over."""
        while True:
            [(name, context)] = json.loads(self._lines.next(seconds)).items()
            if name in events:
                return context

    def pause(self) -> None:
        """Let it do nothing, as in a laptop that was closed."""
        os.kill(self._lines.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """The end of a pause."""
        os.kill(self._lines.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it."""
        self._lines.close()


class Commanded:
    """The client of an application, which does what it is told; see tests/node/app.mjs."""

    def __init__(self, server: Server, data: object = None):
        command = ["node", "app.mjs", server.websocket("connection/websocket")]
        if data is not None:
            command.append(json.dumps(data))
        self._lines = Lines(command, folder=NODE, typed=True)

    def do(self, *call: Any) -> None:
        """Call a method of the client."""
        self._lines.type(json.dumps(call))

    def ask(self, *call: Any) -> Any:
        """Call one; what it answers, or how it is refused."""
        self.do(*call)
        return self.next("answer", "refused")

    def next(self, *names: str) -> Any:
        """The next event of one of these names; others are passed over."""
        while True:
            [(name, context)] = json.loads(self._lines.next()).items()
            if name in names:
                return context

    def close(self) -> None:
        """End it."""
        self._lines.close()
