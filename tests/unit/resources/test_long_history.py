"""Long histories by `GET /channels/{name}`: answered in portions, as the reader reads."""

from __future__ import annotations

import json

import pytest

from pushserver.channels.channel import ChannelOptions
from pushserver.protocols.formats import publication_objects
from pushserver.resources import history
from pushserver.sessions.replay_cache import PORTION_BYTES
from tests.unit.fakes.web import Line, Response, Server, parse

REQUEST = b"GET /channels/a HTTP/1.1\r\nHost: localhost:8080\r\n\r\n"


@pytest.fixture
def server() -> Server:
    """A server with 300 kilobytes in channel `a`."""
    server = Server(options=ChannelOptions(history_size=300))
    for n in range(300):
        server.publish("a", [n, "." * 1_000])
    return server


def stuck(server: Server) -> Line:
    """A connection whose peer has asked for the history, and reads nothing."""
    line = server.open("/channels/nothing")
    line.take()
    line.reading = False
    line.send(REQUEST)
    return line


def answer_of(line: Line) -> Response:
    """Let the peer read everything."""
    data = b""
    for _ in range(100):
        line.read()
        data += line.take()
    return parse(data)


@pytest.mark.parametrize(
    "query", ["", "since=oldest", "last=200", "limit=299", "limit=200&last=250", "since={}:3"]
)
def test_answer_is_that_in_one_piece(
    server: Server, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    path = f"/channels/a?{query}".replace("{}", server.hub.history.epoch)
    portions = server.get(path)
    monkeypatch.setattr(history, "FIRST_BYTES", 1 << 30)
    whole = server.get(path)
    assert (portions["transfer-encoding"], "content-length" in whole) == ("chunked", True)
    assert portions.body == whole.body
    assert len(portions.json["publications"]) >= 199
    headers = {name: whole[name] for name in ("content-type", "cache-control", "vary")}
    assert {name: portions[name] for name in headers} == headers


def test_head_has_the_length(server: Server) -> None:
    answer = server.get("/channels/a", "HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer["content-length"]) > 300_000


def test_short_history_has_a_length() -> None:
    server = Server()
    server.publish("a", 1)
    assert "content-length" in server.get("/channels/a")


def test_reader_that_reads_nothing_has_a_portion_in_memory(server: Server) -> None:
    line = stuck(server)
    assert line.unread < 65_536 + 2 * PORTION_BYTES
    # A later publication is not in an answer that has begun.
    server.publish("a", "later")
    answer = answer_of(line)
    assert [row["data"][0] for row in answer.json["publications"]] == list(range(300))
    assert answer.json["offset"] == 300


def test_next_request_is_answered_after_it(server: Server) -> None:
    line = stuck(server)
    line.send(REQUEST.replace(b"/a", b"/b"))
    answer = answer_of(line)
    assert len(answer.json["publications"]) == 300
    assert json.loads(parse(answer.rest).body)["channel"] == "b"


@pytest.mark.parametrize("reads", [0, 1])
def test_reader_that_leaves_during_the_answer_is_forgotten(server: Server, reads: int) -> None:
    line = stuck(server)
    for _ in range(reads):
        line.read()
        line.settle()
    line.vanish()
    server.advance(60)
    assert server.is_empty()
    assert len(server.get("/channels/a").json["publications"]) == 300


def test_readers_share_the_portions(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counting(rows: object) -> bytes:
        made.append(1)
        return publication_objects(rows)  # type: ignore[arg-type]

    monkeypatch.setattr(history, "publication_objects", counting)
    server.get("/channels/a")
    once = len(made)
    server.get("/channels/a")
    assert len(made) == once > 5
