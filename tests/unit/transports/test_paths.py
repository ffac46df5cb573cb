"""The whole server over Twisted's own TCP transports: frames past the transport, and through it.

Clients of each protocol get the same on both paths, for any room in their sockets. A transport of
a subclass forces the path through it.
"""

from __future__ import annotations

import json
from socket import IPPROTO_TCP, TCP_NODELAY
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.tcp import Server as TCPServer

from pushserver.channels.publication import Draft
from pushserver.config.limits import Limits
from tests.unit.fakes.sockets import (
    PLENTY,
    DerivedServer,
    FakeSocket,
    backlog,
    make_transport,
    turn,
)
from tests.unit.fakes.tools import drive, programs
from tests.unit.fakes.web import Frame, Server, frames, handshake, masked, parse, request

Op = tuple[Any, ...]
Event = tuple[str, Any]

CONNECT = b'{"id":1,"connect":{}}'
SUBSCRIBE = b'{"id":2,"subscribe":{"channel":"numbers"}}'
SUBSCRIBE_WITH_LEAVES = b'{"id":2,"subscribe":{"channel":"numbers","join_leave":true}}'
CLOSE: Event = ("close", None)
TRANSPORTS: list[type[TCPServer]] = [TCPServer, DerivedServer]


class RawClient:
    """A raw WebSocket. `expected` has all that it must receive, replies apart."""

    request = request("/channels/numbers", **handshake())
    status = 101
    closes = True

    def __init__(self, server: Server, kind: type[TCPServer] = TCPServer):
        self.server = server
        self.socket = FakeSocket()
        self.expected: list[Event] = []
        self.asked: list[int] = []
        self.ended = False
        protocol: Any = server.site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 50000))
        self.transport = make_transport(self.socket, server.clock, protocol, kind)
        protocol.makeConnection(self.transport)
        self.send(self.request)
        # The head, and the first frame of the conversation.
        self.turn()
        self.turn()
        assert parse(bytes(self.socket.taken)).status == self.status
        self.subscribe()

    def subscribe(self) -> None:
        self.start = len(self.socket.taken)

    def send(self, data: bytes) -> None:
        if self.transport.connected:
            self.transport.protocol.dataReceived(data)

    def turn(self) -> None:
        """Run a turn of the reactor in which no other connection writes."""
        clock = self.server.clock
        others = [writer for writer in clock.writers if writer is not self.transport]
        for writer in others:
            clock.removeWriter(writer)
        turn(clock)
        for writer in others:
            clock.addWriter(writer)

    def drain(self) -> None:
        """Read everything."""
        self.socket.room = self.socket.bite = PLENTY
        self.turn()
        for _ in range(1000):
            if self.transport not in self.server.clock.writers:
                return
            self.turn()
        raise AssertionError("it writes for ever")

    @property
    def conversation(self) -> Any:
        """The server's side."""
        peers: list[Any] = list(self.server.node.peers)
        [conversation] = [p for p in peers if p.outlet._transport is self.transport]
        return conversation

    def ping(self, payload: bytes) -> None:
        self.expected.append(("pong", payload))
        self.send(masked(payload, opcode=9))

    def ask(self, number: int) -> None:
        """Send a command; only a session has any."""

    def close(self, by_client: bool) -> None:
        self.ended = True
        self.expected.append(CLOSE)
        if by_client and self.closes:
            self.leave()
        else:
            self.conversation.disconnect(3000, "enough")

    def leave(self) -> None:
        self.send(masked(b"\x03\xe8", opcode=8))

    def received(self) -> list[Event]:
        data = bytes(self.socket.taken[self.start :])
        return [self.frame_event(frame) for frame in frames(data)]

    def frame_event(self, frame: Frame) -> Event:
        match frame.opcode:
            case 1:
                return self.event(json.loads(frame.payload))
            case 8:
                return CLOSE
            case 10:
                return "pong", frame.payload
        raise AssertionError(frame)

    def event(self, value: Any) -> Event:
        return "publication", value["data"]["n"]

    def check(self) -> None:
        self.drain()
        received = self.received()
        assert [event for event in received if event[0] != "reply"] == self.expected
        replies = [number for kind, number in received if kind == "reply"]
        assert replies == self.asked[: len(replies)]
        assert self.ended or replies == self.asked

    def end(self) -> None:
        if not self.ended:
            self.close(by_client=False)
        self.drain()
        self.leave()
        self.drain()
        assert self.socket.closed
        assert self.transport.producer is None


class SessionClient(RawClient):
    """The Centrifuge protocol on a WebSocket."""

    request = request("/connection/websocket", **handshake())

    def subscribe(self) -> None:
        self.send(masked(CONNECT + b"\n" + SUBSCRIBE))
        self.turn()
        super().subscribe()

    def ask(self, number: int) -> None:
        self.asked.append(number)
        self.send(masked(b'{"id":%d,"ping":{}}' % number))

    def event(self, value: Any) -> Event:
        if "push" in value:
            return "publication", value["push"]["pub"]["data"]["n"]
        return "reply", value["id"]


