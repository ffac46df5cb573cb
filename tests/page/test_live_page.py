"""The live page, with every kind of data and in every state of its connection."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from pushserver.resources.pages import Pages
from tests.page.site import BUNDLED, EIGHT_O_CLOCK_MS, SOURCES, Site

pytestmark = pytest.mark.slow


def rows(page: Page) -> list[str]:
    """The values in the list, newest first, with single spaces."""
    values = page.locator("#list li[data-offset] .row-value").all_inner_texts()
    return [" ".join(value.split()) for value in values]


def shows_rows(page: Page, *wanted: str) -> None:
    expect(page.locator("#list li[data-offset]")).to_have_count(len(wanted))
    assert rows(page) == list(wanted)


def is_live(page: Page) -> None:
    expect(page.locator("#state")).to_have_attribute("data-state", "live")


def record_texts(page: Page) -> None:
    """Keep the texts of the connection from now on, of which some are there only for a moment."""
    page.evaluate("""() => {
      window.texts = [];
      const text = document.querySelector("#state-text");
      const note = () => texts.push(text.textContent);
      new MutationObserver(note).observe(
        text, {childList: true, characterData: true, subtree: true});
    }""")


def said(page: Page, pattern: str) -> None:
    """Wait until one of the texts has matched."""
    page.wait_for_function(
        "(pattern) => texts.some((text) => new RegExp(pattern).test(text))", arg=pattern
    )


def width(part: Locator) -> float:
    box = part.bounding_box()
    assert box is not None
    return box["width"]


def height(part: Locator) -> float:
    box = part.bounding_box()
    assert box is not None
    return box["height"]


def shift_of_layout(page: Page) -> None:
    """Measure unexpected layout shifts from now on."""
    page.evaluate("""() => {
      window.shift = 0;
      const note = (list) => list.getEntries().forEach((entry) => (window.shift += entry.value));
      new PerformanceObserver(note).observe({type: "layout-shift"});
    }""")


def test_the_history_is_shown_at_once_newest_first_and_aligned(site: Site) -> None:
    site.publish(*({"number": number} for number in (1, 2.5, 3.125, *range(4, 13))))
    page = site.open()
    shows_rows(page, *(f"number {n}.000" for n in range(12, 3, -1)), "number 3.125")
    expect(page.locator("#list li.newest")).to_have_attribute("data-offset", "12")
    expect(page.locator("#events-seen")).to_have_text("12")
    expect(page.locator("#watching")).to_have_text("1")
    expect(page.locator("#graph canvas")).to_be_visible()
    expect(page.locator("#graph")).to_have_attribute("data-points", "12")
    expect(page.locator("#last-event")).to_have_attribute("datetime", "2026-11-22T08:00:12.000Z")


def test_the_list_is_filtered_by_event_and_data(site: Site) -> None:
    site.publish(*({"number": n, "city": "Oslo" if n % 2 else "Rome"} for n in range(1, 31)))
    site.publish({"text": "Oslo again"}, "no json", event="Storm")
    page = site.open()
    page.locator("#filter").fill("OSLO")
    assert rows(page)[:2] == ["text Oslo again", "number 29 city Oslo"]
    expect(page.locator("#found")).to_have_text("16 of 32")
    expect(page.locator("#list li[data-offset]")).to_have_count(10)
    page.locator("#filter").fill("storm json")
    shows_rows(page, "no json")
    site.publish({"number": 31, "city": "Rome"}, "more json", event="Storm")
    shows_rows(page, "more json", "no json")
    page.locator("#filter").fill("nothing like it")
    expect(page.locator("#found-none")).to_be_visible()
    shows_rows(page)
    page.locator("#filter").fill("")
    expect(page.locator("#found-none")).to_be_hidden()
    expect(page.locator("#list li.newest")).to_have_attribute("data-offset", "34")


def test_the_list_has_as_many_rows_as_one_likes(site: Site) -> None:
    site.publish(*range(1, 41))
    page = site.open()
    shift_of_layout(page)
    before = height(page.locator("#list-box"))
    page.locator("#rows").select_option("30")
    shows_rows(page, *map(str, range(40, 10, -1)))
    site.publish(41)
    expect(page.locator("#list li.newest")).to_have_attribute("data-offset", "41")
    shows_rows(page, *map(str, range(41, 11, -1)))
    # A longer list is scrolled in its place.
    assert height(page.locator("#list-box")) == pytest.approx(before, abs=1)
    assert page.evaluate("window.shift") < 0.01
    page.locator("#rows").select_option("10")
    shows_rows(page, *map(str, range(41, 31, -1)))


def test_a_paused_list_can_be_searched(site: Site) -> None:
    site.publish("red", "green", "blue")
    page = site.open()
    shows_rows(page, "blue", "green", "red")
    page.locator("#pause").click()
    site.publish("red again")
    expect(page.locator("#pause")).to_have_text("Follow (1 new)")
    page.locator("#filter").fill("re")
    shows_rows(page, "green", "red")
    page.locator("#pause").click()
    shows_rows(page, "red again", "green", "red")


def test_the_title_has_the_newest_number(site: Site) -> None:
    site.publish({"number": 4.5}, {"number": 4.821})
    page = site.open()
    expect(page).to_have_title("4.821 · numbers")


def test_a_new_event_moves_the_others_down_by_one(site: Site) -> None:
    site.publish(*range(10))
    page = site.open()
    expect(page.locator("#list li[data-offset]")).to_have_count(10)
    site.publish(10, event="late")
    expect(page.locator("#list li.newest .row-event")).to_have_text("late")
    assert [int(row) for row in rows(page)] == list(range(10, 0, -1))


def test_every_number_becomes_a_line_and_new_keys_new_lines(site: Site) -> None:
    site.publish({"temp": 1, "room": {"hum": 40.5}, "name": "cellar"})
    page = site.open()
    expect(page.locator("#graph")).to_have_attribute("data-series", "temp,room.hum")
    site.publish({"temp": 2, "wind": 3}, 7)
    expect(page.locator("#graph")).to_have_attribute("data-series", "temp,room.hum,wind,value")
    expect(page.locator(".legend-item")).to_have_text(["temp2", "room.hum40.5", "wind3", "value7"])


def test_the_number_of_lines_is_bounded_and_the_page_says_so(site: Site) -> None:
    site.publish({f"k{index}": index for index in range(12)})
    page = site.open()
    expect(page.locator(".legend-item")).to_have_count(8)
    expect(page.locator("#legend-more")).to_be_visible()


def test_a_line_can_be_hidden_with_the_keyboard(site: Site) -> None:
    site.publish({"a": 1, "b": 2}, {"a": 2, "b": 3})
    page = site.open()
    item = page.locator(".legend-item").first
    item.press("Enter")
    expect(item).to_have_attribute("aria-pressed", "false")


def test_a_line_keeps_the_focus_when_another_one_appears(site: Site) -> None:
    site.publish({"a": 1})
    page = site.open()
    expect(page.locator("#graph canvas")).to_be_visible()
    item = page.locator(".legend-item").first
    item.focus()
    site.publish({"a": 2, "b": 3})
    expect(page.locator(".legend-item")).to_have_text(["a2", "b3"])
    expect(item).to_be_focused()


def test_uplot_is_loaded_with_the_first_number(site: Site) -> None:
    site.publish("a text")
    page = site.open()
    shows_rows(page, "a text")
    loaded = (
        "performance.getEntriesByType('resource').filter(({name}) => /uPlot/.test(name)).length"
    )
    assert page.evaluate(loaded) == 0
    site.publish(1, 2)
    expect(page.locator("#graph canvas")).to_be_visible()
    assert page.evaluate(loaded) == 1


def test_the_sources_of_the_bundle_show_the_same_page(site: Site) -> None:
    site.documents = SOURCES
    site.publish({"t": 21.5}, {"t": 22.5})
    page = site.open()
    is_live(page)
    shows_rows(page, "t 22.5", "t 21.5")
    expect(page.locator("#graph canvas")).to_be_visible()
    site.publish({"t": 23})
    expect(page.locator("#events-seen")).to_have_text("3")


def test_data_of_any_kind_is_readable(site: Site) -> None:
    kinds: list[tuple[object, str]] = [
        ("plain <b>text</b>", "plain <b>text</b>"),
        ("", '""'),
        (None, "null"),
        (True, "true"),
        ([1, 2, {"x": 3}], '[1,2,{"x":3}]'),
        ({}, "{}"),
        ({"user": "ann", "ok": False}, "user ann ok false"),
        ({"tiny": 1e-9}, "tiny 1e-9"),
        (0.1 + 0.2, "0.3"),
        ({"__proto__": 1, "a b": 2}, "__proto__ 1 a b 2"),
    ]
    site.publish(*(data for data, _ in kinds))
    shows_rows(site.open("mixed"), *(shown for _, shown in reversed(kinds)))


@pytest.mark.parametrize(
    ("numbers", "shown"),
    [
        ([0.0000121, 0.0000125], ["0.0000121", "0.0000125"]),
        ([0.00002, 0.5, -0.00004], ["0.00002", "0.50000", "-0.00004"]),
        ([1.08345, 1.08352], ["1.08345", "1.08352"]),
        ([1e-7, 0], ["1e-7", "0"]),
        ([1 / 3, 1234.56789], ["0.333333", "1234.567890"]),
    ],
)
def test_a_small_number_is_not_shown_as_zero(
    site: Site, numbers: list[float], shown: list[str]
) -> None:
    site.publish(*({"usd": number} for number in numbers))
    page = site.open()
    shows_rows(page, *(f"usd {text}" for text in reversed(shown)))
    expect(page.locator(".legend-value")).to_have_text(shown[-1])
    expect(page).to_have_title(f"{shown[-1]} · numbers")


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (0.0000121, 0.0000125),
        (52.520008, 52.520011),
        (1000001, 1000009),
        (1.733e15, 1.733e15 + 5e6),
    ],
)
def test_no_two_labels_of_an_axis_are_equal(site: Site, low: float, high: float) -> None:
    site.record_labels()
    site.publish({"usd": low}, {"usd": high})
    page = site.open()
    expect(page.locator("#graph canvas")).to_be_visible()
    labels = [label for label in page.evaluate("window.labels") if not re.search("[:s]", label)]
    assert len(labels) > 2
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(
    ("numbers", "shown"),
    [
        ([110988741790818968, 0.5], ["110988741790818968", "0.5"]),
        ([1733000000000001, 1733000000000002.5], ["1733000000000001", "1733000000000002.5"]),
        ([-9007199254740993, 2**64 + 1], ["-9007199254740993", "18446744073709551617"]),
        ([9007199254740991, 10.25], ["9007199254740991", "10.25"]),
    ],
)
def test_a_large_integer_is_shown_as_it_was_sent(
    site: Site, numbers: list[float], shown: list[str]
) -> None:
    page = site.open()
    is_live(page)
    site.publish(*({"id": number} for number in numbers))
    shows_rows(page, *(f"id {text}" for text in reversed(shown)))
    expect(page.locator(".legend-value")).to_have_text(shown[-1])
    expect(page.locator("#graph")).to_have_attribute("data-points", "2")


def test_a_large_integer_inside_other_data_is_shown_as_it_was_sent(site: Site) -> None:
    data = {"ids": [12345678901234567890], "text": "x" * 300, "deep": {"at": 1795334400000000001}}
    site.publish(data, 12345678901234567890 * 10**40)
    page = site.open()
    page.locator(".row-more").first.wait_for()
    first, second = rows(page)
    assert first == str(12345678901234567890 * 10**40)
    assert second.startswith("ids [12345678901234567890] text xx")
    assert second.endswith("deep.at 1795334400000000001")
    page.locator("li[data-offset='1'] .row-more").click()
    assert json.loads(page.locator("#whole-data").inner_text()) == data


def test_deep_data_with_a_large_integer_does_not_end_the_connection(site: Site) -> None:
    page = site.open()
    is_live(page)
    site.publish_text("[" * 9000 + "12345678901234567890" + "]" * 9000)
    site.publish(7)
    expect(page.locator("#events-seen")).to_have_text("2")
    is_live(page)


def line_at(page: Page, moment: float) -> bool:
    """Whether the graph has a coloured pixel at this fraction of its width."""
    return bool(
        page.evaluate(
            """(moment) => {
              const canvas = document.querySelector("#graph canvas");
              const plot = document.querySelector("#graph .u-over").getBoundingClientRect();
              const scale = canvas.width / canvas.getBoundingClientRect().width;
              const {left, top} = canvas.getBoundingClientRect();
              const x = Math.round((plot.left - left + plot.width * moment) * scale);
              const y = Math.round((plot.top - top) * scale);
              const height = Math.floor(plot.height * scale) - 1; // without the labels
              // Of a copy: Chromium warns if a visible canvas is read repeatedly.
              const copy = new OffscreenCanvas(1, height);
              const context = copy.getContext("2d", {willReadFrequently: true});
              context.drawImage(canvas, -x, -y);
              const {data} = context.getImageData(0, 0, 1, height);
              return data.some((red, at) => at % 4 === 0 && Math.abs(red - data[at + 2]) > 60);
            }""",
            moment,
        )
    )


@pytest.mark.parametrize(
    ("before", "between", "is_gap"),
    [
        ({"t": 21.5}, {"t": None}, True),
        ({"t": 21.5}, {"u": 3}, False),
        ({"t": 21.5}, {"t": None, "u": 3}, True),
        ({"room": {"t": 21.5}}, {"room": None}, True),
        ({"room": {"t": 21.5}}, {"roo": None}, False),
        ({"t": 2**60}, {"t": None}, True),
        (21.5, None, True),
        (21.5, "text", False),
    ],
)
def test_a_null_interrupts_its_line_and_an_absent_key_does_not(
    site: Site, before: object, between: object, is_gap: bool
) -> None:
    site.publish(before, before, between, before, before)
    page = site.open()
    expect(page.locator("#events-seen")).to_have_text("5")
    expect(page.locator("#graph canvas")).to_be_visible()
    assert line_at(page, 0.125)
    assert line_at(page, 0.875)
    assert line_at(page, 0.45) is not is_gap


def test_the_legend_keeps_the_newest_number_after_a_null(site: Site) -> None:
    site.publish({"t": 21.5}, {"t": None})
    page = site.open()
    expect(page.locator(".legend-item")).to_have_text(["t21.5"])
    expect(page.locator("#graph")).to_have_attribute("data-points", "2")


def test_a_channel_without_numbers_has_no_graph_until_the_first(site: Site) -> None:
    text = "the list has the width as long as there is nothing to draw"
    site.publish(text)
    page = site.open("log")
    graph, panel, more = (page.locator(at) for at in ("#graph-panel", ".panel-list", ".row-more"))
    expect(graph).to_be_hidden()
    alone = width(panel)
    assert alone == width(page.locator(".figures"))
    expect(more).to_be_hidden()
    site.publish(1)
    expect(page.locator("#graph canvas")).to_be_visible()
    assert width(page.locator("#graph canvas")) > width(panel)
    expect(more.last).to_be_visible()
    site.publish("and a text again")
    expect(page.locator("#events-seen")).to_have_text("3")
    expect(graph).to_be_visible()
    site.restart("two")
    site.publish(text)
    expect(graph).to_be_hidden()
    assert width(panel) == alone
    expect(more).to_be_hidden()


def test_long_text_is_cut_and_available_in_full(site: Site) -> None:
    text = "word " * 300
    site.publish(text)
    page = site.open("log")
    page.locator(".row-more").press("Enter")
    expect(page.locator("#whole-data")).to_have_text(text)
    page.keyboard.press("Escape")
    expect(page.locator("#whole")).to_be_hidden()
    expect(page.locator(".row-more")).to_be_focused()


def test_an_empty_channel_shows_how_to_publish(site: Site) -> None:
    page = site.open("new")
    command = """curl -d '{"number": 3}' http://push.test/channels/new"""
    expect(page.locator("#empty code")).to_have_text(command)
    page.locator("#empty button").click()
    expect(page.locator("#empty button")).to_have_text("Copied")
    shift_of_layout(page)
    site.publish({"number": 3})
    expect(page.locator("#empty")).to_be_hidden()
    shows_rows(page, "number 3")
    assert page.evaluate("window.shift") < 0.01


