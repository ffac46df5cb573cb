from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.channels.channel import ChannelOptions
from pushserver.config.limits import Limits
from pushserver.config.settings import Config
from pushserver.config.settings import Server as Settings
from tests.unit.fakes.web import BROWSER, Line, Response, Server, handshake, parse

CONNECT = {"id": 1, "connect": {}}
SUBSCRIBE = {"id": 2, "subscribe": {"channel": "a"}}
SSE = "text/event-stream"


def lines(*commands: Any) -> bytes:
    """Commands as a client sends them."""
    return b"\n".join(c if isinstance(c, bytes) else json.dumps(c).encode() for c in commands)


class Fallback:
    """A client that reads an endless response, and sends its commands as requests."""

    def __init__(self, server: Server, how: str, *commands: Any, **headers: str):
        self.server = server
        self.how = how
        first, *rest = commands or (CONNECT,)
        if how != "sse":
            first, rest = lines(first, *rest), []
        self.line = open_fallback(server, how, lines(first), **headers)
        self._data = b""
        self._read = 0
        if rest:
            # A GET may contain only the connect command.
            [reply] = json.loads(b"[" + self.response().body.removeprefix(b"data: ") + b"]")
            assert self.send(reply["connect"]["session"], *rest).status == 204

    def response(self) -> Response:
        """The answer so far."""
        self._data += self.line.take()
        return parse(self._data)

    def take(self) -> list[Any]:
        """The objects since the last call."""
        body = self.response().body
        new, self._read = body[self._read :], len(body)
        if self.how == "http_stream":
            return [json.loads(line) for line in new.splitlines()]
        blocks = new.decode().split("\n\n")[:-1]
        return [json.loads(block.removeprefix("data: ")) for block in blocks]

    def send(self, session: str, *commands: Any) -> Response:
        """Send commands by /emulation."""
        body = {"session": session, "node": "n", "data": lines(*commands).decode()}
        return self.server.get("/emulation", "POST", json.dumps(body).encode())

    @property
    def ended(self) -> bool:
        """Whether the server has ended the response."""
        return self.response().whole


def open_fallback(server: Server, how: str, commands: bytes, **headers: str) -> Line:
    if how == "sse":
        path = f"/connection/sse?{urlencode({'cf_connect': commands})}"
        return server.open(path, accept=SSE, **headers)
    if how == "sse_post":
        return server.open("/connection/sse", "POST", commands, **headers)
    return server.open("/connection/http_stream", "POST", commands, **headers)


HOWS = ["sse", "sse_post", "http_stream"]


