"""The port for metrics: what it serves, to whom, and the errors of its setting."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.address import IPv4Address

from pushserver.config.settings import Auth, Config
from pushserver.config.settings import Server as ServerSettings
from pushserver.errors import StartFailed
from pushserver.server.build import build
from tests.unit.fakes.web import Line, Response, Server, request

CONFIG = Config(
    server=ServerSettings(metrics_listen="9102"), auth=Auth(api_keys=["correct-horse-battery"])
)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(config=CONFIG)
    server.service.startService()
    server.clock.advance(0)
    yield server
    server.service.stopService()
    for _ in range(10):
        server.clock.advance(1)


def connect(server: Server) -> Line:
    """A connection to the port for metrics."""
    [_, site] = server.service.ports.sites
    address = IPv4Address("TCP", "127.0.0.1", 50000)
    line = Line(server.clock, address)
    line.protocol = site.buildProtocol(address)
    line.protocol.makeConnection(line)
    return line


def get(server: Server, path: str, **headers: str) -> Response:
    line = connect(server)
    line.send(request(path, **headers))
    response = line.response()
    line.vanish()
    return response


def test_port_listens_where_the_setting_says(server: Server) -> None:
    ports = {(port, interface) for port, _, _, interface in server.clock.tcpServers}
    assert ports == {(8080, "127.0.0.1"), (9102, "127.0.0.1")}


def test_metrics_and_health_need_no_key_there(server: Server) -> None:
    assert get(server, "/metrics").status == 200
    assert server.get("/metrics").status == 401
    assert get(server, "/health/ready").status == 200
    assert get(server, "/health/live").status == 200


@pytest.mark.parametrize("path", ["/", "/channels/a", "/api/info", "/static/app.css"])
def test_port_serves_only_metrics_and_health(server: Server, path: str) -> None:
    assert get(server, path).status == 404


def test_page_whose_name_leads_to_the_port_reads_nothing(server: Server) -> None:
    assert get(server, "/metrics", host="evil.example:9102").status == 403


def test_stop_closes_the_port_and_its_idle_connections(server: Server) -> None:
    line = connect(server)
    line.send(request("/metrics"))
    line.take()
    server.service.stopService()
    assert all(listener._port is None for listener in server.service.ports._metrics_listeners)
    server.clock.advance(1)
    assert line.disconnecting or line.aborted


def test_reload_applies_the_names_of_the_server_there(server: Server) -> None:
    names = replace(CONFIG, server=replace(CONFIG.server, names=["monitor.example"]))
    server.service.live.load = lambda: names
    server.service.live.reload()
    server.clock.advance(1)
    assert get(server, "/metrics", host="monitor.example").status == 200


@pytest.mark.parametrize("text", ["127.0.0.1", "tcp:", "70000", "nothing:1", "systemd:"])
def test_invalid_setting_ends_the_start_and_is_named(text: str) -> None:
    config = Config(server=ServerSettings(metrics_listen=text), sources={})
    with pytest.raises(StartFailed, match=r"^pushserver: server\.metrics_listen "):
        Server(config=config)


def test_port_in_use_is_told_with_the_setting_that_changes_it() -> None:
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        used.listen()
        port = used.getsockname()[1]
        config = Config(
            server=ServerSettings(listen=["tcp:0:interface=127.0.0.1"], metrics_listen=f"{port}"),
            sources={},
        )
        installed: Any = reactor
        service = build(config, installed)
        [listener] = service.ports._metrics_listeners
        with pytest.raises(StartFailed) as caught:
            listener.privilegedStartService()
    text = str(caught.value)
    assert f"cannot listen on {port}: the port is in use" in text
    assert 'server.metrics_listen = "127.0.0.1:' in text
    assert "--port" not in text
