"""A WebSocket by which a client of Engine.IO that polls tries an upgrade."""

from __future__ import annotations

from typing import Protocol

from pushserver.protocols import centrifuge, engineio
from pushserver.protocols.engineio import PacketError
from pushserver.protocols.socketio_formats import EngineFormat
from pushserver.sessions.base import CLOSED, CLOSING, OPEN, Conversation, Transport
from pushserver.sessions.node import Node

UPGRADE_SECONDS = 10.0
"""The time for an upgrade; afterwards the client goes on polling."""


class Polling(Protocol):
    """The present transport of the client."""

    @property
    def is_polling(self) -> bool:
        """Whether an upgrade may begin."""

    def start_upgrade(self) -> bool:
        """Answer each GET at once from now on; False during an upgrade, and after one."""

    def give_up_upgrade(self) -> None:
        """Let GETs wait again."""

    def upgrade(self, transport: Transport[EngineFormat]) -> bool:
        """Continue over the other transport; False if the conversation has ended."""


class Probe(Conversation[EngineFormat]):
    """The conversation over the WebSocket until the upgrade: a ping, its pong, and `upgrade`."""

    __slots__ = ("_polling", "_started")

    slow_code = centrifuge.SLOW
    flood_code = centrifuge.TOO_MANY_REQUESTS

    def __init__(self, node: Node, transport: Transport[EngineFormat], polling: Polling):
        self._polling = polling
        self._started = False
        super().__init__(node, transport)
        self.state = OPEN
        self.wake_at(node.monotonic() + UPGRADE_SECONDS)
        if not polling.is_polling:
            self.disconnect(centrifuge.BAD_FRAME, "another upgrade of this client has begun")

    def received(self, text: bytes) -> None:
        if self.state >= CLOSING:
            return
        try:
            self._process(engineio.decode(text))
        except PacketError as error:
            self.disconnect(centrifuge.BAD_FRAME, str(error))

    def _process(self, packet: engineio.Packet) -> None:
        if packet.kind == engineio.PING and packet.data == engineio.PROBE and not self._started:
            self._started = self._polling.start_upgrade()
            if not self._started:
                raise PacketError("another upgrade of this client has begun")
            answer = engineio.encode(engineio.PONG, engineio.PROBE)
            self._transport.write(self.format.frame(answer))
        elif packet.kind == engineio.UPGRADE and self._started:
            self.state = CLOSED
            self.node.peers.remove(self)
            if not self._polling.upgrade(self._transport):
                self._transport.abort()
        else:
            raise PacketError(f"a packet of type {packet.kind} came during an upgrade")

    def due(self, now: float) -> float | None:
        self.disconnect(centrifuge.STALE, "the upgrade did not end in time")
        return None

    def expired(self) -> None:
        """Not used: it has no identity."""

    def shut_down(self) -> None:
        self.disconnect(centrifuge.SHUTDOWN, "the server is shutting down")

    def _leave_all(self) -> None:
        if self.state < CLOSING and self._started:
            self._polling.give_up_upgrade()
        super()._leave_all()