@pytest.mark.parametrize("how", HOWS)
class TestWhereWebSocketsAreBlocked:
    def test_the_first_commands_come_with_the_request(self, how: str) -> None:
        server = Server()
        server.publish("a", 7)
        client = Fallback(server, how, CONNECT, SUBSCRIBE)
        connected, subscribed = client.take()
        assert connected["id"] == 1
        assert connected["connect"]["session"]
        assert connected["connect"]["node"] == server.hub.history.epoch
        assert connected["connect"]["session"] != connected["connect"]["client"]
        assert [p["data"] for p in subscribed["subscribe"]["publications"]] == [7]
        answer = client.response()
        assert (answer.status, answer.whole) == (200, False)
        assert answer["cache-control"] == "no-store"
        assert answer["x-accel-buffering"] == "no"
        expected = "application/json" if how == "http_stream" else SSE
        assert answer["content-type"].startswith(expected)

    def test_later_commands_come_as_requests(self, how: str) -> None:
        server = Server()
        client = Fallback(server, how)
        session = client.take()[0]["connect"]["session"]
        answer = client.send(session, SUBSCRIBE, {"id": 3, "ping": {}})
        assert (answer.status, answer.body) == (204, b"")
        assert [reply["id"] for reply in client.take()] == [2, 3]
        server.publish("a", 7)
        [push] = client.take()
        assert push["push"]["pub"]["data"] == 7

    def test_a_new_session_recovers(self, how: str) -> None:
        server = Server()
        for n in range(3):
            server.publish("a", n)
        position = {"recover": True, "epoch": server.hub.history.epoch, "offset": 1}
        client = Fallback(
            server, how, CONNECT, {"id": 2, "subscribe": {"channel": "a", **position}}
        )
        subscribed = client.take()[1]["subscribe"]
        assert subscribed["recovered"] is True
        assert [p["data"] for p in subscribed["publications"]] == [1, 2]

    def test_pings_are_sent_and_pongs_come_as_requests(self, how: str) -> None:
        server = Server(Limits(ping_seconds=5.0, pong_seconds=3.0))
        client = Fallback(server, how)
        session = client.take()[0]["connect"]["session"]
        for _ in range(3):
            assert self.next(client) == {}
            assert client.send(session, b"{}").status == 204
        assert self.next(client) == {}
        assert self.next(client)["push"]["disconnect"]["code"] == 3012
        assert client.ended

    @staticmethod
    def next(client: Fallback) -> Any:
        """The next object, within ten seconds."""
        for _ in range(10):
            client.server.advance(1)
            objects = client.take()
            if objects:
                [value] = objects
                return value
        raise AssertionError("nothing came")

    def test_the_reason_is_sent_before_the_end(self, how: str) -> None:
        server = Server()
        client = Fallback(server, how)
        client.take()
        for peer in server.node.peers:
            peer.shut_down()
        [push] = client.take()
        ended = push["push"]["disconnect"]
        assert (ended["code"], ended["reconnect"]) == (3001, True)
        assert ended["reason"]
        assert client.ended
        server.clock.advance(0)
        assert server.is_empty()

    def test_a_reader_that_disconnects_leaves_nothing(self, how: str) -> None:
        server = Server()
        client = Fallback(server, how, CONNECT, SUBSCRIBE)
        session = client.take()[0]["connect"]["session"]
        client.line.vanish()
        assert server.is_empty()
        assert client.send(session, {"id": 3, "ping": {}}).error == (404, "unknown session")

    @pytest.mark.parametrize(
        "commands", [b"x", b"[]", b'{"id":1}', b'{"id":2,"subscribe":{"channel":"a"}}', b"{}", b"7"]
    )
    def test_an_invalid_frame_ends_it_with_3501(self, how: str, commands: bytes) -> None:
        server = Server()
        if how == "sse":
            assert open_fallback(server, how, commands).response().error[0] == 400
            return
        client = Fallback(server, how, commands)
        [push] = client.take()
        ended = push["push"]["disconnect"]
        assert (ended["code"], ended["reconnect"]) == (3501, False)
        assert ended["reason"]
        assert client.ended
        client.line.vanish()
        assert server.is_empty()

    def test_invalid_utf8_is_an_error_of_the_client(self, how: str) -> None:
        commands = lines(CONNECT, b'{"id":2,"subscribe":{"channel":"\xff"}}')
        if how == "sse":
            assert open_fallback(Server(), how, commands).response().error[0] == 400
            return
        client = Fallback(Server(), how, commands)
        received = client.take()[-1]
        code = (
            received["error"]["code"]
            if "error" in received
            else received["push"]["disconnect"]["code"]
        )
        assert code in (107, 3501)

    def test_a_session_without_commands_becomes_stale(self, how: str) -> None:
        server = Server(Limits(connect_seconds=5.0))
        if how == "sse":
            assert open_fallback(server, how, b"\n").response().error[0] == 400
            return
        client = Fallback(server, how, b"\n")
        server.advance(7)
        assert client.take()[-1]["push"]["disconnect"]["code"] == 3502

    def test_commands_over_the_limit_are_413(self, how: str) -> None:
        server = Server(Limits(frame_bytes=100))
        answer = open_fallback(server, how, b"{}" + b" " * 100).response()
        assert answer.error == (413, "the commands have more than 100 bytes (frame_bytes)")

    def test_a_page_of_another_origin_is_403(self, how: str) -> None:
        answer = open_fallback(Server(), how, lines(CONNECT), origin="http://evil.example")
        assert answer.response().error[0] == 403

    def test_a_stopping_server_does_not_answer_503(self, how: str) -> None:
        server = Server()
        server.node.stop_publishing()
        assert Fallback(server, how).response().status == 200

    def test_publishing_follows_the_rules_of_the_channel(self, how: str) -> None:
        for allowed in (False, True):
            server = Server(options=ChannelOptions(client_publish=allowed))
            command = {"id": 2, "publish": {"channel": "a", "data": 7}}
            reply = Fallback(server, how, CONNECT, command).take()[1]
            if allowed:
                assert reply == {"id": 2, "publish": {}}
            else:
                assert reply["error"]["code"] == 103
                assert '(publish = "key")' in reply["error"]["message"]
            assert server.hub.history.top("a") == int(allowed)