class LinesClient(RawClient):
    """A response without an end."""

    request = request("/channels/numbers", accept="application/x-ndjson")
    status = 200
    closes = False

    def ping(self, payload: bytes) -> None: ...

    def leave(self) -> None: ...

    def received(self) -> list[Event]:
        response = parse(bytes(self.socket.taken))
        values = [json.loads(line) for line in response.body.splitlines() if line]
        events = [self.event(value) for value in values if self.publication(value)]
        return [*events, CLOSE] if response.whole else events

    def publication(self, value: Any) -> Any:
        return value if "data" in value else None

    def event(self, value: Any) -> Event:
        return "publication", self.publication(value)["data"]["n"]


class Observer(LinesClient):
    """The Centrifuge protocol on such a response, with joins and leaves."""

    request = request("/connection/http_stream", "POST", CONNECT + b"\n" + SUBSCRIBE_WITH_LEAVES)

    def publication(self, value: Any) -> Any:
        return value.get("push", {}).get("pub")


WHO = st.integers(0, 5)
OPS = (
    st.tuples(st.just("publish"), st.integers(0, 40))
    | st.tuples(st.just("publish"), st.integers(0, 300))
    | st.tuples(st.just("ping"), WHO, st.integers(4, 60))
    | st.tuples(st.just("ask"), WHO)
    | st.tuples(st.just("room"), WHO, st.integers(0, 500))
    | st.tuples(st.just("bite"), WHO, st.integers(1, 100) | st.just(PLENTY))
    | st.tuples(st.just("turn"), WHO)
    | st.tuples(st.just("turn"), WHO)
    | st.tuples(st.just("close"), WHO, st.booleans())
)


def do(server: Server, clients: list[RawClient], number: int, op: Op) -> None:
    kind, *values = op
    if kind == "publish":
        publish_number(server, number, *values)
        for client in clients:
            if not client.ended:
                client.expected.append(("publication", number))
        return
    client = clients[values[0]]
    match kind:
        case "room" | "bite":
            setattr(client.socket, kind, values[1])
        case "turn":
            client.turn()
        case _ if client.ended:
            pass
        case "ping":
            client.ping((b"%d" % number).ljust(values[1], b"."))
        case "ask":
            client.ask(number + 10)
        case "close":
            client.close(values[1])


def publish_number(server: Server, number: int, size: int = 100) -> None:
    data = b'{"n":%d,"p":"%b"}' % (number, b"x" * size)
    drive(server.node.publish(Draft("numbers", data)))


@given(ops=programs(OPS, most=80))
def test_every_client_gets_everything_in_order_on_both_paths(ops: list[Op]) -> None:
    server = Server()
    kinds = [RawClient, SessionClient, LinesClient]
    clients = [cls(server, kind) for cls in kinds for kind in TRANSPORTS]
    groups = server.hub._audiences["numbers"].groups.values()
    assert [(len(group.ready), len(group.others)) for group in groups] == [(1, 1)] * 3
    for number, op in enumerate(ops):
        do(server, clients, number, op)
    for client in clients:
        client.check()
        client.end()
    assert server.is_empty()


@pytest.mark.parametrize("kind", TRANSPORTS)
@pytest.mark.parametrize("room", [0, 10, PLENTY])
def test_close_frame_of_a_client_is_answered_and_nothing_follows(kind: Any, room: int) -> None:
    server = Server()
    clients = [cls(server, kind) for cls in (RawClient, SessionClient)]
    for client in clients:
        client.socket.room = room
    publish_number(server, 0)
    for number, client in enumerate(clients, 1):
        client.leave()
        publish_number(server, number)
    for client in clients:
        client.drain()
    publish_number(server, 3)
    raw, session = clients
    assert raw.received() == [("publication", 0), CLOSE]
    assert session.received() == [("publication", 0), ("publication", 1), CLOSE]


@pytest.mark.parametrize("cls", [RawClient, SessionClient, LinesClient, Observer])
def test_nagle_is_off_for_all_clients(cls: type[RawClient]) -> None:
    options = cls(Server()).socket.options
    nodelay = [value for *option, value in options if option == [IPPROTO_TCP, TCP_NODELAY]]
    assert nodelay[-1] is True


def test_answer_to_a_handshake_leaves_with_the_first_frame_or_alone() -> None:
    for cls, frames_in_it in ((RawClient, 1), (SessionClient, 0)):
        sock = FakeSocket()
        protocol: Any = (server := Server()).site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        transport = make_transport(sock, server.clock, protocol)
        protocol.makeConnection(transport)
        segments: list[bytes] = []
        sock.on_release = lambda data, segments=segments: segments.append(data)  # type: ignore[misc]
        transport.protocol.dataReceived(cls.request)
        [segment] = segments
        answer = parse(segment)
        assert answer.status == 101
        assert len(frames(answer.rest)) == frames_in_it


def test_client_that_learns_of_the_drop_of_another_loses_nothing() -> None:
    # One that never reads is dropped within a pass. Another, of a format that comes later in
    # this pass, is sent a leave, and its socket takes only half of it.
    server = Server(Limits(queue_bytes=1_000))
    stuck, observer = SessionClient(server), Observer(server)
    stuck.socket.room = 0
    last = 0
    outlet = stuck.conversation.outlet
    # One in the transport's buffer, and one on its way.
    while backlog(outlet) <= 4_000 + len(outlet._backlog._pieces[0]) if last > 1 else True:
        publish_number(server, last)
        last += 1
    observer.socket.room = 20
    publish_number(server, last)
    assert stuck.transport._aborting
    observer.drain()
    publish_number(server, last + 1)
    assert observer.received() == [("publication", number) for number in range(last + 2)]
