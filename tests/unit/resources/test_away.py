"""A stream whose channels cannot be had at present says why, and its reader comes back."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from pushserver.errors import Unavailable
from tests.unit.fakes.web import Server, handshake, parse, patched

SSE = "text/event-stream"
LINES = "application/x-ndjson"
REASON = "shard 1: Redis is away"
PATHS = ["/channels/a", "/channels/a?as=data", "/events?channel=a&channel=b", "/channels/a?last=3"]
BLOCK = b'event: pushserver-end\ndata: {"code":1013,"reason":"shard 1: Redis is away"}\n\n'


def make_server(loads: int = 0) -> Server:
    """A server whose log is away, after so many loads."""
    server, left = Server(), [True] * loads

    async def load(names: Sequence[str], fresh: bool = False) -> None:
        if not left:
            raise Unavailable(REASON, "broker")
        left.pop()

    server.hub._load = load
    patched(server.node, "has", lambda names: False)
    return server


@pytest.mark.parametrize("path", PATHS)
def test_lines_are_refused_with_the_reason(path: str) -> None:
    answer = make_server().get(path, accept=LINES)
    assert (answer.error, answer["retry-after"]) == ((503, REASON), "1")
    assert answer["content-type"] == "application/json"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("loads", [0, 1])
def test_an_event_stream_ends_with_an_event(path: str, loads: int) -> None:
    """An EventSource would not come back after a 503."""
    server = make_server(loads)
    line = server.open(path, accept=SSE)
    answer = parse(line.take())
    assert (answer.status, answer["content-type"]) == (200, SSE)
    assert BLOCK in answer.body
    line.vanish()
    assert server.is_empty()


def test_lines_that_cannot_be_loaded_after_the_head_end_with_one() -> None:
    answer = parse(make_server(1).open("/channels/a", accept=LINES).take())
    assert json.loads(answer.body.splitlines()[0]) == {"end": {"code": 1013, "reason": REASON}}


def test_a_websocket_closes_with_the_reason() -> None:
    line = make_server().open("/channels/a", **handshake())
    head, _, frames = line.take().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101")
    assert frames[:2] == bytes([0x88, 2 + len(REASON)])
    assert frames[2:] == (1013).to_bytes(2, "big") + REASON.encode()
