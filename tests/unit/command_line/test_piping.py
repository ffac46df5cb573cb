from __future__ import annotations

import io
import json
import os
import socket
from types import SimpleNamespace

import pytest

from pushserver import PublishError
from pushserver.command_line.piping import (
    BATCH_BYTES,
    KEYED_LINES,
    KEYED_SECONDS,
    Piper,
    batches,
    json_line,
)
from tests.unit.fakes.listener import Listener
from tests.unit.test_publisher import CUT, Pauses, listener  # noqa: F401


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> Pauses:
    pauses = Pauses()
    clock = SimpleNamespace(sleep=pauses.sleep, monotonic=lambda: sum(pauses))
    monkeypatch.setattr("pushserver.command_line.piping.time", clock)
    return pauses


def answer(published: int, status: int = 201, message: str = "") -> tuple[int, bytes]:
    content: dict[str, object] = {"published": published}
    if message:
        content |= {"error": {"code": status, "message": message}, "line": published + 1}
    else:
        content |= {"offset": published, "epoch": "e", "id": f"e:{published}"}
    return status, json.dumps(content).encode()


def piper(listener: Listener) -> Piper:  # noqa: F811
    return Piper(listener.url, "chat:a b", "e", "s3cret")


def without_keys(listener: Listener) -> Piper:  # noqa: F811
    """One that has sent too many lines with keys."""
    listener.answers.insert(0, answer(KEYED_LINES))
    pipe = piper(listener)
    pipe.publish([b"0"] * KEYED_LINES)
    pipe.first = 1
    listener.requests.clear()
    return pipe


class TestTheLines:
    @pytest.mark.parametrize(
        ("line", "text"),
        [
            (b"7", b"7"),
            (b'{"a": 1.000}', b'{"a": 1.000}'),
            (b"hello", b'"hello"'),
            (b"", b'""'),
            (b"NaN", b'"NaN"'),
            (b"[-1e999]", b"[-1e999]"),
            (b"1 2", b'"1 2"'),
            ("grün".encode(), b'"gr\\u00fcn"'),
            (b"[" * 100_000, json.dumps("[" * 100_000).encode()),
        ],
    )
    def test_are_json_or_texts(self, line: bytes, text: bytes) -> None:
        assert json_line(line, "utf-8") == text

    def test_of_one_read_are_one_batch(self) -> None:
        assert list(batches(io.StringIO("1\r\nx\n\n2"))) == [[b"1", b'"x"', b'""'], [b"2"]]
        assert list(batches(io.StringIO(""))) == []

    def test_of_a_pipe_come_when_they_are_written(self) -> None:
        reading, writing = os.pipe()
        with open(reading, encoding="latin-1") as source, open(writing, "wb", 0) as pipe:
            lines = batches(source)
            pipe.write(b"1\n2\nhal")
            assert next(lines) == [b"1", b"2"]
            pipe.write(b"f\xfc\n")
            assert next(lines) == [b'"half\\u00fc"']

    def test_of_a_large_read_are_several_batches(self) -> None:
        line = "\x01" * 1_000
        parts = list(batches(io.StringIO(f"{line}\n" * 60)))
        # A control character has six bytes in JSON.
        assert [len(part) for part in parts] == [43, 17]
        assert all(sum(map(len, part)) < BATCH_BYTES for part in parts)

    def test_that_are_not_of_the_encoding_keep_their_other_characters(self) -> None:
        source = io.TextIOWrapper(
            io.BytesIO(b'1\n\xff\ncaf\xe9 1\n{"a":"\xe9"}\nx\xe2\x82'), "utf-8"
        )
        lines = [json.loads(line) for batch in batches(source) for line in batch]
        assert lines == [1, "\ufffd", "caf\ufffd 1", {"a": "\ufffd"}, "x\ufffd"]

    def test_are_utf_8_where_the_locale_is_ascii(self) -> None:
        source = io.TextIOWrapper(io.BytesIO("grün\n".encode()), "ascii")
        assert list(batches(source)) == [[b'"gr\\u00fcn"']]