class TestEmulation:
    @pytest.mark.parametrize("session", ["", "x", "a" * 1000])
    def test_an_unknown_session_is_404(self, session: str) -> None:
        body = json.dumps({"session": session, "data": "{}"}).encode()
        assert Server().get("/emulation", "POST", body).error == (404, "unknown session")

    def test_the_id_of_a_client_is_no_secret(self) -> None:
        """Presence shows the id to others; the secret gives control of the session."""
        server = Server()
        client = Fallback(server, "sse")
        shown = client.take()[0]["connect"]["client"]
        assert client.send(shown, {"id": 2, "ping": {}}).status == 404

    def test_a_session_over_a_websocket_has_no_secret(self) -> None:
        server = Server()
        socket = server.websocket("/connection/websocket")
        [frame] = socket.say(CONNECT)
        assert "session" not in json.loads(frame.payload)["connect"]
        body = json.dumps({"session": "", "data": "{}"}).encode()
        assert server.get("/emulation", "POST", body).status == 404

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            (b"", "not a command"),
            (b"x", "not a command"),
            (b"[]", "expected `object`"),
            (b"{}", "`session`"),
            (b'{"session":"x"}', "`data`"),
            (b'{"session":1,"data":""}', "$.session"),
            (b'{"session":"x","data":{}}', "$.data"),
            (b'{"session":"x","data":"","node":1}', "$.node"),
            (b'{"session":"x","data":"","x":' + b"[" * 60_000, "not a command"),
        ],
    )
    def test_an_invalid_body_is_400_with_the_field(self, body: bytes, field: str) -> None:
        status, message = Server().get("/emulation", "POST", body).error
        assert status == 400
        assert field.lower() in message.lower()

    def test_invalid_utf8_is_400(self) -> None:
        assert Server().get("/emulation", "POST", b'{"session":"\xff","data":""}').status == 400

    def test_a_body_over_the_limit_is_413(self) -> None:
        server = Server(Limits(frame_bytes=100))
        assert server.get("/emulation", "POST", b" " * 101).error[0] == 413

    def test_a_page_of_another_origin_is_403(self) -> None:
        answer = Server().get("/emulation", "POST", b"{}", origin="http://evil.example")
        assert answer.error[0] == 403

    def test_a_lone_surrogate_ends_the_session(self) -> None:
        server = Server()
        client = Fallback(server, "http_stream")
        session = client.take()[0]["connect"]["session"]
        body = b'{"session":"%b","data":"{\\"id\\":2,\\"x\\":\\"\\ud800\\"}"}' % session.encode()
        assert server.get("/emulation", "POST", body).status in (204, 400)

    def test_other_methods_are_405(self) -> None:
        assert Server().get("/emulation").error[0] == 405


