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
from pushserver.sources.types.sse.parser import MOST_ID_BYTES, Event, Parser
from pushserver.sources.types.sse.source import SSE, Options
from tests.unit.fakes.remote import Desk, Remote, RemoteCase, Visit, failure_of, reactor


def events(*pieces: bytes, most: int = 1_000) -> list[Event]:
    parser = Parser(most)
    return [event for piece in pieces for event in parser.feed(piece)]


def data(*pieces: bytes) -> list[str]:
    return [event.data for event in events(*pieces)]


class TestTheExamplesOfTheStandard:
    """HTML, 9.2.6."""

    def test_of_stocks(self) -> None:
        assert events(b"data: YHOO\ndata: +2\ndata: 10\n\n") == [
            Event("message", "YHOO\n+2\n10", "")
        ]

    def test_of_four_blocks(self) -> None:
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

    def test_of_empty_data(self) -> None:
        assert data(b"data\n\ndata\ndata\n\ndata:") == ["", "\n"]

    def test_of_a_space_after_the_colon(self) -> None:
        assert data(b"data:test\n\ndata: test\n\n") == ["test", "test"]


class TestTheParser:
    @pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
    def test_takes_each_kind_of_line_end(self, end: bytes) -> None:
        stream = end.join((b"event: a", b"data: b", b"id: c", b"", b""))
        assert events(stream) == [Event("a", "b", "c")]

    def test_takes_a_line_end_that_comes_in_two_pieces_as_one(self) -> None:
        assert data(b"data: a\r", b"\ndata: b\r", b"", b"\n\r", b"\n") == ["a\nb"]
        assert data(b"data: a\r", b"\r", b"data: b\r\r") == ["a", "b"]

    def test_leaves_out_one_byte_order_mark(self) -> None:
        assert data(b"\xef\xbb\xbfdata: a\n\n") == ["a"]
        assert data(b"\xef", b"\xbb", b"\xbfdata: a\n\n") == ["a"]
        assert data(b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n") == []
        assert data(b"data: a\n\xef\xbb\xbfdata: b\n\n") == ["a"]

    def test_leaves_out_comments_and_fields_that_it_does_not_know(self) -> None:
        assert data(b":data: x\n:\ndata: a\nDATA: b\ndata : c\n data: d\nx\n\n") == ["a"]

    def test_names_an_event_for_one_block(self) -> None:
        stream = b"event: a\nevent: b\ndata: 1\n\ndata: 2\n\nevent: c\n\ndata: 3\n\n"
        assert [(e.name, e.data) for e in events(stream)] == [
            ("b", "1"),
            ("message", "2"),
            ("message", "3"),
        ]

    def test_keeps_an_id_until_there_is_another(self) -> None:
        stream = b"id: 1\ndata: a\n\ndata: b\n\nid: 2\n\ndata: c\n\nid:\ndata: d\n\n"
        assert [event.id for event in events(stream)] == ["1", "1", "2", ""]

    def test_takes_no_id_with_a_nul_nor_one_that_no_header_holds(self) -> None:
        long = b"x" * (MOST_ID_BYTES + 1)
        stream = b"id: 1\ndata: a\n\nid: 2\0\ndata: b\n\nid: %b\ndata: c\n\n" % long
        assert [event.id for event in events(stream, most=10_000)] == ["1", "1", "1"]

    def test_takes_an_id_only_with_the_end_of_its_block(self) -> None:
        parser = Parser(100, "0")
        assert list(parser.feed(b"id: 1\n")) == []
        assert parser.last_id == "0"
        assert list(parser.feed(b"\n")) == []
        assert parser.last_id == "1"

    def test_goes_on_with_the_id_of_an_earlier_stream(self) -> None:
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
    def test_takes_a_retry_of_digits(self, value: bytes, seconds: float | None) -> None:
        parser = Parser(10_000)
        assert list(parser.feed(b"retry: %b\n" % value)) == []
        assert parser.retry_seconds == seconds

    def test_replaces_what_is_no_utf8(self) -> None:
        assert data(b"data: a\xff\xc3\ndata: \xc3", b"\xa4\n\n") == ["a\ufffd\ufffd\nä"]

    def test_leaves_out_a_block_without_its_end(self) -> None:
        assert data(b"data: a\n\ndata: b\n") == ["a"]


class TestAnEventThatIsTooLong:
    def check(self, *pieces: bytes) -> Parser:
        parser = Parser(20)
        found = [event for piece in pieces for event in parser.feed(piece)]
        assert [(event.data, event.id) for event in found] == [("x", "2")]
        assert parser.skipped == 1
        return parser

    def test_in_one_line_is_left_out(self) -> None:
        self.check(b"data: %b\n\n" % (b"a" * 20), b"id: 2\ndata: x\n\n")

    def test_in_many_lines_is_left_out(self) -> None:
        self.check(b"data:\n" * 1_000 + b"\n", b"id: 2\ndata: x\n\n")

    def test_in_many_pieces_takes_no_room(self) -> None:
        parser = Parser(20)
        for _ in range(1_000):
            assert list(parser.feed(b"data")) == []
        assert sum(map(len, parser._line)) <= 20
        assert list(parser.feed(b"\n\n")) == []
        assert parser.skipped == 1

    def test_still_says_its_id(self) -> None:
        self.check(b"data: %b\nid: 2\n\n" % (b"a" * 20), b"data: x\n\n")
        self.check(b"id: 2\ndata: %b\ndata: b\n\n" % (b"a" * 20), b"data: x\n\n")

    def test_may_have_many_short_lines_after_that(self) -> None:
        self.check(b"data: %b\n" % (b"a" * 20) + b"data: a\nid: 2\n" * 100, b"\ndata: x\n\n")

    def test_is_none_because_of_comments(self) -> None:
        stream = b"id: 2\n" + b":%b\n" % (b"a" * 100) + b": b\n" * 100 + b"data: x\n\n"
        for step in (1, 7, 1_000):
            parser = Parser(20)
            pieces = [stream[n : n + step] for n in range(0, len(stream), step)]
            assert [e.data for piece in pieces for e in parser.feed(piece)] == ["x"]
            assert parser.skipped == 0


# Lines of which some make events, in bytes, with all line ends, and bytes that are anything.
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


def as_the_standard_says(stream: bytes) -> list[Event]:
    """Step by step and all at once."""
    text = stream.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    found, buffer, name, last_id = [], "", "", ""
    *lines, _ = re.split("\r\n|\r|\n", text)
    for line in lines:
        if not line:
            if buffer:
                found.append(Event(name or "message", buffer.removesuffix("\n"), last_id))
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
    return found


@given(STREAMS, st.lists(st.integers(0, 200)))
def test_any_pieces_of_a_stream_give_the_events_of_the_standard(
    stream: bytes, cuts: list[int]
) -> None:
    expected = as_the_standard_says(stream)
    assert events(stream) == expected
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[a:b] for a, b in pairwise(places)]
    assert events(*pieces) == expected
    assert events(*(stream[n : n + 1] for n in range(len(stream)))) == expected


