"""Sessions of Socket.IO on a node, on fake transports and clocks."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from pushserver.auth.identity import Identity
from pushserver.channels.channel import ChannelOptions
from pushserver.channels.position import Position
from pushserver.config.limits import Limits
from pushserver.errors import (
    Denied,
    HandlerFailed,
    InvalidData,
    InvalidName,
    LimitExceeded,
    NotHandled,
    Refused,
)
from pushserver.protocols.socketio import Values, values
from pushserver.protocols.socketio_formats import _namespaces
from pushserver.server.logging import run
from pushserver.sessions import socketio
from pushserver.sessions.callbacks import Broadcast, ClientSession, Invitation
from pushserver.sessions.namespace import MAX_CALLS, Namespace
from pushserver.sessions.node import Node
from pushserver.sessions.recovery import Return, make_pid
from pushserver.sessions.socketio import WAITING_BYTES
from pushserver.sessions.working import AT_A_TIME
from pushserver.usercode.turns import TURN_SECONDS
from tests.unit.fakes.socketio import FRAMES, IoClient, event
from tests.unit.fakes.tools import Client, Time, drive, make_node, publish
from tests.unit.fakes.web import patched
from tests.unit.sessions.test_commands import FakeHandlers

LIMITS = Limits()


class Handlers(FakeHandlers):
    """Records the events, and answers each with its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[str, str, list[Any]]] = []
        self.sessions: list[Any] = []
        self.guarded = False
        self.answer: Callable[[list[Any]], Values] = values

    async def connect(self, session: ClientSession, data: bytes) -> bytes:
        self.sessions.append(session)
        return await super().connect(session, data)

    def guards(self, channel: str) -> bool:
        return self.guarded

    async def event(self, session: ClientSession, event: str, arguments: list[Any]) -> Values:
        self.events.append((session.namespace, event, arguments))
        await self._wait()
        return self.answer(arguments)


@pytest.fixture
def handlers() -> Handlers:
    return Handlers()


def make_asking_node(handlers: Handlers, **more: Any) -> Node:
    return make_node(run=run, handlers=handlers, **more)


def is_empty(node: Node) -> bool:
    return (node.hub.channels(), len(node.peers), list(node.sessions)) == ({}, 0, [])


def namespace(client: IoClient, name: str = "/") -> Namespace:
    return client.session.namespaces[name]