def test_the_page_shows_the_number_of_watchers(site: Site) -> None:
    page = site.open()
    expect(page.locator("#watching")).to_have_text("1")
    expect(page.locator("#watching-names")).to_have_text("only you")
    site.join("somebody")
    expect(page.locator("#watching")).to_have_text("2")
    expect(page.locator("#watching-names")).to_have_text("you and 1 other")
    site.join("me")  # already counted
    site.join("another", user="ann")
    expect(page.locator("#watching")).to_have_text("3")
    expect(page.locator("#watching-names")).to_have_text("you, ann and 1 other")


def test_on_a_phone_nothing_moves_when_others_connect(site: Site) -> None:
    page = site.open()
    page.set_viewport_size({"width": 390, "height": 844})
    expect(page.locator("#watching-names")).to_have_text("only you")
    shift_of_layout(page)
    site.join("somebody", user="a-name-of-some-length")
    expect(page.locator("#watching-names")).to_have_text("you and a-name-of-some-length")
    for number in range(3):
        site.join(f"another {number}", user=f"somebody {number}")
    expect(page.locator("#watching")).to_have_text("5")
    assert page.evaluate("window.shift") < 0.01


def test_a_lost_connection_shows_a_countdown_and_recovers(site: Site) -> None:
    site.publish(1)
    page = site.open()
    is_live(page)
    page.evaluate("Math.random = () => 0.999")
    record_texts(page)
    site.down = True
    site.close(3001, "shutdown")
    said(page, r"^Reconnecting in \d s: the server is shutting down$")
    expect(page.locator("#state")).to_have_attribute("data-state", "reconnecting")
    expect(page.locator("#watching")).to_have_text("–")
    expect(page.locator("#state-button")).to_be_visible()
    # The first pauses may end before the click.
    expect(page.locator("#state-text")).to_have_text(re.compile(r"^Reconnecting in [345] s: "))
    site.publish(2)
    site.down = False
    page.evaluate("document.querySelector('#state-button').click()")
    is_live(page)
    shows_rows(page, "2", "1")
    expect(page.locator("#events-seen")).to_have_text("2")
    expect(page.locator("#notice-box")).to_be_hidden()


