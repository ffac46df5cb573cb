"""Libraries for WebSockets on a raw one: `websocket-client`, `aiohttp`, `websockets` and `ws`."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from typing import Any

import aiohttp
import pytest
import websocket
import websockets
from websockets.sync.client import connect

from tests.e2e.exchange import publish
from tests.e2e.server import Server
from tests.e2e.watcher import NODE

SENDS = "this stream only sends; publish by POST to the channel's URL"


@pytest.fixture
def dial(server: Server) -> Iterator[Callable[..., Any]]:
    """Connect `websocket-client` to a channel and read the first frame."""
    sockets = []

    def open_socket(channel: str, **options: Any) -> Any:
        url = server.websocket(f"channels/{channel}")
        socket = websocket.create_connection(url, timeout=60, **options)
        sockets.append(socket)
        assert "subscribed" in socket.recv()
        return socket

    yield open_socket
    for socket in sockets:
        socket.close()
        # After a close by the server, close() leaves the file open.
        socket.shutdown()


class TestWebsocketClient:
    def test_reads_data_by_each_method(self, server: Server, dial: Callable[..., Any]) -> None:
        socket = dial("by-method")
        for n in range(3):
            publish(server, "by-method", n)
        assert json.loads(socket.recv())["data"] == 0
        opcode, text = socket.recv_data()
        assert (opcode, json.loads(text)["data"]) == (websocket.ABNF.OPCODE_TEXT, 1)
        assert json.loads(next(socket))["data"] == 2

    def test_gets_the_close_code_and_not_a_reset(self, dial: Callable[..., Any]) -> None:
        socket = dial("closed")
        socket.send("hello")
        opcode, payload = socket.recv_data(control_frame=True)
        assert opcode == websocket.ABNF.OPCODE_CLOSE
        assert (int.from_bytes(payload[:2], "big"), payload[2:].decode()) == (1008, SENDS)

    @pytest.mark.parametrize("payload", [b"", b"x" * 125])
    def test_gets_a_pong_for_its_ping(self, dial: Callable[..., Any], payload: bytes) -> None:
        socket = dial("pinged")
        socket.ping(payload)
        opcode, answer = socket.recv_data(control_frame=True)
        assert (opcode, answer) == (websocket.ABNF.OPCODE_PONG, payload)

    @pytest.mark.parametrize(
        "options",
        [
            {"suppress_origin": True},
            {"header": {"X-Extra": "1", "User-Agent": "robot"}},
            {"cookie": "a=b; c=d"},
            {"enable_multithread": True, "skip_utf8_validation": True},
        ],
        ids=str,
    )
    def test_connects_with_its_options(
        self, dial: Callable[..., Any], options: dict[str, Any]
    ) -> None:
        assert dial("options", **options).getsubprotocol() is None

    def test_is_told_the_reason_of_a_refused_handshake(self, server: Server) -> None:
        with pytest.raises(websocket.WebSocketBadStatusException) as caught:
            websocket.create_connection(server.websocket("channels/no%20spaces"), timeout=60)
        assert caught.value.status_code == 400
        assert b"1 to 128 characters" in (caught.value.resp_body or b"")
        url = server.websocket("channels/a")
        with pytest.raises(websocket.WebSocketBadStatusException) as caught:
            websocket.create_connection(url, timeout=60, origin="http://elsewhere.example")
        assert caught.value.status_code == 403
        assert b"allowed_origins" in (caught.value.resp_body or b"")

    def test_refuses_an_answer_without_an_offered_subprotocol(self, server: Server) -> None:
        """As browsers do; docs/protocols.md tells it."""
        with pytest.raises(websocket.WebSocketException, match="Invalid WebSocket Header"):
            websocket.create_connection(
                server.websocket("channels/a"), timeout=60, subprotocols=["chat"]
            )


def in_aiohttp(use: Callable[[aiohttp.ClientSession], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(60), aiohttp.ClientSession() as session:
            await use(session)

    asyncio.run(run())


class TestAiohttp:
    @pytest.mark.parametrize(
        "options",
        [
            {"compress": 15},
            {"compress": 9},
            {"protocols": ("chat",)},
            {"heartbeat": 60},
            {"autoping": False},
            {"origin": None},
        ],
        ids=str,
    )
    def test_reads_with_its_options(self, server: Server, options: dict[str, Any]) -> None:
        async def read(session: aiohttp.ClientSession) -> None:
            url = f"{server.url}channels/aiohttp"
            async with session.ws_connect(url, **options) as socket:
                assert "subscribed" in await socket.receive_json()
                await asyncio.to_thread(publish, server, "aiohttp", "x" * 70_000)
                assert len((await socket.receive_json())["data"]) == 70_000
                assert socket.protocol is None

        in_aiohttp(read)

    def test_gets_the_close_code(self, server: Server) -> None:
        async def read(session: aiohttp.ClientSession) -> None:
            async with session.ws_connect(f"{server.url}channels/aiohttp") as socket:
                await socket.receive()
                await socket.send_json({"hello": 1})
                message = await socket.receive()
                assert message.type is aiohttp.WSMsgType.CLOSE
                assert (message.data, message.extra) == (1008, SENDS)

        in_aiohttp(read)

    def test_closes_with_its_own_code(self, server: Server) -> None:
        async def read(session: aiohttp.ClientSession) -> None:
            socket = await session.ws_connect(f"{server.url}channels/aiohttp")
            await socket.receive()
            assert await socket.close(code=4321, message=b"bye")
            assert socket.close_code == 4321

        in_aiohttp(read)


class TestWebsockets:
    def test_reads_with_a_limit_to_the_size(self, server: Server) -> None:
        """1 MiB by default: a longer publication closes the connection with 1009, by the client."""
        with connect(server.websocket("channels/large"), proxy=None, max_size=1_000) as socket:
            socket.recv(timeout=60)
            publish(server, "large", "x" * 2_000)
            with pytest.raises(websockets.ConnectionClosedError) as caught:
                socket.recv(timeout=60)
        assert caught.value.sent is not None
        assert caught.value.sent.code == 1009

    def test_fragments_are_refused_as_any_message_is(self, server: Server) -> None:
        with connect(server.websocket("channels/a"), proxy=None) as socket:
            socket.recv(timeout=60)
            socket.send(["in ", "two ", "fragments"])
            with pytest.raises(websockets.ConnectionClosedError) as caught:
                socket.recv(timeout=60)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1008

    def test_iterator_of_connections_goes_on(self, server: Server) -> None:
        """`async for` over `connect` is how its users come back."""

        async def read() -> int:
            connections = 0
            async for socket in websockets.connect(server.websocket("channels/a"), proxy=None):
                await socket.recv()
                connections += 1
                if connections == 3:
                    await socket.close()
                    return connections
                await socket.send("hello")
                try:
                    await socket.recv()
                except websockets.ConnectionClosed:
                    continue
            return 0

        assert asyncio.run(asyncio.wait_for(read(), 60)) == 3


WS = """
import WebSocket from 'ws';
const [url, subprotocol] = process.argv.slice(1);
const say = (...what) => console.log(JSON.stringify(what));
for (const options of [{}, { perMessageDeflate: false }, { origin: undefined }]) {
  await new Promise((resolve) => {
    const socket = new WebSocket(url, options);
    socket.on('message', (text) => {
      say('message', Object.keys(JSON.parse(text)));
      socket.send('x');
    });
    socket.on('close', (code, reason) => resolve(say('close', code, String(reason))));
  });
}
await new Promise((resolve) => {
  const socket = new WebSocket(url, 'chat');
  socket.on('error', (error) => resolve(say('error', error.message)));
});
"""


def test_ws_of_node_is_told_all_but_a_subprotocol(server: Server) -> None:
    """Like browsers it refuses an answer without one of the offered subprotocols."""
    result = subprocess.run(
        ["node", "--input-type=module", "-e", WS, server.websocket("channels/ws")],
        cwd=NODE,
        capture_output=True,
        check=True,
        timeout=60,
    )
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert lines[:-1] == [["message", ["subscribed"]], ["close", 1008, SENDS]] * 3
    assert lines[-1] == ["error", "Server sent no subprotocol"]


def test_closing_while_publications_come_leaves_no_trouble(server: Server) -> None:
    for n in range(20):
        url = server.websocket("channels/busy?last=20")
        with closing(websocket.create_connection(url, timeout=60)) as socket:
            publish(server, "busy", n)
            socket.recv()
    assert server.problems == []
