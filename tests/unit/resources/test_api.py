from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.channels.channel import ChannelOptions
from pushserver.config.limits import Limits
from pushserver.config.settings import Auth, Config
from pushserver.resources import api_methods
from pushserver.resources.api_methods import MAX_CHANNELS, MAX_COMMANDS, MAX_PATTERN, METHODS
from tests.unit.fakes.tokens import NOW
from tests.unit.fakes.tools import Client
from tests.unit.fakes.web import Response, Server, request

KEY = "s3cret"


def post(server: Server, method: str, body: bytes, **headers: str) -> Response:
    return server.get(f"/api/{method}", "POST", body, **headers)


def call(server: Server, method: str, **fields: object) -> Any:
    """The answer to a call, which is 200 even for an error."""
    answer = post(server, method, json.dumps(fields).encode())
    assert answer.status == 200, answer
    assert len(answer.json) == 1
    return answer.json


def result(server: Server, method: str, **fields: object) -> Any:
    return call(server, method, **fields)["result"]


def error(server: Server, method: str, **fields: object) -> tuple[int, str]:
    answer = call(server, method, **fields)["error"]
    return answer["code"], answer["message"]


def rows(server: Server, channel: str = "a") -> list[Any]:
    return [json.loads(row.data) for row in server.hub.history.peek(channel).after(0)]


def subscribed(server: Server, *channels: str) -> Client:
    client = Client(server.node)
    for channel in channels:
        client.command("subscribe", channel=channel)
    return client


class TestPublish:
    def test_is_answered_with_the_position(self) -> None:
        server = Server()
        for offset in (1, 2):
            answer = result(server, "publish", channel="a", data={"n": offset})
            assert answer == {"offset": offset, "epoch": server.hub.history.epoch}
        assert rows(server) == [{"n": 1}, {"n": 2}]

    def test_names_the_event_by_a_field_or_by_a_tag(self) -> None:
        server = Server()
        result(server, "publish", channel="a", data=1)
        result(server, "publish", channel="a", data=1, event="e1")
        result(server, "publish", channel="a", data=1, tags={"event": "e2", "colour": "red"})
        result(server, "publish", channel="a", data=1, event="e3", tags={"colour": "red"})
        published = server.hub.history.peek("a").after(0)
        assert [(row.event, row.tags) for row in published] == [
            ("message", None),
            ("e1", None),
            ("e2", {"colour": "red"}),
            ("e3", {"colour": "red"}),
        ]

    def test_twice_with_one_key_publishes_once(self) -> None:
        server = Server()
        answer = [
            result(server, "publish", channel="a", data=n, idempotency_key="k") for n in range(3)
        ]
        assert answer[0] == answer[1] == answer[2]
        assert rows(server) == [0]

    @pytest.mark.parametrize(
        ("fields", "code", "problem"),
        [
            ({"data": 1}, 107, "channel"),
            ({"channel": "a"}, 107, "data"),
            ({"channel": 1, "data": 1}, 107, "$.channel"),
            ({"channel": "a b", "data": 1}, 107, "1 to 128 characters"),
            ({"channel": "", "data": 1}, 107, "1 to 128 characters"),
            ({"channel": "a", "data": 1, "event": ""}, 107, "event name"),
            ({"channel": "a", "data": 1, "tags": {"event": "\n"}}, 107, "event name"),
            ({"channel": "a", "data": 1, "tags": {"a": 1}}, 107, "$.tags"),
            ({"channel": "a", "data": 1, "idempotency_key": "é"}, 107, "idempotency key"),
            ({"channel": "a", "data": 1, "bogus": 1}, 107, "bogus"),
            ({"channel": "a", "data": 1, "skip_history": True}, 108, "skip_history"),
            ({"channel": "a", "data": "", "b64data": "AA=="}, 108, "b64data"),
        ],
    )
    def test_names_the_wrong_field(
        self, fields: dict[str, object], code: int, problem: str
    ) -> None:
        server = Server()
        answer = error(server, "publish", **fields)
        assert answer[0] == code
        assert problem in answer[1]
        assert rows(server) == []

    @pytest.mark.parametrize(
        ("data", "problem"),
        [
            (b"1e999", "beyond the range"),
            (b'{"a":1,"a":2}', "'a' appears twice"),
            (b"[" * 101 + b"]" * 101, "nested deeper"),
            (b'"\xff"', "invalid UTF-8"),
        ],
    )
    def test_refuses_invalid_data(self, data: bytes, problem: str) -> None:
        server = Server()
        answer = post(server, "publish", b'{"channel":"a","data":%b}' % data)
        assert answer.status == 200
        assert answer.json["error"]["code"] == 107
        assert problem in answer.json["error"]["message"]
        assert rows(server) == []

    def test_is_unavailable_while_the_server_stops(self) -> None:
        server = Server()
        server.node.stop_publishing()
        answer = call(server, "publish", channel="a", data=1)["error"]
        assert (answer["code"], answer["message"]) == (100, "the server is shutting down")