class TestAConnect:
    def test_is_answered_with_an_id_of_its_own_for_each_namespace(self) -> None:
        client = IoClient(make_node())
        answers = [client.say("40"), client.say("40/a,"), client.say('40/b?q=1,{"token":"x"}')]
        heads = ["40{", "40/a,{", "40/b,{"]
        assert [line[: len(head)] for [line], head in zip(answers, heads, strict=True)] == heads
        ids = {json.loads(line[line.index("{") :])["sid"] for [line] in answers}
        assert len(ids | {client.opening["sid"]}) == 4

    def test_watches_the_channel_of_the_namespace_from_its_answer_on(self) -> None:
        node = make_node()
        client = IoClient(node, "/a", "")
        publish(node, "a", {"n": 1}, "newnumber")
        publish(node, "b", 2)
        assert client.take() == ['42/a,["newnumber",{"n": 1}]']
        assert node.hub.channels() == {"a": 1}

    def test_replays_the_last_publications_behind_the_answer(self) -> None:
        node = make_node(ChannelOptions(initial=2))
        for n in range(3):
            publish(node, "a", n, f"e{n}")
        [answer, *rows] = IoClient(node).say("40/a,")
        assert answer.startswith("40/a,{")
        assert rows == ['42/a,["e1",1]', '42/a,["e2",2]']

    def test_replays_nothing_to_a_client_that_may_not_read_the_history(self) -> None:
        node = make_node(ChannelOptions(initial=2, history="key"))
        publish(node, "a")
        [answer] = IoClient(node).say("40/a,")
        assert answer.startswith("40/a,{")

    def test_replays_a_long_history_in_order(self) -> None:
        node = make_node(ChannelOptions(initial=500, history_size=500))
        for n in range(500):
            publish(node, "a", [n, "x" * 500])
        [_, *rows] = IoClient(node).say("40/a,")
        assert [event(line, "/a")[1][0] for line in rows] == list(range(500))

    @pytest.mark.parametrize(
        "name", ["/a/b", "/__proto__", "/ a", "/-", "/" + "a" * 129, "/\u00fc"]
    )
    def test_to_a_namespace_that_can_be_no_channel_is_refused(self, name: str) -> None:
        node = make_node()
        client = IoClient(node)
        assert client.say(f"40{name},") == [f'44{name},{{"message":"Invalid namespace"}}']
        assert client.closed is None
        assert client.say("40")[0].startswith("40{")

    def test_to_a_channel_for_nobody_is_refused_as_if_it_did_not_exist(self) -> None:
        options = {"a": ChannelOptions(), "b": ChannelOptions(subscribe="nobody")}
        node = make_node(lambda name: options[name])
        client = IoClient(node, "/a")
        assert client.say("40/b,") == ['44/b,{"message":"Invalid namespace"}']
        assert node.hub.channels() == {"a": 1}

    def test_needs_the_permission_to_subscribe(self, handlers: Handlers) -> None:
        node = make_asking_node(handlers, options=ChannelOptions(subscribe="users"))
        [answer] = IoClient(node).say("40/a,")
        assert json.loads(answer.removeprefix("44/a,"))["message"].startswith("subscribing to a")
        handlers.on_connect = lambda session: session.identify("ann", b"")
        assert IoClient(node).say("40/a,")[0].startswith("40/a,{")
        assert handlers.departures == [""]

    def test_asks_the_handler_of_the_channel(self, handlers: Handlers) -> None:
        handlers.guarded = True
        node = make_asking_node(handlers)
        client = IoClient(node, "/a", "")
        assert handlers.commands == [b""]

        async def refuse(*_: object) -> None:
            raise Refused("not you", 401)

        patched(handlers, "subscribe", refuse)
        assert client.say("40/b,") == ['44/b,{"message":"not you","data":{"code":401}}']

    @pytest.mark.parametrize(
        ("error", "answer"),
        [
            (Refused("full"), '{"message":"full"}'),
            (Refused("full", 4001 + 499), '{"message":"full","data":{"code":4500}}'),
            (Refused("full", 4500, {"at": b"x".hex()}), '{"message":"full","data":{"at":"78"}}'),
            (Refused("full", data=[]), '{"message":"full","data":[]}'),
            (Denied(401, "who?"), '{"message":"who?"}'),
            (HandlerFailed("the application failed"), '{"message":"the application failed"}'),
        ],
    )
    def test_that_the_application_refuses_is_answered_with_the_reason(
        self, handlers: Handlers, error: Exception, answer: str
    ) -> None:
        handlers.raises = error
        node = make_asking_node(handlers)
        client = IoClient(node)
        assert client.say('40{"a":1}') == [f"44{answer}"]
        assert handlers.connects == [b'{"a":1}']
        assert client.closed is None
        handlers.raises = None
        assert client.say("40")[0].startswith("40{")
        client.leave()
        assert is_empty(node)

    def test_with_data_that_is_not_json_is_refused_without_it(self, handlers: Handlers) -> None:
        reports: list[str] = []
        handlers.raises = Refused("full", data=object())
        node = make_asking_node(handlers, report=reports.append)
        assert IoClient(node).say("40") == ['44{"message":"full"}']
        assert reports == ["the data of a refused CONNECT is not JSON"]

    def test_that_fails_tells_nothing_to_the_client(self, handlers: Handlers) -> None:
        reports: list[str] = []
        handlers.raises = ZeroDivisionError("secret")
        node = make_asking_node(handlers, report=reports.append)
        assert IoClient(node).say("40") == ['44{"message":"internal server error"}']
        assert reports == ["a CONNECT of Socket.IO failed"]

    def test_sends_messages_and_rooms_of_its_handler_behind_the_answer(
        self, handlers: Handlers
    ) -> None:
        node = make_asking_node(handlers, options=ChannelOptions(initial=1))
        publish(node, "room", 7)
        handlers.invitations = ("room",)
        handlers.on_connect = lambda session: session.sender({"n": 1}, "hello")()
        [answer, *rest] = IoClient(node).say("40/a,")
        assert answer.startswith("40/a,{")
        assert rest == ['42/a,["message",7]', '42/a,["hello",{"n":1}]']
        assert node.hub.channels() == {"a": 1, "room": 1}

    def test_may_be_ended_by_its_handler(self, handlers: Handlers) -> None:
        node = make_asking_node(handlers)
        handlers.on_connect = lambda session: session.disconnect(4500, "no")
        client = IoClient(node)
        assert client.say("40/a,") == ['44/a,{"message":"disconnected by the application"}']
        assert handlers.departures == [""]
        client.leave()
        assert is_empty(node)

    def test_leaves_nothing_if_the_client_goes_meanwhile(self, handlers: Handlers) -> None:
        node = make_asking_node(handlers)
        handlers.pending = Deferred()
        client = IoClient(node)
        client.say("40/a,")
        client.leave()
        handlers.release()
        assert handlers.departures == [""]
        assert is_empty(node)

    def test_is_bounded_in_number(self) -> None:
        node = make_node(limits=Limits(channels_per_client=3))
        client = IoClient(node, "", "/a", "/b")
        for _ in range(3):
            [answer] = client.say("40/c,")
            assert "more than 3 namespaces of one connection (channels_per_client)" in answer
        assert client.say("41/b,", "40/c,")[0].startswith("40/c,{")

    def test_counts_for_the_user(self, handlers: Handlers) -> None:
        handlers.on_connect = lambda session: session.identify("ann", b"")
        node = make_asking_node(handlers, limits=Limits(connections_per_user=2))
        first = IoClient(node, "/a", "/b")
        assert "connections_per_user" in IoClient(node).say("40")[0]
        first.say("41/a,")
        assert IoClient(node).say("40")[0].startswith("40{")

    def test_twice_to_one_namespace_is_one(self, handlers: Handlers) -> None:
        node = make_asking_node(handlers)
        client = IoClient(node, "/a")
        assert client.say("40/a,", '40/a,{"other":1}') == []
        assert handlers.connects == [b""]
        publish(node, "a")
        assert client.take() == ['42/a,["message",1]']

    def test_must_come_in_time(self) -> None:
        time = Time()
        node = make_node(time=time)
        client = IoClient(node)
        time.now += LIMITS.connect_seconds + 1
        node.peers.tick(node.monotonic())
        assert client.closed == (3502, "no CONNECT came in time")

    def test_must_come_in_time_after_the_last_namespace(self) -> None:
        time = Time()
        node = make_node(time=time)
        client = IoClient(node, "/a")
        time.now += LIMITS.connect_seconds + 1
        node.peers.tick(node.monotonic())
        client.say("3", "41/a,")
        assert client.closed is None
        for _ in range(int(LIMITS.connect_seconds) + 2):
            time.now += 1
            node.peers.tick(node.monotonic())
        assert client.closed == (3502, "no CONNECT came in time")

    def test_that_is_refused_does_not_keep_the_connection_open(self) -> None:
        time = Time()
        node = make_node(time=time)
        client = IoClient(node)
        for _ in range(2 * int(LIMITS.connect_seconds)):
            if client.closed is None:
                client.say("40/__proto__,")
            time.now += 1
            node.peers.tick(node.monotonic())
        assert client.closed == (3502, "no CONNECT came in time")


