"""A client of Socket.IO on a session, without a socket."""

from __future__ import annotations

import json
from typing import Any

from pushserver.protocols.socketio_formats import EngineFormat
from pushserver.sessions.node import Node
from pushserver.sessions.socketio import SocketIO
from tests.unit.fakes.tools import FakeTransport

FRAMES = EngineFormat(
    "test",
    publications=lambda rows: b"",
    binary_code=1003,
    frame=lambda packet: packet + b"\n",
    binary_frame=lambda data: b"binary " + data + b"\n",
    ping=b"2\n",
)
"""A line for each packet; one of a binary message has `binary` before it."""


def event(line: str, namespace: str = "") -> list[Any]:
    """The name and the arguments of an event without attachments."""
    head = f"42{namespace},[" if namespace else "42["
    assert line.startswith(head), line
    values: list[Any] = json.loads(line[len(head) - 1 :])
    return values


class IoClient:
    """A client of Socket.IO, and its session; it is connected to these namespaces."""

    def __init__(self, node: Node, *namespaces: str, **more: Any):
        self.transport = FakeTransport(FRAMES)
        self.session = SocketIO(node, self.transport, **more)
        [first] = self.take()
        self.opening = json.loads(first.removeprefix("0"))
        for name in namespaces:
            [answer, *_] = self.say(f"40{name}," if name else "40")
            assert '"sid"' in answer, answer

    def say(self, *packets: str | bytes) -> list[str]:
        """Send texts and binary messages; returns the lines that came back."""
        for packet in packets:
            if isinstance(packet, bytes):
                self.session.received_binary(packet)
            else:
                self.session.received(packet.encode())
        return self.take()

    def take(self) -> list[str]:
        """The lines since the last call."""
        text = b"".join(self.transport.frames).decode()
        self.transport.frames.clear()
        return text.split("\n")[:-1]

    def leave(self) -> None:
        """The connection is gone."""
        self.session.closed()

    @property
    def closed(self) -> tuple[int, str] | None:
        return self.transport.closed
