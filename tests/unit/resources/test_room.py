"""A server that keeps no more channels refuses new ones, and each kind of peer gets the reason."""

from __future__ import annotations

import json

import pytest

from pushserver.config.limits import Limits
from pushserver.config.settings import Config, Source
from pushserver.server.live import lasting
from pushserver.server.room_log import RoomLog
from tests.unit.fakes.web import Server, Socket, Trouble, handshake

REASON = "2 channels are watched, and no more are kept (channels)"


def make_full() -> tuple[Server, Socket]:
    """A server with room for two channels, which are watched."""
    server = Server(Limits(channels=2))
    watcher = server.websocket("/events?channel=a&channel=b")
    return server, watcher


@pytest.mark.parametrize("path", ["/channels/c", "/events?channel=a&channel=c"])
def test_stream_of_a_new_channel_is_refused(path: str) -> None:
    server, watcher = make_full()
    answer = server.get(path, accept="text/event-stream")
    assert (answer.status, answer["retry-after"]) == (503, "1")
    assert answer.error[1] == REASON
    assert server.open("/channels/a", accept="text/event-stream").take().startswith(b"HTTP/1.1 200")
    watcher.line.vanish()
    assert server.get(path, accept="text/event-stream", method="HEAD").status == 200


def test_long_poll_and_websocket_of_a_new_channel_are_refused() -> None:
    server, _ = make_full()
    assert server.get("/channels/c?wait=10").error == (503, REASON)
    line = server.open("/channels/c", **handshake())
    assert line.response().status == 503
    assert server.get("/channels/c").status == 200, "reading keeps nothing"


def test_subscription_to_a_new_channel_is_refused_with_106() -> None:
    server, watcher = make_full()
    client = server.session()
    [frame] = client.say({"id": 2, "subscribe": {"channel": "c"}})
    error = json.loads(frame.payload)["error"]
    assert error == {"code": 106, "message": REASON, "temporary": True}
    [frame] = client.say({"id": 3, "subscribe": {"channel": "a"}})
    assert b'"error"' not in frame.payload
    assert server.node.metrics.refusals["channels"] == 1
    watcher.line.vanish()
    [frame] = client.say({"id": 4, "subscribe": {"channel": "c"}})
    assert b'"error"' not in frame.payload


def test_publication_to_a_new_channel_is_refused_only_if_nothing_can_make_room() -> None:
    server, watcher = make_full()
    answer = server.get("/channels/c", "POST", b"1")
    assert (answer.status, answer["retry-after"], answer.error[1]) == (503, "1", REASON)
    assert server.get("/channels/a", "POST", b"1").status == 201
    watcher.line.vanish()
    assert server.get("/channels/c", "POST", b"1").status == 201
    assert server.get("/channels/d", "POST", b"1").status == 201
    assert set(server.node.history.channels) == {"c", "d"}


def test_client_that_the_api_subscribes_is_told() -> None:
    server, _ = make_full()
    client = server.session()
    assert client is not None
    answer = server.get("/api/subscribe", "POST", b'{"user":"","channel":"c"}')
    assert answer.json["error"]["code"] == 106
    client.line.vanish()
    assert set(server.node.history.channels) == {"a", "b"}


def test_reader_whose_history_made_room_gets_a_reset() -> None:
    server = Server(Limits(channels=2))
    server.publish("a", 1)
    cursor = server.node.history.channels["a"].last(1)[0].id
    server.publish("a", 2)
    server.publish("b")
    server.publish("c")
    answer = server.get(f"/channels/a?since={cursor}").json
    assert (answer["reason"], answer["publications"]) == ("evicted", [])
    line = server.open(f"/channels/a?since={cursor}", accept="text/event-stream")
    text = line.take()
    assert b"pushserver-reset" in text
    assert b'"evicted"' in text
    metrics = server.get("/api/info", "POST", b"{}").json["result"]["nodes"][0]["metrics"]["items"]
    assert metrics["made_room.channels"] == 2


def test_one_line_for_each_setting_says_what_made_room_and_what_was_refused(
    trouble: Trouble,
) -> None:
    server, watcher = make_full()
    lines = RoomLog(server.node)
    for _ in range(5):
        server.get("/channels/c", "POST", b"1")
    watcher.line.vanish()
    for name in "cdefg":
        server.publish(name)
    lines.write()
    evicted, refused = trouble.take()
    assert "3 histories were evicted for others: channels is 2" in evicted
    assert "5 subscriptions or publications to new channels were refused: channels is 2" in refused
    lines.write()
    assert trouble.take() == []


def test_channels_of_the_configuration_and_of_sources_make_room_last() -> None:
    config = Config(channels={"news": {}}, sources={"s": Source("random", "numbers")})
    assert lasting(config, None) == {"news", "numbers"}
