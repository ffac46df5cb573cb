from __future__ import annotations

import base64
import hashlib
import hmac
import json
import subprocess
import sys
from typing import Any, cast

import pytest

import pushserver
from pushserver.auth import issuer
from pushserver.auth.token_keys import secret_key
from pushserver.auth.tokens import TokenRules, Verifier

SECRET = "s3cret-of-at-least-thirty-two-bytes"
NOW = 1_800_000_000.25


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PUSHSERVER_AUTH_TOKEN_SECRET", raising=False)
    monkeypatch.setattr("pushserver.auth.issuer.time.time", lambda: NOW)


def made(user: object = "ann", **arguments: Any) -> Any:
    """The claims of a token, whose signature is checked."""
    text = pushserver.token(cast(str, user), **{"secret": SECRET, **arguments})
    signed, _, signature = text.rpartition(".")
    expected = hmac.new(SECRET.encode(), signed.encode(), hashlib.sha256).digest()
    assert decoded(signature) == expected
    head, body = signed.split(".")
    assert json.loads(decoded(head)) == {"alg": "HS256", "typ": "JWT"}
    return json.loads(decoded(body))


def decoded(part: str) -> bytes:
    assert "=" not in part
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def test_token_is_that_of_rfc_7515_for_the_same_claims() -> None:
    # RFC 7515, A.1, signs another text; this one is made by jwt.io's example secret.
    text = issuer.sign({"sub": "1234567890", "name": "John Doe", "iat": 1516239022}, b"secret")
    assert text == (
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9."
        "eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIiwiaWF0IjoxNTE2MjM5MDIyfQ."
        "XbPfbIHMI6arZ3Y922BhjWgQzWXcXNrz0ogtVhfEd2o"
    )


def test_token_has_user_and_an_end_in_an_hour() -> None:
    assert made() == {"sub": "ann", "iat": 1_800_000_000, "exp": 1_800_003_601}


def test_token_has_what_it_was_given() -> None:
    claims = made(
        "jürgen \N{FACE WITH TEARS OF JOY}",
        channels=iter(["chat:*", "$vip"]),
        seconds=0.5,
        info={"name": "Jürgen", "tags": [1, None]},
        claims={"aud": "push", "iss": "shop"},
    )
    assert claims == {
        "sub": "jürgen \N{FACE WITH TEARS OF JOY}",
        "iat": 1_800_000_000,
        "exp": 1_800_000_001,
        "channels": ["chat:*", "$vip"],
        "info": {"name": "Jürgen", "tags": [1, None]},
        "aud": "push",
        "iss": "shop",
    }


def test_token_of_a_subscription_has_its_channel() -> None:
    assert made("", channel="$vip:1")["channel"] == "$vip:1"


def test_secret_may_be_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSHSERVER_AUTH_TOKEN_SECRET", SECRET)
    assert made(secret=None)["sub"] == "ann"


def test_an_argument_is_preferred_to_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSHSERVER_AUTH_TOKEN_SECRET", "another")
    assert made()["sub"] == "ann"


def test_a_server_with_the_secret_accepts_the_token() -> None:
    verifier = Verifier(TokenRules(frozenset({"HS256"})), [secret_key(SECRET)])
    text = pushserver.token("ännchen", channels=["a:*"], secret=SECRET, info=[1], seconds=60)
    identity = verifier.connection(text, NOW)
    assert (identity.user, identity.info, identity.expires) == ("ännchen", b"[1]", NOW + 60.75)
    assert "a:b" in identity.channels
    text = pushserver.token("", channel="$a", secret=SECRET, info={})
    grant = verifier.subscription(text, "$a", "", NOW)
    assert (grant.channel, grant.info) == ("$a", b"{}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"user": 42}, 'user is 42, expected a text, such as "42"'),
        ({"user": None}, "user is None, expected a text"),
        ({"user": "x" * 256}, "user has 256 characters, expected a text of 255 at most"),
        ({"user": "a\0"}, "user has a NUL character"),
        ({"user": "\ud800"}, "not Unicode"),
        ({"seconds": 0}, "seconds is 0, expected more than 0"),
        ({"seconds": -1.5}, "seconds is -1.5, expected more than 0"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"seconds": float("inf")}, "seconds is inf"),
        ({"seconds": True}, "seconds is True"),
        ({"seconds": "60"}, "seconds is '60'"),
        ({"seconds": None}, "seconds is None"),
        ({"channels": "chat:*"}, r"channels is 'chat:\*', expected a list of patterns"),
        ({"channels": ["a b"]}, "'a b' is no pattern of channels"),
        ({"channels": [1]}, "one of channels is 1, expected a text"),
        ({"channel": "chat:*"}, r"invalid channel name 'chat:\*'"),
        ({"channel": 5}, "channel is 5, expected a text"),
        ({"channel": "a", "channels": ["a"]}, "expected either channel, for a subscription token"),
        ({"info": {1, 2}}, "do not fit into JSON"),
        ({"info": float("nan")}, "do not fit into JSON"),
        ({"info": "\udcff"}, "not Unicode"),
        ({"claims": {"exp": 1}}, "claims has exp, which has an argument of its own"),
        ({"claims": {1: 1}}, "a name in claims is 1"),
        ({"secret": None}, "there is no secret: .*PUSHSERVER_AUTH_TOKEN_SECRET"),
        ({"secret": ""}, "the secret is empty"),
        ({"secret": b"bytes"}, "the secret is empty or no text"),
        ({"secret": "-----BEGIN PUBLIC KEY-----\nx"}, "a public or private key"),
        ({"secret": "s3cret\udcff"}, "the secret is not text in UTF-8"),
    ],
)
def test_what_a_server_would_refuse_is_a_value_error(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        made(**arguments)
    assert "s3cret" not in str(caught.value)


def test_a_script_that_makes_tokens_imports_the_standard_library_only() -> None:
    program = (
        f"import sys, pushserver; pushserver.token('ann', secret={SECRET!r}, channels=['a*']);"
        " print(sorted({'twisted', 'autobahn', 'msgspec', 'jwt', 'asyncio'} & {*sys.modules}))"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert printed.stdout == b"[]\n"
