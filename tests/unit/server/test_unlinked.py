"""A follower whose author is away: everything that needs it is refused, and nothing is left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from pushserver.channels.channel import ChannelOptions
from pushserver.server.place import Place
from tests.unit.fakes.web import Server, Trouble

AWAY = "another process of the server is away"
TRY_AGAIN = {"code": 100, "message": AWAY, "temporary": True}


@pytest.fixture
def server(trouble: Trouble) -> Iterator[Server]:
    options = ChannelOptions(client_publish=True, history="anyone", presence="anyone")
    server = Server(options=options, place=Place("/run", 1))
    yield server
    assert server.is_empty()
    assert server.hub.history.channels == {}
    assert trouble.take() == []


STREAMS = ["/channels/a", "/events?channel=a&channel=b"]


@pytest.mark.parametrize("path", STREAMS)
def test_event_stream_ends_with_the_reason_and_the_reader_comes_back(
    server: Server, path: str
) -> None:
    line = server.open(path, accept="text/event-stream")
    answer = line.response()
    end = f'event: pushserver-end\ndata: {{"code":1013,"reason":"{AWAY}"}}\n\n'
    assert (answer.status, answer.body, answer.whole) == (200, end.encode(), True)
    server.advance(10)
    assert line.lost
    assert server.node.metrics.ended["1013"] == 1


@pytest.mark.parametrize("path", STREAMS)
def test_stream_of_lines_is_refused_for_now(server: Server, path: str) -> None:
    answer = server.get(path, accept="application/x-ndjson")
    assert answer.error == (503, AWAY)
    assert answer["retry-after"] == "1"


def test_raw_websocket_is_closed_for_now(server: Server) -> None:
    socket = server.websocket("/channels/a")
    assert socket.seen[-1].close == (1013, AWAY)
    socket.line.vanish()


@pytest.mark.parametrize("query", ["", "last=2", "since=e:5", "wait=5", "wait=5&since=now"])
def test_history_and_long_poll_are_refused_for_now(server: Server, query: str) -> None:
    answer = server.get(f"/channels/a?{query}")
    assert answer.error == (503, AWAY)
    assert answer["retry-after"] == "1"


@pytest.mark.parametrize("media", ["text/plain", "application/x-ndjson"])
def test_publication_is_refused_for_now(server: Server, media: str) -> None:
    answer = server.get("/channels/a", "POST", b"1\n2", content_type=media)
    assert answer.status == 503
    assert answer.error[1].endswith(AWAY)
    assert answer["retry-after"] == "1"
    assert server.node.metrics.refusals["worker"] > 0


@pytest.mark.parametrize(
    "command",
    [
        {"subscribe": {"channel": "a"}},
        {"subscribe": {"channel": "a", "recover": True, "epoch": "e", "offset": 3}},
        {"publish": {"channel": "a", "data": 1}},
        {"history": {"channel": "a"}},
        {"presence": {"channel": "a"}},
        {"presence_stats": {"channel": "a"}},
    ],
    ids=lambda command: next(iter(command)),
)
def test_command_is_answered_with_a_temporary_error(
    server: Server, command: dict[str, Any]
) -> None:
    socket = server.session()
    (frame,) = socket.say({"id": 2, **command})
    assert json.loads(frame.payload) == {"id": 2, "error": TRY_AGAIN}
    socket.line.vanish()


def test_client_of_socketio_loses_the_connection_so_that_it_connects_again(
    server: Server,
) -> None:
    socket = server.websocket("/socket.io/?EIO=4&transport=websocket")
    (answer,) = socket.say(b"40/a,")
    assert answer.close == (3001, AWAY)
    socket.line.vanish()
