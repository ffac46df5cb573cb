"""Clients that send without pause, or that leave: others are served, and the log stays short."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest

from benchmarks.floods import CENTRIFUGE, CONNECT, LONG_POLL, RAW, STREAM, frame, request
from tests.e2e.exchange import SSE, Reading, ask, publish, serving
from tests.e2e.patience import PATIENCE
from tests.e2e.server import Server
from tests.unit.web.test_refusal_log import banned

PEERS = 3
BYTES = 2_000_000
"""Of each flood: far more than the rates allow."""

FLOODS: dict[str, tuple[bytes, bytes, bytes, int]] = {
    "pings": (RAW, b"", frame(9), 1008),
    "pongs": (RAW, b"", frame(10), 1008),
    "continuations": (RAW, frame(1, final=False), frame(0, final=False), 1008),
    "continuations of a byte": (RAW, frame(1, final=False), frame(0, b" ", False), 1008),
    "texts to a stream": (RAW, b"", frame(1, b"x"), 1008),
    "pings of a session": (CENTRIFUGE, CONNECT, frame(9), 3013),
    "pongs of the protocol": (CENTRIFUGE, CONNECT, frame(1, b"{}"), 3501),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a reader, which must receive every publication meanwhile."""
    with serving(tmp_path_factory.mktemp("floods")) as server:
        with closing(Reading(server, "channels/canary", SSE)) as canary:
            canary.block()
            yield server
            publish(server, "canary", "last")
            while json.loads(canary.block()["data"])["data"] != "last":
                pass
        assert server.problems == []
        assert len(server.log.splitlines()) < 100


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), PATIENCE)