def test_a_page_reconnects_after_five_seconds_at_most(site: Site) -> None:
    page = site.open()
    is_live(page)
    page.evaluate("Math.random = () => 0.999")
    site.down = True
    site.close(3001, "shutdown")
    for _ in range(5):
        expect(page.locator("#state-text")).to_have_text(re.compile(r"in \d+ s"))
        page.locator("#state-button").click()
    expect(page.locator("#state-text")).to_have_text(re.compile(r"in [45] s"))


def test_a_new_history_has_a_notice_and_is_drawn(site: Site) -> None:
    site.publish(1, 2, 3)
    page = site.open()
    is_live(page)
    site.restart("two")
    site.publish(10)
    expect(page.locator("#notice")).to_contain_text("new history")
    shows_rows(page, "10")
    expect(page.locator("#events-seen")).to_have_text("4")
    site.publish(11)
    shows_rows(page, "11", "10")
    page.locator("#notice-close").click()
    expect(page.locator("#notice-box")).to_be_hidden()


def test_events_that_a_new_history_still_has_are_not_counted_again(site: Site) -> None:
    site.publish(1, 2, 3)
    page = site.open()
    is_live(page)
    expect(page.locator("#events-seen")).to_have_text("3")
    site.restart("two", kept=2)
    site.publish(10, 11)
    shows_rows(page, "11", "10", "2", "1")
    expect(page.locator("#events-seen")).to_have_text("5")