class TestBroadcast:
    def test_publishes_to_each_channel(self) -> None:
        server = Server()
        server.publish("b")
        answer = result(server, "broadcast", channels=["a", "b"], data=7)
        offsets = [response["result"]["offset"] for response in answer["responses"]]
        assert offsets == [1, 2]
        assert rows(server) == [7]

    def test_twice_with_one_key_publishes_once_in_each(self) -> None:
        server = Server()
        for _ in range(2):
            result(server, "broadcast", channels=["a", "b"], data=7, idempotency_key="k")
        assert rows(server) == rows(server, "b") == [7]

    def test_publishes_nothing_if_one_channel_is_invalid(self) -> None:
        server = Server()
        assert error(server, "broadcast", channels=["a", "b c"], data=7)[0] == 107
        assert rows(server) == []

    def test_answers_for_each_channel(self) -> None:
        server = Server(Limits(idempotency_keys=1))
        answer = result(server, "broadcast", channels=["a", "b"], data=7, idempotency_key="k")
        first, second = answer["responses"]
        assert first["result"]["offset"] == 1
        assert second["error"]["code"] == 100
        assert "idempotency_keys" in second["error"]["message"]

    def test_has_a_bound(self) -> None:
        answer = error(Server(), "broadcast", channels=["a"] * (MAX_CHANNELS + 1), data=1)
        assert answer == (107, f"bad request: {MAX_CHANNELS + 1} channels, expected 1000 at most")


class TestHistory:
    def filled(self) -> Server:
        server = Server()
        for n in range(1, 6):
            server.publish("a", n)
        return server

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({}, []),
            ({"limit": 0}, []),
            ({"limit": -1}, [1, 2, 3, 4, 5]),
            ({"limit": 2}, [1, 2]),
            ({"limit": 2, "reverse": True}, [5, 4]),
            ({"limit": -1, "since": {"offset": 3}}, [4, 5]),
            ({"limit": -1, "since": {"offset": 3}, "reverse": True}, [2, 1]),
            ({"limit": 1, "since": {"offset": 3, "epoch": ""}}, [4]),
            ({"limit": 99, "since": {"offset": 99}}, []),
            ({"limit": None, "since": None, "reverse": None}, []),
            ({"limit": -1, "since": {"offset": 99}, "reverse": True}, [5, 4, 3, 2, 1]),
        ],
    )
    def test_returns_the_requested_part(
        self, fields: dict[str, object], expected: list[int]
    ) -> None:
        server = self.filled()
        answer = result(server, "history", channel="a", **fields)
        assert [p["data"] for p in answer.get("publications", [])] == expected
        assert (answer["offset"], answer["epoch"]) == (5, server.hub.history.epoch)

    def test_of_another_epoch_is_an_error(self) -> None:
        since = {"offset": 1, "epoch": "other"}
        code, message = error(self.filled(), "history", channel="a", limit=-1, since=since)
        assert code == 112
        assert "'other'" in message

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"limit": -2}, "limit is -2"),
            ({"limit": 1.5}, "$.limit"),
            ({"limit": "1"}, "$.limit"),
            ({"since": 5}, "$.since"),
            ({"since": {"offset": -1}}, "$.since.offset"),
            ({"since": {"offset": "1"}}, "$.since.offset"),
            ({"since": {"epoch": 1}}, "$.since.epoch"),
            ({"reverse": 1}, "$.reverse"),
        ],
    )
    def test_names_the_wrong_field(self, fields: dict[str, object], field: str) -> None:
        code, message = error(self.filled(), "history", channel="a", **fields)
        assert code == 107
        assert field in message

    def test_accepts_huge_numbers(self) -> None:
        since = {"offset": 10**30}
        answer = call(self.filled(), "history", channel="a", limit=10**30, since=since)
        assert answer.keys() <= {"result", "error"}

    def test_can_be_removed_and_the_offsets_continue(self) -> None:
        server = self.filled()
        assert result(server, "history_remove", channel="a") == {}
        assert rows(server) == []
        assert result(server, "publish", channel="a", data=6)["offset"] == 6
        assert server.hub.metrics.evictions == 5

    def test_can_be_removed_when_empty(self) -> None:
        server = Server()
        assert result(server, "history_remove", channel="a") == {}
        assert not server.hub.history.channels


