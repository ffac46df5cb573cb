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
from pushserver.sources.types.json_poll import POLL, Options, digest
from tests.unit.fakes.remote import Desk, Remote, RemoteCase, failure_of

RATES = {"base": "USD", "rates": {"EUR": 0.92, "CHF": 0.88}, "a/b": [1, {"~": None}]}


def poll(remote: Remote, **options: Any) -> Any:
    return POLL.make(Options(f"{remote.url}rates?key=s3cret", **options))


class TestPoll(RemoteCase):
    async def look(self, desk: Desk, remote: Remote, value: object, **headers: str) -> object:
        """Answer the next request; what is published of that, or None, then the next is due."""
        (await remote.visit()).json(value, **headers)
        return await self.seen(desk)

    async def seen(self, desk: Desk, seconds: float = 60.0) -> object:
        found = None
        what, value = await desk.happens()
        if what == "publishes":
            found = value
            what, value = await desk.happens()
        assert (what, value) == ("sleeps", seconds)
        return found

    async def trouble(self, desk: Desk, seconds: float = 60.0) -> str:
        what, message = await desk.happens()
        assert what == "trouble"
        assert await desk.happens() == ("sleeps", seconds)
        assert isinstance(message, str)
        return message

    async def test_publishes_the_document_and_then_what_has_changed(self) -> None:
        remote, desk = self.remote(), Desk()
        self.run_source(poll(remote), desk)
        assert await self.look(desk, remote, RATES) == RATES
        desk.wake()
        assert await self.look(desk, remote, RATES) is None
        desk.wake()
        assert await self.look(desk, remote, {**RATES, "base": "EUR"}) is not None
        assert len(desk.published) == 2
        assert desk.oks == 3
        assert desk.troubles == []

    async def test_publishes_the_value_at_its_path_only_when_that_has_changed(self) -> None:
        remote, desk = self.remote(), Desk()
        self.run_source(poll(remote, path="/rates/EUR", every=5), desk)
        for rates, published in (
            ({"EUR": 0.92, "at": 1}, 0.92),
            ({"EUR": 0.92, "at": 2}, None),
            ({"EUR": 1, "at": 3}, 1),
            ({"EUR": 1.0, "at": 4}, None),
        ):
            (await remote.visit()).json({"rates": rates})
            assert await self.seen(desk, 5) == published
            desk.wake()

    async def test_publishes_always_if_it_is_to(self) -> None:
        remote, desk = self.remote(), Desk()
        self.run_source(poll(remote, publish="always"), desk)
        for _ in range(2):
            visit = await remote.visit()
            assert "if-none-match" not in visit.headers
            visit.json(RATES, etag='"x"')
            assert await self.seen(desk) == RATES
            desk.wake()

    async def test_asks_only_for_what_was_modified(self) -> None:
        remote, desk = self.remote(), Desk()
        self.run_source(poll(remote), desk)
        assert await self.look(desk, remote, 1, etag='W/"x"', last_modified="today") == 1
        desk.wake()
        visit = await remote.visit()
        assert visit.headers["if-none-match"] == 'W/"x"'
        assert visit.headers["if-modified-since"] == "today"
        visit.begin(304)
        visit.close()
        assert await self.seen(desk) is None
        assert desk.oks == 2
        desk.wake()
        visit = await remote.visit()
        assert visit.headers["if-none-match"] == 'W/"x"'
        visit.json(2)
        assert await self.seen(desk) == 2
        desk.wake()
        assert "if-none-match" not in (await remote.visit()).headers

    async def test_asks_for_all_as_long_as_it_could_not_use_it(self) -> None:
        remote, desk = self.remote(), Desk()
        self.run_source(poll(remote, path="/x"), desk)
        for _ in range(2):
            visit = await remote.visit()
            assert "if-none-match" not in visit.headers
            visit.json({}, etag='"x"')
            assert "has nothing at /x" in await self.trouble(desk)
            desk.wake()

    async def test_remembers_across_a_restart_what_it_published_last(self) -> None:
        remote, desk = self.remote(), Desk()
        self.run_source(poll(remote), desk)
        assert await self.look(desk, remote, RATES) == RATES
        again = Desk(memory=desk.memory)
        self.run_source(poll(remote), again)
        assert await self.look(again, remote, RATES) is None
        again.wake()
        assert await self.look(again, remote, 5) == 5

    async def test_forgets_that_when_it_is_to_look_elsewhere(self) -> None:
        remote, desk = self.remote(), Desk()
        self.run_source(poll(remote, path="/a"), desk)
        assert await self.look(desk, remote, {"a": 1, "b": 1}) == 1
        again = Desk(memory=desk.memory)
        self.run_source(poll(remote, path="/b"), again)
        assert await self.look(again, remote, {"a": 1, "b": 1}) == 1

    async def test_that_is_run_again_waits_until_it_is_time(self) -> None:
        remote, desk = self.remote(), Desk()
        source = poll(remote)
        running = self.run_source(source, desk)
        assert await self.look(desk, remote, 1) == 1
        running.cancel()
        desk.reactor.clock.advance(20)
        self.run_source(source, desk)
        assert await desk.happens() == ("sleeps", 40)

    async def test_tells_what_it_cannot_use_and_looks_again_when_it_is_time(self) -> None:
        remote, desk = self.remote(), Desk()
        self.run_source(poll(remote, path="/a"), desk)
        for body, problem in (
            (b"<html>", "answered with invalid JSON: "),
            (b"", "answered with invalid JSON: "),
            (b'{"a": "\xff"}', "answered with invalid JSON: "),
            (b"[" * 100_000, "answered with invalid JSON: "),
            (b'{"a": NaN}', "answered with invalid JSON: "),
            (b"[1]", f"path: the answer of {remote.host} has nothing at /a"),
        ):
            (await remote.visit()).answer(body)
            told = await self.trouble(desk)
            assert problem in told
            assert "s3cret" not in told
            desk.wake()
        (await remote.visit()).answer(b"", 500)
        assert await self.trouble(desk) == f"{remote.host} answered 500 Internal Server Error"
        assert desk.oks == 0
        desk.wake()
        (await remote.visit()).answer(b'\xef\xbb\xbf{"a": 1}')
        assert await self.seen(desk) == 1
        assert desk.oks == 1

    async def test_leaves_a_busy_server_alone_for_as_long_as_that_wants(self) -> None:
        remote, desk = self.remote(), Desk()
        self.run_source(poll(remote), desk)
        (await remote.visit()).answer(b"", 429, retry_after="100")
        assert "429" in await self.trouble(desk, 100)
        desk.wake()
        (await remote.visit()).answer(b"", 503, retry_after="10")
        assert "503" in await self.trouble(desk, 60)

    async def test_fails_where_there_is_no_answer_and_looks_at_once_when_run_again(self) -> None:
        remote, desk = self.remote(), Desk()
        source = poll(remote)
        running = self.run_source(source, desk)
        (await remote.visit()).cut()
        assert isinstance(await failure_of(running), SourceFailed)
        self.run_source(source, desk)
        assert await self.look(desk, remote, 1) == 1

    async def test_fails_in_one_line_where_nothing_can_be_published(self) -> None:
        remote, desk = self.remote(), Desk()
        desk.refusal = Unavailable("the disk is full")
        source = poll(remote)
        running = self.run_source(source, desk)
        (await remote.visit()).json(1)
        error = await failure_of(running)
        assert isinstance(error, SourceFailed)
        assert str(error) == "nothing can be published: the disk is full"
        desk.refusal = None
        self.run_source(source, desk)
        assert await self.look(desk, remote, 1) == 1

    async def test_tells_what_json_cannot_hold(self) -> None:
        remote, desk = self.remote(), Desk()
        self.run_source(poll(remote), desk)
        desk.refusal = InvalidData("nested deeper than 100")
        (await remote.visit()).json(1)
        assert "cannot be published: nested deeper than 100" in await self.trouble(desk)
        desk.wake()
        # As deep as msgspec goes is deeper than json does.
        (await remote.visit()).answer(b"[" * 900 + b"]" * 900)
        await self.trouble(desk)

    async def test_does_not_look_while_a_publication_waits(self) -> None:
        remote, desk = self.remote(), Desk()
        desk.gate = Deferred()
        self.run_source(poll(remote), desk)
        visit = await remote.visit()
        visit.json(1)
        assert await desk.happens() == ("waits", 1)
        await visit.gone
        # However long it waits, it is not the server's answer that is late.
        desk.reactor.clock.advance(1_000)
        desk.gate.callback(None)
        assert await desk.happens() == ("publishes", 1)

    async def test_sends_its_headers(self) -> None:
        remote, desk = self.remote(), Desk()
        self.run_source(poll(remote, headers={"Authorization": "Bearer x"}), desk)
        assert (await remote.visit()).headers["authorization"] == "Bearer x"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"url": "ftp://a"}, r"^url: 'ftp://a', expected such as"),
        ({"url": "http://a", "path": "a"}, r"^path: 'a', expected a path that begins with a slash"),
        ({"url": "http://a", "path": "/~2"}, r"^path: '/~2', expected ~ only as"),
        ({"url": "http://a", "headers": {"a b": "c"}}, r"^headers: 'a b' cannot be sent"),
    ],
)
def test_options_that_make_no_sense_are_told(options: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        POLL.make(Options(**options))


def test_options_do_not_show_their_headers() -> None:
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
def test_a_pointer_leads_where_the_standard_says(text: str, value: object) -> None:
    assert Pointer(text).get(EXAMPLE) == value


@pytest.mark.parametrize(
    ("text", "there"),
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
def test_a_pointer_to_nothing_says_from_where_on(text: str, there: str) -> None:
    with pytest.raises(NotThere) as caught:
        Pointer(text).get(EXAMPLE)
    assert str(caught.value) == there


def test_an_escaped_tilde_is_no_escape() -> None:
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
def test_a_pointer_leads_to_every_part_of_a_document(value: Any) -> None:
    def walk(inner: Any, text: str) -> None:
        assert Pointer(text).get(value) == inner
        parts = enumerate(inner) if isinstance(inner, list) else ()
        for key, part in inner.items() if isinstance(inner, dict) else parts:
            walk(part, f"{text}/{str(key).replace('~', '~0').replace('/', '~1')}")

    walk(value, "")


@given(VALUES, st.text())
def test_a_pointer_finds_something_or_says_that_it_does_not(value: object, text: str) -> None:
    with contextlib.suppress(ValueError, NotThere):
        Pointer(text).get(value)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        (1, 1.0, True),
        ([1e2], [100], True),
        (0.0, -0.0, True),
        ([1, 2], [2, 1], False),
        (1, True, False),
        (0, False, False),
        (0, None, False),
        ("1", 1, False),
        ({}, [], False),
        ("a", "A", False),
    ],
)
def test_two_values_are_the_same_as_json_has_it(one: object, other: object, same: bool) -> None:
    assert (digest(one) == digest(other)) is same


@given(VALUES)
def test_a_value_is_the_same_however_it_is_written(value: object) -> None:
    assert digest(json.loads(json.dumps(value, indent=2))) == digest(value)