class TestARequest:
    def test_has_all_lines_of_a_batch(self, listener: Listener) -> None:  # noqa: F811
        listener.answers = [answer(2), answer(1)]
        pipe = piper(listener)
        assert pipe.publish([b"1", b"2"])["offset"] == 2
        pipe.publish([b"3"])
        first, second = listener.requests
        assert first["path"] == "/channels/chat%3Aa%20b?event=e"
        assert (first["body"], second["body"]) == (b"1\n2", b"3")
        assert first["headers"]["Content-Type"] == "application/x-ndjson"
        assert first["headers"]["X-API-Key"] == "s3cret"
        assert pipe.first == 4

    def test_that_stopped_is_continued(self, listener: Listener, pauses: Pauses) -> None:  # noqa: F811
        listener.answers = [answer(2, 503, "line 3: the server is shutting down"), answer(1)]
        pipe = without_keys(listener)
        pipe.publish([b"1", b"2", b"3"])
        assert listener.requests[1]["body"] == b"3"
        assert pauses == [0.5]

    @pytest.mark.parametrize(
        "trouble",
        [CUT, answer(1, 503, "line 2: the server is shutting down"), (502, b"<html>"), (504, b"")],
    )
    def test_is_sent_again_whole_with_its_key(
        self,
        listener: Listener,  # noqa: F811
        pauses: Pauses,
        trouble: tuple[int, bytes],
    ) -> None:
        listener.answers = [trouble, answer(2), answer(1)]
        pipe = piper(listener)
        pipe.publish([b"1", b"2"])
        pipe.publish([b"3"])
        assert [request["body"] for request in listener.requests] == [b"1\n2", b"1\n2", b"3"]
        first, again, other = (r["headers"]["Idempotency-Key"] for r in listener.requests)
        assert first == again != other
        assert pipe.first == 4
        assert pauses == [0.5]

    def test_has_no_key_beyond_the_lines_that_a_server_can_remember(
        self,
        listener: Listener,  # noqa: F811
        pauses: Pauses,
    ) -> None:
        listener.answers = [answer(KEYED_LINES), answer(1), answer(1)]
        pipe = piper(listener)
        pipe.publish([b"1"] * KEYED_LINES)
        pipe.publish([b"2"])
        pauses.sleep(KEYED_SECONDS)
        pipe.publish([b"3"])
        keys = [request["headers"]["Idempotency-Key"] for request in listener.requests]
        assert [key is not None for key in keys] == [True, False, True]

    def test_with_a_bad_line_names_it(self, listener: Listener) -> None:  # noqa: F811
        listener.answers = [answer(3), answer(1, 400, "line 2: NaN is not JSON")]
        pipe = piper(listener)
        pipe.publish([b"1", b"2", b"3"])
        with pytest.raises(PublishError, match=r"^line 5: 400: NaN is not JSON$"):
            pipe.publish([b"4", b"[NaN]"])

    @pytest.mark.parametrize(
        ("status", "body", "message"),
        [
            (401, b'{"error":{"message":"the key is wrong"}}', "401: the key is wrong"),
            (404, b"<html>", "404: Not Found"),
            (200, b"{}", "expected a server that publishes lines"),
            (201, b'{"offset":1,"epoch":"e","id":"e:1"}', "expected a server that publishes lines"),
        ],
    )
    def test_with_another_answer_is_raised(
        self,
        listener: Listener,  # noqa: F811
        pauses: Pauses,
        status: int,
        body: bytes,
        message: str,
    ) -> None:
        listener.answers = [(status, body)]
        with pytest.raises(PublishError, match=message):
            piper(listener).publish([b"1", b"2"])
        assert pauses == []

    def test_without_a_key_whose_connection_is_lost_names_the_lines(
        self,
        listener: Listener,  # noqa: F811
    ) -> None:
        listener.answers = [answer(5), CUT]
        pipe = without_keys(listener)
        pipe.publish([b"0"] * 5)
        with pytest.raises(PublishError, match="lines 6 to 7 may have been published, or some"):
            pipe.publish([b"1", b"2"])
        assert len(listener.requests) == 2

    @pytest.mark.parametrize(("first", "seconds"), [(1, 1.0), (2, 60.0)])
    def test_is_tried_again_while_nothing_listens(
        self, pauses: Pauses, first: int, seconds: float
    ) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            pipe = Piper(f"http://127.0.0.1:{taken.getsockname()[1]}", "a", "e", None)
            pipe.first = first
            with pytest.raises(PublishError, match=rf"^line {first}: .*is it running\?$"):
                pipe.publish([b"1", b"2"])
        assert sum(pauses) == seconds
