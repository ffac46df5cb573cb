from __future__ import annotations

import json
from typing import Any

import pytest

from pushserver import Client, Identified, NotRunning, PushServer, Refused, Visitor, token
from pushserver.channels.channel import ChannelOptions
from pushserver.config.settings import Auth, Config, TokenKeySettings
from pushserver.testing import Disconnected, ServerError, TestServer
from tests.unit.fakes.web import Server, Trouble, handshake

SECRET = "a secret of more than 32 bytes, for tests"


@pytest.fixture
def app() -> PushServer:
    return PushServer()


def started(app: PushServer, **settings: Any) -> Server:
    server = Server(config=Config(**settings), app=app)
    server.service.startService()
    server.clock.advance(0)
    return server


class TestAuthenticate:
    def test_has_no_parentheses(self, app: PushServer) -> None:
        with pytest.raises(ValueError, match=r"^write @app\.authenticate without parentheses$"):
            app.authenticate()

    def test_gives_a_client_its_user_before_connect(self, app: PushServer) -> None:
        app.authenticate(lambda visitor: Identified("ann", {"n": 1}))
        seen: list[str] = []
        app.on("connect", thread=False)(lambda client: seen.append(client.user))
        with TestServer(app) as server:
            server.connect()
            assert seen == ["ann"]
            session = server.service.node.sessions.of_user("ann")[0]
            assert session.info.conn_info == b'{"n":1}'

    @pytest.mark.parametrize(("expires", "seen"), [(4e9, 4e9), (0, None)])
    def test_gives_a_client_the_end_of_its_login(
        self, app: PushServer, expires: float, seen: float | None
    ) -> None:
        app.authenticate(lambda visitor: Identified("ann", expires=expires))
        ends: list[float | None] = []
        app.on("connect", thread=False)(lambda client: ends.append(client.expires))
        app.on("until", thread=False)(lambda client: client.expires)
        with TestServer(app) as server:
            client = server.connect()
            assert ends == [seen]
            assert client.rpc("until") == seen
            [session] = server.service.node.sessions.of_user("ann")
            for end in (5e9, 0):
                session.prolong(end)
                assert client.rpc("until") == (end or None)

    @pytest.mark.parametrize("count", [128, 129])
    def test_channels_that_its_connect_handler_joins_are_counted(
        self, app: PushServer, count: int
    ) -> None:
        app.authenticate(lambda visitor: Identified("ann"))

        @app.on("connect", thread=False)
        def connect(client: Client) -> None:
            for n in range(count):
                client.join(f"c{n}")

        with TestServer(app) as server:
            if count > 128:
                with pytest.raises(ServerError, match="more than 128 channels on one connection"):
                    server.connect()
            else:
                server.connect()

    def test_sees_the_request_and_the_data_of_connect(self, app: PushServer) -> None:
        seen: list[Visitor] = []
        app.authenticate(seen.append)
        with TestServer(app) as server:
            server.connect({"a": 1}, address="203.0.113.9", headers={"cookie": "s=1"})
        [visitor] = seen
        assert (visitor.address, visitor.protocol, visitor.data) == (
            "203.0.113.9",
            "websocket",
            {"a": 1},
        )
        assert visitor.cookies == {"s": "1"}

    @pytest.mark.parametrize(
        ("path", "headers", "protocol"),
        [
            ("/channels/a", {}, "http"),
            ("/channels/a", {"accept": "text/event-stream"}, "sse"),
            ("/channels/a", {"accept": "application/x-ndjson"}, "http_stream"),
            ("/channels/a", handshake(), "websocket"),
        ],
    )
    def test_is_asked_about_requests(
        self, app: PushServer, path: str, headers: dict[str, str], protocol: str
    ) -> None:
        seen: list[Visitor] = []

        def who(visitor: Visitor) -> str:
            seen.append(visitor)
            return "ann"

        app.authenticate(who)
        server = started(app, defaults=ChannelOptions(subscribe="users"))
        line = server.open(path, **headers)
        server.clock.advance(0)
        assert line.take().startswith((b"HTTP/1.1 200", b"HTTP/1.1 101"))
        assert [(v.protocol, v.data) for v in seen] == [(protocol, None)]
        line.vanish()

    def test_is_not_asked_about_keys(self, app: PushServer) -> None:
        app.authenticate(lambda visitor: pytest.fail("asked"))
        server = started(app, auth=Auth(["a key of the publisher"]))
        answer = server.get("/channels/a", "POST", b"1", x_api_key="a key of the publisher")
        assert answer.status == 201

    def test_user_is_in_publications_by_plain_http(self, app: PushServer) -> None:
        app.authenticate(lambda visitor: Identified("ann", [1]))
        server = started(app, defaults=ChannelOptions(publish="users"))
        assert server.get("/channels/a", "POST", b"1").status == 201
        [row] = server.hub.history.peek("a").after(0)
        assert row.info is not None
        assert (row.info.user, row.info.conn_info, row.info.client) == ("ann", b"[1]", "")

    @pytest.mark.parametrize("answer", [Refused("log in"), False])
    def test_refuses(self, app: PushServer, answer: Any) -> None:
        def who(visitor: Visitor) -> Any:
            if isinstance(answer, Refused):
                raise answer
            return answer

        app.authenticate(who)
        server = started(app, defaults=ChannelOptions(subscribe="users"))
        status, text = server.get("/channels/a").error
        assert status == 401
        assert text in ("log in", "refused by the application")

    @pytest.mark.parametrize(
        ("answer", "problem"),
        [
            (7, "expected a text or Identified"),
            (Identified(7), "expected 255 characters"),  # type: ignore[arg-type]
            ("u" * 256, "expected 255 characters"),
            (Identified("a", object()), "object"),
            (Identified("a", "x" * 5000), "4096 at most"),
            (Identified("a", channels=["a b"]), "no pattern of channels"),
            (Identified("a", expires="soon"), "expires is 'soon', expected Unix seconds"),  # type: ignore[arg-type]
            (Identified("a", expires=None), "expires is None, expected"),  # type: ignore[arg-type]
            (Identified("a", expires=True), "expires is True, expected"),
            (Identified("a", expires=float("nan")), "expires is nan, expected"),
            (Identified("a", expires=float("inf")), "expires is inf, expected"),
            (Identified("a", expires=-1), "expires is -1, expected"),
            (Identified("a", expires=10**400), "no end, not milliseconds"),
            (
                Identified("a", expires=1_795_333_990_000),
                "expires is 1795333990000, expected Unix seconds, 0 for no end, not milliseconds",
            ),
        ],
    )
    def test_wrong_answer_is_a_failure_of_the_application(
        self, app: PushServer, trouble: Trouble, answer: Any, problem: str
    ) -> None:
        app.authenticate(lambda visitor: answer)
        server = started(app, defaults=ChannelOptions(subscribe="users"))
        assert server.get("/channels/a").status == 503
        [line] = trouble.take()
        assert problem in line
        client = server.session()
        assert problem in trouble.take()[0]
        [frame] = client.say({"id": 2, "subscribe": {"channel": "a"}})
        assert json.loads(frame.payload)["error"]["code"] == 100

    def test_of_a_request_whose_client_is_gone_answers_nobody(self, app: PushServer) -> None:
        lines: list[Any] = []

        def who(visitor: Visitor) -> str:
            lines[0].vanish()
            return "ann"

        app.authenticate(who)
        server = started(app)
        line = server.connect()
        lines.append(line)
        line.send(
            b"GET /channels/a HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n"
        )
        server.clock.advance(1)
        assert server.is_empty()


