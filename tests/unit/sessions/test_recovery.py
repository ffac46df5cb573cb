"""Connection state recovery of Socket.IO."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.position import Position
from pushserver.channels.publication import Draft
from pushserver.server.logging import run
from pushserver.sessions.callbacks import Broadcast
from pushserver.sessions.node import Node
from pushserver.sessions.recovery import Return, make_pid, read_return
from tests.unit.fakes.socketio import IoClient, event
from tests.unit.fakes.tools import drive, make_node, publish
from tests.unit.sessions.test_commands import FakeHandlers

PID = "abcdefghijklmnop.ep-3:7"
RECENT = ChannelOptions(initial=2, history_size=10)


class TestAReturn:
    def test_is_after_the_last_publication_or_after_the_joining(self) -> None:
        assert make_pid("abcdefghijklmnop", Position("ep-3", 7)) == PID
        for offset, reached in [(None, 7), ("ep-3:9", 9), ("ep-3:7", 7)]:
            auth = {"pid": PID, "offset": offset, "token": "x"}
            assert read_return(auth) == Return(PID, Position("ep-3", reached))

    @pytest.mark.parametrize("offset", ["ep-3:2", "ep:900", "hello", "", 9, [], "ep-3:" + "9" * 30])
    def test_does_not_take_another_text_for_an_offset(self, offset: object) -> None:
        assert read_return({"pid": PID, "offset": offset}) == Return(PID, Position("ep-3", 7))

    @pytest.mark.parametrize(
        "pid", [None, 7, "", "abc", PID + "x", "x" + PID, PID[:-1] + "\u0663", "a.b:c", PID * 99]
    )
    def test_needs_a_pid_of_this_server(self, pid: object) -> None:
        assert read_return({"pid": pid, "offset": "ep-3:9"}) is None


class Page:
    """What the official client keeps: the pid, and the last text at the end of an event."""

    def __init__(self, node: Node, name: str = "/a"):
        self.node, self.name = node, name
        self.kept: dict[str, Any] = {}
        self.recovered = False
        self.client = IoClient(node, recovers=True)

    def connect(self, **auth: Any) -> list[Any]:
        """Connect, as after a lost connection; returns the data of the events that came."""
        self.client.leave()
        self.client = IoClient(self.node, recovers=True)
        value = self.kept | auth
        [answer, *rows] = self.client.say(f"40{self.name}," + (json.dumps(value) if value else ""))
        answered = json.loads(answer.removeprefix(f"40{self.name},"))
        self.recovered = answered["pid"] == self.kept.get("pid")
        self.kept["pid"] = answered["pid"]
        return self.see(rows)

    def see(self, rows: list[str] | None = None) -> list[Any]:
        seen = []
        for line in self.client.take() if rows is None else rows:
            _, *arguments = event(line, self.name)
            seen.append(arguments[0])
            if isinstance(arguments[-1], str):
                self.kept["offset"] = arguments[-1]
        return seen


@pytest.mark.parametrize("recovers", [False, True])
def test_all_clients_of_a_namespace_get_the_same_bytes(recovers: bool) -> None:
    node = make_node(RECENT)
    clients = [IoClient(node, "/a", recovers=recovers) for _ in range(3)]
    for one in clients:
        one.take()
    publish(node, "a", {"n": 1})
    frames = [one.transport.frames for one in clients]
    # One object: encoded once, however many clients there are.
    assert len({id(frame) for sent in frames for frame in sent}) == 1
    assert all(len(sent) == 1 for sent in frames)
    assert (b':1"]' in frames[0][0]) == recovers


class TestAClientThatReturns:
    def test_gets_exactly_the_publications_that_it_missed(self) -> None:
        node = make_node(RECENT)
        for n in range(4):
            publish(node, "a", n)
        page = Page(node)
        assert (page.connect(), page.recovered) == ([2, 3], False)
        publish(node, "a", 4)
        assert page.see() == [4]
        page.client.leave()
        for n in (5, 6, 7):
            publish(node, "a", n)
        assert (page.connect(), page.recovered) == ([5, 6, 7], True)
        assert (page.connect(), page.recovered) == ([], True)
        publish(node, "a", 8)
        assert page.see() == [8]

    def test_is_recovered_from_its_joining_before_its_first_publication(self) -> None:
        for before in (0, 3):
            node = make_node(ChannelOptions(initial=0, history_size=10))
            for n in range(before):
                publish(node, "a", n)
            page = Page(node)
            assert page.connect() == []
            page.client.leave()
            publish(node, "a", "first")
            assert (page.connect(), page.recovered) == (["first"], True)

    def test_gets_the_last_ones_again_that_it_did_not_read(self) -> None:
        node = make_node(RECENT)
        publish(node, "a", 1)
        publish(node, "a", 2)
        page = Page(node)
        page.connect()
        # The connection was lost before them.
        del page.kept["offset"]
        assert (page.connect(), page.recovered) == ([1, 2], True)

    def test_gets_the_last_ones_if_others_are_gone(self) -> None:
        node = make_node(ChannelOptions(initial=2, history_size=3))
        page = Page(node)
        page.connect()
        for n in range(9):
            publish(node, "a", n)
        page.see()
        page.client.leave()
        for n in range(9, 15):
            publish(node, "a", n)
        old = dict(page.kept)
        assert (page.connect(), page.recovered) == ([13, 14], False)
        # And with its earlier offset, which it keeps while nothing comes.
        page.kept["offset"] = old["offset"]
        assert (page.connect(), page.recovered) == ([13, 14], True)

    @pytest.mark.parametrize("pid", [PID, "guessed", "abcdefghijklmnop.x:999"])
    def test_with_the_pid_of_another_server_is_a_new_one(self, pid: str) -> None:
        node = make_node(RECENT)
        publish(node, "a", 1)
        page = Page(node)
        page.kept = {"pid": pid, "offset": "x:1"}
        assert (page.connect(), page.recovered) == ([1], False)

    def test_gets_no_history_that_it_may_not_read(self) -> None:
        node = make_node(ChannelOptions(initial=2, history_size=10, history="key"))
        page = Page(node)
        page.connect()
        publish(node, "a", 1)
        page.see()
        page.client.leave()
        publish(node, "a", 2)
        assert (page.connect(), page.recovered) == ([], False)

    def test_passes_the_application_its_own_data(self) -> None:
        handlers = FakeHandlers()
        seen: list[bytes] = []
        connect = handlers.connect

        async def noted(session: Any, data: bytes) -> bytes:
            seen.append(data)
            return await connect(session, data)

        handlers.connect = noted  # type: ignore[method-assign]
        page = Page(make_node(RECENT, run=run, handlers=handlers))
        page.connect()
        page.connect()
        page.connect(name="ada")
        page.kept = {"pid": 7}
        page.connect()
        assert seen == [b"", b"", b'{"name":"ada"}', b'{"pid": 7}']


class TestAnEvent:
    def test_has_an_offset_if_it_is_of_the_channel_of_the_namespace(self) -> None:
        node = make_node(RECENT)
        page = Page(node)
        page.connect()
        [namespace] = page.client.session.namespaces.values()
        run(namespace.invite("room"))
        publish(node, "room", 1)
        publish(node, "room", "text")
        publish(node, "a", "text")
        lines = page.client.take()
        position = node.history.channels["a"].epoch + ":1"
        assert lines == [
            '42/a,["message",1]',
            '42/a,["message","text",null]',
            f'42/a,["message","text","{position}"]',
        ]

    def test_that_ends_with_a_text_does_not_look_like_one_with_an_offset(self) -> None:
        page = Page(make_node(RECENT))
        page.connect()
        [namespace] = page.client.session.namespaces.values()
        for data in ("text", ("a", "b"), 7, ("a", 7), ()):
            namespace.sender(data, "e")()
        namespace.broadcast(Broadcast.of("text", "e"))
        assert [event(line, "/a") for line in page.client.take()] == [
            ["e", "text", None],
            ["e", "a", "b", None],
            ["e", 7],
            ["e", "a", 7],
            ["e", None],
            ["e", "text", None],
        ]

    @pytest.mark.parametrize("channel", ["a", "room"])
    def test_has_several_arguments_for_a_list_that_is_marked(self, channel: str) -> None:
        node = make_node(RECENT)
        page, plain = Page(node), IoClient(node, "/a")
        page.connect()
        for client in (page.client, plain):
            [namespace] = client.session.namespaces.values()
            run(namespace.invite("room"))
        mark = {"arguments": "list"}
        for data in (b'[1,[2], "x"]', b"[ ]", b"[[1]]", b"7", b'{"a":[]}', b'["a"]'):
            drive(node.publish(Draft(channel, data, tags=mark)))
        drive(node.publish(Draft(channel, b"[1,2]")))
        drive(node.publish(Draft(channel, b"[1,2]", tags={"arguments": "other"})))
        expected: list[list[Any]] = [
            [1, [2], "x"],
            [],
            [[1]],
            [7],
            [{"a": []}],
            ["a"],
            [[1, 2]],
            [[1, 2]],
        ]
        assert [event(line, "/a")[1:] for line in plain.take()] == expected
        for values, line in zip(expected, page.client.take(), strict=True):
            got = event(line, "/a")[1:]
            assert got[: len(values)] == values
            if channel == "a":
                assert got[-1].startswith(node.history.channels["a"].epoch)
            elif not values or isinstance(values[-1], str):
                assert got[-1] is None
            assert len(got) - len(values) <= 1

    def test_has_nothing_more_without_recovery_or_without_a_channel(self) -> None:
        node = make_node(RECENT)
        for client, name in ((IoClient(node), "/a"), (IoClient(node, recovers=True), "/")):
            [answer] = client.say("40" if name == "/" else "40/a,")
            assert list(json.loads(answer[answer.index("{") :])) == ["sid"]
            client.session.namespaces[name].sender("text", "e")()
            [line] = client.take()
            assert line.endswith('["e","text"]')