@given(st.lists(st.binary(max_size=50)), st.integers(1, 60))
def test_no_bytes_make_the_parser_fail_or_keep_too_much(pieces: list[bytes], most: int) -> None:
    parser = Parser(most)
    for piece in pieces:
        for event in parser.feed(piece):
            assert len(event.data) <= most
        assert sum(map(len, parser._line)) <= most
        assert sum(map(len, parser._data)) <= most


@given(STREAMS, st.integers(1, 30))
def test_what_is_left_out_for_its_length_does_not_depend_on_the_pieces(
    stream: bytes, most: int
) -> None:
    whole, bytewise = Parser(most), Parser(most)
    found = list(whole.feed(stream))
    assert [e for n in range(len(stream)) for e in bytewise.feed(stream[n : n + 1])] == found
    assert bytewise.skipped == whole.skipped


def sse(remote: Remote, **options: Any) -> Any:
    return SSE.make(Options(f"{remote.url}stream?key=s3cret", **options))


def block(value: object, **fields: str) -> bytes:
    lines = [f"{name}: {text}" for name, text in fields.items()]
    return "\n".join([*lines, f"data: {json.dumps(value)}", "", ""]).encode()


class StreamCase(RemoteCase):
    def begin(self, visit: Visit, **headers: str) -> None:
        visit.begin(
            content_type="text/event-stream; charset=utf-8",
            transfer_encoding="chunked",
            **headers,
        )

    async def connected(self, remote: Remote, desk: Desk, **options: Any) -> Visit:
        """A stream that has begun."""
        self.run_source(sse(remote, **options), desk)
        visit = await remote.visit()
        self.begin(visit)
        return visit

    async def publishes(self, desk: Desk, *values: object) -> None:
        for value in values:
            assert await desk.happens() == ("publishes", value)

    async def trouble(self, desk: Desk) -> str:
        what, message = await desk.happens()
        assert what == "trouble"
        assert isinstance(message, str)
        return message


