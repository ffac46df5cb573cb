"""docs/from-flask-socketio.md: its programs run, and its tables are those of the code."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from pushserver.config.loader import load as read_config
from pushserver.config.settings import Config
from pushserver.errors import StartFailed
from pushserver.flask import Namespace, SocketIO
from pushserver.flask import options as options_of
from pushserver.flask.test_client import SocketIOTestClient
from pushserver.server.loading import load
from pushserver.sources.registry import SourceTypes
from pushserver.testing import ServerError, TestServer
from tests.e2e.blocks import block_with, sections_of
from tests.e2e.server import CHECKOUT

BLOCKS = sections_of("docs/from-flask-socketio.md")
TEXT = (CHECKOUT / "docs" / "from-flask-socketio.md").read_text("utf-8")

FACTORY = """
from flask import Flask

from pushserver.flask import SocketIO

socketio = SocketIO()


def create_app():
    app = Flask("shop")
    app.secret_key = "change me"
    socketio.init_app(app)
    return app
"""


def run_blocks() -> dict[str, Any]:
    """All blocks of the document, one after the other, those of Python as in one module."""
    module: dict[str, Any] = {"__name__": "votes"}
    for blocks in BLOCKS.values():
        for block in blocks:
            if block.language == "toml":
                assert read_config(block.text, "", {}, SourceTypes()) != Config()
            elif "# main.py" not in block.text:
                exec(compile(block.text, f"line {block.number}", "exec"), module)
    return module


def names_in(text: str) -> set[str]:
    return set(re.findall(r"`([a-z_]+)`", text))


def first_cells(heading: str) -> str:
    """The first cells of the table below a line that begins so."""
    rows = TEXT.partition(heading)[2].partition("\n| --- |")[2].partition("\n\n")[0]
    return "\n".join(row.split(" | ")[0] for row in rows.splitlines())


def test_programs_run() -> None:
    module = run_blocks()
    module["test_votes_are_counted"]()
    socketio, server = module["socketio"], module["socketio"].testing
    try:
        assert 'src="/socket.io/socket.io.js"' in module["app"].test_client().get("/").text
        client = server.connect()
        client.subscribe("prices")
        server.advance(2)
        assert client.events("price")
        with pytest.raises(ServerError, match="refused"):
            client.subscribe("socket.io")
    finally:
        server.close()
    assert socketio.push.wsgi is module["app"]


def test_commands_find_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    program = next(block for block in BLOCKS[""] if block.language == "python")
    (tmp_path / "votes.py").write_text(program.text.replace('if __name__ == "__main__"', "if True"))
    try:
        found = load("votes.py")
        assert load("votes:socketio") is found
        assert isinstance(found.wsgi, Flask)
        with pytest.raises(StartFailed, match="expected a PushServer; there is votes:socketio"):
            load("votes:app")
    finally:
        sys.modules.pop("votes", None)


def test_program_with_a_factory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "shop.py").write_text(FACTORY)
    (tmp_path / "main.py").write_text(block_with("docs/from-flask-socketio.md", "# main.py").text)
    try:
        assert isinstance(load(str(tmp_path / "main.py")).wsgi, Flask)
    finally:
        for name in ("shop", "main"):
            sys.modules.pop(name, None)


def test_program_without_flask_counts_the_same() -> None:
    with TestServer(run_blocks()["live"]) as server:
        one, other = server.connect(), server.connect()
        other.subscribe("votes")
        assert one.rpc("vote", "tea") == 1
        assert other.publications[-1].data == {"tea": 1, "coffee": 0}


def test_document_has_all_options() -> None:
    assert names_in(first_cells("These options of `SocketIO` hold")) == set(options_of._READERS)
    ignored = names_in(first_cells("These have no effect"))
    assert ignored == set(options_of._IGNORED)
    refused = names_in(first_cells("These raise `ValueError`")) - {"threading", "default"}
    assert refused == set(options_of._REFUSED)


def test_document_names_what_exists() -> None:
    socketio = SocketIO(Flask("program"))
    known = {*dir(socketio), *dir(Namespace), "connect", "disconnect", "message", "json"}
    known |= {"request", "session", "join_room", "auth", "error"}
    for cell in first_cells("## The same").splitlines():
        for name in re.findall(r"`@?(?:socketio\.)?([a-z_]+)[`(]", cell):
            assert name in known, name
    methods = names_in(TEXT.partition("The methods are ")[2].partition(".")[0])
    assert methods <= set(dir(SocketIOTestClient))
