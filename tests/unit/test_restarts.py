"""The measurement of restarts counts correctly, and its clients read what a server may send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from benchmarks.floods import frame
from benchmarks.followers import (
    Centrifuge,
    Events,
    Follower,
    HttpStream,
    Lines,
    LongPoll,
    RawWebSocket,
    Record,
    Stream,
)
from benchmarks.restarts import Result, finish


class Written:
    """The writer of a connection in memory."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


def read(data: bytes, use: Callable[[Stream], Any]) -> tuple[Any, bytes]:
    """Read a connection that has this data and then ends; returns the sent bytes too."""

    async def run() -> tuple[Any, bytes]:
        reader, writer = asyncio.StreamReader(), Written()
        reader.feed_data(data)
        reader.feed_eof()
        stream: Any = Stream(reader, writer)  # type: ignore[arg-type]
        try:
            result = await use(stream)
        except EOFError:
            result = "ended"
        return result, writer.data

    return asyncio.run(run())


def all_of(method: Callable[[Stream], AsyncIterator[Any]]) -> Callable[[Stream], Any]:
    """A coroutine function that lists the results of an iterator."""

    async def use(stream: Stream) -> list[Any]:
        return [item async for item in method(stream)]

    return use


def chunked(*parts: bytes) -> bytes:
    """An answer in chunks, without its end."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body


def spoken(*texts: bytes) -> bytes:
    """A handshake and frames of a server."""
    frames = b"".join(
        b"\x81" + (bytes([len(t)]) if len(t) < 126 else b"\x7e" + len(t).to_bytes(2)) + t
        for t in texts
    )
    return b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + frames


class TestARecord:
    def test_of_numbers_in_order_has_no_loss_and_the_longest_pause(self) -> None:
        record = Record()
        for number, now in ((1, 50.0), (2, 50.5), (3, 53.0), (4, 53.5)):
            record.take(number, now)
        assert (record.lost, record.doubled, record.pause) == (0, 0, 2.5)

    def test_counts_gaps_and_repetitions(self) -> None:
        record = Record()
        for number in (2, 2, 5, 4):
            record.take(number, 0.0)
        assert (record.lost, record.doubled) == (3, 2)

    def test_that_ends_early_has_lost_the_rest(self) -> None:
        records = [Record(last=10), Record(last=7, lost=1)]
        finish(records, 10)
        assert [record.lost for record in records] == [0, 4]


class TestAResult:
    def test_with_all_publications_has_no_complaint(self) -> None:
        result = Result({"SSE": [Record(last=4, refused=3, connects=9)]}, 4)
        assert result.complaints() == []
        assert result.rows()[1] == "| SSE | 1 | 4 | 0 | 0 | 0 | 9 | 3 | 0.0 s |"

    @pytest.mark.parametrize(
        ("record", "complaint"),
        [
            (Record(lost=1), "SSE: 1 lost or reset, 0 twice"),
            (Record(resets=1), "SSE: 1 lost or reset, 0 twice"),
            (Record(doubled=1), "SSE: 0 lost or reset, 1 twice"),
        ],
    )
    def test_of_one_bad_client_is_a_complaint(self, record: Record, complaint: str) -> None:
        assert Result({"SSE": [Record(), record]}, 4).complaints() == [complaint]

    def test_without_publications_or_with_a_problem_is_a_complaint(self) -> None:
        assert Result().complaints() == ["nothing was published"]
        assert Result(published=1, problems=["tracebacks"]).complaints() == ["tracebacks"]


class TestAStream:
    def test_joins_lines_that_are_cut_between_chunks(self) -> None:
        async def lines(stream: Stream) -> list[str]:
            await stream.ask(b"")
            return [line async for line in stream.lines()]

        data = chunked(b"one\ntw", b"o\n", b"\nthree\n") + b"0\r\n\r\n"
        assert read(data, lines)[0] == ["one", "two", "", "three"]

    def test_answers_pings_and_ends_with_the_close_frame(self) -> None:
        data = b"\x89\x01p" + b"\x81\x02hi" + b"\x81\x7e\x00\x80" + b"x" * 128
        data += b"\x81\x7f" + (70_000).to_bytes(8) + b"y" * 70_000 + b"\x88\x02\x03\xe9"
        texts, sent = read(data, all_of(Stream.messages))
        assert texts == ["hi", "x" * 128, "y" * 70_000]
        assert sent == frame(0xA, b"p") + frame(0x8, b"\x03\xe9")


ROW = b'{"data":%d,"id":"e:%d"}'
ROWS = [ROW % (n, n) for n in (1, 2)]
EVENTS = [
    b"retry: 2000\nid: e:0\nevent: pushserver-subscribed\ndata: {}\n\n",
    *(b"id: e:%d\ndata: %b\n\n" % pair for pair in enumerate(ROWS, 1)),
]
POLLS = [
    b'{"publications":[],"id":"e:0"}',
    b'{"publications":[%b],"id":"e:2"}' % b",".join(ROWS),
]
SUBSCRIBED = b'{"subscribed":{"id":"e:0"}}'
CONNECTED = b'{"id":1,"connect":{}}\n{"id":2,"subscribe":{"epoch":"e"}}'
PUSH = b'{"push":{"channel":"restarts","pub":{"data":%d,"offset":%d}}}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"
REPLIES = [
    b'{"id":1,"connect":{"session":"s","node":"n"}}',
    b'{"id":2,"subscribe":{"epoch":"e"}}',
    *(PUSH % (n, n) for n in (1, 2)),
]
KINDS = [
    (HttpStream, chunked(*(reply + b"\n" for reply in REPLIES))),
    (RawWebSocket, spoken(SUBSCRIBED, *ROWS)),
    (Lines, chunked(SUBSCRIBED + b"\n", b"\n", *(row + b"\n" for row in ROWS))),
    (Events, chunked(*EVENTS, b":\n")),
    (LongPoll, b"".join(ANSWER % (len(body), body) for body in POLLS)),
    (Centrifuge, spoken(CONNECTED, b"{}", PUSH % (1, 1) + b"\n" + PUSH % (2, 2))),
]


@pytest.mark.parametrize(("kind", "data"), KINDS)
def test_a_follower_has_each_publication_and_comes_back_with_its_position(
    kind: type[Follower], data: bytes
) -> None:
    follower = kind(1)
    assert read(data, follower.read)[0] in (None, "ended")
    assert (follower.record.last, follower.record.lost, follower.record.doubled) == (2, 0, 0)
    assert follower.subscribed.is_set()
    assert follower.position == "e:2"
    sent = read(spoken(), follower.read)[1]
    assert b"e:2" in sent or b'"recover": true, "epoch": "e", "offset": 2' in sent


RESET = b'{"reset":{"id":"f:9"}}'
RESETS = [
    (
        HttpStream,
        chunked(
            b'{"connect":{"session":"s","node":"n"}}\n',
            b'{"subscribe":{"epoch":"f","offset":9,"was_recovering":true}}\n',
        ),
    ),
    (RawWebSocket, spoken(SUBSCRIBED, RESET)),
    (Lines, chunked(SUBSCRIBED + b"\n" + RESET + b"\n")),
    (Events, chunked(b"id: f:9\nevent: pushserver-reset\ndata: {}\n\n")),
    (LongPoll, ANSWER % (53, b'{"publications":[],"id":"f:9","recovered":false     }')),
    (Centrifuge, spoken(b'{"subscribe":{"epoch":"f","offset":9,"was_recovering":true}}')),
]


@pytest.mark.parametrize(("kind", "data"), RESETS)
def test_a_follower_counts_a_reset(kind: type[Follower], data: bytes) -> None:
    follower = kind(1, position="e:2")
    read(data, follower.read)
    assert (follower.record.resets, follower.position) == (1, "f:9")