class TestAnEvent:
    def test_is_acknowledged_with_the_answer_of_its_handler(self, handlers: Handlers) -> None:
        client = IoClient(make_asking_node(handlers), "", "/a")
        assert client.say('427["add",1,2]') == ["437[1,2]"]
        assert client.say('42/a,0["add"]') == ["43/a,0[]"]
        assert client.say('42/a,["add",1]') == []
        assert handlers.events == [("", "add", [1, 2]), ("a", "add", []), ("a", "add", [1])]

    def test_may_have_attachments_and_so_may_its_answer(self, handlers: Handlers) -> None:
        client = IoClient(make_asking_node(handlers), "")
        text = '452-1["a",{"_placeholder":true,"num":0},[{"_placeholder":true,"num":1}]]'
        assert client.say(text, b"x") == []
        assert client.say(b"y") == [
            '462-1[{"_placeholder":true,"num":0},[{"_placeholder":true,"num":1}]]',
            "binary x",
            "binary y",
        ]
        assert handlers.events == [("", "a", [b"x", [b"y"]])]

    def test_with_bytes_that_never_come_waits_alone(self, handlers: Handlers) -> None:
        node = make_asking_node(handlers)
        client, other = IoClient(node, "", "/a"), IoClient(node, "")
        assert client.say('452-["a",{"_placeholder":true,"num":0}]', b"x") == []
        publish(node, "a")
        assert client.take() == ['42/a,["message",1]']
        assert other.say('421["b"]') == ["431[]"]
        # A pong is a packet of Engine.IO.
        assert client.say("3") == []
        assert client.closed is None
        client.leave()
        assert [name for _, name, _ in handlers.events] == ["b"]
        assert client.session._incomplete is None

    def test_may_have_keys_that_are_odd_in_javascript(self, handlers: Handlers) -> None:
        client = IoClient(make_asking_node(handlers), "")
        assert client.say('421["__proto__",{"__proto__":{"a":1}}]') == [
            '431[{"__proto__":{"a":1}}]'
        ]

    @pytest.mark.parametrize("error", [Refused(), HandlerFailed(), NotHandled()])
    def test_that_fails_has_no_acknowledgement(self, handlers: Handlers, error: Exception) -> None:
        client = IoClient(make_asking_node(handlers), "")
        handlers.raises = error
        assert client.say('421["a"]') == []
        handlers.raises = None
        assert client.say('422["a"]') == ["432[]"]

    def test_is_not_acknowledged_without_an_application(self) -> None:
        assert IoClient(make_node(), "").say('421["a"]', '42["b"]') == []

    def test_waits_for_the_one_before_it(self, handlers: Handlers) -> None:
        client = IoClient(make_asking_node(handlers), "")
        handlers.pending = Deferred()
        assert client.say('421["a"]', '422["b"]') == []
        assert [name for _, name, _ in handlers.events] == ["a"]
        handlers.release()
        assert client.take() == ["431[]", "432[]"]

    def test_of_a_flood_waits_for_the_next_turn(self, handlers: Handlers) -> None:
        time = Time()
        node = make_asking_node(handlers, time=time)
        client = IoClient(node, "")
        handlers.pending = Deferred()
        client.say(*['42["a"]'] * 500)
        handlers.release()
        assert len(handlers.events) == AT_A_TIME
        assert client.session.is_yielding
        time.pass_on()
        assert len(handlers.events) == 500
        assert client.closed is None

    def test_of_a_payload_are_handled_in_portions(self, handlers: Handlers) -> None:
        time = Time()
        client = IoClient(make_asking_node(handlers, time=time), "")
        packets = [b'42["a",%d]' % n for n in range(500)]
        assert client.session.received_payload(b"\x1e".join(packets))
        assert len(handlers.events) == AT_A_TIME
        time.pass_on()
        assert [arguments for _, _, arguments in handlers.events] == [[n] for n in range(500)]

    def test_unknown_namespaces_of_a_payload_are_refused_in_portions(self) -> None:
        time = Time()
        client = IoClient(make_asking_node(Handlers(), time=time))
        packets = [b"40/a/%d," % n for n in range(500)]
        assert client.session.received_payload(b"\x1e".join(packets))
        assert len(client.take()) == AT_A_TIME
        time.pass_on()
        assert len(client.take()) == 500 - AT_A_TIME

    def test_of_all_clients_share_a_turn(self, handlers: Handlers) -> None:
        time = Time()
        node = make_asking_node(handlers, time=time)
        spent = [0.0]

        def answer(arguments: list[Any]) -> Values:
            spent[0] += TURN_SECONDS
            return values(arguments)

        handlers.answer = answer
        node.turns.monotonic = lambda: spent[0]
        body = b"\x1e".join([b'42["a"]'] * (AT_A_TIME + 1))
        clients = [IoClient(node, "") for _ in range(3)]
        for client in clients:
            client.session.received_payload(body)
        before = len(handlers.events)
        node.turns._run()
        assert len(handlers.events) == before + 1

    def test_waits_until_the_peer_has_read_earlier_answers(self, handlers: Handlers) -> None:
        client = IoClient(make_asking_node(handlers), "")
        client.transport.block()
        client.say('421["a"]')
        assert handlers.events == []
        client.transport.drain()
        assert client.take() == ["431[]"]

    @pytest.mark.parametrize(
        "packets",
        [
            ['42/b,["a"]'],
            ["42/b,1[]"],
            ["41/b,"],
            ["43/b,1[]"],
            ['42["a"'],
            ["42[]"],
            ['42["connect"]'],
            ["4"],
            ["4x"],
            ["44"],
            ["43[]"],
            ["439007199254740992[]"],
            ["43-1[]"],
            ['42-1["a"]'],
            ['429007199254740992["a"]'],
            ['4299999999999999999999999999["a"]'],
            ["431{}"],
            ["40[]"],
            [b"x"],
            ['451-["a",{"_placeholder":true,"num":0}]', "42[1]"],
            ['451-["a",{"_placeholder":true,"num":1}]', b"x"],
            ['452-["a",{"_placeholder":true,"num":1},{"_placeholder":true,"num":0}]', b"x", b"y"],
            ['451-["a"]', b"x"],
            ['4599-["a"]'],
            ["2"],
            ["2probe"],
            ["5"],
            ["0{}"],
            ["x"],
            [""],
        ],
        ids=str,
    )
    def test_that_breaks_the_protocol_ends_only_its_connection(
        self, handlers: Handlers, packets: list[str | bytes]
    ) -> None:
        node = make_asking_node(handlers)
        client, other = IoClient(node, ""), IoClient(node, "", "/a")
        client.say(*packets, '42["never"]')
        assert client.closed is not None
        assert client.closed[0] == 3501
        client.leave()
        assert handlers.events == []
        publish(node, "a")
        assert other.say('421["a"]') == ['42/a,["message",1]', "431[]"]

    def test_over_the_rate_ends_the_connection(self, handlers: Handlers) -> None:
        noted: list[Any] = []
        node = make_asking_node(handlers, limits=Limits(commands_per_second=2))
        node.note_excess = lambda *args: noted.append(args)
        client = IoClient(node, "")
        client.say(*['42["a"]'] * 30)
        assert len(handlers.events) == 19
        assert client.closed == (3013, "more than 2 packets a second (commands_per_second)")
        assert [code for _, _, code in noted] == [3013]

    def test_waits_in_a_bounded_memory(self, handlers: Handlers) -> None:
        client = IoClient(make_asking_node(handlers, limits=Limits(commands_per_second=10**6)), "")
        handlers.pending = Deferred()
        sent = 0
        while client.closed is None:
            client.say('42["a"]')
            sent += 1
        assert 1_000 < sent < WAITING_BYTES / socketio.PACKET_BYTES + 2
        assert client.closed[0] == 3013
        client.leave()
        handlers.release()
        assert len(handlers.events) == 1

    def test_has_attachments_of_bounded_size(self, handlers: Handlers) -> None:
        noted: list[Any] = []
        node = make_asking_node(handlers)
        node.note_excess = lambda *args: noted.append(args)
        client = IoClient(node, "")
        client.say('4564-["a"]', *[b"x" * 60_000] * 17)
        assert client.closed is None
        assert noted == []
        client.say(b"x" * 60_000)
        assert client.closed == (
            3013,
            f"packets of more than {WAITING_BYTES} bytes wait (frame_bytes)",
        )
        assert [code for _, _, code in noted] == [3013]
        assert client.session._incomplete is None

    @pytest.mark.parametrize("size", [600_000, 1_000_000, 5_000_000])
    def test_may_be_long_and_wait_where_the_limit_of_messages_says_so(
        self, handlers: Handlers, size: int
    ) -> None:
        client = IoClient(make_asking_node(handlers, limits=Limits(frame_bytes=size)), "")
        handlers.pending = Deferred()
        client.say('42["first"]')
        for _ in range(3):
            client.say('451-["a",{"_placeholder":true,"num":0}]', b"x" * (size - 2_000))
        assert client.closed is None
        client.say('452-["a"]', b"x" * size, b"x" * size)
        assert client.closed == (3013, f"packets of more than {4 * size} bytes wait (frame_bytes)")

    def test_gives_back_the_memory_that_it_takes(self, handlers: Handlers) -> None:
        client = IoClient(make_asking_node(handlers, limits=Limits(commands_per_second=10**6)), "")
        mark = '{"_placeholder":true,"num":0}'
        for _ in range(30):
            client.say(f'451-["a",{mark}]', b"x" * 60_000, f"461-1[{mark}]", b"x" * 60_000)
        assert client.closed is None
        assert client.session._waiting_bytes == 0


