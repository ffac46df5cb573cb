"""The settings that refusals name, and the lines against them."""

from __future__ import annotations

import tomllib

import pytest

from pushserver.diagnosis.proxies import UNKNOWN
from pushserver.diagnosis.remedies import configured, remedy, setting_of

LIMITS = {"connections": 100, "connections_per_address": 7, "new_connections_per_second": 50}
FOREIGN = (
    "a page of 'https://push.example' may not use 'http://127.0.0.1:8080': expected a page of the"
    " same origin, or of allowed_origins"
)


@pytest.mark.parametrize(
    ("reason", "setting"),
    [
        ("this server has its 100 connections already (connections)", "limits.connections"),
        ("too many of this address (connections_per_address)", "limits.connections_per_address"),
        ("the API key is not one of auth.api_keys and auth.keys", "auth.api_keys"),
        ("'x' is not a name of this server: list it in server.names", "server.names"),
        (FOREIGN, "server.allowed_origins"),
        ("a name that is too long, with names and keys", ""),
        ("'limits.connections' is not a channel", ""),
        ('"(connections)" is not a channel', ""),
        ("limits.names is no setting, nor is auth.connections", ""),
        ("", ""),
    ],
)
def test_setting_is_the_first_that_the_reason_names_itself(reason: str, setting: str) -> None:
    assert setting_of(reason) == setting


@pytest.mark.parametrize(
    ("status", "reason", "table"),
    [
        (503, "... (connections)", {"limits": {"connections": 200}}),
        (429, "... (connections_per_address)", {"limits": {"connections_per_address": 14}}),
        (
            403,
            "'push.example:8443' is not a name of this server, ...: list it in server.names",
            {"server": {"names": ["push.example"]}},
        ),
        (403, "'push' is not a name of this server", {"server": {"names": ["push"]}}),
        (403, FOREIGN, {"server": {"allowed_origins": ["https://push.example"]}}),
        (
            403,
            f"{FOREIGN}; if 10.0.0.5 is the server's proxy, list it in server.trusted_proxies",
            {"server": {"trusted_proxies": ["10.0.0.5"]}},
        ),
    ],
)
def test_setting_is_given_as_lines_of_the_configuration(
    status: int, reason: str, table: dict[str, object]
) -> None:
    assert tomllib.loads(remedy(status, reason, LIMITS)) == table


def test_a_header_of_the_proxy_protocol_has_the_setting_that_decides() -> None:
    stranger = "sent a header of the PROXY protocol, and is not one of trusted_proxies"
    table = {"server": {"trusted_proxies": ["10.0.0.5"]}}
    assert tomllib.loads(remedy(0, stranger, LIMITS, "10.0.0.5")) == table
    silent = "is one of trusted_proxies, and sent no whole header of the PROXY protocol within 15 s"
    text = remedy(0, silent, LIMITS, "10.0.0.5")
    assert "send-proxy-v2" in text
    assert "proxy_protocol = false" in text


def test_headers_that_a_proxy_has_to_send_are_given_as_lines_of_nginx() -> None:
    reason = (
        f"{FOREIGN}; a proxy that serves this page has to send Host: push.example and"
        " X-Forwarded-Proto: https"
    )
    lines = remedy(403, reason, LIMITS).splitlines()
    assert "proxy_set_header Host $http_host;" in lines
    assert "proxy_set_header X-Forwarded-Proto $scheme;" in lines
    assert 'allowed_origins = ["https://push.example"]' in lines
    reason = f"{FOREIGN}; a proxy that serves this page has to send Host: push.example:8443"
    assert "X-Forwarded-Proto" not in remedy(403, reason, LIMITS)


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        (426, "expected a WebSocket", UNKNOWN.fix("Upgrade")),
        (400, "a proxy has to pass Upgrade on", UNKNOWN.fix("Upgrade")),
        (
            401,
            "an API key is needed (auth.api_keys or auth.keys)",
            "--may publish  # or read, or admin",
        ),
        (401, "the token has expired", "pushserver token check"),
        (404, "there is no such page", "grep 'refused 404'"),
        (429, "... (a_setting_without_section)", "grep 'refused 429'"),
    ],
)
def test_every_other_refusal_has_a_command_or_lines_too(
    status: int, reason: str, words: str
) -> None:
    assert words in remedy(status, reason, LIMITS)


@pytest.mark.parametrize("origin", ['https://a"]\nclosed = true', "https://a\\", "ö", "\u2028"])
def test_a_peer_cannot_add_a_line_to_the_configuration(origin: str) -> None:
    text = remedy(403, FOREIGN.replace("https://push.example", origin), LIMITS)
    assert tomllib.loads(text) == {"server": {"allowed_origins": [origin]}}


def test_values_are_those_of_toml() -> None:
    assert configured("store.path", 'a"b') == '[store]\npath = "a\\"b"'


@pytest.mark.parametrize(
    ("reason", "fix"),
    [
        ('subscribing to a needs a user (channels.a.subscribe = "users")', "token new USER"),
        ('the history of a needs a token for this channel (x = "token")', "token new USER"),
        ("this server needs a token or an API key (auth.closed)", "token new USER"),
        ("invalid token: exp is missing", "token check TOKEN"),
        ('publishing to a needs an API key (channels.a.publish = "key")', "key new --name NAME"),
    ],
)
def test_missing_credentials_are_made_and_wrong_ones_are_checked(reason: str, fix: str) -> None:
    assert remedy(401, reason, {}).startswith(f"pushserver {fix}")
