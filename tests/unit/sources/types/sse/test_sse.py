from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from pushserver.errors import InvalidData, Unavailable
from pushserver.sources.interface import SourceFailed
from pushserver.sources.types.sse.parser import MAX_ID_BYTES, Event, Parser
from pushserver.sources.types.sse.source import SSE, Options
from tests.unit.fakes.remote import FakeFeed, Remote, RemoteCase, Visit, failure_of, reactor


def events(*pieces: bytes, max_bytes: int = 1_000) -> list[Event]:
    parser = Parser(max_bytes)
    return [event for piece in pieces for event in parser.feed(piece)]


def data(*pieces: bytes) -> list[str]:
    return [event.data for event in events(*pieces)]


class TestExamplesOfTheStandard:
    """HTML, 9.2.6."""

    def test_data_of_several_lines(self) -> None:
        assert events(b"data: YHOO\ndata: +2\ndata: 10\n\n") == [
            Event("message", "YHOO\n+2\n10", "")
        ]

    def test_ids_and_comments(self) -> None:
        stream = (
            b": test stream\n\n"
            b"data: first event\nid: 1\n\n"
            b"data:second event\nid\n\n"
            b"data:  third event\n\n"
        )
        assert events(stream) == [
            Event("message", "first event", "1"),
            Event("message", "second event", ""),
            Event("message", " third event", ""),
        ]

    def test_empty_data(self) -> None:
        assert data(b"data\n\ndata\ndata\n\ndata:") == ["", "\n"]

    def test_space_after_the_colon(self) -> None:
        assert data(b"data:test\n\ndata: test\n\n") == ["test", "test"]