class TestAnAcknowledgement:
    def test_goes_to_its_call(self, handlers: Handlers) -> None:
        client = IoClient(make_asking_node(handlers), "/a")
        answers: list[Any] = []
        for n in range(2):
            namespace(client, "/a").call(values(["q", n]), answers.append, 5.0)
        assert client.take() == ['42/a,0["q",0]', '42/a,1["q",1]']
        client.say("43/a,1[2]", '461-/a,0[{"_placeholder":true,"num":0}]', b"x")
        assert answers == [[2], [b"x"]]

    def test_of_no_call_is_ignored(self, handlers: Handlers) -> None:
        client = IoClient(make_asking_node(handlers), "")
        answers: list[Any] = []
        namespace(client).call(values(["q"]), answers.append, 5.0)
        client.take()
        assert client.say("431[]", "439007199254740991[]", "430[1]", "430[2]") == []
        assert (answers, client.closed) == ([[1]], None)

    def test_comes_while_a_handler_waits_for_it(self, handlers: Handlers) -> None:
        client = IoClient(make_asking_node(handlers), "")
        handlers.pending = Deferred()
        client.say('421["a"]')
        answers: list[Any] = []
        namespace(client).call(values(["q"]), answers.append, 5.0)
        assert client.say("430[1]") == ['420["q"]']
        assert answers == [[1]]
        handlers.release()

    def test_may_not_come(self) -> None:
        time = Time()
        client = IoClient(make_node(time=time), "")
        answers: list[Any] = []
        namespace(client).call(values(["q"]), answers.append, 5.0)
        time.pass_on()
        namespace(client).call(values(["q"]), answers.append, 5.0)
        ended = namespace(client)
        client.leave()
        assert answers == [None, None]
        ended.call(values(["q"]), answers.append, 5.0)
        assert answers == [None, None, None]

    def test_is_awaited_by_a_bounded_number_of_calls(self) -> None:
        client = IoClient(make_node(), "")
        for _ in range(MAX_CALLS):
            namespace(client).call(values(["q"]), lambda _: None, 5.0)
        with pytest.raises(Exception, match=f"{MAX_CALLS} calls of this client wait"):
            namespace(client).call(values(["q"]), lambda _: None, 5.0)


