from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from pushserver.config.limits import Limits
from pushserver.errors import Unavailable
from pushserver.resources import bulk
from pushserver.resources.bulk import GROUP
from tests.unit.fakes.web import Line, Response, Server
from tests.unit.resources.test_publish import data

NDJSON = "application/x-ndjson"


def posted(server: Server, body: bytes, query: str = "", **headers: str) -> Line:
    """A POST of lines, of which the first group is published."""
    return server.open(f"/channels/a{query}", "POST", body, content_type=NDJSON, **headers)


def finished(server: Server, line: Line) -> Response:
    """The answer, after the turns of the reactor that the lines need."""
    for _ in range(100):
        server.clock.advance(0)
    return line.response("POST")


def answer(server: Server, body: bytes, query: str = "", **headers: str) -> Response:
    return finished(server, posted(server, body, query, **headers))


@pytest.mark.parametrize(
    "media", [NDJSON, "application/ndjson", "application/jsonl", f"{NDJSON}; charset=utf-8"]
)
def test_each_line_is_published_in_order(media: str) -> None:
    server = Server()
    line = server.open("/channels/a", "POST", b'1\n"x"\r\n\n {"b": 2} \n', content_type=media)
    response = finished(server, line)
    assert response.status == 201
    epoch = server.hub.history.epoch
    assert response.json == {"published": 3, "offset": 3, "epoch": epoch, "id": f"{epoch}:3"}
    assert response["pushserver-cursor"] == f"{epoch}:3"
    assert data(server) == [1, "x", {"b": 2}]


def test_event_and_tags_are_those_of_all_lines() -> None:
    server = Server()
    assert answer(server, b"1\n2", "?event=e&tag.t=x").status == 201
    rows = server.hub.history.peek("a").after(0)
    assert [(row.event, row.tags) for row in rows] == [("e", {"t": "x"})] * 2


@pytest.mark.parametrize(
    ("body", "line", "published", "problem"),
    [
        (b"1\n2\nhello\n4", 3, 2, "Expecting value"),
        (b"nul", 1, 0, "Expecting value"),
        (b"1\n\n[NaN]", 3, 1, "NaN is not JSON"),
        (b'1\n{"a":1,"a":2}', 2, 1, "appears twice"),
        (b'1\n"\xff"', 2, 1, "invalid UTF-8"),
        (b"1\n" * (GROUP + 5) + b"x", GROUP + 6, GROUP + 5, "Expecting value"),
    ],
)
def test_invalid_line_ends_it_and_is_named(
    body: bytes, line: int, published: int, problem: str
) -> None:
    server = Server()
    response = answer(server, body)
    assert response.status == 400
    assert response.json["published"] == published
    assert response.json["line"] == line
    assert response.json["error"]["message"].startswith(f"line {line}: ")
    assert problem in response.json["error"]["message"]
    assert len(data(server)) == published


@pytest.mark.parametrize("body", [b"", b"\n \n"])
def test_body_without_lines_is_refused(body: bytes) -> None:
    assert answer(Server(), body).status == 400


def test_repeated_body_with_a_key_is_published_once() -> None:
    server = Server()
    first = answer(server, b"1\n2\n3", idempotency_key="k")
    again = answer(server, b"1\n2\n3", idempotency_key="k")
    assert again.json == first.json
    assert data(server) == [1, 2, 3]
    # The rest of a body that was cut.
    assert answer(server, b"1\n2\n3\n4", idempotency_key="k").json["offset"] == 4
    assert data(server) == [1, 2, 3, 4]


@pytest.mark.parametrize("key", ["k:1", "k1", "k 1", "k-1"])
def test_key_of_a_line_is_that_of_no_other_publication(key: str) -> None:
    server = Server()
    answer(server, b"1", idempotency_key="k")
    single = server.open("/channels/a", "POST", b"2", idempotency_key=key).response("POST")
    lines = answer(server, b"3", idempotency_key=key)
    assert (single.json["offset"], lines.json["offset"]) == (2, 3)
    assert data(server) == [1, 2, 3]


@pytest.mark.parametrize(("size", "lines"), [(126, 10), (125, 100), (124, 1_000)])
def test_key_that_is_too_long_for_the_last_line_is_refused(size: int, lines: int) -> None:
    server = Server()
    response = answer(server, b"1\n" * lines, idempotency_key="k" * size)
    assert (response.status, response.json["line"], response.json["published"]) == (400, 1, 0)
    assert data(server) == []
    response = answer(server, b"1\n" * (lines - 1), idempotency_key="k" * size)
    assert response.json["published"] == lines - 1


