from __future__ import annotations

import json
from typing import Any

import pytest

from pushserver.channels.channel import ChannelOptions
from tests.unit.fakes.web import BROWSER, Server, parse

SSE = "text/event-stream"
LINES = "application/x-ndjson"


def begun(server: Server, path: str, **headers: str) -> tuple[int, str, list[Any]]:
    """Status, media type and the first objects of a stream."""
    line = server.open(path, **headers)
    answer = parse(line.take())
    media = answer["content-type"]
    if media == SSE:
        texts = [b[6:] for b in answer.body.split(b"\n") if b.startswith(b"data: ")]
    else:
        texts = answer.body.splitlines()
    return answer.status, media, [json.loads(text) for text in texts if text]


def test_a_websocket_is_opened_with_any_accept_header() -> None:
    server = Server()
    server.publish()
    socket = server.websocket("/channels/numbers?last=1", accept=BROWSER)
    note, publication = [json.loads(frame.payload) for frame in socket.seen]
    assert note["subscribed"]["offset"] == 0
    assert publication["offset"] == 1
    server.publish()
    assert [text["offset"] for text in socket.texts()] == [2]


def test_lines_are_a_stream_of_objects() -> None:
    server = Server()
    line = server.open("/channels/numbers", accept=LINES)
    answer = parse(line.take())
    assert (answer["content-type"], answer["cache-control"]) == (LINES, "no-store")
    assert list(json.loads(answer.body)) == ["subscribed"]
    server.publish(data="x")
    text = line.take().split(b"\r\n")[1]
    assert json.loads(text)["data"] == "x"


@pytest.mark.parametrize("accept", [SSE, LINES])
def test_a_stream_resumes_from_its_cursor_or_sends_a_reset(accept: str) -> None:
    server = Server(options=ChannelOptions(history_size=2))
    for _ in range(4):
        server.publish()
    epoch = server.hub.history.epoch
    _, _, objects = begun(server, f"/channels/numbers?since={epoch}:2", accept=accept)
    assert [o["offset"] for o in objects if "offset" in o] == [3, 4]
    for since, reason in ((f"{epoch}:1", "evicted"), (f"{epoch}:9", "ahead"), ("x:1", "epoch")):
        _, _, objects = begun(server, f"/channels/numbers?since={since}", accept=accept)
        (reset,) = [o.get("reset", o) for o in objects if "reason" in o.get("reset", o)]
        assert (reset["reason"], reset["id"]) == (reason, f"{epoch}:4")


def test_a_browser_resumes_by_last_event_id() -> None:
    server = Server()
    for _ in range(3):
        server.publish()
    epoch = server.hub.history.epoch
    path = "/channels/numbers?since=oldest"
    for headers in ({"last_event_id": f"{epoch}:2"}, {}):
        _, _, objects = begun(server, path, accept=SSE, **headers)
        assert [o["offset"] for o in objects[1:]] == ([3] if headers else [1, 2, 3])
    _, _, objects = begun(server, f"/channels/numbers?lastEventId={epoch}:1", accept=SSE)
    assert [o["offset"] for o in objects[1:]] == [2, 3]


@pytest.mark.parametrize("bad", ["nonsense", "é", "e:x", "x" * 1000])
def test_an_invalid_id_causes_a_reset_and_not_the_end(bad: str) -> None:
    server = Server()
    status, _, objects = begun(server, "/channels/numbers", accept=SSE, last_event_id=bad)
    assert status == 200
    assert objects[0]["reason"] == "epoch"


def test_several_channels_are_one_stream_with_one_cursor() -> None:
    server = Server()
    for name in "abcab":
        server.publish(name)
    epoch = server.hub.history.epoch
    path = f"/events?channel=a&channel=b&channel=a&since={epoch}:1"
    for accept in (SSE, LINES):
        _, media, objects = begun(server, path, accept=accept)
        assert media == accept
        ids = [o["id"] for o in objects if "offset" in o]
        assert ids == [f"{epoch}:{seq}" for seq in (2, 4, 5)]
    socket = server.websocket("/events?channel=a&channel=b")
    assert [json.loads(frame.payload)["subscribed"]["channel"] for frame in socket.seen] == [
        "a",
        "b",
    ]
    server.publish("b")
    assert [text["channel"] for text in socket.texts()] == ["b"]
    assert server.get("/events?channel=a", "HEAD", accept=SSE).rest == b""