class TestTheEnd:
    def test_of_a_namespace_by_the_client(self, handlers: Handlers) -> None:
        node = make_asking_node(handlers)
        client = IoClient(node, "/a", "/b")
        assert client.say("41/a,") == []
        publish(node, "a")
        publish(node, "b")
        assert client.take() == ['42/b,["message",1]']
        assert handlers.departures == ["the client has left"]
        assert client.say("40/a,")[0].startswith("40/a,{")

    def test_of_a_namespace_by_the_server_is_final(self, handlers: Handlers) -> None:
        node = make_asking_node(handlers)
        client = IoClient(node, "/a", "/b")
        namespace(client, "/a").disconnect(4500, "enough")
        assert client.take() == ["41/a,"]
        assert handlers.departures == ["enough"]
        # These were on their way.
        assert client.say('42/a,["x"]', "41/a,", "43/a,1[]") == []
        assert client.closed is None
        assert handlers.events == []
        publish(node, "b")
        assert client.take() == ['42/b,["message",1]']

    def test_with_a_code_for_reconnecting_is_that_of_the_connection(
        self, handlers: Handlers
    ) -> None:
        client = IoClient(make_asking_node(handlers), "/a", "/b")
        namespace(client, "/a").disconnect(4000, "come back")
        assert client.take() == []
        assert client.closed == (4000, "come back")
        client.leave()
        assert handlers.departures == ["come back", "come back"]

    def test_of_the_connection_by_the_client(self, handlers: Handlers) -> None:
        node = make_asking_node(handlers)
        client = IoClient(node, "", "/a")
        client.say("1")
        assert client.closed is not None
        assert client.closed[0] == 1000
        client.leave()
        assert len(handlers.departures) == 2
        assert is_empty(node)

    def test_of_a_namespace_ends_the_calls_of_a_handler_that_runs(self, handlers: Handlers) -> None:
        node = make_asking_node(handlers)
        client = IoClient(node, "/a", "/b")
        handlers.pending = Deferred()
        client.say('42/a,["x"]', '42/a,["y"]')
        answers: list[Any] = []
        ended = namespace(client, "/a")
        ended.call(values(["q"]), answers.append, 5.0)
        assert client.take() == ['42/a,0["q"]']
        assert client.say("41/a,", "43/a,0[1]") == []
        assert answers == [None]
        assert not ended.connected
        # Nothing more is sent to it, and nothing more is asked.
        publish(node, "a")
        drive(ended.invite("room"))
        publish(node, "room")
        ended.call(values(["q"]), answers.append, 5.0)
        ended.sender("z", "e")()
        ended.acknowledge(1, values(["z"]))
        assert (answers, client.take()) == ([None, None], [])
        assert handlers.departures == []
        handlers.release()
        assert [name for _, name, _ in handlers.events] == ["x", "y"]
        assert handlers.departures == ["the client has left"]
        publish(node, "b")
        assert client.take() == ['42/b,["message",1]']
        assert client.say("40/a,")[0].startswith('40/a,{"sid":')
        publish(node, "a", 2)
        assert client.take() == ['42/a,["message",2]']

    def test_that_comes_before_the_answer_to_a_connect_is_in_order(
        self, handlers: Handlers
    ) -> None:
        client = IoClient(make_asking_node(handlers))
        handlers.pending = Deferred()
        assert client.say("40/a,", "41/a,", "40/a,") == []
        handlers.release()
        assert len(client.take()) == 2
        assert handlers.departures == ["the client has left"]
        assert namespace(client, "/a").connected

    def test_comes_after_the_handler_that_runs(self, handlers: Handlers) -> None:
        node = make_asking_node(handlers)
        client = IoClient(node, "/a")
        handlers.pending = Deferred()
        client.say('42/a,1["x"]')
        client.leave()
        assert handlers.departures == []
        handlers.release()
        assert handlers.departures == [""]
        assert client.take() == []
        assert is_empty(node)

    def test_of_the_server_closes_each_connection(self) -> None:
        node = make_node()
        client = IoClient(node, "/a")
        client.session.shut_down()
        assert client.closed == (3001, "the server is shutting down")
        publish(node, "a")
        assert client.take() == []

    def test_leaves_no_format_of_a_namespace(self) -> None:
        # Those of earlier tests are not freed in between.
        gc.collect()
        before = len(_namespaces)
        node = make_node()
        client = IoClient(node, *(f"/a{n}" for n in range(20)))
        for n in range(50):
            client.say(f"40/ {n},")
        assert len(_namespaces) == before + 20
        client.leave()
        assert len(_namespaces) == before

    def test_of_a_token_is_that_of_the_connection(self, handlers: Handlers) -> None:
        time = Time()
        node = make_asking_node(handlers, time=time)
        handlers.on_connect = lambda session: session.become(  # type: ignore[attr-defined]
            Identity("ann", expires=time.now + 10)
        )
        client = IoClient(node, "")
        namespace(client).prolong(time.now + 12)
        time.now += 11
        node.peers.tick(node.monotonic())
        assert client.closed is None
        time.now += 2
        node.peers.tick(node.monotonic())
        assert client.closed == (3005, "expired")


