from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from pushserver.errors import Unavailable
from pushserver.sources.engine.retry import RETRY_SECONDS
from pushserver.sources.types.lines import LINES_PER_TURN, Line, LineFormat, Lines, Splitter
from tests.unit.fakes.recorder import Recorder
from tests.unit.fakes.tools import drive


def split(*parts: bytes, max_bytes: int = 10) -> list[Line]:
    """Return the lines of the parts, and the unfinished line."""
    splitter = Splitter(max_bytes)
    lines = [line for part in parts for line in splitter.feed(part)]
    rest = splitter.rest()
    return lines if rest is None else [*lines, rest]


class TestSplitter:
    def test_nuls_before_a_line_are_skipped_on_demand(self) -> None:
        splitter = Splitter(4, skips_nuls=True)
        parts = (b"\0\0", b"\0abcd", b"\n\0\0\na\0b\n\0\0abcde\n\0")
        lines = [line for part in parts for line in splitter.feed(part)]
        assert lines == [
            Line(b"abcd", 8),
            Line(b"", 3),
            Line(b"a\0b", 4),
            Line(b"abcd", 8, cut=True),
        ]
        assert splitter.pending == 1
        assert splitter.rest() is None

    @pytest.mark.parametrize(
        ("parts", "lines"),
        [
            ([b""], []),
            ([b"a\nb\n"], [Line(b"a", 2), Line(b"b", 2)]),
            ([b"a", b"b", b"\n"], [Line(b"ab", 3)]),
            ([b"a\r\n", b"b\r", b"\nc\rd\n"], [Line(b"a", 3), Line(b"b", 3), Line(b"c\rd", 4)]),
            ([b"\n\r\n\n"], [Line(b"", 1), Line(b"", 2), Line(b"", 1)]),
            ([b"a\nb"], [Line(b"a", 2), Line(b"b", 1)]),
            ([b"a\r"], [Line(b"a\r", 2)]),
            ([b"\0\xff\n"], [Line(b"\0\xff", 3)]),
        ],
    )
    def test_lines_end_at_newlines(self, parts: list[bytes], lines: list[Line]) -> None:
        assert split(*parts) == lines

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            (b"0123456789\n", Line(b"0123456789", 11)),
            (b"0123456789\r\n", Line(b"0123456789", 12)),
            (b"0123456789a\n", Line(b"0123456789", 12, cut=True)),
            (b"0123456789a\r\n", Line(b"0123456789", 13, cut=True)),
            (b"0123456789\ra\n", Line(b"0123456789", 13, cut=True)),
            (b"x" * 1_000, Line(b"x" * 10, 1_000, cut=True)),
            (b"x" * 11, Line(b"x" * 10, 11, cut=True)),
        ],
    )
    def test_long_line_is_cut(self, text: bytes, line: Line) -> None:
        assert split(text) == [line]
        assert split(*(text[n : n + 1] for n in range(len(text)))) == [line]

    def test_memory_of_a_line_is_bounded(self) -> None:
        splitter = Splitter(10)
        for _ in range(1_000):
            assert list(splitter.feed(b"x" * 1_000)) == []
        assert splitter.pending == 1_000_000
        assert len(splitter._kept) == 11

    @given(st.lists(st.text("ab\r\n", max_size=8).map(str.encode), max_size=8))
    def test_lines_do_not_depend_on_the_parts(self, parts: list[bytes]) -> None:
        whole = b"".join(parts)
        lines = split(*parts, max_bytes=100)
        assert lines == split(whole, max_bytes=100)
        assert sum(line.size for line in lines) == len(whole)
        expected = [text.removesuffix(b"\r") for text in whole.split(b"\n")[:-1]]
        assert [line.text for line in lines][: len(expected)] == expected


def published(
    line: Line, line_format: LineFormat = "text", tags: dict[str, str] | None = None
) -> Recorder:
    """Publish a line; return the feed."""
    feed = Recorder()
    drive(Lines(feed, line_format, 10).publish(line, tags))
    return feed


