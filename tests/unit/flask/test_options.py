"""The options of `SocketIO` and of `run`: those that hold, are ignored, or are refused."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from typing import Any

import flask
import pytest
from flask import Flask

from pushserver.config.limits import Limits
from pushserver.config.settings import Config, Server
from pushserver.config.settings import SocketIO as Settings
from pushserver.flask import SocketIO


def adjusted(config: Config | None = None, **options: Any) -> Config:
    return SocketIO(**options).push.adjust(config or Config(sources={}))


def test_options_of_the_protocol_hold() -> None:
    config = adjusted(
        ping_interval=7,
        ping_timeout=3.5,
        max_http_buffer_size=5_000,
        path="/live/",
        cors_allowed_origins=["https://a.example", "http://b.example:81"],
    )
    assert config.limits.ping_seconds == 7
    assert config.limits.dead_seconds == 3.5
    assert config.limits.frame_bytes == 5_000
    assert config.socketio.path == "live"
    assert config.server.allowed_origins == ["https://a.example", "http://b.example:81"]
    assert adjusted(resource="live").socketio.path == "live"
    assert adjusted(cors_allowed_origins="https://a.example").server.allowed_origins


def test_defaults_are_those_of_flask_socketio() -> None:
    config = adjusted()
    assert config.limits.frame_bytes == 1_000_000
    assert config.socketio == Settings("socket.io", "socket.io")
    assert config.channel_options()("$flask::r").history_size == 0


@pytest.mark.parametrize("size", [1_048_577, 5_000_000, 1e8])
def test_large_events_fit_into_requests_of_clients_that_poll(size: float) -> None:
    limits = adjusted(max_http_buffer_size=size).limits
    assert limits.frame_bytes == size
    assert limits.body_bytes >= limits.frame_bytes + limits.frame_bytes // 256


def test_limit_of_bodies_is_kept_for_smaller_events_and_if_it_is_set() -> None:
    assert adjusted(max_http_buffer_size=5_000).limits.body_bytes == Limits().body_bytes
    given = Config(sources={}, limits=Limits(body_bytes=2_000_000))
    assert adjusted(given, max_http_buffer_size=5_000_000).limits.body_bytes == 2_000_000


def test_configuration_goes_before_options() -> None:
    given = Config(
        sources={},
        limits=Limits(ping_seconds=9, dead_seconds=8, frame_bytes=7_000),
        server=Server(allowed_origins=["https://c.example"]),
        socketio=Settings("own", "numbers"),
        namespaces={"flask": {"history_size": 5}},
    )
    config = adjusted(
        given,
        ping_interval=7,
        ping_timeout=6,
        max_http_buffer_size=5_000,
        path="live",
        cors_allowed_origins=["https://a.example"],
    )
    assert config == given


def test_grace_period_of_the_ping_has_no_effect() -> None:
    with pytest.warns(UserWarning, match="grace period"):
        assert adjusted(ping_interval=(7, 3)).limits.ping_seconds == 7


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"async_mode": "eventlet"}, "async_mode='eventlet' is not possible here: handlers run in"),
        ({"async_mode": "gevent"}, "no monkey patching"),
        ({"message_queue": "redis://"}, "pushserver.publish"),
        ({"client_manager": object()}, "no client manager"),
        ({"serializer": "msgpack"}, "packets are JSON"),
        ({"ping_interval": 0}, "a number above 0"),
        ({"ping_timeout": "3"}, "a number above 0"),
        ({"max_http_buffer_size": True}, "a number above 0"),
        ({"cors_allowed_origins": lambda origin: True}, "expected the origins themselves"),
        ({"cors_allowed_origins": "a.example"}, "is no origin"),
        ({"initial": -1}, "expected a number of publications"),
        ({"initial": True}, "expected a number of publications"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        SocketIO(Flask("program"), **options)
    # An auxiliary process of Flask-SocketIO has no application.
    with pytest.raises(ValueError, match=problem):
        SocketIO().init_app(None, **options)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(TypeError, match="'ping_intervall'; did you mean ping_interval"):
        SocketIO(ping_intervall=3)


@pytest.mark.parametrize(
    ("name", "value", "quiet"),
    [
        ("async_handlers", True, False),
        ("always_connect", True, False),
        ("channel", "queue", None),
        ("json", object(), json),
        ("json", object(), flask.json),
        ("logger", True, False),
        ("engineio_logger", True, False),
        ("allow_upgrades", False, True),
        ("http_compression", True, False),
        ("compression_threshold", 10, None),
        ("cookie", "io", None),
        ("cors_credentials", False, True),
        ("monitor_clients", False, True),
        ("transports", ["websocket"], None),
        ("cors_allowed_origins", "*", None),
        ("cors_allowed_origins", [], None),
    ],
)
def test_options_without_effect_warn(name: str, value: Any, quiet: Any) -> None:
    with pytest.warns(UserWarning, match=name) as records:
        SocketIO(Flask("program"), **{name: value})
    assert records[0].filename == __file__
    if name != "compression_threshold":
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            SocketIO(Flask("program"), **{name: quiet})


class Runs:
    """`PushServer.run`, which notes its arguments."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **config: Any):
        self.app = Flask("program")
        self.app.config.update(config)
        self.socketio = SocketIO(self.app)
        self.given: dict[str, Any] = {}
        monkeypatch.setattr(self.socketio.push, "run", lambda **given: self.given.update(given))

    def run(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        self.given.clear()
        self.socketio.run(self.app, *arguments, **options)
        return dict(self.given)


class TestRun:
    """`SocketIO.run`."""

    def test_port_is_that_of_flask(self, monkeypatch: pytest.MonkeyPatch) -> None:
        runs = Runs(monkeypatch)
        assert runs.run() == {"host": "127.0.0.1", "port": 5000, "reload": False}
        assert runs.run("0.0.0.0", 81) == {"host": "0.0.0.0", "port": 81, "reload": False}
        runs = Runs(monkeypatch, SERVER_NAME="chat.example:8000")
        assert runs.run()["port"] == 8000

    def test_debug_reloads_unless_it_is_told_not_to(self, monkeypatch: pytest.MonkeyPatch) -> None:
        runs = Runs(monkeypatch)
        assert runs.run(debug=True)["reload"]
        assert runs.app.debug
        assert not runs.run(debug=True, use_reloader=False)["reload"]
        assert not runs.run(debug=False)["reload"]
        assert runs.run(use_reloader=True)["reload"]

    def test_options_of_other_servers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        runs = Runs(monkeypatch)
        runs.run(allow_unsafe_werkzeug=True, log_output=True, keyfile=None)
        with pytest.warns(UserWarning, match="Python files below"):
            runs.run(extra_files=["a"])
        with pytest.raises(ValueError, match="a part of an endpoint"):
            runs.run(certfile="a")
        with pytest.raises(TypeError, match="no option 'worker'; did you mean workers"):
            runs.run(worker=3)
        listen = ["ssl:443:privateKey=k:certKey=c"]
        assert runs.run(listen=listen) == {"listen": listen, "reload": False}
        assert runs.run(workers="auto")["workers"] == "auto"

    def test_application_may_come_with_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        socketio = SocketIO()
        monkeypatch.setattr(socketio.push, "run", lambda **given: None)
        with pytest.raises(RuntimeError, match="no Flask application"):
            socketio.run()
        app = Flask("program")
        socketio.run(app)
        assert app.extensions["socketio"] is socketio


def test_other_server_says_that_it_has_no_socketio(caplog: pytest.LogCaptureFixture) -> None:
    app = Flask("program")
    app.add_url_rule("/", view_func=lambda: "page", endpoint="index")
    for _ in range(2):
        SocketIO(app)
    client = app.test_client()
    assert client.get("/").text == "page"
    for path in ("/other/socket.io/", "/socket.io-docs", "/socket.iox/"):
        assert client.get(path).status_code == 404
    answer = client.get("/socket.io/?EIO=4&transport=polling")
    assert answer.status_code == 501
    assert "Run the program itself" in answer.text
    assert client.get("/socket.io").status_code == 501
    assert len(caplog.records) == 2


def test_package_needs_no_flask_and_its_flask_says_so() -> None:
    code = (
        "import sys; sys.modules['flask'] = None; import pushserver; pushserver.PushServer;\n"
        "try: import pushserver.flask\n"
        "except ImportError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == (
        "pushserver.flask needs Flask, which is not installed: pip install 'pushserver[flask]'\n"
    )
