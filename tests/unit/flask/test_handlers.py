"""The handlers of a Flask program: which is called, with which arguments, in which context."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator
from typing import Any

import flask
import pytest
from flask import current_app, g, session

from pushserver.errors import Refused
from pushserver.flask import ConnectionRefusedError, Namespace, emit, send
from pushserver.flask.handlers import Reason
from pushserver.sessions.visit import Visit
from tests.unit.fakes.flask_program import Program
from tests.unit.fakes.web import Trouble

# With the attributes of a handler.
request: Any = flask.request


class TestEvents:
    """Arguments, acknowledgements, and the choice of the handler."""

    @pytest.mark.parametrize("arguments", [(), (None,), (1,), ([1, 2],), ("a", {"b": b"c"}, 3)])
    def test_handler_gets_the_arguments_as_the_page_gave_them(
        self, program: Program, arguments: tuple[Any, ...]
    ) -> None:
        program.socketio.on("e")(lambda *args: program.note(args))
        program.client().emit("e", *arguments)
        assert program.calls == [arguments]

    @pytest.mark.parametrize(
        ("result", "acknowledged"),
        [(None, []), (1, 1), ([1, 2], [1, 2]), ((1, b"two"), [1, b"two"]), ((), []), ("", "")],
    )
    def test_result_is_the_acknowledgement(
        self, program: Program, result: Any, acknowledged: Any
    ) -> None:
        program.socketio.on("e")(lambda: result)
        assert program.client().emit("e", callback=True) == acknowledged

    def test_event_without_a_handler_is_not_acknowledged(self, program: Program) -> None:
        program.socketio.on("e", namespace="/a")(lambda: 1)
        client = program.client()
        assert client.emit("e", callback=True) is None
        assert client.emit("other", callback=True) is None

    def test_namespaces_are_exact(self, program: Program) -> None:
        for namespace in ("/", "/a", "/a:b"):
            program.socketio.on("e", namespace=namespace)(lambda name=namespace: name)
        program.socketio.on("f")(lambda: "main")
        client = program.client()
        for namespace in ("/a", "/a:b"):
            client.connect(namespace)
            assert client.emit("e", callback=True, namespace=namespace) == namespace
            assert client.emit("f", callback=True, namespace=namespace) is None
        assert client.emit("e", callback=True) == "/"

    def test_specific_handler_goes_before_those_for_all_events(self, program: Program) -> None:
        program.socketio.on("e", namespace="/a")(lambda: "own")
        program.socketio.on("*", namespace="/a")(lambda event, *args: [event, *args])
        program.socketio.on("f", namespace="*")(lambda *args: ["any", *args])
        client = program.client("/a")

        def ask(*event: Any) -> Any:
            return client.emit(*event, callback=True, namespace="/a")

        assert ask("e") == "own"
        assert ask("other", 1, 2) == ["other", 1, 2]
        assert ask("f") == ["f"]
        client.connect("/")
        assert client.emit("f", 1, callback=True) == ["any", 1]

    def test_second_handler_of_an_event_takes_the_place_of_the_first(
        self, program: Program
    ) -> None:
        program.socketio.on("e")(lambda: 1)
        program.socketio.on_event("e", lambda: 2)
        assert program.client().emit("e", callback=True) == 2

    def test_event_has_the_name_of_the_function(self, program: Program) -> None:
        @program.socketio.event
        def vote(drink: str) -> str:
            return drink

        @program.socketio.event(namespace="/a")  # type: ignore[untyped-decorator]
        def clap() -> str:
            return "clapped"

        client = program.client()
        client.connect("/a")
        assert client.emit("vote", "tea", callback=True) == "tea"
        assert client.emit("clap", callback=True, namespace="/a") == "clapped"

    def test_handlers_may_be_registered_while_the_server_runs(self, program: Program) -> None:
        client = program.client()
        program.socketio.on("late")(lambda: "here")
        assert client.emit("late", callback=True) == "here"

    @pytest.mark.parametrize("namespace", ["a", "/a/b", "/a b", "/" + "a" * 129])
    def test_namespace_that_is_no_channel_is_refused(
        self, program: Program, namespace: str
    ) -> None:
        with pytest.raises(ValueError, match=r"invalid channel name|begin with a slash"):
            program.socketio.on("e", namespace=namespace)(lambda: None)
        with pytest.raises(ValueError, match=r"invalid channel name|begin with a slash"):
            program.socketio.on_namespace(Namespace(namespace))

    def test_async_functions_and_other_values_are_no_handlers(self, program: Program) -> None:
        async def handler() -> None: ...

        def yielding() -> Iterator[bool]:
            yield False

        with pytest.raises(ValueError, match="handler is async"):
            program.socketio.on("e")(handler)
        with pytest.raises(ValueError, match="yielding contains yield"):
            program.socketio.on("connect")(yielding)
        with pytest.raises(ValueError, match="expected a function"):
            program.socketio.on_event("e", 3)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="expected a function"):
            program.socketio.on_error()(3)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="no instance of Namespace"):
            program.socketio.on_namespace(Namespace)  # type: ignore[arg-type]

    def test_own_handlers_of_pushserver_go_first(self, program: Program) -> None:
        program.socketio.on("e")(lambda: "flask")
        program.socketio.push.on("e")(lambda client: "own")
        assert program.client().emit("e", callback=True) == "own"


class TestConnections:
    """`connect` and `disconnect`."""

    def test_connect_gets_auth_if_it_takes_it(self, program: Program) -> None:
        program.socketio.on("connect")(lambda auth: program.note("a", auth))
        program.socketio.on("connect", namespace="/b")(lambda: program.note("b"))
        program.client(auth={"token": 1})
        program.client()
        program.client("/b", auth={"token": 1})
        assert program.calls == [("a", {"token": 1}), ("a", None), "b"]

    @pytest.mark.parametrize(
        ("error", "answer"),
        [
            (None, '44{"message":"Connection rejected by server"}'),
            (ConnectionRefusedError(), '44{"message":"Connection rejected by server"}'),
            (ConnectionRefusedError("no"), '44{"message":"no"}'),
            (ConnectionRefusedError("no", {"a": 1}), '44{"message":"no","data":{"a":1}}'),
            (ConnectionRefusedError("no", 1, "b"), '44{"message":"no","data":[1,"b"]}'),
            (builtins.ConnectionRefusedError("no"), '44{"message":"no"}'),
            (Refused("no"), '44{"message":"no"}'),
            (Refused("no", data={"a": 1}), '44{"message":"no","data":{"a":1}}'),
        ],
    )
    def test_connect_refuses_a_client(
        self, program: Program, error: Exception | None, answer: str
    ) -> None:
        @program.socketio.on("connect")
        def connect() -> bool:
            if error is not None:
                raise error
            return False

        program.socketio.on("disconnect")(lambda: program.note("disconnected"))
        client = program.client()
        assert not client.is_connected()
        with pytest.raises(RuntimeError, match="not connected"):
            client.get_received()
        assert program.raw().say("40") == [answer]
        program.socketio.emit("e", 1)
        assert program.calls == []
        assert program.socketio.members.chosen("/", None) == []

    def test_namespace_without_a_handler_is_refused(self, make: Callable[..., Program]) -> None:
        program = make()
        program.socketio.on("e", namespace="/a")(lambda: None)
        assert program.client("/a").is_connected("/a")
        assert not program.client("/b").is_connected("/b")
        # A room is a channel: nobody reads it as a namespace.
        assert not program.client("/$flask::room").is_connected("/$flask::room")
        assert program.raw().say("40/b,") == ['44/b,{"message":"Invalid namespace"}']
        assert make(namespaces=["/b"]).client("/b").is_connected("/b")
        assert make(namespaces="*").client("/c").is_connected("/c")

    def test_disconnect_gets_the_reason_if_it_takes_it(self, program: Program) -> None:
        program.socketio.on("disconnect")(lambda reason: program.note(reason))
        program.socketio.on("disconnect", namespace="/a")(lambda: program.note("a"))
        program.socketio.on("leave")(lambda: program.socketio.disconnect(request.sid))
        client = program.client()
        client.connect("/a")
        client.disconnect()
        client.disconnect("/a")
        other = program.client()
        other.emit("leave")
        assert not other.is_connected()
        raw = program.raw("/")
        with program.socketio.testing.reactor.lock:
            raw.leave()
        assert program.calls == [
            Reason.CLIENT_DISCONNECT,
            "a",
            Reason.SERVER_DISCONNECT,
            Reason.TRANSPORT_CLOSE,
        ]
        assert program.socketio.reason is Reason

    def test_disconnect_still_has_the_request_and_the_session(self, program: Program) -> None:
        @program.socketio.on("connect")
        def connect() -> None:
            session["user"] = "ada"

        @program.socketio.on("disconnect")
        def disconnect() -> None:
            program.note(session["user"], request.args["a"], program.socketio.rooms(request.sid))

        client = program.client(query_string="a=1")
        sid = program.socketio.members.chosen("/", None)[0].sid
        client.disconnect()
        assert program.calls == [("ada", "1", [sid])]
        assert program.socketio.members.chosen("/", None) == []

    def test_client_whose_handler_is_late_is_forgotten(self, program: Program) -> None:
        @program.socketio.on("connect", namespace="/a")
        def connect() -> None:
            program.socketio.enter_room(request.sid, "r", "/a")
            member = program.socketio.members.find(request.sid, "/a")
            assert member is not None
            # As after `handler_seconds`: nobody waits for the answer.
            dispatcher = program.socketio.push._dispatcher
            assert dispatcher is not None
            del dispatcher.clients[member.client._session]

        assert not program.client("/a").is_connected("/a")
        assert program.socketio.members.chosen("/a", None) == []
        assert program.socketio.members.chosen("/a", ["r"]) == []


class TestContext:
    """`request`, `session`, `current_app`, `g`."""

    def test_request_is_that_of_the_connection(self, program: Program) -> None:
        @program.socketio.on("e", namespace="/a")
        def handler(*args: Any) -> None:
            program.note(request.url, request.remote_addr, request.cookies["c"], request.is_secure)
            program.note(request.namespace, request.event, dict(request.headers))
            program.note(current_app.name, "x" in g, request.sid)
            g.x = 1

        program.client("/a")
        visit = Visit(
            "192.0.2.7",
            "socketio",
            {
                "cookie": "c=1; d=2",
                "x-name": "J\u00f6rg",
                "host": "inner",
                "x_name": "no",
                "proxy": "no",
            },
            "https://chat.example:8443/socket.io/?EIO=4&a=%C3%A4&b=1",
        )
        raw = program.raw("/a", visit=visit)
        with program.socketio.testing.reactor.lock:
            raw.say('42/a,["e",1]', '42/a,["e"]')
        assert program.calls[0] == (
            "https://chat.example:8443/socket.io/?EIO=4&a=ä&b=1",
            "192.0.2.7",
            "1",
            True,
        )
        namespace, event, headers = program.calls[1]
        assert (namespace, event) == ("/a", {"message": "e", "args": (1,)})
        assert headers["Host"] == "chat.example:8443"
        assert headers["Cookie"] == "c=1; d=2"
        assert headers["X-Name"] == "J\u00c3\u00b6rg"
        assert "Proxy" not in headers
        name, had_x, sid = program.calls[2]
        assert (name, had_x) == ("program", False)
        assert program.calls[5] == ("program", False, sid)
        assert program.calls[4][1] == {"message": "e", "args": ()}

    def test_client_is_that_of_pushserver(self, program: Program) -> None:
        @program.socketio.on("connect")
        def connect() -> None:
            request.client.user = "ada"

        client = program.client()
        assert [one.user for one in program.socketio.push.clients] == ["ada"]
        program.socketio.push.disconnect("ada")
        assert not client.is_connected()

    def test_session_is_a_copy_for_each_namespace_of_each_client(self, program: Program) -> None:
        @program.app.route("/login")
        def login() -> str:
            session["user"] = "ada"
            return ""

        @program.app.route("/who")
        def who() -> dict[str, Any]:
            return dict(session)

        @program.socketio.on("count")
        @program.socketio.on("count", namespace="/a")
        def count() -> dict[str, Any]:
            session["n"] = session.get("n", 0) + 1
            return dict(session)

        web = program.app.test_client()
        web.get("/login")
        client = program.client(flask_test_client=web)
        client.connect("/a")
        other = program.client(flask_test_client=web)
        assert client.emit("count", callback=True) == {"user": "ada", "n": 1}
        assert client.emit("count", callback=True) == {"user": "ada", "n": 2}
        assert client.emit("count", callback=True, namespace="/a") == {"user": "ada", "n": 1}
        assert other.emit("count", callback=True) == {"user": "ada", "n": 1}
        assert program.client().emit("count", callback=True) == {"n": 1}
        assert web.get("/who").json == {"user": "ada"}

    def test_unmanaged_session_is_that_of_flask(self, make: Callable[..., Program]) -> None:
        program = make(manage_session=False)
        saved: list[Any] = []

        class Interface(type(program.app.session_interface)):  # type: ignore[misc]
            def save_session(self, app: Any, session: Any, response: Any) -> None:
                saved.append(dict(session))

        program.app.session_interface = Interface()

        @program.socketio.on("count")
        def count(change: bool) -> int:
            if change:
                session["n"] = session.get("n", 0) + 1
            number: int = session.get("n", 0)
            return number

        client = program.client()
        assert [client.emit("count", change, callback=True) for change in (True, False)] == [1, 0]
        assert saved == [{"n": 1}]


class TestErrors:
    """Exceptions of handlers."""

    def test_error_handler_of_the_namespace_answers(self, program: Program) -> None:
        @program.socketio.on("e")
        @program.socketio.on("e", namespace="/a")
        @program.socketio.on("connect", namespace="/c")
        def fail(*args: Any) -> None:
            raise LookupError("x")

        @program.socketio.on_error()
        def main(error: BaseException) -> str:
            return f"main {error} {request.event['message']}"

        @program.socketio.on_error_default
        def default(error: BaseException) -> Any:
            return False if request.event["message"] == "connect" else f"default {error}"

        client = program.client()
        client.connect("/a")
        client.connect("/c")
        assert client.emit("e", callback=True) == "main x e"
        assert client.emit("e", callback=True, namespace="/a") == "default x"
        assert not client.is_connected("/c")

    def test_test_client_raises_the_exception_of_a_handler(
        self, program: Program, trouble: Trouble
    ) -> None:
        @program.socketio.on("e")
        def fail() -> None:
            raise LookupError("x")

        @program.socketio.on("f")
        def answer() -> object:
            return {"a": program}

        client = program.client()
        with pytest.raises(LookupError, match="x"):
            client.emit("e")
        with pytest.raises(TypeError):
            client.emit("f", callback=True)
        with pytest.raises(TypeError):
            client.emit("f", program)
        assert client.is_connected()
        assert ["'e' of Flask failed" in line for line in trouble.take()] == [True, False]


class Room(Namespace):
    """Handlers as methods."""

    def __init__(self, namespace: str, program: Program):
        super().__init__(namespace)
        self.program = program

    def on_connect(self) -> None:
        send("welcome")

    def on_disconnect(self, reason: str) -> None:
        self.program.note(reason)

    def on_say(self, text: str) -> str:
        self.emit("said", text)
        self.send(text, room=request.sid)
        return text.upper()

    def on_enter(self, room: str) -> list[str]:
        self.enter_room(request.sid, room)
        self.emit("entered", 1, to=room)
        entered = self.rooms(request.sid)[1:]
        self.leave_room(request.sid, room)
        self.emit("entered", 2, to=room)
        return [str(room) for room in entered]

    def on_fail(self) -> None:
        raise LookupError(request.event["message"])

    def error(self, error: Exception) -> str:
        return f"failed: {error}"


class TestClasses:
    """Class-based namespaces."""

    def test_methods_are_handlers(self, program: Program) -> None:
        program.socketio.on_namespace(Room("/room", program))
        program.socketio.on("function", namespace="/room")(lambda: emit("f"))
        client, other = program.client("/room"), program.client("/room")

        def ask(*event: Any) -> Any:
            return client.emit(*event, callback=True, namespace="/room")

        assert ask("say", "hello") == "HELLO"
        assert ask("enter", "r") == ["r"]
        assert ask("fail") == "failed: fail"
        assert ask("unknown") is None
        assert ask("function") == []
        names = [(event["name"], event["args"]) for event in client.get_received("/room")]
        assert names == [
            ("message", "welcome"),
            ("said", ["hello"]),
            ("message", "hello"),
            ("entered", [1]),
            ("f", []),
        ]
        assert [event["name"] for event in other.get_received("/room")] == ["message", "said"]
        client.disconnect("/room")
        assert program.calls == [Reason.CLIENT_DISCONNECT]

    def test_subclass_may_choose_the_method_itself(self, program: Program) -> None:
        class All(Namespace):
            def trigger_event(self, event: str, *args: Any) -> Any:
                return [event, *args[1:]] if event != "connect" else None

        program.socketio.on_namespace(All("/all"))
        assert program.client("/all").emit("x", 1, callback=True, namespace="/all") == ["x", 1]

    @pytest.mark.parametrize("refusal", [ConnectionRefusedError("no"), Refused("no")])
    def test_method_refuses_a_client(self, program: Program, refusal: Exception) -> None:
        class Closed(Namespace):
            def on_connect(self) -> None:
                raise refusal

            def error(self, error: Exception) -> None:
                program.note(error)

        class Open(Namespace):
            def on_connection(self) -> None: ...

        program.socketio.on_namespace(Closed("/closed"))
        program.socketio.on_namespace(Open("/open"))
        assert not program.client("/closed").is_connected("/closed")
        assert program.client("/open").is_connected("/open")
        assert program.raw().say("40/closed,") == ['44/closed,{"message":"no"}']
        assert program.calls == []

    def test_namespace_has_to_be_registered(self) -> None:
        with pytest.raises(RuntimeError, match="on_namespace"):
            Namespace("/a").emit("e")
