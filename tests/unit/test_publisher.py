from __future__ import annotations

import asyncio
import itertools
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from pushserver import PublishError, apublish, publish
from pushserver.opener import _local, _opener
from tests.unit.fakes.listener import Answer, Listener, refused

POSITION = {"offset": 1, "epoch": "e", "id": "e:1"}


class Pauses(list[float]):
    """The pauses between attempts, without waiting, on a clock of their own."""

    def sleep(self, seconds: float) -> None:
        self.append(seconds)


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture
def other() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> Pauses:
    pauses = Pauses()
    clock = SimpleNamespace(sleep=pauses.sleep, monotonic=lambda: sum(pauses))
    monkeypatch.setattr("pushserver.publisher.time", clock)
    return pauses


def taken() -> tuple[int, bytes]:
    return 201, json.dumps(POSITION).encode()


CUT: tuple[int, bytes] = (0, b"")


def test_a_publication_is_one_post_to_the_channels_url(listener: Listener) -> None:
    listener.answers = [taken()]
    assert publish(listener.url, "numbers", {"number": 3, "ü": [None]}) == POSITION
    [request] = listener.requests
    assert request["path"] == "/channels/numbers?event=message"
    assert json.loads(request["body"]) == {"number": 3, "ü": [None]}
    assert request["headers"]["Content-Type"] == "application/json"
    assert len(request["headers"]["Idempotency-Key"]) == 32
    assert "X-API-Key" not in request["headers"]


def test_the_event_the_key_and_a_path_of_the_server_are_sent(listener: Listener) -> None:
    listener.answers = [taken()]
    publish(f"{listener.url}/live/", "chat:a b", 1, event="grün & neu", api_key="s3cret")
    [request] = listener.requests
    assert request["path"] == "/live/channels/chat%3Aa%20b?event=gr%C3%BCn+%26+neu"
    assert request["headers"]["X-API-Key"] == "s3cret"


def sent_key(listener: Listener) -> str:
    """The key of the only request, whose bytes the server reads as UTF-8."""
    [request] = listener.requests
    text: str = request["headers"]["X-API-Key"]
    return text.encode("latin-1").decode()


@pytest.mark.parametrize("key", ["schlüssel-größe", "ключ", "鍵", "a key"])
def test_a_key_of_other_characters_is_sent_in_utf_8(listener: Listener, key: str) -> None:
    listener.answers = [taken()]
    publish(listener.url, "a", 1, api_key=key)
    assert sent_key(listener) == key


def test_each_publication_has_its_own_key(listener: Listener) -> None:
    listener.answers = [taken(), taken()]
    publish(listener.url, "a", 1)
    publish(listener.url, "a", 1)
    assert len({request["headers"]["Idempotency-Key"] for request in listener.requests}) == 2


def test_key_is_an_idempotency_key(listener: Listener) -> None:
    listener.answers = [refused(503, "not now"), taken()]
    publish(listener.url, "a", 1, key="order 7", api_key="s3cret")
    for request in listener.requests:
        assert request["headers"]["Idempotency-Key"] == "order 7"
        assert request["headers"]["X-API-Key"] == "s3cret"


def test_tags_are_in_the_query(listener: Listener) -> None:
    listener.answers = [taken()]
    publish(listener.url, "a", 1, tags={"city": "Köln & Bonn"})
    [request] = listener.requests
    assert request["path"] == "/channels/a?event=message&tag.city=K%C3%B6ln+%26+Bonn"