def test_a_channel_that_was_empty_may_come_back_with_another_epoch(site: Site) -> None:
    page = site.open()
    is_live(page)
    site.renew("two")
    site.publish(1, 2)
    shows_rows(page, "2", "1")
    site.recovers = False
    site.close(3001, "shutdown")
    site.publish(3)
    shows_rows(page, "3", "2", "1")
    expect(page.locator("#events-seen")).to_have_text("3")
    expect(page.locator("#notice-box")).to_be_hidden()


def test_a_recovered_history_has_no_notice(site: Site) -> None:
    site.publish(1, 2)
    page = site.open()
    is_live(page)
    site.recovers = False
    site.close(3011, "force reconnect")
    site.publish(3)
    expect(page.locator("#list li[data-offset]")).to_have_count(3)
    expect(page.locator("#events-seen")).to_have_text("3")
    expect(page.locator("#notice-box")).to_be_hidden()


def test_lost_events_are_counted_in_the_notice(site: Site) -> None:
    site.publish(1)
    page = site.open()
    is_live(page)
    site.recovers = False
    site.close(3011, "force reconnect")
    site.publish(*range(54))
    expect(page.locator("#notice")).to_have_text("4 events came and went while this page was away.")


def test_a_final_close_is_shown_and_can_be_undone(site: Site) -> None:
    page = site.open()
    is_live(page)
    site.close(3503, "force no reconnect")
    expect(page.locator("#state-text")).to_have_text("Closed: force no reconnect (3503)")
    expect(page.locator("#state")).to_have_attribute("data-state", "closed")
    page.get_by_role("button", name="Connect again").click()
    is_live(page)


