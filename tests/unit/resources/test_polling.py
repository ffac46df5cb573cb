"""Socket.IO by polling, and its upgrade to a WebSocket, on the whole server in memory."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pushserver import Client, PushServer
from pushserver.channels.channel import ChannelOptions
from pushserver.channels.publication import Draft
from pushserver.config.limits import Limits
from pushserver.config.settings import Config
from pushserver.config.settings import Server as ServerConfig
from pushserver.hub import fanout
from pushserver.protocols.engineio import MAX_PACKETS
from pushserver.sessions.probe import UPGRADE_SECONDS
from pushserver.transports import polling
from pushserver.transports.polling import PAYLOAD_PACKETS
from tests.unit.fakes.socketio import event
from tests.unit.fakes.tools import drive
from tests.unit.fakes.web import Line, Log, Response, Server, Socket, handshake, masked

PATH = "/socket.io/?EIO=4&transport=polling"
LIMITS = Limits()


class Poller:
    """A client that polls, connected to these namespaces."""

    def __init__(self, server: Server, *namespaces: str, **headers: str):
        self.server = server
        self.headers = headers
        answer = server.get(PATH, **headers)
        assert answer.status == 200, answer
        assert answer["content-type"] == "text/plain; charset=UTF-8"
        self.opening = json.loads(answer.body.removeprefix(b"0"))
        self.path = f"{PATH}&sid={self.opening['sid']}"
        for name in namespaces:
            assert self.post(f"40{name},".encode() if name else b"40").body == b"ok"
            assert b'"sid"' in self.get()[0]

    def wait(self) -> Line:
        """A GET that waits."""
        return self.server.open(self.path, **self.headers)

    def get(self) -> list[bytes]:
        """The packets of a GET that is answered at once."""
        return packets(self.server.get(self.path, **self.headers))

    def post(self, *sent: bytes) -> Response:
        return self.server.get(self.path, "POST", b"\x1e".join(sent), **self.headers)

    def error(self) -> Any:
        """The error of a GET."""
        answer = self.server.get(self.path, **self.headers)
        assert answer.status == 400
        return answer.json

    def upgrade(self) -> Socket:
        """A WebSocket that tries the upgrade."""
        return self.server.websocket(self.path.replace("polling", "websocket"), **self.headers)


GONE = {"code": 1, "message": "Session ID unknown"}
BAD_REQUEST = {"code": 3, "message": "Bad request"}


def packets(answer: Response) -> list[bytes]:
    assert answer.status == 200, answer
    return answer.body.split(b"\x1e")


def upgrade_with_backlog(server: Server, count: int, reading: bool) -> Socket:
    """The WebSocket of a client in `/a` that upgrades while this many publications wait for it.

    `reading`: whether it reads them.
    """
    poller = Poller(server, "/a")
    for n in range(count):
        server.publish("a", [n, "x" * 20_000])
    socket = poller.upgrade()
    socket.say(b"2probe")
    socket.line.reading = reading
    socket.line.protocol.dataReceived(masked(b"5"))
    return socket


def is_waiting(line: Line) -> bool:
    return line.take() == b""


def texts(socket: Socket) -> list[bytes]:
    return [frame.payload for frame in socket.take()]


class TestPolling:
    def test_begins_with_the_opening(self) -> None:
        poller = Poller(Server())
        assert poller.opening.pop("sid")
        assert poller.opening == {
            "upgrades": ["websocket"],
            "pingInterval": 25_000,
            "pingTimeout": 20_000,
            "maxPayload": 65_536,
        }

    def test_answers_a_get_with_all_that_waits(self) -> None:
        server = Server()
        poller = Poller(server, "", "/a")
        for n in range(3):
            server.publish("a", n)
        assert poller.get() == [b'42/a,["message",%d]' % n for n in range(3)]

    def test_answers_a_get_that_waits_with_the_packets_of_a_turn(self) -> None:
        app = PushServer()

        @app.on("twice", thread=False)
        def twice(client: Client, data: Any) -> None:
            client.send(data, event="one")
            client.send(data, event="two")

        server = Server(app=app)
        server.service.startService()
        server.clock.advance(0)
        poller = Poller(server, "")
        line = poller.wait()
        assert is_waiting(line)
        assert poller.post(b'42["twice",1]').body == b"ok"
        assert packets(line.response()) == [b'42["one",1]', b'42["two",1]']

    def test_takes_several_packets_and_binary_ones(self) -> None:
        app = PushServer()
        app.on("echo", thread=False)(lambda client, data: data)
        server = Server(app=app)
        server.service.startService()
        server.clock.advance(0)
        poller = Poller(server, "")
        mark = b'{"_placeholder":true,"num":0}'
        attachment = b"b" + base64.b64encode(b"\x00\x1e\xff")
        sent = (b'421["echo","\xc3\xbc"]', b'451-2["echo",%b]' % mark, attachment, b'423["echo"]')
        assert poller.post(*sent).body == b"ok"
        answers = [b'431["\xc3\xbc"]', b"461-2[%b]" % mark, attachment, b"433[]"]
        assert poller.get() == answers

    def test_replays_a_long_history_in_answers_of_bounded_size(self) -> None:
        options = ChannelOptions(initial=300, history_size=300)
        server = Server(options=options)
        for n in range(300):
            server.publish("a", [n, "x" * 2_000])
        poller = Poller(server)
        poller.post(b"40/a,")
        got: list[bytes] = []
        while len(got) < 301:
            found = poller.get()
            assert sum(map(len, found)) < 250_000
            got += found
        assert [event(text.decode(), "/a")[1][0] for text in got[1:]] == list(range(300))

    def test_answers_with_few_packets_at_once_for_the_python_client(self) -> None:
        server = Server()
        poller = Poller(server, "/a")
        line = poller.wait()
        line.settle()
        for n in range(50):
            server.publish("a", n)
        answers = [packets(line.response()), *(poller.get() for _ in range(4))]
        assert max(map(len, answers)) == PAYLOAD_PACKETS == 16
        got = [packet for answer in answers for packet in answer]
        assert got == [b'42/a,["message",%d]' % n for n in range(50)]
        assert is_waiting(poller.wait())

    def test_pings_the_client_which_posts_its_pong(self) -> None:
        server = Server()
        poller = Poller(server, "")
        for _ in range(3):
            line = poller.wait()
            while is_waiting(line):
                server.advance(1)
                line.settle()
                if line.value():
                    break
            assert packets(line.response()) == [b"2"]
            assert poller.post(b"3").body == b"ok"

    def test_works_for_a_page_of_an_allowed_origin(self) -> None:
        config = Config(server=ServerConfig(allowed_origins=["http://good.example"]))
        poller = Poller(Server(config=config), "", origin="http://good.example")
        answer = poller.post(b"1")
        assert answer["access-control-allow-origin"] == "http://good.example"
        assert Server().get(PATH, origin="http://evil.example").status == 403

    def test_is_not_begun_by_opening_the_url(self) -> None:
        server = Server()
        assert server.get(PATH, sec_fetch_mode="navigate").status == 403
        assert server.is_empty()

    def test_by_an_origin_that_is_not_allowed_does_nothing_with_the_id_of_another(self) -> None:
        server = Server()
        poller = Poller(server, "")
        for method, body in (("GET", b""), ("POST", b"1")):
            answer = server.get(poller.path, method, body, origin="http://evil.example")
            assert answer.status == 403
        assert poller.post(b"41").body == b"ok"


class TestTheEnd:
    def end(self, poller: Poller) -> None:
        """Nothing is left."""
        poller.server.clock.advance(0)
        assert poller.error() == GONE
        assert poller.server.get(poller.path, "POST", b"3").json == GONE
        assert poller.server.is_empty()
        assert len(poller.server.service.live._base.pollings._by_id) == 0

    def test_comes_with_a_second_get(self) -> None:
        poller = Poller(Server(), "", "/a")
        line = poller.wait()
        assert is_waiting(line)
        assert poller.error() == BAD_REQUEST
        assert packets(line.response()) == [b"1"]
        line.vanish()
        self.end(poller)

    def test_comes_with_a_dropped_get(self) -> None:
        poller = Poller(Server(), "")
        line = poller.wait()
        line.settle()
        line.vanish()
        self.end(poller)

    def test_by_the_client_answers_its_get(self) -> None:
        poller = Poller(Server(), "", "/a")
        line = poller.wait()
        assert poller.post(b"1").body == b"ok"
        assert packets(line.response()) == [b"6"]
        line.vanish()
        self.end(poller)

    @pytest.mark.parametrize("seconds", [0, 60])
    def test_by_the_client_may_come_before_its_get(self, seconds: int) -> None:
        poller = Poller(Server(), "", "/a")
        assert poller.post(b"1").body == b"ok"
        poller.server.advance(seconds)
        assert poller.server.get(poller.path).body == b"6"
        self.end(poller)

    def test_by_many_clients_is_known_of_the_last_ones(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(polling, "LEFT_CLIENTS", 2)
        server = Server()
        pollers = [Poller(server, "") for _ in range(3)]
        for poller in pollers:
            poller.post(b"1")
        server.advance(0)
        assert pollers[0].error() == GONE
        assert [server.get(poller.path).body for poller in pollers[1:]] == [b"6", b"6"]

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"abc",
            b"4",
            b"2",
            b"5",
            b"b===",
            b"4\xff",
            b"\x1e".join([b"3"] * (MAX_PACKETS + 1)),
            b'451-["a",{"_placeholder":true,"num":0}]\x1e42["b"]',
            b"bAQ==",
        ],
    )
    def test_comes_with_a_body_that_breaks_the_protocol(self, body: bytes) -> None:
        server = Server()
        poller, other = Poller(server, ""), Poller(server, "/a")
        answer = poller.post(body)
        assert (answer.status, answer.json) == (400, BAD_REQUEST)
        assert poller.error() == GONE
        server.publish("a")
        assert other.get() == [b'42/a,["message",1]']

    def test_comes_with_a_body_of_very_many_packets(self) -> None:
        server = Server(Limits(frame_bytes=1_000_000))
        for packet in (b"3", b"6", b'42["a"]'):
            poller = Poller(server, "")
            assert poller.post(*[packet] * 100_000).json == BAD_REQUEST
            self.end(poller)
        assert Poller(server, "").post(*[b"3"] * 200_000).json == BAD_REQUEST

    def test_comes_with_too_many_packets(self) -> None:
        server = Server(Limits(commands_per_second=1))
        poller = Poller(server, "")
        with Log() as events:
            assert poller.post(*[b'42["a"]'] * 100).json == BAD_REQUEST
            assert any("commands_per_second" in text for text in events.take())
        self.end(poller)

    def test_comes_without_a_pong_at_its_time_and_not_at_a_tick(self) -> None:
        server = Server(Limits(ping_seconds=0.3, dead_seconds=0.2))
        poller = Poller(server, "")
        for _ in range(100):
            server.clock.advance(0.005)
        assert poller.error() == GONE
        server.clock.advance(0)
        self.end(poller)

    def test_comes_without_a_connect(self) -> None:
        server = Server()
        poller = Poller(server)
        server.advance(int(LIMITS.connect_seconds) + 2)
        self.end(poller)

    def test_of_the_server_answers_a_get_so_that_clients_return(self) -> None:
        server = Server()
        poller = Poller(server, "/a")
        line = poller.wait()
        line.settle()
        for peer in server.node.peers:
            peer.shut_down()
        assert packets(line.response()) == [b"6"]
        line.vanish()
        self.end(poller)

    def test_comes_if_too_many_bytes_wait(self) -> None:
        server = Server(Limits(queue_bytes=100_000))
        poller, other = Poller(server, "/a"), Poller(server, "/b")
        with Log() as events:
            for n in range(100):
                server.publish("a", [n, "x" * 5_000])
            assert any("bytes unread (queue_bytes)" in text for text in events.take())
        assert poller.error() == GONE
        server.publish("b")
        assert other.get() == [b'42/b,["message",1]']
        assert server.service.live._base.peers.unread.unsent._backlogs == {}


class TestABound:
    def test_on_the_body_is_that_of_a_frame(self) -> None:
        server = Server(Limits(frame_bytes=1_000))
        poller = Poller(server, "")
        assert poller.opening["maxPayload"] == 1_000
        assert poller.post(b"4" * 1_004).status == 413
        assert poller.post(b"3").body == b"ok"

    def test_that_clients_learn_is_the_smaller_one(self) -> None:
        server = Server(Limits(frame_bytes=2_000, body_bytes=1_000))
        assert Poller(server, "").opening["maxPayload"] == 1_000

    def test_on_the_body_admits_one_that_the_client_counts_too_short(self) -> None:
        server = Server(Limits(frame_bytes=100_000))
        poller = Poller(server, "")
        # socket.io-client counts 1.33 bytes of base64 for a byte, and not a third more.
        limit = 100_000 * 4 / 3 / 1.33
        assert poller.post(b'42["a","%b"]' % (b"x" * (int(limit) - 9))).body == b"ok"

    def test_on_connections_counts_clients_between_their_requests(self) -> None:
        server = Server(Limits(connections_per_address=10, exempt_networks=[]))
        pollers = []
        while (answer := server.get(PATH)).status == 200:
            pollers.append(answer)
        assert answer.status == 429
        # One was for the connection of the request.
        assert len(pollers) == 9
        sid = json.loads(pollers[0].body[1:])["sid"]
        assert server.get(f"{PATH}&sid={sid}", "POST", b"1").status == 200
        server.clock.advance(1)
        assert server.get(PATH).status == 200

    def test_on_connections_counts_an_upgraded_client_once(self) -> None:
        server = Server(Limits(connections_per_address=10, exempt_networks=[]))
        poller = Poller(server, "")
        socket = poller.upgrade()
        socket.say(b"2probe", b"5")
        connections = server.service.live._base.peers.connections
        assert connections.open == 1
        socket.line.vanish()
        assert connections.open == 0
        metrics = server.node.metrics
        assert metrics.opened == metrics.closed == {"socketio-polling": 1, "socketio-websocket": 1}


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("PUT", PATH, 2),
        ("DELETE", PATH, 2),
        ("PATCH", PATH, 2),
        ("POST", PATH, 2),
        ("GET", f"{PATH}&sid=abc", 1),
        ("POST", f"{PATH}&sid=abc", 1),
        ("GET", f"{PATH}&sid=%ff", 1),
        ("GET", PATH.replace("EIO=4", "EIO=3"), 5),
        ("PUT", PATH.replace("EIO=4", "EIO=3"), 5),
        ("GET", PATH.replace("polling", "jsonp"), 0),
    ],
)
def test_wrong_request_is_an_error_of_engine_io(method: str, path: str, code: int) -> None:
    answer = Server().get(path, method)
    assert (answer.status, answer.json["code"]) == (400, code)


def test_head_takes_no_packets() -> None:
    server = Server()
    poller = Poller(server, "/a")
    server.publish("a")
    assert server.get(poller.path, "HEAD").status == 400
    assert poller.get() == [b'42/a,["message",1]']


class TestAnUpgrade:
    @pytest.mark.parametrize("shortcuts", [True, False])
    def test_answers_the_get_that_waits_and_then_continues_on_the_websocket(
        self, shortcuts: bool
    ) -> None:
        server = Server(shortcuts=shortcuts)
        poller = Poller(server, "/a", "/b")
        line = poller.wait()
        socket = poller.upgrade()
        assert socket.seen == []
        assert is_waiting(line)
        assert [frame.payload for frame in socket.say(b"2probe")] == [b"3probe"]
        assert packets(line.response()) == [b"6"]
        assert poller.get() == [b"6"]
        server.publish("a", 1)
        server.publish("b", 2)
        assert texts(socket) == []
        assert [frame.payload for frame in socket.say(b"5")] == [
            b'42/a,["message",1]',
            b'42/b,["message",2]',
        ]
        server.publish("b", 3)
        assert texts(socket) == [b'42/b,["message",3]']
        assert poller.error() == BAD_REQUEST
        answer = poller.post(b"3")
        assert (answer.status, answer.json) == (400, BAD_REQUEST)
        socket.say(b"41/a,")
        server.publish("a", 4)
        assert texts(socket) == []
        line.vanish()
        socket.line.vanish()
        assert server.is_empty()
        assert poller.error() == GONE

    def test_hands_over_packets_of_every_kind(self) -> None:
        app = PushServer()
        app.on("bytes", thread=False)(lambda client: client.send(b"\x1e\0", event="e"))
        server = Server(app=app)
        server.service.startService()
        server.clock.advance(0)
        poller = Poller(server, "", "/a")
        poller.post(b'42["bytes"]')
        server.publish("a", "\u00fc")
        socket = poller.upgrade()
        frames = [*socket.say(b"2probe", b"5")]
        assert [(frame.opcode, frame.payload) for frame in frames] == [
            (1, b"3probe"),
            (1, b'451-["e",{"_placeholder":true,"num":0}]'),
            (2, b"\x1e\0"),
            (1, b'42/a,["message","\\u00fc"]'),
        ]

    def test_hands_over_a_long_history_and_then_live_events(self) -> None:
        server = Server(options=ChannelOptions(initial=500, history_size=500))
        for n in range(500):
            server.publish("a", [n, "x" * 1_000])
        poller = Poller(server)
        poller.post(b"40/a,")
        got = poller.get()
        socket = poller.upgrade()
        frames = socket.say(b"2probe", b"5")
        server.publish("a", [500, ""])
        got += [*(frame.payload for frame in frames[1:]), *texts(socket)]
        assert [event(text.decode(), "/a")[1][0] for text in got[1:]] == list(range(501))

    @pytest.mark.parametrize("reading", [True, False])
    def test_whose_websocket_is_lost_leaves_no_bytes_that_wait(self, reading: bool) -> None:
        server = Server()
        socket = upgrade_with_backlog(server, 20, reading)
        server.publish("a", "y")
        socket.line.vanish()
        server.clock.advance(1)
        unsent = server.service.live._base.peers.unread.unsent
        assert (unsent.bytes, len(unsent)) == (0, 0)

    def test_of_a_client_that_reads_nothing_is_dropped_for_the_bytes_of_all(self) -> None:
        server = Server(Limits(unsent_bytes=1_000_000))
        socket = upgrade_with_backlog(server, 40, reading=False)
        reader = Poller(server, "/b")
        with Log() as events:
            for n in range(17):
                server.publish("b", [n, "x" * 20_000])
            server.clock.advance(1)
            assert any("(unsent_bytes)" in text for text in events.take())
        assert socket.line.aborted
        assert len(reader.get()) > 1

    def test_in_the_middle_of_a_pass_loses_and_repeats_nothing(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fanout, "SLICE", 1)
        server = Server()
        pollers = [Poller(server, "/a") for _ in range(4)]
        sockets = [poller.upgrade() for poller in pollers]
        for socket in sockets:
            socket.say(b"2probe")
        # The first turn sends to one of the four; these two wait in the audience's queue.
        for n in range(3):
            drive(server.node.publish(Draft("a", b"%d" % n)))
        for socket in sockets:
            socket.line.protocol.dataReceived(masked(b"5"))
        drive(server.node.publish(Draft("a", b"3")))
        server.clock.advance(1)
        for _ in range(100):
            server.clock.advance(0.1)
        expected = [b'42/a,["message",%d]' % n for n in range(4)]
        assert [texts(socket) for socket in sockets] == [expected] * 4

    def test_by_a_second_websocket_closes_it(self) -> None:
        server = Server()
        poller = Poller(server, "/a")
        socket = poller.upgrade()
        early = poller.upgrade()
        socket.say(b"2probe")
        assert early.say(b"2probe")[-1].close[0] == 3501
        second = poller.upgrade()
        assert second.seen[-1].close[0] == 3501
        socket.say(b"5")
        third = poller.upgrade()
        assert third.seen[-1].close[0] == 3501
        server.publish("a")
        assert texts(socket) == [b'42/a,["message",1]']

    @pytest.mark.parametrize(
        "sent", [[b"5"], [b"2"], [b"2probe", b"2probe"], [b"40"], [b"x"], [b""], [b"3probe"]]
    )
    def test_that_breaks_the_protocol_leaves_the_client_polling(self, sent: list[bytes]) -> None:
        server = Server()
        poller = Poller(server, "/a")
        socket = poller.upgrade()
        assert socket.say(*sent)[-1].close[0] == 3501
        self.check_polls(server, poller)

    def test_that_sends_binary_frames_leaves_the_client_polling(self) -> None:
        server = Server()
        poller = Poller(server, "/a")
        assert poller.upgrade().say(b"2probe", opcode=2)[-1].close[0] == 1003
        self.check_polls(server, poller)

    def test_that_stalls_ends_in_time(self) -> None:
        server = Server()
        poller = Poller(server, "/a")
        socket = poller.upgrade()
        socket.say(b"2probe")
        server.advance(int(UPGRADE_SECONDS) + 1)
        assert socket.close() == (3502, "the upgrade did not end in time")
        self.check_polls(server, poller)

    def test_whose_websocket_is_lost_leaves_the_client_polling(self) -> None:
        server = Server()
        poller = Poller(server, "/a")
        socket = poller.upgrade()
        socket.say(b"2probe")
        socket.line.vanish()
        self.check_polls(server, poller)
        assert poller.upgrade().say(b"2probe")[0].payload == b"3probe"

    def check_polls(self, server: Server, poller: Poller) -> None:
        line = poller.wait()
        assert is_waiting(line)
        server.publish("a", 7)
        assert packets(line.response()) == [b'42/a,["message",7]']

    def test_after_the_end_closes_the_websocket(self) -> None:
        server = Server()
        poller = Poller(server, "/a")
        socket = poller.upgrade()
        socket.say(b"2probe")
        poller.post(b"1")
        socket.line.send(b"")
        frames = socket.say(b"5")
        assert frames == []
        socket.line.settle()
        assert socket.line.aborted or socket.line.lost
        assert server.get(poller.path.replace("polling", "websocket"), **handshake()).json == GONE

    def test_keeps_the_identity_and_the_answers_of_handlers(self) -> None:
        app = PushServer()
        app.on("who", thread=False)(lambda client: [client.id, client.protocol])
        app.on("connect", thread=False)(lambda client: None)
        server = Server(app=app)
        server.service.startService()
        server.clock.advance(0)
        poller = Poller(server, "")
        poller.post(b'421["who"]')
        [before] = poller.get()
        socket = poller.upgrade()
        socket.say(b"2probe", b"5")
        assert [frame.payload for frame in socket.say(b'421["who"]')] == [before]

    def test_is_pinged_as_before(self) -> None:
        server = Server()
        poller = Poller(server, "")
        socket = poller.upgrade()
        socket.say(b"2probe", b"5")
        server.advance(26)
        assert texts(socket) == [b"2"]
        socket.say(b"3")
        server.advance(20)
        assert not socket.line.disconnecting


STEPS = st.lists(
    st.sampled_from(["publish", "publish", "get", "wait", "probe", "upgrade", "drop", "turn"]),
    max_size=25,
)


@given(STEPS)
@settings(max_examples=60)
def test_client_gets_each_event_once_and_in_order(steps: list[str]) -> None:
    server = Server(options=ChannelOptions(history_size=1_000))
    poller = Poller(server, "/a")
    got: list[bytes] = []
    waiting: Line | None = None
    socket: Socket | None = None
    sent, upgraded = 0, False

    def collect(line: Line | None) -> Line | None:
        if line is None or not (data := line.take()):
            return line
        body = data.partition(b"\r\n\r\n")[2]
        got.extend(packet for packet in body.split(b"\x1e") if packet != b"6")
        return None

    for step in steps:
        if step == "publish":
            server.publish("a", sent)
            sent += 1
        elif step in ("get", "wait") and waiting is None and not upgraded:
            waiting = poller.wait()
        elif step == "probe" and socket is None:
            socket = poller.upgrade()
            assert socket.say(b"2probe")[0].payload == b"3probe"
        elif step == "drop" and socket is not None and not upgraded:
            socket.line.vanish()
            socket = None
        elif step == "upgrade" and socket is not None and not upgraded:
            socket.line.send(b"")
            upgraded = True
            waiting = collect(waiting)
            got.extend(frame.payload for frame in socket.say(b"5"))
        elif step == "turn":
            server.clock.advance(0.01)
        waiting = collect(waiting)
        if upgraded and socket is not None:
            got.extend(texts(socket))
    if not upgraded:
        waiting = poller.wait() if waiting is None else waiting
        server.publish("a", sent)
        sent += 1
        for _ in range(sent + 2):
            if len(got) == sent:
                break
            waiting = poller.wait() if waiting is None else waiting
            waiting = collect(waiting)
    assert got == [b'42/a,["message",%d]' % n for n in range(sent)]