class TestAStream(StreamCase):
    async def test_is_published_as_it_comes(self) -> None:
        remote, desk = self.remote(), Desk()
        visit = await self.connected(remote, desk)
        assert visit.path == "/stream?key=s3cret"
        assert visit.headers["accept"] == "text/event-stream"
        assert visit.headers["cache-control"] == "no-store"
        assert "accept-encoding" not in visit.headers
        assert "last-event-id" not in visit.headers
        for number in range(3):
            visit.chunk(block({"number": number}))
            await self.publishes(desk, {"number": number})
        visit.chunk(block(3)[:9])
        visit.chunk(block(3)[9:] + block(4))
        await self.publishes(desk, 3, 4)
        assert desk.oks == 1
        assert desk.troubles == []

    async def test_is_taken_no_faster_than_it_is_published(self) -> None:
        remote, desk = self.remote(), Desk()
        desk.gate = Deferred()
        visit = await self.connected(remote, desk)
        visit.chunk(block(1) + block(2))
        assert await desk.happens() == ("waits", 1)
        visit.chunk(b":" + bytes(30_000_000) + b"\n" + block(3))
        for _ in range(500):
            await deferLater(reactor, 0)
        transport: Any = visit.transport
        waiting = len(transport.dataBuffer) + sum(map(len, transport._tempDataBuffer))
        assert waiting > 10_000_000
        # However long it has to wait, the stream was not silent.
        desk.reactor.clock.advance(1_000)
        gate, desk.gate = desk.gate, None
        gate.callback(None)
        await self.publishes(desk, 1, 2, 3)

    async def test_names_its_events(self) -> None:
        remote, desk = self.remote(), Desk()
        visit = await self.connected(remote, desk)
        visit.chunk(block(1, event="update") + block(2) + block(3, event="message"))
        await self.publishes(desk, 1, 2, 3)
        assert [event for _, event in desk.published] == ["update", "message", "message"]

    async def test_has_the_event_of_the_configuration_where_that_says_one(self) -> None:
        remote, desk = self.remote(), Desk(event="edit")
        visit = await self.connected(remote, desk)
        visit.chunk(block(1, event="update") + block(2))
        await self.publishes(desk, 1, 2)
        assert {event for _, event in desk.published} == {"edit"}

    async def test_has_the_event_of_the_source_where_its_own_is_none_here(self) -> None:
        remote, desk = self.remote(), Desk()
        visit = await self.connected(remote, desk)
        visit.chunk(block(1, event="x" * 129))
        assert "invalid event name" in await self.trouble(desk)
        await self.publishes(desk, 1)
        assert desk.published == [(1, "message")]

    async def test_gives_only_the_events_that_are_asked_for(self) -> None:
        remote, desk = self.remote(), Desk()
        visit = await self.connected(remote, desk, events=["update", "message"])
        visit.chunk(block(1, event="update") + block(2, event="delete") + block(3))
        await self.publishes(desk, 1, 3)

    async def test_with_a_comment_only_is_no_trouble(self) -> None:
        remote, desk = self.remote(), Desk()
        visit = await self.connected(remote, desk)
        visit.chunk(b":\n\n")
        visit.chunk(b"")
        assert await desk.happens() == ("sleeps", 3.0)
        assert desk.troubles == []

    async def test_that_is_cancelled_is_dropped(self) -> None:
        remote, desk = self.remote(), Desk()
        running = self.run_source(sse(remote), desk)
        visit = await remote.visit()
        self.begin(visit)
        visit.chunk(block(1, id="a") + block(2, id="b"))
        await self.publishes(desk, 1, 2)
        running.cancel()
        assert isinstance(await failure_of(running), CancelledError)
        await visit.gone
        assert isinstance(desk.memory, dict)
        assert desk.memory["id"] == "b"
        assert desk.reactor.clock.getDelayedCalls() == []


