"""Engine.IO by polling: packets wait for the client's next GET, and come in the bodies of POSTs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.server import Request

from pushserver.protocols import centrifuge, engineio
from pushserver.protocols.engineio import SEPARATOR
from pushserver.protocols.socketio_formats import ENGINE_POLLING, EngineFormat
from pushserver.sessions.base import Conversation, Transport
from pushserver.sessions.engine import Engine
from pushserver.transports.backlog import Backlog, Bounds
from pushserver.transports.limited_log import LimitedLog
from pushserver.transports.outlet import SLOW
from pushserver.web.admission import Admission

PAYLOAD_BYTES = 65_536
"""The bytes after which a GET is answered with no more packets."""

PAYLOAD_PACKETS = 16
"""The most packets of an answer: python-engineio (4.15) closes the connection after one more."""

LEFT_CLIENTS = 1_000
"""The clients whose last GET may still come, after the POST that closed their conversation."""

LOST = 1001
"""The end of a client that dropped a connection with a waiting GET: packets may be lost."""

_CLOSE = engineio.encode(engineio.CLOSE)
NOOP = engineio.encode(engineio.NOOP)


class Pollings:
    """The clients that poll, or did so before an upgrade, by their id.

    Each client that polls counts as a connection of its address, besides the connections of its
    requests: the server keeps memory for it between requests.
    """

    def __init__(self, bounds: Bounds, admission: Admission, reactor: IReactorTime, log: Logger):
        self._admission = admission
        self._bounds = bounds
        self._reactor = reactor
        self._limited = LimitedLog(log, bounds.clock)
        self._by_id: dict[str, PollingTransport] = {}
        self._left: dict[str, None] = {}

    def open(
        self, request: Request, make_conversation: Callable[[PollingTransport], Engine[Any]]
    ) -> PollingTransport:
        """Make the transport of a new client, and its conversation; raises TooMany."""
        counted: list[str | None] = [self._admission.enter_polling(request)]
        peer = str(self._admission.address(request))

        def polls_no_more() -> None:
            self._admission.leave(counted.pop() if counted else None)

        transport = PollingTransport(
            self._bounds, self._reactor, self._limited, peer, polls_no_more
        )
        conversation = make_conversation(transport)
        name = conversation.sid

        def closed() -> None:
            polls_no_more()
            transport.discard()
            del self._by_id[name]
            if transport.is_left:
                self._left[name] = None
                if len(self._left) > LEFT_CLIENTS:
                    del self._left[next(iter(self._left))]

        conversation.when_closed = closed
        self._by_id[name] = transport
        return transport

    def find(self, name: str) -> PollingTransport | None:
        """The transport of a client, until the end of its conversation."""
        return self._by_id.get(name)

    def is_last(self, name: str) -> bool:
        """Whether a GET is the last one of a client that closed its conversation while none waited.

        A client sends the GET and the POST that closes over two connections, so the GET may come
        second.
        """
        transport = self._by_id.get(name)
        if transport is not None:
            return transport.is_left
        return self._left.pop(name, self) is None


class PollingTransport:
    """Keeps the packets for one client. It is its outlet too, as it has no socket."""

    __slots__ = (
        "_backlog",
        "_continues",
        "_limited",
        "_open",
        "_planned",
        "_poll",
        "_polls_no_more",
        "_reactor",
        "_rest",
        "_upgrading",
        "blocked_at",
        "conversation",
        "format",
        "is_left",
        "is_upgraded",
        "peer",
    )

    direct = None

    def __init__(
        self,
        bounds: Bounds,
        reactor: IReactorTime,
        limited: LimitedLog,
        peer: str,
        polls_no_more: Callable[[], None],
    ):
        """`limited`: for lines that each peer can cause; `peer`: the client's address, for both.

        `polls_no_more` is called once, at the end or an upgrade.
        """
        self.format: EngineFormat = ENGINE_POLLING
        self.conversation: Engine[Any] | None = None
        self.blocked_at: float | None = None
        self.is_left = False
        self.is_upgraded = False
        self.peer = peer
        self._backlog = Backlog(bounds, self)
        # The conversation after the upgrade, which still sends the packets of the backlog.
        self._continues: Engine[Any] | None = None
        self._limited = limited
        self._open = True
        self._planned = False
        # The answer to the GET that waits.
        self._poll: Deferred[bytes] | None = None
        self._polls_no_more = polls_no_more
        self._reactor = reactor
        # Packets that were taken from the backlog and not sent, and where they begin: those of
        # PAYLOAD_BYTES and one frame at most.
        self._rest = b"", 0
        self._upgrading = False

    @property
    def outlet(self) -> PollingTransport:
        return self

    @property
    def is_polling(self) -> bool:
        """Whether an upgrade may begin."""
        return self._open and not self._upgrading

    # --- for the conversation ---------------------------------------

    def attach(self, conversation: Conversation[Any]) -> None:
        assert isinstance(conversation, Engine), "only Engine.IO has polling"
        self.conversation = conversation

    def write(self, frame: bytes) -> None:
        if not self._open:
            return
        if self._backlog.add(frame):
            self._plan()
        else:
            self.slow(self._backlog.bytes)

    def replay(self, frames: Iterator[bytes]) -> None:
        if self._open:
            self._backlog.add_replay(frames)
            self._plan()

    def send_rest(self, frame: bytes, taken: int) -> None:
        raise AssertionError("the fan-out calls `write`: there is no `direct`")

    def end_replays(self) -> None:
        self._backlog.end_replays()

    def close(self, code: int, reason: str) -> None:
        """Answer the GET that waits; without one, the client learns the end from its next one.

        That is how a client learns of an end after which it should return, too: python-socketio
        (5.18.1) stays away after a close packet, socket.io-client (4.8.4) returns in either case.
        """
        self._end(NOOP if centrifuge.reconnects(code) else _CLOSE)

    def abort(self) -> None:
        self._end(NOOP)

    def slow(self, queued: int, setting: str = "queue_bytes") -> None:
        self._limited.info(
            SLOW, peer=self.peer, queued=queued, setting=setting, event_name="peer_dropped"
        )
        conversation = self.conversation or self._continues
        if conversation is not None:
            conversation.slow()
            # At once: the next peers are dropped until there is room again.
            self.discard()

    def discard(self) -> None:
        """Drop all packets that wait."""
        self._backlog.clear()
        self._rest = b"", 0
        self._continues = None

    def _end(self, last: bytes) -> None:
        if not self._open:
            return
        self._open = False
        waited = self._poll is not None
        if waited:
            self._answer(*filter(None, (self._take(), last)))
        self.discard()
        conversation, self.conversation = self.conversation, None
        self._polls_no_more()
        if conversation is not None:
            self.is_left = conversation.is_left and not waited
            # In a later turn, as on other transports: the conversation is still ending.
            self._reactor.callLater(0, conversation.closed)

    # --- for the requests of the client ---------------------------------------

    def poll(self) -> bytes | Deferred[bytes]:
        """The packets that wait, or those that come next.

        A second GET while one waits ends the conversation, and has an empty answer.
        """
        assert self.conversation is not None, "see `check`"
        if self._poll is not None:
            reason = "a second GET came while one waited"
            self.conversation.disconnect(centrifuge.BAD_FRAME, reason)
            return b""
        if (payload := self._take()) or self._upgrading:
            return payload or NOOP
        self._poll = Deferred()
        return self._poll

    def lost(self, poll: Deferred[bytes]) -> None:
        """The connection of this GET is lost before its answer."""
        if poll is self._poll and self.conversation is not None:
            self._poll = None
            self.conversation.disconnect(LOST, "a GET was dropped")

    def post(self, body: bytes) -> bool:
        """Process the packets of a body; return False if the conversation ends by a fault."""
        assert self.conversation is not None, "see `check`"
        return self.conversation.received_payload(body)

    def check(self) -> bool:
        """Whether the client still polls: its time may be over by now."""
        if self.conversation is not None:
            self.conversation.check_pong()
        return self.conversation is not None

    def _plan(self) -> None:
        """Answer the GET that waits, with all packets of this turn."""
        if self._poll is not None and not self._planned:
            self._planned = True
            self._reactor.callLater(0, self._answer_planned)

    def _answer_planned(self) -> None:
        self._planned = False
        if self._poll is not None and (text := self._take()):
            self._answer(text)

    def _answer(self, *packets: bytes) -> None:
        poll, self._poll = self._poll, None
        if poll is not None:
            poll.callback(SEPARATOR.join(packets))

    def _take(self) -> bytes:
        """The next packets; empty if none wait."""
        packets, start = self._rest
        if start == len(packets):
            packets, start = self._backlog.take_whole(PAYLOAD_BYTES), 0
        end = start
        for _ in range(PAYLOAD_PACKETS):
            if end < len(packets):
                end = packets.index(SEPARATOR, end) + 1
        self._rest = (packets, end) if end < len(packets) else (b"", 0)
        return packets[start:end].removesuffix(SEPARATOR)

    # --- for an upgrade ---------------------------------------

    def start_upgrade(self) -> bool:
        """See `probe.Polling`."""
        if not self.is_polling:
            return False
        self._upgrading = True
        if self._poll is not None:
            self._answer(self._take() or NOOP)
        return True

    def give_up_upgrade(self) -> None:
        self._upgrading = False

    def upgrade(self, transport: Transport[EngineFormat]) -> bool:
        """See `probe.Polling`. The packets that wait are sent first, in their order."""
        conversation = self.conversation
        if conversation is None:
            return False
        conversation.collect()
        self._open, self.is_upgraded, self.conversation = False, True, None
        self._answer(NOOP)
        self._polls_no_more()
        conversation.take_over(transport)
        if self._backlog or self._rest[0]:
            self._continues = conversation
            transport.replay(self._frames(transport.format))
        return True

    def _frames(self, format: EngineFormat) -> Iterator[bytes]:
        """All that waits, as frames of another transport."""
        while payload := self._take():
            frames = b""
            for packet in map(engineio.decode_part, payload.split(SEPARATOR)):
                if packet.is_binary:
                    frames += format.binary_frame(packet.data)
                else:
                    frames += format.frame(engineio.encode(packet.kind, packet.data))
            yield frames
