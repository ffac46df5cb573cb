"""Connections with a header of the PROXY protocol, on a server in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.interfaces import IAddress

from pushserver.auth.proxy_header import make_proxy_header
from pushserver.config.limits import Limits
from pushserver.config.loader import load
from pushserver.config.settings import Config
from pushserver.config.settings import Server as ServerSettings
from pushserver.errors import InvalidConfig, StartFailed
from pushserver.web.proxied import ProxiedFactory
from tests.unit.auth.test_proxy_header import FOUR, version_2
from tests.unit.fakes.web import Line, Log, Server, Trouble, handshake, parse, request

PROXY = IPv4Address("TCP", "10.0.0.1", 50_000)
HEADERS = [b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 443\r\n", version_2(FOUR)]
MOST = Limits(connections_per_address=2)


class Proxied:
    """A server behind a trusted proxy that sends headers."""

    def __init__(
        self,
        limits: Limits = MOST,
        shortcuts: bool = True,
        trusted: Sequence[str] = ("10.0.0.1", "unix"),
    ):
        settings = ServerSettings(trusted_proxies=list(trusted), proxy_protocol=True)
        self.server = Server(config=Config(server=settings, limits=limits), shortcuts=shortcuts)
        wrap: Any = self.server.service.ports._wrap
        self.factory: ProxiedFactory = wrap(self.server.site)

    def connect(self, peer: IAddress = PROXY) -> Line:
        line = Line(self.server.clock, peer)
        line.protocol = self.factory.buildProtocol(peer)
        line.protocol.makeConnection(line)
        return line

    def counted(self) -> dict[str, int]:
        return self.server.site.admission._connections._by_name


@pytest.mark.parametrize("shortcuts", [True, False])
@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("peer", [PROXY, UNIXAddress("")])
def test_requests_and_websockets_have_the_address_of_the_client(
    header: bytes, peer: IAddress, shortcuts: bool
) -> None:
    proxied = Proxied(shortcuts=shortcuts)
    with Log() as log:
        line = proxied.connect(peer)
        fields = {"origin": "https://evil.example", "x_forwarded_for": "1.1.1.1"}
        line.send(header + request("/channels/numbers", **fields))
        assert parse(line.take()).status == 403
    assert any("203.0.113.7" in text for text in log.take())
    socket = proxied.connect(peer)
    socket.send(header)
    socket.send(request("/channels/numbers", **handshake()))
    assert parse(socket.take()).status == 101
    assert proxied.counted() == {"203.0.113.7": 2}
    for each in (line, socket):
        each.vanish()
    assert proxied.counted() == {}


def test_client_over_its_bound_is_refused_and_others_are_not() -> None:
    proxied = Proxied()
    lines = [proxied.connect() for _ in range(3)]
    with Log():
        for line in lines:
            line.send(HEADERS[0])
            line.send(request("/channels/numbers", accept="application/json"))
    assert [parse(line.take()).status for line in lines] == [200, 200, 429]
    other = proxied.connect()
    other.send(HEADERS[0].replace(b"113.7", b"113.8"))
    other.send(request("/channels/numbers", accept="application/json"))
    assert parse(other.take()).status == 200


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", version_2(b"", 0, 0x20)])
def test_connection_without_a_client_is_the_proxys_own(header: bytes) -> None:
    proxied = Proxied()
    line = proxied.connect()
    line.send(header + request("/channels/numbers", accept="application/json"))
    assert parse(line.take()).status == 200
    assert line.getPeer() == PROXY
    assert proxied.counted() == {}


@pytest.mark.parametrize(
    "header",
    [b"PROXY UNKNOWN\r\n", version_2(b"", 0, 0x20), b"PROXY TCP4 127.0.0.1 127.0.0.1 4711 80\r\n"],
)
@pytest.mark.parametrize("peer", [IPv4Address("TCP", "127.0.0.1", 50_000), UNIXAddress("")])
def test_client_of_a_proxy_is_no_program_on_this_machine(
    header: bytes, peer: IAddress, trouble: Trouble
) -> None:
    proxied = Proxied(trusted=("127.0.0.1", "unix"))
    line = proxied.connect(peer)
    line.send(header + request("/channels/numbers", "POST", b"1"))
    answer = parse(line.take(), "POST")
    assert answer.status == 401
    assert "a request through a proxy (the PROXY protocol) needs an X-API-Key" in answer.error[1]
    trouble.clear()


@pytest.mark.parametrize("shortcuts", [True, False])
@pytest.mark.parametrize(
    ("tls", "origin", "accepted"),
    [
        (True, "https://push.example", True),
        (True, "http://push.example", False),
        (False, "https://push.example", False),
        (False, "http://push.example", True),
    ],
)
def test_header_tells_whether_the_client_has_tls(
    tls: bool, origin: str, accepted: bool, shortcuts: bool
) -> None:
    header = make_proxy_header(("203.0.113.7", 4711), ("10.0.0.1", 443), tls, False)
    fields = {"origin": origin, "host": "push.example"}
    for more, status in (({}, 200), (handshake(), 101)):
        line = Proxied(shortcuts=shortcuts).connect()
        with Log():
            line.send(header)
            line.send(request("/channels/numbers", accept="application/json", **fields, **more))
        assert parse(line.take()).status == (status if accepted else 403)


@pytest.mark.parametrize(
    ("client", "direct", "of_processes", "status"),
    [
        ("127.0.0.1", True, True, 201),
        # Nothing else is a program on this machine without a proxy before it.
        ("127.0.0.1", False, True, 401),
        ("127.0.0.1", True, False, 401),
        ("203.0.113.7", True, True, 401),
        # On a Unix socket of the other process, which has looked at its owner.
        (None, True, True, 201),
        (None, False, True, 401),
    ],
)
def test_process_of_the_server_tells_that_its_client_has_no_proxy(
    client: str | None, direct: bool, of_processes: bool, status: int, trouble: Trouble
) -> None:
    proxied = Proxied()
    proxied.factory.of_processes = of_processes
    end = None if client is None else (client, 4711)
    header = make_proxy_header(end, ("127.0.0.1", 8080), False, direct)
    line = proxied.connect(UNIXAddress(""))
    line.send(header + request("/channels/numbers", "POST", b"1"))
    assert parse(line.take(), "POST").status == status
    trouble.clear()


STRANGER = IPv4Address("TCP", "198.51.100.9", 40_000)


@pytest.mark.parametrize("header", HEADERS)
def test_header_of_another_peer_is_refused_with_a_line(header: bytes, trouble: Trouble) -> None:
    proxied = Proxied()
    line = proxied.connect(STRANGER)
    line.send(header + request("/channels/numbers", accept="application/json"))
    assert (line.lost, line.take()) == (True, b"")
    [text] = trouble.take()
    assert text == (
        "closed a connection: 198.51.100.9 sent a header of the PROXY protocol, and is not one of"
        " trusted_proxies"
    )
    line.settle()
    assert proxied.counted() == {}


@pytest.mark.parametrize("header", HEADERS)
def test_header_of_another_peer_in_pieces_is_no_request(header: bytes) -> None:
    line = Proxied().connect(STRANGER)
    for byte in header + request("/channels/numbers", accept="application/json"):
        line.send(bytes([byte]))
    assert line.lost
    assert b"HTTP/1.1 200" not in line.take()


@pytest.mark.parametrize("shortcuts", [True, False])
@pytest.mark.parametrize("peer", [STRANGER, UNIXAddress("")])
def test_other_peers_connect_without_a_header(peer: IAddress, shortcuts: bool) -> None:
    proxied = Proxied(shortcuts=shortcuts, trusted=("10.0.0.1",))
    line = proxied.connect(peer)
    for _ in range(2):
        line.send(request("/channels/numbers", accept="application/json"))
        assert parse(line.take()).status == 200
    socket = proxied.connect(peer)
    socket.send(request("/channels/numbers", **handshake()))
    assert parse(socket.take()).status == 101


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n", b"PROXY \r\n", version_2(FOUR[1:])])
def test_connection_without_a_valid_header_is_closed_with_a_line(
    data: bytes, trouble: Trouble
) -> None:
    proxied = Proxied()
    line = proxied.connect()
    line.send(data)
    line.send(HEADERS[0])
    assert (line.lost, line.take()) == (True, b"")
    [text] = trouble.take()
    assert text.startswith("closed a connection: 10.0.0.1 is one of trusted_proxies, and sent ")
    assert not proxied.factory.waiting


def test_lines_in_the_log_are_bounded_and_strangers_leave_those_of_proxies(
    trouble: Trouble,
) -> None:
    proxied = Proxied()
    for peer in (STRANGER, PROXY):
        for _ in range(100):
            proxied.connect(peer).send(HEADERS[0][:6] + b"\r\n")
        assert len(trouble.take()) == 10


@pytest.mark.parametrize("header", [b"", b"PROXY TCP4 1.1.1.1 1.1.1.1 1 2\n", b"PROXY UNKNOWN\r"])
def test_line_in_the_log_has_no_token(header: bytes, trouble: Trouble) -> None:
    Proxied().connect().send(header + b"GET /?token=secret HTTP/1.1\r\n")
    [text] = trouble.take()
    assert (header[:6].decode() or "GET ") in text
    assert "token" not in text


def test_slow_header_is_closed_whatever_it_drips(trouble: Trouble) -> None:
    proxied = Proxied(replace(MOST, request_seconds=5))
    line = proxied.connect()
    for byte in HEADERS[0][:6]:
        line.send(bytes([byte]))
        proxied.server.clock.advance(1)
    assert line.lost
    [text] = trouble.take()
    assert text.endswith("no whole header of the PROXY protocol within 5 seconds")


def test_stop_of_the_port_closes_connections_without_a_header() -> None:
    proxied = Proxied()
    line = proxied.connect()
    proxied.factory.doStart()
    proxied.factory.doStop()
    line.settle()
    assert line.lost
    assert not proxied.server.clock.getDelayedCalls()


def test_endpoint_that_reads_a_second_header_is_refused() -> None:
    with pytest.raises(StartFailed, match=r"leave out haproxy:"):
        Proxied().server.service.ports.listen("haproxy:tcp:0:interface=127.0.0.1")


def test_setting_needs_trusted_proxies() -> None:
    with pytest.raises(InvalidConfig, match=r"proxy_protocol.* needs server\.trusted_proxies"):
        load("[server]\nproxy_protocol = true\n", "x.toml", {}, {})


def test_a_reload_changes_the_proxies_whose_headers_count() -> None:
    proxied = Proxied(trusted=["10.0.0.2"])
    settings = ServerSettings(trusted_proxies=["10.0.0.1"], proxy_protocol=True)
    live = proxied.server.service.live
    live.allow(lambda: Config(server=settings, limits=MOST, sources={}))
    live.reload()
    proxied.server.clock.advance(0)
    line = proxied.connect()
    line.send(HEADERS[0] + request("/channels/numbers", accept="application/json"))
    assert parse(line.take()).status == 200
    assert proxied.counted() == {"203.0.113.7": 1}


def test_connections_that_are_closed_are_remembered_by_cause(trouble: Trouble) -> None:
    proxied = Proxied()
    for port in range(3):
        proxied.connect(IPv4Address("TCP", "10.9.9.9", 4_000 + port)).send(HEADERS[0])
    proxied.connect().send(b"GET / HTTP/1.1\r\n\r\n")
    recent = proxied.server.service.live._base.peers.refusals.recent.newest_first()
    found = [(refusal.address, refusal.count, refusal.setting) for refusal in recent]
    assert found == [
        ("10.0.0.1", 1, "server.trusted_proxies"),
        ("10.9.9.9", 3, "server.trusted_proxies"),
    ]
    trouble.clear()
