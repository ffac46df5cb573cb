from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from pushserver.errors import InvalidData, Unavailable
from pushserver.sources.interface import SourceFailed
from pushserver.sources.types.json_pointer import NotThere, Pointer
from pushserver.sources.types.json_poll import POLL, Options, _normalized, digest
from tests.unit.fakes.remote import FakeFeed, Remote, RemoteCase, failure_of

RATES = {"base": "USD", "rates": {"EUR": 0.92, "CHF": 0.88}, "a/b": [1, {"~": None}]}


def poll(remote: Remote, **options: Any) -> Any:
    return POLL.make(Options(f"{remote.url}rates?key=s3cret", **options))


class TestPoll(RemoteCase):
    async def answer_with(
        self, feed: FakeFeed, remote: Remote, value: object, **headers: str
    ) -> object:
        """Answer the next request; return the published value or None."""
        (await remote.visit()).json(value, **headers)
        return await self.result(feed)

    async def result(self, feed: FakeFeed, seconds: float = 60.0) -> object:
        published = None
        kind, value = await feed.happens()
        if kind == "publishes":
            published = value
            kind, value = await feed.happens()
        assert (kind, value) == ("sleeps", seconds)
        return published

    async def trouble(self, feed: FakeFeed, seconds: float = 60.0) -> str:
        kind, message = await feed.happens()
        assert kind == "trouble"
        assert await feed.happens() == ("sleeps", seconds)
        assert isinstance(message, str)
        return message

    async def test_document_is_published_when_it_changes(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        self.run_source(poll(remote), feed)
        assert await self.answer_with(feed, remote, RATES) == RATES
        feed.wake()
        assert await self.answer_with(feed, remote, RATES) is None
        feed.wake()
        assert await self.answer_with(feed, remote, {**RATES, "base": "EUR"}) is not None
        assert len(feed.published) == 2
        assert feed.oks == 3
        assert feed.troubles == []

    async def test_value_at_the_path_is_published_when_it_changes(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        self.run_source(poll(remote, path="/rates/EUR", every=5), feed)
        for rates, published in (
            ({"EUR": 0.92, "at": 1}, 0.92),
            ({"EUR": 0.92, "at": 2}, None),
            ({"EUR": 1, "at": 3}, 1),
            ({"EUR": 1.0, "at": 4}, None),
        ):
            (await remote.visit()).json({"rates": rates})
            assert await self.result(feed, 5) == published
            feed.wake()

    async def test_option_always_publishes_each_response(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        self.run_source(poll(remote, publish="always"), feed)
        for _ in range(2):
            visit = await remote.visit()
            assert "if-none-match" not in visit.headers
            visit.json(RATES, etag='"x"')
            assert await self.result(feed) == RATES
            feed.wake()

    async def test_requests_are_conditional(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        self.run_source(poll(remote), feed)
        assert await self.answer_with(feed, remote, 1, etag='W/"x"', last_modified="today") == 1
        feed.wake()
        visit = await remote.visit()
        assert visit.headers["if-none-match"] == 'W/"x"'
        assert visit.headers["if-modified-since"] == "today"
        visit.begin(304)
        visit.close()
        assert await self.result(feed) is None
        assert feed.oks == 2
        feed.wake()
        visit = await remote.visit()
        assert visit.headers["if-none-match"] == 'W/"x"'
        visit.json(2)
        assert await self.result(feed) == 2
        feed.wake()
        assert "if-none-match" not in (await remote.visit()).headers

    async def test_unusable_document_sets_no_validators(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        self.run_source(poll(remote, path="/x"), feed)
        for _ in range(2):
            visit = await remote.visit()
            assert "if-none-match" not in visit.headers
            visit.json({}, etag='"x"')
            assert "has nothing at /x" in await self.trouble(feed)
            feed.wake()

    async def test_last_value_is_remembered_across_a_restart(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        self.run_source(poll(remote), feed)
        assert await self.answer_with(feed, remote, RATES) == RATES
        again = FakeFeed(memory=feed.memory)
        self.run_source(poll(remote), again)
        assert await self.answer_with(again, remote, RATES) is None
        again.wake()
        assert await self.answer_with(again, remote, 5) == 5

    async def test_another_path_forgets_the_last_value(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        self.run_source(poll(remote, path="/a"), feed)
        assert await self.answer_with(feed, remote, {"a": 1, "b": 1}) == 1
        again = FakeFeed(memory=feed.memory)
        self.run_source(poll(remote, path="/b"), again)
        assert await self.answer_with(again, remote, {"a": 1, "b": 1}) == 1

    async def test_next_run_keeps_the_interval(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        source = poll(remote)
        running = self.run_source(source, feed)
        assert await self.answer_with(feed, remote, 1) == 1
        running.cancel()
        feed.reactor.clock.advance(20)
        self.run_source(source, feed)
        assert await feed.happens() == ("sleeps", 40)

    async def test_unusable_response_is_a_warning_and_polling_continues(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        self.run_source(poll(remote, path="/a"), feed)
        for body, problem in (
            (b"<html>", "answered with invalid JSON: "),
            (b"", "answered with invalid JSON: "),
            (b'{"a": \xff}', "answered with invalid JSON: "),
            (b"[" * 100_000, "answered with invalid JSON: "),
            (b'{"a": NaN}', "answered with invalid JSON: "),
            (b"[1]", f"path: the answer of {remote.host} has nothing at /a"),
        ):
            (await remote.visit()).answer(body)
            warning = await self.trouble(feed)
            assert problem in warning
            assert "s3cret" not in warning
            feed.wake()
        (await remote.visit()).answer(b"", 500)
        assert await self.trouble(feed) == f"{remote.host} answered 500 Internal Server Error"
        assert feed.oks == 0
        feed.wake()
        (await remote.visit()).answer(b'\xef\xbb\xbf{"a": 1}')
        assert await self.result(feed) == 1
        assert feed.oks == 1

    async def test_invalid_characters_are_replaced(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        self.run_source(poll(remote, path="/a"), feed)
        for body, value in (
            (b'{"a": "cut emoji \\ud83d"}', "cut emoji \ufffd"),
            (b'{"a": ["\\ude00\\ud83d"]}', ["\ufffd\ufffd"]),
            (b'{"a": "\xff", "b": "\\ud83d"}', "\ufffd"),
        ):
            (await remote.visit()).answer(body)
            assert await self.result(feed) == value
            feed.wake()

    async def test_retry_after_of_a_busy_server_is_honoured(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        self.run_source(poll(remote), feed)
        (await remote.visit()).answer(b"", 429, retry_after="100")
        assert "429" in await self.trouble(feed, 100)
        feed.wake()
        (await remote.visit()).answer(b"", 503, retry_after="10")
        assert "503" in await self.trouble(feed, 60)

    async def test_source_fails_without_a_response_and_the_next_run_polls_at_once(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        source = poll(remote)
        running = self.run_source(source, feed)
        (await remote.visit()).cut()
        assert isinstance(await failure_of(running), SourceFailed)
        self.run_source(source, feed)
        assert await self.answer_with(feed, remote, 1) == 1

    async def test_source_fails_with_source_failed_while_publishing_is_unavailable(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        feed.refusal = Unavailable("the disk is full")
        source = poll(remote)
        running = self.run_source(source, feed)
        (await remote.visit()).json(1)
        error = await failure_of(running)
        assert isinstance(error, SourceFailed)
        assert str(error) == "nothing can be published: the disk is full"
        feed.refusal = None
        self.run_source(source, feed)
        assert await self.answer_with(feed, remote, 1) == 1

    async def test_value_that_cannot_be_published_is_a_warning(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        self.run_source(poll(remote), feed)
        feed.refusal = InvalidData("nested deeper than 100")
        (await remote.visit()).json(1)
        assert "cannot be published: nested deeper than 100" in await self.trouble(feed)
        feed.wake()
        # msgspec accepts deeper nesting than json.
        (await remote.visit()).answer(b"[" * 900 + b"]" * 900)
        await self.trouble(feed)

    async def test_no_request_is_sent_while_a_publication_waits(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        feed.gate = Deferred()
        self.run_source(poll(remote), feed)
        visit = await remote.visit()
        visit.json(1)
        assert await feed.happens() == ("waits", 1)
        await visit.gone
        # The wait does not count for the timeout of the response.
        feed.reactor.clock.advance(1_000)
        feed.gate.callback(None)
        assert await feed.happens() == ("publishes", 1)

    async def test_headers_are_sent(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        self.run_source(poll(remote, headers={"Authorization": "Bearer x"}), feed)
        assert (await remote.visit()).headers["authorization"] == "Bearer x"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"url": "ftp://a"}, r"^url: 'ftp://a', expected a URL in ASCII"),
        ({"url": "http://a", "path": "a"}, r"^path: 'a', expected a path that begins with a slash"),
        ({"url": "http://a", "path": "/~2"}, r"^path: '/~2', expected ~ only as"),
        ({"url": "http://a", "headers": {"a b": "c"}}, r"^headers: 'a\.\.\.' cannot be sent"),
    ],
)
def test_invalid_options_raise_value_error(options: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        POLL.make(Options(**options))


def test_repr_of_options_has_no_headers() -> None:
    assert "s3cret" not in repr(Options("http://a", headers={"Authorization": "s3cret"}))


# The examples of RFC 6901, 5.
EXAMPLE: dict[str, Any] = {
    "foo": ["bar", "baz"],
    "": 0,
    "a/b": 1,
    "c%d": 2,
    "e^f": 3,
    "g|h": 4,
    "i\\j": 5,
    'k"l': 6,
    " ": 7,
    "m~n": 8,
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", EXAMPLE),
        ("/foo", ["bar", "baz"]),
        ("/foo/0", "bar"),
        ("/", 0),
        ("/a~1b", 1),
        ("/c%d", 2),
        ("/e^f", 3),
        ("/g|h", 4),
        ("/i\\j", 5),
        ('/k"l', 6),
        ("/ ", 7),
        ("/m~0n", 8),
    ],
)
def test_pointer_has_the_values_of_rfc_6901(text: str, value: object) -> None:
    assert Pointer(text).get(EXAMPLE) == value


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("/foo/2", "/foo/2"),
        ("/foo/-", "/foo/-"),
        ("/foo/01", "/foo/01"),
        ("/foo/-1", "/foo/-1"),
        ("/foo/٠", "/foo/٠"),
        ("/foo/" + "9" * 5_000, "/foo/" + "9" * 5_000),
        ("/foo/x/y", "/foo/x"),
        ("/a~1b/c/d", "/a~1b/c"),
        ("/none", "/none"),
    ],
)
def test_missing_value_raises_not_there_with_the_missing_part(text: str, missing: str) -> None:
    with pytest.raises(NotThere) as caught:
        Pointer(text).get(EXAMPLE)
    assert str(caught.value) == missing


def test_escaped_tilde_does_not_start_an_escape() -> None:
    assert Pointer("/~01").get({"~1": 5}) == 5


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(VALUES)
def test_pointer_reaches_every_part_of_a_document(value: Any) -> None:
    def walk(inner: Any, text: str) -> None:
        assert Pointer(text).get(value) == inner
        parts = enumerate(inner) if isinstance(inner, list) else ()
        for key, part in inner.items() if isinstance(inner, dict) else parts:
            walk(part, f"{text}/{str(key).replace('~', '~0').replace('/', '~1')}")

    walk(value, "")


@given(VALUES, st.text())
def test_any_pointer_returns_a_value_or_raises_value_error_or_not_there(
    value: object, text: str
) -> None:
    with contextlib.suppress(ValueError, NotThere):
        Pointer(text).get(value)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        (1, 1.0, True),
        ([1e2], [100], True),
        (0.0, -0.0, True),
        (10**22, 1e22, True),
        (int(1e308), 1e308, True),
        (-int(1e308), -1e308, True),
        (2**64 + 1, 2.0**64, False),
        (2**53 + 1, 2.0**53, False),
        ([1, 2], [2, 1], False),
        (1, True, False),
        (0, False, False),
        (0, None, False),
        ("1", 1, False),
        ({}, [], False),
        ("a", "A", False),
    ],
)
def test_equal_json_values_have_equal_digests(one: object, other: object, same: bool) -> None:
    assert (digest(one) == digest(other)) is same


def test_long_floats_are_not_written_out_for_the_digest() -> None:
    # 1e308 has 309 digits, so a megabyte of it would become 54 MB.
    assert len(json.dumps(_normalized([1e308, -1.5e300, 1e25]))) < 40


@given(VALUES)
def test_digest_does_not_depend_on_the_notation(value: object) -> None:
    assert digest(json.loads(json.dumps(value, indent=2))) == digest(value)