class TestTheResources:
    def test_a_websocket_needs_a_handshake(self) -> None:
        answer = Server().get("/connection/websocket")
        assert answer.error == (
            426,
            "expected a WebSocket handshake; a proxy has to pass Upgrade on (HTTP/1.1)",
        )
        assert (answer["upgrade"], answer["connection"]) == ("websocket", "upgrade")

    def test_a_websocket_of_another_origin_is_403(self) -> None:
        headers = handshake(origin="http://evil.example")
        assert Server().get("/connection/websocket", **headers).error[0] == 403

    @pytest.mark.parametrize("query", ["", "?cf_connect=", "?x=1"])
    def test_sse_needs_its_commands(self, query: str) -> None:
        status, message = Server().get(f"/connection/sse{query}", accept=SSE).error
        assert status == 400
        assert "cf_connect" in message

    @pytest.mark.parametrize(
        "commands",
        [
            lines(CONNECT, {"id": 2, "rpc": {"method": "order"}}),
            lines(CONNECT, {"send": {"data": 1}}),
            lines(CONNECT, CONNECT),
            lines(CONNECT, {}),
            lines({"id": 1, "connect": {}, "publish": {"channel": "a", "data": 1}}),
            lines({"id": 1, "publish": {"channel": "a", "data": 1}}),
            lines({}),
            lines({"id": 1}),
            b"\n\n",
            b"x",
        ],
    )
    def test_a_get_starts_a_session_and_does_nothing_else(self, commands: bytes) -> None:
        server = Server(options=ChannelOptions(client_publish=True))
        status, message = open_fallback(server, "sse", commands).response().error
        assert (status, "cf_connect" in message) == (400, True)
        assert len(server.node.peers) == 0
        assert server.hub.history.top("a") == 0

    def test_a_get_needs_one_cf_connect(self) -> None:
        once = urlencode({"cf_connect": lines(CONNECT)})
        answer = Server().get(f"/connection/sse?{once}&{once}", accept=SSE)
        assert answer.error == (400, "2 cf_connect=, expected one with the connect command")

    @pytest.mark.parametrize(
        "headers",
        [
            {"sec_fetch_site": "none", "sec_fetch_mode": "navigate", "sec_purpose": "prefetch"},
            {"sec_fetch_site": "none", "sec_fetch_mode": "navigate"},
            {"sec_purpose": "prefetch;prerender"},
        ],
    )
    @pytest.mark.parametrize(
        "path",
        [
            f"/connection/sse?{urlencode({'cf_connect': json.dumps(CONNECT)})}",
            "/events?channel=a",
            "/channels/a?since=now&wait=5",
        ],
    )
    def test_a_navigation_starts_no_session(self, path: str, headers: dict[str, str]) -> None:
        """By speculation rules, or by a redirect from a typed URL."""
        server = Server()
        answer = server.get(path, **headers)
        status, message = answer.error
        assert status == 403
        assert message.startswith("a browser cannot open this URL as a page")
        assert len(server.node.peers) == 0
        page = server.get("/channels/a", accept=BROWSER, **headers)
        assert page.status == 200

    @pytest.mark.parametrize("how", HOWS)
    @pytest.mark.parametrize("site", ["cross-site", "same-site"])
    def test_a_foreign_page_starts_no_session(self, how: str, site: str) -> None:
        server = Server()
        line = open_fallback(server, how, lines(CONNECT), sec_fetch_site=site)
        assert line.response().error[0] == 403
        assert len(server.node.peers) == 0

    def test_head_starts_no_session(self) -> None:
        server = Server()
        query = quote(lines(CONNECT))
        server.open(f"/connection/sse?cf_connect={query}", "HEAD")
        assert len(server.node.peers) == 0

    @pytest.mark.parametrize("path", ["/connection/sse", "/connection/http_stream"])
    def test_an_allowed_page_of_another_origin_may_post(self, path: str) -> None:
        origin = "https://app.example"
        server = Server(config=Config(server=Settings(allowed_origins=[origin])))
        preflight = server.get(
            path,
            "OPTIONS",
            origin=origin,
            access_control_request_method="POST",
            access_control_request_headers="content-type",
        )
        assert preflight.status == 204
        assert "POST" in preflight["access-control-allow-methods"]
        assert "content-type" in preflight["access-control-allow-headers"]
        line = server.open(path, "POST", lines(CONNECT), origin=origin)
        answer = line.response()
        assert answer["access-control-allow-origin"] == origin
        assert b'"client"' in answer.body

    @pytest.mark.parametrize(
        ("path", "method"),
        [("/connection/sse", "DELETE"), ("/connection/http_stream", "GET")],
    )
    def test_other_methods_are_405(self, path: str, method: str) -> None:
        assert Server().get(path, method).error[0] == 405

    @pytest.mark.parametrize("path", ["/connection", "/connection/", "/connection/x"])
    def test_any_other_path_is_404(self, path: str) -> None:
        assert Server().get(path).error[0] == 404


SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.just("a")
ARGUMENTS = st.dictionaries(
    st.sampled_from(
        ["channel", "data", "offset", "epoch", "recover", "limit", "since", "flag", "type", "x"]
    ),
    SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.just("offset"), SCALARS),
    max_size=4,
)
COMMANDS = st.lists(
    st.dictionaries(
        st.sampled_from(
            ["subscribe", "unsubscribe", "publish", "history", "presence", "rpc", "send", "bogus"]
        ),
        ARGUMENTS,
        max_size=2,
    ).flatmap(
        lambda command: (
            st.just(command) | st.integers(-1, 2**70).map(lambda number: {"id": number, **command})
        )
    ),
    max_size=5,
)


@given(commands=COMMANDS)
def test_any_command_is_answered_in_the_protocol(commands: list[Any]) -> None:
    server = Server(options=ChannelOptions(client_publish=True))
    client = Fallback(server, "http_stream", CONNECT, *commands)
    received = client.take()
    assert "connect" in received[0]
    for value in received[1:]:
        if "error" in value:
            assert value["error"]["code"] in (102, 103, 104, 105, 106, 107, 108, 112), value
            assert value["error"]["message"]
    if client.ended:
        assert received[-1]["push"]["disconnect"]["code"] == 3501
    client.line.vanish()
    assert server.is_empty()


@given(text=st.text(max_size=40) | st.binary(max_size=40).map(lambda b: b.decode("latin-1")))
def test_any_frame_ends_the_session_with_a_code_or_continues(text: str) -> None:
    server = Server()
    client = Fallback(server, "http_stream", CONNECT, text.encode())
    received = client.take()
    assert client.ended is ("disconnect" in received[-1].get("push", {}))


@given(body=st.binary(max_size=60).filter(lambda body: body.isascii()))
def test_any_invalid_emulation_is_answered_with_4xx_and_a_reason(body: bytes) -> None:
    status, message = Server().get("/emulation", "POST", body).error
    assert status in (400, 404)
    assert message
