from __future__ import annotations

import io
import json
import subprocess
import sys
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from jwt.algorithms import OKPAlgorithm

import pushserver
from pushserver.auth import issuer
from pushserver.cli import main
from pushserver.command_line import token_command
from tests.e2e.blocks import block_with
from tests.http_server import HttpServer, Quiet

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


def configuration(tmp_path: Path, auth: str, more: str = "") -> str:
    file = tmp_path / "push.toml"
    file.write_text(f"[auth]\n{auth}\n{more}")
    return str(file)


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
            (["ann", "--channels", "a", "b c"], "'b c' is no pattern of channels"),
            (["ann", "--channel", "a", "--channels", "b"], "expected either channel"),
            (["ann", "--info", "{"], "--info '{' is not JSON"),
            (["ann", "--channels", "team *"], "'team *' is no pattern of channels"),
            (["ann", "--channels", "a", ""], "'' is no pattern of channels"),
            (["x" * 300], "user has 300 characters"),
        ],
    )
    def test_explains_a_wrong_argument(
        self, capsys: Capture, arguments: list[str], message: str
    ) -> None:
        assert message in complaint(capsys, "new", *arguments)

    def test_takes_the_secret_and_more_from_a_configuration(
        self, capsys: Capture, tmp_path: Path
    ) -> None:
        for lines in ("", '\ntoken_user_claim = "email"'):
            config = configuration(
                tmp_path, f'token_audience = ["push", "b"]\ntoken_issuer = "shop"{lines}'
            )
            printed = output(capsys, "new", "ann", "--config", config).strip()
            assert 'the user "ann"' in output(capsys, "check", printed, "--config", config)

    def test_needs_a_secret_in_the_configuration(
        self, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("PUSHSERVER_AUTH_TOKEN_SECRET")
        config = configuration(tmp_path, "")
        message = complaint(capsys, "new", "ann", "--config", config)
        assert f"{config}: there is no secret to make tokens: expected auth.token_secret" in message

    @pytest.mark.parametrize("kid", ["", 'kid = "2026-11"\n'])
    def test_takes_a_secret_of_the_list_of_keys(
        self, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kid: str
    ) -> None:
        monkeypatch.delenv("PUSHSERVER_AUTH_TOKEN_SECRET")
        secret = tmp_path / "token.key"
        secret.write_text(f"{SECRET}\n")
        secret.chmod(0o600)
        config = tmp_path / "keys.toml"
        config.write_text(f"[[auth.token_keys]]\nalgorithm = 'HS256'\n{kid}file = '{secret}'\n")
        printed = output(capsys, "new", "ann", "--config", str(config)).strip()
        assert 'the user "ann"' in output(capsys, "check", printed, "--config", str(config))

    def test_needs_a_secret(self, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("PUSHSERVER_AUTH_TOKEN_SECRET")
        assert complaint(capsys, "new", "ann") == (
            "pushserver: there is no secret: expected --config FILE with auth.token_secret, or"
            " PUSHSERVER_AUTH_TOKEN_SECRET\n"
        )


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
        token_command.show(options, out)
        assert json.dumps("\x9b31m\x7f") in out.getvalue()
        assert "\x9b" not in out.getvalue()


class TestTheExamplesOfThePage:
    @pytest.fixture(autouse=True)
    def _token(self, monkeypatch: pytest.MonkeyPatch) -> None:
        token = signed(sub="ann", exp=1_795_919_200, channels=["chat:*"])
        monkeypatch.setattr("sys.stdin", io.StringIO(token))

    def test_read(self, capsys: Capture) -> None:
        command, *shown = block_with("docs/auth.md", "pushserver token read").text.splitlines()
        assert command == "$ pushserver token read - < token.txt"
        assert output(capsys, "read", "-").splitlines() == shown

    def test_check(self, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "pushserver.toml").write_text(f"auth.token_secret = '{SECRET}'")
        monkeypatch.chdir(tmp_path)
        command, *shown = block_with("docs/auth.md", "pushserver token check").text.splitlines()
        words = command.removeprefix("$ pushserver token ").partition(" <")[0].split()
        assert output(capsys, *words).splitlines() == shown


END = "until 2026-11-29 00:27:40 UTC, in 1 minute"
RULES = """
    [defaults]
    publish = "users"
    [namespaces.chat]
    subscribe = "token"
    history = "handler"
    [channels.news]
    publish = "nobody"
    """


class TestCheck:
    def test_says_what_a_token_allows_here(self, capsys: Capture, tmp_path: Path) -> None:
        token = signed(
            sub="ann", exp=NOW + 60, channels=["chat:*"], subs={"a": {}, "b": {}}, info={"n": "ü"}
        )
        config = configuration(tmp_path, "", RULES)
        arguments = ["--config", config, "--channel", "chat:1", "--channel", "$vip"]
        assert output(capsys, "check", token, *arguments).splitlines() == [
            f'valid: the token of a connection of the user "ann", {END}',
            'other clients see {"n":"ü"}',
            "it permits the channels chat:*",
            "the server subscribes it to a, b",
            "in news",
            "  subscribe, history, presence: yes",
            *refusals("publish", "news", "publishing to news is for nobody"),
            "in chat:1",
            "  subscribe, publish, presence: yes",
            *refusals("history", "chat:1", "the history of chat:1 is decided by a handler"),
            "in $vip",
            *refusals("subscribe", "$vip", "subscribing to $vip needs a token"),
            *refusals("publish", "$vip", "publishing to $vip needs a token"),
            *refusals("history", "$vip", "the history of $vip needs a token"),
            *refusals("presence", "$vip", "the presence in $vip needs a token"),
            "in other channels chat:...",
            '  subscribe, presence: only where the token permits it (subscribe = "token")',
            "  publish: yes",
            '  history: a handler of the application decides (history = "handler")',
            "in all other channels",
            "  subscribe, publish, history, presence: yes",
            "where no rule is set, the handlers of an application may decide otherwise",
        ]

    def test_a_token_without_user_and_channels_has_the_rights_of_all(
        self, capsys: Capture, tmp_path: Path
    ) -> None:
        config = configuration(tmp_path, "token_requires_exp = false", RULES)
        text = output(capsys, "check", signed(), "--config", config)
        assert "valid: the token of a connection of an unknown user, without an end\n" in text
        assert '  subscribe, presence: no (subscribe = "token")\n' in text
        assert '  publish: no (publish = "users")\n' in text

    def test_says_what_a_token_of_a_subscription_allows(self, capsys: Capture) -> None:
        token = signed(sub="ann", exp=NOW + 60, channel="$vip", info=1)
        assert output(capsys, "check", token).splitlines() == [
            f'valid: the token of a subscription of the user "ann" to $vip, {END}',
            "other clients see 1",
            "the connection needs a token of its own, of the same user",
        ]

    def test_refuses_the_token_of_a_subscription_to_another_channel(self, capsys: Capture) -> None:
        token = signed(sub="ann", exp=NOW + 60, channel="$vip")
        assert output(capsys, "check", token, "--channel", "$vip").startswith("valid: ")
        for names in (["$vop"], ["$vip", "news"]):
            options = [text for name in names for text in ("--channel", name)]
            problem = f'refused: invalid token: channel is "$vip", expected "{names[-1]}"'
            assert problem in complaint(capsys, "check", token, *options)

    @pytest.mark.parametrize(
        ("claims", "message"),
        [
            ({"exp": NOW - 60}, "refused: the token has expired: exp is "),
            ({}, "exp is missing"),
            ({"exp": NOW * 1000}, "not milliseconds"),
            ({"exp": NOW + 9, "aud": "x"}, 'aud is "x", expected none'),
            ({"exp": NOW + 9, "channel": 5}, "channel is 5"),
            ({"exp": NOW + 9, "sub": 42}, "sub is 42, expected a text"),
            ({"exp": NOW + 9, "sub": 42, "channel": "a"}, "sub is 42, expected a text"),
        ],
    )
    def test_says_why_a_token_is_refused(
        self, capsys: Capture, claims: dict[str, Any], message: str
    ) -> None:
        error = complaint(capsys, "check", signed(**claims))
        assert error.startswith("pushserver: refused: ")
        assert message in error

    def test_says_that_another_key_signed_it(self, capsys: Capture) -> None:
        token = issuer.sign({"sub": "ann", "exp": NOW + 9}, b"another secret")
        assert "the signature is not that of a key" in complaint(capsys, "check", token)

    def test_needs_keys(self, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("PUSHSERVER_AUTH_TOKEN_SECRET")
        message = complaint(capsys, "check", signed(sub="ann"))
        assert "the server has no keys for tokens, expected auth.token_secret" in message

    def test_refuses_a_wrong_name_before_it_prints(self, capsys: Capture) -> None:
        token = signed(sub="ann", exp=NOW + 9)
        assert "invalid channel name 'a b'" in complaint(capsys, "check", token, "--channel", "a b")

    def test_reads_a_set_of_keys(
        self, capsys: Capture, tmp_path: Path, server: Replies, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("PUSHSERVER_AUTH_TOKEN_SECRET")
        key = ed25519.Ed25519PrivateKey.generate()
        claims = {"sub": "ann", "exp": NOW + 60}
        token = jwt.encode(claims, key, "EdDSA", {"kid": "k"})
        jwk = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": "k"}
        content = json.dumps({"keys": [jwk]})
        file = tmp_path / "keys.json"
        file.write_text(content)
        server.body = content.encode()
        for setting in (f'jwks_file = "{file}"', f'jwks_url = "{server.url}/jwks"'):
            config = configuration(tmp_path, setting)
            assert 'the user "ann"' in output(capsys, "check", token, "--config", config)
        assert server.requests[-1][:2] == ("GET", "/jwks")
        server.body = b"[]"
        error = complaint(capsys, "check", token, "--config", config)
        assert "auth.jwks_url: expected a set of keys" in error
        server.status = 500
        assert "auth.jwks_url: " in complaint(capsys, "check", token, "--config", config)


def refusals(action: str, channel: str, text: str) -> list[Any]:
    """A line with the reason of a refusal, of which only the beginning is compared."""

    class Beginning(str):
        def __eq__(self, other: object) -> bool:
            return str(other).startswith(str(self))

        __hash__ = str.__hash__

    return [Beginning(f"  {action}: no, {text}")]


class Replies(HttpServer):
    """A server that answers each request with `body`, and keeps the requests."""

    def __init__(self) -> None:
        self.status = 200
        self.body = b"{}"
        self.requests: list[tuple[str, str, bytes]] = []
        replies = self

        class Handler(Quiet, BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                sent = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                replies.requests.append((self.command, self.path, sent))
                self.send_response(replies.status)
                self.end_headers()
                self.wfile.write(replies.body)

            do_POST = do_GET

        super().__init__(Handler)


@pytest.fixture
def server() -> Iterator[Replies]:
    server = Replies()
    yield server
    server.close()


class TestCheckByAServer:
    TOKEN = issuer.sign({"sub": "ann"}, b"any")

    def test_connects_with_the_token(self, capsys: Capture, server: Replies) -> None:
        connect = {"client": "c", "expires": True, "ttl": 59, "subs": {"a": {}, "b": {}}}
        server.body = json.dumps({"id": 1, "connect": connect}).encode() + b"\n{}\n"
        text = output(capsys, "check", self.TOKEN, "--url", server.url)
        assert text == (
            f"{server.url} accepts it, for 59 seconds\nit subscribes the client to a, b\n"
        )
        [(method, path, body)] = server.requests
        assert (method, path) == ("POST", "/connection/http_stream")
        assert json.loads(body) == {"id": 1, "connect": {"token": self.TOKEN}}

    def test_says_that_the_connection_has_no_end(self, capsys: Capture, server: Replies) -> None:
        server.body = b'{"id":1,"connect":{"client":"c"}}'
        assert "accepts it, without an end" in output(
            capsys, "check", self.TOKEN, "--url", server.url
        )

    @pytest.mark.parametrize(
        ("status", "body", "message"),
        [
            (200, {"id": 1, "error": {"code": 109, "message": "token expired"}}, "109: token exp"),
            (
                200,
                {"push": {"disconnect": {"code": 3500, "reason": "invalid token: exp"}}},
                "3500: invalid token: exp",
            ),
            (401, {"error": {"code": 401, "message": "closed"}}, "401: closed"),
            (200, {}, "expected the reply to a connect, got {}"),
            (200, [], "expected the reply to a connect"),
            (200, {"push": {}}, "expected the reply to a connect"),
        ],
    )
    def test_says_why_the_server_refuses(
        self, capsys: Capture, server: Replies, status: int, body: object, message: str
    ) -> None:
        server.status, server.body = status, json.dumps(body).encode()
        assert message in complaint(capsys, "check", self.TOKEN, "--url", server.url)

    def test_explains_another_answer(self, capsys: Capture, server: Replies) -> None:
        server.body = b"<html>"
        assert "a connect, got <html>" in complaint(
            capsys, "check", self.TOKEN, "--url", server.url
        )

    def test_explains_a_server_that_does_not_run(self, capsys: Capture, server: Replies) -> None:
        server.close()
        assert "is it running?" in complaint(capsys, "check", self.TOKEN, "--url", server.url)

    def test_refuses_the_token_of_a_subscription(self, capsys: Capture, server: Replies) -> None:
        token = issuer.sign({"channel": "a"}, b"any")
        assert "--url connects" in complaint(capsys, "check", token, "--url", server.url)
        assert server.requests == []


def test_commands_of_scripts_import_no_cryptography() -> None:
    program = (
        "import sys, pushserver.cli;"
        " print(sorted({'twisted', 'msgspec', 'jwt', 'cryptography'} & {*sys.modules}))"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert printed.stdout == b"[]\n"
