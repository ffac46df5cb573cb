from __future__ import annotations

import io
import json
from base64 import urlsafe_b64encode
from typing import Any

import pytest

import pushserver
from pushserver import issuer, token_command
from pushserver.cli import main

SECRET = "s3cret-of-at-least-thirty-two-bytes"
NOW = 1_795_912_000.0
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSHSERVER_AUTH_TOKEN_SECRET", SECRET)
    monkeypatch.setattr("time.time", lambda: NOW)


def output(capsys: Capture, *arguments: str) -> str:
    assert main(["token", *arguments]) == 0
    return capsys.readouterr().out


def complaint(capsys: Capture, *arguments: str) -> str:
    assert main(["token", *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "s3cret" not in captured.err
    return captured.err


def signed(**claims: Any) -> str:
    return issuer.sign(claims, SECRET.encode())


class TestNew:
    def test_prints_the_token_of_the_function(self, capsys: Capture) -> None:
        arguments = ["--channels", "chat:*", "news", "--seconds", "60", "--info", '{"a": 1}']
        printed = output(capsys, "new", "ann", *arguments)
        token = pushserver.token("ann", channels=["chat:*", "news"], seconds=60, info={"a": 1})
        assert printed == f"{token}\n"

    def test_prints_the_token_of_a_subscription(self, capsys: Capture) -> None:
        printed = output(capsys, "new", "ann", "--channel", "$vip")
        assert printed == pushserver.token("ann", channel="$vip") + "\n"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["ann", "--seconds", "0"], "seconds is 0.0, expected more than 0"),
            (["ann", "--channel", "a b"], "invalid channel name 'a b'"),
            (["ann", "--channel", "a", "--channels", "b"], "expected either channel"),
            (["ann", "--info", "{"], "--info '{' is not JSON"),
            (["x" * 300], "user has 300 characters"),
        ],
    )
    def test_explains_a_wrong_argument(
        self, capsys: Capture, arguments: list[str], message: str
    ) -> None:
        assert message in complaint(capsys, "new", *arguments)

    def test_needs_a_secret(self, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("PUSHSERVER_AUTH_TOKEN_SECRET")
        assert "PUSHSERVER_AUTH_TOKEN_SECRET" in complaint(capsys, "new", "ann")


class TestRead:
    def test_shows_head_and_claims_and_that_nothing_is_verified(self, capsys: Capture) -> None:
        token = signed(sub="ann", exp=NOW + 7200, iat=NOW - 90, channels=["chat:*"], more=None)
        assert output(capsys, "read", token).splitlines() == [
            "This token is only read here: everyone can write one. `check` verifies it.",
            '  alg: "HS256"',
            '  typ: "JWT"',
            "claims:",
            '  sub: "ann" (the user)',
            "  exp: 1795919200.0, the end: 2026-11-29 02:26:40 UTC, in 2 hours",
            "  iat: 1795911910.0, made: 2026-11-29 00:25:10 UTC, 1 minute ago",
            '  channels: ["chat:*"] (channels that it permits)',
            "  more: null",
        ]

    def test_takes_a_token_from_standard_input(
        self, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO(f"Bearer {signed(sub='ann')}\n"))
        text = output(capsys, "read", "-")
        assert 'sub: "ann"' in text
        assert "no exp: the token has no end" in text

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (NOW, "in 0 seconds"),
            (NOW - 1, "1 second ago"),
            (NOW + 86_400 * 3, "in 3 days"),
            (NOW * 1000, "these may be milliseconds"),
            (-5, "expected Unix seconds"),
            (10**400, "expected Unix seconds"),
            ("1795912000", "no number, expected Unix seconds"),
            (True, "no number"),
            (None, "no number"),
        ],
    )
    def test_shows_times_as_times(self, capsys: Capture, value: object, text: str) -> None:
        assert text in output(capsys, "read", signed(exp=value))

    @pytest.mark.parametrize(
        ("token", "message"),
        [
            ("", "got nothing"),
            ("abc", "got 1 in 3 characters"),
            ("a.b.c.d.e", "got five: it is encrypted"),
            ("a b.c.d", "expected a JSON Web Token"),
            ("AA.AA.AA", "the head of the token cannot be read"),
            ("A.AA.AA", "the head of the token cannot be read"),
            ("W10.e30.", "the head of the token is [], expected an object"),
            ("e30.MQ.", "the claims of the token is 1, expected an object"),
        ],
    )
    def test_explains_another_text(self, capsys: Capture, token: str, message: str) -> None:
        assert message in complaint(capsys, "read", token)

    def test_explains_a_text_that_is_too_long(self, capsys: Capture) -> None:
        assert "more than 1000000 characters" in complaint(capsys, "read", "a" * 1_000_001)

    def test_a_deep_token_is_refused(self, capsys: Capture) -> None:
        deep = urlsafe_b64encode(b"[" * 500_000).decode().rstrip("=")
        assert "cannot be read" in complaint(capsys, "read", f"{deep}.e30.")

    def test_control_characters_of_a_token_do_not_reach_a_terminal(self) -> None:
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        out = Terminal()
        options = type("Options", (), {"token": signed(sub="\x9b31m\x7f")})
        token_command.read(options, out)
        assert json.dumps("\x9b31m\x7f") in out.getvalue()
        assert "\x9b" not in out.getvalue()