def test_a_refused_channel_shows_the_reason(site: Site) -> None:
    site.refusal = {"code": 103, "message": "permission denied"}
    page = site.open("secret")
    expect(page.locator("#state-text")).to_have_text("Closed: permission denied (103)")


def test_a_burst_is_drawn_within_bounds(site: Site) -> None:
    page = site.open("fast")
    is_live(page)
    site.publish(*range(800))
    expect(page.locator("#events-seen")).to_have_text("800")
    expect(page.locator("#graph")).to_have_attribute("data-points", "50")
    assert [int(row) for row in rows(page)] == list(range(799, 789, -1))


def test_a_paused_page_stands_still_and_counts(site: Site) -> None:
    site.publish(1)
    page = site.open()
    is_live(page)
    page.get_by_role("button", name="Pause").click()
    site.publish(2, 3)
    page.get_by_role("button", name="Follow (2 new)").click()
    shows_rows(page, "3", "2", "1")


def test_a_screen_reader_announces_the_connection_but_not_every_value(site: Site) -> None:
    page = site.open()
    page.evaluate("""() => {
      window.spoken = [];
      const note = () => window.spoken.push(document.getElementById("spoken").textContent);
      new MutationObserver(note).observe(document.getElementById("spoken"), {childList: true});
    }""")
    site.publish(*range(30))
    expect(page.locator("#events-seen")).to_have_text("30")
    expect(page.locator("#spoken")).to_have_text("Live")
    assert len(page.evaluate("window.spoken")) <= 2