class TestText:
    @pytest.mark.parametrize(
        ("text", "data"),
        [
            (b"", ""),
            ("grün".encode(), "grün"),
            (b"a\xff\xfeb", "a��b"),
            (b"a\xc3", "a�"),
            (b"a\0b\x1b[1m", "a\0b\x1b[1m"),
            (b"\xed\xa0\x80", "���"),
            (b"\xef\xbb\xbffirst", "first"),
            (b"\xef\xbb\xbf", ""),
        ],
    )
    def test_any_bytes_are_published_as_a_string(self, text: bytes, data: str) -> None:
        feed = published(Line(text, 0))
        assert (feed.published, feed.tags, feed.troubles) == ([data], [None], [])

    def test_cut_line_has_a_tag_and_a_warning(self) -> None:
        feed = published(Line("abcdefghü".encode()[:9], 99, cut=True), tags={"stream": "stderr"})
        assert feed.published == ["abcdefgh"]
        assert feed.tags == [{"stream": "stderr", "cut": "true"}]
        assert feed.troubles == ["a line is longer than max_line_bytes (10): cut"]


class TestJson:
    @pytest.mark.parametrize(
        ("text", "data"),
        [
            (b'{"a": [1, 2.5, null]}', {"a": [1, 2.5, None]}),
            (b' "gr\\u00fcn" ', "grün"),
            (b"12345678901234567890123", 12345678901234567890123),
            (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
            (b'"\\ud83d"', "\ufffd"),
            (b'{"a": "\\ude00\xff"}', {"a": "\ufffd\ufffd"}),
        ],
    )
    def test_json_line_is_published_as_its_value(self, text: bytes, data: Any) -> None:
        assert published(Line(text, 0), "json").published == [data]

    @pytest.mark.parametrize(
        "text", [b"no", b'{"a":1', b"NaN", b'{"a":1,"a":2}', b"\xff", b"1 2", b"[" * 200]
    )
    def test_invalid_json_is_skipped_with_a_warning(self, text: bytes) -> None:
        feed = published(Line(text, 0), "json")
        assert feed.published == []
        assert feed.troubles == ['a line is not JSON (format = "json"): skipped']

    def test_cut_json_is_skipped_with_a_warning(self) -> None:
        feed = published(Line(b"1", 99, cut=True), "json")
        assert (feed.published, feed.troubles) == (
            [],
            ["a line is longer than max_line_bytes (10): skipped"],
        )

    @pytest.mark.parametrize("text", [b"", b"  \t"])
    def test_empty_line_is_skipped(self, text: bytes) -> None:
        feed = published(Line(text, 0), "json")
        assert (feed.published, feed.troubles) == ([], [])


def test_skipped_lines_are_not_all_handled_in_one_turn() -> None:
    feed = Recorder()
    lines = Lines(feed, "json", 10)

    async def publish_all() -> None:
        for _ in range(2 * LINES_PER_TURN - 1):
            await lines.publish(Line(b"no", 3))

    done = Deferred.fromCoroutine(publish_all())
    assert (len(feed.troubles), done.called) == (LINES_PER_TURN - 1, False)
    feed.reactor.advance(0)
    assert (len(feed.troubles), done.called) == (2 * LINES_PER_TURN - 1, True)


def test_line_waits_while_publishing_is_unavailable() -> None:
    feed = Recorder()
    feed.fails = [Unavailable("the store failed: the disk is full")] * 2
    done = Deferred.fromCoroutine(Lines(feed, "text", 10).publish(Line(b"a", 2)))
    feed.reactor.advance(RETRY_SECONDS)
    assert (feed.published, len(feed.troubles)) == ([], 2)
    feed.reactor.advance(RETRY_SECONDS)
    assert (feed.published, done.called) == (["a"], True)