class TestCredentials:
    def test_cookie_with_two_values_is_refused(self, app: PushServer) -> None:
        settings = {"auth": Auth(closed=True, token_cookie="t")}
        for cookies in ("t=a; t=b", "t=a; x=1; t=b"):
            status, text = (
                started(PushServer(), **settings).get("/channels/a", cookie=cookies).error
            )
            assert (status, text) == (401, "the cookie t is set 2 times, with different values")
        same = started(app, **settings).get("/channels/a", cookie="t=a; t=a").error
        assert "accepts no tokens" in same[1]

    def test_header_counts_before_the_query_the_subprotocol_and_the_cookie(
        self, app: PushServer
    ) -> None:
        auth = Auth(closed=True, token_secret=SECRET, token_cookie="t", api_keys=["a-key-of-a-job"])
        server = started(app, auth=auth)
        ann, bob = (token(user, secret=SECRET) for user in ("ann", "bob"))
        others: list[tuple[str, dict[str, str]]] = [
            (f"?token={bob}", {}),
            ("", {"cookie": f"t={bob}"}),
            ("", {"cookie": f"t={bob}; t=of-a-subdomain"}),
            ("", {"sec_websocket_protocol": f"pushserver.token.{bob}"}),
        ]
        for query, fields in others:
            path = f"/channels/a/permissions{query}"
            answer = server.get(path, authorization=f"Bearer {ann}", **fields)
            assert answer.json["user"] == "ann"
            answer = server.get(path, x_api_key="a-key-of-a-job", **fields)
            assert answer.json["by"] == "key"
            # A token that is not valid is not replaced by another one.
            assert server.get(path, authorization="Bearer a.b.c", **fields).status == 401

    @pytest.mark.parametrize(
        "headers",
        [
            {"authorization": "Bearer a.b.c"},
            {"cookie": "t=a.b.c"},
            {"sec_websocket_protocol": "pushserver.token.a.b.c"},
        ],
    )
    def test_token_is_found_in_each_place(self, app: PushServer, headers: dict[str, str]) -> None:
        server = started(app, auth=Auth(closed=True, token_cookie="t"))
        for path in ("/channels/a", "/channels/a?since=now&wait=1"):
            assert "accepts no tokens" in server.get(path, **headers).error[1]
        assert "accepts no tokens" in server.get("/channels/a?token=a.b.c").error[1]

    @pytest.mark.parametrize(
        ("offered", "accepted"),
        [
            ("pushserver, pushserver.token.a.b.c", "pushserver"),
            ("pushserver.token.a.b.c", "pushserver.token.a.b.c"),
            ("pushserver", "pushserver"),
            ("other", None),
        ],
    )
    def test_subprotocol_is_answered(
        self, app: PushServer, offered: str, accepted: str | None
    ) -> None:
        server = started(app)
        socket = server.websocket("/channels/a", sec_websocket_protocol=offered)
        assert socket.handshake.headers.get("sec-websocket-protocol") == (accepted and [accepted])
        socket.line.vanish()