class TestTheKeyOfBefore:
    """`key` was the API key: it still is where the server needs one, with a warning."""

    @pytest.mark.parametrize("status", [401, 403])
    def test_is_sent_as_the_api_key_after_a_refusal(self, listener: Listener, status: int) -> None:
        listener.answers = [refused(status, "the key is missing"), taken()]
        with pytest.warns(DeprecationWarning, match="api_key="):
            assert publish(listener.url, "a", 1, key="s3cret") == POSITION
        first, second = listener.requests
        assert first["headers"]["X-API-Key"] is None
        assert second["headers"]["X-API-Key"] == "s3cret"

    def test_that_is_wrong_too_is_refused(self, listener: Listener) -> None:
        listener.answers = [refused(401, "missing"), refused(401, "wrong")]
        with pytest.warns(DeprecationWarning, match="api_key="):
            self.is_refused(listener)
        assert len(listener.requests) == 2

    @staticmethod
    def is_refused(listener: Listener) -> None:
        with pytest.raises(PublishError, match="401: wrong"):
            publish(listener.url, "a", 1, key="s3cret")

    def test_is_not_tried_beside_an_api_key(self, listener: Listener) -> None:
        listener.answers = [refused(401, "wrong")]
        with pytest.raises(PublishError, match="401: wrong"):
            publish(listener.url, "a", 1, key="order 7", api_key="s3cret")
        assert len(listener.requests) == 1

    @pytest.mark.parametrize("key", ["a" * 129, "ü"])
    def test_that_cannot_be_an_idempotency_key_is_the_api_key(
        self, listener: Listener, key: str
    ) -> None:
        listener.answers = [taken()]
        with pytest.warns(DeprecationWarning, match="api_key="):
            publish(listener.url, "a", 1, key=key)
        assert sent_key(listener) == key
        with pytest.raises(PublishError, match="invalid idempotency key"):
            publish(listener.url, "a", 1, key=key, api_key="s3cret")


class TestInACoroutine:
    def test_of_asyncio_publishing_does_not_block(self, listener: Listener) -> None:
        listener.answers = [taken(), taken()]

        async def main() -> list[dict[str, object]]:
            calls = [apublish(listener.url, "a", 1), apublish(listener.url, "a", 2, event="e")]
            return list(await asyncio.gather(*calls))

        assert asyncio.run(main()) == [POSITION, POSITION]
        assert {r["path"].partition("?")[2] for r in listener.requests} == {
            "event=message",
            "event=e",
        }

    def test_a_refusal_is_raised(self, listener: Listener) -> None:
        listener.answers = [refused(400, "bad")]
        with pytest.raises(PublishError, match="400: bad"):
            asyncio.run(apublish(listener.url, "a", 1))


@pytest.mark.parametrize(
    "trouble",
    [CUT, refused(503, "the server is shutting down"), (502, b"<html>"), (503, b""), (504, b"[1]")],
)
def test_temporary_failures_are_tried_again_with_the_same_key(
    listener: Listener, pauses: Pauses, trouble: tuple[int, bytes]
) -> None:
    listener.answers = [trouble, trouble, trouble, taken()]
    assert publish(listener.url, "a", 1) == POSITION
    assert len({request["headers"]["Idempotency-Key"] for request in listener.requests}) == 1
    assert len(listener.requests) == 4
    assert pauses == [0.1, 0.2, 0.4]


def test_lasting_failures_are_raised(listener: Listener, pauses: Pauses) -> None:
    listener.answers = [refused(503, "the store failed: disk full")] * 5
    with pytest.raises(PublishError, match=r"^503: the store failed: disk full$"):
        publish(listener.url, "a", 1)
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.3])


def test_attempts_continue_for_the_time_that_was_asked_for(
    listener: Listener, pauses: Pauses
) -> None:
    listener.answers = [*[refused(503, "not now")] * 9, taken()]
    assert publish(listener.url, "a", 1, retry_seconds=60.0) == POSITION
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
    listener.answers = [refused(503, "not now")]
    with pytest.raises(PublishError, match="not now"):
        publish(listener.url, "a", 1, retry_seconds=0.0)


