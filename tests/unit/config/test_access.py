"""Warnings about rules that nobody can satisfy, and about addresses that let everybody in."""

from __future__ import annotations

import pytest

from pushserver.config.loader import load, warnings
from pushserver.sources.registry import SourceTypes

SECRET = "[auth]\ntoken_secret = '0123456789abcdef0123456789abcdef'\n"


def lines(text: str, application: bool = False) -> list[str]:
    types = SourceTypes()
    return list(warnings({}, types, load(text, "pushserver.toml", {}, types), application))


RULES = {
    '[defaults]\nsubscribe = "users"': 'defaults.subscribe = "users"',
    '[namespaces.chat]\npublish = "token"': 'namespaces.chat.publish = "token"',
    '[channels."chat:1"]\nhistory = "users"': 'channels.chat:1.history = "users"',
    '[defaults]\npresence = "token"': 'defaults.presence = "token"',
}


@pytest.mark.parametrize("text", RULES)
def test_a_rule_for_users_needs_a_way_to_know_them(text: str) -> None:
    [line] = lines(text)
    assert line.startswith(f"{RULES[text]} is for users, and nothing says who a peer is: set auth.")
    assert lines(text, application=True) == []
    assert lines(SECRET + text) == []


@pytest.mark.parametrize("rule", ["anyone", "key", "nobody"])
def test_other_rules_need_none(rule: str) -> None:
    assert lines(f'[defaults]\npublish = "{rule}"') == []


@pytest.mark.parametrize(
    ("table", "setting"),
    [
        ("defaults", 'defaults.publish = "handler"'),
        ("namespaces.chat", 'namespaces.chat.publish = "handler"'),
        ('channels."chat:1"', 'channels.chat:1.publish = "handler"'),
    ],
)
def test_a_rule_for_handlers_needs_an_application(table: str, setting: str) -> None:
    text = f'[{table}]\npublish = "handler"'
    [line] = lines(text)
    assert line.startswith(f"{setting} lets an application decide, and without one nobody may")
    assert lines(SECRET + text) == [line]
    assert lines(text, application=True) == []


@pytest.mark.parametrize(
    "listen",
    [
        "0.0.0.0:9102",
        "[::]:9102",
        "9.9.9.9:9102",
        "push.example:9102",
        "tcp:9102",
        "tcp:9102:interface=0.0.0.0",
        "tcp6:9102:interface=\\\\:\\\\:",
        "ssl:9102:interface=9.9.9.9:privateKey=key.pem:certKey=127.0.0.1",
    ],
)
def test_metrics_that_other_machines_may_read_are_told(listen: str) -> None:
    [line] = lines(f'[server]\nmetrics_listen = "{listen}"')
    assert line.startswith("server.metrics_listen: ")
    assert "/metrics asks for no key there" in line


@pytest.mark.parametrize(
    "listen",
    [
        "9102",
        "127.0.0.1:9102",
        "[::1]:9102",
        "localhost:9102",
        "10.0.0.5:9102",
        "[fd00::5]:9102",
        "[fe80::1%eth0]:9102",
        "tcp:9102:interface=127.0.0.1",
        "tcp:9102:interface=127.0.0.1:backlog=50",
        "tcp:interface=127.0.0.1:port=9102",
        "tcp:9102:127.0.0.1",
        "ssl:9102:interface=localhost:privateKey=key.pem",
        "tcp6:9102:interface=\\\\:\\\\:1:backlog=50",
        "tcp6:9102:interface=\\\\:\\\\:1",
        "unix:/run/metrics.sock",
        "systemd:metrics",
    ],
)
def test_metrics_of_loopback_and_of_private_networks_are_not(listen: str) -> None:
    assert lines(f'[server]\nmetrics_listen = "{listen}"') == []


def test_personal_channels_need_users() -> None:
    assert lines("[auth]\npersonal_channels = true")[0].startswith("auth.personal_channels needs")
    assert lines("[auth]\npersonal_channels = true", application=True) == []


def test_a_closed_server_needs_a_key_or_a_token() -> None:
    [line] = lines("[auth]\nclosed = true")
    assert line.startswith("auth.closed is set, and there is neither a key nor a token")
    assert lines('[auth]\nclosed = true\napi_keys = ["0123456789abcdef"]') == []
    assert lines(SECRET + "closed = true") == []


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0", "128.0.0.0/1", "0.0.0.0/1", "2000::/3"])
def test_proxies_of_the_whole_internet_are_told(network: str) -> None:
    [line] = lines(f'[server]\ntrusted_proxies = ["{network}"]')
    assert line.startswith(f"server.trusted_proxies: {network} has addresses of the public inter")


@pytest.mark.parametrize(
    "network", ["10.0.0.0/8", "fd00::/8", "fc00::/7", "203.0.113.7", "173.245.48.0/20", "unix"]
)
def test_networks_of_proxies_are_not(network: str) -> None:
    assert lines(f'[server]\ntrusted_proxies = ["{network}"]') == []
