"""Clients of Socket.IO whose requests come to any worker: no balancer has to keep them together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pushserver import Client, PushServer
from pushserver.config.limits import Limits
from pushserver.config.settings import Config
from pushserver.config.settings import Server as ServerConfig
from tests.unit.fakes.processes import Processes
from tests.unit.fakes.web import (
    Line,
    Response,
    Server,
    Socket,
    Trouble,
    handshake,
    upgraded,
)

PATH = "/socket.io/?EIO=4&transport=polling"
UNKNOWN = {"code": 1, "message": "Session ID unknown"}
BAD_METHOD = {"code": 2, "message": "Bad handshake method"}
BAD_REQUEST = {"code": 3, "message": "Bad request"}


class Poller:
    """A client at the second worker, whose requests after the first come to the other."""

    def __init__(self, processes: Processes, other: bool = True):
        self.processes = processes
        self.own = processes.workers[1]
        self.asked = processes.workers[0] if other else self.own
        answer = processes.ask(self.own, PATH)
        self.sid: str = json.loads(answer.body.removeprefix(b"0"))["sid"]
        self.path = f"{PATH}&sid={self.sid}"
        assert self.post(b"40", b"40/a,").body == b"ok"
        assert len(self.get()) == 2

    def wait(self) -> Line:
        """A GET that waits."""
        line = self.asked.open(self.path)
        self.processes.settle()
        return line

    def get(self) -> list[bytes]:
        """The packets of a GET that is answered at once."""
        answer = self.processes.ask(self.asked, self.path)
        assert answer.status == 200, answer
        return answer.body.split(b"\x1e")

    def post(self, *sent: bytes) -> Response:
        return self.processes.ask(self.asked, self.path, "POST", b"\x1e".join(sent))

    def upgrade(self, **headers: str) -> Socket:
        """A WebSocket that tries the upgrade."""
        line = self.asked.open(self.path.replace("polling", "websocket"), **handshake(**headers))
        self.processes.settle()
        return upgraded(line)

    def say(self, socket: Socket, *packets: bytes) -> list[bytes]:
        """Send packets over the WebSocket; returns those that come back."""
        received = []
        for packet in packets:
            received += socket.say(packet)
            self.processes.settle()
        received += socket.take()
        return [frame.payload for frame in received]


@pytest.fixture
def app() -> PushServer:
    app = PushServer()

    @app.on("greet")
    def greet(client: Client, name: str) -> str:
        return f"hello {name}"

    return app


@pytest.fixture
def processes(tmp_path: Path, app: PushServer, trouble: Trouble) -> Processes:
    return Processes(tmp_path, app, workers=2)


def test_ids_begin_with_the_number_of_the_worker(processes: Processes) -> None:
    assert Poller(processes).sid.startswith("2.")
    alone = Server().get(PATH)
    assert "." not in json.loads(alone.body.removeprefix(b"0"))["sid"]


@pytest.mark.parametrize("other", [False, True])
def test_events_go_both_ways_through_either_worker(processes: Processes, other: bool) -> None:
    poller = Poller(processes, other=other)
    assert bool(processes.clock.unixClients[2:]) is other
    line = poller.wait()
    assert line.take() == b""
    assert poller.post(b'421["greet","Bo"]').body == b"ok"
    assert line.response().body == b'431["hello Bo"]'
    line.vanish()
    processes.main.publish("a", 5)
    processes.settle()
    assert poller.get() == [b'42/a,["message",5]']


@pytest.mark.parametrize("other", [False, True])
def test_upgrade_goes_through_either_worker(processes: Processes, other: bool) -> None:
    poller = Poller(processes, other=other)
    waits = poller.wait()
    socket = poller.upgrade()
    assert poller.say(socket, b"2probe") == [b"3probe"]
    assert waits.response().body == b"6"
    assert poller.say(socket, b"5", b'421["greet","Bo"]') == [b'431["hello Bo"]']
    processes.main.publish("a", 5)
    processes.settle()
    assert [frame.payload for frame in socket.take()] == [b'42/a,["message",5]']
    # Its sid is that of a client that does not poll any more.
    answer = processes.ask(poller.asked, poller.path)
    assert (answer.status, answer.json) == (400, BAD_REQUEST)
    socket.line.vanish()
    processes.settle()
    assert not processes.relayed
    assert not len(poller.own.node.peers)
    assert processes.ask(poller.asked, poller.path).json == UNKNOWN


def test_each_connection_is_counted_once(tmp_path: Path, trouble: Trouble) -> None:
    """By the worker that accepted it; a client that polls counts where it is kept."""
    limits = Limits(exempt_networks=[])
    processes = Processes(tmp_path, workers=2, config=Config(limits=limits))

    def count() -> int:
        """The connections of the client, of which each process knows all."""
        processes.settle()
        servers = (processes.main, *processes.workers)
        (count,) = {s.site.admission._connections._by_name.get("127.0.0.1", 0) for s in servers}
        return count

    poller = Poller(processes)
    assert count() == 1
    line = poller.wait()
    assert count() == 2
    socket = poller.upgrade()
    assert count() == 3
    poller.say(socket, b"2probe", b"5")
    line.vanish()
    assert count() == 1
    socket.line.vanish()
    assert count() == 0


def test_upgrade_of_the_client_of_a_proxy_counts_for_the_client(
    tmp_path: Path, trouble: Trouble
) -> None:
    config = Config(
        limits=Limits(connections_per_address=1), server=ServerConfig(trusted_proxies=["127.0.0.1"])
    )
    processes = Processes(tmp_path, workers=2, config=config)
    poller = Poller(processes)
    by_name = processes.workers[0].site.admission._connections._by_name
    first = poller.upgrade(x_forwarded_for="203.0.113.7")
    assert by_name == {"203.0.113.7": 1}
    path = poller.path.replace("polling", "websocket")
    second = processes.ask(processes.workers[0], path, **handshake(x_forwarded_for="203.0.113.7"))
    assert second.status == 429
    first.line.vanish()
    processes.settle()
    assert by_name == {}
    trouble.clear()


@pytest.mark.parametrize(
    "sid",
    [
        "x",
        "1.x",
        "2.x",
        "0.x",
        "3.x",
        "03.x",
        "-1.x",
        "999.x",
        "1000.x",
        "9" * 5_000 + ".x",
        "2.",
        ".",
        "2",
        "2.%0A",
        "..%2F2.x",
        "%D9%A2.x",
        "2%00.x",
    ],
)
@pytest.mark.parametrize("transport", ["polling", "websocket"])
def test_sid_that_no_worker_has_given_is_unknown(
    processes: Processes, sid: str, transport: str
) -> None:
    path = f"{PATH.replace('polling', transport)}&sid={sid}"
    more = handshake() if transport == "websocket" else {}
    before = len(processes.clock.unixClients)
    answer = processes.ask(processes.workers[0], path, **more)
    assert (answer.status, answer.json) == (400, UNKNOWN)
    # One that may be of the other worker is looked for there, and only there.
    assert len(processes.clock.unixClients) - before == (sid == "2.x")


def test_errors_are_those_of_the_worker_of_the_client(processes: Processes) -> None:
    asked = [
        ("PUT", "polling", "4", "", BAD_METHOD),
        ("HEAD", "polling", "4", "", None),
        ("POST", "websocket", "4", "", BAD_METHOD),
        ("GET", "websocket", "4", "", BAD_REQUEST),
        ("GET", "polling", "3", "", {"code": 5, "message": "Unsupported protocol version"}),
        ("GET", "other", "4", "", {"code": 0, "message": "Transport unknown"}),
        ("POST", "polling", "4", "nonsense", BAD_REQUEST),
    ]
    for method, transport, version, body, error in asked:
        for other in (False, True):
            poller = Poller(processes, other=other)
            path = f"/socket.io/?EIO={version}&transport={transport}&sid={poller.sid}"
            answer = processes.ask(poller.asked, path, method, body.encode())
            assert answer.status == 400
            if error is not None:
                assert answer.json == error


def test_page_of_another_origin_is_refused(processes: Processes, trouble: Trouble) -> None:
    poller = Poller(processes)
    for method in ("GET", "POST"):
        answer = processes.ask(poller.asked, poller.path, method, b"", origin="http://evil.example")
        assert answer.status == 403
    socket_path = poller.path.replace("polling", "websocket")
    more = handshake(origin="http://evil.example")
    assert processes.ask(poller.asked, socket_path, **more).status == 403
    trouble.clear()


def test_worker_that_is_away_is_503(processes: Processes, trouble: Trouble) -> None:
    poller = Poller(processes)
    processes.away.add(2)
    answer = processes.ask(poller.asked, poller.path)
    assert (answer.status, answer["retry-after"]) == (503, "1")
    processes.away.clear()
    assert poller.post(b'421["greet","Bo"]').body == b"ok"
    trouble.clear()


def test_client_that_leaves_is_noticed_by_its_worker(processes: Processes) -> None:
    poller = Poller(processes)
    assert len(poller.own.node.peers) == 1
    line = poller.wait()
    line.vanish()
    processes.settle()
    assert not processes.relayed
    assert processes.ask(poller.asked, poller.path).json == UNKNOWN


@pytest.mark.parametrize("other", [False, True])
def test_client_that_closes_its_side_is_noticed_by_its_worker(
    processes: Processes, other: bool
) -> None:
    poller = Poller(processes, other=other)
    line = poller.wait()
    line.half_close()
    processes.settle()
    assert line.take() == b""
    assert line.lost
    assert not processes.relayed
    assert not len(poller.own.node.peers)
    assert processes.ask(poller.asked, poller.path).json == UNKNOWN


def test_end_of_a_worker_ends_the_upgraded_clients_of_others(processes: Processes) -> None:
    poller = Poller(processes)
    socket = poller.upgrade()
    poller.say(socket, b"2probe", b"5")
    relays: Any = poller.asked.service._relays
    drained = relays.drain()
    processes.settle()
    assert not drained.called
    for peer in tuple(poller.own.node.peers):
        peer.shut_down()
    processes.settle()
    processes.settle()
    (close,) = socket.take()
    assert close.opcode == 8
    socket.line.vanish()
    processes.settle()
    assert drained.called