class TestPresence:
    def test_returns_the_clients_and_their_number(self) -> None:
        server = Server()
        clients = [subscribed(server, "a"), subscribed(server, "a", "b")]
        answer = result(server, "presence", channel="a")["presence"]
        ids = {client.session.info.client for client in clients}
        assert answer.keys() == ids
        assert {info["client"] for info in answer.values()} == ids
        assert {info["user"] for info in answer.values()} == {""}
        counted = result(server, "presence_stats", channel="a")
        assert counted == {"num_clients": 2, "num_users": 1}

    def test_without_clients_is_empty(self) -> None:
        server = Server()
        assert result(server, "presence", channel="a") == {"presence": {}}
        assert result(server, "presence_stats", channel="a") == {"num_clients": 0, "num_users": 0}

    @pytest.mark.parametrize("method", ["presence", "presence_stats", "history_remove"])
    def test_needs_a_valid_channel(self, method: str) -> None:
        assert error(Server(), method)[0] == 107
        assert "1 to 128 characters" in error(Server(), method, channel="a b")[1]


class TestChannels:
    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            (None, {"chat:a": 1, "chat:b": 2, "chat:log": 0, "news": 1}),
            ("", {"chat:a": 1, "chat:b": 2, "chat:log": 0, "news": 1}),
            ("*", {"chat:a": 1, "chat:b": 2, "chat:log": 0, "news": 1}),
            ("chat:*", {"chat:a": 1, "chat:b": 2, "chat:log": 0}),
            ("chat:?", {"chat:a": 1, "chat:b": 2}),
            ("CHAT:*", {}),
            ("news", {"news": 1}),
            ("[", {}),
        ],
    )
    def test_are_those_with_subscribers_or_publications(
        self, pattern: str | None, expected: dict[str, int]
    ) -> None:
        server = Server()
        server.publish("chat:log")
        clients = [subscribed(server, "chat:a", "chat:b"), subscribed(server, "chat:b", "news")]
        answer = result(server, "channels", pattern=pattern)["channels"]
        assert {name: info["num_clients"] for name, info in answer.items()} == expected
        assert all(client.closed is None for client in clients)

    @pytest.mark.parametrize("pattern", ["*a" * 129, "[" * 257, "?" * 1_000_000])
    def test_refuse_a_long_pattern(self, pattern: str) -> None:
        code, message = error(Server(), "channels", pattern=pattern)
        expected = f"pattern: {len(pattern)} characters, expected {MAX_PATTERN} at most"
        assert (code, message) == (107, f"bad request: {expected}")


def test_a_broadcast_keeps_one_copy_of_data_and_tags() -> None:
    server = Server()
    names = [f"c{n}" for n in range(10)]
    result(server, "broadcast", channels=names, data="x" * 1_000, tags={"a": "b"})
    kept = [server.hub.history.peek(name).last(1)[0] for name in names]
    assert len({id(row.data) for row in kept}) == 1
    assert len({id(row.tags) for row in kept}) == 1
    assert [row.channel for row in kept] == names