def test_an_invalid_name_is_explained(site: Site) -> None:
    field = site.open().get_by_label("Open another channel")
    for name, problem in (
        ("", "Type the name of a channel."),
        ("-x", 'A channel name begins with a letter or a digit, $ or #; this one is "-x".'),
        (
            "a b",
            (
                "A channel name is made of A-Z a-z 0-9 _ . : @ - only, perhaps with $ before it"
                ' and #USER,USER at its end; this one is "a b".'
            ),
        ),
        ("x" * 129, "A channel name has at most 128 characters; this one has 129."),
    ):
        field.fill(name)
        field.press("Enter")
        assert field.evaluate("(field) => field.validationMessage") == problem


def test_another_channel_is_opened_by_its_name(site: Site) -> None:
    page = site.open()
    page.get_by_label("Open another channel").fill("room:a.b@c-d_e")
    page.get_by_role("button", name="Open").click()
    expect(page).to_have_url("http://push.test/channels/room:a.b@c-d_e")
    expect(page.get_by_role("heading", level=1)).to_have_text("room:a.b@c-d_e")


@pytest.mark.parametrize("language", ["C", "en-US@posix", "", "de_DE.UTF-8", "de"])
def test_the_graph_is_drawn_in_any_language_of_the_browser(site: Site, language: str) -> None:
    site.speak(language)
    site.publish(1, 2)
    page = site.open()
    expect(page.locator("#graph canvas")).to_be_visible()
    expect(page.locator("#graph-nothing")).to_be_empty()
    assert page.evaluate("navigator.language") == (language if language == "de" else "en-GB")


