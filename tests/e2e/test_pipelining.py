"""A client that sends many requests at once and reads nothing, on each kind of port."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import closing
from http.client import parse_headers
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.e2e.exchange import history, publish
from tests.e2e.patience import PATIENCE
from tests.e2e.server import Server
from tests.e2e.test_fanout import serving_everywhere

PIECES = 100
PIECE_BYTES = 9_900
SMALL = 9
MOST_MIB = 16
ROUNDS = 100
"""Requests of another client, each with a turn in which the server could make more answers."""


def resident(server: Server) -> float:
    """Memory of the server process in MiB."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+([0-9]+) kB", status)
    assert found is not None
    return int(found[1]) / 1_024


def request(path: str) -> bytes:
    return f"GET /channels/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def bodies(connection: socket.socket) -> Iterator[bytes]:
    """The bodies of the answers, in order."""
    with connection.makefile("rb") as file:
        while True:
            status = file.readline()
            assert status.startswith(b"HTTP/1.1 200 "), status
            headers = parse_headers(file)
            yield (
                b"".join(chunks(file))
                if "content-length" not in headers
                else file.read(int(headers["content-length"]))
            )


def chunks(file: BinaryIO) -> Iterator[bytes]:
    while size := int(file.readline(), 16):
        yield file.read(size)
        assert file.readline() == b"\r\n"
    assert file.readline() == b"\r\n"


@pytest.mark.parametrize(("port", "count"), [("plain", 50), ("unix", 40), ("tls", 40)])
def test_requests_in_one_piece_take_the_memory_of_one_and_are_answered_in_order(
    tmp_path: Path, port: str, count: int
) -> None:
    with serving_everywhere(tmp_path, "") as (server, ports):
        for _ in range(PIECES):
            publish(server, "big", "x" * PIECE_BYTES)
        # The memory for the first answer stays allocated.
        assert len(history(server, "big")["publications"]) == PIECES
        before = resident(server)
        with closing(ports[port](4_096)) as connection:
            connection.settimeout(PATIENCE)
            connection.sendall((request("big") + request("small?last=1") * SMALL) * count)
            for _ in range(ROUNDS):
                assert history(server, "other")["offset"] == 0
                assert resident(server) < before + MOST_MIB
            # The rest need not take longer than it must.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            answers = bodies(connection)
            for _ in range(count):
                big = next(answers)
                assert len(big) > PIECES * PIECE_BYTES
                assert big.startswith(b'{"channel":"big"')
                for _ in range(SMALL):
                    assert next(answers).startswith(b'{"channel":"small"')
        assert resident(server) < before + MOST_MIB
