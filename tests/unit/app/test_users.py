from __future__ import annotations

import json
from typing import Any

import pytest

from pushserver import Client, InvalidName, PushServer, Refused
from pushserver.config.settings import Auth, Config, KeySettings
from pushserver.testing import Disconnected, ServerError, TestServer
from tests.unit.fakes.tools import Client as FakeClient
from tests.unit.fakes.web import Server, Trouble


@pytest.fixture
def app() -> PushServer:
    return PushServer()


def named(app: PushServer, **values: Any) -> None:
    @app.on("connect", thread=False)
    def connect(client: Client, data: Any) -> None:
        for name, value in (values or data or {}).items():
            setattr(client, name, value)


class TestTheUser:
    def test_is_in_presence_joins_and_publications(self, app: PushServer) -> None:
        named(app)
        app.on("publish", thread=False)(lambda client, channel, data: None)
        with TestServer(app) as server:
            ada = server.connect({"user": "ada", "info": {"name": "Ada"}})
            watcher = FakeClient(server.service.node)
            watcher.say({"id": 2, "subscribe": {"channel": "room", "join_leave": True}})
            watcher.transport.frames.clear()
            ada.subscribe("room")
            [join] = [frame["push"]["join"]["info"] for frame in watcher.transport.take()]
            assert (join["user"], join["conn_info"]) == ("ada", {"name": "Ada"})
            presence = ada.command("presence", channel="room")["presence"]
            seen = presence[ada.id]
            assert (seen["user"], seen["conn_info"]) == ("ada", {"name": "Ada"})
            ada.command("publish", channel="room", data=1)
            [row] = server.service.node.history.peek("room").after(0)
            assert row.info is not None
            assert (row.info.user, row.info.conn_info) == ("ada", b'{"name":"Ada"}')

    def test_finds_the_sessions_of_the_user(self, app: PushServer) -> None:
        named(app)
        with TestServer(app) as server:
            clients = [server.connect({"user": user}) for user in ("ada", "bob", "ada")]
            found = server.service.node.sessions.of_user("ada")
            assert [session.info.client for session in found] == [clients[0].id, clients[2].id]

    def test_is_read_by_later_handlers(self, app: PushServer) -> None:
        named(app)
        app.on("whoami")(lambda client: [client.user, client.info])
        with TestServer(app) as server:
            assert server.connect({"user": "ada"}).rpc("whoami") == ["ada", None]
            assert server.connect({"info": [1]}).rpc("whoami") == ["", [1]]

    @pytest.mark.parametrize(
        ("values", "problem"),
        [
            ({"user": 7}, "client.user is 7, expected a text"),
            ({"user": None}, "client.user is None, expected a text"),
            ({"user": "x" * 256}, "client.user has 256 characters, expected 255 at most"),
            ({"user": "\ud83d"}, "surrogate"),
            ({"info": object()}, "object does not fit into JSON"),
            ({"info": "x" * 4_096}, "client.info has 4098 bytes of JSON, expected 4096 at most"),
        ],
    )
    def test_that_is_impossible_fails_the_handler(
        self, app: PushServer, trouble: Trouble, values: dict[str, Any], problem: str
    ) -> None:
        named(app, **values)
        with TestServer(app) as server, pytest.raises(ServerError, match="application failed"):
            server.connect()
        [logged] = trouble.take()
        assert problem in logged

    def test_cannot_change_later(self, app: PushServer, trouble: Trouble) -> None:
        named(app)

        @app.on("rename", thread=False)
        def rename(client: Client, user: str) -> None:
            client.user = user

        with TestServer(app) as server:
            ada = server.connect({"user": "ada"})
            with pytest.raises(ServerError, match="application failed"):
                ada.rpc("rename", "eve")
            assert server.service.node.sessions.of_user("eve") == []
        assert "is set in its connect handler, not later" in trouble.take()[0]

    def test_of_a_refused_connect_is_forgotten(self, app: PushServer) -> None:
        @app.on("connect", thread=False)
        def connect(client: Client, data: Any) -> None:
            if data:
                client.user, client.info = "ada", 1
                raise Refused("no")

        app.on("whoami", thread=False)(lambda client: [client.user, client.info])
        with TestServer(app) as server:
            guest = server.connect()
            guest_session = guest._session
            assert guest_session.info.user == ""
            with pytest.raises(Disconnected, match="no"):
                server.connect(1)
            assert guest.rpc("whoami") == ["", None]


def started(app: PushServer, shortcuts: bool = True) -> Server:
    server = Server(app=app, shortcuts=shortcuts)
    assert server.service._app is not None
    server.service._app.startService()
    return server


