"""`pushserver reload`."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from pushserver.cli import main
from pushserver.opener import ServerRequest

Capture = pytest.CaptureFixture[str]
Answering = Callable[[object], list[ServerRequest]]


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Answering:
    """Lets the server answer with a value, or fail with an exception; returns the requests."""

    def answer(value: object) -> list[ServerRequest]:
        requests: list[ServerRequest] = []

        def send(request: ServerRequest, seconds: float) -> Any:
            requests.append(request)
            if isinstance(value, Exception):
                raise value
            return io.BytesIO(value if isinstance(value, bytes) else json.dumps(value).encode())

        monkeypatch.setattr("pushserver.api_call.send", send)
        return requests

    return answer


NOTHING = "changed: no setting; templates, pages and static files were read again"


def outcome(changed: list[str], restart: list[str], *problems: str) -> dict[str, Any]:
    return {"result": {"changed": changed, "restart": restart, "problems": problems}}


@pytest.mark.parametrize(
    ("answer", "lines"),
    [
        (outcome([], []), [NOTHING]),
        (outcome([], [], "a\x1b", "b"), [NOTHING, "warning: a\\x1b", "warning: b"]),
        # Of an earlier version.
        ({"result": {"changed": ["page.colour"], "restart": []}}, ["changed: page.colour"]),
        (outcome(["auth.keys", "limits.channels"], []), ["changed: auth.keys, limits.channels"]),
        (outcome([], ["store.path"]), [NOTHING, "needs a restart: store.path"]),
        (
            outcome([f"channels.{n}" for n in range(21)], []),
            [f"changed: {', '.join(f'channels.{n}' for n in range(20))} and 1 more"],
        ),
        (outcome(["channels.\x1b[2J"], []), ["changed: channels.\\x1b[2J"]),
    ],
)
def test_the_outcome_is_printed(
    answering: Answering, capsys: Capture, answer: object, lines: list[str]
) -> None:
    requests = answering(answer)
    assert main(["reload", "--url", "http://push.example:1", "--key", "k"]) == 0
    assert capsys.readouterr().out.splitlines() == lines
    [request] = requests
    assert (request.full_url, request.data) == ("http://push.example:1/api/reload", b"{}")
    assert request.get_header("X-api-key") == "k"


def test_a_refusal_ends_with_its_reason_and_status_1(answering: Answering, capsys: Capture) -> None:
    reason = "the new configuration is refused, and the old one stays: push.toml: limits.x"
    answering({"error": {"code": 107, "message": reason}})
    assert main(["reload"]) == 1
    assert capsys.readouterr().err == f"pushserver: {reason}\n"
    answering({"error": {"code": 107, "message": f"bad request: {reason}"}})
    assert main(["reload"]) == 1
    assert capsys.readouterr().err == f"pushserver: {reason}\n"


def test_a_server_that_cannot_be_reached_has_other_ways(
    answering: Answering, capsys: Capture
) -> None:
    answering(ConnectionRefusedError("Connection refused"))
    assert main(["reload"]) == 1
    error = capsys.readouterr().err
    assert "Connection refused; is it running?" in error
    assert "systemctl reload pushserver, or kill -HUP" in error


@pytest.mark.parametrize("url", ["localhost:1", "http://me:s3cret@localhost:1"])
def test_a_wrong_url_is_refused_without_its_password(capsys: Capture, url: str) -> None:
    assert main(["reload", "--url", url]) == 1
    error = capsys.readouterr().err
    assert error.startswith("pushserver: ")
    assert "s3cret" not in error


@pytest.mark.parametrize(
    "answer", [b"no", b"[]", b"[" * 100_000, b"1", {}, {"result": {}}, {"error": 1}, {"result": 1}]
)
def test_another_server_is_reported(answering: Answering, capsys: Capture, answer: object) -> None:
    answering(answer)
    assert main(["reload"]) == 1
    assert capsys.readouterr().err.startswith("pushserver: ")
