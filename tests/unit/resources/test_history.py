from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.channels.channel import ChannelOptions
from pushserver.config.limits import Limits
from pushserver.config.settings import Auth, Config
from tests.unit.fakes.web import BROWSER, Response, Server, handshake, parse, request

SSE = "text/event-stream"
LINES = "application/x-ndjson"


def filled(count: int = 5, options: ChannelOptions = ChannelOptions()) -> Server:
    """A server with numbers from 1 in channel `a`, interleaved with `b`."""
    server = Server(Limits(read_limit=100), options)
    for n in range(1, count + 1):
        server.publish("a", n)
        server.publish("b", -n)
    return server


def data(answer: Response) -> list[Any]:
    assert answer.status == 200, answer
    return [publication["data"] for publication in answer.json["publications"]]


def cursor(server: Server, seq: int) -> str:
    return f"{server.hub.history.epoch}:{seq}"


class TestAHistory:
    def test_is_answered_in_the_turn_of_its_request(self) -> None:
        server = filled(2)
        line = server.connect()
        line.protocol.dataReceived(request("/channels/a"))
        assert data(parse(line.value())) == [1, 2]

    def test_contains_all_publications_and_the_cursor(self) -> None:
        server = filled(2)
        answer = server.get("/channels/a")
        epoch = server.hub.history.epoch
        assert {k: v for k, v in answer.json.items() if k != "publications"} == {
            "channel": "a",
            "epoch": epoch,
            "offset": 2,
            "id": f"{epoch}:4",
        }
        first = answer.json["publications"][0]
        assert first.pop("time") > 0
        assert first == {
            "channel": "a",
            "event": "message",
            "data": 1,
            "offset": 1,
            "id": f"{epoch}:1",
        }
        assert (answer["cache-control"], answer["vary"]) == ("no-store", "Accept")

    @pytest.mark.parametrize("query", ["", "?last=2", "?limit=2", "?limit=0", "?since=oldest"])
    def test_that_did_not_change_is_a_304(self, query: str) -> None:
        server = filled(3)
        path = f"/channels/a{query}"
        answer = server.get(path)
        tag = answer["etag"]
        assert tag.startswith('W/"')
        # Publications of other channels move only the cursor.
        server.publish("b", 1)
        for known in (tag, tag.removeprefix("W/"), f'"x", {tag}'):
            again = server.get(path, if_none_match=known)
            assert (again.status, again.rest, again["etag"]) == (304, b"", tag)
        assert server.get(path, "HEAD", if_none_match=tag).status == 304
        for other in ('"x"', "x", tag[:-2] + '9"', "*"):
            assert server.get(path, if_none_match=other).status == 200

    def test_that_changed_has_another_tag(self) -> None:
        server = filled(3)
        tags = [server.get("/channels/a")["etag"]]
        server.publish("a", 4)
        tags.append(server.get("/channels/a")["etag"])
        server.hub.history.clear("a")
        tags.append(server.get("/channels/a")["etag"])
        server.publish("a", 5)
        tags.append(server.get("/channels/a")["etag"])
        tags.append(server.get("/channels/a?since=gone:1")["etag"])
        assert len(set(tags)) == len(tags), tags
        assert server.get("/channels/a", if_none_match=tags[0]).status == 200

    def test_whose_oldest_publication_went_has_another_tag(self) -> None:
        server = filled(3, ChannelOptions(history_size=3))
        part = "/channels/a?since=oldest&limit=1"
        tag = server.get(part)["etag"]
        server.publish("a", 4)
        assert server.get(part, if_none_match=tag).status == 200

    def test_of_an_unknown_channel_is_empty_and_does_not_create_it(self) -> None:
        server = filled(1)
        answer = server.get("/channels/silence")
        assert data(answer) == []
        assert (answer.json["offset"], answer.json["id"]) == (0, cursor(server, 2))
        assert "silence" not in server.hub.history.channels

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("last=2", [4, 5]),
            ("last=0", []),
            ("last=100", [1, 2, 3, 4, 5]),
            ("limit=2", [1, 2]),
            ("limit=0", []),
            ("limit=5", [1, 2, 3, 4, 5]),
            ("last=3&limit=2", [3, 4]),
            ("since=oldest", [1, 2, 3, 4, 5]),
            ("since=oldest&limit=1", [1]),
            ("since={}:0", [1, 2, 3, 4, 5]),
            ("since={}:5", [4, 5]),
            ("since={}:6", [4, 5]),
            ("since={}:10", []),
            ("since={}:6&limit=1", [4]),
            ("last=1&last=2", [4, 5]),
            ("since=now", []),
        ],
    )
    def test_is_the_requested_part(self, query: str, expected: list[int]) -> None:
        server = filled()
        query = query.replace("{}", server.hub.history.epoch)
        answer = server.get(f"/channels/a?{query}")
        assert data(answer) == expected
        assert "reason" not in answer.json

    def test_can_be_read_page_by_page(self) -> None:
        server = filled(7)
        values, since = [], "oldest"
        for _ in range(4):
            answer = server.get(f"/channels/a?since={since}&limit=2")
            values += data(answer)
            since = answer.json["id"]
        assert values == [1, 2, 3, 4, 5, 6, 7]
        assert since == cursor(server, 14)

    @pytest.mark.parametrize(
        ("since", "reason"),
        [
            ("other:3", "epoch"),
            ("{}:11", "ahead"),
            ("{}:999999999999999999", "ahead"),
            ("{}:4", "evicted"),
            ("{}:0", "evicted"),
            ("{}:5", ""),
            ("{}:7", ""),
        ],
    )
    def test_after_an_unreadable_position_gives_the_reason(self, since: str, reason: str) -> None:
        server = filled(5, ChannelOptions(history_size=2))
        answer = server.get(f"/channels/a?since={since.replace('{}', server.hub.history.epoch)}")
        assert answer.json.get("reason", "") == reason
        assert answer.json.get("recovered") is (False if reason else None)
        assert answer.json["id"] == cursor(server, 10)
        assert bool(data(answer)) is not bool(reason)

    def test_answers_head_with_the_length_of_its_body(self) -> None:
        server = filled(2)
        body = server.get("/channels/a").body
        head = server.get("/channels/a", "HEAD")
        assert (head.status, head["content-length"]) == (200, str(len(body)))

    def test_is_refused_to_a_page_of_another_origin(self) -> None:
        answer = filled(1).get("/channels/a", origin="http://evil.example")
        assert answer.error[0] == 403
        assert "allowed_origins" in answer.error[1]


