from __future__ import annotations

import io
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlsplit

import pytest

from pushserver import PublishError, __version__, cli
from pushserver.cli import main
from pushserver.command_line import subscribing
from pushserver.command_line.piping import Piper
from pushserver.errors import StartFailed
from tests.http_server import HttpServer, Quiet

POSITION = {"offset": 1, "epoch": "e", "id": "e:1"}
Capture = pytest.CaptureFixture[str]


def subscribed(seq: int) -> dict[str, Any]:
    return {"subscribed": {"channel": "a", "epoch": "e", "offset": 0, "id": f"e:{seq}"}}


def publication(seq: int) -> dict[str, Any]:
    return {"channel": "a", "event": "m", "data": seq, "offset": seq, "id": f"e:{seq}", "time": 1.0}


class Streams(HttpServer):
    """A server whose streams send one list of objects each, and then end."""

    def __init__(self) -> None:
        self.lives: list[list[Any]] = []
        self.queries: list[list[tuple[str, str]]] = []
        self.headers: list[Any] = []
        self.refusal: tuple[int, bytes] | None = None
        self.more_headers: dict[str, str] = {}
        self.taken: list[tuple[str, Any]] = []
        self.media = "application/x-ndjson"
        streams = self

        class Handler(Quiet, BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                streams.queries.append(parse_qsl(urlsplit(self.path).query))
                streams.headers.append(self.headers)
                if streams.refusal is not None:
                    status, body = streams.refusal
                    self.send_response(status)
                    for name, value in streams.more_headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(body)
                    return
                self.send_response(200)
                if streams.media:
                    self.send_header("Content-Type", streams.media)
                self.end_headers()
                for output in streams.lives.pop(0):
                    if isinstance(output, threading.Event):
                        output.wait(20)
                        continue
                    text = output if isinstance(output, str) else json.dumps(output)
                    with suppress(OSError):
                        self.wfile.write(text.encode("utf-8", "surrogateescape") + b"\n\n")

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                values = [json.loads(line) for line in body.split(b"\n")]
                streams.taken += [(self.path, value) for value in values]
                answer = json.dumps(POSITION | {"published": len(values)}).encode()
                self.send_response(201)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        super().__init__(Handler)


@pytest.fixture
def streams() -> Iterator[Streams]:
    streams = Streams()
    yield streams
    streams.close()


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without variables of the environment, and without pauses."""
    for name in ("PUSHSERVER_URL", "PUSHSERVER_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pushserver.command_line.subscribing.time.sleep", lambda seconds: None)


class Published(list[tuple[str, str, object, str, "str | None"]]):
    """The arguments of `publish`."""

    def __call__(
        self, url: str, channel: str, data: object, *, event: str, api_key: str | None, **_: float
    ) -> dict[str, object]:
        if channel == "bad":
            raise PublishError("400: no such name")
        self.append((url, channel, data, event, api_key))
        return dict(POSITION)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Published:
    published = Published()
    monkeypatch.setattr(cli, "publish", published)
    return published


class TestPublish:
    @pytest.mark.parametrize(
        ("text", "data"),
        [
            ('{"number": 3}', {"number": 3}),
            ("7", 7),
            ('"x"', "x"),
            ("hello", "hello"),
            ("", ""),
            ("NaN", "NaN"),
            ("[1", "[1"),
            ("[" * 100_000, "[" * 100_000),
            ("null", None),
            ("-hello", "-hello"),
        ],
    )
    def test_publishes_json_or_else_a_text(
        self, published: Published, capsys: Capture, text: str, data: object
    ) -> None:
        assert main(["publish", "a", "--", text]) == 0
        assert published == [("http://localhost:8080", "a", data, "message", None)]
        shown = capsys.readouterr()
        assert json.loads(shown.out) == POSITION
        noted = "published as a text, since it is no JSON" in shown.err
        assert noted == text.startswith("[")

    def test_takes_the_key_from_a_file(self, published: Published, tmp_path: Path) -> None:
        file = tmp_path / "key"
        file.write_text("s3cret\n")
        arguments = ["publish", "--key", "other", "--api-key-file", str(file), "a", "1"]
        assert main(arguments) == 0
        assert published == [("http://localhost:8080", "a", 1, "message", "s3cret")]

    def test_takes_the_key_from_a_pipe(self, published: Published) -> None:
        reader, writer = os.pipe()
        os.write(writer, b"s3cret\n")
        os.close(writer)
        assert main(["publish", "--api-key-file", f"/dev/fd/{reader}", "a", "1"]) == 0
        os.close(reader)
        assert [row[-1] for row in published] == ["s3cret"]

    def test_prefers_the_file_of_a_key_to_the_environment(
        self, published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PUSHSERVER_KEY", "other")
        file = tmp_path / "key"
        file.write_text("s3cret")
        assert main(["publish", "a", "1", "--api-key-file", str(file)]) == 0
        assert [row[-1] for row in published] == ["s3cret"]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "expected a secret, got an empty file"),
            (b"s3cret\xff", "expected UTF-8"),
            (None, "No such file or directory"),
        ],
    )
    def test_explains_an_unusable_file_of_a_key(
        self,
        published: Published,
        capsys: Capture,
        tmp_path: Path,
        content: bytes | None,
        message: str,
    ) -> None:
        file = tmp_path / "key"
        if content is not None:
            file.write_bytes(content)
        assert main(["publish", "a", "1", "--api-key-file", str(file)]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"pushserver: --api-key-file {str(file)!r}: ")
        assert message in error
        assert "s3cret" not in error
        assert published == []

    @pytest.mark.parametrize(
        ("text", "data"),
        [
            *(
                ("-1", -1),
                ("-1e-5", -1e-5),
                ("-1E5", -1e5),
                ("-0.5e3", -500.0),
                ("-12e+2", -1200.0),
            ),
            *(("-.5", "-.5"), ("-5,5", "-5,5"), ("-3 °C", "-3 °C"), ("-7°C", "-7°C")),
            *(("-Infinity", "-Infinity"), ("-nan", "-nan"), ("-", None)),
        ],
    )
    def test_takes_a_negative_number_for_data(
        self, published: Published, monkeypatch: pytest.MonkeyPatch, text: str, data: object
    ) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO("null"))
        assert main(["publish", "a", text, "--event", "e"]) == 0
        assert main(["publish", "--url", "http://h", "a", text]) == 0
        assert [entry[2] for entry in published][:1] == [data]

    @pytest.mark.parametrize("number", ["-1e999", "1e999", "1E+400", "-12.5e309"])
    @pytest.mark.parametrize("form", ["{}", "[1, {}]", '{{"a": {}}}'])
    def test_names_a_number_that_no_double_can_hold(
        self,
        published: Published,
        capsys: Capture,
        monkeypatch: pytest.MonkeyPatch,
        number: str,
        form: str,
    ) -> None:
        text = form.format(number)
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        for data in (text, "-"):
            assert main(["publish", "a", data]) == 1
            expected = f"pushserver: the number {number} is beyond the range of a double\n"
            assert capsys.readouterr().err == expected
        assert published == []

    def test_reports_an_argument_that_is_not_text(
        self, published: Published, capsys: Capture
    ) -> None:
        for arguments in (["a", "\udcff"], ["\udcff", "1"], ["a", "1", "--event", "\ud83d"]):
            with pytest.raises(SystemExit):
                main(["publish", *arguments])
            assert "is not UTF-8" in capsys.readouterr().err
        assert published == []

    def test_takes_the_url_and_the_key_from_its_options(self, published: Published) -> None:
        main(["publish", "a", "1", "--url", "http://h", "--key", "k", "--event", "e"])
        assert published == [("http://h", "a", 1, "e", "k")]

    def test_takes_the_url_and_the_key_from_the_environment(
        self, published: Published, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PUSHSERVER_URL", "http://env")
        monkeypatch.setenv("PUSHSERVER_KEY", "k")
        main(["publish", "a", "1"])
        main(["publish", "a", "1", "--url", "http://flag", "--key", "l"])
        assert [(url, key) for url, _, _, _, key in published] == [
            ("http://env", "k"),
            ("http://flag", "l"),
        ]

    def test_publishes_a_line_of_standard_input_with_a_key_of_its_own(
        self, published: Published, monkeypatch: pytest.MonkeyPatch, capsys: Capture
    ) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO("hello"))
        assert main(["publish", "a", "-"]) == 0
        assert [data for _, _, data, _, _ in published] == ["hello"]
        assert len(capsys.readouterr().out.splitlines()) == 1

    def test_publishes_many_lines_of_standard_input_at_once(
        self, published: Published, monkeypatch: pytest.MonkeyPatch, capsys: Capture
    ) -> None:
        sent: list[list[bytes]] = []

        def publish(piper: Piper, batch: list[bytes]) -> dict[str, object]:
            sent.append(batch)
            return {"published": len(batch)}

        monkeypatch.setattr(Piper, "publish", publish)
        monkeypatch.setattr(sys, "stdin", io.StringIO('1\nhello\n{"a":2}\n'))
        assert main(["publish", "a", "-"]) == 0
        assert sent == [[b"1", b'"hello"', b'{"a":2}']]
        assert published == []
        assert capsys.readouterr().out == '{"published": 3}\n'

    def test_that_fails_ends_with_one_line_and_status_1(
        self, published: Published, capsys: Capture
    ) -> None:
        assert main(["publish", "bad", "1"]) == 1
        assert capsys.readouterr() == ("", "pushserver: 400: no such name\n")

    def test_error_of_a_file_names_it(
        self, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(batch: object) -> None:
            raise NotADirectoryError(20, "Not a directory", "/dev/null/x")

        monkeypatch.setattr(cli, "_run", fail)
        assert main(["publish", "a", "1"]) == 1
        assert capsys.readouterr() == ("", "pushserver: /dev/null/x: Not a directory\n")


class TestSubscribe:
    def run(self, streams: Streams, *arguments: str) -> int:
        return main(["subscribe", "a", "--url", streams.url, *arguments])

    def printed(self, capsys: Capture) -> list[Any]:
        return [json.loads(line)["data"] for line in capsys.readouterr().out.splitlines()]

    def test_prints_each_publication_on_a_line(self, streams: Streams, capsys: Capture) -> None:
        streams.lives = [[subscribed(0), publication(1), "", publication(2)]]
        assert self.run(streams, "--count", "2") == 0
        lines = capsys.readouterr().out.splitlines()
        assert [json.loads(line) for line in lines] == [publication(1), publication(2)]
        assert streams.queries == [[("channel", "a")]]
        assert streams.headers[0]["Accept"] == "application/x-ndjson"

    def test_ends_after_count(self, streams: Streams, capsys: Capture) -> None:
        streams.lives = [[subscribed(0), *(publication(n) for n in range(1, 9))]]
        assert self.run(streams, "--count", "3") == 0
        assert self.printed(capsys) == [1, 2, 3]

    def test_count_0_ends_at_once(self, streams: Streams) -> None:
        assert self.run(streams, "--count", "0") == 0
        assert streams.queries == []

    def test_resumes_when_the_stream_ends(self, streams: Streams, capsys: Capture) -> None:
        streams.lives = [
            [subscribed(4)],
            [subscribed(4), publication(5), publication(6)],
            [subscribed(6)],
            [publication(7)],
        ]
        assert self.run(streams, "--count", "3") == 0
        assert self.printed(capsys) == [5, 6, 7]
        positions = [dict(query).get("since") for query in streams.queries]
        assert positions == [None, "e:4", "e:6", "e:6"]

    def test_reports_a_loss(self, streams: Streams, capsys: Capture) -> None:
        reset = {"reset": {"reason": "epoch", "epoch": "f", "id": "f:9"}}
        streams.lives = [[subscribed(4), reset], [publication(10)]]
        assert self.run(streams, "--since", "e:1", "--count", "1") == 0
        assert capsys.readouterr().err == (
            "pushserver: publications are missing: the server has begun a new history (epoch)\n"
        )
        assert [dict(query)["since"] for query in streams.queries] == ["e:1", "f:9"]

    def test_starts_at_the_given_position(self, streams: Streams) -> None:
        streams.lives = [[publication(1)], [publication(1)]]
        self.run(streams, "--last", "5", "--count", "1")
        options = ["--since", "oldest", "--key", "k", "--count", "1"]
        main(["subscribe", "a", "b", "--url", streams.url, *options])
        assert streams.queries == [
            [("channel", "a"), ("last", "5")],
            [("channel", "a"), ("channel", "b"), ("since", "oldest")],
        ]
        assert streams.headers[1]["X-API-Key"] == "k"

    def test_since_and_last_exclude_each_other(self, streams: Streams, capsys: Capture) -> None:
        assert self.run(streams, "--since", "oldest", "--last", "1") == 1
        assert "exclude each other" in capsys.readouterr().err

    def test_a_refusal_ends_it_with_the_servers_message(
        self, streams: Streams, capsys: Capture
    ) -> None:
        streams.refusal = (400, b'{"error":{"code":400,"message":"expected a whole number"}}')
        assert self.run(streams) == 1
        output = capsys.readouterr().err
        assert output.startswith("pushserver: 400: ")
        assert "expected a whole number" in output

    @pytest.mark.parametrize(
        "url", ["nowhere", "ftp://a", "file:///etc/passwd", "http://a:b", "http://a b", "http://"]
    )
    def test_an_invalid_url_ends_it(self, capsys: Capture, url: str) -> None:
        assert main(["subscribe", "a", "--url", url]) == 1
        assert url in capsys.readouterr().err

    @pytest.mark.parametrize("key", ["s3cret\udcff", "s3cret\nX-A: b"])
    def test_an_invalid_key_ends_it(self, streams: Streams, capsys: Capture, key: str) -> None:
        assert self.run(streams, "--key", key) == 1
        output = capsys.readouterr().err
        assert "the API key cannot be sent" in output
        assert "s3cret" not in output

    @pytest.mark.parametrize("location", ["", "/elsewhere", "http://a/\x1b[2J"])
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_a_redirect_ends_it(
        self, streams: Streams, capsys: Capture, status: int, location: str
    ) -> None:
        streams.refusal = (status, b"")
        streams.more_headers = {"Location": location}
        assert self.run(streams, "--key", "s3cret") == 1
        [output] = capsys.readouterr().err.splitlines()
        assert f"answered {status}, a redirect" in output
        assert output.isprintable()
        assert len(streams.queries) == 1

    def test_a_redirect_does_not_send_the_key_to_another_server(
        self, streams: Streams, capsys: Capture
    ) -> None:
        other = Streams()
        try:
            streams.refusal = (307, b"")
            streams.more_headers = {"Location": f"{other.url}/events?channel=a"}
            assert self.run(streams, "--key", "s3cret") == 1
            assert other.headers == []
            assert f"give {other.url} as the URL of the server" in capsys.readouterr().err
        finally:
            other.close()

    @pytest.mark.parametrize("media", ["text/html", "", "application/json", "text/x-ndjson"])
    def test_an_answer_of_another_type_ends_it(
        self, streams: Streams, capsys: Capture, media: str
    ) -> None:
        streams.media = media
        streams.lives = [[publication(1)]]
        assert self.run(streams, "--count", "1") == 1
        [output] = capsys.readouterr().err.splitlines()
        assert f"got 200 and {media or 'no Content-Type'}" in output

    @pytest.mark.parametrize("status", [201, 202, 204])
    def test_an_answer_of_another_status_ends_it(
        self, streams: Streams, capsys: Capture, status: int
    ) -> None:
        streams.refusal = (status, b"")
        streams.more_headers = {"Content-Type": "application/x-ndjson"}
        assert self.run(streams, "--count", "1") == 1
        assert f"got {status} and" in capsys.readouterr().err

    def test_the_media_type_may_have_parameters_and_capitals(self, streams: Streams) -> None:
        streams.media = "Application/X-NDJSON ; charset=utf-8"
        streams.lives = [[publication(1)]]
        assert self.run(streams, "--count", "1") == 0

    def test_an_endless_line_ends_it(
        self, streams: Streams, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(subscribing, "LINE_BYTES", 1_000)
        streams.lives = [["1" * 2_000]]
        assert self.run(streams, "--count", "1") == 1
        assert "a line of more than 1000 bytes" in capsys.readouterr().err

    @pytest.mark.parametrize("status", [502, 503, 504])
    def test_a_server_that_stops_is_tried_again(
        self,
        streams: Streams,
        capsys: Capture,
        monkeypatch: pytest.MonkeyPatch,
        status: int,
    ) -> None:
        streams.refusal = (status, b"<html>")
        pauses: list[float] = []

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 6:
                streams.refusal = None
                streams.lives = [[subscribed(4)], [publication(5)]]

        monkeypatch.setattr("pushserver.command_line.subscribing.time.sleep", pause)
        assert self.run(streams, "--since", "e:3", "--count", "1") == 0
        output = capsys.readouterr()
        assert json.loads(output.out)["data"] == 5
        lines = output.err.splitlines()
        assert len(lines) == 6
        assert all(f": {status} " in line and "trying again" in line for line in lines)
        assert [dict(query)["since"] for query in streams.queries] == ["e:3"] * 7 + ["e:4"]
        # The answer of the server ends the long pauses.
        assert pauses == [1, 2, 4, 8, 10, 10, 1]

    def test_a_stream_that_cannot_begin_now_is_tried_again(
        self, streams: Streams, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pauses: list[float] = []
        monkeypatch.setattr("pushserver.command_line.subscribing.time.sleep", pauses.append)
        end = json.dumps({"end": {"code": 1013, "reason": "Redis is away"}})
        streams.lives = [[end], [end], [publication(1)]]
        assert self.run(streams, "--count", "1") == 0
        lines = capsys.readouterr().err.splitlines()
        assert [line.partition(streams.url)[2] for line in lines] == [
            ": Redis is away; trying again"
        ] * 2
        assert pauses == [1, 2]

    def test_a_stream_that_the_server_has_ended_ends_it(
        self, streams: Streams, capsys: Capture
    ) -> None:
        streams.lives = [[json.dumps({"end": {"code": 3503, "reason": "force disconnect"}})]]
        assert self.run(streams) == 1
        assert "the server has ended the stream: force disconnect" in capsys.readouterr().err

    def test_an_unreachable_server_is_tried_again(
        self, streams: Streams, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        streams.close()
        tries = 0

        def enough(seconds: float) -> None:
            nonlocal tries
            tries += 1
            if tries == 3:
                raise KeyboardInterrupt

        monkeypatch.setattr("pushserver.command_line.subscribing.time.sleep", enough)
        assert self.run(streams) == 130
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 3
        assert all("trying again" in line for line in lines)

    @pytest.mark.parametrize(
        "output", ["<html>", "\udcff", "[" * 60_000, "[1]", "7", '{"x": 1}', '{"reset": 1}']
    )
    def test_a_server_of_another_kind_is_reported(
        self, streams: Streams, capsys: Capture, output: str
    ) -> None:
        streams.lives = [[output]]
        assert self.run(streams, "--count", "1") == 1
        assert streams.url in capsys.readouterr().err


class TestTheOutput:
    """The command in a process of its own, with a real pipe, file or terminal."""

    def start(self, streams: Streams, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        command = ["subscribe", "a", "--url", streams.url, *arguments]
        return start_command(*command, **options)

    @pytest.mark.parametrize("lines", [1, 3])
    def test_that_nobody_reads_ends_it_quietly(self, streams: Streams, lines: int) -> None:
        done = threading.Event()
        streams.lives = [[subscribed(0), *(publication(n + 1) for n in range(lines)), done]]
        process = self.start(streams, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["data"] == 1
        # There is no further publication to print.
        process.stdout.close()
        assert ended(process) == (0, "")
        done.set()

    def test_that_nobody_reads_any_more_ends_it_at_the_next_line(self, streams: Streams) -> None:
        streams.lives = [[subscribed(0), *(publication(n) for n in range(1, 5_000))]]
        process = self.start(streams, "--last", "5000", stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert ended(process) == (0, "")
        assert len(streams.queries) == 1

    def test_to_a_full_disk_ends_it_with_one_line(self, streams: Streams) -> None:
        streams.lives = [[publication(1)]]
        with open("/dev/full", "wb") as full:
            process = self.start(streams, stdout=full)
            message = "pushserver: standard output: No space left on device\n"
            assert ended(process) == (1, message)
        with open("/dev/full", "wb") as full:
            assert ended(start_command("--help", stdout=full))[1].count("\n") <= 1

    def test_may_be_closed(self, streams: Streams) -> None:
        streams.lives = [[publication(1)]]
        process = self.start(streams, "--count", "1", preexec_fn=lambda: os.close(1))
        assert ended(process) == (0, "")

    @pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252", "euc-jp"])
    def test_is_json_in_any_encoding(self, streams: Streams, encoding: str) -> None:
        texts = ["grün", "€", "\U0001f600", "\x9b31m", "日本"]
        line = json.dumps({**publication(1), "data": texts}, ensure_ascii=False)
        streams.lives = [[line]]
        environment = {"PYTHONIOENCODING": encoding}
        process = self.start(streams, "--count", "1", stdout=subprocess.PIPE, env=environment)
        output, _ = process.communicate(timeout=20)
        assert process.returncode == 0
        assert json.loads(output.decode(encoding))["data"] == texts

    @pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
    def test_to_a_terminal_has_no_control_characters(self, streams: Streams, encoding: str) -> None:
        text = "a\x9b31m\x85\x7fb\tü"
        line = json.dumps({**publication(1), "data": text}, ensure_ascii=False)
        streams.lives = [[line]]
        ours, its = pty.openpty()
        process = self.start(
            streams, "--count", "1", stdout=its, env={"PYTHONIOENCODING": encoding}
        )
        os.close(its)
        output = b""
        with suppress(OSError):
            while piece := os.read(ours, 4_096):
                output += piece
        os.close(ours)
        assert ended(process) == (0, "")
        shown = output.decode(encoding).removesuffix("\r\n")
        assert shown.isprintable()
        assert json.loads(shown)["data"] == text

    def test_to_a_file_is_what_the_server_sent(self, streams: Streams) -> None:
        line = json.dumps({**publication(1), "data": "\x9b\x7f€"}, ensure_ascii=False)
        streams.lives = [[line]]
        process = self.start(streams, "--count", "1", stdout=subprocess.PIPE)
        assert process.communicate(timeout=20)[0].decode() == f"{line}\n"


ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


def start_command(*arguments: str | bytes, **options: Any) -> subprocess.Popen[bytes]:
    environment = {"PYTHONIOENCODING": "utf-8", **options.pop("env", {})}
    inherited = {name: value for name, value in os.environ.items() if "PYTHON" not in name}
    code = "import sys; from pushserver.cli import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**inherited, **environment},
        stderr=subprocess.PIPE,
        **options,
    )


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """The status and the messages, without a long wait."""
    assert process.stderr is not None
    try:
        status = process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        raise
    with process.stderr:
        return status, process.stderr.read().decode("utf-8", "backslashreplace")


class TestChannels:
    ROW: ClassVar[dict[str, Any]] = {
        "channel": "numbers",
        "retained": 300,
        "offset": 1_000,
        "watchers": 2,
        "last": {"event": "m\x1b", "time": 0},
        "last_minute": 30,
    }

    def printed(self, streams: Streams, capsys: Capture, *arguments: str) -> list[str]:
        quiet = {**self.ROW, "channel": "quiet", "last": None}
        streams.media = "application/json"
        streams.lives = [[json.dumps({"channels": [self.ROW, quiet], "total": 3})]]
        assert main(["channels", "--url", streams.url, *arguments]) == 0
        captured = capsys.readouterr()
        assert captured.err == "pushserver: and 1 more\n"
        return captured.out.splitlines()

    def test_are_printed_with_their_counts(self, streams: Streams, capsys: Capture) -> None:
        first, second = self.printed(streams, capsys, "num", "--key", "k")
        assert first.startswith("numbers ")
        assert "30 in the last minute,    300 retained,    2 watching, last m\\x1b at 19" in first
        assert second.endswith("2 watching")
        assert streams.queries == [[("q", "num")]]
        assert streams.headers[0]["X-API-Key"] == "k"

    def test_are_printed_as_json(self, streams: Streams, capsys: Capture) -> None:
        lines = self.printed(streams, capsys, "--json")
        assert json.loads(lines[0]) == self.ROW
        assert len(lines) == 2

    def test_that_do_not_exist_are_told_on_standard_error(
        self, streams: Streams, capsys: Capture
    ) -> None:
        streams.lives = [['{"channels": [], "total": 0}']] * 2
        assert main(["channels", "zzz", "--url", streams.url]) == 0
        assert capsys.readouterr() == ("", "pushserver: no channel has 'zzz' in its name\n")
        assert main(["channels", "--url", streams.url]) == 0
        error = "pushserver: no channel has publications or subscribers\n"
        assert capsys.readouterr() == ("", error)

    @pytest.mark.parametrize(
        "content",
        [
            "no",
            "[]",
            "[" * 100_000,
            '{"channels": [{}]}',
            '{"channels": 1}',
            '{"channels": []}',
            '{"channels": [], "total": "many"}',
            json.dumps({"channels": [ROW | {"last": 1}], "total": 1}),
            json.dumps({"channels": [ROW | {"last": {"event": 1, "time": 1e300}}], "total": 1}),
        ],
    )
    def test_of_another_server_are_reported(
        self, streams: Streams, capsys: Capture, content: str
    ) -> None:
        streams.lives = [[content]]
        assert main(["channels", "--url", streams.url]) == 1
        assert capsys.readouterr().err.startswith(f"pushserver: {streams.url}: ")

    def test_have_no_control_characters(self, streams: Streams, capsys: Capture) -> None:
        streams.lives = [
            [
                json.dumps(
                    {"channels": [self.ROW | {"channel": "\x1b[2J", "last": None}], "total": 1}
                )
            ]
        ]
        assert main(["channels", "--url", streams.url]) == 0
        assert capsys.readouterr().out.startswith("\\x1b[2J ")

    @pytest.mark.parametrize(
        ("url", "problem"),
        [
            ("http://me:s3cret@localhost:1", "the URL has a name before an @"),
            ("me:s3cret@localhost:1", "the URL has a name before an @"),
            ("localhost:1", "localhost:1: expected a URL such as http://localhost:8080"),
        ],
    )
    def test_of_a_wrong_url_are_refused_without_its_password(
        self, capsys: Capture, url: str, problem: str
    ) -> None:
        assert main(["channels", "--url", url]) == 1
        assert capsys.readouterr().err.startswith(f"pushserver: {problem}")

    def test_without_a_server_are_reported(self, capsys: Capture) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{taken.getsockname()[1]}"
            assert main(["channels", "--url", url]) == 1
        assert "is it running?" in capsys.readouterr().err


class TestALocaleOfAscii:
    @pytest.mark.parametrize("arguments", [["--help"], ["publish", "--help"], ["subscribe", "-h"]])
    @pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
    def test_prints_the_help(self, arguments: list[str], encoding: str) -> None:
        environment = {"PYTHONIOENCODING": encoding, "PUSHSERVER_URL": "http://grün€"}
        process = start_command(*arguments, stdout=subprocess.PIPE, env=environment)
        output, messages = process.communicate(timeout=20)
        assert (process.returncode, messages) == (0, b"")
        assert b"usage: pushserver" in output

    def test_prints_a_name_of_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "grün€\udcff.toml"
        path.write_text("")
        environment = {**ASCII, "PYTHONIOENCODING": "ascii"}
        process = start_command("check-config", str(path), stdout=subprocess.PIPE, env=environment)
        output, messages = process.communicate(timeout=20)
        assert (process.returncode, messages) == (0, b"")
        assert output.endswith(b".toml: good\n")

    @pytest.mark.parametrize("encoding", ["ascii", "ascii:surrogateescape", "utf-8"])
    def test_publishes_utf_8_of_arguments_and_of_standard_input(
        self, streams: Streams, encoding: str
    ) -> None:
        command = ["publish", "--url", streams.url, "grün"]
        environment = {**ASCII, "PYTHONIOENCODING": encoding}
        process = start_command(*command, "€", stdout=subprocess.DEVNULL, env=environment)
        assert ended(process) == (0, "")
        process = start_command(
            *command, "-", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment
        )
        process.communicate("€\nü\n".encode(), timeout=20)
        assert process.returncode == 0
        assert streams.taken == [("/channels/gr%C3%BCn?event=message", t) for t in ("€", "€", "ü")]

    def test_publishes_standard_input_that_is_not_utf_8(self, streams: Streams) -> None:
        command = ["publish", "--url", streams.url, "a", "-"]
        process = start_command(
            *command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=ASCII
        )
        _, messages = process.communicate(b"caf\xe9\n", timeout=20)
        assert (process.returncode, messages) == (0, b"")
        assert streams.taken == [("/channels/a?event=message", "caf\ufffd")]


class TestCheckConfig:
    def test_a_valid_file_is_good(self, tmp_path: Path, capsys: Capture) -> None:
        path = tmp_path / "c.toml"
        path.write_text("[limits]\nbody_bytes = 5")
        assert main(["check-config", str(path)]) == 0
        assert capsys.readouterr().out == f"{path}: good\n"

    def test_warns_of_a_template_that_is_broken(self, tmp_path: Path, capsys: Capture) -> None:
        path = tmp_path / "c.toml"
        (tmp_path / "bad.html").write_text("{% if %}")
        (tmp_path / "good.html").write_text("{{ data }}")
        path.write_text(
            f'[server]\ntemplates = "{tmp_path}"\n[channels.a]\ntemplate = "bad.html"\n'
            '[channels.b]\ntemplate = "good.html"\n[namespaces.c]\ntemplate = "none.html"\n'
        )
        assert main(["check-config", str(path)]) == 0
        output, messages = capsys.readouterr()
        assert output == f"{path}: good, with 2 warnings\n"
        first, second = messages.splitlines()
        assert first.startswith("pushserver: template = 'none.html': there is no 'none.html' in ")
        assert second.startswith("pushserver: template = 'bad.html': bad.html, line 1: Expected")

    def test_warns_of_templates_without_a_folder(self, tmp_path: Path, capsys: Capture) -> None:
        path = tmp_path / "c.toml"
        path.write_text('[channels.a]\ntemplate = "order.html"')
        assert main(["check-config", str(path)]) == 0
        assert capsys.readouterr().err == (
            "pushserver: template = 'order.html': server.templates names no folder of templates\n"
        )

    @pytest.mark.parametrize("setting", ["pages", "static", "templates"])
    def test_a_folder_that_does_not_exist_is_an_error(self, tmp_path: Path, setting: str) -> None:
        path = tmp_path / "c.toml"
        path.write_text(f'[server]\n{setting} = "{tmp_path}/none"')
        with pytest.raises(StartFailed, match=f"{setting} = '{tmp_path}/none': there is no folder"):
            main(["check-config", str(path)])

    def test_warns_of_a_page_that_is_broken_and_of_a_colour_that_is_hard_to_read(
        self, tmp_path: Path, capsys: Capture
    ) -> None:
        path = tmp_path / "c.toml"
        (tmp_path / "pages").mkdir()
        for name in ("channel.html", "pages/about.html", "other.html"):
            (tmp_path / name).write_text("{% if %}")
        (tmp_path / "error.html").write_text('{% extends "pushserver/error.html" %}')
        path.write_text(f'[server]\ntemplates = "{tmp_path}"\n[page]\naccent = "#ffff00"\n')
        assert main(["check-config", str(path)]) == 0
        colour, first, second = capsys.readouterr().err.splitlines()
        assert colour.startswith("pushserver: page.accent: #ffff00 has a contrast of 1.0")
        assert first.startswith("pushserver: templates: channel.html, line 1: Expected")
        assert second.startswith("pushserver: templates: pages/about.html, line 1: Expected")

    @pytest.mark.parametrize(
        "text",
        [
            '[auth.keys.a]\nfile = "{}"',
            '[[auth.token_keys]]\nkid = "a"\nalgorithm = "HS256"\nfile = "{}"',
            '[auth]\njwks_file = "{}"',
        ],
    )
    @pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
    def test_a_secret_that_is_no_file_is_reported_at_once(
        self, tmp_path: Path, capsys: Capture, text: str, kind: str
    ) -> None:
        secret = Path("/dev/zero") if kind == "device" else tmp_path / "secret"
        if kind == "pipe":
            os.mkfifo(secret)
        elif kind == "folder":
            secret.mkdir()
        path = tmp_path / "push.toml"
        path.write_text(text.format(secret))
        assert main(["check-config", str(path)]) == 1
        error = capsys.readouterr().err
        assert str(secret) in error
        assert ("Is a directory" if kind == "folder" else "expected a regular file") in error

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("[limits]\nbody_byte = 5", "limits.body_byte: unknown key; did you mean body_bytes?"),
            (
                "[limits]\nbody_bytes = 0",
                "limits.body_bytes: expected a whole number >= 1, value 0",
            ),
            ("[limits", "Expected"),
            ('["\\u001b[2J\\u009b"]', r"\x1b[2J\x9b: unknown key"),
        ],
    )
    def test_an_invalid_file_is_reported_with_the_key(
        self, tmp_path: Path, capsys: Capture, text: str, problem: str
    ) -> None:
        path = tmp_path / "c.toml"
        path.write_text(text)
        assert main(["check-config", str(path)]) == 1
        output = capsys.readouterr().err
        assert output.startswith(f"pushserver: {path}: ")
        assert problem in output

    @pytest.mark.parametrize(
        ("setting", "problem"),
        [
            ('listen = ["telnet:23"]', "server.listen telnet:23: Unknown endpoint type"),
            ('listen = ["127.0.0.1:99999"]', "server.listen 127.0.0.1:99999: "),
            ('listen = ["tcp:port=99999"]', "port 99999 is out of range, expected 0 to 65535"),
            ('listen = ["ssl:1:privateKey=/no/key:certKey=/no/cert"]', "directory: '/no/cert'"),
            ('metrics_listen = "ssl:1:privateKey=/dev/null"', "has no key or certificate in PEM"),
        ],
    )
    def test_an_endpoint_with_which_no_server_starts_is_reported(
        self, tmp_path: Path, capsys: Capture, setting: str, problem: str
    ) -> None:
        path = tmp_path / "c.toml"
        path.write_text(f"[server]\n{setting}")
        assert main(["check-config", str(path)]) == 1
        output = capsys.readouterr().err
        assert output.startswith(f"pushserver: {path}: server.")
        assert problem in output

    def test_sockets_of_systemd_are_not_missed(self, tmp_path: Path) -> None:
        path = tmp_path / "c.toml"
        path.write_text('[server]\nlisten = ["systemd:name=http", "127.0.0.1:0"]')
        assert main(["check-config", str(path)]) == 0

    def test_a_missing_file_is_reported(self, tmp_path: Path, capsys: Capture) -> None:
        assert main(["check-config", str(tmp_path / "c.toml")]) == 1
        assert "c.toml" in capsys.readouterr().err

    def test_environment_variables_are_checked_too(
        self, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "c.toml"
        path.write_text("")
        monkeypatch.setenv("PUSHSERVER_LIMITS_BODY_BYTES", "many")
        assert main(["check-config", str(path)]) == 1
        assert "PUSHSERVER_LIMITS_BODY_BYTES" in capsys.readouterr().err


def test_a_name_that_the_locale_lacks_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[store]\npath = "störe.db"')
    command = ["store", "backup", "copy.db", "--config", str(tmp_path / "c.toml")]
    process = start_command(*command, stdout=subprocess.DEVNULL, env=ASCII, cwd=tmp_path)
    _, messages = process.communicate(timeout=20)
    assert process.returncode == 1
    assert b"re.db' cannot be written as ascii: set LC_ALL" in messages
    assert messages.count(b"\n") == 1


def test_no_command_prints_the_help(capsys: Capture) -> None:
    assert main([]) == 2
    assert "pushserver serve ticker.py" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["bogus"], ["publish"], ["publish", "a"], ["subscribe"]])
def test_an_unknown_command_prints_the_usage(arguments: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: pushserver" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "usage", "error"),
    [
        (["serve", "--prot", "81"], "serve", "arguments: --prot; did you mean --port?"),
        (["serve", "a.py", "--prot=81"], "serve", "arguments: --prot=81; did you mean --port?"),
        (["publish", "--server", "u", "a", "1"], "publish", "unrecognized arguments: --server 1"),
        (["channels", "--keys", "k"], "channels", "--keys; did you mean --key?"),
        (["key", "new", "--nmae", "x"], "key new", "unrecognized arguments: --nmae x; "),
        (["srve"], "", "no command 'srve'; did you mean serve?"),
        (["ticker.py"], "", "did you mean pushserver serve ticker.py?"),
        (["help"], "", "did you mean --help?"),
        (["zzz"], "", "no command 'zzz'; expected one of serve, publish, subscribe, "),
        (["key", "nwe"], "key", "no command 'nwe'; did you mean new?"),
        (["subscribe", "a", "--last", "x"], "subscribe", "--last: expected a whole number, got"),
        (["subscribe", "a", "--count", "x"], "subscribe", "--count: expected a whole number, got"),
        (["token", "new", "a", "--seconds", "x"], "token new", "expected a number of seconds, got"),
    ],
)
def test_a_wrong_word_is_told_with_the_usage_of_its_command(
    arguments: list[str], usage: str, error: str, capsys: Capture
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert f"usage: pushserver {usage}".rstrip() + " [-h]" in printed
    assert error in printed


@pytest.mark.parametrize("command", ["doctor", "top", "nodes", "reload"])
def test_the_url_is_also_an_argument(
    command: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing listens on port 1.
    given, other = "http://127.0.0.1:1", "http://127.0.0.1:2"
    monkeypatch.setenv("PUSHSERVER_URL", other)
    for arguments in ([given], ["--url", given], ["--url", other, given], [given, "--url", other]):
        assert main([command, *arguments]) == 1
        printed = "".join(capsys.readouterr())
        assert given in printed
        assert other not in printed


def test_the_version_is_printed(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"pushserver {__version__}\n"


def test_a_closed_pipe_is_no_failure(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    class Pipe(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Pipe())
    assert main(["publish", "a", "1"]) == 0
    sys.stdout.close()


@pytest.mark.parametrize("command", [["publish", "1"], ["subscribe"], ["channels"]])
def test_url_in_place_of_a_name_has_an_option(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command[0], "http://localhost:8081/", *command[1:]])
    assert "is a URL: give it as --url URL" in capsys.readouterr().err


def test_check_config_takes_its_file_as_an_option_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "push.toml"
    path.write_text("[sources]\n")
    assert main(["check-config", "--config", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: good\n"
    with pytest.raises(SystemExit):
        main(["check-config"])
