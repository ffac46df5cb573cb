"""`emit`, `send`, rooms, callbacks: the clients that get an event, each once."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import flask
import pytest
from flask import Flask

from pushserver.config.settings import Config
from pushserver.config.settings import SocketIO as Settings
from pushserver.errors import LimitExceeded, Unavailable
from pushserver.flask import (
    SocketIO,
    call,
    close_room,
    disconnect,
    emit,
    join_room,
    leave_room,
    rooms,
    send,
)
from pushserver.flask.members import MAX_ROOMS, channel_of
from pushserver.flask.server_methods import METHODS
from pushserver.testing import ServerError, TestServer
from tests.unit.fakes.flask_program import Program
from tests.unit.fakes.socketio import event
from tests.unit.fakes.web import Server, Trouble

# With the attributes of a handler.
request: Any = flask.request


def names(client: Any, namespace: str = "/") -> list[Any]:
    """The events that a client has got; with their value if they have one argument."""
    received = client.get_received(namespace)
    return [
        (event["name"], *event["args"]) if isinstance(event["args"], list) else event["args"]
        for event in received
    ]


class Crowd:
    """Three clients of a program whose event `do` calls a function in a handler."""

    def __init__(self, program: Program):
        self.program = program
        self.sids: list[str] = []
        program.socketio.on("connect")(lambda: self.sids.append(request.sid))
        program.socketio.on("do")(lambda: self.todo())
        program.socketio.on("x", namespace="/a")(lambda: None)
        self.clients = [program.client() for _ in range(3)]
        self.clients[0].connect("/a")
        self.todo: Callable[[], Any] = lambda: None

    def do(self, function: Callable[[], Any], number: int = 0) -> Any:
        """Call the function in a handler of this client; the result is its acknowledgement."""
        self.todo = function
        return self.clients[number].emit("do", callback=True)

    def enter(self, room: Any, *numbers: int) -> None:
        for number in numbers:
            self.program.socketio.enter_room(self.sids[number], room)

    @property
    def got(self) -> list[list[Any]]:
        return [names(client) for client in self.clients]


@pytest.fixture
def crowd(program: Program) -> Crowd:
    return Crowd(program)


VALUES = [("e", (), None), ("e", (1,), 1), ("e", (1, 2), (1, 2)), ("e", (b"1",), b"1")]
"""No argument, one, several, and bytes: an event goes by a channel, or to each client."""


@pytest.mark.parametrize(("event", "arguments", "data"), VALUES)
class TestTargets:
    """Each kind of target with each kind of value."""

    def test_handler_answers_its_own_client(
        self, crowd: Crowd, event: str, arguments: Any, data: Any
    ) -> None:
        crowd.do(lambda: emit(event, data), 1)
        assert crowd.got == [[], [(event, *arguments)], []]

    def test_broadcast_is_for_all_of_the_namespace(
        self, crowd: Crowd, event: str, arguments: Any, data: Any
    ) -> None:
        one = [(event, *arguments)]
        crowd.do(lambda: emit(event, data, broadcast=True))
        assert crowd.got == [one, one, one]
        crowd.program.socketio.emit(event, data)
        assert crowd.got == [one, one, one]
        assert names(crowd.clients[0], "/a") == []
        crowd.do(lambda: emit(event, data, namespace="/a", broadcast=True), 1)
        crowd.program.socketio.emit(event, data, namespace="/a")
        assert crowd.got == [[], [], []]
        assert names(crowd.clients[0], "/a") == one * 2

    def test_room_is_for_those_who_are_in_it(
        self, crowd: Crowd, event: str, arguments: Any, data: Any
    ) -> None:
        one = [(event, *arguments)]
        crowd.enter("r", 1, 2)
        crowd.do(lambda: emit(event, data, to="r"))
        assert crowd.got == [[], one, one]
        crowd.program.socketio.emit(event, data, room="r")
        assert crowd.got == [[], one, one]
        crowd.program.socketio.emit(event, data, to="r", namespace="/a")
        crowd.program.socketio.emit(event, data, to="nobody")
        assert crowd.got == [[], [], []]
        crowd.program.socketio.leave_room(crowd.sids[1], "r")
        crowd.program.socketio.emit(event, data, to="r")
        assert crowd.got == [[], [], one]

    def test_client_in_several_rooms_gets_an_event_once(
        self, crowd: Crowd, event: str, arguments: Any, data: Any
    ) -> None:
        one = [(event, *arguments)]
        crowd.enter("r", 0, 1)
        crowd.enter("s", 1)
        crowd.program.socketio.emit(event, data, to=["r", "s", crowd.sids[1]])
        assert crowd.got == [one, one, []]
        crowd.program.socketio.emit(event, data, to=crowd.sids[2])
        assert crowd.got == [[], [], one]

    def test_some_clients_are_left_out(
        self, crowd: Crowd, event: str, arguments: Any, data: Any
    ) -> None:
        one = [(event, *arguments)]
        crowd.enter("r", 0, 1)
        crowd.do(lambda: emit(event, data, broadcast=True, include_self=False))
        assert crowd.got == [[], one, one]
        crowd.do(lambda: emit(event, data, to="r", include_self=False))
        assert crowd.got == [[], one, []]
        crowd.program.socketio.emit(event, data, skip_sid=crowd.sids[1])
        assert crowd.got == [one, [], one]
        crowd.program.socketio.emit(event, data, skip_sid=crowd.sids[:2])
        assert crowd.got == [[], [], one]

    def test_client_that_connects_gets_the_events_of_its_handler_once(
        self, program: Program, event: str, arguments: Any, data: Any
    ) -> None:
        @program.socketio.on("connect")
        def connect() -> None:
            join_room("r")
            emit("own")
            emit(event, data, to="r")
            emit(event, data, broadcast=True)
            emit(event, data, broadcast=True, include_self=False)

        first = program.client()
        expected = [("own",), (event, *arguments), (event, *arguments)]
        assert names(first) == expected
        second = program.client()
        assert names(second) == expected
        assert names(first) == [(event, *arguments)] * 3


class TestRooms:
    """Joining and leaving, and the channels of rooms."""

    def test_functions_know_the_client_of_the_handler(self, crowd: Crowd) -> None:
        sid = crowd.sids[0]

        def enter() -> list[Any]:
            join_room("r")
            join_room("r")
            join_room("s")
            join_room("r", sid=crowd.sids[1])
            leave_room("s")
            leave_room("never")
            return list(rooms())

        assert crowd.do(enter) == [sid, "r"]
        assert crowd.do(lambda: list(rooms(crowd.sids[1]))) == [crowd.sids[1], "r"]
        crowd.do(lambda: close_room("r"), 2)
        assert crowd.do(lambda: list(rooms())) == [sid]
        crowd.do(disconnect)
        assert not crowd.clients[0].is_connected()
        assert crowd.clients[0].is_connected("/a")

    def test_server_has_the_methods_that_programs_call(self, crowd: Crowd) -> None:
        server, sid = crowd.program.socketio.server, crowd.sids[0]
        server.enter_room(sid, "r")
        assert server.rooms(sid) == [sid, "r"]
        environ = server.get_environ(sid)
        assert environ is not None
        assert environ["PATH_INFO"] == "/socket.io/"
        server.disconnect(sid)
        assert not crowd.clients[0].is_connected()
        for name in METHODS:
            assert callable(getattr(server, name))

    def test_rooms_end_with_their_clients(self, crowd: Crowd) -> None:
        crowd.enter("r", 0, 1)
        crowd.clients[0].disconnect()
        crowd.program.socketio.emit("e", 1, to="r")
        assert names(crowd.clients[1]) == [("e", 1)]
        crowd.clients[1].disconnect()
        crowd.program.socketio.emit("e", 1, to="r")
        members = crowd.program.socketio.members
        assert members.chosen("/", ["r"]) == []
        assert members.find(crowd.sids[0], "/") is None
        with pytest.raises(ValueError, match="there is no client"):
            crowd.enter("r", 0)

    @pytest.mark.parametrize(
        "room", ["r", "a room: ä/#$", "x" * 500, 7, ("game", 7), "Gr\u00fc\u00dfe", "@40", "\ud800"]
    )
    def test_room_may_have_any_name(self, crowd: Crowd, room: Any) -> None:
        crowd.enter(room, 1)
        crowd.program.socketio.emit("e", 1, to=[room] if isinstance(room, tuple) else room)
        assert crowd.got == [[], [("e", 1)], []]

    def test_client_is_in_a_bounded_number_of_rooms(self, crowd: Crowd) -> None:
        for number in range(MAX_ROOMS):
            crowd.enter(number, 0)
        with pytest.raises(LimitExceeded, match="1000 rooms"):
            crowd.enter("more", 0)
        crowd.enter(0, 0)
        crowd.program.socketio.leave_room(crowd.sids[0], 0)
        crowd.enter("more", 0)
        crowd.enter("more", 1)

    def test_different_rooms_have_different_channels(self) -> None:
        of = [
            *(("/", "a"), ("/a", "a"), ("/", "a:a"), ("/a:a", ""), ("/a", ":a"), ("/", 1)),
            *(("/", "1"), ("/", "@31"), ("/", "@int1"), ("/", "x" * 300), ("/", "x" * 301)),
        ]
        channels = [channel_of(*each) for each in of]
        assert len({*channels}) == len(of)
        assert all(name.startswith("$flask:") and len(name) <= 128 for name in channels)

    def test_channels_are_closed_to_other_protocols(self, crowd: Crowd) -> None:
        crowd.enter("r", 0)
        server = crowd.program.socketio.testing
        client = server.connect()
        for channel in ("a", "socket.io", "other"):
            with pytest.raises(ServerError, match=r"is for clients of Socket\.IO"):
                client.subscribe(channel)
        with pytest.raises(ServerError, match="needs a token"):
            client.subscribe(channel_of("/", "r"))
        crowd.program.socketio.push.on("subscribe")(lambda: True)
        crowd.program.socketio.emit("e", 1, namespace="/a")
        client.subscribe("a")
        assert client.events("e") == [1]

    def test_plain_http_needs_a_key(self, crowd: Crowd) -> None:
        server = Server(app=SocketIO(Flask("program"), namespaces=["/a"]).push)
        answer = server.get("/channels/a")
        assert answer.status == 403
        assert "the application decides" in answer.error[1]

    def test_broadcasts_are_publications_of_the_channel(self, crowd: Crowd) -> None:
        crowd.program.socketio.emit("e", {"n": 1}, namespace="/a")
        crowd.program.socketio.emit("e", 2)
        server = crowd.program.socketio.testing
        assert [row.data for row in server.history("a")] == [{"n": 1}]
        assert [row.data for row in server.history("socket.io")] == [2]
        crowd.program.socketio.emit("e", 3, skip_sid=crowd.sids[:2])
        assert [row.data for row in server.history("socket.io")] == [2, 3]
        for data in ((), (1, "b"), b"1", (b"1", 2)):
            crowd.program.socketio.emit("e", data)
        assert [row.data for row in server.history("socket.io")] == [2, 3, [], [1, "b"]]
        assert names(crowd.clients[2])[-4:] == [("e",), ("e", 1, "b"), ("e", b"1"), ("e", b"1", 2)]
        # What programs publish from outside arrives, too.
        server.publish("a", 3, "f")
        assert names(crowd.clients[0], "/a") == [("e", {"n": 1}), ("f", 3)]
        # Nothing reads the history of a room.
        crowd.enter("r", 0)
        crowd.program.socketio.emit("e", 1, to="r")
        assert server.history(channel_of("/", "r")) == []


def test_late_client_gets_the_last_broadcasts_if_the_program_says_so(
    make: Callable[..., Program],
) -> None:
    for initial in (0, 2):
        program = make(initial=initial)
        program.client()
        for number in range(3):
            program.socketio.emit("e", number)
        assert names(program.client()) == [("e", number) for number in range(3 - initial, 3)]


@pytest.mark.parametrize("initial", [0, 1, 2, 3, 9])
def test_client_that_connects_gets_each_broadcast_of_its_handler_once_and_in_order(
    make: Callable[..., Program], initial: int
) -> None:
    program = make(initial=initial)

    @program.socketio.on("connect")
    def connect() -> None:
        for number in range(3):
            emit("e", number, broadcast=True)

    expected = [("e", number) for number in range(3)]
    assert names(program.client()) == expected
    # The history begins with those of the first client.
    before = expected[3 - min(3, max(0, initial - 3)) :]
    assert names(program.client()) == before + expected


def test_room_sends_nothing_from_before_the_joining(program: Program) -> None:
    program.socketio.on("enter")(lambda: join_room("r"))
    push = program.socketio.push
    config = Config(sources={}, namespaces={"flask": {"history_size": 5}})
    with TestServer(push, push.adjust(config)) as server:
        program.socketio.testing = server
        first, second = program.client(), program.client()
        first.emit("enter")
        program.socketio.emit("e", 1, to="r")
        second.emit("enter")
        program.socketio.emit("e", 2, to="r")
        assert [row.data for row in server.history(channel_of("/", "r"))] == [1, 2]
        assert (names(first), names(second)) == ([("e", 1), ("e", 2)], [("e", 2)])


def test_client_that_returns_gets_the_broadcasts_that_it_missed(program: Program) -> None:
    program.socketio.on("x", namespace="/a")(lambda: None)
    config = Config(sources={}, socketio=Settings(recovery=True))
    push = program.socketio.push
    with TestServer(push, push.adjust(config)) as server:
        program.socketio.testing = server
        raw = program.raw(recovers=True)
        with server.reactor.lock:
            [answer] = raw.say("40/a,")
        pid = json.loads(answer.removeprefix("40/a,"))["pid"]
        program.socketio.emit("e", 1, namespace="/a")
        [line] = raw.take()
        _, _, offset = event(line, "/a")
        with server.reactor.lock:
            raw.leave()
        for data in (2, (), (3, "c")):
            program.socketio.emit("e", data, namespace="/a")
        again = program.raw(recovers=True)
        with server.reactor.lock:
            lines = again.say(f"40/a,{json.dumps({'pid': pid, 'offset': offset})}")
        assert json.loads(lines[0].removeprefix("40/a,"))["pid"] == pid
        assert [event(line, "/a")[1:-1] for line in lines[1:]] == [[2], [], [3, "c"]]


class TestCallbacks:
    """Acknowledgements of the page."""

    def test_callback_gets_the_values_in_the_context_of_the_client(self, program: Program) -> None:
        def acknowledged(*values: Any) -> None:
            program.note(values, request.sid)

        @program.socketio.on("e")
        def handler(data: Any) -> None:
            emit("question", data, callback=acknowledged)

        program.client()
        raw = program.raw("/")
        with program.socketio.testing.reactor.lock:
            [question] = raw.say('42["e","why"]')
            assert question == '420["question","why"]'
            raw.say('430["because",2]', '430["again"]', "439[]")
        [(values, sid)] = program.calls
        assert values == ("because", 2)
        assert program.socketio.members.find(sid, "/") is not None

    def test_callback_may_disconnect_the_client(self, program: Program) -> None:
        @program.socketio.on("go")
        def go() -> None:
            @flask.copy_current_request_context
            def gone() -> None:
                disconnect()

            emit("bye", callback=gone)

        program.client()
        raw = program.raw("/")
        with program.socketio.testing.reactor.lock:
            assert raw.say('42["go"]') == ['420["bye"]']
            assert raw.say("430[]") == ["41"]

    def test_callback_is_called_for_each_client_of_a_room(self, crowd: Crowd) -> None:
        raws = [crowd.program.raw("/") for _ in range(2)]
        for sid in crowd.sids[3:]:
            crowd.program.socketio.enter_room(sid, "r")
        crowd.program.socketio.emit(
            "question", b"1", to="r", callback=lambda *values: crowd.program.note(values)
        )
        for number, raw in enumerate(raws):
            [question, data] = raw.take()
            assert question == '451-0["question",{"_placeholder":true,"num":0}]'
            assert data == "binary 1"
            with crowd.program.socketio.testing.reactor.lock:
                raw.say(f"430[{number}]")
        assert crowd.program.calls == [(0,), (1,)]
        assert crowd.got == [[], [], []]

    def test_call_needs_a_client(self, crowd: Crowd, trouble: Trouble) -> None:
        with pytest.raises(ValueError, match="needs the sid"):
            crowd.program.socketio.call("e")
        with pytest.raises(ConnectionError, match="there is no client"):
            crowd.program.socketio.call("e", to="nobody")
        with pytest.raises(ValueError, match="timeout"):
            crowd.do(lambda: call("e", timeout=61))
        assert len(trouble.take()) == 1

    def test_call_returns_the_acknowledgement(self, program: Program) -> None:
        @program.socketio.on("e")
        def handler() -> None:
            program.note(call("question", timeout=30))

        program.client()
        raw = program.raw("/")
        lock = program.socketio.testing.reactor.lock

        def say(*packets: str) -> list[str]:
            with lock:
                return raw.say(*packets)

        thread = threading.Thread(target=say, args=('42["e"]',))
        thread.start()
        question: list[str] = []
        while not question:
            with lock:
                question = raw.take()
        assert question == ['420["question"]']
        say('430[{"n":1}]')
        thread.join()
        assert program.calls == [{"n": 1}]


class TestOutside:
    """Sending outside of handlers, and values that cannot be sent."""

    def test_any_thread_may_send(self, crowd: Crowd) -> None:
        thread = crowd.program.socketio.start_background_task(
            crowd.program.socketio.emit, "e", data=1
        )
        thread.join()
        crowd.program.socketio.sleep(0)
        assert crowd.got == [[("e", 1)]] * 3

    def test_messages_have_a_name(self, crowd: Crowd) -> None:
        crowd.do(lambda: send("text"))
        crowd.do(lambda: send([1], json=True))
        crowd.program.socketio.send("all")
        assert crowd.clients[0].get_received() == [
            {"name": "message", "args": "text", "namespace": "/"},
            {"name": "json", "args": [1], "namespace": "/"},
            {"name": "message", "args": "all", "namespace": "/"},
        ]

    def test_functions_need_a_handler(self, crowd: Crowd) -> None:
        with crowd.program.app.test_request_context("/"):
            for function in (lambda: emit("e"), rooms, disconnect, lambda: send("x")):
                with pytest.raises(RuntimeError, match=r"no handler of Socket\.IO"):
                    function()
        # A route sends with the method.
        with crowd.program.app.test_request_context("/"):
            crowd.program.socketio.emit("e", 1)
            emit("f", 2, broadcast=True, namespace="/")
        assert crowd.got == [[("e", 1), ("f", 2)]] * 3

    @pytest.mark.parametrize("data", [object(), {"a": object()}, (1, object()), float("nan")])
    def test_values_that_json_cannot_hold_are_type_errors(self, crowd: Crowd, data: Any) -> None:
        for options in ({}, {"to": crowd.sids[0]}, {"callback": print}):
            with pytest.raises(TypeError):
                crowd.program.socketio.emit("e", data, **options)
        assert crowd.got == [[], [], []]

    @pytest.mark.parametrize("event", ["connect", "disconnect", "", "a\nb", "x" * 129])
    def test_events_that_clients_refuse_are_not_sent(self, crowd: Crowd, event: str) -> None:
        for data in (1, (), b"1"):
            with pytest.raises(ValueError, match="event"):
                crowd.program.socketio.emit(event, data)

    def test_without_a_server_there_are_no_clients(self) -> None:
        socketio = SocketIO(Flask("program"))
        socketio.emit("e", 1)
        socketio.emit("e", b"1")
        socketio.emit("e", callback=print)
        socketio.close_room("r")
        assert socketio.rooms("nobody") == []
        socketio.server.emit("e", 1)
        assert socketio.server.get_environ("nobody") is None
        with pytest.raises(AttributeError, match="has no 'manager'"):
            _ = socketio.server.manager

    def test_stopping_server_drops_events_and_other_causes_are_raised(
        self, program: Program, monkeypatch: pytest.MonkeyPatch, trouble: Trouble
    ) -> None:
        program.client()
        node = program.socketio.testing.service.node

        for cause in ("stopping", "store"):

            async def publish(draft: object, cause: str = cause) -> None:
                raise Unavailable("no", cause)

            monkeypatch.setattr(node, "publish", publish)
            if cause == "stopping":
                program.socketio.emit("e", 1)
            else:
                with pytest.raises(Unavailable):
                    program.socketio.emit("e", 1)
            # In the reactor's thread nobody can wait for the failure.
            with program.socketio.testing.reactor.lock:
                program.socketio.emit("e", 1)
        assert [line.partition(":")[0] for line in trouble.take()] == ["an event was not sent"]


def test_replayed_publications_have_no_argument_more(program: Program) -> None:
    program.client()
    raw = program.raw("/")
    program.socketio.emit("e", "text")
    assert [json.loads(line[2:]) for line in raw.take()] == [["e", "text"]]


@pytest.mark.parametrize("name", ["chat", "chat/a", "/a/b", "/a b"])
@pytest.mark.parametrize("data", [1, b"bytes", ("several", 1)])
def test_broadcast_to_the_name_of_no_namespace_is_refused(
    program: Program, name: str, data: object
) -> None:
    with pytest.raises(ValueError, match=r"slash|invalid channel"):
        program.socketio.emit("e", data, namespace=name)


def test_broadcast_to_a_namespace_that_nobody_may_enter_reaches_nobody(program: Program) -> None:
    program.socketio.emit("e", 1, namespace="/unknown")