BAD_NUMBERS = ["-1", "1.5", "x", "", "+1", " 1", "1e3", "0x1", "٣", "1" * 30, "101"]


@pytest.mark.parametrize("value", BAD_NUMBERS)
@pytest.mark.parametrize(
    ("name", "accept"),
    [
        ("last", "application/json"),
        ("last", SSE),
        ("limit", "application/json"),
        ("wait", "application/json"),
    ],
)
def test_an_invalid_number_is_refused_with_its_name_and_bounds(
    name: str, accept: str, value: str
) -> None:
    answer = filled(1).get(f"/channels/a?{name}={quote(value)}", accept=accept)
    status, message = answer.error
    assert status == 400
    assert message.startswith(f"{name}=")
    assert "expected a whole number from 0 to " in message
    assert len(message) < 200


BAD_CURSORS = [
    "x",
    "1",
    ":1",
    "e:",
    "e:-1",
    "e:1:2",
    "e:1 ",
    "e:1.0",
    "e:" + "9" * 19,
    "e" * 65 + ":1",
    "é:1",
    "NOW",
    "",
    "%FF",
    "e:1%0A",
    "x" * 5_000,
]


@pytest.mark.parametrize("since", BAD_CURSORS)
@pytest.mark.parametrize("accept", ["application/json", SSE, LINES])
def test_an_invalid_cursor_is_refused_with_the_expected_form(since: str, accept: str) -> None:
    answer = filled(1).get(f"/channels/a?since={quote(since, safe='%:')}", accept=accept)
    status, message = answer.error
    assert status == 400
    assert message.startswith("since: invalid cursor")
    assert "now, oldest, or the id of a publication" in message
    assert len(message) < 500


