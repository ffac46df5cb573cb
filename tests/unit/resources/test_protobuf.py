from __future__ import annotations

import json
from urllib.parse import urlencode

import pytest
from twisted.logger import LogLevel

from pushserver.config.settings import Config
from pushserver.config.settings import Server as ServerSection
from tests.unit.fakes.web import Line, Log, Response, Server, handshake, parse

CONNECT = b'{"id":1,"connect":{}}'
PROTOBUF = b"\x04\x08\x01\x22\x00"
"""The connect command in the Protobuf form."""


def ask(server: Server, path: str, **headers: str) -> Response:
    """Ask a URL of the Centrifuge protocol for a session, as each transport does."""
    name, _, query = path.partition("?")
    if name == "websocket":
        line = server.open(f"/connection/{path}", **handshake(**headers))
        return parse(line.take())
    if name == "sse":
        query = "&".join(filter(None, [query, urlencode({"cf_connect": CONNECT})]))
        return server.get(f"/connection/sse?{query}", **headers)
    if name == "emulation":
        return server.get(f"/{path}", "POST", PROTOBUF, **headers)
    return server.get(f"/connection/{path}", "POST", PROTOBUF, **headers)


OCTETS = {"content_type": "application/octet-stream"}
ASKED = [
    ("websocket", {"sec_websocket_protocol": "centrifuge-protobuf"}),
    ("websocket", {"sec_websocket_protocol": "chat, centrifuge-protobuf"}),
    ("websocket?format=protobuf", {}),
    ("websocket?cf_protocol=protobuf", {}),
    ("websocket?format=protobuf", {"sec_websocket_protocol": "centrifuge-json"}),
    ("sse?format=protobuf", {}),
    ("sse?cf_protocol=protobuf", {}),
    ("http_stream?format=protobuf", {}),
    ("http_stream", OCTETS),
    ("http_stream", {"content_type": "Application/Octet-Stream; x=1"}),
    ("http_stream", {"content_type": "application/x-protobuf"}),
    ("emulation?format=protobuf", {}),
    ("emulation", OCTETS),
    ("emulation", {"content_type": "application/protobuf"}),
]


@pytest.mark.parametrize(("path", "headers"), ASKED)
@pytest.mark.parametrize("shortcuts", [True, False])
def test_protobuf_form_is_refused_alike_on_all_transports(
    path: str, headers: dict[str, str], shortcuts: bool
) -> None:
    server = Server(shortcuts=shortcuts)
    with Log(LogLevel.info) as log:
        status, message = ask(server, path, **headers).error
    assert status == 400
    assert "protobuf" in message or "application/octet-stream" in message
    assert "the Protobuf form of the Centrifuge protocol is not spoken here" in message
    assert "JavaScript, Python and Go have a JSON form" in message
    [line] = log.take()
    assert "refused a client at 127.0.0.1" in line
    assert "JavaScript, Python and Go have a JSON form" in line
    assert len(server.node.peers) == 0


def test_line_has_the_address_that_a_trusted_proxy_forwards() -> None:
    config = Config(server=ServerSection(trusted_proxies=["127.0.0.1"]))
    with Log(LogLevel.info) as log:
        ask(Server(config=config), "emulation", **OCTETS, x_forwarded_for="1.1.1.1, 203.0.113.7")
    [line] = log.take()
    assert "refused a client at 203.0.113.7" in line


def test_protobuf_clients_that_retry_are_one_line_a_minute() -> None:
    server = Server()
    with Log(LogLevel.info) as log:
        for path, headers in ASKED:
            ask(server, path, **headers)
        server.clock.advance(60)
        ask(server, "emulation", **OCTETS)
    first, second = log.take()
    assert first.endswith("have a JSON form")
    assert second.endswith(f"(and {len(ASKED) - 1} that were not logged)")


@pytest.mark.parametrize("offered", ["centrifuge-json", "centrifuge-protobuf, centrifuge-json"])
def test_client_that_offers_json_gets_json(offered: str) -> None:
    server = Server()
    socket = server.websocket("/connection/websocket", sec_websocket_protocol=offered)
    assert socket.handshake["sec-websocket-protocol"] == "centrifuge-json"


@pytest.mark.parametrize("media", ["application/json", "text/plain;charset=UTF-8", ""])
@pytest.mark.parametrize("query", ["", "?format=json", "?cf_ws_frame_ping_pong=true"])
def test_json_form_is_accepted(media: str, query: str) -> None:
    server = Server()
    line = server.open(f"/connection/http_stream{query}", "POST", CONNECT, content_type=media)
    assert session(line)


def session(line: Line) -> str:
    """The secret in the connect reply."""
    secret: str = json.loads(parse(line.take()).body)["connect"]["session"]
    return secret


def test_binary_frame_is_logged_with_what_was_expected() -> None:
    server = Server()
    socket = server.session()
    with Log() as log:
        [closed] = socket.say(PROTOBUF, opcode=2)
    assert closed.close == (3501, "binary frames are not understood; send JSON text")
    assert any("Protobuf form" in line for line in log.take())