class TestTheData(StreamCase):
    async def values(self, stream: bytes, count: int, **options: Any) -> Desk:
        remote, desk = self.remote(), Desk()
        visit = await self.connected(remote, desk, **options)
        visit.chunk(stream)
        for _ in range(count):
            await desk.happens()
        return desk

    async def test_is_json_or_a_string(self) -> None:
        texts = ('{"a": [1]}', "hello", '"x"', "5", "1.5", "true", "null", "", "{", "NaN", "a\nb")
        stream = "".join(
            "".join(f"data: {line}\n" for line in text.split("\n")) + "\n" for text in texts
        )
        desk = await self.values(stream.encode(), len(texts))
        assert desk.data == [
            {"a": [1]}, "hello", "x", 5, 1.5, True, None, "", "{", "NaN", "a\nb"
        ]  # fmt: skip

    async def test_that_is_a_number_too_long_for_a_browser_stays_a_string(self) -> None:
        stream = b"data: 9007199254740992\n\ndata: 116412345678901234\n\n"
        desk = await self.values(stream, 2)
        assert desk.data == [9007199254740992, "116412345678901234"]

    async def test_is_a_string_if_it_is_to(self) -> None:
        desk = await self.values(b'data: {"a": 1}\n\ndata: 5\n\n', 2, format="text")
        assert desk.data == ['{"a": 1}', "5"]

    async def test_is_json_or_left_out_if_it_is_to(self) -> None:
        deep = b"[" * 5_000
        stream = b"data: hello\n\ndata: 116412345678901234\n\ndata: %b\n\n" % deep
        desk = await self.values(stream, 3, format="json")
        assert desk.data == [116412345678901234]
        assert len(desk.troubles) == 2
        assert all(t.startswith("an event was skipped: it is not JSON: ") for t in desk.troubles)

    async def test_that_cannot_be_published_is_left_out(self) -> None:
        remote, desk = self.remote(), Desk()
        visit = await self.connected(remote, desk)
        desk.refusal = InvalidData("nested deeper than 100")
        visit.chunk(block(1, id="a"))
        assert await self.trouble(desk) == "an event was skipped: nested deeper than 100"
        desk.refusal = None
        visit.chunk(block(2, id="b"))
        await self.publishes(desk, 2)

    async def test_that_is_too_long_is_left_out_and_told(self) -> None:
        stream = block("a" * 200) + block(1) + block("b" * 200)
        desk = await self.values(stream, 2, max_event_bytes=100)
        assert desk.data == [1]
        assert desk.troubles == ["an event of more than 100 bytes (max_event_bytes) was skipped"]


