"""A channel that was forgotten and came back: its epoch and the run's, in each answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.fakes.tools import Client, drive
from tests.unit.fakes.web import Server, parse

SSE = "text/event-stream"
LINES = "application/x-ndjson"
Object = dict[str, Any]


@pytest.fixture
def server() -> Server:
    """A server with the channel `a`, forgotten after three publications."""
    server = Server()
    for _ in range(3):
        server.publish("a")
    drive(server.node.clear("a"))
    server.node.expire()
    assert "a" not in server.hub.history.channels
    return server


def numbers(server: Server, offset: int, seq: int) -> Object:
    """The epoch of the channel with its offset, and the cursor of the run."""
    run = server.hub.history.epoch
    return {"epoch": f"{run}-3", "offset": offset, "id": f"{run}:{seq}"}


def part(answer: Object) -> Object:
    return {name: answer[name] for name in ("epoch", "offset", "id")}


def objects(body: bytes) -> list[Any]:
    """The objects of an event stream or of lines."""
    lines = [line.removeprefix(b"data: ") for line in body.splitlines()]
    return [json.loads(line) for line in lines if line.startswith(b"{")]


def api(server: Server, method: str, **fields: Any) -> Any:
    return server.get(f"/api/{method}", "POST", json.dumps(fields).encode()).json["result"]


def test_a_post_is_answered_with_both(server: Server) -> None:
    for offset in (1, 2):
        answer = server.get("/channels/a", "POST", b"1").json
        assert answer == numbers(server, offset, 3 + offset)


def test_a_history_has_both(server: Server) -> None:
    assert part(server.get("/channels/a").json) == numbers(server, 0, 3)
    for _ in range(3):
        server.publish("a")
    for query, offset in (("", 3), ("?limit=2", 2), ("?limit=0", 3), ("?since=x:1", 3)):
        answer = server.get(f"/channels/a{query}").json
        assert part(answer) == numbers(server, offset, 3 + offset), query
    ids = [row["id"] for row in server.get("/channels/a").json["publications"]]
    assert ids == [numbers(server, 0, seq)["id"] for seq in (4, 5, 6)]


@pytest.mark.parametrize("published", [False, True])
def test_a_long_poll_has_both(server: Server, published: bool) -> None:
    line = server.open("/channels/a?since=now&wait=5")
    if published:
        server.publish("a")
    else:
        server.advance(6)
    assert part(line.response().json) == numbers(server, published, 3 + published)


def test_a_cursor_from_before_is_evicted_and_a_later_one_is_resumed(server: Server) -> None:
    server.publish("a")
    for seq, reason in ((2, "evicted"), (3, None), (4, None)):
        answer = server.get(f"/channels/a?since={numbers(server, 0, seq)['id']}").json
        assert answer.get("reason") == reason
        assert len(answer["publications"]) == (seq == 3)


@pytest.mark.parametrize("path", ["/channels/a", "/events?channel=a&channel=b"])
def test_a_stream_of_lines_has_both(server: Server, path: str) -> None:
    server.publish("a")
    found = objects(parse(server.open(path, accept=LINES).take()).body)
    assert [part(note["subscribed"]) for note in found][:1] == [numbers(server, 1, 4)]
    socket = server.websocket(path)
    assert part(json.loads(socket.seen[0].payload)["subscribed"]) == numbers(server, 1, 4)
    if "b" in path:
        # A channel that was never forgotten.
        assert found[1]["subscribed"]["epoch"] == server.hub.history.epoch


def test_a_stream_of_events_has_the_epoch_of_its_cursor(server: Server) -> None:
    run = server.hub.history.epoch
    [begin] = objects(parse(server.open("/channels/a", accept=SSE).take()).body)
    assert begin == {"epoch": run, "id": f"{run}:3"}
    line = server.open(f"/channels/a?since={run}:1", accept=SSE)
    [reset] = objects(parse(line.take()).body)
    assert reset == {"reason": "evicted", "epoch": run, "id": f"{run}:3"}


def test_the_api_has_the_epoch_of_the_channel(server: Server) -> None:
    run = server.hub.history.epoch
    assert api(server, "publish", channel="a", data=1) == {"epoch": f"{run}-3", "offset": 1}
    [one, other] = api(server, "broadcast", channels=["a", "b"], data=1)["responses"]
    assert one["result"] == {"epoch": f"{run}-3", "offset": 2}
    assert other["result"] == {"epoch": run, "offset": 1}
    history = api(
        server, "history", channel="a", limit=-1, since={"offset": 1, "epoch": f"{run}-3"}
    )
    assert (history["epoch"], history["offset"]) == (f"{run}-3", 2)
    assert [row["offset"] for row in history["publications"]] == [2]


def test_a_history_since_an_older_generation_is_refused_unless_nothing_is_missing(
    server: Server,
) -> None:
    run = server.hub.history.epoch
    for _ in range(2):
        server.publish("a")
    client = Client(server.node)
    expected = [
        ({"offset": 1, "epoch": run}, None),
        ({"offset": 0, "epoch": run}, None),
        ({"offset": 0, "epoch": f"{run}-2"}, None),
        ({"offset": 0, "epoch": f"{run}-3"}, [1, 2]),
        ({"offset": 0, "epoch": f"{run}-4"}, [2]),
        ({"offset": 0, "epoch": f"{run}-9"}, None),
        ({"offset": 0, "epoch": ""}, [1, 2]),
        ({"offset": 1, "epoch": ""}, [2]),
    ]
    for since, offsets in expected:
        reply = client.command("history", channel="a", limit=-1, since=since)
        if offsets is None:
            assert reply["error"]["code"] == 112, since
        else:
            rows = reply["history"]["publications"]
            assert [row["offset"] for row in rows] == offsets, since