class TestARoom:
    def test_gets_events_of_its_own_namespace(self) -> None:
        node = make_node()
        client = IoClient(node, "/a", "/room")
        drive(namespace(client, "/a").invite("room"))
        publish(node, "room", 1, "e")
        assert sorted(client.take()) == ['42/a,["e",1]', '42/room,["e",1]']
        assert namespace(client, "/a").unsubscribe("room", 2000, "")
        publish(node, "room", 2, "e")
        assert client.take() == ['42/room,["e",2]']

    def test_may_begin_at_a_position_and_end_at_a_time(self) -> None:
        time = Time()
        node = make_node(time=time)
        for n in range(3):
            publish(node, "room", n)
        client = IoClient(node, "")
        start = Position(node.history.epoch, 1)
        drive(namespace(client).invite("room", Invitation(position=start, expires=time.now + 5)))
        assert client.take() == ['42["message",1]', '42["message",2]']
        time.now += 6
        node.peers.tick(node.monotonic())
        publish(node, "room", 3)
        assert (client.take(), client.closed) == ([], None)

    def test_shows_its_clients_in_the_presence(self) -> None:
        node = make_node()
        client = IoClient(node, "/a")
        [info] = drive(node.presence.clients("a")).values()
        assert info == namespace(client, "/a").info


