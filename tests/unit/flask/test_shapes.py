"""Programs in the shapes of Flask-SocketIO's documentation, with the one changed import."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.unit.fakes.web import Trouble

FACTORY = """
from flask import Flask
from flask_socketio import SocketIO

socketio = SocketIO()


def create_app():
    app = Flask(__name__)
    app.config["SECRET_KEY"] = "secret"
    socketio.init_app(app)
    return app


@socketio.on("message")
def on_message(text):
    return "got " + text


app = create_app()
"""

MESSAGES = """
from flask import Flask
from flask_socketio import SocketIO, emit, send

app = Flask(__name__)
socketio = SocketIO(app)


@socketio.on("message")
def on_message(text):
    send(text)


@socketio.on("json")
def on_json(value):
    send(value, json=True)


@socketio.on("my event")
def on_my_event(value):
    emit("my response", value)
    return "one", 2


@socketio.event
def my_custom_event(first, second, third):
    emit("my response", (first, second, third), namespace="/chat", broadcast=True)


@socketio.on("my event", namespace="/chat")
def on_my_chat_event(value):
    send("for all", namespace="/", broadcast=True)


def on_plain_event(value):
    send(value, broadcast=True)


socketio.on_event("plain", on_plain_event, namespace="/chat")
"""

ROOMS = """
from flask import Flask, request, session
from flask_socketio import SocketIO, join_room, leave_room, rooms, send

app = Flask(__name__)
app.secret_key = "secret"
socketio = SocketIO(app)


@socketio.on("join")
def on_join(data):
    session["name"] = data["username"]
    join_room(data["room"])
    send(session["name"] + " has entered the room.", to=data["room"])
    return sorted(rooms())[-1] in (data["room"], request.sid)


@socketio.on("leave")
def on_leave(data):
    leave_room(data["room"])
    send(session["name"] + " has left the room.", to=data["room"])


@socketio.on("say")
def on_say(data):
    send(data["text"], to=data["room"], include_self=False)


@app.route("/announce")
def announce():
    socketio.send("soon", to="a room")
    return ""
"""

CONNECTIONS = """
from flask import Flask, request
from flask_socketio import ConnectionRefusedError, SocketIO, disconnect, emit

app = Flask(__name__)
socketio = SocketIO(app)
gone = []


@socketio.on("connect")
def on_connect(auth):
    if auth is None:
        return False
    if request.args.get("token") != "good":
        raise ConnectionRefusedError("unauthorized!")
    emit("my response", {"data": "Connected"})


@socketio.on("disconnect")
def on_disconnect(reason):
    gone.append(reason)


@socketio.on("go")
def on_go():
    disconnect()
"""

CLASSES = """
from flask import Flask
from flask_socketio import Namespace, SocketIO, emit

app = Flask(__name__)
socketio = SocketIO(app)


class MyNamespace(Namespace):
    def on_connect(self):
        emit("connected")

    def on_disconnect(self, reason):
        pass

    def on_my_event(self, data):
        emit("my_response", data)


socketio.on_namespace(MyNamespace("/test"))
"""

ERRORS = """
from flask import Flask, request
from flask_socketio import SocketIO

app = Flask(__name__)
socketio = SocketIO(app)
seen = []


@socketio.on("fails")
def on_fails(data):
    raise RuntimeError()


@socketio.on("fails", namespace="/chat")
def on_chat_fails(data):
    raise RuntimeError()


@socketio.on_error("/chat")
def chat_error(error):
    return "chat"


@socketio.on_error_default
def default_error(error):
    seen.append((request.event["message"], request.event["args"]))
"""

BACKGROUND = """
from threading import Lock

from flask import Flask
from flask_socketio import SocketIO, emit

app = Flask(__name__)
socketio = SocketIO(app, async_mode=None)
thread = None
thread_lock = Lock()


def background_thread():
    count = 0
    while count < 3:
        socketio.sleep(0)
        count += 1
        socketio.emit("my_response", {"data": "Server generated event", "count": count})