def test_since_and_last_exclude_each_other() -> None:
    answer = filled(1).get("/channels/a?since=oldest&last=1")
    assert answer.error == (400, "since and last exclude each other, expected one of them")


def test_different_values_of_since_are_refused() -> None:
    server = filled(1)
    answer = server.get("/channels/a?since=e:1&since=e:2&since=e:1")
    assert answer.error == (400, "since: 2 different values, expected one")
    assert server.get("/channels/a?since=now&since=now").status == 200


@pytest.mark.parametrize("path", ["/channels/a", "/events?channel=a"])
@pytest.mark.parametrize("query", ["since=x", "last=-1", "since=now&last=1", "since=e:1&since=e:2"])
def test_a_websocket_is_refused_in_the_handshake(path: str, query: str) -> None:
    sign = "&" if "?" in path else "?"
    answer = filled(1).get(f"{path}{sign}{query}", **handshake())
    assert answer.error[0] == 400


class TestLastEventId:
    """The header of a browser that reconnects; no value of it ends the stream for good."""

    def begin(self, server: Server, path: str, **headers: str) -> list[dict[str, str]]:
        answer = server.get(path, accept=SSE, **headers)
        assert (answer.status, answer.whole) == (200, False)
        blocks = answer.body.decode().split("\n\n")[:-1]
        return [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]

    @pytest.mark.parametrize("by", ["header", "query"])
    def test_resumes_after_it(self, by: str) -> None:
        server = filled()
        last_id = cursor(server, 5)
        if by == "header":
            blocks = self.begin(server, "/channels/a", last_event_id=last_id)
        else:
            blocks = self.begin(server, f"/channels/a?lastEventId={last_id}")
        assert [json.loads(block["data"])["data"] for block in blocks[1:]] == [4, 5]
        assert blocks[0]["event"] == "pushserver-subscribed"
        assert blocks[0]["id"] == last_id

    def test_takes_precedence_over_since(self) -> None:
        server = filled()
        for query in ("since=oldest", "last=5"):
            path = f"/channels/a?{query}"
            blocks = self.begin(server, path, last_event_id=cursor(server, 10))
            assert len(blocks) == 1

    @pytest.mark.parametrize(
        ("last_id", "reason"),
        [
            ("x", "epoch"),
            ("other:5", "epoch"),
            ("{}:11", "ahead"),
            ("{}:1", "evicted"),
            ("e:" + "9" * 30, "epoch"),
            ("\\xff\\xfe", "epoch"),
        ],
    )
    def test_that_cannot_be_resumed_causes_a_reset_in_the_stream(
        self, last_id: str, reason: str
    ) -> None:
        server = filled(5, ChannelOptions(history_size=2))
        last_id = last_id.replace("{}", server.hub.history.epoch)
        [block] = self.begin(server, "/channels/a", last_event_id=last_id)
        assert block["event"] == "pushserver-reset"
        received = json.loads(block["data"])
        assert (received["reason"], received["id"]) == (reason, cursor(server, 10))
        assert block["id"] == received["id"]