class TestAMessage:
    def test_is_an_event_without_a_name_or_with_one(self) -> None:
        client = IoClient(make_node(), "/a")
        for data, name in ((1, ""), ((), "e"), ((1, [2]), "e"), ({"a": b"x"}, "e")):
            namespace(client, "/a").sender(data, name)()
        assert client.take() == [
            '42/a,["message",1]',
            '42/a,["e"]',
            '42/a,["e",1,[2]]',
            '451-/a,["e",{"a":{"_placeholder":true,"num":0}}]',
            "binary x",
        ]

    def test_that_cannot_be_sent_is_an_error_of_its_sender(self) -> None:
        client = IoClient(make_node(), "/a")
        sender = namespace(client, "/a").sender
        for name in ("connect", "disconnecting", "\n"):
            with pytest.raises(InvalidName):
                sender(1, name)
        with pytest.raises(InvalidData):
            sender(object(), "a")

    def test_to_all_clients_is_one_for_each_format(self) -> None:
        node = make_node()
        clients = [IoClient(node, "/a"), IoClient(node, "/a", "/b")]
        old = Client(node)
        broadcast = Broadcast.of({"n": 1}, "e")
        for session in node.sessions:
            session.broadcast(broadcast)
        assert clients[0].take() == ['42/a,["e",{"n":1}]']
        assert clients[1].take() == ['42/a,["e",{"n":1}]', '42/b,["e",{"n":1}]']
        assert old.pushes() == [{"message": {"data": {"event": "e", "data": {"n": 1}}}}]
        assert len(broadcast.frames) == 3

    @pytest.mark.parametrize("name", ["connect", "disconnect", "newListener"])
    def test_or_publication_with_a_name_that_clients_refuse_gets_another(self, name: str) -> None:
        node = make_node()
        client = IoClient(node, "/a")
        publish(node, "a", 1, name)
        for session in node.sessions:
            session.broadcast(Broadcast.of(2, name))
        assert client.take() == ['42/a,["message",1]', '42/a,["message",2]']


