"""Readers that take long for a long recovery, on each kind of port."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.exchange import publish, serving
from tests.e2e.patience import PATIENCE
from tests.e2e.server import Server
from tests.e2e.test_fanout import serving_everywhere
from tests.e2e.test_pipelining import resident

ROW_BYTES = 10_000
BUFFER_BYTES = 65_536
LIMITS = """
queue_seconds = 0.05
queue_bytes = 65_536
[defaults]
history_bytes = 8_000_000
history_size = 1_000
recovery_limit = 1_000
"""
CONFIG = f"[sources]\n[limits]\n{LIMITS}"


def fill(server: Server, channel: str, count: int) -> None:
    for n in range(count):
        publish(server, channel, [n, "." * ROW_BYTES])


def publications(connection: socket.socket, server: Server) -> Iterator[Any]:
    """The data of all publications; after each piece that it reads another one is published.

    So the reader is never quick, and how slow it is depends on bytes and not on time.
    """
    data = b""
    while True:
        piece = connection.recv(BUFFER_BYTES)
        assert piece, "the server has dropped the reader"
        data += piece
        publish(server, "a", ["live"])
        while found := re.search(rb'data: (\{"channel".*?\})\r?\n\r?\n', data):
            data = data[found.end() :]
            yield json.loads(found[1])


@pytest.mark.parametrize("port", ["plain", "tls", "unix"])
def test_long_recovery_reaches_a_reader_that_never_stops_reading(tmp_path: Path, port: str) -> None:
    with serving_everywhere(tmp_path, LIMITS) as (server, ports):
        fill(server, "a", 300)
        with closing(ports[port](BUFFER_BYTES)) as connection:
            connection.settimeout(PATIENCE)
            # By HTTP/1.0 the body has no chunks.
            connection.sendall(
                b"GET /channels/a?since=oldest HTTP/1.0\r\nHost: localhost\r\n"
                b"Accept: text/event-stream\r\n\r\n"
            )
            reader = publications(connection, server)
            rows = [next(reader) for _ in range(320)]
        assert [row["offset"] for row in rows] == list(range(1, 321))
        assert [row["data"][0] for row in rows] == [*range(300), *["live"] * 20]


def test_long_recoveries_of_readers_that_read_nothing_take_no_memory(tmp_path: Path) -> None:
    with serving(tmp_path, CONFIG) as server, ExitStack() as stack:
        channels = [f"c{n}" for n in range(6)]
        for channel in channels:
            fill(server, channel, 100)
        before = resident(server)
        names = "&".join(f"channel={name}" for name in channels)
        for n in range(30):
            connection = stack.enter_context(closing(socket.socket()))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            connection.connect(("127.0.0.1", server.port))
            request = f"GET /events?{names}&last={500 + n} HTTP/1.1\r\nHost: localhost\r\n"
            connection.sendall(f"{request}Accept: text/event-stream\r\n\r\n".encode())
            assert connection.recv(12) == b"HTTP/1.1 200"
        # Six megabytes each, in all 180.
        assert resident(server) - before < 40


@pytest.mark.parametrize("port", ["plain", "tls", "unix"])
def test_long_history_reaches_a_slow_reader_whole(tmp_path: Path, port: str) -> None:
    with serving_everywhere(tmp_path, LIMITS) as (server, ports):
        fill(server, "a", 300)
        before = resident(server)
        with closing(ports[port](BUFFER_BYTES)) as connection:
            connection.settimeout(PATIENCE)
            # By HTTP/1.0 the body has no chunks and no length.
            connection.sendall(b"GET /channels/a HTTP/1.0\r\nHost: localhost\r\n\r\n")
            data = b""
            while piece := connection.recv(BUFFER_BYTES):
                data += piece
                publish(server, "b", 1)
        answer = json.loads(data.partition(b"\r\n\r\n")[2])
        assert [row["data"][0] for row in answer["publications"]] == list(range(300))
        assert resident(server) - before < 20