@socketio.event
def connect():
    global thread
    with thread_lock:
        if thread is None:
            thread = socketio.start_background_task(background_thread)
    emit("my_response", {"data": "Connected", "count": 0})


@socketio.event
def my_ping():
    emit("my_pong")
"""

Run = Callable[[str], dict[str, Any]]


@pytest.fixture
def run() -> Iterator[Run]:
    """Runs a program with the changed import; its test server ends with the test."""
    modules: list[dict[str, Any]] = []

    def run_program(text: str) -> dict[str, Any]:
        assert text.count("flask_socketio") == 1
        module: dict[str, Any] = {"__name__": "program"}
        exec(text.replace("from flask_socketio import", "from pushserver.flask import"), module)
        modules.append(module)
        return module

    yield run_program
    for module in modules:
        if module["socketio"].testing is not None:
            module["socketio"].testing.close()


def client_of(module: dict[str, Any], *arguments: Any, **options: Any) -> Any:
    return module["socketio"].test_client(module["app"], *arguments, **options)


def args(client: Any, namespace: str | None = None) -> list[Any]:
    return [event["args"] for event in client.get_received(namespace)]


def test_application_of_a_factory(run: Run) -> None:
    assert client_of(run(FACTORY)).send("x", callback=True) == "got x"


def test_messages(run: Run) -> None:
    client = client_of(run(MESSAGES))
    client.connect("/chat")
    client.send("text")
    client.send([1], json=True)
    assert client.emit("my event", {"a": 1}, callback=True) == ["one", 2]
    assert args(client) == ["text", [1], [{"a": 1}]]
    client.emit("my_custom_event", 1, 2, 3)
    client.emit("plain", "x", namespace="/chat")
    assert args(client, "/chat") == [[1, 2, 3], "x"]
    client.emit("my event", 1, namespace="/chat")
    assert args(client) == ["for all"]


def test_rooms(run: Run) -> None:
    module = run(ROOMS)
    ann, bob = client_of(module), client_of(module)
    for client, name in ((ann, "ann"), (bob, "bob")):
        assert client.emit("join", {"username": name, "room": "a room"}, callback=True)
    ann.emit("say", {"text": "hello", "room": "a room"})
    bob.emit("leave", {"room": "a room"})
    module["app"].test_client().get("/announce")
    entered = ["ann has entered the room.", "bob has entered the room."]
    assert args(ann) == [*entered, "bob has left the room.", "soon"]
    assert args(bob) == [entered[1], "hello"]


def test_connections(run: Run) -> None:
    module = run(CONNECTIONS)
    assert not client_of(module).is_connected()
    assert not client_of(module, auth={"a": 1}, query_string="token=bad").is_connected()
    client = client_of(module, auth={"a": 1}, query_string="token=good")
    assert args(client) == [[{"data": "Connected"}]]
    client.emit("go")
    assert not client.is_connected()
    assert module["gone"] == [module["socketio"].reason.SERVER_DISCONNECT]


def test_classes(run: Run) -> None:
    client = client_of(run(CLASSES), "/test")
    client.emit("my_event", 1, namespace="/test")
    client.emit("unknown", 1, namespace="/test")
    assert args(client, "/test") == [[], [1]]


def test_errors(run: Run, trouble: Trouble) -> None:
    module = run(ERRORS)
    client = client_of(module)
    client.connect("/chat")
    assert client.emit("fails", 1, callback=True) == []
    assert module["seen"] == [("fails", (1,))]
    assert client.emit("fails", 1, callback=True, namespace="/chat") == "chat"
    assert trouble.take() == []


def test_background_thread(run: Run) -> None:
    module = run(BACKGROUND)
    client = client_of(module)
    module["thread"].join()
    client.emit("my_ping")
    counts = [event[0]["count"] if event else "pong" for event in args(client)]
    assert counts[-1] == "pong"
    # The thread may be faster than the answer to the first connect.
    assert sorted(counts[:-1]) == [0, 1, 2, 3]