class TestAPing:
    def test_comes_from_the_server_and_must_be_answered(self) -> None:
        time = Time()
        node = make_node(time=time)
        client = IoClient(node, "")
        assert client.opening["pingInterval"] == 25_000
        assert client.opening["pingTimeout"] == 20_000
        assert client.opening["maxPayload"] == LIMITS.frame_bytes
        pings = 0
        for _ in range(200):
            time.now += 1
            node.peers.tick(node.monotonic())
            for line in client.take():
                assert line == "2"
                pings += 1
                client.say("3")
        assert 8 <= pings <= 9
        assert client.closed is None
        for _ in range(47):
            time.now += 1
            node.peers.tick(node.monotonic())
        assert client.take()[-1:] == ["2"]
        assert client.closed == (3012, "no pong")

    def test_is_not_answered_by_other_packets(self) -> None:
        time = Time()
        node = make_node(time=time)
        client = IoClient(node, "")
        for _ in range(47):
            time.now += 1
            node.peers.tick(node.monotonic())
            if client.closed is None:
                client.session.alive()
                client.say("6", '42["a"]')
        assert client.closed == (3012, "no pong")

    def test_waits_for_a_peer_with_unread_bytes(self) -> None:
        time = Time()
        node = make_node(time=time)
        client = IoClient(node, "")
        for _ in range(3):
            client.transport.block()
            time.now += 20
            node.peers.tick(node.monotonic())
            client.transport.drain()
        assert (client.take(), client.closed) == ([], None)


def test_clients_of_one_namespace_share_one_frame() -> None:
    node = make_node()
    encoded: list[bytes] = []

    def frame(packet: bytes) -> bytes:
        encoded.append(packet)
        return packet + b"\n"

    counting = replace(FRAMES, frame=frame)
    clients = [IoClient(node) for _ in range(5)]
    for client in clients:
        client.transport.format = counting
        client.say("40/a,")
    encoded.clear()
    publish(node, "a", 1)
    assert encoded == [b'42/a,["message",1]']
    assert all(client.take() == ['42/a,["message",1]'] for client in clients)


def test_subscription_that_is_refused_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = make_node()

    async def full(*_: Any, **__: Any) -> Any:
        raise LimitExceeded("no more channels", "channels")

    namespace = IoClient(node, "/a").session.namespaces["/a"]
    session = Client(node).session
    monkeypatch.setattr(node.hub, "subscribe", full)
    for client in (namespace, session):
        with pytest.raises(LimitExceeded):
            drive(client.invite("room", Invitation(info=b"{}", expires=2e9)))
    assert node.presence._infos == {}
    assert namespace.ends == []


def test_client_that_returns_joins_with_its_info() -> None:
    node = make_node(ChannelOptions(history_size=3))
    infos: list[bytes] = []
    node.hub.on_join.append(
        lambda channel, client: infos.append(node.presence.info(channel, client).chan_info)
    )
    publish(node, "a")
    position = Position(node.history.channels["a"].epoch, 1)
    namespace = Namespace(IoClient(node, recovers=True).session, "/a", "a", True)
    namespace.returns(Return(make_pid("abcdefghijklmnop", position), position))
    drive(namespace._join_own(Invitation(info=b'{"n":1}')))
    assert infos == [b'{"n":1}']
