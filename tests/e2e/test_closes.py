"""How WebSockets end, on real sockets: no client sees a reset where it can read a close frame."""

from __future__ import annotations

import base64
import os
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.e2e.exchange import serving
from tests.e2e.patience import PATIENCE
from tests.e2e.server import Server
from tests.e2e.sockets import closed_with, dial, frame
from tests.e2e.visits import LOST_CONNECTION, Visits

APP = """
import os, signal
from pushserver import PushServer

app = PushServer()


@app.on("fork", thread=False)
def fork(client, value):
    pid = os.fork()
    if not pid:
        signal.pause()
        os._exit(0)
    return pid
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("closes")) as server:
        yield server


def masked(payload: bytes, opcode: int) -> bytes:
    """A frame with a mask of zeros."""
    return bytes([0x80 | opcode, 0x80 | len(payload), 0, 0, 0, 0]) + payload


@contextmanager
def raw(server: Server, path: str = "channels/a") -> Iterator[socket.socket]:
    """A socket on which a handshake was answered; the frames before the first close are skipped."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
        key = base64.b64encode(os.urandom(16)).decode()
        client.sendall(
            f"GET /{path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
            "".encode()
        )
        data = b""
        while b"\r\n\r\n" not in data:
            data += client.recv(4_096)
        assert data.startswith(b"HTTP/1.1 101 ")
        yield client


def read_to_the_end(client: socket.socket) -> bytes:
    """All bytes until the end of the connection; ConnectionResetError if that is a reset."""
    data = b""
    while chunk := client.recv(65_536):
        data += chunk
    return data


def read_close(client: socket.socket, code: int) -> None:
    """Read until the close frame with this code."""
    data = b""
    while code.to_bytes(2, "big") not in data or b"\x88" not in data:
        chunk = client.recv(65_536)
        assert chunk
        data += chunk


FAULTS = [(masked(b"hello", 1), 1008), (b"\x81\x01x", 1002), (masked(b"\xff", 1), 1007)]


@pytest.mark.parametrize(("fault", "code"), FAULTS)
def test_connection_ends_with_fin_after_the_answer_to_a_close(
    server: Server, fault: bytes, code: int
) -> None:
    with raw(server) as client:
        client.sendall(fault)
        read_close(client, code)
        time.sleep(0.1)
        client.sendall(masked(b"in transit", 1) + masked(code.to_bytes(2, "big"), 8))
        assert read_to_the_end(client) == b""


@pytest.mark.parametrize(("fault", "code"), FAULTS[:2])
def test_connection_ends_with_fin_without_an_answer_to_a_close(
    server: Server, fault: bytes, code: int
) -> None:
    with raw(server) as client:
        client.sendall(fault)
        # The client reads nothing until the server has given up.
        ended = select.poll()
        ended.register(client, select.POLLRDHUP)
        assert ended.poll(PATIENCE * 1_000)
        assert code.to_bytes(2, "big") in read_to_the_end(client)


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
def test_client_gets_its_own_code_back(server: Server, code: int) -> None:
    for path in ("channels/a", "connection/websocket"):
        with dial(server, path) as client:
            client.close(code, "bye")
            close = client.protocol.close_rcvd
            assert close is not None
            assert (close.code, close.reason) == (code, "bye")


def test_connection_ends_while_a_fork_of_a_handler_lives(tmp_path: Path) -> None:
    (tmp_path / "forking.py").write_text(APP)
    server = Server(tmp_path, "--app", "forking:app")
    pid = 0
    try:
        server.start()
        with raw(server) as raw_client, raw(server) as mute, dial(server, "channels/a") as client:
            frame(client)
            with dial(server, "connection/websocket") as caller:
                caller.send('{"id":1,"connect":{}}\n{"id":2,"rpc":{"method":"fork"}}')
                while not pid:
                    reply = frame(caller)
                    pid = reply["rpc"]["data"] if "rpc" in reply else 0
                client.send("hello")
                assert closed_with(client).code == 1008
                raw_client.sendall(b"\x81\x01x")
                read_close(raw_client, 1002)
                raw_client.sendall(masked((1002).to_bytes(2, "big"), 8))
                assert read_to_the_end(raw_client) == b""
                mute.sendall(masked(b"hello", 1))
                assert b"POST" in read_to_the_end(mute)
                os.kill(pid, 0)
        server.stop()
    finally:
        server.kill()
        if pid:
            os.kill(pid, 9)


CLOSED = """
([url, subprotocol]) => new Promise((resolve) => {
    const socket = subprotocol ? new WebSocket(url, subprotocol) : new WebSocket(url);
    socket.onopen = () => { window.opened = true; };
    socket.onmessage = () => socket.send('hello');
    socket.onclose = ({ code, reason, wasClean }) => resolve([code, reason, wasClean]);
})
"""


class TestInChromium:
    def test_close_by_the_server_is_clean(self, server: Server, visits: Visits) -> None:
        page = visits.open()
        for path, code in (("channels/a", 1008), ("events?channel=a&channel=b", 1008)):
            got, reason, clean = page.evaluate(CLOSED, [server.websocket(path), ""])
            assert (got, clean) == (code, True)
            assert reason.startswith("this stream only sends")

    def test_stop_of_the_server_is_clean(self, server: Server, visits: Visits) -> None:
        page = visits.open("channels/quiet")
        page.evaluate(
            f"url => {{ window.ended = ({CLOSED})([url, '']); }}",
            server.websocket("connection/websocket"),
        )
        page.wait_for_function("() => window.opened")
        expect(page.locator("#state[data-state=live]")).to_have_count(1)
        visits.allow(f"{LOST_CONNECTION}|request failed")
        server.stop()
        server.start()
        assert page.evaluate("window.ended") == [3001, "the server is shutting down", True]

    def test_subprotocol_is_answered_as_documented(self, server: Server, visits: Visits) -> None:
        """The page cannot read a reason, so docs/protocols.md says that there is none to offer."""
        page = visits.open()
        visits.allow("Sent non-empty 'Sec-WebSocket-Protocol' header but no response was received")
        url = server.websocket("channels/a")
        assert page.evaluate(CLOSED, [url, "name"]) == [1006, "", False]
