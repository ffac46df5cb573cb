"""`pushserver nodes`."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from pushserver.cli import main
from pushserver.opener import ServerRequest
from tests.e2e.blocks import block_with

Capture = pytest.CaptureFixture[str]
Answering = Callable[[object], list[ServerRequest]]


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Answering:
    """Lets the server answer with a value; returns the requests."""

    def answer(value: object) -> list[ServerRequest]:
        requests: list[ServerRequest] = []

        def send(request: ServerRequest, seconds: float) -> Any:
            requests.append(request)
            return io.BytesIO(json.dumps(value).encode())

        monkeypatch.setattr("pushserver.api_call.send", send)
        return requests

    return answer


def node(name: str, **more: Any) -> dict[str, Any]:
    about = {"name": name, "host": "web-1", "pid": 7, "version": "1.2.3", "since": 5.0}
    return about | {"time": 70.5, "lag": 0, "connections": 0, "sources": []} | more


def nodes(*found: object) -> dict[str, Any]:
    return {"result": {"nodes": found}}


def test_each_server_has_a_line(answering: Answering, capsys: Capture) -> None:
    several = nodes(node("one", connections=12345, sources=["a", "b"]), node("中", lag=2))
    requests = answering(several)
    assert main(["nodes", "--url", "http://push.example:1", "--key", "k"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "NAME  HOST   PID  VERSION  UP         LAG  CONNECTIONS  SOURCES",
        "one   web-1  7    1.2.3    1 min 5 s  0    12,345       a, b",
        "中    web-1  7    1.2.3    1 min 5 s  2    0            -",
    ]
    assert requests[0].full_url == "http://push.example:1/api/nodes"
    assert requests[0].get_header("X-api-key") == "k"


def test_lines_are_as_in_the_document(answering: Answering, capsys: Capture) -> None:
    day = 86_400.0
    one = node("one", pid=4103, since=0.0, time=3 * day + 4 * 3_600, connections=5012)
    two = node("two", host="web-2", pid=811, since=0.0, time=130.0, connections=4870)
    one |= {"sources": ["numbers", "prices"]}
    answering(nodes(*(each | {"version": "1.0.0"} for each in (one, two))))
    command, *shown = block_with("docs/scaling.md", "$ pushserver nodes").text.splitlines()
    assert main(command.split()[2:]) == 0
    assert capsys.readouterr().out.splitlines() == shown


def test_json_has_a_server_in_each_line(answering: Answering, capsys: Capture) -> None:
    answering(nodes(node("a"), node("\x1b[2J")))
    assert main(["nodes", "--json"]) == 0
    printed = capsys.readouterr().out
    assert [json.loads(line)["name"] for line in printed.splitlines()] == ["a", "\x1b[2J"]
    assert "\x1b" not in printed


def test_server_without_a_broker_is_alone(answering: Answering, capsys: Capture) -> None:
    answering(nodes())
    assert main(["nodes"]) == 0
    assert capsys.readouterr() == ("", "pushserver: the server is alone: it has no broker\n")


def test_texts_have_no_control_characters(answering: Answering, capsys: Capture) -> None:
    answering(nodes(node("\x1b[2J", host="h\n", sources=["x" * 10_000])))
    assert main(["nodes"]) == 0
    _, line = capsys.readouterr().out.splitlines()
    assert line.startswith("\\x1b[2J  h\\n  ")
    assert len(line) < 1_000


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"result": {}},
        nodes(7),
        nodes(node("a", since="x")),
        nodes(node("a", pid=None)),
        nodes(node("a", sources=7)),
        nodes({"name": "a"}),
    ],
)
def test_answer_of_something_else_is_told(
    answering: Answering, capsys: Capture, answer: object
) -> None:
    answering(answer)
    assert main(["nodes"]) == 1
    assert "expected a list of servers" in capsys.readouterr().err