def test_an_unreachable_server_is_named_in_the_error(pauses: Pauses) -> None:
    with socket.socket() as taken_port:
        taken_port.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{taken_port.getsockname()[1]}"
        with pytest.raises(PublishError, match=rf"^{host}: .*refused; is it running\?$"):
            publish(f"http://{host}", "a", 1)
    assert sum(pauses) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("status", "answer", "message"),
    [
        (
            *refused(401, "the API key is not one of auth.api_keys and auth.keys"),
            "401: the API key is not one",
        ),
        (
            *refused(401, "an API key is needed (auth.api_keys or auth.keys): send X-API-Key"),
            "; no key was sent: expected --api-key-file or PUSHSERVER_KEY, or api_key= in Python",
        ),
        (*refused(400, "invalid channel name"), "400: invalid channel name"),
        (404, b"<html>", "404 Not Found (of http://127.0.0.1:"),
        (*refused(404, "nothing"), "/channels/a; give the URL of the server alone, as http://"),
        (*refused(405, "no"), "/channels/a: is this the URL of a pushserver?)"),
        (*refused(501, "no"), "/channels/a: is this the URL of a pushserver?)"),
        (500, b'{"error": 5}', "500 Internal Server Error"),
        (500, b"[]", "500 Internal Server Error"),
        (500, b"[" * 60_000, "500 Internal Server Error"),
        (500, b'{"error": {"message": "a\\u001b[2Jb"}}', "500: a\\x1b[2Jb"),
        (500, b'{"error": {"message": "' + b"x" * 5_000 + b'"}}', "x" * 300 + "..."),
    ],
)
def test_a_refusal_is_raised_at_once(
    listener: Listener, pauses: Pauses, status: int, answer: bytes, message: str
) -> None:
    listener.answers = [(status, answer)]
    with pytest.raises(PublishError) as caught:
        publish(listener.url, "a", 1)
    assert message in str(caught.value)
    assert pauses == []


@pytest.mark.parametrize("name", ["timeout", "retry_seconds"])
@pytest.mark.parametrize("seconds", ["5", None, True, -1, float("nan"), "x" * 1_000])
def test_a_time_that_is_no_number_of_seconds_is_refused(name: str, seconds: Any) -> None:
    with pytest.raises(PublishError, match=rf"^{name} is .*, expected a number of seconds from"):
        publish("http://127.0.0.1:1", "a", 1, **{name: seconds})


@pytest.mark.parametrize("seconds", [0, 1e12, float("inf")])
def test_a_timeout_that_no_socket_has_is_refused(seconds: float) -> None:
    with pytest.raises(PublishError, match=rf"^timeout is {re.escape(repr(seconds))}, expected"):
        publish("http://127.0.0.1:1", "a", 1, timeout=seconds)


class Loop:
    """A value that contains itself."""

    data: ClassVar[list[Any]] = []


Loop.data.append(Loop.data)


@pytest.mark.parametrize(
    "data", [float("nan"), float("inf"), {object()}, object(), Loop.data, b"x"]
)
def test_invalid_data_is_raised_before_a_request(data: object) -> None:
    with pytest.raises(PublishError, match="does not fit into JSON"):
        publish("http://127.0.0.1:1", "a", data)


@pytest.mark.parametrize("value", [5, None, b"a"])
def test_names_that_are_no_text_are_refused(value: Any) -> None:
    shown = re.escape(repr(value))
    with pytest.raises(PublishError, match=f"the channel is {shown}, expected a text"):
        publish("http://127.0.0.1:1", value, 1)
    with pytest.raises(PublishError, match=f"the event is {shown}, expected a text"):
        publish("http://127.0.0.1:1", "a", 1, event=value)


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (float("-inf"), "-inf"),
        ({"degrees": float("nan")}, "{'degrees': nan}"),
        ([float("inf")] * 1_000_000, "[inf, inf, inf, inf, inf, inf, ...]"),
        (Loop.data, "[[[[[[[...]]]]]]]"),
    ],
)
def test_the_error_shows_the_invalid_data(data: object, shown: str) -> None:
    with pytest.raises(PublishError, match=re.escape(f"the data {shown} does not fit into JSON: ")):
        publish("http://127.0.0.1:1", "a", data)


