from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from pushserver import ReadError, Recent, acursor, alast, cursor, last, reading
from tests.unit.fakes.listener import Answer, Listener, refused

ROW = {"channel": "orders", "event": "message", "data": 7, "offset": 4, "id": "e:9", "time": 1.5}
HISTORY = {"channel": "orders", "publications": [ROW], "epoch": "e", "offset": 4, "id": "e:12"}
POSITION = {"epoch": "e", "offset": 4}


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


def found(**changes: Any) -> tuple[int, bytes]:
    return 200, json.dumps({**HISTORY, **changes}).encode()


def test_last_is_one_get_of_the_channel(listener: Listener) -> None:
    listener.answers = [found()]
    assert last(f"{listener.url}/push/", "orders:a", 3) == Recent([ROW], "e:12", POSITION)
    [request] = listener.requests
    assert request["path"] == "/push/channels/orders%3Aa?last=3"
    assert request["headers"]["Accept"] == "application/json"
    assert "X-API-Key" not in request["headers"]
    assert "Authorization" not in request["headers"]


def test_credentials_are_sent_in_headers(listener: Listener) -> None:
    listener.answers = [found(), found()]
    last(listener.url, "a", api_key="grün")
    assert cursor(listener.url, "a", token="t.o.k") == "e:12"
    first, second = listener.requests
    assert first["headers"]["X-API-Key"].encode("latin-1").decode() == "grün"
    assert second["headers"]["Authorization"] == "Bearer t.o.k"
    assert second["path"] == "/channels/a?last=0"


def test_coroutines_read_in_a_thread(listener: Listener) -> None:
    listener.answers = [found(), found()]

    async def main() -> tuple[Recent, str]:
        return await alast(listener.url, "a"), await acursor(listener.url, "a", timeout=3.0)

    assert asyncio.run(main()) == (Recent([ROW], "e:12", POSITION), "e:12")


def test_empty_channel_has_a_cursor_too(listener: Listener) -> None:
    listener.answers = [found(publications=[], offset=0)]
    assert last(listener.url, "a") == Recent([], "e:12", {"epoch": "e", "offset": 0})


@pytest.mark.parametrize("count", [-1, 1.0, True, "3", None])
def test_count_is_a_whole_number(listener: Listener, count: Any) -> None:
    with pytest.raises(ReadError, match="expected a whole number"):
        last(listener.url, "a", count)
    assert listener.requests == []


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"token": "two words"}, "the token cannot be sent in a header"),
        ({"token": "a\r\nb"}, "the token cannot be sent in a header"),
        ({"api_key": "a\nb"}, "the API key cannot be sent in a header"),
    ],
)
def test_credentials_that_cannot_be_sent_are_refused_without_naming_them(
    listener: Listener, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ReadError, match=problem) as caught:
        last(listener.url, "a", **options)
    assert not any(secret in str(caught.value) for secret in options.values())
    assert listener.requests == []


def test_name_that_is_no_text_is_refused(listener: Listener) -> None:
    with pytest.raises(ReadError, match="the name of the channel is no text"):
        last(listener.url, "\ud800")


def test_url_of_no_server_is_refused() -> None:
    with pytest.raises(ReadError, match="expected a URL such as"):
        last("ftp://localhost", "a")


@pytest.mark.parametrize(
    "answer",
    [
        (200, b""),
        (200, b"<html>"),
        (200, b"[" * 100_000),
        found(publications=None),
        found(publications=[1]),
        found(id=""),
        found(epoch=3),
        found(offset=True),
    ],
)
def test_other_answer_is_an_error_that_shows_it(
    listener: Listener, answer: tuple[int, bytes]
) -> None:
    listener.answers = [answer]
    with pytest.raises(ReadError, match="expected the history of a channel, got "):
        last(listener.url, "a")


def test_answer_has_a_longest_size(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_BYTES", 1_000)
    listener.answers = [Answer(200, b" " * 500, endless=True)]
    with pytest.raises(ReadError, match="more than 1000 bytes: read fewer"):
        last(listener.url, "a")


def test_refusal_says_why(listener: Listener) -> None:
    listener.answers = [refused(403, "reading $a needs a token"), refused(503, "stopping")]
    with pytest.raises(ReadError, match=r"^403: reading \$a needs a token"):
        last(listener.url, "$a")
    with pytest.raises(ReadError, match="503: stopping"):
        last(listener.url, "$a")


def test_redirect_is_not_followed(listener: Listener) -> None:
    listener.answers = [Answer(302, headers={"Location": "http://127.0.0.1:9/"})]
    with pytest.raises(ReadError, match="which is not followed"):
        last(listener.url, "a", api_key="secret")
    assert len(listener.requests) == 1


def test_server_that_is_away_is_an_error() -> None:
    listener = Listener()
    listener.close()
    with pytest.raises(ReadError, match="refused; is it running"):
        last(listener.url, "a")


def test_connection_that_is_cut_is_an_error(listener: Listener) -> None:
    listener.answers = [Answer(0), Answer(200, b"{", {"Content-Length": "100"})]
    for _ in range(2):
        with pytest.raises(ReadError):
            last(listener.url, "a", timeout=0.5)
