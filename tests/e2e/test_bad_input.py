"""Bad input gets a status 4xx or an error of the protocol, and disturbs no other client."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from signal import SIGTERM

import pytest

from tests.e2e.exchange import SSE, Reading, ask, configured, history, publish, serving
from tests.e2e.patience import PATIENCE
from tests.e2e.server import Server
from tests.e2e.sockets import CONNECT, closed_with, dial, objects
from tests.e2e.supervisor import Supervisor


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a reader, which must receive every publication meanwhile."""
    with serving(tmp_path_factory.mktemp("bad")) as server:
        with closing(Reading(server, "channels/a", SSE)) as bystander:
            bystander.block()
            publish(server, "a", "first")
            yield server
            publish(server, "a", "last")
            heard = [json.loads(bystander.block()["data"])["data"] for _ in range(2)]
        assert heard == ["first", "last"]


@pytest.mark.parametrize("accept", ["application/json", SSE, "application/x-ndjson"])
@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("since=x", "since: invalid cursor"),
        ("since=x:-1", "since: invalid cursor"),
        ("since=" + "9" * 5000, "since: invalid cursor"),
        ("since=%FF%FE", "since: invalid cursor"),
        ("last=-1", "last=-1: expected"),
        ("last=99999999999999999999", "last=99999999999999999999: expected"),
        ("last=1&since=now", "since and last"),
    ],
)
def test_an_invalid_query_is_400_and_names_the_field(
    server: Server, accept: str, query: str, word: str
) -> None:
    answer = server.get(f"channels/a?{query}", accept)
    assert answer.status == 400
    assert word in json.loads(answer.body)["error"]["message"]


@pytest.mark.parametrize("query", ["limit=-1", "limit=1e9", "wait=-1", "wait=100000", "limit=x"])
def test_an_invalid_bound_is_400_and_names_the_bound(server: Server, query: str) -> None:
    answer = server.get(f"channels/a?{query}")
    assert answer.status == 400
    assert json.loads(answer.body)["error"]["message"].startswith(query)


@pytest.mark.parametrize(("cursor", "reason"), [("elsewhere:5", "epoch"), ("{}:999999", "ahead")])
def test_a_foreign_or_future_cursor_is_reported(server: Server, cursor: str, reason: str) -> None:
    cursor = cursor.replace("{}", history(server, "a")["epoch"])
    found = history(server, "a", f"since={cursor}")
    assert (found["recovered"], found["reason"]) == (False, reason)
    with closing(Reading(server, "channels/a", SSE, last_event_id=cursor)) as stream:
        assert json.loads(stream.block()["data"])["reason"] == reason


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"\xff\xfe", "invalid UTF-8"),
        (b'{"a":1,"a":2}', "appears twice"),
        (b"[" * 500_000, "nested deeper"),
        (b"[NaN]", "NaN is not JSON"),
        (b'{"a":1e999}', "beyond the range"),
        (b"", "the body is empty"),
    ],
)
@pytest.mark.parametrize("media", ["application/json", "application/x-www-form-urlencoded"])
def test_a_body_without_a_value_is_400(server: Server, body: bytes, word: str, media: str) -> None:
    answer = ask(server, "POST", "channels/b", body, content_type=media)
    assert answer.status == 400
    assert word in json.loads(answer.body)["error"]["message"]
    assert history(server, "b")["offset"] == 0