class TestPublishing:
    @pytest.mark.parametrize(
        ("rule", "text"),
        [
            ("users", 'publishing to a needs a user (publish = "users")'),
            ("token", 'publishing to a needs a token for this channel (publish = "token")'),
            ("key", "an API key is needed (auth.api_keys or auth.keys): send X-API-Key"),
        ],
    )
    def test_refusal_names_the_rule(self, app: PushServer, rule: Any, text: str) -> None:
        options, auth = ChannelOptions(publish=rule), Auth(["a key of the publisher"])
        server = started(app, auth=auth, defaults=options)
        assert server.get("/channels/a", "POST", b"1").error == (401, text)


class TestClosed:
    def test_client_without_a_user_is_disconnected(self, app: PushServer) -> None:
        departures: list[str] = []
        app.on("disconnect", thread=False)(lambda client, reason: departures.append(reason))
        server = started(app, auth=Auth(closed=True))
        socket = server.websocket("/connection/websocket")
        [frame] = socket.say({"id": 1, "connect": {}})
        text = "this server needs a token or an API key (auth.closed)"
        assert frame.close == (3507, text)
        assert departures == [text]

    def test_user_of_the_connect_handler_is_enough(self, app: PushServer) -> None:
        @app.on("connect", thread=False)
        def connect(client: Any) -> None:
            client.user = "ann"

        started(app, auth=Auth(closed=True)).session()