def test_info_counts_clients_and_channels() -> None:
    server = Server()
    clients = [subscribed(server, "a", "b"), subscribed(server, "a")]
    server.publish("a")
    server.clock.advance(5)
    [node] = result(server, "info")["nodes"]
    metrics = node.pop("metrics")["items"]
    assert metrics["publications"] == 1
    assert metrics["deliveries"] == 2
    assert node == {
        "uid": server.hub.history.epoch,
        "name": "pushserver",
        "version": server.node.version,
        "num_clients": 2,
        "num_users": 1,
        "num_subs": 3,
        "num_channels": 2,
        "uptime": 5,
        "sources": [],
    }
    assert all(client.closed is None for client in clients)


class TestDisconnect:
    def test_disconnect_ends_every_connection_of_the_user(self) -> None:
        server = Server()
        clients = [subscribed(server, "a"), subscribed(server)]
        assert result(server, "disconnect", user="") == {}
        assert [client.closed for client in clients] == [(3503, "force disconnect")] * 2
        assert server.hub.metrics.ended == {"3503": 2}

    def test_disconnect_ends_one_connection_with_a_code(self) -> None:
        server = Server()
        one, other = subscribed(server), subscribed(server)
        said = {"code": 4500, "reason": "go home"}
        result(server, "disconnect", user="", client=one.session.info.client, disconnect=said)
        assert one.closed == (4500, "go home")
        assert other.closed is None

    def test_disconnect_spares_a_whitelist(self) -> None:
        server = Server()
        one, other = subscribed(server), subscribed(server)
        result(server, "disconnect", user="", whitelist=[one.session.info.client])
        assert one.closed is None
        assert other.closed is not None

    def test_disconnect_leaves_other_users_alone(self) -> None:
        server = Server()
        client = subscribed(server)
        assert result(server, "disconnect", user="somebody") == {}
        assert client.closed is None

    @pytest.mark.parametrize("code", [-1, 1, 1000, 2999, 5000])
    def test_disconnect_accepts_only_codes_of_clients(self, code: int) -> None:
        answer = error(Server(), "disconnect", user="", disconnect={"code": code})
        assert answer == (107, f"bad request: disconnect.code is {code}, expected 3000 to 4999")

    def test_unsubscribe_takes_a_user_out_of_a_channel(self) -> None:
        server = Server()
        client = subscribed(server, "a", "b")
        client.transport.take()
        assert result(server, "unsubscribe", user="", channel="a") == {}
        [push] = client.pushes()
        assert (push["channel"], push["unsubscribe"]["code"]) == ("a", 2000)
        assert push["unsubscribe"]["reason"]
        assert server.hub.channels() == {"b": 1}
        assert client.closed is None

    def test_unsubscribe_takes_out_one_connection(self) -> None:
        server = Server()
        one, other = subscribed(server, "a"), subscribed(server, "a")
        result(server, "unsubscribe", user="", channel="a", client=one.session.info.client)
        [left] = server.hub.subscribers("a")
        assert left is other.session

    @pytest.mark.parametrize("method", ["disconnect", "unsubscribe"])
    def test_needs_a_user(self, method: str) -> None:
        fields = {"channel": "a"} if method == "unsubscribe" else {}
        code, message = error(Server(), method, **fields)
        assert code == 107
        assert "user" in message


def replies(server: Server, *commands: object, **more: object) -> Any:
    """The replies to the commands of a batch."""
    answer = call(server, "batch", commands=commands, **more)
    return answer["replies"]