class TestTheRequest:
    def seen(self, app: PushServer) -> list[Any]:
        seen: list[Any] = []

        @app.on("connect", thread=False)
        def connect(client: Client) -> None:
            seen.append((client.address, client.protocol, dict(client.headers), client.cookies))

        @app.on("later", thread=False)
        def later(client: Client) -> Any:
            return [client.address, client.protocol, dict(client.headers), client.cookies]

        return seen

    def test_is_known_to_the_connect_handler_and_its_headers_are_forgotten(
        self, app: PushServer
    ) -> None:
        seen = self.seen(app)
        with TestServer(app) as server:
            headers = {"cookie": 'session=abc; theme="dark"; odd', "user-agent": "x"}
            client = server.connect(address="203.0.113.9", headers=headers)
            cookies = {"session": "abc", "theme": "dark"}
            assert seen == [("203.0.113.9", "websocket", headers, cookies)]
            assert client.rpc("later") == ["203.0.113.9", "websocket", {}, {}]

    @pytest.mark.parametrize("shortcuts", [True, False])
    def test_of_a_websocket_has_no_headers_of_proxies_and_handshakes(
        self, app: PushServer, shortcuts: bool
    ) -> None:
        seen = self.seen(app)
        server = started(app, shortcuts)
        line = server.open(
            "/connection/websocket",
            connection="Upgrade",
            upgrade="websocket",
            sec_websocket_version="13",
            sec_websocket_key="dGhlIHNhbXBsZSBub25jZQ==",
            cookie="a=1",
            x_api_key="s3cret",
            x_forwarded_for="198.51.100.7",
            x_own="2",
        )
        frame = b'{"id":1,"connect":{}}'
        line.protocol.dataReceived(b"\x81" + bytes([0x80 | len(frame)]) + bytes(4) + frame)
        server.clock.advance(0)
        [(address, protocol, headers, cookies)] = seen
        assert (address, protocol, cookies) == ("127.0.0.1", "websocket", {"a": "1"})
        assert {name for name in headers if name not in ("host", "accept")} == {"cookie", "x-own"}

    def test_of_socketio_has_the_url_and_the_namespace(self, app: PushServer) -> None:
        seen: list[Any] = []

        @app.on("connect", thread=False)
        def connect(client: Client) -> None:
            seen.append((client, client.url, client.namespace))

        server = started(app)
        path = "/socket.io/?EIO=4&transport=polling"
        answer = server.get(f"{path}&a=%C3%A4", x_forwarded_proto="https", x_forwarded_host="b.c")
        sid = json.loads(answer.body[1:])["sid"]
        server.get(f"{path}&sid={sid}", "POST", b"40\x1e40/chess:12,")
        server.clock.advance(0)
        # No proxy is trusted, and anybody can send such headers.
        url = f"http://localhost:8080{path}&a=%C3%A4"
        assert [found[1:] for found in seen] == [(url, "/"), (url, "/chess:12")]
        assert [(client.url, client.namespace) for client, *_ in seen] == [
            ("", "/"),
            ("", "/chess:12"),
        ]

    @pytest.mark.parametrize("protocol", ["sse", "http_stream"])
    def test_of_a_fallback_names_it(self, app: PushServer, protocol: str) -> None:
        seen = self.seen(app)
        server = started(app)
        if protocol == "sse":
            server.open("/connection/sse?cf_connect=%7B%22id%22%3A1%2C%22connect%22%3A%7B%7D%7D")
        else:
            server.open("/connection/http_stream", "POST", b'{"id":1,"connect":{}}')
        server.clock.advance(0)
        assert [found[1] for found in seen] == [protocol]

    def test_costs_nothing_without_a_connect_handler(
        self, app: PushServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr("pushserver.web.gate.visit")
        app.on("message")(lambda client, data: None)
        server = started(app)
        server.open("/connection/http_stream", "POST", b'{"id":1,"connect":{}}')
        server.clock.advance(0)
        assert [session.connected for session in server.node.sessions] == [True]


def test_client_has_its_address_and_protocol_without_a_connect_handler(app: PushServer) -> None:
    app.on("message", thread=False)(lambda client, data: None)
    server = started(app)
    server.open("/connection/http_stream", "POST", b'{"id":1,"connect":{}}')
    server.clock.advance(0)
    [client] = app.clients
    assert (client.address, client.protocol) == ("127.0.0.1", "http_stream")


class TestTheKey:
    SEEN = ("publish said", "read said", "publish other")

    @pytest.mark.parametrize(
        ("given", "allows"),
        [("the-key-of-a-moderator", (True, False, False)), ("", (False, False, False))],
    )
    def test_allows_its_scopes_on_its_channels(
        self, app: PushServer, given: str, allows: tuple[bool, ...]
    ) -> None:
        seen: list[Client] = []
        app.on("connect", thread=False)(seen.append)
        key = KeySettings(key="the-key-of-a-moderator", channels=["said"], may=["publish"])
        server = Server(config=Config(auth=Auth(keys={"moderator": key})), app=app)
        server.service.startService()
        server.clock.advance(0)
        command = {"id": 1, "connect": {"headers": {"X-API-Key": given} if given else {}}}
        server.open("/connection/http_stream", "POST", json.dumps(command).encode())
        server.clock.advance(0)
        [client] = seen
        assert allows == tuple(client.key_allows(*text.split()) for text in self.SEEN)  # type: ignore[arg-type]

    def test_is_asked_about_scopes_and_channels(self, app: PushServer) -> None:
        app.on("check", thread=False)(lambda client, asked: client.key_allows(*asked))
        with TestServer(app) as server:
            client = server.connect()
            assert client.rpc("check", ["read", "a"]) is False
            [found] = app.clients
            with pytest.raises(ValueError, match="scope is 'write', expected publish, read, admin"):
                found.key_allows("write", "a")  # type: ignore[arg-type]
            with pytest.raises(InvalidName):
                found.key_allows("read", "no channel")
