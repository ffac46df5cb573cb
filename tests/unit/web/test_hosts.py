"""The hosts that a request may name, over loopback and elsewhere, on every URL."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from pushserver.config.settings import Config
from pushserver.config.settings import Server as ServerSection
from tests.unit.fakes.web import Line, Log, Server, handshake, parse, request

REBOUND = "rebound.example:8080"
NAMED = Config(
    server=ServerSection(allowed_origins=["https://app.example:8443"], names=["push.example"])
)
CONNECT = '{"id":1,"connect":{}}'


@dataclass(frozen=True)
class Door:
    """One request that a server on loopback answers when it is asked by its own name."""

    path: str
    method: str = "GET"
    body: bytes = b""
    upgrade: bool = False


DOORS = [
    Door("/"),
    Door("/channels/numbers"),
    Door("/channels/numbers", upgrade=True),
    Door("/channels/numbers", "POST", b"1"),
    Door("/channels/numbers", "HEAD"),
    Door("/channels/numbers", "OPTIONS"),
    Door("/events?channel=a"),
    Door("/events?channel=a", upgrade=True),
    Door("/connection/websocket", upgrade=True),
    Door("/connection/sse?cf_connect=%7B%22id%22%3A1%2C%22connect%22%3A%7B%7D%7D"),
    Door("/connection/http_stream", "POST", CONNECT.encode()),
    Door("/emulation", "POST", b'{"session":"x","data":"{}"}'),
    Door("/api/info", "POST", b"{}"),
    Door("/hooks/x", "POST", b"{}"),
    Door("/status?channel=numbers"),
    Door("/static/live.js"),
    Door("/nowhere"),
]


def ask(server: Server, door: Door, host: str, /, **headers: str) -> Line:
    if door.upgrade:
        headers = handshake(**headers)
    return server.open(door.path, door.method, door.body, host=host, **headers)


@pytest.mark.parametrize("door", DOORS, ids=str)
def test_rebound_name_is_refused_at_every_url(door: Door) -> None:
    server = Server()
    with Log() as log:
        answer = ask(server, door, REBOUND, origin=f"http://{REBOUND}").response(door.method)
    assert answer.status == 403
    [line] = log.take()
    assert repr(REBOUND) in line
    assert "server.names" in line
    assert len(server.node.peers) == 0
    assert server.hub.history.top("numbers") == 0


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1:8080", "[::1]:8080", "a.localhost"])
@pytest.mark.parametrize("door", DOORS, ids=str)
def test_names_of_loopback_are_served(door: Door, host: str) -> None:
    answer = parse(ask(Server(), door, host).take(), door.method)
    assert b"name of this server" not in answer.body
    assert answer.status in (101, 200, 201, 204, 302, 404, 405)


@pytest.mark.parametrize(
    "host",
    [
        "push.example",
        "PUSH.example.:1234",
        "app.example",
        "app.example:8080",
        socket.gethostname(),
        "10.0.0.1",
        "0.0.0.0:8080",
        "[fd00::1]:8080",
        "localhost.localdomain",
        "host.docker.internal:8080",
    ],
)
def test_configured_names_are_served_on_any_port(host: str) -> None:
    assert Server(config=NAMED).get("/channels/a", host=host).status == 200


@pytest.mark.parametrize(
    "host",
    ["example", "www.push.example", "push.example.evil.example", "1.2.3", "evilapp.example"],
)
def test_other_names_are_refused_beside_configured_ones(host: str) -> None:
    assert Server(config=NAMED).get("/channels/a", host=host).status == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"x_forwarded_for": "1.2.3.4"},
        {"x_forwarded_proto": "https"},
        {"forwarded": "for=1.2.3.4"},
        {"x_real_ip": "1.2.3.4"},
        {"cf_connecting_ip": "1.2.3.4"},
    ],
)
def test_forwarded_host_is_served_unless_it_has_our_port(headers: dict[str, str]) -> None:
    """A page of a rebound name can send these headers too; its Host has our port."""
    server = Server()
    for host in ("push.example", "push.example:8443", "push.example:80"):
        assert server.get("/channels/a", host=host, **headers).status == 200
    assert server.get("/channels/a", host=REBOUND, **headers).status == 403


def test_headers_that_no_page_can_send_show_a_proxy_on_any_port() -> None:
    assert Server().get("/channels/a", host=REBOUND, via="1.1 nginx").status == 200
    line = Server().connect()
    line.send(b"GET /channels/a HTTP/1.0\r\nHost: rebound.example:8080\r\n\r\n")
    assert line.take().startswith(b"HTTP/1.0 200")


def test_request_without_a_host_is_served() -> None:
    line = Server().connect()
    line.send(b"GET /channels/a HTTP/1.0\r\n\r\n")
    assert line.take().startswith(b"HTTP/1.0 200")


@pytest.mark.parametrize(
    ("here", "status"),
    [
        (IPv4Address("TCP", "127.0.0.1", 8080), 403),
        (IPv4Address("TCP", "127.0.1.1", 8080), 403),
        (IPv6Address("TCP", "::1", 8080), 403),
        (IPv6Address("TCP", "::ffff:127.0.0.1", 8080), 403),
        (IPv4Address("TCP", "192.168.0.2", 8080), 200),
        (IPv6Address("TCP", "fd00::1", 8080), 200),
        (UNIXAddress(b"/run/p"), 200),
    ],
)
def test_only_connections_over_loopback_are_checked(here: Any, status: int) -> None:
    line = Server().connect()
    line.hostAddr = here
    line.send(request("/channels/a", host=REBOUND))
    assert line.response().status == status


def test_cache_of_hosts_is_bounded() -> None:
    server = Server()
    hosts = server.site.resource._hosts
    for n in range(2_000):
        assert server.get("/channels/a", host=f"{n}.example").status == 403
    assert len(hosts._cache) <= 256
    assert server.get("/channels/a", host="localhost").status == 200


def test_an_origin_names_a_host_and_a_pattern_does_not() -> None:
    section = ServerSection(allowed_origins=["https://Büro.example", "https://*.app.example"])
    server = Server(config=Config(server=section))
    assert server.get("/channels/a", host="xn--bro-hoa.example").status == 200
    for host in ("push.app.example", "app.example"):
        assert server.get("/channels/a", host=host).status == 403
