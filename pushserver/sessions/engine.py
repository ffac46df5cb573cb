"""One peer of Engine.IO: its packets, its pings and its end; a subclass processes its messages."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from pushserver.errors import TooMany
from pushserver.protocols import centrifuge, engineio
from pushserver.protocols.engineio import PacketError
from pushserver.protocols.socketio_formats import EngineFormat
from pushserver.sessions.base import CLOSING, OPEN, Transport
from pushserver.sessions.node import Node
from pushserver.sessions.working import AT_A_TIME, ItemT, Working
from pushserver.usercode.rate import Budget

AT_ONCE = 10
"""Packets at once, as a multiple of those a second."""

LEFT = 1000
"""The close code after the peer has closed the connection (RFC 6455, 7.4.1)."""


QUICK_SECONDS = 2.0
"""Shorter intervals of pings, and shorter times for their answers, have timers of their own."""


class Engine(Working[EngineFormat, ItemT]):
    """A conversation in Engine.IO, over any transport.

    The close codes are those of the Centrifuge protocol: for the counters, and for WebSockets,
    whose clients make no difference between them and reconnect. An Engine.IO client answers pings,
    which the server sends.
    """

    __slots__ = (
        "_budget",
        "_gathering",
        "_ping_due",
        "_ping_seconds",
        "_pong_due",
        "_pong_seconds",
        "is_left",
        "when_closed",
    )

    slow_code = centrifuge.SLOW
    flood_code = centrifuge.TOO_MANY_REQUESTS
    takes_binary = True

    def __init__(
        self,
        node: Node,
        transport: Transport[EngineFormat],
        address: str | None = None,
        upgrades: Sequence[str] = (),
    ):
        # Whether the client has closed the connection.
        self.is_left = False
        # Whether the packets of a payload wait until all of them are in the queue.
        self._gathering = False
        self.when_closed: Callable[[], None] | None = None
        super().__init__(node, transport, address)
        limits, now = node.limits, node.monotonic()
        self._budget = Budget(AT_ONCE * limits.commands_per_second, now)
        # A reload changes the limits, and the client expects the times that the opening has.
        self._ping_seconds, self._pong_seconds = limits.ping_seconds, limits.dead_seconds
        # At a random time, or clients that connected together would answer all pings together.
        self._ping_due = now + limits.ping_seconds * random.uniform(0.5, 1.0)
        # The time for the answer to a ping; 0 without one.
        self._pong_due = 0.0
        self.state = OPEN
        self.wake_at(self._ping_due)
        if min(limits.ping_seconds, limits.dead_seconds) < QUICK_SECONDS:
            self._wake_quickly()
        self.send_packet(
            engineio.encode_open(
                self.sid,
                upgrades,
                limits.ping_seconds,
                limits.dead_seconds,
                # Clients heed it where they poll, in bodies of requests.
                min(limits.frame_bytes, limits.body_bytes),
            )
        )

    @property
    def sid(self) -> str:
        """The id of the client for its next requests."""
        return f"{self.node.id_prefix}{self.info.client}"

    def _wake_quickly(self) -> None:
        """Wake at the exact times: the ticks of `peers` are too rare for the shortest settings."""
        again = self.wake(self.node.monotonic()) if self.state is OPEN else None
        if again is not None and self.state is OPEN:
            delay = max(0.001, again - self.node.monotonic())
            self.node.timer.callLater(delay, self._wake_quickly)

    def message(self, text: bytes) -> None:
        """Process a message; raises PacketError."""
        raise NotImplementedError

    def binary_message(self, data: bytes) -> None:
        """Process a binary message; raises PacketError."""
        raise NotImplementedError

    def received(self, text: bytes) -> None:
        if self._takes_another():
            try:
                self._process(engineio.decode(text))
            except PacketError as error:
                self.disconnect(centrifuge.BAD_FRAME, str(error))

    def received_binary(self, data: bytes) -> None:
        if self._takes_another():
            try:
                self.binary_message(data)
            except PacketError as error:
                self.disconnect(centrifuge.BAD_FRAME, str(error))

    def received_payload(self, body: bytes) -> bool:
        """Process the packets of a request; return False if one of them ended the connection.

        A packet by which the client closes it is none of these.
        """
        try:
            packets = engineio.decode_payload(body)
            # Packets that are handled one by one would not count as one run of AT_A_TIME.
            self._gathering = len(packets) > AT_A_TIME
            for packet in packets:
                if not self._takes_another():
                    return self.is_left
                if packet.is_binary:
                    self.binary_message(packet.data)
                else:
                    self._process(packet)
        except PacketError as error:
            self.disconnect(centrifuge.BAD_FRAME, str(error))
        finally:
            self._gathering = False
        self.resume()
        return self.state < CLOSING or self.is_left

    def resume(self) -> None:
        if not self._gathering:
            super().resume()

    def _process(self, packet: engineio.Packet) -> None:
        if packet.kind == engineio.MESSAGE:
            self.message(packet.data)
        elif packet.kind == engineio.PONG:
            self._pong_due = 0.0
        elif packet.kind == engineio.CLOSE:
            self.is_left = True
            self.disconnect(LEFT, "the client has closed the connection")
        elif packet.kind != engineio.NOOP:
            raise PacketError(f"a packet of type {packet.kind}, which only a server sends here")

    def _takes_another(self) -> bool:
        """Count a packet; return whether it is processed.

        There are no replies with errors, so a client over the rate is disconnected: otherwise it
        would not learn which of its events are lost.
        """
        node = self.node
        rate = node.limits.commands_per_second
        if self.state >= CLOSING:
            return False
        if not self._budget.is_exceeded(rate, AT_ONCE * rate, node.monotonic):
            return True
        self.flooded(TooMany(f"more than {rate} packets a second", "commands_per_second"))
        return False

    def send_packet(self, packet: bytes) -> None:
        self._transport.write(self.format.frame(packet))

    def send_message(self, text: bytes, attachments: Sequence[bytes] = ()) -> None:
        """Send a message, and binary messages behind it."""
        self.send_packet(engineio.encode(engineio.MESSAGE, text))
        for data in attachments:
            self._transport.write(self.format.binary_frame(data))

    def collect(self) -> None:
        """Send all that is on its way to this client, before its transport changes."""

    def take_over(self, transport: Transport[EngineFormat]) -> None:
        """Continue over another transport, which was counted when it opened."""
        self.node.metrics.closed[self.format.name] += 1
        self._transport = transport
        self.send = transport.write
        transport.attach(self)

    def closed(self) -> None:
        super().closed()
        when_closed, self.when_closed = self.when_closed, None
        if when_closed is not None:
            when_closed()

    def alive(self) -> None:
        """A pong of WebSocket is no pong of Engine.IO."""

    def insufficient(self, channel: str) -> None:
        self.disconnect(centrifuge.INSUFFICIENT_STATE, "insufficient state")

    def check_pong(self) -> None:
        """Disconnect a client whose pong is late by now.

        A client that polls notices the end only by its next request.
        """
        due = self._pong_due or self._ping_due + self._pong_seconds
        if self._blocked_at is None and self.node.monotonic() >= due:
            self.disconnect(centrifuge.NO_PONG, "no pong")

    def due(self, now: float) -> float | None:
        if self._blocked_at is not None:
            # A ping would wait behind the unread bytes, and so would its answer.
            if self._pong_due:
                self._pong_due = now + self._pong_seconds
            return now + self._pong_seconds
        if self._pong_due:
            if now < self._pong_due:
                return self._pong_due
            self.disconnect(centrifuge.NO_PONG, "no pong")
            return None
        if now < self._ping_due:
            return self._ping_due
        self._ping_due = now + self._ping_seconds
        self._pong_due = now + self._pong_seconds
        self._transport.write(self.format.ping)
        return min(self._pong_due, self._ping_due)

    def shut_down(self) -> None:
        self.disconnect(centrifuge.SHUTDOWN, "the server is shutting down")