def test_without_uplot_the_graph_says_so_and_the_list_is_live(site: Site) -> None:
    site.missing, site.allowed = ("uPlot.iife.min.js",), ("error: Failed to load resource",)
    site.publish({"t": 21.5})
    page = site.open()
    is_live(page)
    expect(page.locator("#graph-nothing")).to_have_text("No graph: uPlot did not load.")
    site.publish({"t": 22})
    shows_rows(page, "t 22.0", "t 21.5")
    expect(page.locator(".legend-item")).to_have_text(["t22.0"])


@pytest.mark.parametrize(
    ("documents", "name"),
    [
        (BUNDLED, "live.js"),
        (SOURCES, "centrifuge.js"),
        (SOURCES, "live.js"),
        (SOURCES, "list.js"),
    ],
    ids=["bundle", "library", "page", "module"],
)
def test_a_page_whose_script_does_not_load_says_so(site: Site, documents: Pages, name: str) -> None:
    site.documents, site.missing = documents, (name,)
    site.allowed = ("error: Failed to load resource",)
    page = site.open()
    expect(page.locator("#state")).to_have_attribute("data-state", "closed")
    # A browser does not name the module that a module lacks.
    words = "Not started: live.js did not load. Reload the page."
    expect(page.locator("#state-text")).to_have_text(words)


def test_a_page_whose_script_fails_says_so(site: Site) -> None:
    site.allowed = ("error: no such thing",)
    site.run_first(
        "window.ResizeObserver = class { constructor() { throw Error('no such thing') } }"
    )
    page = site.open()
    words = "Not started: Uncaught Error: no such thing. Reload the page."
    expect(page.locator("#state-text")).to_have_text(words)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            (403, '{"error":{"code":403,"message":"https://push.test is not allowed"}}'),
            "the server answered 403: https://push.test is not allowed",
        ),
        ((403, "<h1>Forbidden</h1>"), "the server answered 403"),
        (
            (404, "<h1>Not Found</h1>"),
            "no pushserver of this version is there; the server answered 404",
        ),
        (
            (426, '{"error":{"code":426,"message":"upgrade to websocket"}}'),
            "the server answered 426: upgrade to websocket",
        ),
        ((502, "<h1>Bad Gateway</h1>"), "the proxy answered 502: no server behind it"),
        (
            (503, '{"error":{"code":503,"message":"the server is full"}}'),
            "the server answered 503: the server is full",
        ),
    ],
)
def test_a_page_that_is_refused_shows_the_answer(
    site: Site, answer: tuple[int, str], words: str
) -> None:
    site.allowed = ("error: Failed to load resource", "error: EventSource's response")
    site.down, site.answer = True, answer
    page = site.open()
    expect(page.locator("#state-text")).to_have_text(re.compile(rf"in \d s: {re.escape(words)}$"))
    site.down, site.answer = False, None
    # The next attempt may come before a click on "Try now" could.
    expect(page.locator("#state")).to_have_attribute("data-state", "live")


def test_a_page_that_was_live_shows_the_answer(site: Site) -> None:
    site.allowed = ("error: Failed to load resource",)
    page = site.open()
    is_live(page)
    site.down, site.answer = True, (502, "<h1>Bad Gateway</h1>")
    site.close(3001, "shutdown")
    words = re.compile(r"in \d s: the proxy answered 502: no server behind it$")
    expect(page.locator("#state-text")).to_have_text(words)
    site.down, site.answer = False, None
    is_live(page)
    record_texts(page)
    site.down = True
    site.close(3001, "shutdown")
    said(page, "the server is shutting down$")


def test_a_lost_connection_does_not_blame_the_proxy_for_a_request_without_upgrade(
    site: Site,
) -> None:
    site.allowed = ("error: Failed to load resource",)
    page = site.open()
    is_live(page)
    site.down, site.answer = True, (426, '{"error":{"code":426,"message":"pass Upgrade on"}}')
    site.close(3001, "shutdown")
    # A pause of three seconds or more follows only after several attempts.
    words = re.compile(r"in [345] s: no answer from the server")
    expect(page.locator("#state-text")).to_contain_text(words)


def listed(name: str, **values: Any) -> dict[str, Any]:
    """A row of the list of channels."""
    row = {"channel": name, "retained": 0, "offset": 0, "watchers": 0, "last": None}
    return row | {"last_minute": 0} | values