def test_lines_are_not_all_in_memory_at_once() -> None:
    body = b"1\n" * 100_000
    tracemalloc.start()
    try:
        assert sum(1 for _ in bulk._lines(body)) == 100_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


def test_blank_lines_are_counted_and_cost_nothing() -> None:
    body = b"\n" * 500_000 + b" \t\r\n" * 1_000 + b" 1 \r\n\n2"
    assert list(bulk._lines(body)) == [(501_001, b"1 \r"), (501_003, b"2")]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[Deferred[None]]:
    """The pauses between groups; a test ends each."""
    pauses: list[Deferred[None]] = []

    def pause(call_later: object, seconds: float) -> Deferred[None]:
        pauses.append(Deferred())
        return pauses[-1]

    monkeypatch.setattr(bulk, "pause", pause)
    return pauses


def test_others_get_their_turns_between_the_groups(pauses: list[Deferred[None]]) -> None:
    server = Server()
    line = posted(server, b"1\n" * (2 * GROUP))
    server.publish("a", "other")
    for pause in pauses:
        pause.callback(None)
    assert data(server) == [*[1] * GROUP, "other", *[1] * GROUP]
    assert finished(server, line).json["published"] == 2 * GROUP


def test_bodies_publish_one_group_in_each_turn_all_together(
    pauses: list[Deferred[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "GROUP", 2)
    server = Server()
    lines = [posted(server, b"%d\n" % n * 4) for n in range(3)]
    assert data(server) == [0, 0]
    for turn, pause in enumerate(pauses, 2):
        pause.callback(None)
        assert len(data(server)) <= 2 * turn
    numbers = data(server)[::2]
    assert sorted(numbers) == [0, 0, 1, 1, 2, 2]
    assert numbers[1:3] in ([0, 1], [1, 2])
    assert [finished(server, line).status for line in lines] == [201] * 3


def test_bodies_together_have_a_bound(
    pauses: list[Deferred[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "MOST_BYTES", 5 * GROUP)
    server = Server()
    # One body alone may be longer.
    first = posted(server, b"1\n" * (3 * GROUP))
    response = posted(server, b"2\n").response("POST")
    assert (response.status, response["retry-after"]) == (503, "1")
    assert (response.json["published"], response.json["line"]) == (0, 1)
    assert server.node.metrics.refusals["overloaded"] == 1
    for pause in pauses:
        pause.callback(None)
    assert finished(server, first).status == 201
    second = posted(server, b"3\n")
    pauses[-1].callback(None)
    assert finished(server, second).status == 201


def test_stop_of_the_server_ends_it_with_the_number_of_lines(pauses: list[Deferred[None]]) -> None:
    server = Server()
    line = posted(server, b"1\n" * (2 * GROUP))
    server.node.stopping = True
    pauses[0].callback(None)
    response = finished(server, line)
    assert (response.status, response["retry-after"]) == (503, "1")
    assert (response.json["published"], response.json["line"]) == (GROUP, GROUP + 1)
    assert data(server) == [1] * GROUP


def test_waits_for_room_in_the_backlog_and_then_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(limits=Limits())
    room = [True]
    monkeypatch.setattr(server.node, "has_room", lambda channel: room[0])
    room[0] = False
    line = posted(server, b"1\n2")
    assert data(server) == []
    room[0] = True
    server.clock.advance(bulk.PAUSE_SECONDS)
    assert finished(server, line).json["published"] == 2
    room[0] = False
    line = posted(server, b"3\n4")
    server.clock.pump([1.0] * int(bulk.ROOM_SECONDS + 1))
    response = finished(server, line)
    assert (response.status, response.json["line"]) == (503, 1)
    assert "backlog is full" in response.json["error"]["message"]
    assert data(server) == [1, 2]


def test_failing_store_ends_it_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    publish = server.node.publish

    async def failing(draft: Any) -> Any:
        if json.loads(draft.data) == 3:
            raise Unavailable("the store failed: disk full", "store")
        return await publish(draft)

    monkeypatch.setattr(server.node, "publish", failing)
    response = answer(server, b"1\n2\n3\n4")
    assert (response.status, response.json["published"], response.json["line"]) == (503, 2, 3)
    assert "line 3: the store failed: disk full" in response.json["error"]["message"]
    assert data(server) == [1, 2]
