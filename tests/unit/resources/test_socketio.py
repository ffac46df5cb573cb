"""`/socket.io/` on the whole server in memory: handshakes, refusals and handlers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pushserver import Client, Identified, PushServer, Refused, Visitor
from pushserver.channels.channel import ChannelOptions
from pushserver.config.limits import Limits
from pushserver.config.settings import Auth, Config, SocketIO
from pushserver.config.settings import Server as ServerConfig
from pushserver.errors import LimitExceeded, StartFailed
from pushserver.protocols.socketio_formats import _namespaces
from pushserver.sessions.namespace import MAX_CALLS
from tests.unit.fakes.tokens import SECRET, token
from tests.unit.fakes.web import Log, Server, Socket, Trouble, handshake, masked

PATH = "/socket.io/?EIO=4&transport=websocket"


def started(app: PushServer, config: Config | None = None) -> Server:
    server = Server(config=config, app=app)
    server.service.startService()
    server.clock.advance(0)
    return server


def connected(server: Server, *packets: str, **headers: str) -> Socket:
    socket = server.websocket(PATH, **headers)
    for packet in packets:
        [answer, *_] = socket.say(packet.encode())
        assert b'"sid"' in answer.payload, answer
    return socket


def lines(socket: Socket, *packets: bytes, opcode: int = 1) -> list[str]:
    """Send packets; returns the texts that came back, a binary message as `binary`."""
    frames = socket.say(*packets, opcode=opcode) if packets else socket.take()
    return ["binary" if frame.opcode == 2 else frame.payload.decode() for frame in frames]


@pytest.mark.parametrize("shortcuts", [True, False])
@pytest.mark.parametrize("path", ["/socket.io/?", "/socket.io?", "/socket.io/?t=1&"])
def test_handshake_opens_a_connection_of_engine_io(path: str, shortcuts: bool) -> None:
    server = Server(shortcuts=shortcuts)
    socket = server.websocket(f"{path}EIO=4&transport=websocket")
    [frame] = socket.seen
    opening = json.loads(frame.payload.removeprefix(b"0"))
    assert opening.pop("sid")
    assert opening == {
        "upgrades": [],
        "pingInterval": 25_000,
        "pingTimeout": 20_000,
        "maxPayload": 65_536,
    }
    assert lines(socket, b"40/a,")[0].startswith('40/a,{"sid":')
    server.publish("a", {"n": 1}, "newnumber")
    assert lines(socket) == ['42/a,["newnumber",{"n": 1}]']
    socket.line.vanish()
    assert server.is_empty()


def test_id_of_a_client_that_others_see_opens_nothing() -> None:
    server = Server()
    line = server.open(PATH.replace("websocket", "polling"))
    sid = json.loads(line.response().body[1:])["sid"]
    polling = f"{PATH.replace('websocket', 'polling')}&sid="
    server.get(polling + sid, "POST", b"40/a,")
    seen = json.loads(server.get(polling + sid).body.removeprefix(b"40/a,"))["sid"]
    assert seen != sid
    for path in (polling + seen, polling.replace("polling", "websocket") + seen):
        for method, more in (("GET", {}), ("POST", {}), ("GET", handshake())):
            assert server.get(path, method, b"", **more).json["code"] in (1, 2)
    server.publish("a")
    assert server.get(polling + sid).body == b'42/a,["message",1]'


def test_names_of_namespaces_by_the_thousand_leave_nothing() -> None:
    server = Server(Limits(commands_per_second=10_000), ChannelOptions(subscribe="nobody"))
    socket, other = server.websocket(PATH), connected(server, "40")
    for n in range(2_000):
        [answer] = lines(socket, b"40/unknown-%d,{}" % n)
        assert answer == f'44/unknown-{n},{{"message":"Invalid namespace"}}'
    assert not any("unknown" in name for _, name, _ in _namespaces)
    assert (server.hub.channels(), len(list(server.node.sessions))) == ({}, 1)
    assert lines(other, b"40") == []


@pytest.mark.parametrize("opening", [{}, handshake()], ids=["plain", "handshake"])
@pytest.mark.parametrize(
    ("query", "code", "message"),
    [
        ("", 5, "Unsupported protocol version"),
        ("EIO=3&transport=websocket", 5, "Unsupported protocol version"),
        ("EIO=44&transport=websocket", 5, "Unsupported protocol version"),
        ("EIO=4&EIO=4&transport=websocket", 5, "Unsupported protocol version"),
        ("transport=websocket", 5, "Unsupported protocol version"),
        ("EIO=4", 0, "Transport unknown"),
        ("EIO=4&transport=abc", 0, "Transport unknown"),
        ("EIO=4&transport=websocket&sid=abc", 1, "Session ID unknown"),
    ],
)
def test_wrong_query_is_an_error_of_engine_io(
    query: str, code: int, message: str, opening: dict[str, str]
) -> None:
    answer = Server().get(f"/socket.io/?{query}", **opening)
    assert (answer.status, answer.json) == (400, {"code": code, "message": message})


def test_other_methods_are_errors_too() -> None:
    server = Server()
    assert server.get(PATH).json["code"] == 3
    assert server.get(PATH, "POST", b"4").json["code"] == 2
    assert server.get("/socket.io/x").status == 404
    assert server.get(PATH.replace("?", "x?"), **handshake()).status == 404


def test_refusals_of_one_connection_are_bounded() -> None:
    server = Server(Limits(refused_requests_per_second=1))
    line, statuses = server.connect(), []
    for _ in range(30):
        if not line.lost:
            line.send(b"GET /socket.io/?EIO=3 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            statuses.append(line.response().status)
    assert statuses[-1] == 429
    assert len(statuses) < 15


def test_client_of_an_old_version_is_logged_once() -> None:
    server = Server()
    with Log() as events:
        for _ in range(3):
            server.get("/socket.io/?EIO=3&transport=polling")
        [text] = [text for text in events.take() if "Socket.IO" in text]
    assert "asked for version '3' of Engine.IO, and this server speaks version 4" in text


def test_page_of_another_origin_needs_allowed_origins() -> None:
    refused = Server().get(PATH, **handshake(origin="http://evil.example"))
    assert refused.status == 403
    config = Config(server=ServerConfig(allowed_origins=["http://good.example"]))
    connected(Server(config=config), "40", origin="http://good.example")


def test_binary_messages_come_in_on_this_protocol_only() -> None:
    app = PushServer()
    seen: list[Any] = []

    @app.on("file", thread=False)
    def file(client: Client, data: Any) -> Any:
        seen.append(data)
        return len(data["content"]), data["content"]

    socket = connected(started(app), "40")
    socket.say(b'451-7["file",{"content":{"_placeholder":true,"num":0}}]')
    # A message in two frames.
    socket.line.send(masked(b"\0\xff", 2, final=False))
    answer = [frame.payload for frame in socket.say(b"\1", opcode=0)]
    assert answer == [b'461-7[3,{"_placeholder":true,"num":0}]', b"\0\xff\1"]
    assert seen == [{"content": b"\0\xff\1"}]


def test_message_over_the_payload_ends_the_connection(trouble: Trouble) -> None:
    server = Server(Limits(frame_bytes=1_000))
    for opcode in (1, 2):
        socket = connected(server, "40")
        [frame] = socket.say(b"4" * 1_001, opcode=opcode)
        assert frame.close[0] == 1009
    assert "exceeds payload limit of 1000" in trouble.take()[0]


def test_compressed_events_are_the_same_bytes_for_all() -> None:
    server = Server(config=Config(server=ServerConfig(compress=True)))
    offer = {"sec_websocket_extensions": "permessage-deflate"}
    sockets = [connected(server, "40/a,", **offer) for _ in range(2)]
    assert "permessage-deflate" in sockets[0].handshake["sec-websocket-extensions"]
    server.publish("a", "x" * 5_000)
    first, second = (socket.line.take() for socket in sockets)
    assert first == second
    assert first[:1] == b"\xc1"
    assert len(first) < 500


class TestTheSettings:
    def test_give_the_url_of_the_clients(self) -> None:
        server = Server(config=Config(socketio=SocketIO(path="io")))
        socket = server.websocket(PATH.replace("socket.io", "io"))
        assert lines(socket, b"40")[0].startswith('40{"sid":')
        assert server.get("/io/socket.io.js", "HEAD").status == 200
        assert server.get(PATH).status == 404
        assert server.get(PATH, **handshake()).status == 404

    def test_turn_it_off(self) -> None:
        server = Server(config=Config(socketio=SocketIO(path="")))
        statuses = [server.get(PATH).status, server.get(PATH, **handshake()).status]
        assert statuses == [404, 404]

    @pytest.mark.parametrize("path", ["channels", "static", "metrics", "health", "api"])
    def test_take_no_url_of_the_server(self, path: str) -> None:
        with pytest.raises(StartFailed, match=rf"socketio\.path: .*value '{path}'"):
            Server(config=Config(socketio=SocketIO(path=path)))

    def test_give_the_channel_of_the_main_namespace(self) -> None:
        app = PushServer()
        app.on("who", thread=False)(lambda client, data: "main")
        app.on("who", namespace="a", thread=False)(lambda client, data: "a")
        server = started(app, Config(socketio=SocketIO(channel="a")))
        server.publish("a", 1, "first")
        socket = connected(server, "40/a,")
        [answer, row] = lines(socket, b"40")
        assert (answer[:3], row) == ("40{", '42["first",1]')
        server.publish("a", 2, "second")
        assert set(lines(socket)) == {'42/a,["second",2]', '42["second",2]'}
        # The channel does not make the handlers of its namespace those of `/`.
        assert lines(socket, b'420["who"]', b'42/a,0["who"]') == ['430["main"]', '43/a,0["a"]']

    def test_refuse_the_main_namespace_to_those_who_may_not_read_its_channel(self) -> None:
        config = Config(socketio=SocketIO(channel="a"), channels={"a": {"subscribe": "users"}})
        socket = started(PushServer(), config).websocket(PATH)
        assert lines(socket, b"40")[0].startswith('44{"message":"subscribing to a')


class TestAnApplication:
    def test_has_the_same_handlers_as_on_the_other_protocol(self) -> None:
        app = PushServer()
        came: list[Any] = []
        left: list[Any] = []

        @app.on("connect", thread=False)
        def connect(client: Client, data: Any) -> None:
            came.append((client.protocol, data, client.connected))
            client.send({"hello": data}, event="welcome")

        @app.on("disconnect", thread=False)
        def disconnect(client: Client, reason: str) -> None:
            left.append(reason)

        app.on("add", thread=False)(lambda client, data: data + 1)
        app.on("add", namespace="math", thread=False)(lambda client, data: sum(data))
        app.on("same")(lambda client, data: data)
        server = started(app)
        socket = server.websocket(PATH)
        assert lines(socket, b'40{"name":"ada"}')[1:] == ['42["welcome",{"hello":{"name":"ada"}}]']
        assert lines(socket, b"40/math:1,")[1:] == ['42/math:1,["welcome",{"hello":null}]']
        assert came == [("socketio", {"name": "ada"}, False), ("socketio", None, False)]
        assert lines(socket, b'421["add",1]') == ["431[2]"]
        assert lines(socket, b'42/math:1,1["add",1,2]') == ["43/math:1,1[3]"]
        assert lines(socket, b'422["same",[1,2]]') == ["432[[1,2]]"]
        assert lines(socket, b'423["same"]') == ["433[]"]
        assert lines(socket, b'424["same",1,[2]]') == ["434[1,[2]]"]
        assert len(app.clients) == 2
        app.send(1, event="all")
        assert lines(socket) == ['42["all",1]', '42/math:1,["all",1]']
        socket.line.vanish()
        assert left == ["", ""]
        assert app.clients == []

    @pytest.mark.parametrize("event", ["subscribe", "publish", "start", "authenticate"])
    def test_gets_no_event_of_the_server_from_a_client(self, event: str, trouble: Trouble) -> None:
        app = PushServer()
        app.on(event, thread=False)(lambda *_: None)
        socket = connected(started(app), "40")
        assert lines(socket, f'421["{event}",1]'.encode()) == []
        [text] = trouble.take()
        assert f"a client called '{event}', which has no handler" in text

    def test_that_fails_is_logged_and_the_client_waits(self, trouble: Trouble) -> None:
        app = PushServer()
        app.on("fail", thread=False)(lambda client, data: 1 / data)
        app.on("odd", thread=False)(lambda client: object())
        socket = connected(started(app), "40")
        assert lines(socket, b'421["fail",0]', b'422["odd"]', b'423["fail",1]') == ["433[1.0]"]
        assert len(trouble.take()) == 2

    def test_has_handlers_of_each_namespace_for_its_clients(self) -> None:
        app = PushServer()
        seen: list[tuple[str, str, Any]] = []

        def note(*key: str) -> Any:
            return lambda client, data: seen.append((*key, data))

        for event in ("connect", "disconnect"):
            for name in ("", "chess"):
                app.on(event, namespace=name, thread=False)(note(event, name))
        socket = connected(started(app), '40{"n":0}', '40/chess,{"n":1}', "40/other,")
        connected_all = [("connect", "", {"n": 0}), ("connect", "chess", {"n": 1})]
        assert seen == [*connected_all, ("connect", "", None)]
        seen.clear()
        lines(socket, b"40/chess:12,", b"41/chess,", b"41/other,", b"41/chess:12,")
        left = "the client has left"
        assert seen == [
            ("connect", "chess", None),
            ("disconnect", "chess", left),
            ("disconnect", "", left),
            ("disconnect", "chess", left),
        ]

    def test_refuses_the_clients_of_one_namespace(self) -> None:
        app = PushServer()

        @app.on("connect", namespace="chess", thread=False)
        def connect(client: Client) -> None:
            if client.headers.get("x-player") != "yes":
                raise Refused("players only", 4_001)

        server = started(app)
        [answer] = lines(server.websocket(PATH), b"40/chess,")
        assert answer == '44/chess,{"message":"players only","data":{"code":4001}}'
        connected(server, "40", "40/other,")
        connected(server, "40/chess,", x_player="yes")

    def test_puts_a_client_into_rooms_and_takes_it_out(self) -> None:
        app = PushServer()
        app.on("join", thread=False)(lambda client, room: client.join(room))
        app.on("leave", thread=False)(lambda client, room: client.leave(room))
        server = started(app)
        socket = connected(server, "40/chat,")
        socket.say(b'42/chat,["join","room:1"]')
        server.publish("room:1", "hi", "said")
        assert lines(socket) == ['42/chat,["said","hi"]']
        socket.say(b'42/chat,["leave","room:1"]')
        server.publish("room:1", "hi", "said")
        assert lines(socket) == []

    def test_ends_a_client_and_all_of_a_user(self) -> None:
        app = PushServer()

        @app.authenticate
        def authenticate(visitor: Visitor) -> Any:
            if visitor.cookies.get("user") == "eve":
                raise Refused("not you")
            return Identified(visitor.cookies.get("user", ""))

        app.on("end", thread=False)(lambda client: client.disconnect("enough"))
        server = started(app, Config(defaults=ChannelOptions(subscribe="users")))
        ann = connected(server, "40", "40/a,", cookie="user=ann")
        assert lines(ann, b'42["end"]') == ["41"]
        app.disconnect("ann")
        assert lines(ann) == ["41/a,"]
        eve = server.websocket(PATH, cookie="user=eve")
        assert lines(eve, b"40/a,") == ['44/a,{"message":"not you"}']


class TestACall:
    """`Client.call`: the server asks, and the page acknowledges."""

    def make(self, **call: Any) -> tuple[Server, list[Any], PushServer]:
        app, results = PushServer(), list[Any]()

        @app.on("ask")
        async def ask(client: Client, data: Any) -> None:
            try:
                results.append(await client.call("question", data, **call))
            except Exception as error:
                results.append(error)

        return started(app), results, app

    @pytest.mark.parametrize(
        ("answer", "result"),
        [("[]", None), ("[7]", 7), ("[[7]]", [7]), ('["a",{"b":1}]', ("a", {"b": 1}))],
    )
    def test_returns_the_acknowledgement(self, answer: str, result: Any) -> None:
        server, results, _ = self.make()
        socket = connected(server, "40/a,")
        assert lines(socket, b'42/a,["ask",{"n":1}]') == ['42/a,0["question",{"n":1}]']
        assert results == []
        lines(socket, b"43/a,0" + answer.encode())
        assert results == [result]

    def test_has_several_arguments_and_bytes(self) -> None:
        server, results, _ = self.make()
        socket = connected(server, "40")
        socket.say(b'42["ask",1,2]')
        assert lines(socket, b"460-0[1]") == []
        socket = connected(server, "40")
        assert lines(socket, b'42["ask",1,2]') == ['420["question",1,2]']
        socket.say(b'461-0[{"_placeholder":true,"num":0}]')
        socket.say(b"\1", opcode=2)
        assert results == [1, b"\1"]

    def test_fails_without_an_answer_in_time(self) -> None:
        server, results, _ = self.make(timeout=2.0)
        socket = connected(server, "40")
        socket.say(b'42["ask"]')
        server.clock.advance(2.0)
        assert [repr(error) for error in results] == [
            "TimeoutError(\"the client did not acknowledge 'question' in 2 seconds\")"
        ]
        # A late one is ignored.
        assert lines(socket, b"430[1]", b"41") == []

    def test_fails_if_the_client_leaves(self) -> None:
        server, results, app = self.make()
        for ended_by in ("the server", "the network", "the client"):
            socket = connected(server, "40")
            socket.say(b'42["ask"]')
            if ended_by == "the server":
                app.clients[0].disconnect()
            elif ended_by == "the network":
                socket.line.vanish()
            else:
                socket.say(b"41")
        assert list(map(repr, results)) == ["ConnectionError('the client is not connected')"] * 3
        assert app.clients == []

    def test_of_an_event_before_the_end_fails_at_once(self) -> None:
        server, results, app = self.make()
        left: list[Any] = []
        app.on("disconnect", namespace="a", thread=False)(lambda *_: left.append(len(results)))
        socket = connected(server, "40/a,", "40/b,")
        socket.say(b'42/a,["ask"]', b'42/a,["ask"]', b'42/a,["ask"]')
        assert results == []
        [first, *_] = lines(socket, b"41/a,", b"40/a,", b'42/a,["ask"]')
        assert list(map(repr, results)) == ["ConnectionError('the client is not connected')"] * 3
        assert left == [3]
        assert first.startswith('40/a,{"sid":')
        assert len(app.clients) == 2

    @pytest.mark.parametrize("timeout", [0, -1, 61, float("nan"), float("inf")])
    def test_has_a_bounded_time(self, timeout: float) -> None:
        server, results, _ = self.make(timeout=timeout)
        connected(server, "40").say(b'42["ask"]')
        assert str(results[0]) == f"timeout {timeout}: expected up to 60.0 seconds"

    def test_is_refused_beside_too_many_others(self) -> None:
        server, results, app = self.make()
        socket = connected(server, "40")
        for _ in range(MAX_CALLS + 1):
            start = app.clients[0].call("question")
        with pytest.raises(LimitExceeded, match="256 calls of this client wait already"):
            start.__await__().send(None)
        assert len(lines(socket)) == MAX_CALLS
        assert results == []

    def test_of_a_client_that_connects_is_refused(self) -> None:
        app, results = PushServer(), list[Any]()

        @app.on("connect")
        async def connect(client: Client) -> None:
            with pytest.raises(ConnectionError, match="not connected"):
                await client.call("question")
            results.append("refused")

        connected(started(app), "40")
        assert results == ["refused"]

    def test_is_not_possible_on_the_other_protocol(self) -> None:
        server, results, _ = self.make()
        socket = server.session()
        socket.say({"id": 2, "rpc": {"method": "ask"}})
        assert "client.call needs a client of Socket.IO" in str(results[0])
        assert isinstance(results[0], RuntimeError)


class TestAToken:
    CONFIG = Config(auth=Auth(token_secret=SECRET), defaults=ChannelOptions(subscribe="users"))

    def connect(self, config: Config, auth: object, query: str = "", **headers: str) -> str:
        server = started(PushServer(), config)
        socket = server.websocket(PATH + query, **headers)
        text = "40/a," + ("" if auth is None else json.dumps(auth))
        [answer, *_] = lines(socket, text.encode())
        return answer

    def test_may_be_in_the_auth_of_the_connect_or_in_the_request(self) -> None:
        good = token(b'{"sub":"ann","exp":9e9}')
        assert "needs a user" in self.connect(self.CONFIG, None)
        for answer in (
            self.connect(self.CONFIG, {"token": good}),
            self.connect(self.CONFIG, None, f"&token={good}"),
            self.connect(self.CONFIG, {"other": 1}, authorization=f"Bearer {good}"),
        ):
            assert answer.startswith('40/a,{"sid":')

    def rooms(self, namespace: str, app: PushServer | None = None, **claims: Any) -> list[str]:
        """The answers to a connect with a token of these claims, and then the events."""
        config = Config(
            auth=Auth(token_secret=SECRET),
            defaults=ChannelOptions(subscribe="token", initial=1),
            limits=Limits(channels_per_client=3),
        )
        server = started(app or PushServer(), config)
        for name in ("a", "b", "c"):
            server.publish(name, 1, name)
        socket = server.websocket(PATH)
        auth = json.dumps({"token": token({"sub": "ann", "exp": 9e9, **claims})})
        found = lines(socket, f"40{namespace}{auth}".encode())
        for name in ("a", "b", "c"):
            server.publish(name, 2, name)
        return (found if found[0].startswith("44") else found[1:]) + lines(socket)

    def test_puts_its_client_into_the_channels_of_its_subs(self) -> None:
        assert self.rooms("", subs={"b": {}}) == ['42["b",1]', '42["b",2]']
        both = self.rooms("/a,", subs={"a": {}, "b": {}})
        assert both == [f'42/a,["{name}",{n}]' for n in (1, 2) for name in "ab"]
        assert self.rooms("", channels=["b", "c*"]) == ['42["b",1]', '42["b",2]']
        assert self.rooms("/a,", channels=["a"]) == ['42/a,["a",1]', '42/a,["a",2]']

    def test_names_as_many_channels_as_a_client_may_have(self) -> None:
        [answer] = self.rooms("", subs={"a": {}, "b": {}}, channels=["c", "d"])
        assert answer.startswith('44{"message":"more than 3 channels')

    def test_does_not_get_a_room_that_the_application_refuses(self) -> None:
        app = PushServer()
        app.on("subscribe", thread=False)(lambda client, channel: channel != "b")
        [answer] = self.rooms("", app, subs={"b": {}, "c": {}})
        assert "subscribing to b was refused" in answer

    def test_that_is_not_valid_refuses_the_connect(self) -> None:
        for bad in ("guessed", "a.b.c", token(b'{"sub":"ann","exp":1}')):
            assert self.connect(self.CONFIG, {"token": bad}).startswith("44/a,")

    def test_is_the_applications_on_a_server_without_tokens(self) -> None:
        assert self.connect(Config(), {"token": "mine"}).startswith("40/a,")


def test_waiting_bytes_of_a_slow_client_are_sent_in_order_and_bounded() -> None:
    server = Server(Limits(queue_bytes=300_000))
    slow, quick = (connected(server, "40/a,", "40/b,") for _ in range(2))
    slow.line.reading = False
    sent = 0
    for n in range(500):
        if server.node.peers._second and not slow.line.aborted:
            server.publish("ab"[n % 2], [n, "x" * 10_000])
            sent += 1
    assert slow.line.aborted
    assert sent < 200
    texts = [text for text in lines(quick) if text.startswith("42")]
    assert [json.loads(text.partition(",")[2])[1][0] for text in texts] == list(range(sent))


def test_stop_of_the_server_closes_the_connection_so_that_clients_return() -> None:
    server = Server()
    socket = connected(server, "40/a,")
    for peer in server.node.peers:
        peer.shut_down()
    frames = socket.take()
    assert [frame.opcode for frame in frames] == [8]
    assert frames[0].close[0] == 3001