def test_a_body_over_the_limit_is_413_before_its_end(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
        client.sendall(
            b"POST /channels/b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n"
        )
        assert client.recv(12) == b"HTTP/1.1 413"


@pytest.mark.parametrize(
    ("path", "body", "word"),
    [
        ("api/bogus", b"{}", "unknown method"),
        ("api/publish", b"[]", "no JSON object"),
        ("api/publish", b"\xff", "no JSON object"),
        ("api/publish", b'{"channel":"\xff","data":1}', ""),
        ("api/publish", b'{"channel":"a","data":1,"bogus":1}', "bogus"),
        ("api/publish", b'{"channel":"a"}', "data"),
        ("api/history", b'{"channel":"a","limit":-5}', "limit is -5"),
        ("api/history", b'{"channel":"a","since":{"offset":-5}}', "$.since.offset"),
        ("emulation", b'{"session":"x","data":"{}"}', "unknown session"),
        ("emulation", b'{"session":"\xff"}', ""),
        ("emulation", b"{}", "session"),
    ],
)
def test_an_invalid_call_is_an_error_that_names_the_field(
    server: Server, path: str, body: bytes, word: str
) -> None:
    answer = ask(server, "POST", path, body)
    assert answer.status in (200, 400, 404)
    assert word in json.loads(answer.body)["error"]["message"]


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ({"history": {"channel": "a", "limit": -2}}, "$.limit"),
        ({"history": {"channel": "a", "since": {"offset": -1}}}, "$.since.offset"),
        ({"subscribe": {"channel": "a", "offset": -1}}, "$.offset"),
        ({"subscribe": {"channel": "a", "data": {"last": -1}}}, "data.last"),
        ({"subscribe": {"channel": 7}}, "$.channel"),
        ({"presence": {"channel": "a b"}}, "invalid channel name"),
        ({"publish": {"channel": "a"}}, "data"),
    ],
)
def test_an_invalid_command_is_error_107_and_names_the_field(
    server: Server, command: dict[str, object], word: str
) -> None:
    with dial(server, "connection/websocket") as client:
        client.send(CONNECT)
        objects(client)
        client.send(json.dumps({"id": 2, **command}))
        [reply] = objects(client)
        assert reply["error"]["code"] == 107
        assert word in reply["error"]["message"]
        client.send('{"id":3,"ping":{}}')
        assert objects(client) == [{"id": 3, "ping": {}}]


def test_a_frame_with_endless_nesting_closes_its_connection(server: Server) -> None:
    with dial(server, "connection/websocket") as client:
        client.send('{"id":1,"connect":' + "[" * 60_000)
        close = closed_with(client)
    assert (close.code, bool(close.reason)) == (3501, True)


@pytest.mark.parametrize(
    "request_text",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 50,
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /channels/b HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /channels/b HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\r\n\r\n\r\n",
    ],
)
def test_invalid_requests_are_refused_or_dropped(server: Server, request_text: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
        client.sendall(request_text)
        found = b""
        try:
            client.shutdown(socket.SHUT_WR)
            while chunk := client.recv(65_536):
                found += chunk
        except OSError:
            # Refused before the end of the request: the connection is closed.
            return
    assert found == b"" or found.startswith(b"HTTP/1.1 4")


def test_a_stream_never_gets_503_while_the_server_stops(tmp_path: Path) -> None:
    """A native EventSource never reconnects after a status other than 200."""
    server = configured(tmp_path, "[sources]\n[limits]\ndrain_seconds = 2")
    supervisor = Supervisor()
    head = b"GET /channels/a HTTP/1.1\r\nHost: localhost\r\n"
    try:
        server.start(supervisor)
        address = ("127.0.0.1", server.port)
        with (
            socket.create_connection(address, timeout=PATIENCE) as mute,
            socket.create_connection(address, timeout=PATIENCE) as client,
        ):
            # A peer that does not answer, so that the stop takes longer.
            mute.sendall(
                head + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            assert mute.recv(12) == b"HTTP/1.1 101"
            client.sendall(head + b"\r\n")
            assert client.recv(12) == b"HTTP/1.1 200"
            server.send(SIGTERM)
            supervisor.wait_for("STOPPING=1", server.pid)
            found = b""
            try:
                client.sendall(head + b"Accept: text/event-stream\r\n\r\n")
                while chunk := client.recv(65_536):
                    found += chunk
            except (ConnectionResetError, BrokenPipeError):
                pass
            assert b"HTTP/1.1 503" not in found
            server.wait()
        assert server.problems == []
    finally:
        server.kill()