@pytest.mark.parametrize(
    ("data", "text"), [({1}, b"[1]"), ({"when": date(2026, 11, 20)}, b'{"when":"2026-11-20"}')]
)
def test_the_same_values_as_in_an_application_can_be_published(
    data: object, text: bytes, listener: Listener
) -> None:
    listener.answers = [taken()]
    publish(listener.url, "a", data)
    assert listener.requests[0]["body"] == text


class TestARedirect:
    """A redirect of a POST; a GET at its target would be answered 201 without a publication."""

    @pytest.mark.parametrize("key", [None, "s3cret"])
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_to_another_server_is_reported_and_not_followed(
        self, listener: Listener, other: Listener, pauses: Pauses, status: int, key: str | None
    ) -> None:
        target = f"{other.url}/channels/a?event=message"
        listener.answers = [Answer(status, b"moved", {"Location": target})]
        other.answers = [taken()]
        with pytest.raises(PublishError) as caught:
            publish(listener.url, "a", 1, api_key=key)
        host = listener.url.removeprefix("http://")
        assert str(caught.value) == (
            f"{host} answered {status}, a redirect to {target}, which is not followed:"
            f" give {other.url} as the URL of the server"
        )
        assert (len(listener.requests), other.requests, pauses) == (1, [], [])

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_within_the_server_is_not_followed(self, listener: Listener, status: int) -> None:
        listener.answers = [Answer(status, b"", {"Location": "/login"}), taken()]
        with pytest.raises(PublishError, match=f"{status}, a redirect to /login, which is not"):
            publish(listener.url, "a", 1)
        assert len(listener.requests) == 1

    def test_to_itself_is_requested_once(self, listener: Listener) -> None:
        listener.answers = [Answer(302, b"", {"Location": ""}), taken()]
        with pytest.raises(PublishError, match="302, a redirect without a Location"):
            publish(listener.url, "a", 1)
        assert len(listener.requests) == 1

    def test_keeps_the_path_of_the_server_in_the_message(self, listener: Listener) -> None:
        target = "https://example.org/live/channels/a?event=message"
        listener.answers = [Answer(308, b"", {"Location": target})]
        with pytest.raises(PublishError, match=r"give https://example\.org/live as the URL"):
            publish(f"{listener.url}/live/", "a", 1)

    @pytest.mark.parametrize(
        ("location", "shown"),
        [
            ("http://a/\x1b[2J\x07", r"http://a/\x1b[2J\x07"),
            ("http://[", "http://["),
            ("http://a:99999999/", "http://a:99999999/"),
            ("file:///etc/passwd", "file:///etc/passwd"),
            ("http://a/\x85\x9b1m", r"http://a/\x85\x9b1m"),
            ("http://a/" + "b" * 9_000, "http://a/" + "b" * 291 + "..."),
        ],
    )
    def test_anywhere_is_reported_in_one_printable_line(
        self, listener: Listener, location: str, shown: str
    ) -> None:
        listener.answers = [Answer(301, b"", {"Location": location})]
        with pytest.raises(PublishError) as caught:
            publish(listener.url, "a", 1)
        assert f"a redirect to {shown}, which" in str(caught.value)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 500

    @pytest.mark.parametrize("status", [300, 304, 305])
    def test_of_another_kind_is_a_refusal(self, listener: Listener, status: int) -> None:
        listener.answers = [Answer(status, b"", {"Location": listener.url}), taken()]
        with pytest.raises(PublishError, match=f"^{status} "):
            publish(listener.url, "a", 1)
        assert len(listener.requests) == 1