def test_an_empty_channel_names_those_with_a_similar_name(site: Site) -> None:
    site.status = {"sources": [], "handlers": []}
    site.channels = [listed(name) for name in ("orders", "numbers", "number5", "new", "x")]
    page = site.open("number")
    names = page.locator("#near-names")
    expect(names).to_have_text("numbers, number5")
    names.get_by_role("link", name="numbers").click()
    expect(page).to_have_url("http://push.test/channels/numbers")


def test_the_field_for_a_channel_completes_its_name(site: Site) -> None:
    site.status = {"sources": [], "handlers": []}
    site.channels = [listed(name) for name in ("orders", "bells", "belts")]
    site.publish(1)
    field = site.open().get_by_label("Open another channel")
    options = field.page.locator("#channel-names option")
    field.fill("be")
    expect(options).to_have_count(2)
    field.fill("or")
    expect(options).to_have_count(1)
    expect(options).to_have_attribute("value", "orders")


def test_a_page_that_may_not_list_channels_asks_for_none(site: Site) -> None:
    page = site.open("new")
    expect(page.locator("#empty")).to_be_visible()
    page.get_by_label("Open another channel").fill("n")
    expect(page.locator(".all-channels")).to_have_count(0)
    expect(page.locator("#near")).to_be_hidden()
    assert site.searches == []


class TestTheListOfChannels:
    def test_is_up_to_date(self, site: Site) -> None:
        now = EIGHT_O_CLOCK_MS / 1000
        last = {"event": "measured", "time": now - 5}
        site.channels = [
            listed("numbers", retained=12_345, watchers=2, last=last, last_minute=30)
            | {"minute": [0, 100, 400, 1]},
            listed("chat:lobby", watchers=1),
        ]
        page = site.open("")
        page.clock.install(time=now)
        page.reload()
        rows = page.locator("#channels tbody tr")
        expect(rows).to_have_count(2)
        expect(rows.first.locator("th, td:not(.choice)")).to_have_text(
            ["numbers", "measured, 5 s ago", "30", "12,345", "2"]
        )
        expect(rows.last.locator("th, td:not(.choice)")).to_have_text(
            ["chat:lobby", "–", "0", "0", "1"]
        )
        heights = "bars => bars.map(bar => Number(bar.getAttribute('height')))"
        assert rows.first.locator(".bars rect").evaluate_all(heights) == [1, 5, 20, 2]
        assert rows.last.locator(".bars rect").count() == 0
        expect(page.locator("#channels-state")).to_have_text("2 channels")
        site.channels = [listed("new"), site.channels[0] | {"retained": 12_346}]
        page.clock.run_for(2_000)
        expect(rows.locator("th")).to_have_text(["numbers", "new"])
        expect(rows.first.locator("td").nth(3)).to_have_text("12,346")
        rows.first.get_by_role("link").click()
        expect(page).to_have_url("http://push.test/channels/numbers")

    def test_shows_long_names_in_a_line_and_all_numbers_on_a_phone(self, site: Site) -> None:
        last = {"event": "newnumber", "time": EIGHT_O_CLOCK_MS / 1000}
        names = ["numbers", "room:a-name-of-forty-characters-in-a-row", "orders"]
        site.channels = [
            listed(name, retained=12_345, watchers=12_345, last=last, last_minute=12_345)
            for name in names
        ]
        page = site.open("")
        page.set_viewport_size({"width": 390, "height": 844})
        rows = page.locator("#channels tr")
        expect(rows).to_have_count(4)
        height = "links => new Set(links.map(link => link.offsetHeight)).size"
        assert page.locator("#channels a").evaluate_all(height) == 1
        wide = "element => element.scrollWidth > element.clientWidth"
        for part in (".panel-channels", "#channel-name"):
            assert not page.locator(part).evaluate(wide), part
        # Room for the placeholder.
        assert page.locator("#channel-name").evaluate("field => field.offsetWidth") > 110
        expect(page.get_by_role("link", name="pushserver")).to_have_count(1)

    def test_that_is_empty_says_so(self, site: Site) -> None:
        page = site.open("")
        expect(
            page.get_by_text("Nothing was published yet, and nobody is watching.")
        ).to_be_visible()
        expect(page.locator("#channels")).to_be_hidden()