def flood(server: Server, handshake: bytes, first: bytes, repeated: bytes) -> bytes:
    """Send without pause, and read until the server ends it, with a close frame or a FIN."""
    received = b""
    with closing(connect(server)) as client:
        client.sendall(handshake)
        while handshake and b"\r\n\r\n" not in received:
            received += client.recv(65_536)
        client.sendall(first)
        client.setblocking(False)
        portion = repeated * (BYTES // len(repeated))
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            try:
                data = client.recv(65_536)
            except BlockingIOError:
                pass
            except ConnectionResetError:
                return received
            else:
                if not data:
                    return received
                received += data
                if handshake and b"\x88" in received[:-3]:
                    return received
            with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                if portion:
                    portion = portion[client.send(portion) :]
        raise AssertionError("the server did not end it")


@pytest.mark.parametrize("name", FLOODS)
def test_flood_of_frames_is_closed_with_its_code_while_others_are_served(
    server: Server, name: str
) -> None:
    handshake, first, repeated, code = FLOODS[name]
    sent = (handshake, first, repeated)
    with ThreadPoolExecutor(PEERS) as pool:
        floods = [pool.submit(flood, server, *sent) for _ in range(PEERS)]
        served = 0
        while not served or not all(running.done() for running in floods):
            publish(server, "canary", served)
            served += 1
        for running in floods:
            received = running.result()
            assert b"\x88" in received
            close = received[received.rindex(b"\x88") :]
            assert int.from_bytes(close[2:4], "big") == code


@pytest.mark.parametrize("line", ["GET /nowhere", "get /", "PUT /channels/a", "OPTIONS /x"])
def test_refused_requests_end_with_429_that_the_client_can_read(server: Server, line: str) -> None:
    received = flood(server, b"", b"", request(line))
    assert re.findall(rb"HTTP/1\.1 (\d{3}) ", received)[-1] == b"429"
    assert received.count(b"Retry-After: 10\r\n") == 1
    assert received.endswith(b"\n")


def test_accepted_requests_in_one_piece_are_all_answered(server: Server) -> None:
    with closing(connect(server)) as client:
        client.sendall(request("GET /channels/a") * 1_000)
        received = b""
        while received.count(b"HTTP/1.1 200 ") < 1_000:
            chunk = client.recv(65_536)
            assert chunk, "the server has closed the connection"
            received += chunk
        publish(server, "canary", 1)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_client_that_closes_its_side_gets_its_answers(server: Server, version: str) -> None:
    count = 1 if version == "1.0" else 50
    asked = f"GET /channels/a HTTP/{version}\r\nHost: localhost\r\n\r\n".encode()
    with closing(connect(server)) as client:
        client.sendall(asked * count)
        client.shutdown(socket.SHUT_WR)
        received = b""
        while data := client.recv(65_536):
            received += data
    assert received.count(b" 200 OK\r\n") == count


@pytest.mark.parametrize("asked", [LONG_POLL, STREAM], ids=["long-poll", "stream"])
def test_client_that_leaves_with_much_behind_its_request_is_noticed(
    server: Server, asked: bytes
) -> None:
    folder = f"/proc/{server.pid}/fd"
    before = len(os.listdir(folder))
    for _ in range(50):
        with closing(connect(server)) as client:
            client.sendall(asked + b"x" * 40_000)
    until = time.monotonic() + PATIENCE
    while len(os.listdir(folder)) > before and time.monotonic() < until:
        publish(server, "canary", 1)
    assert len(os.listdir(folder)) <= before


def test_refusals_in_the_log_are_few_and_found_by_the_filter(tmp_path: Path) -> None:
    with serving(tmp_path, '[sources]\n[auth]\napi_keys = ["right"]') as server:
        for _ in range(32):
            assert ask(server, "POST", "channels/a", b"1", x_api_key="wrong").status in (401, 429)
            assert ask(server, "GET", "channels/a", origin="https://a.example").status == 403
            assert ask(server, "POST", "channels/a", b"1", x_api_key="right").status == 201
        lines = [line for line in server.log.splitlines() if "refused" in line]
        assert len(lines) >= 6
        assert {banned(line) for line in lines} == {"127.0.0.1"}
        assert server.problems == []


OUTSIDE = "127.0.0.2"
BOUNDED = """
[sources]
[limits]
exempt_networks = ["127.0.0.1"]
connections_per_address = 5
new_connections_per_second = 100
[auth]
local_without_key = true
"""


def outside(server: Server) -> socket.socket:
    """A connection from an address that is not exempt."""
    return socket.create_connection(("127.0.0.1", server.port), PATIENCE, (OUTSIDE, 0))


def test_connections_of_one_address_are_bounded_and_those_of_others_are_served(
    tmp_path: Path,
) -> None:
    with serving(tmp_path, BOUNDED) as server:
        kept = [outside(server) for _ in range(5)]
        for client in kept:
            client.sendall(RAW)
            assert b" 101 " in client.recv(65_536)
        with closing(outside(server)) as refused:
            refused.sendall(RAW)
            answer = b""
            while data := refused.recv(65_536):
                answer += data
        assert answer.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
        assert b"\r\nretry-after: 10\r\n" in answer
        assert b"(connections_per_address)" in answer
        publish(server, "a", "for all")
        for client in kept:
            received = b""
            while b"for all" not in received:
                chunk = client.recv(65_536)
                assert chunk, received
                received += chunk
            client.close()
        # The server notices the ends in its own time.
        until = time.monotonic() + PATIENCE
        status = b""
        while b" 101 " not in status and time.monotonic() < until:
            with closing(outside(server)) as client, suppress(ConnectionError):
                client.sendall(RAW)
                status = client.recv(65_536)
        assert b" 101 " in status
        lines = [line for line in server.log.splitlines() if "refused" in line]
        assert {banned(line) for line in lines} == {OUTSIDE}
        assert server.problems == []


def test_connections_that_come_too_fast_are_reset_and_others_are_served(tmp_path: Path) -> None:
    text = BOUNDED.replace("_per_second = 100", "_per_second = 1")
    with serving(tmp_path, text) as server:
        clients, ends = [socket.socket() for _ in range(300)], []
        for client in clients:
            client.settimeout(PATIENCE)
            client.bind((OUTSIDE, 0))
            with suppress(ConnectionError):
                client.connect(("127.0.0.1", server.port))
                client.sendall(request("GET /channels/a"))
        for client in clients:
            try:
                ends.append(client.recv(65_536)[9:12])
            except OSError:
                ends.append(b"reset")
            client.close()
        publish(server, "a", 1)
        counts = {end: ends.count(end) for end in set(ends)}
        assert counts.keys() <= {b"200", b"429", b"reset", b""}
        assert counts[b"200"] >= 4
        assert counts[b"429"] > 0
        assert counts[b"reset"] > 0
        assert server.problems == []