class TestSuccess:
    @pytest.mark.parametrize(
        ("status", "body", "message"),
        [
            (200, json.dumps(POSITION).encode(), "got 200 and no Content-Type: {"),
            (202, json.dumps(POSITION).encode(), "got 202"),
            (204, b"", "got 204 and no Content-Type: nothing"),
            (201, b"", "got 201 and no Content-Type: nothing"),
            (201, b"<html>\x1b[31m\n</html>", r"<html>\x1b[31m\n</html>"),
            (201, b"[1]", "[1]"),
            (201, b"{}", "{}"),
            (201, b"null", "null"),
            (201, b"[" * 60_000, "[[["),
            (201, b'{"offset": 1e999}', "1e999"),
            (201, b'{"offset": ' + b"1" * 9_000 + b"}", "111"),
            (201, b'{"offset": 1, "epoch": "e"}', "got 201"),
            (201, b'{"offset": "1", "epoch": "e", "id": "e:1"}', "got 201"),
            (201, b'{"offset": true, "epoch": "e", "id": "e:1"}', "got 201"),
            (201, b'{"offset": 1.0, "epoch": "e", "id": "e:1"}', "got 201"),
            (201, b'{"offset": 1, "epoch": 5, "id": "e:1"}', "got 201"),
            (201, b'{"offset": 1, "epoch": "e", "id": null}', "got 201"),
            (201, b"\xff\xfe\xfd", "got 201"),
        ],
    )
    def test_is_only_a_201_with_a_position(
        self, listener: Listener, pauses: Pauses, status: int, body: bytes, message: str
    ) -> None:
        listener.answers = [(status, body), taken()]
        with pytest.raises(PublishError) as caught:
            publish(listener.url, "a", 1)
        assert "expected status 201 and JSON with offset, epoch and id, got" in str(caught.value)
        assert message in str(caught.value)
        assert len(str(caught.value)) < 600
        assert str(caught.value).isprintable()
        assert (len(listener.requests), pauses) == (1, [])

    def test_may_contain_unknown_fields(self, listener: Listener) -> None:
        listener.answers = [(201, json.dumps({**POSITION, "more": [1]}).encode())]
        assert publish(listener.url, "a", 1)["offset"] == 1

    @pytest.mark.parametrize("status", [200, 201, 400, 301])
    def test_of_an_endless_body_is_not_waited_for(self, listener: Listener, status: int) -> None:
        listener.answers = [Answer(status, b" " * 10_000, {"Location": "/"}, endless=True)]
        with pytest.raises(PublishError, match=str(status)):
            publish(listener.url, "a", 1)

    def test_of_a_slow_body_is_not_waited_for(
        self, listener: Listener, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = itertools.count(step=4.0)
        monkeypatch.setattr("pushserver.opener.time.monotonic", lambda: next(now))
        listener.answers = [Answer(201, b" ", endless=True)] * 4
        with pytest.raises(PublishError, match="timed out"):
            publish(listener.url, "a", 1, timeout=10.0, retry_seconds=0.0)

    def test_of_a_truncated_body_is_tried_again(self, listener: Listener, pauses: Pauses) -> None:
        status, body = taken()
        cut = Answer(status, body[:-1], {"Content-Length": str(len(body))})
        listener.answers = [cut, taken()]
        assert publish(listener.url, "a", 1) == POSITION
        assert len(pauses) == 1


@pytest.mark.parametrize(
    "url", ["localhost:8080", "ftp://localhost", "file:///etc/passwd", "", "http://[::1", "/x"]
)
def test_an_invalid_url_is_raised(url: str, pauses: Pauses) -> None:
    with pytest.raises(PublishError) as caught:
        publish(url, "a", 1)
    assert url in str(caught.value)
    assert pauses == []


@pytest.mark.parametrize(
    "url",
    [
        *("http://", "http:///x", "http://a b/", "http://a:b/", "http://a:99999/", "http://a:0/"),
        *("http://me:s3cret@a/", "http://a/\x1b[2J", "http://a/b c"),
        *("http://me:s3cret@a:b/", "http://me:s3cret/x@a/", "me:s3cret@a", "http://me:s3cret@ a/"),
        *("http:/me:s3cret@a", "http://me:s3cret@[::1/", "http://me:s3cret@a:0"),
    ],
)
def test_a_url_without_a_host_is_raised_at_once(url: str, pauses: Pauses) -> None:
    with pytest.raises(PublishError) as caught:
        publish(url, "a", 1)
    assert pauses == []
    assert "s3cret" not in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(("channel", "event"), [("\udcff", "e"), ("a", "\ud83d"), ("a\ud83d", "e")])
def test_a_name_that_is_no_text_is_raised(channel: str, event: str, listener: Listener) -> None:
    with pytest.raises(PublishError, match="is no text"):
        publish(listener.url, channel, 1, event=event)
    assert listener.requests == []


class TestAProxyOfTheEnvironment:
    @pytest.fixture(autouse=True)
    @staticmethod
    def proxy(other: Listener, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", other.url)
        _opener.cache_clear()
        yield other
        _opener.cache_clear()

    @pytest.mark.parametrize(
        "host", ["127.0.0.1", "localhost", "LOCALHOST", "127.1", "2130706433", "0.0.0.0"]
    )
    def test_is_not_used_for_this_machine(
        self, host: str, listener: Listener, proxy: Listener
    ) -> None:
        listener.answers = [taken()]
        proxy.answers = [refused(400, "through the proxy")]
        assert publish(f"http://{host}:{listener.port}", "a", 1) == POSITION
        assert proxy.requests == []

    @pytest.mark.parametrize(
        ("host", "local"),
        [
            *(("[::1]", True), ("[::1]:80", True), ("[::ffff:127.0.0.1]", True), ("[::]:1", True)),
            *(("a.localhost:1", True), ("127.255.0.9", True), ("0x7f.1", True)),
            *(("localhost.example", False), ("128.0.0.1", False), ("127.0.0.1.example", False)),
            *(("10.0.0.1:80", False), ("[2001:db8::1]", False), ("", False), ("a b", False)),
        ],
    )
    def test_knows_this_machine(self, host: str, local: bool) -> None:
        assert _local(host) is local

    def test_is_used_for_other_hosts_and_named_in_messages(self, proxy: Listener) -> None:
        proxy.answers = [CUT, taken(), Answer(302, b"", {"Location": "/x"})]
        assert publish("http://push.example/live", "a", 1) == POSITION
        assert [request["path"] for request in proxy.requests] == [
            "http://push.example/live/channels/a?event=message"
        ] * 2
        through = f"push.example through the proxy {proxy.url.removeprefix('http://')} answered 302"
        with pytest.raises(PublishError, match=f"^{through}, a redirect"):
            publish("http://push.example", "a", 1)

    def test_is_not_used_for_hosts_of_no_proxy(
        self, proxy: Listener, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("no_proxy", "push.invalid")
        with pytest.raises(PublishError, match=r"^push\.invalid: "):
            publish("http://push.invalid", "a", 1)
        assert proxy.requests == []


@pytest.mark.parametrize("key", ["s3cret\ud800", "s3cret\nb", "s3cret\x00", "s3cret\r\nX-A: b"])
def test_an_invalid_key_is_raised_without_quoting_it(key: str, listener: Listener) -> None:
    with pytest.raises(PublishError, match="the API key cannot be sent") as caught:
        publish(listener.url, "a", 1, api_key=key)
    assert "s3cret" not in str(caught.value)
    assert listener.requests == []


def test_publishing_needs_only_the_standard_library() -> None:
    program = (
        "import sys, pushserver\n"
        "try: pushserver.publish('nowhere', 'a', 1)\n"
        "except pushserver.PublishError: print('outcome')\n"
        "print(*{name.partition('.')[0] for name in sys.modules})\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    outcome, modules = ended.stdout.splitlines()
    assert outcome == "outcome"
    assert "pushserver" in modules.split()
    others = {"attr", "autobahn", "jinja2", "msgspec", "twisted", "txaio", "zope"}
    assert not others & set(modules.split())
