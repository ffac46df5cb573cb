"""One client of Socket.IO: its packets, its namespaces and the events that it sends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pushserver.auth.credentials import NOTHING, Credentials
from pushserver.channels import jsontext
from pushserver.channels.publication import Publication
from pushserver.errors import (
    Denied,
    InvalidData,
    LimitExceeded,
    PushServerError,
    Refused,
    TooMany,
    Unavailable,
)
from pushserver.hub.audience import Direct
from pushserver.protocols import centrifuge, socketio
from pushserver.protocols.engineio import PacketError
from pushserver.protocols.socketio import Packet
from pushserver.protocols.socketio_formats import EngineFormat, NamespaceFormat
from pushserver.sessions.base import CLOSING, OPEN, Transport
from pushserver.sessions.engine import Engine
from pushserver.sessions.entering import enter
from pushserver.sessions.namespace import Namespace
from pushserver.sessions.node import Node
from pushserver.sessions.recovery import KEYS, read_return
from pushserver.sessions.visit import UNKNOWN, Visit

WAITING_BYTES = 1_048_576
"""The packets of one client that wait, with their attachments; but WAITING_FRAMES, if more."""
WAITING_FRAMES = 4
"""The longest messages of one client that may wait, at least."""
PACKET_BYTES = 512
"""The memory of a packet or an attachment besides its bytes, roughly."""


@dataclass(slots=True)
class Incoming:
    """A packet, and those of its attachments that have come; `size` is the memory of all."""

    packet: Packet
    size: int
    attachments: list[bytes] = field(default_factory=list)


class SocketIO(Engine[Incoming]):
    """A conversation in Socket.IO, over any transport.

    Packets are handled one at a time and in their order, except acknowledgements, for which a
    handler may wait. A DISCONNECT ends such a wait at once.
    """

    __slots__ = (
        "_connect_due",
        "_ended",
        "_incomplete",
        "_leaving",
        "_main",
        "_recovers",
        "credentials",
        "ended_by",
        "namespaces",
        "visit",
    )

    def __init__(
        self,
        node: Node,
        transport: Transport[EngineFormat],
        visit: Visit = UNKNOWN,
        credentials: Credentials = NOTHING,
        address: str | None = None,
        upgrades: Sequence[str] = (),
        main: str = "",
        recovers: bool = False,
    ):
        """`visit` and `credentials` are those of its request, for each namespace.

        `main`: the channel of the namespace `/`, empty for none. `recovers`: see `recovery`.
        """
        self.visit = visit
        self.credentials = credentials
        self._main = main
        self._recovers = recovers
        # Also one whose CONNECT is being handled.
        self.namespaces: dict[str, Namespace] = {}
        self.ended_by = ""
        # The namespaces that the server has ended: packets for them may be on their way.
        self._ended: set[str] = set()
        self._incomplete: Incoming | None = None
        # Those whose `disconnect` handler is called after the current packet.
        self._leaving: list[tuple[Namespace, str]] = []
        self._connect_due = node.monotonic() + node.limits.connect_seconds
        super().__init__(node, transport, address, upgrades)
        self.wake_at(min(self._due_at, self._connect_due))

    # --- packets ---------------------------------------

    def message(self, text: bytes) -> None:
        if self._incomplete is not None:
            raise PacketError("a text came where an attachment was expected")
        incoming = Incoming(socketio.decode(text), 0)
        self._keep(incoming, len(text))

    def binary_message(self, data: bytes) -> None:
        incoming = self._incomplete
        if incoming is None:
            raise PacketError("a binary message came, and none was announced")
        incoming.attachments.append(data)
        self._keep(incoming, len(data))

    def _keep(self, incoming: Incoming, size: int) -> None:
        """Count a part of a packet, and handle the packet when it is complete."""
        incoming.size += size + PACKET_BYTES
        self._add_waiting(size + PACKET_BYTES)
        self._incomplete = incoming
        if len(incoming.attachments) < incoming.packet.attachments:
            self._check_waiting()
            return
        self._incomplete = None
        if incoming.packet.kind in (socketio.ACK, socketio.BINARY_ACK):
            self._remove_waiting(incoming.size)
            self._acknowledged(incoming)
        else:
            if incoming.packet.kind == socketio.DISCONNECT:
                self._leaves(incoming.packet.namespace)
            self._queue.append(incoming)
            self.resume()
            self._check_waiting()

    def _check_waiting(self) -> None:
        most = max(WAITING_BYTES, WAITING_FRAMES * self.node.limits.frame_bytes)
        if self._waiting_bytes > most:
            self.flooded(TooMany(f"packets of more than {most} bytes wait", "frame_bytes"))
        else:
            super()._check_waiting()

    async def handle(self, incoming: Incoming) -> None:
        packet = incoming.packet
        self._remove_waiting(incoming.size)
        try:
            if packet.kind == socketio.CONNECT:
                await self._connect(packet)
            elif packet.kind == socketio.CONNECT_ERROR:
                raise PacketError("a CONNECT_ERROR, which only a server sends")
            elif (namespace := self._namespace(packet)) is None:
                pass
            elif packet.kind == socketio.DISCONNECT:
                namespace.end("the client has left")
                self._ended.discard(packet.namespace)
            else:
                await self._event(namespace, incoming)
        except PacketError as error:
            self.disconnect(centrifuge.BAD_FRAME, str(error))
        except Exception:
            self.node.report("a packet of Socket.IO failed")
        self._notify_of_leaving()

    def rested(self) -> None:
        self._notify_of_leaving()

    def _leaves(self, name: str) -> None:
        """Note a DISCONNECT at once: a handler before it may wait for an acknowledgement."""
        namespace = self.namespaces.get(name)
        if namespace is not None:
            namespace.leaves()

    def _namespace(self, packet: Packet) -> Namespace | None:
        """The namespace of the packet; None if the server has ended it, raises PacketError."""
        name = packet.namespace
        namespace = self.namespaces.get(name)
        if namespace is None and name not in self._ended:
            raise PacketError(f"a packet for {name!r:.60}, and the client is not connected to it")
        return namespace

    async def _event(self, namespace: Namespace, incoming: Incoming) -> None:
        """Call the handler of an event. If it fails, there is no acknowledgement."""
        event, arguments = socketio.event(incoming.packet, incoming.attachments)
        try:
            values = await self.node.handlers.event(namespace, event, arguments)
        except PushServerError:
            # The application has logged its failures.
            return
        if incoming.packet.id is not None:
            namespace.acknowledge(incoming.packet.id, values)

    def _acknowledged(self, incoming: Incoming) -> None:
        namespace = self._namespace(incoming.packet)
        arguments = socketio.arguments(incoming.packet, incoming.attachments)
        if namespace is not None and incoming.packet.id is not None:
            namespace.acknowledged(incoming.packet.id, arguments)

    # --- namespaces ---------------------------------------

    async def _connect(self, packet: Packet) -> None:
        name = packet.namespace
        auth = socketio.auth(packet)
        if name in self.namespaces:
            # The official client (4.8.4) sends two if `connect()` is called twice.
            return
        self._ended.discard(name)
        namespace = self.namespaces[name] = Namespace(
            self, name, name.removeprefix("/") or self._main, self._recovers
        )
        data = packet.data
        if namespace.format.numbered and (returning := read_return(auth)):
            namespace.returns(returning)
            # The application gets the value of the page alone.
            auth = {key: value for key, value in auth.items() if key not in KEYS}
            data = jsontext.encode(auth) if auth else b""
        try:
            await enter(namespace, self, auth, data)
        except Exception as error:
            self.namespaces.pop(name, None)
            namespace.end(str(error))
            namespace.leave_all()
            self._refuse(name, error)

    def _refuse(self, name: str, error: Exception) -> None:
        data: object = None
        if isinstance(error, Unavailable) and not isinstance(error, LimitExceeded):
            # A client that gets a CONNECT_ERROR does not try again by itself.
            self.disconnect(centrifuge.SHUTDOWN, str(error))
            return
        if not isinstance(error, PushServerError) or not error.centrifuge_code:
            self.node.report("a CONNECT of Socket.IO failed")
            error = Denied(500, "internal server error")
        elif isinstance(error, TooMany):
            self.node.note_excess(error, self.address, 0)
        elif isinstance(error, Refused):
            data = error.data
            if data is None and error.code:
                data = {"code": error.code}
        elif isinstance(error, Denied):
            self.node.log_refusal(error.centrifuge_code, self.address, str(error))
        if self.state < CLOSING:
            try:
                answer = socketio.encode_connect_error(name, str(error), data)
            except InvalidData:
                self.node.report("the data of a refused CONNECT is not JSON")
                answer = socketio.encode_connect_error(name, str(error))
            self.send_message(answer)
            self._plan_connect()

    def forget(self, namespace: Namespace, reason: str) -> None:
        """Forget a namespace that has ended, and tell the application; see `Connection`."""
        if self.state is OPEN:
            self.namespaces.pop(namespace.name, None)
            if len(self._ended) < self.node.limits.channels_per_client:
                self._ended.add(namespace.name)
            self._connect_due = self.node.monotonic() + self.node.limits.connect_seconds
            self._plan_connect()
        if self._working and not self.node.stopping:
            self._leaving.append((namespace, reason))
        else:
            self.node.handlers.disconnect(namespace, reason)

    def _notify_of_leaving(self) -> None:
        leaving, self._leaving = self._leaving, []
        for namespace, reason in leaving:
            self.node.handlers.disconnect(namespace, reason)

    def _plan_connect(self) -> None:
        """A client without a namespace has some time to connect to one."""
        if not self.namespaces:
            self.wake_at(min(self._due_at, self._connect_due))

    def check_not_ended(self) -> None:
        """Raise Refused if the connection has ended; it is never sent."""
        if self.state >= CLOSING:
            raise Refused("the connection is closed")

    def replay(self, channel: str, rows: Sequence[Publication], format: NamespaceFormat) -> None:
        """Send publications, a long run of them in portions as the peer reads."""
        if rows:
            first, rest = self.node.replays.start(channel, rows, format.publications)
            self.send(first)
            if rest is not None:
                self._transport.replay(rest)

    def collect(self) -> None:
        for namespace in self.namespaces.values():
            for audience in namespace.audiences.values():
                if frames := audience.take_pending(namespace):
                    self.send(frames)

    def take_over(self, transport: Transport[EngineFormat]) -> None:
        super().take_over(transport)
        for namespace in self.namespaces.values():
            before = namespace.change_format(self.format)
            for audience in namespace.audiences.values():
                audience.change_format(namespace, before)

    def block(self, direct: Direct) -> None:
        for namespace in self.namespaces.values():
            for audience in namespace.audiences.values():
                audience.block(namespace, direct)

    def unblock(self) -> None:
        for namespace in self.namespaces.values():
            for audience in namespace.audiences.values():
                audience.unblock(namespace)

    # --- the end ---------------------------------------

    def due(self, now: float) -> float | None:
        if not self.namespaces and now >= self._connect_due:
            self.disconnect(centrifuge.STALE, "no CONNECT came in time")
            return None
        again = super().due(now)
        return again if self.namespaces or again is None else min(again, self._connect_due)

    def plan_expiry(self) -> None:
        """Plan the next end of a right, after a change of one."""
        if self.state is OPEN:
            ends = [end for namespace in self.namespaces.values() for end in namespace.ends]
            self.expire_at(min(ends, default=0.0))

    def expired(self) -> None:
        now = self.node.clock()
        for namespace in tuple(self.namespaces.values()):
            namespace.expire(now)
        self.plan_expiry()

    def disconnect(self, code: int, reason: str) -> None:
        self.ended_by = self.ended_by or reason
        super().disconnect(code, reason)

    def closed(self) -> None:
        self._leave_all()
        for namespace in tuple(self.namespaces.values()):
            namespace.end(self.ended_by)
        self.namespaces.clear()
        super().closed()

    def _leave_all(self) -> None:
        super()._leave_all()
        for namespace in self.namespaces.values():
            namespace.leave_all()
        self._incomplete = None
