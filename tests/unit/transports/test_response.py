from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.logger import LogLevel

from pushserver.channels.publication import Draft
from pushserver.config.limits import Limits
from tests.unit.fakes.tools import drive
from tests.unit.fakes.web import Line, Log, Response, Server, Trouble, parse

SSE = "text/event-stream"


def open_stream(server: Server, path: str = "/channels/numbers") -> tuple[Line, Response]:
    """A new event stream, and the head of its response."""
    line = server.open(path, accept=SSE)
    answer = parse(line.take())
    assert (answer.status, answer["content-type"]) == (200, SSE)
    return line, answer


def chunks(data: bytes) -> bytes:
    """The body in these chunks."""
    body = b""
    while data:
        size, _, rest = data.partition(b"\r\n")
        body += rest[: int(size, 16)]
        data = rest[int(size, 16) + 2 :]
    return body


def test_head_keeps_caches_and_proxies_from_buffering() -> None:
    _, answer = open_stream(Server())
    assert answer["cache-control"] == "no-store"
    assert answer["x-accel-buffering"] == "no"
    assert "Accept" in answer["vary"]
    assert not answer.whole


def test_each_publication_is_sent_at_once() -> None:
    server = Server()
    line, answer = open_stream(server)
    assert answer.body.startswith(b"retry: ")
    server.publish(data={"number": 1})
    block = chunks(line.take()).decode()
    assert block.startswith(f"id: {server.hub.history.epoch}:1\ndata: ")
    assert json.loads(block.partition("data: ")[2])["data"] == {"number": 1}
    assert block.endswith("\n\n")


def test_reader_that_vanishes_is_forgotten() -> None:
    server = Server()
    line, _ = open_stream(server)
    line.vanish()
    assert server.is_empty()
    server.publish()


def test_shut_down_ends_the_response_and_the_connection() -> None:
    server = Server()
    line, _ = open_stream(server)
    for peer in server.node.peers:
        peer.shut_down()
    assert line.take() == b"0\r\n\r\n"
    assert line.lost
    assert server.is_empty()


def test_reader_that_does_not_read_is_dropped_at_its_bound_and_others_are_not() -> None:
    server = Server(Limits(queue_bytes=200_000))
    (slow, _), (quick, _) = open_stream(server), open_stream(server)
    slow.reading = False
    sent = 0
    while not slow.aborted:
        server.publish(data="x" * 10_000)
        sent += 10_000
        assert sent < 1_000_000
    assert sent > 4 * 200_000
    assert slow.lost
    assert not quick.disconnecting
    assert server.hub.channels() == {"numbers": 1}
    assert len(server.node.peers) == 1
    assert chunks(quick.take()).count(b"data: ") == sent // 10_000


def test_long_recovery_does_not_make_a_reader_slow() -> None:
    server = Server(Limits(queue_bytes=200_000))
    for _ in range(30):
        server.publish(data="x" * 10_000)
    line = server.open("/channels/numbers?since=oldest", accept=SSE)
    server.clock.advance(0)
    assert not line.aborted
    assert chunks(line.take().partition(b"\r\n\r\n")[2]).count(b'\ndata: {"channel"') == 30


def test_reader_that_reads_late_gets_its_whole_bound_again() -> None:
    server = Server(Limits(queue_bytes=200_000))
    line, _ = open_stream(server)
    for _ in range(5):
        line.reading = False
        for _ in range(15):
            server.publish(data="x" * 10_000)
        line.read()
        server.clock.advance(0)
    assert not line.aborted


def test_reader_that_does_not_read_is_ended_by_abort() -> None:
    server = Server()
    line, _ = open_stream(server)
    line.reading = False
    server.publish(data="x" * 100_000)
    for peer in server.node.peers:
        peer.shut_down()
    assert not line.lost
    assert server.hub.channels() == {}
    for peer in server.node.peers:
        peer.abort()
    server.site.abort()
    server.clock.advance(0)
    assert line.lost
    assert server.is_empty()


def unread(size: int) -> tuple[Server, Line]:
    """A reader that does not read, with `size` bytes waiting behind a full transport."""
    server = Server(Limits(queue_bytes=1_000))
    line, _ = open_stream(server)
    line.reading = False
    line.unread = 100_000
    for length in (10, size):
        drive(server.node.publish(Draft("numbers", b'"%b"' % (b"x" * length))))
    for peer in server.node.peers:
        peer.shut_down()
    return server, line


def test_end_comes_behind_waiting_bytes_within_the_bound() -> None:
    server, line = unread(500)
    assert not line.aborted
    line.read()
    data = line.take()
    assert data.endswith(b"\r\n0\r\n\r\n")
    assert chunks(data).count(b"data: ") == 2
    assert line.lost
    assert server.is_empty()


def test_reader_with_more_than_the_bound_unread_is_dropped_instead_of_ended() -> None:
    server, line = unread(1_100)
    assert line.aborted
    assert chunks(line.take()).count(b"data: ") == 1
    assert line.lost
    assert server.is_empty()


def test_reader_that_does_not_read_its_end_is_dropped() -> None:
    server, line = unread(500)
    server.advance(14)
    assert not line.aborted
    # Its time, and the delay that twisted.web adds.
    server.advance(17)
    assert line.aborted
    assert server.is_empty()


def test_nothing_is_written_to_a_stream_after_its_end() -> None:
    server = Server()
    line, _ = open_stream(server)
    peer: Any
    (peer,) = server.node.peers
    peer.disconnect(1008, "enough")
    peer.abort()
    transport = peer._transport
    transport.write(b"late")
    transport.close(1008, "again")
    transport.abort()
    assert line.take() == b"0\r\n\r\n"


def test_heartbeats_keep_an_idle_stream_alive() -> None:
    server = Server(Limits(heartbeat_seconds=10))
    line, _ = open_stream(server)
    server.advance(60)
    beats = chunks(line.take())
    assert set(beats.decode().split("\n")) == {":", ""}
    assert b"\n\n" not in beats
    assert 5 <= beats.count(b":") <= 9


def test_head_gets_the_headers_of_a_stream_and_starts_none() -> None:
    server = Server()
    answer = server.get("/channels/numbers", "HEAD", accept=SSE)
    assert (answer.status, answer["content-type"], answer.rest) == (200, SSE, b"")
    assert server.is_empty()


def test_pipelined_requests_are_not_answered_during_a_stream() -> None:
    server = Server()
    line, _ = open_stream(server)
    line.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3)
    assert line.take() == b""
    server.publish()
    assert b"data: " in line.take()


@pytest.mark.parametrize("path", ["/channels/numbers", "/events?channel=a"])
def test_stream_that_cannot_start_is_ended_without_details(
    path: str, trouble: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("pushserver.sessions.event_stream.Stream.__init__", fail)
    server = Server()
    answer = server.get(path, accept=SSE)
    assert answer.body == b""
    assert answer.whole
    assert "failed: RuntimeError('secret')" in trouble.take()[0]
    assert server.is_empty()


def test_slow_readers_have_one_line_a_second_in_the_log() -> None:
    server = Server()
    for _ in range(20):
        open_stream(server)
    with Log(LogLevel.info) as log:
        for peer in server.node.peers:
            transport: Any = peer
            transport._transport.slow(1_000)
        (text,) = log.take()
    assert text.endswith(" is dropped: it left 1000 bytes unread (queue_bytes)")
