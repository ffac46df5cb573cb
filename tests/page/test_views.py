"""The views of the live page, and what the reader chooses to see in them."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.patience import PATIENCE_MS
from tests.e2e.test_browser import AXE, describe, painted
from tests.page.site import EIGHT_O_CLOCK_MS, Site
from tests.page.test_live_page import is_live, rows, shows_rows

pytestmark = pytest.mark.slow

VIEWS = ("overview", "graph", "list", "table", "json")


def choose(page: Page, view: str) -> None:
    """Choose a view with the keyboard, and wait until it is drawn."""
    page.locator(f"#views [value={view}]").press("Space")
    expect(page.locator(f"html[data-view={view}]")).to_have_count(1)


def table(page: Page) -> list[list[str]]:
    """The cells of the table, without the times."""
    found: list[list[str]] = page.locator("#table tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].slice(1).map(cell => cell.innerText))"
    )
    return found


def is_accessible(page: Page) -> None:
    """Raise for findings of axe."""
    if not page.evaluate("Boolean(window.axe)"):
        page.evaluate(AXE.read_text("utf-8"))
    found = page.evaluate("axe.run()")
    assert [describe(violation) for violation in found["violations"]] == []


def query(page: Page) -> str:
    return urlsplit(page.url).query


def test_the_url_has_the_choice_of_the_reader(site: Site) -> None:
    site.publish(*({"a": n, "room": {"b": n * 100}, "text": f"t{n}"} for n in range(1, 41)))
    page = site.open()
    is_live(page)
    choose(page, "table")
    assert table(page)[:2] == [
        ["Event", "a", "room.b", "text"],
        ["message", "40", "4000", "t40"],
    ]
    page.locator("#fields-button").click()
    page.get_by_label("room.b", exact=True).check()
    page.get_by_label("text", exact=True).check()
    page.get_by_label("room.b: right axis").check()
    page.locator("#seconds").select_option("10")
    page.locator("#filter").fill("t3")
    page.locator("#rows").select_option("30")
    wanted = [["Event", "room.b", "text"]] + [
        ["message", f"{n}00", f"t{n}"] for n in range(39, 29, -1)
    ]
    assert table(page) == wanted
    expect(page.locator("#found")).to_have_text("10 of 40")
    expect(page.locator("#graph")).to_have_attribute("data-series", "room.b")
    words = "view=table&field=room.b&field=text&right=room.b&seconds=10&filter=t3&rows=30"
    site.wait_for(page, lambda: query(page) == words)
    page.locator("#field-name").press("Escape")
    expect(page.locator("#fields-button")).to_be_focused()
    page.reload()
    expect(page.locator("#table tbody tr")).to_have_count(10)
    assert table(page) == wanted
    page.locator("#fields-button").click()
    page.get_by_role("button", name="All fields").click()
    choose(page, "graph")
    expect(page.locator("#graph")).to_have_attribute("data-points", "11")
    expect(page.locator(".legend-item")).to_have_text(["a40", "room.b4000right axis"])
    expect(page.locator("#graph canvas")).to_be_visible()
    choose(page, "json")
    expect(page.locator("#raw li")).to_have_count(10)
    expect(page.locator("#raw code").first).to_have_text('{"a":39,"room":{"b":3900},"text":"t39"}')


def test_a_wrong_choice_in_the_url_is_named(site: Site) -> None:
    site.publish(1)
    page = site.open("numbers?view=pie&rows=7")
    words = (
        "view=pie in the address: expected overview, graph, list, table, json. "
        "rows=7 in the address: expected 10, 30, 100, 300."
    )
    expect(page.locator("#notice")).to_have_text(words)
    shows_rows(page, "1")


def test_a_row_is_opened_by_mouse_and_keyboard_and_copied_whole(site: Site) -> None:
    site.publish({"n": 1}, {"n": 2}, {"n": 3}, event="measured")
    page = site.open()
    shows_rows(page, "n 3", "n 2", "n 1")
    for view, items in (("list", "#list li"), ("table", "#table tbody tr"), ("json", "#raw li")):
        choose(page, view)
        page.locator(items).nth(1).click()
        expect(page.locator("#whole-title")).to_have_text("measured #2")
        page.keyboard.press("Escape")
        buttons = page.locator(f"{items} .row-open")
        page.locator("#rows").focus()
        page.keyboard.press("Tab")
        expect(buttons.first).to_be_focused()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("End")
        expect(buttons.nth(2)).to_be_focused()
        page.keyboard.press("ArrowUp")
        page.keyboard.press("Enter")
        expect(page.locator("#whole-title")).to_have_text("measured #2")
        page.keyboard.press("Escape")
        expect(buttons.nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Whole publication").click()
    assert json.loads(page.locator("#whole-data").inner_text()) == {
        "channel": "numbers",
        "event": "measured",
        "data": {"n": 2},
        "offset": 2,
        "time": EIGHT_O_CLOCK_MS / 1000 + 2,
    }
    page.locator("#whole").get_by_role("button", name="Copy").click()
    expect(page.locator("#whole [data-copy]")).to_have_text("Copied")


def test_rows_that_are_read_stay_until_the_reader_returns_to_the_top(site: Site) -> None:
    site.publish(*range(1, 41))
    page = site.open("numbers?view=list&rows=30")
    expect(page.locator("#list li[data-offset]")).to_have_count(30)
    page.locator("#list-box").evaluate("box => box.scrollTop = 300")
    expect(page.locator("#pause")).to_have_text("Follow")
    site.publish(41)
    button = page.get_by_role("button", name="Follow (1 new)")
    expect(button).to_be_visible()
    assert rows(page)[0] == "40"
    page.locator("#list-box").evaluate("box => box.scrollTop = 0")
    expect(page.locator("#list li.newest")).to_have_attribute("data-offset", "41")
    page.locator("#list-box").evaluate("box => box.scrollTop = 300")
    expect(page.locator("#pause")).to_have_text("Follow")
    site.publish(42)
    button.click()
    expect(page.locator("#list li.newest")).to_have_attribute("data-offset", "42")
    assert page.locator("#list-box").evaluate("box => box.scrollTop") == 0


def test_a_paused_page_can_be_shown_in_other_ways(site: Site) -> None:
    site.publish({"a": 1, "b": 2})
    page = site.open()
    shows_rows(page, "a 1 b 2")
    page.locator("#pause").click()
    site.publish({"a": 3, "b": 4})
    expect(page.locator("#pause")).to_have_text("Follow (1 new)")
    choose(page, "table")
    assert table(page) == [["Event", "a", "b"], ["message", "1", "2"]]
    page.locator("#fields-button").click()
    page.get_by_label("b", exact=True).check()
    assert table(page) == [["Event", "b"], ["message", "2"]]
    expect(page.locator("#graph")).to_have_attribute("data-points", "1")
    page.locator("#pause").click()
    expect(page.locator("#table tbody tr")).to_have_count(2)
    expect(page.locator("#graph")).to_have_attribute("data-points", "2")


@pytest.mark.parametrize("width", [360, 1280])
def test_a_long_number_hides_none_of_the_others(site: Site, width: int) -> None:
    site.publish({"n": 7}, {"n": 10**29}, {"n": -1e300}, {"n": 123456789012345.5})
    page = site.open("numbers?view=list")
    page.set_viewport_size({"width": width, "height": 800})
    is_live(page)
    row = page.locator("#list li[data-offset='1']")
    visible = """row => {
      const number = document.createRange();
      number.selectNodeContents(row.querySelector(".part-number"));
      const { left, right } = number.getBoundingClientRect();
      const box = row.querySelector(".row-value").getBoundingClientRect();
      return left >= box.left && right <= box.right + 1;
    }"""
    expect(row.locator(".part-number")).to_have_text(re.compile("^7"))
    assert row.evaluate(visible)


HOSTILE: list[Any] = [
    "<img src=x onerror=alert(1)><script>alert(1)</script>",
    {"<b>key</b>": "</td><script>alert(1)</script>", "\u202eyek": "\u202etxet \u2066\u2067"},
    "x" * 65_536,
    {"text": "line\n" * 13_000, "url": "javascript:alert(1)"},
    {f"key{n}": n for n in range(10_000)},
    {"n": 1e308, "m": -1e308},
    {"n": -0.0, "m": "NaN", "i": "Infinity"},
    {"n": 2**53 + 1, "m": 5e-324},
    [[[[[[[["deep"]]]]]]]],
    {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": 1}}}}}}}},
    {"__proto__": {"x": 1}, "constructor": 2, "toString": "x", "": 3, " ": None},
    "\ud800 lone",
    {"n": None, "m": [], "i": {}},
    "",
    {"n": 3},
]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1240), ("dark", 360)])
def test_every_view_shows_hostile_data_and_is_accessible(
    browser: Browser, scheme: Any, width: int
) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce"
    )
    context.set_default_timeout(PATIENCE_MS)
    site = Site(context)
    site.status = {"time": 1, "sources": [], "handlers": []}
    site.publishes = True
    site.publish(*HOSTILE)
    page = site.open("hostile?rows=30")
    page.on("dialog", lambda dialog: site.problems.append(dialog.message))
    is_live(page)
    for view in VIEWS:
        choose(page, view)
        items = {"table": "#table tbody tr", "json": "#raw li"}.get(view, "#list li[data-offset]")
        if view != "graph":
            expect(page.locator(items)).to_have_count(len(HOSTILE))
        if view in ("overview", "graph"):
            expect(page.locator("#graph canvas")).to_be_visible()
        scroll = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(scroll) <= 0, view
        is_accessible(page)
    page.locator("#fields-button").click()
    expect(page.locator("#fields-note")).to_contain_text("type the name of another one")
    for name in ("n", "m"):
        page.locator("#field-name").fill(name)
        page.get_by_role("button", name="Add").click()
    choose(page, "table")
    assert table(page) == [
        ["Event", "n", "m"],
        ["message", "3", ""],
        ["message", "null", "[]"],
        ["message", "9007199254740993", "4.94066e-324"],
        ["message", "0", "NaN"],
        ["message", "1e+308", "-1e+308"],
    ]
    choose(page, "graph")
    expect(page.locator("#graph")).to_have_attribute("data-series", "n,m")
    assert painted(page) > 200
    is_accessible(page)
    page.get_by_role("button", name="All fields").click()
    assert page.locator("main script, main img").count() == 0
    choose(page, "list")
    for offset in (1, 4, 5):
        opener = page.locator(f"#list li[data-offset='{offset}'] .row-open")
        opener.evaluate("button => button.click()")
        assert len(page.locator("#whole-data").inner_text()) >= len(str(HOSTILE[offset - 1])) / 2
        if offset == 1:
            is_accessible(page)
        page.keyboard.press("Escape")
    context.close()
    assert site.problems == []


def test_a_view_from_the_url_does_not_jump_while_it_fills(site: Site) -> None:
    site.publish(*({"a": n, "b": "text"} for n in range(1, 30)))
    site.run_first("""
      window.shift = 0;
      const note = (list) => list.getEntries().forEach((entry) => (window.shift += entry.value));
      new PerformanceObserver(note).observe({type: "layout-shift", buffered: true});
    """)
    for view in VIEWS:
        page = site.open(f"numbers?view={view}")
        is_live(page)
        site.publish({"a": 30, "b": "more"})
        expect(page.locator("#last-age")).not_to_be_empty()
        assert page.evaluate("window.shift") < 0.02, view
        page.close()