class TestBatch:
    def test_runs_in_order(self) -> None:
        server = Server()
        commands = [
            {"publish": {"channel": "a", "data": 1}},
            {"publish": {"channel": "a", "data": 2}},
            {"history": {"channel": "a", "limit": -1}},
            {"channels": {}},
        ]
        answer = replies(server, *commands, parallel=True)
        assert [list(reply) for reply in answer] == [
            ["publish"],
            ["publish"],
            ["history"],
            ["channels"],
        ]
        assert [p["data"] for p in answer[2]["history"]["publications"]] == [1, 2]

    def test_histories_have_a_bound_in_bytes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(api_methods, "MAX_BATCH_BYTES", 7_000)
        server = Server()
        for n in range(10):
            server.publish("a", [n, "." * 100])
        history = {"history": {"channel": "a", "limit": -1}}
        answer = replies(server, *[history] * 5, {"publish": {"channel": "a", "data": 1}}, history)
        lengths = [len(r["history"]["publications"]) if "history" in r else 0 for r in answer]
        assert lengths == [10, 10, 10, 0, 0, 0, 0]
        assert "publish" in answer[5]
        assert {answer[n]["error"]["code"] for n in (3, 4, 6)} == {106}

    def test_tags_count_in_this_bound(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(api_methods, "MAX_BATCH_BYTES", 7_000)
        server = Server()
        result(server, "publish", channel="a", data=1, tags={"t": "x" * 10_000})
        answer = replies(server, *[{"history": {"channel": "a", "limit": -1}}] * 3)
        assert [list(reply) for reply in answer] == [["history"], ["error"], ["error"]]

    def test_answers_for_each_command(self) -> None:
        server = Server()
        commands: list[dict[str, object]] = [
            {"publish": {"channel": "a b", "data": 1}},
            {"nothing": {}},
            {"publish": {}, "history": {}},
            {},
            {"batch": {"commands": []}},
            {"publish": 7},
            {"publish": {"channel": "a", "data": 1}},
        ]
        answer = replies(server, *commands)
        codes = [reply["error"]["code"] for reply in answer[:-1]]
        assert codes == [107, 104, 104, 104, 104, 107]
        assert answer[-1]["publish"]["offset"] == 1

    def test_has_a_bound(self) -> None:
        answer = error(Server(), "batch", commands=[{}] * (MAX_COMMANDS + 1))
        assert answer == (107, f"bad request: {MAX_COMMANDS + 1} commands, expected 1000 at most")


class TestTheResource:
    @pytest.mark.parametrize("method", ["bogus", "", "Publish", "connections", "%FF", "x" * 5_000])
    def test_an_unknown_method_is_404_with_the_known_ones(self, method: str) -> None:
        status, message = post(Server(), method, b"{}").error
        assert status == 404
        assert "expected one of publish, broadcast, batch" in message
        assert len(message) < 300

    def test_a_path_below_a_method_is_404(self) -> None:
        assert post(Server(), "publish/x", b"{}").status == 404

    @pytest.mark.parametrize(
        "body",
        [
            b"[]",
            b"7",
            b"null",
            b"x",
            b"{",
            b'{"a":NaN}',
            b"\xff",
            b"[" * 200_000,
            b'{"a"}',
            rb'{"a": "\ud800"}',
        ],
    )
    def test_a_body_that_is_no_object_is_400(self, body: bytes) -> None:
        status, message = post(Server(), "publish", body).error
        assert status == 400
        assert "the body is no JSON object" in message
        assert "lone surrogate" in message or b"ud800" not in body

    def test_a_compressed_body_is_415(self) -> None:
        status, message = post(Server(), "info", b"\x1f\x8b", content_encoding="gzip").error
        assert (status, "content-encoding gzip" in message) == (415, True)

    def test_a_byte_order_mark_is_left_out(self) -> None:
        body = b'\xef\xbb\xbf{"channel": "a", "data": 1}'
        assert post(Server(), "publish", body).status == 200

    @pytest.mark.parametrize(
        "body",
        [
            b'{"\xff":1}',
            b'{"channel":"\xff","data":1}',
            b'{"channel":"a","data":1,"event":"\xff"}',
            b'{"channel":"a","data":1,"\xff":1}',
        ],
    )
    def test_invalid_utf8_is_the_callers_fault(self, body: bytes) -> None:
        answer = post(Server(), "publish", body)
        assert answer.status in (200, 400)
        assert "error" in answer.json

    @pytest.mark.parametrize("method", METHODS)
    def test_no_body_is_an_empty_object(self, method: str) -> None:
        answer = post(Server(), method, b"")
        assert answer.status == 200
        assert ("result" in answer.json) is (method in ("channels", "info", "top", "nodes"))

    def test_get_is_405(self) -> None:
        answer = Server().get("/api/info")
        assert (answer.status, answer["allow"]) == (405, "POST")

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({}, 200),
            ({"x_api_key": KEY}, 200),
            ({"authorization": f"apikey {KEY}"}, 200),
            ({"x_api_key": "wrong"}, 401),
            ({"x_forwarded_for": "1.2.3.4"}, 401),
            ({"origin": "http://evil.example"}, 403),
            ({"host": "evil.example"}, 403),
        ],
    )
    def test_has_the_access_rules_of_publishing(self, headers: dict[str, str], status: int) -> None:
        server = Server(config=Config(auth=Auth([KEY], local_without_key=True)))
        assert post(server, "info", b"{}", **headers).status == status

    def test_refuses_other_machines_without_a_key(self) -> None:
        server = Server()
        line = server.connect("10.0.0.1")
        line.send(request("/api/info", "POST", b"{}"))
        assert line.response().status == 401

    def test_the_key_is_checked_before_the_method(self) -> None:
        assert post(Server(), "bogus", b"{", x_api_key="wrong").status == 401


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["a", "b", "", "a b"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["offset", "epoch", "code", "event", "x"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
FIELDS = sorted({field for method in METHODS.values() for field in method.kind.__struct_fields__})
CALLS = st.dictionaries(st.sampled_from([*FIELDS, "bogus"]), VALUES, max_size=6)


@given(method=st.sampled_from(sorted(METHODS)), fields=CALLS)
def test_any_call_is_answered_with_a_result_or_an_error(
    method: str, fields: dict[str, object]
) -> None:
    server = Server()
    subscribed(server, "a")
    answer = post(server, method, json.dumps(fields).encode())
    assert answer.status == 200
    [(what, content)] = answer.json.items()
    if what == "error":
        assert content["code"] in (100, 102, 106, 107, 108, 112)
        assert content["message"]
    else:
        assert what == "result"


@given(
    commands=st.lists(
        st.dictionaries(st.sampled_from(sorted(METHODS)), VALUES, max_size=2), min_size=1
    ),
)
def test_any_batch_is_answered_one_by_one(
    commands: list[dict[str, object]],
) -> None:
    assert len(replies(Server(), *commands)) == len(commands)


class TestSubscribe:
    def test_puts_the_connections_of_the_user_into_the_channel(self) -> None:
        server = Server()
        server.publish("a", "first")
        clients = [Client(server.node) for _ in range(2)]
        unconnected = Client(server.node, connect=False)
        assert result(server, "subscribe", user="", channel="a") == {}
        server.publish("a", "second")
        for client in clients:
            first, *rows = client.pushes()
            assert first["subscribe"]["recoverable"] is True
            assert [row["pub"]["data"] for row in rows] == ["first", "second"]
        # Its user is not known yet.
        assert (unconnected.pushes(), unconnected.session.invited) == ([], set())
        assert server.hub.size("a") == 2

    @pytest.mark.parametrize("how", ["client", "session"])
    def test_or_one_connection(self, how: str) -> None:
        server = Server()
        others, client = Client(server.node), Client(server.node)
        client.session.secret = "s"
        server.node.sessions.identify(client.session)
        value = client.session.info.client if how == "client" else "s"
        assert result(server, "subscribe", user="", channel="a", **{how: value}) == {}
        assert client.session.channels == {"a"}
        assert others.session.channels == frozenset()

    @pytest.mark.parametrize("user", ["nobody", "anna"])
    def test_of_an_unknown_user_does_nothing(self, user: str) -> None:
        server = Server()
        client = Client(server.node)
        assert result(server, "subscribe", user=user, channel="a") == {}
        assert result(server, "refresh", user=user, expired=True) == {}
        assert (client.session.channels, client.closed) == (frozenset(), None)

    @pytest.mark.parametrize("data", [{"seat": 12}, 0, False, ""])
    def test_sends_the_data_in_the_push(self, data: object) -> None:
        server = Server()
        client = Client(server.node)
        result(server, "subscribe", user="", channel="a", data=data)
        [push] = client.pushes()
        assert push["subscribe"]["data"] == data

    def test_of_a_channel_that_the_client_is_in_does_nothing(self) -> None:
        server = Server()
        client = subscribed(server, "a")
        result(server, "subscribe", user="", channel="a", data=1, info=2)
        assert client.pushes() == []
        assert "chan_info" not in str(result(server, "presence", channel="a"))

    def test_info_is_in_presence_joins_leaves_and_publications(self) -> None:
        server = Server(options=ChannelOptions(client_publish=True))
        observer = Client(server.node)
        observer.command("subscribe", channel="a", join_leave=True)
        client = Client(server.node)
        name = client.session.info.client
        result(server, "subscribe", user="", client=name, channel="a", info={"name": "Ada"})
        info = {"user": "", "client": name, "chan_info": {"name": "Ada"}}
        assert result(server, "presence", channel="a")["presence"][name] == info
        client.command("publish", channel="a", data=1)
        client.command("publish", channel="b", data=1)
        assert result(server, "unsubscribe", user="", client=name, channel="a") == {}
        join, publication, leave = observer.pushes()
        assert join["join"]["info"] == leave["leave"]["info"] == info
        assert publication["pub"]["info"] == info
        [elsewhere] = server.hub.history.peek("b").after(0)
        assert elsewhere.info is not None
        assert elsewhere.info.chan_info == b""
        client.command("subscribe", channel="a")
        assert "chan_info" not in result(server, "presence", channel="a")["presence"][name]
        assert server.node.presence._infos == {}

    def test_info_is_forgotten_with_the_connection(self) -> None:
        server = Server()
        client = Client(server.node)
        result(server, "subscribe", user="", channel="a", info=1)
        client.session.closed()
        assert server.node.presence._infos == {}

    def test_recovers_since_a_position(self) -> None:
        server = Server()
        for n in range(4):
            server.publish("a", n)
        client = Client(server.node)
        since = {"offset": 2, "epoch": server.hub.history.epoch}
        result(server, "subscribe", user="", channel="a", recover_since=since)
        server.publish("a", 4)
        first, *rows = client.pushes()
        assert first["subscribe"]["offset"] == 2
        assert [row["pub"]["offset"] for row in rows] == [3, 4, 5]

    @pytest.mark.parametrize(
        ("since", "reason"),
        [
            ({"offset": 2, "epoch": "another"}, "epoch"),
            ({"offset": 9}, "ahead"),
            ({"offset": 0}, "evicted"),
        ],
    )
    def test_a_gap_is_told_to_the_caller(self, since: dict[str, object], reason: str) -> None:
        server = Server(options=ChannelOptions(history_size=2))
        for n in range(4):
            server.publish("a", n)
        client = Client(server.node)
        since = {"epoch": server.hub.history.epoch, **since}
        code, message = error(server, "subscribe", user="", channel="a", recover_since=since)
        assert (code, message) == (112, f"recover_since: unrecoverable position: {reason}")
        assert (client.pushes(), client.session.channels) == ([], frozenset())

    def test_the_zero_position_recovers_all_retained_publications(self) -> None:
        server = Server(options=ChannelOptions(history_size=2))
        for n in range(4):
            server.publish("a", n)
        client = Client(server.node)
        result(server, "subscribe", user="", channel="a", recover_since={"offset": 0})
        first, *rows = client.pushes()
        assert first["subscribe"]["offset"] == 2
        assert [row["pub"]["offset"] for row in rows] == [3, 4]

    def test_override_decides_on_joins_and_leaves(self) -> None:
        server = Server(options=ChannelOptions(force_push_join_leave=True))
        usual, without = Client(server.node), Client(server.node)
        for client, value in ((usual, True), (without, False)):
            result(
                server,
                "subscribe",
                user="",
                client=client.session.info.client,
                channel="a",
                override={"force_push_join_leave": {"value": value}},
            )
            client.pushes()
        usual.pushes()
        subscribed(server, "a")
        assert [list(push) for push in usual.pushes()] == [["channel", "join"]]
        assert without.pushes() == []

    @pytest.mark.parametrize(
        ("fields", "name"),
        [
            ({"b64info": "MQ=="}, "b64info"),
            ({"b64data": "MQ=="}, "b64data"),
            ({"override": {"presence": {"value": False}}}, "override.presence"),
            ({"override": {"join_leave": {}}}, "override.join_leave"),
            ({"override": {"force_positioning": {}}}, "override.force_positioning"),
            ({"override": {"force_recovery": {}}}, "override.force_recovery"),
        ],
    )
    def test_refuses_what_it_cannot_do(self, fields: dict[str, object], name: str) -> None:
        server = Server()
        client = Client(server.node)
        code, message = error(server, "subscribe", user="", channel="a", **fields)
        assert code == 108
        assert message.startswith(f"{name}: ")
        assert client.session.channels == frozenset()

    def test_ends_at_its_time(self) -> None:
        server = Server(wall=lambda: NOW + server.clock.seconds())
        client = Client(server.node)
        result(server, "subscribe", user="", channel="a", expire_at=int(NOW) + 5)
        assert client.session.grants["a"].expires == int(NOW) + 5
        for time in (-1, 1, int(NOW)):
            code, message = error(server, "subscribe", user="", channel="b", expire_at=time)
            assert (code, message) == (110, f"expire_at is {time}, expected a time to come")
        assert client.session.channels == {"a"}

    @pytest.mark.parametrize("method", ["subscribe", "refresh"])
    @pytest.mark.parametrize("time", [1_795_333_990_000, 10**18])
    def test_end_in_milliseconds_is_107(self, method: str, time: int) -> None:
        server = Server()
        client = Client(server.node)
        channel = {"channel": "a"} if method == "subscribe" else {}
        code, message = error(server, method, user="", expire_at=time, **channel)
        assert code == 107
        assert f"expire_at is {time}, " in message
        assert "expected Unix seconds, not milliseconds" in message
        assert (client.session.channels, client.session.expires) == (frozenset(), 0)

    def test_accepts_overrides_that_change_nothing(self) -> None:
        names = ("presence", "join_leave", "force_positioning", "force_recovery")
        override = {name: {"value": True} for name in names}
        assert result(Server(), "subscribe", user="", channel="a", override=override) == {}

    @pytest.mark.parametrize(
        "fields",
        [
            {"user": "", "channel": "no spaces"},
            {"channel": "a"},
            {"user": ""},
            {"user": "", "channel": "a", "recover_since": {"offset": -1}},
            {"user": "", "channel": "a", "override": {"presence": True}},
            {"user": "", "channel": "a", "expired": True},
        ],
    )
    def test_with_a_wrong_field_is_107(self, fields: dict[str, object]) -> None:
        assert error(Server(), "subscribe", **fields)[0] == 107


class TestRefresh:
    @pytest.mark.parametrize("fields", [{"expired": True}, {"expire_at": 1}])
    def test_of_an_expired_connection_ends_it(self, fields: dict[str, object]) -> None:
        server = Server()
        client, other = Client(server.node), Client(server.node)
        name = client.session.info.client
        assert result(server, "refresh", user="", client=name, **fields) == {}
        assert client.closed == (3005, "expired")
        assert other.closed is None

    @pytest.mark.parametrize("fields", [{}, {"expired": False}, {"expire_at": 0}])
    def test_of_another_changes_nothing(self, fields: dict[str, object]) -> None:
        server = Server()
        client = Client(server.node)
        assert result(server, "refresh", user="", **fields) == {}
        assert client.closed is None

    def test_to_a_later_time_is_the_end(self) -> None:
        server = Server()
        client = Client(server.node)
        assert result(server, "refresh", user="", expire_at=99_999_999_999) == {}
        assert client.session.expires == 99_999_999_999
        assert client.closed is None

    def test_without_a_user_is_107(self) -> None:
        assert error(Server(), "refresh", expired=True)[0] == 107


class TestDataInBase64:
    @pytest.mark.parametrize("fields", [{"channel": "a"}, {"channel": "a", "data": 1}])
    def test_is_not_available(self, fields: dict[str, object]) -> None:
        code, message = error(Server(), "publish", b64data="MQ==", **fields)
        assert (code, message) == (108, "b64data: not supported; data is JSON")

    def test_is_not_available_for_several_channels(self) -> None:
        assert error(Server(), "broadcast", channels=["a"], b64data="MQ==")[0] == 108

    def test_a_publication_without_data_is_107(self) -> None:
        for method, fields in (("publish", {"channel": "a"}), ("broadcast", {"channels": ["a"]})):
            code, message = error(Server(), method, **fields)
            assert (code, message) == (107, "bad request: Object missing required field `data`")


@pytest.mark.parametrize("disconnect", [{}, {"code": 0, "reason": ""}])
def test_empty_disconnect_object_has_the_usual_code(disconnect: dict[str, object]) -> None:
    server = Server()
    client = Client(server.node)
    result(server, "disconnect", user="", disconnect=disconnect)
    assert client.closed == (3503, "force disconnect")
