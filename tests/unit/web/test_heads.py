"""Nothing of a request's head and body is kept while its answer takes long."""

from __future__ import annotations

import gc
from types import FunctionType, ModuleType
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.logger import Logger
from twisted.web.http import combinedLogFormatter
from twisted.web.resource import Resource
from twisted.web.server import Site

from tests.unit.fakes.web import Line, Server, handshake, parse, request

MARK = "k3pt"
BIG = {f"x_{MARK}_{n}": MARK * 10 for n in range(100)}
HEADS: dict[str, dict[str, str]] = {
    "many fields": BIG,
    "a long field": {"x_long": MARK * 3_000},
    "cookies": {"cookie": "; ".join(f"{MARK}{n}={MARK}" for n in range(100))},
    "authorization": {"x_forwarded_for": MARK, "user_agent": MARK, "referer": f"http://{MARK}/"},
}
QUERY = f"?x={MARK * 500}&{MARK}=1"
CONNECT = b'{"id":1,"connect":{"name":"%s"}}' % MARK.encode()
REQUESTS: dict[str, tuple[str, str, bytes, dict[str, str]]] = {
    "sse": (f"/channels/a{QUERY}", "GET", b"", {"accept": "text/event-stream"}),
    "ndjson": (f"/channels/a{QUERY}", "GET", b"", {"accept": "application/x-ndjson"}),
    "events": (f"/events{QUERY}&channel=a", "GET", b"", {"accept": "text/event-stream"}),
    "long-poll": (f"/channels/a{QUERY}&wait=60", "GET", b"", {}),
    "http_stream": (f"/connection/http_stream{QUERY}", "POST", CONNECT, {}),
    "websocket": (f"/channels/a{QUERY}", "GET", b"", handshake()),
}


def kept(root: object) -> list[object]:
    """The texts and bytes with MARK that are reachable from an object."""
    seen: set[int] = set()
    todo: list[Any] = [root]
    found: list[object] = []
    while todo:
        item = todo.pop()
        if id(item) in seen or isinstance(item, (type, ModuleType, FunctionType, Logger)):
            continue
        seen.add(id(item))
        if isinstance(item, (str, bytes, bytearray)):
            text = item if isinstance(item, str) else bytes(item).decode("latin-1")
            if MARK in text.lower():
                found.append(item)
        elif not isinstance(item, (Server, Line)):
            todo += gc.get_referents(item)
    return found


def opened(server: Server, name: str, head: str, pieces: int = 1) -> Line:
    path, method, body, fields = REQUESTS[name]
    data = request(path, method, body, **fields, **HEADS[head])
    line = server.connect()
    size = len(data) // pieces
    for n in range(pieces):
        line.send(data[n * size : (n + 1) * size if n < pieces - 1 else None])
    return line


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", REQUESTS)
def test_nothing_is_kept_of_a_request_whose_answer_takes_long(
    name: str, head: str, pieces: int
) -> None:
    server = Server()
    line = opened(server, name, head, pieces)
    assert not line.lost
    # The server itself is reachable too; it may keep nothing either.
    assert kept(line.protocol) == []
    server.publish("a", "news")
    assert b"news" in line.take() or name == "http_stream"
    line.vanish()
    assert server.is_empty()


def test_long_poll_is_answered_after_it_has_forgotten_its_request() -> None:
    server = Server()
    line = opened(server, "long-poll", "many fields")
    server.publish("a", 7)
    answer = line.response()
    assert (answer.status, answer.json["publications"][0]["data"]) == (200, 7)
    assert answer["content-type"] == "application/json"
    line.send(request("/channels/a?last=1"))
    assert line.response().json["publications"][0]["data"] == 7


def test_mounted_server_keeps_what_the_log_of_its_site_shows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server()
    root = Resource()
    root.putChild(b"push", server.service.resource)
    site = Site(root, reactor=server.clock)
    lines: list[str] = []
    monkeypatch.setattr(site, "log", lambda done: lines.append(combinedLogFormatter("now", done)))
    line = Line(server.clock, IPv4Address("TCP", "192.0.2.1", 5))
    line.protocol = site.buildProtocol(line.getPeer())
    line.protocol.makeConnection(line)
    fields = {**BIG, "referer": "http://page/", "user_agent": "curl"}
    line.send(request("/push/channels/a?since=now", accept="text/event-stream", **fields))
    assert parse(line.take()).status == 200
    for peer in server.node.peers:
        peer.shut_down()
    line.settle()
    (logged,) = lines
    assert '"GET /push/channels/a?since=now HTTP/1.1" 200' in logged
    assert logged.endswith('"http://page/" "curl"')
