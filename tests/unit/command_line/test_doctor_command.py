"""`pushserver doctor`, without a server."""

from __future__ import annotations

import gzip
import io
import json
from typing import Any

import pytest

from pushserver.cli import main
from pushserver.command_line.doctor_command import server_findings
from pushserver.command_line.measuring import MAX_LINE, Meter, _date_ahead, _objects, masked
from pushserver.diagnosis.client_findings import Answer, Measured

Capture = pytest.CaptureFixture[str]
URL = "http://push.example"
GOOD = Measured(URL, 2, Answer(200, seconds=0.004), Answer(200))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The measurements that each Meter returns, and the answer of `/status`."""
    values: list[Any] = [GOOD, {}]
    monkeypatch.setattr(Meter, "measure", lambda self: tuple(values))
    return values


def finding(**more: object) -> dict[str, object]:
    return {"level": "warning", "subject": "refusals", "text": "403", "fix": "a\nb", **more}


class TestOutput:
    def test_has_a_line_of_each_finding_and_its_fix_below(
        self, measured: list[Any], capsys: Capture
    ) -> None:
        measured[1] = {"findings": [finding()]}
        assert main(["doctor", URL]) == 0
        assert capsys.readouterr().out.splitlines() == [
            "ok       reachability  http://push.example answers after 4 ms",
            "ok       in front      no proxy that names itself",
            "warning  refusals      403",
            "         fix:          a",
            "                       b",
        ]

    def test_of_an_error_is_status_1(self, measured: list[Any], capsys: Capture) -> None:
        measured[1] = {"findings": [finding(level="error")]}
        assert main(["doctor", URL]) == 1
        assert capsys.readouterr().err == "pushserver: 1 of 3 findings are errors\n"

    def test_as_json_has_the_findings_the_measurements_and_the_facts(
        self, measured: list[Any], capsys: Capture
    ) -> None:
        measured[1] = {"facts": {"time": 1}, "findings": [finding()]}
        assert main(["doctor", URL, "--json"]) == 0
        [line] = capsys.readouterr().out.splitlines()
        value = json.loads(line)
        assert value["findings"][-1] == finding()
        assert value["measured"]["live"]["status"] == 200
        assert value["server"] == {"time": 1}

    def test_has_no_control_characters_of_the_server(
        self, measured: list[Any], capsys: Capture
    ) -> None:
        measured[1] = {"findings": [finding(text="\x1b[2J\r", fix="\x1b]0;x\x07")]}
        main(["doctor", URL])
        assert not any(c < " " for c in capsys.readouterr().out.replace("\n", ""))


@pytest.mark.parametrize(
    ("answer", "count"),
    [
        ({}, 0),
        ({"findings": None}, 0),
        ({"findings": "text"}, 0),
        ({"findings": [1, None, "x", {}]}, 1),
        ({"findings": [finding(level="fatal")]}, 1),
    ],
)
def test_an_answer_that_has_no_findings_is_survived(answer: dict[str, Any], count: int) -> None:
    found = list(server_findings(answer))
    assert len(found) == count
    assert {each.level for each in found} <= {"note"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ftp://push.example"], "expected a URL such as"),
        (["push"], "push: unknown url type: 'push', expected a URL such as http://localhost:8080"),
        (["http://user:secret@push.example"], "the URL has a name before an @"),
        (["http://push.example:x"], "http://push.example:x"),
        ([URL, "--key", "a\nb"], "the API key cannot be sent"),
    ],
)
def test_a_url_or_key_that_cannot_be_used_is_one_line(
    arguments: list[str], words: str, capsys: Capture
) -> None:
    assert main(["doctor", *arguments]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert "secret" not in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("wait", ["0", "61", "-1", "1.5", "x"])
def test_a_wait_out_of_its_bounds_is_refused(wait: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["doctor", URL, f"--wait={wait}"])
    assert f"'{wait}', expected a whole number of 1 to 60" in capsys.readouterr().err


def test_an_invalid_channel_is_refused_before_anything_is_measured(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["doctor", URL, "--channel", "a b"])
    assert "argument --channel: invalid channel name 'a b'" in capsys.readouterr().err


class Body(io.BytesIO):
    """The body of a response, which arrives byte by byte."""

    def __init__(self, data: bytes, coding: str = ""):
        super().__init__(data)
        self.headers = {"Content-Encoding": coding}

    def read1(self, size: int | None = -1) -> bytes:
        return self.read(1)


class TestObjects:
    @pytest.mark.parametrize("coding", ["", "gzip"])
    def test_are_the_lines_of_a_stream_with_json(self, coding: str) -> None:
        text = b': \n\nevent: x\ndata: {"a":1}\n\n{"b":2}\n{"part'
        objects = _objects(Body(gzip.compress(text) if coding else text, coding))  # type: ignore[arg-type]
        assert next(objects) == b'data: {"a":1}'
        assert next(objects) == b'{"b":2}'
        with pytest.raises(ConnectionError, match="the stream has ended"):
            next(objects)

    def test_end_with_a_line_that_is_too_long(self) -> None:
        with pytest.raises(ConnectionError, match="more than"):
            next(_objects(Body(b"{" * (MAX_LINE + 1))))  # type: ignore[arg-type]


def test_a_frame_is_masked() -> None:
    frame = masked(b"hello")
    assert frame[:2] == b"\x81\x85"
    mask, data = frame[2:6], frame[6:]
    assert bytes(byte ^ mask[at % 4] for at, byte in enumerate(data)) == b"hello"


@pytest.mark.parametrize(
    ("date", "ahead"),
    [
        ("Sun, 09 Sep 2001 01:46:40 GMT", 0.5),
        ("Sun, 09 Sep 2001 01:47:40 GMT", 60.5),
        ("yesterday", None),
        ("", None),
    ],
)
def test_the_clock_of_the_server_is_that_of_the_header_date(date: str, ahead: float | None) -> None:
    assert _date_ahead(Answer(200, headers={"date": date}), 1e9) == ahead
    assert _date_ahead(Answer(200), 1e9) is None
