"""The login of the live page and of the list of channels, and the form that publishes."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.page.site import Site
from tests.page.test_live_page import is_live, shows_rows

pytestmark = pytest.mark.slow

KEY = "the-key-of-this-test"
REFUSAL = {"code": 103, "message": 'subscribing to numbers needs an API key (subscribe = "key")'}
OPERATOR = {"by": "key", "key": "operator", "publish": {"allowed": True, "reason": ""}}
STORED = "JSON.stringify([localStorage, document.cookie]) + JSON.stringify(sessionStorage)"
FAILED = "error: Failed to load resource"


@pytest.fixture
def closed(site: Site) -> Site:
    """A channel that needs a key."""
    site.refusal = REFUSAL
    site.accepts = ["key"]
    site.credentials = {KEY: OPERATOR}
    site.allowed = (FAILED,)
    site.publish(1, 2)
    return site


def give(page: Page, text: str) -> None:
    """Type a token or key with the keyboard."""
    field = page.locator("#login-text")
    expect(field).to_be_visible()
    field.fill(text)
    field.press("Enter")


def sent(site: Site, method: str) -> list[Any]:
    """The commands of this method."""
    return [command[method] for command in site.commands if method in command]


def test_a_channel_that_needs_a_key_says_so_and_shows_a_field(closed: Site) -> None:
    page = closed.open()
    expect(page.get_by_label("API key", exact=True)).to_be_visible()
    expect(page.locator("#state-text")).to_contain_text("subscribing to numbers needs an API key")
    expect(page.locator("#publish")).to_be_hidden()
    expect(page.locator(".panels")).to_be_hidden()
    give(page, KEY)
    is_live(page)
    shows_rows(page, "2", "1")
    expect(page.locator("#login-summary")).to_have_text("Logged in with the key operator")
    expect(page.locator("#login-summary")).to_be_focused()
    expect(page.locator("#login-text")).to_be_hidden()
    expect(page.locator("#publish")).to_be_visible()
    assert sent(closed, "connect")[-1]["headers"] == {"x-api-key": KEY}


@pytest.mark.parametrize("key", ["ключ", "größe und 鍵 🔑"])
def test_a_key_may_have_any_characters(closed: Site, key: str) -> None:
    closed.credentials = {key: OPERATOR}
    page = closed.open()
    give(page, key)
    is_live(page)
    assert sent(closed, "connect")[-1]["headers"] == {"x-api-key": key}


def test_a_token_is_the_token_of_the_connection(closed: Site) -> None:
    closed.accepts = ["token", "key"]
    closed.credentials = {"a.b.c": {"by": "token", "user": "ann", "seconds": 3600}}
    page = closed.open()
    expect(page.get_by_label("Token or API key")).to_be_visible()
    give(page, "a.b.c")
    is_live(page)
    expect(page.locator("#login-summary")).to_contain_text("Logged in as ann until ")
    assert sent(closed, "connect")[-1]["token"] == "a.b.c"


def test_a_wrong_one_is_answered_in_words_and_is_not_kept(closed: Site) -> None:
    page = closed.open()
    give(page, "guessed")
    expect(page.locator("#login-problem")).to_have_text("the API key is not one of ours")
    expect(page.locator("#login-text")).to_be_focused()
    assert "guessed" not in page.evaluate(STORED)
    assert len(sent(closed, "connect")) == 1
    page.locator("#login-text").press("x")
    expect(page.locator("#login-problem")).to_be_empty()


def test_one_that_does_not_suffice_is_answered_in_words(closed: Site) -> None:
    reason = "the key reader may not read numbers"
    closed.credentials["other"] = {"by": "key", "subscribe": {"allowed": False, "reason": reason}}
    page = closed.open()
    give(page, "other")
    expect(page.locator("#login-problem")).to_have_text(reason)
    assert "other" not in page.evaluate(STORED)


def test_it_is_kept_for_this_tab_and_nowhere_else_until_the_logout(closed: Site) -> None:
    urls: list[str] = []
    page = closed.open()
    page.on("request", lambda request: urls.append(request.url))
    give(page, KEY)
    is_live(page)
    page.reload()
    is_live(page)
    kept = page.evaluate(STORED)
    assert kept.startswith('[{},""]')
    assert KEY in kept
    other = closed.open()
    expect(other.locator("#login-form")).to_be_visible()
    page.locator("#login-summary").click()
    page.locator("#log-out").click()
    expect(page.locator("#login-form")).to_be_visible()
    expect(page.locator("#state")).to_have_attribute("data-state", "closed")
    expect(page.locator("#list li[data-offset]")).to_have_count(0)
    assert KEY not in page.evaluate(STORED)
    assert not any(KEY in url for url in urls)
    assert "headers" not in sent(closed, "connect")[-1]


def test_one_that_expired_while_the_page_was_away_is_forgotten_with_the_reason(
    closed: Site,
) -> None:
    page = closed.open()
    give(page, KEY)
    is_live(page)
    closed.credentials.clear()
    page.reload()
    expect(page.locator("#login-problem")).to_have_text("the API key is not one of ours")
    expect(page.locator("#login-form")).to_be_visible()
    assert KEY not in page.evaluate(STORED)


def test_a_channel_that_no_login_opens_has_no_field(site: Site) -> None:
    site.refusal = {"code": 103, "message": "it is for nobody"}
    page = site.open()
    expect(page.locator("#live.refused")).to_have_count(1)
    expect(page.locator("#state-text")).to_contain_text("it is for nobody")
    expect(page.locator("#login")).to_be_hidden()


def test_the_end_of_a_token_is_announced_and_another_one_continues(closed: Site) -> None:
    closed.accepts = ["token"]
    facts = {"by": "token", "user": "ann"}
    closed.credentials = {"a.b.c": {**facts, "seconds": 90}, "d.e.f": {**facts, "seconds": 900}}
    closed.hold_time()
    page = closed.open()
    give(page, "a.b.c")
    is_live(page)
    page.clock.run_for(20_000)
    expect(page.locator("#notice-box")).to_be_hidden()
    page.clock.run_for(20_000)
    expect(page.locator("#notice")).to_contain_text("The token ends in ")
    page.get_by_role("button", name="Log in again").click()
    expect(page.locator("#login-text")).to_be_focused()
    give(page, "d.e.f")
    expect(page.locator("#notice-box")).to_be_hidden()
    is_live(page)
    shows_rows(page, "2", "1")
    assert len(sent(closed, "connect")) == 2  # without and with the first token


def test_a_reader_who_may_publish_does_so_with_the_keyboard(site: Site) -> None:
    site.publishes = True
    page = site.open()
    is_live(page)
    page.locator("#publish > summary").press("Enter")
    page.get_by_label("Data: JSON, or any text").fill('{"number": 3}')
    page.get_by_label("Name of the event").fill("measured")
    page.get_by_label("Name of the event").press("Enter")
    expect(page.locator("#publish-result")).to_contain_text("published, event 1")
    shows_rows(page, "number 3")
    page.get_by_label("Data: JSON, or any text").press("Control+Enter")
    shows_rows(page, "number 3", "number 3")
    assert site.published == [("measured", '{"number": 3}', "")] * 2


def test_a_publication_has_the_key_and_its_refusal_is_shown(closed: Site) -> None:
    page = closed.open()
    give(page, KEY)
    is_live(page)
    page.locator("#publish > summary").click()
    page.locator("#publish-data").fill("3")
    page.locator("#publish-form button").click()
    shows_rows(page, "3", "2", "1")
    assert closed.published == [("message", "3", KEY)]
    closed.down = True
    page.locator("#publish-form button").click()
    expect(page.locator("#publish-result")).to_contain_text("the API key is not one of ours")


def test_a_reader_who_may_not_publish_gets_no_form(site: Site) -> None:
    with_answer = site.open()
    with with_answer.expect_response("**/permissions"):
        with_answer.reload()
    is_live(with_answer)
    expect(with_answer.locator("#publish")).to_be_hidden()


def test_the_fields_do_not_move_the_page_when_they_appear(site: Site) -> None:
    site.accepts = ["key"]
    site.publishes = True
    site.status = {"time": 1, "sources": [], "handlers": []}
    site.publish(1)
    page = site.open()
    heights = "[...document.querySelectorAll('.how')].map((part) => part.offsetHeight)"
    drawn_by_the_server = page.evaluate(heights)
    is_live(page)
    expect(page.locator("#events-seen")).to_have_text("1")
    with page.expect_response("**/permissions"):
        page.reload()
    is_live(page)
    assert page.evaluate(heights) == drawn_by_the_server
    assert 0 not in drawn_by_the_server


def test_the_list_of_channels_has_a_field_and_does_not_ask_without_a_key(
    closed: Site,
) -> None:
    row = {"channel": "numbers", "last": None, "last_minute": 0, "retained": 0, "watchers": 1}
    closed.channels = [row]
    closed.allowed = ()  # it does not ask for what it would not get
    page = closed.open("")
    expect(page.locator("#channels-state")).to_have_text("The list needs an API key.")
    assert closed.problems == []
    closed.allowed = (FAILED,)
    expect(page.locator(".panel-channels")).to_be_hidden()
    give(page, "guessed")
    expect(page.locator("#login-problem")).to_have_text("the API key is not one of ours")
    give(page, KEY)
    expect(page.locator(".channel-name a")).to_have_text("numbers")
    expect(page.locator("#login-summary")).to_have_text("Logged in")
    page.locator(".channel-name a").click()
    is_live(page)
    page.go_back()
    expect(page.locator(".channel-name a")).to_have_text("numbers")
    page.locator("#login-summary").click()
    page.locator("#log-out").click()
    expect(page.locator("#login-form")).to_be_visible()
    expect(page.locator(".panel-channels")).to_be_hidden()