class TestTheApplication:
    def test_ends_all_connections_of_a_user(self, app: PushServer) -> None:
        app.authenticate(lambda visitor: visitor.cookies.get("user"))
        server = started(app)
        lines = {
            user: [
                server.open("/channels/a", accept="text/event-stream", cookie=f"user={user}"),
                server.session(cookie=f"user={user}").line,
                server.open("/channels/a?since=now&wait=50", cookie=f"user={user}"),
            ]
            for user in ("ann", "bob")
        }
        server.clock.advance(0)
        app.disconnect("ann")
        assert [line.disconnecting or line.take() != b"" for line in lines["ann"]] == [True] * 3
        assert sorted(peer.info.user for peer in server.node.peers if peer.info.user == "bob") == (
            ["bob"] * 3
        )

    def test_subscribes_and_unsubscribes_the_clients_of_a_user(self, app: PushServer) -> None:
        app.authenticate(lambda visitor: str(visitor.data))
        with TestServer(app) as server:
            ann, bob = server.connect("ann"), server.connect("bob")
            app.subscribe("ann", "news")
            app.publish("news", 1)
            assert [p.data for p in ann.publications] == [1]
            assert bob.publications == []
            app.unsubscribe("ann", "news")
            assert server.service.node.hub.channels() == {}

    @pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
    def test_tells_the_streams_of_a_user_the_reason(self, app: PushServer, accept: str) -> None:
        app.authenticate(lambda visitor: visitor.cookies.get("user"))
        server = started(app)
        line = server.open("/channels/a", accept=accept, cookie="user=ann")
        server.clock.advance(0)
        app.disconnect("ann", "banned", 4501)
        assert b'{"code":4501,"reason":"banned"}' in line.take()

    @pytest.mark.parametrize(
        ("path", "fields"),
        [
            ("/channels/a", {"accept": "text/event-stream"}),
            ("/events?channel=b&channel=a", {"accept": "application/x-ndjson"}),
            ("/channels/a", handshake()),
            ("/channels/a?since=now&wait=50", {}),
        ],
    )
    def test_ends_the_readers_of_a_user_who_is_unsubscribed(
        self, app: PushServer, path: str, fields: dict[str, str]
    ) -> None:
        app.authenticate(lambda visitor: visitor.cookies.get("user"))
        server = started(app)
        ann, bob = (server.open(path, **fields, cookie=f"user={user}") for user in ("ann", "bob"))
        server.clock.advance(0)
        ann.take(), bob.take()
        for user, channel in (("ann", "c"), ("carol", "a")):
            app.unsubscribe(user, channel)
            assert ann.take() == bob.take() == b""
        app.unsubscribe("ann", "a")
        assert b"unsubscribed from a" in (found := ann.take()) or b'"publications":[]' in found
        server.publish("a", "more")
        server.clock.advance(0)
        assert b"more" not in ann.take()
        assert b"more" in bob.take()

    @pytest.mark.parametrize("user", ["", None, 7])
    def test_refuses_a_user_that_is_none(self, app: PushServer, user: Any) -> None:
        with TestServer(app):
            for call in (app.disconnect, lambda u: app.subscribe(u, "a")):
                with pytest.raises(ValueError, match="expected a text that is not empty"):
                    call(user)

    def test_makes_tokens_with_the_secret_of_the_server(self, app: PushServer) -> None:
        with pytest.raises(NotRunning):
            app.token("ann")
        server = started(app, auth=Auth(token_secret=SECRET))
        assert app.token("ann", channels=["chat:*"]).count(".") == 2
        del server
        other = PushServer()
        running = started(other)
        with pytest.raises(ValueError, match="no key for HS256"):
            other.token("ann")
        del running


@pytest.mark.parametrize(
    "settings",
    [
        {"token_secret": SECRET, "token_audience": ["push", "other"]},
        {"token_secret": SECRET, "token_issuer": "site"},
        {"token_secret": SECRET, "token_user_claim": "email"},
        {"token_keys": [TokenKeySettings("HS256", key=SECRET)], "token_audience": ["push"]},
        {"token_secret": SECRET, "token_keys": [TokenKeySettings("HS256", "b", key=SECRET * 2)]},
    ],
)
def test_server_accepts_the_tokens_of_its_application(
    app: PushServer, settings: dict[str, Any]
) -> None:
    server = started(app, auth=Auth(**settings))
    bearer = f"Bearer {app.token('ann', channels=['a'])}"
    assert server.get("/channels/a/permissions", authorization=bearer).json["user"] == "ann"


@pytest.mark.parametrize("seconds", [-3600, -1, 0])
def test_login_that_has_ended_is_refused(app: PushServer, seconds: float) -> None:
    server = started(app, defaults=ChannelOptions(subscribe="users", publish="users"))
    end = server.node.clock() + seconds
    app.authenticate(lambda visitor: Identified("ann", expires=end))
    requests: list[tuple[str, bytes, dict[str, str]]] = [
        ("GET", b"", {}),
        ("GET", b"", {"accept": "text/event-stream"}),
        ("POST", b"1", {}),
    ]
    for method, body, fields in requests:
        answer = server.get("/channels/a", method, body, **fields)
        assert answer.error == (401, "the login has expired")


def test_testing_server_disconnects_a_refused_visitor(app: PushServer) -> None:
    app.authenticate(lambda visitor: False)
    app.on("connect", thread=False)(lambda client: bool(client.user))
    with TestServer(app) as server, pytest.raises(Disconnected):
        server.connect()
