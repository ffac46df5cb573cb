"""The settings of tokens: their keys, and the rules for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pushserver.auth.tokens import Verifier
from pushserver.config.limits import Limits
from pushserver.config.loader import load, warnings
from pushserver.config.settings import Auth, Config
from pushserver.config.tokens import make_verifier
from pushserver.errors import InvalidConfig
from pushserver.sources.registry import SourceTypes
from tests.unit.fakes.tokens import NOW, SECRET, jwk, jwks, of_user, public_pem, token

FILE = "push.toml"


def loaded(text: str, **environment: str) -> Config:
    return load(text, FILE, environment, SourceTypes())


def verifier(text: str, **environment: str) -> Verifier:
    config = loaded(text, **environment)
    found = make_verifier(config.auth, config.limits)
    assert found is not None
    return found


def problem(text: str, **environment: str) -> str:
    with pytest.raises(InvalidConfig) as caught:
        loaded(text, **environment)
    message = str(caught.value)
    assert "\n" not in message
    assert SECRET not in message
    return message


def lines(text: str) -> list[str]:
    return list(warnings({}, SourceTypes(), loaded(text)))


def key(algorithm: str, text: str = "", kid: str = "", **more: str) -> str:
    fields = {"algorithm": algorithm, "kid": kid, **({"key": text} if text else {}), **more}
    content = "\n".join(f"{name} = '''{value}'''" for name, value in fields.items())
    return f"[[auth.token_keys]]\n{content}\n"


class TestKeys:
    def test_without_a_key_there_is_no_verifier(self) -> None:
        assert make_verifier(Auth(), Limits()) is None
        assert make_verifier(loaded("").auth, Limits()) is None

    def test_a_secret_is_for_hs256(self) -> None:
        found = verifier(f'[auth]\ntoken_secret = "{SECRET}"')
        assert found.connection(token(of_user()), NOW).user == "42"
        assert found.rules.algorithms == {"HS256"}
        assert verifier("", PUSHSERVER_AUTH_TOKEN_SECRET=SECRET).rules.algorithms == {"HS256"}

    def test_keys_are_in_the_file_or_in_files_of_their_own(self, tmp_path: Path) -> None:
        (tmp_path / "key.pem").write_text(public_pem("RS256"))
        (tmp_path / "jwt-key").write_text(public_pem("EdDSA"))
        found = verifier(
            key("ES256", public_pem("ES256"), "a")
            + key("RS256", file=str(tmp_path / "key.pem"), kid="b")
            + key("EdDSA", credential="jwt-key", kid="c")
            + key("HS256", SECRET, "d"),
            CREDENTIALS_DIRECTORY=str(tmp_path),
        )
        for kid, algorithm in {"a": "ES256", "b": "RS256", "c": "EdDSA", "d": "HS256"}.items():
            assert found.connection(token(of_user(), algorithm, kid=kid), NOW).user == "42"
        assert found.rules.algorithms == {"HS256", "RS256", "ES256", "EdDSA"}

    def test_a_set_of_keys_is_for_public_keys(self, tmp_path: Path) -> None:
        path = tmp_path / "keys.json"
        path.write_bytes(jwks(jwk("ES256", "a")))
        expected = {"RS256", "ES256", "EdDSA"}
        assert verifier(f'[auth]\njwks_file = "{path}"').rules.algorithms == expected
        text = f'[auth]\njwks_url = "https://id.example/jwks"\ntoken_secret = "{SECRET}"'
        assert verifier(text).rules.algorithms == expected | {"HS256"}

    @pytest.mark.parametrize(
        "url", ["http://127.0.0.1:8000/jwks", "http://localhost/", "http://[::1]/a"]
    )
    def test_a_set_may_come_from_this_machine(self, url: str) -> None:
        assert loaded(f'[auth]\njwks_url = "{url}"').auth.jwks_url == url

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (f'[auth]\ntoken_secret = """{public_pem("RS256")}"""',
             "push.toml: auth.token_secret: expected a secret for HS256, got a public or private"),
            (key("HS256", public_pem("ES256")),
             "auth.token_keys.1: expected a secret for HS256, got a public or private key"),
            (key("RS256", SECRET), "auth.token_keys.1: expected a public key in PEM"),
            (key("RS256", public_pem("ES256")),
             "auth.token_keys.1: expected an RSA key for RS256, got a P-256 key"),
            (key("none", SECRET), "auth.token_keys.1.algorithm: expected HS256 or RS256 or"),
            (key("HS512", SECRET), "auth.token_keys.1.algorithm: expected HS256 or RS256 or"),
            (key("HS256"), "auth.token_keys.1: expected one of key, file or credential, got none"),
            (key("HS256", SECRET, file="a"), "one of key, file or credential, got key and"),
            (key("HS256", file="/nowhere"), "auth.token_keys.1.file: '/nowhere': No such file"),
            (key("HS256", SECRET, "a") + key("ES256", public_pem("ES256"), "a"),
             "auth.token_keys: two keys have the kid 'a'"),
            (key("HS256", SECRET, "a" * 257), "auth.token_keys.1.kid: "),
            (key("HS256", SECRET, colour="red"), "auth.token_keys.1.colour: unknown key"),
            ('[auth]\ntoken_keys = ["a"]', "auth.token_keys.1: expected a table, got a text"),
            ('[auth.token_keys]\nkid = "a"', "auth.token_keys: expected a list of tables"),
            ('[auth]\ntoken_algorithms = ["none"]', "auth.token_algorithms: "),
            (f'[auth]\ntoken_algorithms = ["RS256"]\ntoken_secret = "{SECRET}"',
             "auth.token_secret: it is for HS256, expected it in token_algorithms"),
            ('[auth]\ntoken_algorithms = ["RS256"]\n' + key("HS256", SECRET),
             "auth.token_keys.1.algorithm: expected HS256 in token_algorithms"),
            ('[auth]\njwks_url = "http://id.example/jwks"',
             "auth.jwks_url: 'http://id.example/...', expected a URL of https"),
            ('[auth]\njwks_url = "http://127.0.0.1.id.example/"', "expected a URL of https"),
            ('[auth]\njwks_url = "https://me:s3cret@id.example/"', "expected a URL of https"),
            ('[auth]\njwks_url = "file:///etc/passwd"', "expected a URL of https"),
            ('[auth]\njwks_url = "https:///jwks"', "expected a URL of https"),
            ('[auth]\njwks_url = "https://id.example/a b"', "expected a URL of https"),
            ('[auth]\njwks_url = "https://id.example/"\njwks_file = "a"', "got both"),
            ('[auth]\njwks_file = "/nowhere"', "auth.jwks_file: '/nowhere': No such file"),
            ('[auth]\njwks_file = "/dev/null"', "auth.jwks_file: '/dev/null': expected a reg"),
            ('[auth]\ntoken_leeway_seconds = -1', "auth.token_leeway_seconds: "),
            ('[auth]\ntoken_audience = "push"', "auth.token_audience: "),
            ('[auth]\ntoken_user_claim = ""', "auth.token_user_claim: "),
            ('[auth]\njwks_refresh_seconds = 0', "auth.jwks_refresh_seconds: "),
        ],
    )  # fmt: skip
    def test_a_wrong_setting_is_named(self, text: str, expected: str) -> None:
        found = problem(text)
        assert expected in found
        assert "s3cret" not in found

    def test_variables_set_no_tables(self) -> None:
        assert "unknown key" in problem("", PUSHSERVER_AUTH_TOKEN_KEYS="a")


def test_the_rules_are_those_of_the_settings() -> None:
    rules = verifier(
        f"""
        [limits]
        token_bytes = 1000
        channels_per_client = 7
        [auth]
        token_secret = "{SECRET}"
        token_algorithms = ["HS256", "ES256"]
        token_audience = ["push", "live"]
        token_issuer = "https://id.example"
        token_leeway_seconds = 2.5
        token_requires_exp = false
        token_user_claim = "email"
        """
    ).rules
    assert rules.algorithms == {"HS256", "ES256"}
    assert rules.audience == ("push", "live")
    assert (rules.issuer, rules.user_claim) == ("https://id.example", "email")
    assert (rules.leeway, rules.requires_exp) == (2.5, False)
    assert (rules.max_bytes, rules.max_channels) == (1000, 7)


class TestWarnings:
    def test_a_short_secret_can_be_guessed(self) -> None:
        [line] = lines('[auth]\ntoken_secret = "secret"')
        assert line.startswith("auth.token_secret has fewer than 32 bytes, and can be guessed")
        [line] = lines(key("HS256", SECRET) + key("HS256", "secret", "b"))
        assert line.startswith("auth.token_keys.2 has fewer than 32 bytes")
        assert lines(f'[auth]\ntoken_secret = "{"é" * 16}"') == []

    def test_only_a_secret_must_not_be_readable_by_all(self, tmp_path: Path) -> None:
        secret, public = tmp_path / "secret", tmp_path / "public"
        secret.write_text(SECRET)
        public.write_text(public_pem("ES256"))
        for path in (secret, public):
            path.chmod(0o644)
        [line] = lines(key("HS256", file=str(secret), kid="a") + key("ES256", file=str(public)))
        assert "auth.token_keys.1.file: all users of this machine can read" in line
        secret.chmod(0o640)
        assert lines(key("HS256", file=str(secret))) == []


def test_settings_do_not_show_secrets() -> None:
    config: Any = loaded(f'[auth]\ntoken_secret = "{SECRET}"\n' + key("HS256", SECRET + "2", "a"))
    assert SECRET not in repr(config)