class TestParser:
    def test_line_end_in_two_pieces_is_one(self) -> None:
        assert data(b"data: a\r", b"\ndata: b\r", b"", b"\n\r", b"\n") == ["a\nb"]
        assert data(b"data: a\r", b"\r", b"data: b\r\r") == ["a", "b"]

    def test_one_byte_order_mark_is_skipped(self) -> None:
        assert data(b"\xef\xbb\xbfdata: a\n\n") == ["a"]
        assert data(b"\xef", b"\xbb", b"\xbfdata: a\n\n") == ["a"]
        assert data(b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n") == []
        assert data(b"data: a\n\xef\xbb\xbfdata: b\n\n") == ["a"]

    def test_comments_and_unknown_fields_are_ignored(self) -> None:
        assert data(b":data: x\n:\ndata: a\nDATA: b\ndata : c\n data: d\nx\n\n") == ["a"]

    def test_name_counts_for_one_block(self) -> None:
        stream = b"event: a\nevent: b\ndata: 1\n\ndata: 2\n\nevent: c\n\ndata: 3\n\n"
        assert [(e.name, e.data) for e in events(stream)] == [
            ("b", "1"),
            ("message", "2"),
            ("message", "3"),
        ]

    def test_invalid_utf_8_is_replaced(self) -> None:
        assert data(b"data: a\xff\xc3\ndata: \xc3", b"\xa4\n\n") == ["a\ufffd\ufffd\nä"]

    def test_id_with_nul_or_too_long_for_a_header_is_ignored(self) -> None:
        long = b"x" * (MAX_ID_BYTES + 1)
        stream = b"id: 1\ndata: a\n\nid: 2\0\ndata: b\n\nid: %b\ndata: c\n\n" % long
        assert [event.id for event in events(stream, max_bytes=10_000)] == ["1", "1", "1"]

    def test_id_counts_from_the_end_of_its_block(self) -> None:
        parser = Parser(100, "0")
        assert list(parser.feed(b"id: 1\n")) == []
        assert parser.last_id == "0"
        assert list(parser.feed(b"\n")) == []
        assert parser.last_id == "1"

    def test_id_of_an_earlier_stream_is_kept(self) -> None:
        assert [event.id for event in Parser(100, "7").feed(b"data: a\n\n")] == ["7"]

    @pytest.mark.parametrize(
        ("value", "seconds"),
        [
            (b"1500", 1.5),
            (b"0", 0.0),
            (b"", None),
            (b"-1", None),
            (b"1.5", None),
            (b"1e3", None),
            ("٣".encode(), None),
            (b"9" * 5_000, None),
        ],
    )
    def test_retry_must_be_digits(self, value: bytes, seconds: float | None) -> None:
        parser = Parser(10_000)
        assert list(parser.feed(b"retry: %b\n" % value)) == []
        assert parser.retry_seconds == seconds


class TestLongEvent:
    def check(self, *pieces: bytes) -> Parser:
        parser = Parser(20)
        parsed = [event for piece in pieces for event in parser.feed(piece)]
        assert [(event.data, event.id) for event in parsed] == [("x", "2")]
        assert parser.skipped == 1
        return parser

    def test_long_line_is_skipped(self) -> None:
        self.check(b"data: %b\n\n" % (b"a" * 20), b"id: 2\ndata: x\n\n")

    def test_many_lines_are_skipped(self) -> None:
        self.check(b"data:\n" * 1_000 + b"\n", b"id: 2\ndata: x\n\n")

    def test_many_pieces_take_no_memory(self) -> None:
        parser = Parser(20)
        for _ in range(1_000):
            assert list(parser.feed(b"data")) == []
        assert sum(map(len, parser._line)) <= 20
        assert list(parser.feed(b"\n\n")) == []
        assert parser.skipped == 1

    def test_id_of_a_skipped_event_counts(self) -> None:
        self.check(b"data: %b\nid: 2\n\n" % (b"a" * 20), b"data: x\n\n")
        self.check(b"id: 2\ndata: %b\ndata: b\n\n" % (b"a" * 20), b"data: x\n\n")

    def test_lines_after_a_long_one_are_skipped(self) -> None:
        self.check(b"data: %b\n" % (b"a" * 20) + b"data: a\nid: 2\n" * 100, b"\ndata: x\n\n")

    def test_comments_do_not_count_for_the_length(self) -> None:
        stream = b"id: 2\n" + b":%b\n" % (b"a" * 100) + b": b\n" * 100 + b"data: x\n\n"
        for step in (1, 7, 1_000):
            parser = Parser(20)
            pieces = [stream[n : n + step] for n in range(0, len(stream), step)]
            assert [e.data for piece in pieces for e in parser.feed(piece)] == ["x"]
            assert parser.skipped == 0


# Valid and invalid lines with all line ends, and random bytes.
_FIELDS = st.sampled_from(
    [b"data", b"event", b"id", b"retry", b"", b"dat", b"\xef\xbb\xbfdata", b"Data", b"data\0"]
)
_VALUES = st.sampled_from([b"", b" ", b" x", b": y", b"\xff", "ä€".encode(), b"1\0", b"12"])
_ENDS = st.sampled_from([b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n", b"\n\r"])
_LINES = st.builds(
    lambda name, colon, value, end: name + colon + value + end,
    _FIELDS,
    st.sampled_from([b":", b": ", b""]),
    _VALUES,
    _ENDS,
)
STREAMS = st.lists(_LINES | st.binary(max_size=5), max_size=30).map(b"".join)


def reference_events(stream: bytes) -> list[Event]:
    """Parse as the standard describes it, with the whole stream at once."""
    text = stream.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    parsed, buffer, name, last_id = [], "", "", ""
    *lines, _ = re.split("\r\n|\r|\n", text)
    for line in lines:
        if not line:
            if buffer:
                parsed.append(Event(name or "message", buffer.removesuffix("\n"), last_id))
            buffer, name = "", ""
            continue
        field, colon, value = line.partition(":")
        if colon and not field:
            continue
        value = value.removeprefix(" ")
        if field == "data":
            buffer += value + "\n"
        elif field == "event":
            name = value
        elif field == "id" and "\0" not in value:
            last_id = value
    return parsed


@given(STREAMS, st.lists(st.integers(0, 200)))
def test_events_are_those_of_the_standard_for_any_pieces(stream: bytes, cuts: list[int]) -> None:
    expected = reference_events(stream)
    assert events(stream) == expected
    positions = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[a:b] for a, b in pairwise(positions)]
    assert events(*pieces) == expected
    assert events(*(stream[n : n + 1] for n in range(len(stream)))) == expected


@given(st.lists(st.binary(max_size=50)), st.integers(1, 60))
def test_any_bytes_are_parsed_in_bounded_memory(pieces: list[bytes], max_bytes: int) -> None:
    parser = Parser(max_bytes)
    for piece in pieces:
        for event in parser.feed(piece):
            assert len(event.data) <= max_bytes
        assert sum(map(len, parser._line)) <= max_bytes
        assert sum(map(len, parser._data)) <= max_bytes


@given(STREAMS, st.integers(1, 30))
def test_skipped_events_do_not_depend_on_the_pieces(stream: bytes, max_bytes: int) -> None:
    whole, bytewise = Parser(max_bytes), Parser(max_bytes)
    parsed = list(whole.feed(stream))
    assert [e for n in range(len(stream)) for e in bytewise.feed(stream[n : n + 1])] == parsed
    assert bytewise.skipped == whole.skipped


def sse(remote: Remote, **options: Any) -> Any:
    return SSE.make(Options(f"{remote.url}stream?key=s3cret", **options))


def block(value: object, **fields: str) -> bytes:
    lines = [f"{name}: {text}" for name, text in fields.items()]
    return "\n".join([*lines, f"data: {json.dumps(value)}", "", ""]).encode()


class StreamCase(RemoteCase):
    def start_stream(self, visit: Visit, **headers: str) -> None:
        visit.begin(
            content_type="text/event-stream; charset=utf-8",
            transfer_encoding="chunked",
            **headers,
        )

    async def open_stream(self, remote: Remote, feed: FakeFeed, **options: Any) -> Visit:
        """Start a source; return its request after the head of the response."""
        self.run_source(sse(remote, **options), feed)
        visit = await remote.visit()
        self.start_stream(visit)
        return visit

    async def publishes(self, feed: FakeFeed, *values: object) -> None:
        for value in values:
            assert await feed.happens() == ("publishes", value)

    async def trouble(self, feed: FakeFeed) -> str:
        kind, message = await feed.happens()
        assert kind == "trouble"
        assert isinstance(message, str)
        return message


class TestStream(StreamCase):
    async def test_events_are_published_as_they_arrive(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        visit = await self.open_stream(remote, feed)
        assert visit.path == "/stream?key=s3cret"
        assert visit.headers["accept"] == "text/event-stream"
        assert visit.headers["cache-control"] == "no-store"
        assert "accept-encoding" not in visit.headers
        assert "last-event-id" not in visit.headers
        for number in range(3):
            visit.chunk(block({"number": number}))
            await self.publishes(feed, {"number": number})
        visit.chunk(block(3)[:9])
        visit.chunk(block(3)[9:] + block(4))
        await self.publishes(feed, 3, 4)
        assert feed.oks == 1
        assert feed.troubles == []

    async def test_stream_is_read_no_faster_than_published(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        feed.gate = Deferred()
        visit = await self.open_stream(remote, feed)
        visit.chunk(block(1) + block(2))
        assert await feed.happens() == ("waits", 1)
        visit.chunk(b":" + bytes(30_000_000) + b"\n" + block(3))
        for _ in range(500):
            await deferLater(reactor, 0)
        transport: Any = visit.transport
        waiting = len(transport.dataBuffer) + sum(map(len, transport._tempDataBuffer))
        assert waiting > 10_000_000
        # This wait does not count as silence.
        feed.reactor.clock.advance(1_000)
        gate, feed.gate = feed.gate, None
        gate.callback(None)
        await self.publishes(feed, 1, 2, 3)

    async def test_names_of_events_are_kept(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        visit = await self.open_stream(remote, feed)
        visit.chunk(block(1, event="update") + block(2) + block(3, event="message"))
        await self.publishes(feed, 1, 2, 3)
        assert [event for _, event in feed.published] == ["update", "message", "message"]

    async def test_event_of_the_configuration_replaces_the_names(self) -> None:
        remote, feed = self.remote(), FakeFeed(event="edit")
        visit = await self.open_stream(remote, feed)
        visit.chunk(block(1, event="update") + block(2))
        await self.publishes(feed, 1, 2)
        assert {event for _, event in feed.published} == {"edit"}

    async def test_invalid_name_of_an_event_is_a_warning(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        visit = await self.open_stream(remote, feed)
        visit.chunk(block(1, event="x" * 129))
        assert "invalid event name" in await self.trouble(feed)
        await self.publishes(feed, 1)
        assert feed.published == [(1, "message")]

    async def test_option_events_selects_by_name(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        visit = await self.open_stream(remote, feed, events=["update", "message"])
        visit.chunk(block(1, event="update") + block(2, event="delete") + block(3))
        await self.publishes(feed, 1, 3)

    async def test_position_of_a_pushserver_is_no_event(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        visit = await self.open_stream(remote, feed, events=[])
        visit.chunk(block(1, event="pushserver-subscribed") + block(2) + block(3, event="reset"))
        await self.publishes(feed, 2, 3)

    async def test_end_by_a_pushserver_is_no_event_and_names_the_reason(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        visit = await self.open_stream(remote, feed, events=["message"])
        end = '{"code":1013,"reason":"Redis is away"}'
        visit.chunk(f"event: pushserver-end\ndata: {end}\n\n".encode())
        assert await feed.happens() == ("trouble", f"the other server ended the stream: {end}")
        visit.chunk(b"")
        assert await feed.happens() == ("sleeps", 3.0)

    async def test_stream_with_only_a_comment_is_no_warning(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        visit = await self.open_stream(remote, feed)
        visit.chunk(b":\n\n")
        visit.chunk(b"")
        assert await feed.happens() == ("sleeps", 3.0)
        assert feed.troubles == []

    async def test_cancellation_remembers_the_id_and_closes_the_connection(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        running = self.run_source(sse(remote), feed)
        visit = await remote.visit()
        self.start_stream(visit)
        visit.chunk(block(1, id="a") + block(2, id="b"))
        await self.publishes(feed, 1, 2)
        running.cancel()
        assert isinstance(await failure_of(running), CancelledError)
        await visit.gone
        assert isinstance(feed.memory, dict)
        assert feed.memory["id"] == "b"
        assert feed.reactor.clock.getDelayedCalls() == []


class TestData(StreamCase):
    async def values(self, stream: bytes, count: int, **options: Any) -> FakeFeed:
        remote, feed = self.remote(), FakeFeed()
        visit = await self.open_stream(remote, feed, **options)
        visit.chunk(stream)
        for _ in range(count):
            await feed.happens()
        return feed

    async def test_format_auto_is_json_or_text(self) -> None:
        texts = ('{"a": [1]}', "hello", '"x"', "5", "1.5", "true", "null", "", "{", "NaN", "a\nb")
        stream = "".join(
            "".join(f"data: {line}\n" for line in text.split("\n")) + "\n" for text in texts
        )
        feed = await self.values(stream.encode(), len(texts))
        assert feed.data == [
            {"a": [1]}, "hello", "x", 5, 1.5, True, None, "", "{", "NaN", "a\nb"
        ]  # fmt: skip

    async def test_integer_too_large_for_browsers_stays_text(self) -> None:
        stream = b"data: 9007199254740992\n\ndata: 116412345678901234\n\n"
        feed = await self.values(stream, 2)
        assert feed.data == [9007199254740992, "116412345678901234"]

    async def test_format_text_is_text(self) -> None:
        feed = await self.values(b'data: {"a": 1}\n\ndata: 5\n\n', 2, format="text")
        assert feed.data == ['{"a": 1}', "5"]

    async def test_format_json_skips_other_data(self) -> None:
        deep = b"[" * 5_000
        stream = b"data: hello\n\ndata: 116412345678901234\n\ndata: %b\n\n" % deep
        feed = await self.values(stream, 3, format="json")
        assert feed.data == [116412345678901234]
        assert len(feed.troubles) == 2
        assert all(t.startswith("an event was skipped: it is not JSON: ") for t in feed.troubles)

    async def test_half_a_surrogate_pair_is_replaced(self) -> None:
        stream = b'data: "a\\ud83d"\n\ndata: ["\\ude00"]\n\ndata: {"a\\udbff": 1}\n\n'
        for options in ({}, {"format": "json"}):
            feed = await self.values(stream, 3, **options)
            assert feed.data == ["a\ufffd", ["\ufffd"], {"a\ufffd": 1}]
            assert feed.troubles == []

    async def test_data_that_cannot_be_published_is_skipped(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        visit = await self.open_stream(remote, feed)
        feed.refusal = InvalidData("nested deeper than 100")
        visit.chunk(block(1, id="a"))
        assert await self.trouble(feed) == "an event was skipped: nested deeper than 100"
        feed.refusal = None
        visit.chunk(block(2, id="b"))
        await self.publishes(feed, 2)

    async def test_long_event_is_skipped_with_a_warning(self) -> None:
        stream = block("a" * 200) + block(1) + block("b" * 200)
        feed = await self.values(stream, 2, max_event_bytes=100)
        assert feed.data == [1]
        assert feed.troubles == ["an event of more than 100 bytes (max_event_bytes) was skipped"]


class TestReconnect(StreamCase):
    async def expect_sleep(self, feed: FakeFeed, seconds: float = 3.0) -> None:
        assert await feed.happens() == ("sleeps", seconds)

    async def test_reconnect_sends_the_last_id(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        visit = await self.open_stream(remote, feed)
        visit.chunk(block(1, id="a") + block(2, id='[{"topic":"ä"}]') + b"data: half")
        await self.publishes(feed, 1, 2)
        visit.chunk(b"")
        await self.expect_sleep(feed)
        feed.wake()
        visit = await remote.visit()
        assert visit.headers["last-event-id"] == '[{"topic":"ä"}]'.encode().decode("latin-1")
        self.start_stream(visit)
        visit.chunk(block(3) + b"id\n\n")
        await self.publishes(feed, 3)
        visit.chunk(b"")
        await self.expect_sleep(feed)
        feed.wake()
        assert "last-event-id" not in (await remote.visit()).headers

    async def test_broken_stream_is_a_warning_and_reconnects(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        visit = await self.open_stream(remote, feed)
        visit.chunk(block(1, id="a"))
        await self.publishes(feed, 1)
        visit.cut()
        assert (await self.trouble(feed)).startswith(f"{remote.host}: ")
        await self.expect_sleep(feed)
        feed.wake()
        visit = await remote.visit()
        assert visit.headers["last-event-id"] == "a"
        self.start_stream(visit)
        visit.chunk(block(2))
        await self.publishes(feed, 2)
        assert feed.oks == 2

    async def test_retry_sets_the_delay_within_bounds(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        visit = await self.open_stream(remote, feed)
        for milliseconds, seconds in (("1500", 1.5), ("0", 1.0), ("99999999", 60.0)):
            visit.chunk(f"retry: {milliseconds}\n\n".encode())
            visit.chunk(b"")
            await self.expect_sleep(feed, seconds)
            feed.wake()
            visit = await remote.visit()
            self.start_stream(visit)

    async def test_silent_stream_is_closed_with_a_warning(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        visit = await self.open_stream(remote, feed, silence_seconds=20)
        visit.chunk(block(1))
        await self.publishes(feed, 1)
        feed.reactor.clock.advance(19)
        visit.chunk(b":\n")
        visit.chunk(block(2))
        await self.publishes(feed, 2)
        feed.reactor.clock.advance(19)
        assert feed.troubles == []
        feed.reactor.clock.advance(1)
        message = f"{remote.host} sent nothing for 20 s (silence_seconds)"
        assert await self.trouble(feed) == message
        await self.expect_sleep(feed)
        await visit.gone

    async def test_stream_without_data_fails(self) -> None:
        remote = self.remote()
        for cut in (False, True):
            feed = FakeFeed()
            running = self.run_source(sse(remote), feed)
            visit = await remote.visit()
            self.start_stream(visit)
            visit.cut() if cut else visit.chunk(b"")
            assert isinstance(await failure_of(running), SourceFailed)

    async def test_204_ends_the_source(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        running = self.run_source(sse(remote), feed)
        (await remote.visit()).begin(204)
        await running
        assert feed.published == []

    async def test_retry_after_of_a_busy_server_is_honoured(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        self.run_source(sse(remote), feed)
        (await remote.visit()).answer(b"", 503, retry_after="40")
        assert await self.trouble(feed) == f"{remote.host} answered 503 Service Unavailable"
        await self.expect_sleep(feed, 40)
        feed.wake()
        await remote.visit()


class TestInvalidResponse(StreamCase):
    async def failure(self, body: bytes, status: int = 200, /, **headers: str) -> str:
        remote, feed = self.remote(), FakeFeed()
        running = self.run_source(sse(remote), feed)
        visit = await remote.visit()
        visit.answer(body, status, **headers)
        error = await failure_of(running)
        assert isinstance(error, SourceFailed)
        await visit.gone
        assert feed.oks == 0
        return str(error).replace(remote.host, "HOST")

    async def test_other_status_fails(self) -> None:
        stream = {"content_type": "text/event-stream"}
        assert await self.failure(b"", 404, **stream) == "HOST answered 404 Not Found"
        assert await self.failure(b"", 500, **stream) == "HOST answered 500 Internal Server Error"
        assert "answered 503" in await self.failure(b"", 503, **stream)

    async def test_other_content_type_fails(self) -> None:
        message = "HOST answered with content-type {}, expected text/event-stream"
        assert await self.failure(b"<p>", content_type="text/html; a=b") == message.format(
            "'text/html'"
        )
        assert await self.failure(b"") == message.format("''")

    async def test_content_encoding_fails(self) -> None:
        stream = {"content_type": "text/event-stream", "content_encoding": "gzip"}
        assert (
            await self.failure(b"x", **stream) == "HOST answered in 'gzip', which was not asked for"
        )

    async def test_late_response_fails(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        running = self.run_source(sse(remote), feed)
        await remote.visit()
        feed.reactor.clock.advance(30)
        error = await failure_of(running)
        assert isinstance(error, SourceFailed)
        assert "did not answer within 30 s" in str(error)


class TestMemory(StreamCase):
    async def test_last_id_is_remembered_across_a_restart(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        visit = await self.open_stream(remote, feed)
        visit.chunk(block(1, id="a"))
        await self.publishes(feed, 1)
        assert "s3cret" not in json.dumps(feed.memory)
        again = FakeFeed(memory=feed.memory)
        self.run_source(sse(remote), again)
        assert (await remote.visit()).headers["last-event-id"] == "a"

    async def test_id_of_another_url_is_ignored(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        visit = await self.open_stream(remote, feed)
        visit.chunk(block(1, id="a"))
        await self.publishes(feed, 1)
        again = FakeFeed(memory=feed.memory)
        self.run_source(SSE.make(Options(f"{remote.url}other")), again)
        assert "last-event-id" not in (await remote.visit()).headers

    async def test_option_resume_ignores_the_remembered_id(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        visit = await self.open_stream(remote, feed)
        visit.chunk(block(1, id="a"))
        await self.publishes(feed, 1)
        again = FakeFeed(memory=feed.memory)
        self.run_source(sse(remote, resume=False), again)
        visit = await remote.visit()
        assert "last-event-id" not in visit.headers
        self.start_stream(visit)
        visit.chunk(block(2, id="b"))
        await self.publishes(again, 2)
        visit.chunk(b"")
        assert await again.happens() == ("sleeps", 3.0)
        again.wake()
        assert (await remote.visit()).headers["last-event-id"] == "b"

    async def test_invalid_remembered_value_is_ignored(self) -> None:
        remote = self.remote()
        memories: list[object] = [5, "a", [], {"id": "a"}, {"url": "", "id": 5}]
        for memory in memories:
            self.run_source(sse(remote), FakeFeed(memory=memory))
            assert "last-event-id" not in (await remote.visit()).headers

    async def test_id_is_remembered_once_a_second_and_at_the_end(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        feed.reactor.clock.advance(100)
        running = self.run_source(sse(remote), feed)
        visit = await remote.visit()
        self.start_stream(visit)
        for number in range(50):
            visit.chunk(block(number, id=str(number)))
        await self.publishes(feed, *range(50))
        assert [kept["id"] for kept in feed.kept] == ["0"]  # type: ignore[index]
        feed.reactor.clock.advance(1)
        visit.chunk(block(50, id="50") + block(51, id="51"))
        await self.publishes(feed, 50, 51)
        running.cancel()
        assert [kept["id"] for kept in feed.kept] == ["0", "50", "51"]  # type: ignore[index]

    async def test_id_of_an_unpublished_event_is_not_remembered(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        running = self.run_source(sse(remote), feed)
        visit = await remote.visit()
        self.start_stream(visit)
        visit.chunk(block(1, id="a"))
        await self.publishes(feed, 1)
        feed.refusal = Unavailable("the disk is full")
        visit.chunk(block(2, id="b"))
        assert await self.trouble(feed) == "the disk is full"
        assert await feed.happens() == ("sleeps", 1.0)
        running.cancel()
        feed.refusal = None
        self.run_source(sse(remote), feed)
        assert (await remote.visit()).headers["last-event-id"] == "a"

    async def test_events_wait_while_publishing_is_unavailable(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        self.run_source(sse(remote), feed)
        visit = await remote.visit()
        self.start_stream(visit)
        feed.refusal = Unavailable("the disk is full")
        visit.chunk(block(1) + block(2, id="b"))
        assert await self.trouble(feed) == "the disk is full"
        assert await feed.happens() == ("sleeps", 1.0)
        feed.refusal = None
        feed.wake()
        await self.publishes(feed, 1, 2)
        visit.chunk(block(3))
        await self.publishes(feed, 3)

    async def test_events_without_an_id_are_published_by_the_next_run(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        source = sse(remote)
        running = self.run_source(source, feed)
        visit = await remote.visit()
        self.start_stream(visit)
        feed.gate = Deferred()
        visit.chunk(block(1) + block(2) + block(3))
        assert (await feed.happens())[0] == "waits"
        running.cancel()
        feed.gate = None
        self.run_source(source, feed)
        await self.publishes(feed, 1, 2, 3)
        visit = await remote.visit()
        self.start_stream(visit)
        visit.chunk(block(4))
        await self.publishes(feed, 4)

    async def test_events_with_an_id_are_read_again_by_the_next_run(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        source = sse(remote)
        running = self.run_source(source, feed)
        visit = await remote.visit()
        self.start_stream(visit)
        visit.chunk(block(1, id="a"))
        await self.publishes(feed, 1)
        feed.gate = Deferred()
        visit.chunk(block(2, id="b") + block(3, id="c"))
        assert (await feed.happens())[0] == "waits"
        running.cancel()
        feed.gate = None
        self.run_source(source, feed)
        visit = await remote.visit()
        assert visit.headers["last-event-id"] == "a"
        self.start_stream(visit)
        visit.chunk(block(2, id="b") + block(3, id="c"))
        await self.publishes(feed, 2, 3)


def test_repr_of_options_has_no_headers() -> None:
    assert "s3cret" not in repr(Options("http://a", headers={"Authorization": "s3cret"}))


def test_invalid_options_raise_value_error() -> None:
    with pytest.raises(ValueError, match=r"^url: "):
        SSE.make(Options("example.org"))
