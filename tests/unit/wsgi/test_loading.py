"""A WSGI application is named by its module, or by the file in which it is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from pushserver import PushServer
from pushserver.config.settings import Config
from pushserver.errors import StartFailed
from pushserver.server.loading import load, load_wsgi
from pushserver.server.options import Options, complete, make, watch
from pushserver.sources.registry import SourceTypes
from tests.unit.fakes.wsgi import ThreadReactor

WEB = """
from pushserver import PushServer
from pushserver.flask import SocketIO

def application(environ, start_response):
    start_response("200 OK", [])
    return [b"application"]

def web(environ, start_response):
    start_response("200 OK", [])
    return [b"web"]

def make_web():
    return web

def fail():
    raise ValueError("no database")

push = PushServer(wsgi=web)
socketio = SocketIO()
number = 7
"""

FLASK = """
import pushserver.flask
from flask import Flask
from pushserver import PushServer

socketio = pushserver.flask.SocketIO()

def create_app():
    app = Flask(__name__)
    socketio.init_app(app)
    return app
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with the module `pushtest_web`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "pushtest_web.py").write_text(WEB)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def body(application: Any) -> bytes:
    return b"".join(application({}, lambda *_: None))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pushtest_web:web", b"web"),
        ("pushtest_web.py:web", b"web"),
        ("pushtest_web", b"application"),
        ("pushtest_web.py", b"application"),
        ("pushtest_web:make_web()", b"web"),
        ("pushtest_web.py:make_web()", b"web"),
    ],
)
def test_application_is_loaded(here: Path, text: str, expected: bytes) -> None:
    assert body(load_wsgi(text)) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("pushtest_web:no", "pushtest_web has no no, expected a WSGI application"),
        ("pushtest_web:number", "pushtest_web:number is 7, expected a WSGI application"),
        ("pushtest_web:push", "pushserver serve pushtest_web:push without --wsgi, expected a WSGI"),
        ("pushtest_web:socketio", "serve pushtest_web:socketio without --wsgi, expected a WSGI"),
        ("pushtest_web:fail()", "fails:\n(?s:.*)ValueError: no database"),
        ("pushtest_no:web", "there is no module pushtest_no"),
        (":web", "names no application"),
    ],
)
def test_message_of_another_text_names_the_problem(here: Path, text: str, problem: str) -> None:
    with pytest.raises(StartFailed, match=problem):
        load_wsgi(text)


def test_module_without_an_application_is_refused(here: Path) -> None:
    (here / "pushtest_empty.py").write_text("")
    with pytest.raises(StartFailed, match="pushtest_empty has neither application nor app"):
        load_wsgi("pushtest_empty")


def options(**given: Any) -> Options:
    made = Options()
    made.update(given)
    return made


def served(app: Any = None, environment: Any = None, **given: Any) -> Any:
    """The application that a server with these options serves."""
    service = make(options(**given), environment or {}, cast(Any, ThreadReactor()), app)
    return None if service.gateway is None else body(service.gateway.application)


class TestWhichApplicationIsServed:
    def test_option_then_variable_then_that_of_the_application(self, here: Path) -> None:
        def own(environ: Any, start_response: Any) -> list[bytes]:
            return [b"own"]

        variable = {"PUSHSERVER_SERVER_WSGI": "pushtest_web:application"}
        assert served() is None
        assert served(PushServer(wsgi=own)) == b"own"
        assert served(PushServer(wsgi=own), variable) == b"application"
        assert served(PushServer(wsgi=own), variable, wsgi="pushtest_web:web") == b"web"
        assert served(wsgi="pushtest_web:web") == b"web"

    def test_file_has_a_setting_for_it(self, here: Path) -> None:
        (here / "push.toml").write_text('[server]\nwsgi = "pushtest_web:web"\n')
        assert served(config="push.toml") == b"web"

    def test_a_server_with_one_has_no_source_of_random_numbers(self, here: Path) -> None:
        def sources(**given: Any) -> list[str]:
            return [*complete(options(**given), {}, SourceTypes(), None).sources]

        assert sources() == [*Config().sources] != []
        assert sources(wsgi="pushtest_web:web") == []


def test_its_file_must_not_be_among_the_pages(here: Path) -> None:
    (here / "push.toml").write_text('[server]\npages = "."\n')
    other = here.parent / "push.toml"
    (here / "push.toml").rename(other)
    with pytest.raises(StartFailed, match=r"everybody could read .*pushtest_web.py"):
        served(config=str(other), wsgi="pushtest_web:web")


def test_reload_watches_the_folder_of_its_file(here: Path, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "web.py").write_text(WEB)
    watched = watch(options(reload=True, wsgi=str(folder / "web.py:web")))
    assert watched is not None
    assert folder in watched._folders


def test_failing_import_is_the_reason_of_the_start(here: Path) -> None:
    (here / "pushtest_bad.py").write_text("1 / 0\n")
    with pytest.raises(StartFailed, match=r"pushtest_bad:app cannot be imported(?s:.*)ZeroDiv"):
        served(wsgi="pushtest_bad:app")


class TestFlaskApplicationWithSocketIO:
    """Its handlers run only where the SocketIO is served."""

    @pytest.fixture
    def program(self, here: Path) -> None:
        (here / "pushtest_flask.py").write_text(FLASK)
        (here / "pushtest_main.py").write_text(
            "from pushtest_flask import PushServer, create_app, socketio\n"
            "app = create_app()\n"
            "def beside(): return PushServer(wsgi=app)\n"
        )

    @pytest.mark.usefixtures("program")
    @pytest.mark.parametrize("text", ["pushtest_main:app", "pushtest_flask:create_app()"])
    def test_it_is_not_served_alone(self, here: Path, text: str) -> None:
        variable = {"PUSHSERVER_SERVER_WSGI": text}
        for given in ({"wsgi": text}, {"environment": variable}):
            with pytest.raises(StartFailed, match=r"<Flask .* pushserver serve MODULE:socketio"):
                served(**given)

    @pytest.mark.usefixtures("program")
    def test_it_is_not_served_beside_another_application(self) -> None:
        load("pushtest_main.py")
        app = cast(Any, sys.modules["pushtest_main"]).beside()
        with pytest.raises(StartFailed, match="where the SocketIO itself is served"):
            served(app)
        with pytest.raises(StartFailed, match="where the SocketIO itself is served"):
            app.service(reactor=cast(Any, ThreadReactor()))

    @pytest.mark.usefixtures("program")
    def test_it_is_served_with_its_socketio(self) -> None:
        app = load("pushtest_main.py")
        service = make(options(), {}, cast(Any, ThreadReactor()), app)
        assert service.gateway is not None
        assert service.gateway.application is app.wsgi

    @pytest.mark.usefixtures("program")
    def test_socketio_without_it_is_refused_at_the_start(self) -> None:
        with pytest.raises(StartFailed, match="no Flask application: call its init_app"):
            served(load("pushtest_flask.py"))

    def test_that_of_flask_socketio_needs_another_path(self) -> None:
        def web(environ: Any, start_response: Any) -> list[bytes]:
            return [b"web"]

        cast(Any, web).extensions = {"socketio": object()}
        with pytest.raises(StartFailed, match="has Flask-SocketIO, which gets no requests"):
            served(PushServer(wsgi=web))
        other = {"PUSHSERVER_SOCKETIO_PATH": "push.io"}
        assert served(PushServer(wsgi=web), other) == b"web"
