"""`?as=data`: other representations of the streams of channels."""

from __future__ import annotations

import pytest

from pushserver.channels.position import Start
from pushserver.config.settings import Config
from pushserver.config.settings import Server as ServerConfig
from pushserver.protocols.representations import DATA as DATA_FORMATS
from pushserver.sessions.event_stream import Stream
from tests.unit.fakes.tools import FakeTransport, drive, make_node
from tests.unit.fakes.web import BROWSER, Server, handshake, parse

SSE = "text/event-stream"
LINES = "application/x-ndjson"
DATA = "/channels/orders?as=data"


def blocks(text: bytes) -> list[bytes]:
    """The blocks of an event stream, without the opening."""
    opening, *rest = text.split(b"\n\n")
    assert opening.startswith(b"retry: ")
    return [block for block in rest if block]


def test_an_event_stream_of_data_resumes_by_the_id_of_its_events() -> None:
    server = Server()
    for number in (1, 2, 3):
        server.publish("orders", {"n": number}, "new")
    epoch = server.hub.history.epoch
    answer = parse(server.open(DATA, accept=SSE, last_event_id=f"{epoch}:2").take())
    assert answer["content-type"] == SSE
    assert blocks(answer.body) == [b'id: %b:3\nevent: new\ndata: {"n": 3}' % epoch.encode()]


def test_live_data_is_sent_as_it_is() -> None:
    server = Server()
    line = server.open(f"{DATA}&since=now", accept=SSE)
    line.take()
    server.publish("orders", [1, "two"], "new")
    chunk = line.take()
    assert b'\nevent: new\ndata: [1, "two"]\n\n' in chunk


def test_a_websocket_of_data_has_nothing_else() -> None:
    server = Server()
    server.publish("orders", {"n": 1})
    for headers in ({}, {"cookie": "a=b"}):
        socket = server.websocket(f"{DATA}&last=1", **headers)
        server.publish("orders", 2)
        assert [frame.payload for frame in socket.seen] == [b'{"n": 1}' if not headers else b"2"]
        assert [frame.payload for frame in socket.take()] == [b"2"]


def test_a_websocket_of_data_is_compressed_if_that_is_agreed() -> None:
    server = Server(config=Config(server=ServerConfig(compress=True)))
    socket = server.websocket(DATA, sec_websocket_extensions="permessage-deflate")
    server.publish("orders", "x" * 1000)
    frame = socket.line.take()
    # Compressed (RFC 7692, 6), as the first bit of the reserved ones says.
    assert (frame[0], len(frame) < 100) == (0xC1, True)


def test_lines_of_data_are_lines_and_not_the_end_of_the_response() -> None:
    server = Server()
    line = server.open(f"{DATA}&since=now", accept=LINES)
    assert parse(line.take()).status == 200
    server.publish("orders", 7)
    assert line.take() == b"2\r\n7\n\r\n"


def test_several_channels_are_one_stream_of_data() -> None:
    server = Server()
    server.publish("orders", 1)
    server.publish("lamp", 2)
    answer = parse(
        server.open("/events?channel=orders&channel=lamp&as=data&last=2", accept=SSE).take()
    )
    assert [block.rpartition(b"data: ")[2] for block in blocks(answer.body)] == [b"1", b"2"]


@pytest.mark.parametrize("path", ["/channels/orders?as=xml", "/events?channel=orders&as=xml"])
@pytest.mark.parametrize("headers", [{}, {"accept": SSE}, handshake()], ids=["", "sse", "ws"])
def test_an_unknown_representation_is_400(path: str, headers: dict[str, str]) -> None:
    server = Server()
    status, message = server.get(path, **headers).error
    assert (status, message.partition(":")[0]) == (400, "as=xml")
    assert "data" in message
    assert server.is_empty()


def test_a_browser_cannot_open_data_as_a_page() -> None:
    answer = Server().get(DATA, accept=BROWSER, sec_fetch_mode="navigate")
    assert answer.status == 403
    assert Server().get(DATA, accept="application/json").status == 406


def test_a_stream_without_an_opening_sends_no_empty_frame() -> None:
    transport = FakeTransport(DATA_FORMATS.websocket)
    stream = Stream(make_node(), transport)
    drive(stream.follow(("orders",), Start()))
    assert transport.frames == []
