"""The server behind HAProxy in TCP mode, which names the clients by the PROXY protocol."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
from contextlib import closing
from pathlib import Path

from websockets.asyncio.client import connect
from websockets.typing import Origin

from tests.e2e.certificate import certificate
from tests.e2e.patience import PATIENCE
from tests.e2e.proxies import BLOCKS, Place, Proxy, haproxy, put
from tests.e2e.server import Server, environment, free_port, running
from tests.e2e.test_behind_proxies import CLIENT, curl, line_with

CONFIGURATION, HAPROXY = (block.text for block in BLOCKS["PROXY protocol"])


def _configure(place: Place) -> list[str]:
    """Three ways: version 2 below TLS with the block, version 1 with health checks, HTTP mode."""
    block = put(
        HAPROXY,
        ("bind :443", f"bind 127.0.0.1:{place.https}"),
        ("127.0.0.1:8443", f"127.0.0.1:{place.server}"),
    )
    others = "".join(
        f"""
listen {name}
    mode {mode}
    timeout client 75s
    timeout connect 60s
    timeout server 75s
    bind 127.0.0.1:{port}
    server pushserver 127.0.0.1:{place.keyless} {sends}
"""
        for name, mode, port, sends in (
            ("line", "tcp", place.http, "send-proxy check inter 100ms fall 10000"),
            ("web", "http", place.bare, "send-proxy-v2 check inter 100ms fall 10000"),
        )
    )
    return haproxy(place, block + others)


def test_haproxy_names_its_clients_and_no_other_peer_does(tmp_path: Path) -> None:
    key, path = certificate(tmp_path, "localhost")
    port = free_port()
    settings = put(
        CONFIGURATION,
        ("ssl:8443", f"ssl:{port}"),
        ("/etc/ssl/push.example.key", key),
        ("/etc/ssl/push.example.pem", path),
    )
    (tmp_path / "pushserver.toml").write_text(settings)
    [endpoint] = re.findall(r'"(ssl:.*?)"', settings)
    arguments = ("--config=pushserver.toml", "--debug", "--listen", endpoint)
    server = Server(tmp_path, *arguments, env=environment())
    proxy = Proxy("HAProxy", "haproxy", True, True, _configure)
    claimed = ("--header", "X-Forwarded-For: 1.1.1.1", "--header", "Accept: application/x-ndjson")
    with running(server), proxy.run(port, server.port) as place:
        before = len(server.log)
        for scheme in ("https", "http", "bare"):
            with closing(curl(place.url(scheme, "/channels/talk"), *claimed)) as stream:
                line_with(stream, '"epoch":')
        assert re.findall(r"(\S+):\d+ came by", server.log[before:]) == [CLIENT] * 3

        # The server ends TLS itself, and so knows its own origin.
        tls = ssl.create_default_context(cafile=str(path))
        url = place.url("https", "/channels/talk")
        asyncio.run(_subscribe(url, tls))

        # Neither the proxy without a header nor another peer with one is served.
        line = b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 443\r\n"
        request = (
            b"GET /channels/talk HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n"
        )
        answers = [
            _ask(server.port, *one) for one in (("127.0.0.1", request), (CLIENT, line + request))
        ]
        assert answers == [b"", b""]
        assert _ask(server.port, CLIENT, request).startswith(b"HTTP/1.1 200 ")
        closed = re.findall(r"closed a connection: (\S+) (is one of|sent a header)", server.log)
        assert closed == [("127.0.0.1", "is one of"), (CLIENT, "sent a header")]


async def _subscribe(url: str, tls: ssl.SSLContext) -> None:
    """Subscribe by WebSocket as a page of the same origin."""
    origin = Origin(url.removesuffix("/channels/talk"))
    async with connect(url.replace("https", "wss"), origin=origin, ssl=tls, proxy=None) as stream:
        assert "subscribed" in json.loads(await stream.recv())


def _ask(port: int, address: str, data: bytes) -> bytes:
    """The first bytes of the answer to a connection from this address, empty if it is closed."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE, (address, 0)) as peer:
        peer.sendall(data)
        try:
            return peer.recv(65_536)
        except ConnectionResetError:
            return b""