class TestAfterItsEnd(StreamCase):
    async def ended(self, desk: Desk, seconds: float = 3.0) -> None:
        assert await desk.happens() == ("sleeps", seconds)

    async def test_a_stream_goes_on_after_the_last_event_that_was_seen(self) -> None:
        remote, desk = self.remote(), Desk()
        visit = await self.connected(remote, desk)
        visit.chunk(block(1, id="a") + block(2, id='[{"topic":"ä"}]') + b"data: half")
        await self.publishes(desk, 1, 2)
        visit.chunk(b"")
        await self.ended(desk)
        desk.wake()
        visit = await remote.visit()
        assert visit.headers["last-event-id"] == '[{"topic":"ä"}]'.encode().decode("latin-1")
        self.begin(visit)
        visit.chunk(block(3) + b"id\n\n")
        await self.publishes(desk, 3)
        visit.chunk(b"")
        await self.ended(desk)
        desk.wake()
        assert "last-event-id" not in (await remote.visit()).headers

    async def test_a_stream_that_broke_is_told_and_goes_on(self) -> None:
        remote, desk = self.remote(), Desk()
        visit = await self.connected(remote, desk)
        visit.chunk(block(1, id="a"))
        await self.publishes(desk, 1)
        visit.cut()
        assert (await self.trouble(desk)).startswith(f"{remote.host}: ")
        await self.ended(desk)
        desk.wake()
        visit = await remote.visit()
        assert visit.headers["last-event-id"] == "a"
        self.begin(visit)
        visit.chunk(block(2))
        await self.publishes(desk, 2)
        assert desk.oks == 2

    async def test_it_is_come_back_to_when_it_wants_within_bounds(self) -> None:
        remote, desk = self.remote(), Desk()
        visit = await self.connected(remote, desk)
        for milliseconds, seconds in (("1500", 1.5), ("0", 1.0), ("99999999", 60.0)):
            visit.chunk(f"retry: {milliseconds}\n\n".encode())
            visit.chunk(b"")
            await self.ended(desk, seconds)
            desk.wake()
            visit = await remote.visit()
            self.begin(visit)

    async def test_silence_is_an_end(self) -> None:
        remote, desk = self.remote(), Desk()
        visit = await self.connected(remote, desk, silence_seconds=20)
        visit.chunk(block(1))
        await self.publishes(desk, 1)
        desk.reactor.clock.advance(19)
        visit.chunk(b":\n")
        visit.chunk(block(2))
        await self.publishes(desk, 2)
        desk.reactor.clock.advance(19)
        assert desk.troubles == []
        desk.reactor.clock.advance(1)
        told = f"{remote.host} sent nothing for 20 s (silence_seconds)"
        assert await self.trouble(desk) == told
        await self.ended(desk)
        await visit.gone

    async def test_a_stream_without_anything_fails(self) -> None:
        remote = self.remote()
        for cut in (False, True):
            desk = Desk()
            running = self.run_source(sse(remote), desk)
            visit = await remote.visit()
            self.begin(visit)
            visit.cut() if cut else visit.chunk(b"")
            assert isinstance(await failure_of(running), SourceFailed)

    async def test_204_is_the_end_for_good(self) -> None:
        remote, desk = self.remote(), Desk()
        running = self.run_source(sse(remote), desk)
        (await remote.visit()).begin(204)
        await running
        assert desk.published == []

    async def test_a_busy_server_is_left_alone_for_as_long_as_that_wants(self) -> None:
        remote, desk = self.remote(), Desk()
        self.run_source(sse(remote), desk)
        (await remote.visit()).answer(b"", 503, retry_after="40")
        assert await self.trouble(desk) == f"{remote.host} answered 503 Service Unavailable"
        await self.ended(desk, 40)
        desk.wake()
        await remote.visit()


class TestAnAnswerThatIsNoStream(StreamCase):
    async def failure(self, body: bytes, status: int = 200, /, **headers: str) -> str:
        remote, desk = self.remote(), Desk()
        running = self.run_source(sse(remote), desk)
        visit = await remote.visit()
        visit.answer(body, status, **headers)
        error = await failure_of(running)
        assert isinstance(error, SourceFailed)
        await visit.gone
        assert desk.oks == 0
        return str(error).replace(remote.host, "HOST")

    async def test_for_its_status(self) -> None:
        stream = {"content_type": "text/event-stream"}
        assert await self.failure(b"", 404, **stream) == "HOST answered 404 Not Found"
        assert await self.failure(b"", 500, **stream) == "HOST answered 500 Internal Server Error"
        assert "answered 503" in await self.failure(b"", 503, **stream)

    async def test_for_its_type(self) -> None:
        told = "HOST answered with content-type {}, expected text/event-stream"
        assert await self.failure(b"<p>", content_type="text/html; a=b") == told.format(
            "'text/html'"
        )
        assert await self.failure(b"") == told.format("''")

    async def test_for_its_encoding(self) -> None:
        stream = {"content_type": "text/event-stream", "content_encoding": "gzip"}
        assert (
            await self.failure(b"x", **stream) == "HOST answered in 'gzip', which was not asked for"
        )

    async def test_since_there_is_none(self) -> None:
        remote, desk = self.remote(), Desk()
        running = self.run_source(sse(remote), desk)
        await remote.visit()
        desk.reactor.clock.advance(30)
        error = await failure_of(running)
        assert isinstance(error, SourceFailed)
        assert "did not answer within 30 s" in str(error)