class TestSeveralChannels:
    def test_are_one_stream_in_the_order_of_publication(self) -> None:
        server = filled(2)
        line = server.open("/events?channel=a&channel=b&since=oldest", accept=LINES)
        server.publish("b", 9)
        server.publish("c", 8)
        server.publish("a", 7)
        received = [json.loads(text) for text in line.response().body.splitlines()]
        begun = [note["subscribed"]["channel"] for note in received[:2]]
        assert begun == ["a", "b"]
        assert [note["data"] for note in received[2:]] == [1, -1, 2, -2, 9, 7]
        line.vanish()
        assert server.is_empty()

    @pytest.mark.parametrize("upgrade", [False, True])
    def test_resume_from_one_cursor(self, upgrade: bool) -> None:
        server = filled(3)
        path = f"/events?channel=a&channel=b&since={cursor(server, 3)}"
        if upgrade:
            texts = [frame.payload for frame in server.websocket(path).seen]
        else:
            texts = server.get(path, accept=LINES).body.splitlines()
        received = [json.loads(text) for text in texts]
        assert [note["subscribed"]["recovered"] for note in received[:2]] == [True, True]
        assert [note["subscribed"]["offset"] for note in received[:2]] == [2, 1]
        assert [note["data"] for note in received[2:]] == [-2, 3, -3]

    def test_may_be_named_twice(self) -> None:
        server = filled(1)
        line = server.open("/events?channel=a&channel=a", accept=LINES)
        server.publish("a", 2)
        assert len(line.response().body.splitlines()) == 2

    @pytest.mark.parametrize("query", ["", "channel=", "channel=a%20b", "channel=%FF", "name=a"])
    def test_with_invalid_names_are_refused(self, query: str) -> None:
        assert filled(1).get(f"/events?{query}", accept=SSE).error[0] == 400

    def test_over_the_limit_are_refused_with_the_limit(self) -> None:
        server = Server(Limits(channels_per_client=2))
        assert server.get("/events?channel=a&channel=b", accept=SSE).status == 200
        status, message = server.get("/events?channel=a&channel=b&channel=c", accept=SSE).error
        assert status == 400
        assert "3 channels, expected 1 to 2" in message

    def test_have_no_json(self) -> None:
        assert Server().get("/events?channel=a", accept="application/json").status == 406

    def test_are_a_page_for_a_browser_and_a_stream_for_all_others(self) -> None:
        server = Server()
        page = server.get("/events?channel=a&channel=b:c&view=table", accept=BROWSER)
        assert (page.status, page.headers["content-type"]) == (200, ["text/html; charset=utf-8"])
        assert any("Accept" in value.split(", ") for value in page.headers["vary"])
        assert b'data-channels="a b:c" data-root="."' in page.body
        assert b'<a href="./channels/b%3Ac">b:c</a>' in page.body
        for accept in (SSE, "*/*", LINES, f"{SSE}, text/html;q=0.9"):
            answer = server.get("/events?channel=a&channel=b", accept=accept)
            assert answer.headers["content-type"] in ([SSE], [LINES])
        bare = server.get("/events?channel=a&as=data", accept=BROWSER)
        assert bare.headers["content-type"] == [SSE]
        assert server.get("/events?channel=a%20b", accept=BROWSER).status == 400
        assert server.get("/events", accept=BROWSER).status == 400
        many = "&".join(f"channel=c{n}" for n in range(33))
        refused = server.get(f"/events?{many}", accept=BROWSER)
        assert b"33 channels, expected 1 to 32" in refused.body


def test_a_stream_of_lines_gets_the_reason_of_its_reset() -> None:
    server = filled(5, ChannelOptions(recovery_limit=2))
    body = server.get(f"/channels/a?since={cursor(server, 0)}", accept=LINES).body
    received = [json.loads(text) for text in body.splitlines()]
    assert [set(note) for note in received] == [{"subscribed"}, {"reset"}]
    assert received[0]["subscribed"]["recovered"] is False
    assert received[1]["reset"]["reason"] == "limit"
    assert received[1]["reset"]["id"] == received[0]["subscribed"]["id"] == cursor(server, 10)
    assert server.hub.metrics.recoveries == {"limit": 1}


class TestWhileTheServerStops:
    """A native EventSource never retries after another status than 200."""

    @pytest.mark.parametrize("path", ["/channels/a", "/events?channel=a", "/channels/a?since=x:1"])
    def test_a_stream_is_answered_with_200_or_the_end_of_the_connection(self, path: str) -> None:
        server = filled(1)
        server.node.stop_publishing()
        assert server.get(path, accept=SSE).status == 200

    def test_history_can_be_read(self) -> None:
        server = filled(1)
        server.node.stop_publishing()
        assert data(server.get("/channels/a")) == [1]


