"""Tokens and keys in Chromium, with a real server: refreshed, expired, typed by a reader."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.exchange import ask, serving
from tests.e2e.server import Server, running
from tests.e2e.test_pushserver_js import got, tabs, until

SECRET = "a secret of the test, long enough for HS256"
KEY = "the-key-of-this-test"
CONFIG = f"""
[auth]
api_keys = ["{KEY}"]
token_secret = "{SECRET}"
token_leeway_seconds = 0
[defaults]
subscribe = "users"
publish = "users"
[sources]
"""
START = """async ([options, tokens]) => {
  const { connect } = await import("/static/pushserver.js");
  window.got = [];
  window.gaps = [];
  window.states = [];
  window.asked = 0;
  if (tokens) options.getToken = async () => tokens[window.asked++];
  window.server = connect(options);
  window.watch = server.watch("news", ({ data }) => got.push(data), {
    onGap: (gap) => gaps.push(gap),
    onState: (state) => states.push(state),
  });
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server"), CONFIG) as server:
        yield server


def made(seconds: float, user: str = "ann") -> str:
    return jwt.encode({"sub": user, "exp": time.time() + seconds}, SECRET, "HS256")


def publish(server: Server, number: int, channel: str = "news") -> None:
    assert ask(server, "POST", f"channels/{channel}", b"%d" % number, X_API_Key=KEY).status == 201


def start(page: Page, options: dict[str, Any], *tokens: str | None) -> None:
    page.evaluate(START, [options, list(tokens) or None])


def closed(page: Page) -> str:
    """The reason of the watch, which must end."""
    until(page, "states.at(-1)?.state === 'closed'")
    reason: str = page.evaluate("states.at(-1).reason")
    return reason


def test_a_token_is_refreshed_without_a_reconnect(browser: Browser, server: Server) -> None:
    with tabs(browser, f"{server.url}static/pushserver.js") as [page]:
        start(page, {"token": made(5)}, made(3600))
        until(page, "states.at(-1)?.state === 'live'")
        page.evaluate("() => { states.length = 0 }")
        publish(server, 1)
        until(page, "asked === 1")
        publish(server, 2)
        got(page, 1, 2)
        assert page.evaluate("states") == []
        page.evaluate("server.close()")


@pytest.mark.parametrize(
    ("options", "tokens", "reason"),
    [
        ({"token": "not.a.token"}, [], "invalid token: "),
        ({"token": made(-60)}, [], "the token has expired: connect() needs getToken"),
        ({"token": made(-60)}, [None], "not authorized"),
        ({"key": "guessed"}, [], "the API key is not one of auth.api_keys and auth.keys (3500)"),
        ({}, [], 'subscribing to news needs a user (subscribe = "users") (103)'),
    ],
)
def test_the_reason_says_what_is_wrong_with_a_token(
    browser: Browser, server: Server, options: dict[str, Any], tokens: list[Any], reason: str
) -> None:
    with tabs(browser, f"{server.url}static/pushserver.js") as [page]:
        start(page, options, *tokens)
        assert closed(page).startswith(reason)


def test_a_key_reads_and_tabs_of_other_users_have_other_connections(
    browser: Browser, server: Server
) -> None:
    script = f"{server.url}static/pushserver.js"
    with tabs(browser, script, 3) as pages:
        for page, options in zip(
            pages, ({"key": KEY}, {"token": made(3600)}, {"token": made(3600, "bob")}), strict=True
        ):
            start(page, options)
            until(page, "states.at(-1)?.state === 'live'")
        publish = "server.publish('news', 1).then(() => 'may', ({code}) => code)"
        assert [page.evaluate(publish) for page in pages] == ["may"] * 3
        answer = ask(server, "POST", "api/presence", b'{"channel": "news"}', X_API_Key=KEY)
        clients = json.loads(answer.body)["result"]["presence"].values()
        assert sorted(client.get("user", "") for client in clients) == ["", "ann", "bob"]


SHORT_GRACE = """
import sys
from pushserver.sessions import expiry
from twisted.scripts.twistd import run

expiry.GRACE_SECONDS = 1.0
sys.argv[0] = "twistd"
run()
"""
"""Starts a server that gives a client one second for another token after the end of one."""


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "push.toml").write_text(CONFIG)
    twistd = (sys.executable, "-P", "-c", SHORT_GRACE)
    with running(Server(tmp_path, "--config", "push.toml", twistd=twistd)) as server:
        yield server


def test_a_typed_token_that_ends_is_replaced_without_a_lost_event(
    browser: Browser, hasty: Server
) -> None:
    server = hasty
    for number in range(3):
        publish(server, number, "ends")
    with tabs(browser, f"{server.url}channels/ends") as [page]:
        seen, state = page.locator("#events-seen"), page.locator("#state")
        page.locator("#login-text").fill(made(6))
        page.locator("#login-text").press("Enter")
        expect(seen).to_have_text("3")
        expect(page.locator("#notice")).to_contain_text("The token has ended")
        expect(state).to_have_attribute("data-state", "reconnecting")
        publish(server, 3, "ends")
        expect(page.locator("#list li[data-offset]")).to_have_count(3)
        page.locator("#notice-action").click()
        page.locator("#login-text").fill(made(3600))
        page.locator("#login-text").press("Enter")
        expect(state).to_have_attribute("data-state", "live")
        expect(seen).to_have_text("4")
        expect(page.locator("#notice-box")).to_be_hidden()
        page.locator("#publish > summary").click()
        page.locator("#publish-data").fill('{"n": 1}')
        page.locator("#publish-data").press("Control+Enter")
        expect(seen).to_have_text("5")
    assert "eyJ" not in server.log