class TestTheMemory(StreamCase):
    async def test_is_of_the_last_event_across_a_restart(self) -> None:
        remote, desk = self.remote(), Desk()
        visit = await self.connected(remote, desk)
        visit.chunk(block(1, id="a"))
        await self.publishes(desk, 1)
        assert "s3cret" not in json.dumps(desk.memory)
        again = Desk(memory=desk.memory)
        self.run_source(sse(remote), again)
        assert (await remote.visit()).headers["last-event-id"] == "a"

    async def test_is_of_this_url(self) -> None:
        remote, desk = self.remote(), Desk()
        visit = await self.connected(remote, desk)
        visit.chunk(block(1, id="a"))
        await self.publishes(desk, 1)
        again = Desk(memory=desk.memory)
        self.run_source(SSE.make(Options(f"{remote.url}other")), again)
        assert "last-event-id" not in (await remote.visit()).headers

    async def test_is_not_used_if_it_is_not_to(self) -> None:
        remote, desk = self.remote(), Desk()
        visit = await self.connected(remote, desk)
        visit.chunk(block(1, id="a"))
        await self.publishes(desk, 1)
        again = Desk(memory=desk.memory)
        self.run_source(sse(remote, resume=False), again)
        visit = await remote.visit()
        assert "last-event-id" not in visit.headers
        self.begin(visit)
        visit.chunk(block(2, id="b"))
        await self.publishes(again, 2)
        visit.chunk(b"")
        assert await again.happens() == ("sleeps", 3.0)
        again.wake()
        assert (await remote.visit()).headers["last-event-id"] == "b"

    async def test_of_something_else_is_left_alone(self) -> None:
        remote = self.remote()
        memories: list[object] = [5, "a", [], {"id": "a"}, {"url": "", "id": 5}]
        for memory in memories:
            self.run_source(sse(remote), Desk(memory=memory))
            assert "last-event-id" not in (await remote.visit()).headers

    async def test_is_written_each_second_at_most_and_at_the_end(self) -> None:
        remote, desk = self.remote(), Desk()
        desk.reactor.clock.advance(100)
        running = self.run_source(sse(remote), desk)
        visit = await remote.visit()
        self.begin(visit)
        for number in range(50):
            visit.chunk(block(number, id=str(number)))
        await self.publishes(desk, *range(50))
        assert [kept["id"] for kept in desk.kept] == ["0"]  # type: ignore[index]
        desk.reactor.clock.advance(1)
        visit.chunk(block(50, id="50") + block(51, id="51"))
        await self.publishes(desk, 50, 51)
        running.cancel()
        assert [kept["id"] for kept in desk.kept] == ["0", "50", "51"]  # type: ignore[index]

    async def test_is_not_of_an_event_that_was_not_published(self) -> None:
        remote, desk = self.remote(), Desk()
        running = self.run_source(sse(remote), desk)
        visit = await remote.visit()
        self.begin(visit)
        visit.chunk(block(1, id="a"))
        await self.publishes(desk, 1)
        desk.refusal = Unavailable("the disk is full")
        visit.chunk(block(2, id="b"))
        error = await failure_of(running)
        assert isinstance(error, SourceFailed)
        assert str(error) == "nothing can be published: the disk is full"
        desk.refusal = None
        self.run_source(sse(remote), desk)
        assert (await remote.visit()).headers["last-event-id"] == "a"


def test_options_do_not_show_their_headers() -> None:
    assert "s3cret" not in repr(Options("http://a", headers={"Authorization": "s3cret"}))


def test_options_that_make_no_sense_are_told() -> None:
    with pytest.raises(ValueError, match=r"^url: "):
        SSE.make(Options("example.org"))
