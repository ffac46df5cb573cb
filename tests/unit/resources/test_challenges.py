"""The challenges of a 401 name the credentials that the server takes."""

from __future__ import annotations

import re

import pytest

from pushserver.channels.channel import ChannelOptions
from pushserver.config.settings import Auth, Config
from tests.unit.fakes.web import BROWSER, Response, Server, handshake

SECRET = "a secret of thirty-two characters"
KEY = "a-key-of-a-job"
DOORS: dict[str, tuple[str, str, dict[str, str]]] = {
    "history": ("/channels/a", "GET", {}),
    "head": ("/channels/a", "HEAD", {}),
    "stream": ("/channels/a", "GET", {"accept": "text/event-stream"}),
    "websocket": ("/channels/a", "GET", handshake()),
    "several channels": ("/events?channel=a", "GET", {"accept": "text/event-stream"}),
    "post": ("/channels/a", "POST", {}),
    "server api": ("/api/info", "POST", {}),
    "error page": ("/channels/a?since=now", "POST", {"accept": BROWSER}),
}


def visit(auth: Auth, path: str, method: str, headers: dict[str, str]) -> Response:
    rules = ChannelOptions(subscribe="users", publish="users")
    server = Server(config=Config(auth=auth, defaults=rules))
    return server.get(path, method, b"1" if method == "POST" else b"", **headers)


@pytest.mark.parametrize("door", DOORS)
def test_token_is_named_beside_the_key_where_tokens_are_configured(door: str) -> None:
    answer = visit(Auth([KEY], token_secret=SECRET), *DOORS[door])
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == ["ApiKey", 'Bearer realm="pushserver"']


@pytest.mark.parametrize("door", DOORS)
def test_key_alone_is_named_where_no_tokens_are_configured(door: str) -> None:
    answer = visit(Auth([KEY]), *DOORS[door])
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == ["ApiKey"]


def test_client_that_joins_the_fields_finds_both() -> None:
    answer = visit(Auth(token_secret=SECRET), *DOORS["history"])
    # A challenge is a scheme, and parameters behind a space (RFC 9110, 11.6.1).
    challenge = r'([A-Za-z]+)(?: ([a-z]+)="([^"]*)")?'
    assert re.fullmatch(rf"{challenge}, {challenge}", answer["www-authenticate"])
    found = re.findall(rf"(?:^|, ){challenge}", answer["www-authenticate"])
    assert found == [("ApiKey", "", ""), ("Bearer", "realm", "pushserver")]


@pytest.mark.parametrize(
    ("headers", "challenges"),
    [
        ({"x_api_key": "guessed"}, ["ApiKey", 'Bearer realm="pushserver"']),
        ({"authorization": "Basic dTpw"}, ["ApiKey", 'Bearer realm="pushserver"']),
        ({"authorization": "Bearer a.b.c"}, None),
    ],
)
def test_wrong_credentials_get_these_challenges(
    headers: dict[str, str], challenges: list[str] | None
) -> None:
    answer = visit(Auth([KEY], token_secret=SECRET), "/channels/a", "GET", headers)
    assert answer.status == 401
    found = answer.headers["www-authenticate"]
    if challenges is None:
        [only] = found
        assert only.startswith('Bearer error="invalid_token"')
    else:
        assert found == challenges


def test_other_refusals_have_no_challenge() -> None:
    answer = visit(Auth([KEY], token_secret=SECRET), "/channels/a", "DELETE", {})
    assert answer.status == 405
    assert "www-authenticate" not in answer