QUERIES = st.lists(
    st.tuples(
        st.sampled_from(["since", "last", "limit", "event", "lastEventId", "channel", "format"]),
        st.text(max_size=12)
        | st.sampled_from(["now", "oldest", "0", "-1", "5", "e:1", "9" * 40])
        | st.integers().map(str),
    ),
    max_size=4,
)


@given(
    query=QUERIES,
    path=st.sampled_from(["/channels/a", "/events", "/channels/", "/", "/connection/sse"]),
    accept=st.sampled_from(["*/*", SSE, LINES, "text/html", "image/png", ";;q=x,"]),
    last_id=st.text(max_size=8),
)
def test_any_query_is_answered_with_2xx_or_4xx_and_a_reason(
    query: list[tuple[str, str]], path: str, accept: str, last_id: str
) -> None:
    server = filled(1)
    header = last_id.encode().decode("latin-1")
    printable = header if header.isprintable() else ""
    target = f"{path}?{urlencode(query)}"
    answer = server.get(target, accept=accept, last_event_id=printable)
    assert answer.status in (200, 400, 404, 406), answer
    if answer.status >= 400 and "json" in answer["content-type"]:
        assert answer.error[1]
    assert server.is_empty()


def test_a_websocket_may_use_last() -> None:
    server = filled(3)
    seen = server.websocket("/channels/a?last=2").seen
    assert [json.loads(frame.payload).get("data") for frame in seen] == [None, 2, 3]


@pytest.mark.parametrize("path", ["/channels/numbers", "/", "/channels/numbers/permissions"])
def test_pages_of_a_channel_have_the_position_for_those_who_may_read_it(path: str) -> None:
    for rule, key, seen in (
        ("anyone", "", True),
        ("users", "", False),
        ("key", "", False),
        ("key", "k" * 20, True),
    ):
        channels: dict[str, dict[str, Any]] = {"numbers": {"subscribe": rule}}
        server = Server(config=Config(channels=channels, auth=Auth(api_keys=["k" * 20])))
        server.publish("numbers")
        answer = server.get(path, accept=BROWSER, x_api_key=key)
        assert answer.status == 200
        assert ("pushserver-cursor" in answer) == seen, rule
        if not seen:
            continue
        cursor = answer["pushserver-cursor"]
        assert cursor == f"{server.hub.history.epoch}:1"
        server.publish("numbers", "between")
        stream = f"/channels/numbers?since={cursor}"
        line = server.open(stream, accept="text/event-stream", x_api_key=key)
        assert parse(line.take()).body.count(b'"between"') == 1
        if path == "/":
            known = server.get(path, accept=BROWSER, x_api_key=key, if_none_match=answer["etag"])
            assert (known.status, known["pushserver-cursor"]) == (304, cursor[:-1] + "2")


def test_a_long_poll_has_the_position_in_the_header(server: Server) -> None:
    server.publish("a", 'id":"x:1')
    cursor = server.get("/channels/a")["pushserver-cursor"]
    line = server.open(f"/channels/a?since={cursor}&wait=5")
    server.publish("a", {"id": "y:9"})
    answer = line.response("GET")
    assert answer["pushserver-cursor"] == answer.json["id"] == cursor[:-1] + "2"
    line = server.open(f"/channels/a?since={answer.json['id']}&wait=5")
    server.advance(6)
    answer = line.response("GET")
    assert answer["pushserver-cursor"] == answer.json["id"] == cursor[:-1] + "2"


def test_position_is_in_the_headers_too(server: Server) -> None:
    for number in range(3):
        server.publish("a", number)
    for query in ("", "?last=1", "?limit=2", "?since=now"):
        answer = server.get(f"/channels/a{query}")
        assert answer["pushserver-cursor"] == answer.json["id"]
        assert "pushserver-reset" not in answer.headers
    answer = server.get("/channels/a?since=gone:1")
    assert answer["pushserver-reset"] == answer.json["reason"] == "epoch"
    assert server.get("/channels/a", "HEAD")["pushserver-cursor"] == answer.json["id"]
