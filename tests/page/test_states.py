"""Every state of the live page says what it is, without an error in the console."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.page.site import Site
from tests.page.test_live_page import is_live, line_at, rows, shows_rows
from tests.page.test_views import choose, is_accessible, table

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def still(site: Site) -> None:
    """Without motion, which lessens the contrast for a moment."""
    site.still()


def sees(page: Page, selector: str, words: str) -> None:
    """Wait for this text, and for nothing that a reader could not read."""
    expect(page.locator(selector)).to_have_text(words)
    expect(page.locator(selector)).to_be_visible()
    is_accessible(page)


def test_data_without_numbers(site: Site) -> None:
    site.publish("a", {"b": "text"}, ["c"])
    page = site.open("numbers?view=graph&field=b")
    sees(page, "#graph-nothing", "No numbers in these events at b.")
    choose(page, "overview")
    shows_rows(page, "b text")
    expect(page.locator("#graph-panel")).to_be_hidden()


def test_fields_that_no_event_has(site: Site) -> None:
    site.publish({"a": 1})
    page = site.open("numbers?field=nothing")
    for view in ("overview", "table", "json"):
        choose(page, view)
        expect(page.locator("#found-none")).to_be_visible()
    sees(page, "#found-none", 'None of the events on this page has the field "nothing".')
    choose(page, "graph")
    sees(page, "#graph-nothing", "No numbers in these events at nothing.")


def test_mixed_types_in_one_field(site: Site) -> None:
    site.publish({"t": 1}, {"t": "broken"}, {"t": None}, {"t": [1]}, {"t": {"u": 2}}, {"t": 3.5})
    page = site.open("numbers?view=table")
    expect(page.locator("#table tbody tr")).to_have_count(6)
    assert [row[1:] for row in table(page)] == [
        ["t", "t.u"],
        ["3.5", ""],
        ['{"u":2}', "2"],
        ["[1]", ""],
        ["null", ""],
        ["broken", ""],
        ["1.0", ""],
    ]
    expect(page.locator("#graph")).to_have_attribute("data-series", "t,t.u")


def test_missing_events_interrupt_the_line(site: Site) -> None:
    site.publish(1, 1)
    page = site.open()
    shows_rows(page, "1", "1")
    site.recovers = False
    site.close(3011, "force reconnect")
    site.publish(*range(60))
    sees(page, "#notice", "10 events came and went while this page was away.")
    expect(page.locator("#graph")).to_have_attribute("data-points", "50")


def test_a_clock_that_jumps(site: Site) -> None:
    site.publish(1, 2)
    site.jump(3600)
    site.publish(3, 4)
    site.jump(-7200)
    site.publish(5, 6, 7)
    page = site.open()
    shows_rows(page, "7", "6", "5", "4", "3", "2", "1")
    expect(page.locator("#graph")).to_have_attribute("data-points", "3")
    expect(page.locator("#graph canvas")).to_be_visible()
    assert line_at(page, 0.5)
    site.jump(10**9)
    site.publish(8)
    expect(page.locator("#list li.newest time")).to_have_attribute("datetime", re.compile("^2058-"))
    is_accessible(page)


def test_a_channel_that_keeps_no_history(site: Site) -> None:
    site.keeps = 0
    page = site.open("fleeting")
    is_live(page)
    sees(
        page, "#empty-title", "This channel keeps no history: the page has the events from now on."
    )
    site.publish({"a": 1}, {"a": 2})
    shows_rows(page, "a 2", "a 1")
    is_accessible(page)


def test_a_channel_that_does_not_exist(site: Site) -> None:
    page = site.open("nowhere?view=graph")
    is_live(page)
    sees(page, "#graph-nothing", "The graph begins with the first number.")
    for view in ("overview", "list", "table", "json"):
        choose(page, view)
        expect(page.locator("#empty .empty-title")).to_be_visible()
    sees(page, "#empty .empty-title", "Nothing was published here yet.")


def test_a_refused_subscription(site: Site) -> None:
    site.refusal = {"code": 103, "message": "permission denied"}
    site.accepts = ["token", "key"]
    page = site.open("secret?view=table")
    sees(page, "#state-text", "Closed: permission denied (103)")
    expect(page.locator("#login-text")).to_be_visible()
    for hidden in (".panels", ".view-tools"):
        expect(page.locator(hidden)).to_be_hidden()


def test_denied_storage(site: Site) -> None:
    site.run_first("""
      for (const name of ["sessionStorage", "localStorage"]) {
        const get = () => { throw new DOMException("denied", "SecurityError") };
        Object.defineProperty(window, name, {get});
      }
    """)
    site.credentials["key"] = {"by": "key", "key": "first"}
    site.accepts = ["key"]
    site.publish(1)
    page = site.open()
    shows_rows(page, "1")
    page.locator("#login summary").click()
    page.locator("#login-text").fill("key")
    page.locator("#login-text").press("Enter")
    expect(page.locator("#login-summary")).to_contain_text("Logged in")
    shows_rows(page, "1")
    is_accessible(page)


def test_a_lost_connection_keeps_what_is_shown_in_every_view(site: Site) -> None:
    site.publish({"a": 1}, {"a": 2})
    page = site.open()
    shows_rows(page, "a 2", "a 1")
    site.down = True
    site.close(3001, "shutdown")
    expect(page.locator("#state")).to_have_attribute("data-state", "reconnecting")
    is_accessible(page)
    choose(page, "table")
    assert table(page) == [["Event", "a"], ["message", "2"], ["message", "1"]]
    choose(page, "list")
    assert rows(page) == ["a 2", "a 1"]
    site.down = False
    is_live(page)
