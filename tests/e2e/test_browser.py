"""The live page in Chromium."""

from __future__ import annotations

import re
import time
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect

from tests.e2e.exchange import publish
from tests.e2e.patience import PATIENCE
from tests.e2e.server import CHECKOUT, Server
from tests.e2e.visits import LOST_CONNECTION, Visits

AXE = CHECKOUT / "tests" / "node" / "node_modules" / "axe-core" / "axe.min.js"


def state(page: Page, name: str) -> None:
    """Wait for this state of the connection."""
    expect(page.locator(f"#state[data-state={name}]")).to_have_count(1)


def offsets(page: Page) -> list[int]:
    """The offsets in the list, from its top."""
    found: list[int] = page.eval_on_selector_all(
        "#list li[data-offset]", "rows => rows.map(row => Number(row.dataset.offset))"
    )
    return found


def newest(page: Page) -> tuple[int, str]:
    """Offset and text of the row that is marked as the newest."""
    row = page.locator("#list li.newest")
    return int(row.get_attribute("data-offset") or 0), row.inner_text()


def wait_for_newer(page: Page, than: int) -> int:
    """Wait for a newer row and return its offset."""
    page.wait_for_function(
        "than => Number(document.querySelector('#list li.newest')?.dataset.offset) > than",
        arg=than,
    )
    return newest(page)[0]


def wait_for_graph(page: Page) -> None:
    """Wait until the graph has the points of all ten numbers."""
    page.wait_for_function("() => Number(document.querySelector('#graph').dataset.points) >= 10")


def points(page: Page) -> int:
    """The number of points according to the label of the graph."""
    return int(page.locator("#graph").get_attribute("data-points") or 0)


def painted(page: Page) -> int:
    """The number of pixels that are drawn on the canvas of the graph."""
    count: int = page.eval_on_selector(
        "#graph canvas",
        """canvas => canvas.getContext('2d')
            .getImageData(0, 0, canvas.width, canvas.height)
            .data.filter((value, index) => index % 4 === 3 && value > 0).length""",
    )
    return count


class Wire:
    """The bytes of answers on the wire, heads and all, by the last part of their URLs."""

    def __init__(self, page: Page) -> None:
        self.sizes: dict[str, int] = {}
        self._page = page
        self._names: dict[str, str] = {}
        client = page.context.new_cdp_session(page)
        client.on("Network.requestWillBeSent", self._sent)
        client.on("Network.loadingFinished", self._finished)
        client.send("Network.enable")

    def wait_for(self, *names: str) -> None:
        """Wait until these answers have ended."""
        deadline = time.monotonic() + PATIENCE
        while not self.sizes.keys() >= {*names}:
            assert time.monotonic() < deadline, self.sizes
            self._page.wait_for_timeout(20)

    def _sent(self, event: dict[str, Any]) -> None:
        self._names[event["requestId"]] = urlsplit(event["request"]["url"]).path.rpartition("/")[2]

    def _finished(self, event: dict[str, Any]) -> None:
        name = self._names[event["requestId"]]
        self.sizes[name] = self.sizes.get(name, 0) + int(event["encodedDataLength"])


@pytest.fixture(scope="module")
def ten_numbers(server: Server) -> None:
    """Publish numbers like those of the built-in source, which would take twenty seconds."""
    for n in range(1, 11):
        publish(server, "numbers?event=newnumber", {"number": n / 8})


@pytest.mark.usefixtures("ten_numbers")
class TestThePage:
    def test_shows_the_last_ten_numbers_at_once(self, visits: Visits) -> None:
        page = visits.open()
        expect(page.locator("#list li[data-offset]")).to_have_count(10, timeout=15_000)
        shown = offsets(page)
        assert shown == list(range(shown[0], shown[0] - 10, -1))

    def test_marks_the_newest_row_at_each_publication(self, visits: Visits) -> None:
        page = visits.open()
        state(page, "live")
        expect(page.locator("#list li.newest")).to_have_count(1)
        # In one step: a publication may come at any time.
        first = page.evaluate(
            f"() => {{ {RECORD}"
            "return [...document.querySelectorAll('#list li[data-offset]')]"
            ".filter((row, index) => index === 0 || row.classList.contains('newest'))"
            ".map((row) => Number(row.dataset.offset)); }"
        )
        assert len(first) == 1, "the mark is not on the first row"
        page.wait_for_function("() => window.rows.length > 0")
        assert page.evaluate("window.rows[0].offset") == first[0] + 1
        assert len(offsets(page)) == 10

    def test_formats_values_so_that_they_align(self, visits: Visits) -> None:
        page = visits.open()
        expect(page.locator("#list li[data-offset]")).to_have_count(10)
        texts = page.locator("#list li").all_inner_texts()
        decimals = {len(word.partition(".")[2]) for text in texts for word in values(text)}
        assert decimals == {3}

    def test_draws_the_graph(self, visits: Visits) -> None:
        page = visits.open()
        state(page, "live")
        wait_for_graph(page)
        assert painted(page) > 200
        page.wait_for_function(
            "before => Number(document.querySelector('#graph').dataset.points) > before",
            arg=points(page),
        )
        assert page.locator("#graph[data-series]").count() == 1

    def test_shows_the_number_of_events_and_the_time_of_the_last(self, visits: Visits) -> None:
        page = visits.open()
        state(page, "live")
        seen, last = page.locator("#events-seen"), page.locator("#last-event")
        before = seen.inner_text()
        wait_for_newer(page, newest(page)[0])
        expect(seen).not_to_have_text(before)
        expect(last).not_to_be_empty()

    def test_is_120_kilobytes_on_the_wire_and_next_time_almost_none(self, visits: Visits) -> None:
        page = visits.open("favicon.ico")
        wire = Wire(page)
        page.goto(visits.url)
        expect(page.locator("#graph canvas")).to_be_visible()
        state(page, "live")
        wire.wait_for("", "page.css", "live.js", "uPlot.iife.min.js")
        assert 60_000 < sum(wire.sizes.values()) <= 120_000, wire.sizes
        wire.sizes.clear()
        page.goto(visits.url)
        expect(page.locator("#graph canvas")).to_be_visible()
        state(page, "live")
        wire.wait_for("")
        # The page itself did not change, and the files have their versions in their URLs: the heads
        # of three answers.
        assert 0 < sum(wire.sizes.values()) < 2_500, wire.sizes

    def test_is_in_step_with_every_other_page(self, visits: Visits) -> None:
        one, other = visits.open(), visits.open()
        for page in (one, other):
            state(page, "live")
            page.evaluate(RECORD)
        for page in (one, other):
            page.wait_for_function("() => window.rows.length >= 3")
        here, there = (
            {row["offset"]: row for row in page.evaluate("window.rows")} for page in (one, other)
        )
        both = here.keys() & there.keys()
        assert len(both) >= 2
        for offset in both:
            assert here[offset]["text"] == there[offset]["text"]
            # In milliseconds: before the next number comes.
            assert abs(here[offset]["time"] - there[offset]["time"]) < 2_000

    def test_shows_the_number_of_watchers(self, visits: Visits) -> None:
        one, other = visits.open(), visits.open()
        for page in (one, other):
            expect(page.locator("#watching")).to_contain_text("2")
        other.close()
        expect(one.locator("#watching")).to_contain_text("1")

    def test_is_the_page_of_any_channel(self, visits: Visits) -> None:
        page = visits.open("channels/numbers")
        expect(page.locator("#list li[data-offset]")).to_have_count(10)
        state(page, "live")
        wait_for_newer(page, newest(page)[0])

    def test_waits_on_a_channel_without_publications(self, visits: Visits) -> None:
        page = visits.open("channels/silence")
        state(page, "live")
        expect(page.locator("#list li[data-offset]")).to_have_count(0)

    @pytest.mark.parametrize("width", [320, 390, 768, 1920])
    def test_fits_the_screen(self, visits: Visits, width: int) -> None:
        page = visits.open(viewport=ViewportSize(width=width, height=800))
        state(page, "live")
        wait_for_graph(page)
        scroll, client = page.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert scroll <= client

    def test_adapts_when_a_phone_is_turned(self, visits: Visits) -> None:
        page = visits.open(viewport=ViewportSize(width=844, height=390), has_touch=True)
        state(page, "live")
        page.set_viewport_size(ViewportSize(width=390, height=844))
        page.wait_for_function(
            "() => document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        )

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_follows_the_colours_of_the_system(self, visits: Visits, scheme: str) -> None:
        page = visits.open(color_scheme=scheme)
        expect(page.locator(f"html[data-bs-theme={scheme}]")).to_have_count(1)

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_is_accessible(self, visits: Visits, scheme: str) -> None:
        # Without motion: a row that fades in has less contrast.
        page = visits.open(color_scheme=scheme, reduced_motion="reduce")
        state(page, "live")
        wait_for_graph(page)
        axe_finds_nothing(page)
        assert page.locator("[aria-live], [role=status], [role=log]").count() >= 1

    def test_does_not_jump_while_it_fills(self, visits: Visits) -> None:
        page = visits.open()
        state(page, "live")
        wait_for_newer(page, newest(page)[0])
        shift = page.evaluate(LAYOUT_SHIFT)
        assert shift < 0.05


class TestSeveralChannels:
    def test_are_one_view_that_the_list_of_channels_links(
        self, visits: Visits, server: Server
    ) -> None:
        for n in range(1, 4):
            publish(server, "one", {"a": n})
            publish(server, "two?event=measured", {"a": 10 * n})
        page = visits.open("channels/")
        link = page.locator("#together")
        page.get_by_label("Show one together with others").check()
        page.get_by_label("Show two together with others").check()
        expect(link).to_have_text("Show 2 together")
        axe_finds_nothing(page)
        link.click()
        expect(page).to_have_url(re.compile(r"/events\?channel=(one|two)&channel=(one|two)$"))
        state(page, "live")
        expect(page.locator("#list li[data-offset]")).to_have_count(6)
        # By time, as they were published in turns; two of one millisecond may be in either order.
        numbers = [
            int(text.split()[-1]) for text in page.locator("#list .row-value").all_inner_texts()
        ]
        assert (numbers[0], numbers[-1]) == (30, 1)
        assert [number for number in numbers if number < 10] == [3, 2, 1]
        assert [number for number in numbers if number >= 10] == [30, 20, 10]
        expect(page.locator("#list .row-event").first).to_have_text("two · measured")
        expect(page.locator("#watching")).to_have_text("2")
        expect(page.locator("#watching-names")).to_contain_text("one 1")
        lines = page.locator(".legend-name")
        expect(lines.filter(has_text="one: a")).to_have_count(1)
        expect(lines.filter(has_text="two: a")).to_have_count(1)
        publish(server, "one", {"a": 4})
        expect(page.locator("#list li.newest .row-event")).to_have_text("one")
        page.locator("#publish summary").click()
        page.locator("#publish-channel").select_option("two")
        page.locator("#publish-data").fill('{"a": 40}')
        page.locator("#publish-data").press("Control+Enter")
        expect(page.locator("#publish-result")).to_contain_text("published, event 4")
        expect(page.locator("#list li.newest .row-event")).to_have_text("two")
        page.locator("#views [value=table]").press("Space")
        first = page.locator("#table tr").nth(1).locator("td")
        expect(first).to_have_text(["two", "message", "40"])
        expect(page.locator("#command-follow")).to_contain_text("/events?channel=")
        axe_finds_nothing(page)

    def test_a_channel_that_is_refused_is_named_and_costs_no_other(
        self, visits: Visits, server: Server
    ) -> None:
        publish(server, "one", {"a": 1})
        page = visits.open("events?channel=one&channel=%24private")
        expect(page.locator("#state-text")).to_have_text(re.compile(r"^Live, without \$private \("))
        expect(page.locator("#list li[data-offset]")).not_to_have_count(0)

    def test_names_of_the_members_of_every_object(self, visits: Visits, server: Server) -> None:
        names = ("toString", "constructor", "hasOwnProperty", "%23ann", "walk")
        for name in ("toString", "constructor", "walk"):
            publish(server, name, name)
        page = visits.open("events?" + "&".join(f"channel={name}" for name in names))
        # The official client calls this member, and has no place for a channel of its name.
        refused = r"^Live, without hasOwnProperty \(the client cannot .*\), #ann \(.*user.*\)$"
        expect(page.locator("#state-text")).to_have_text(re.compile(refused))
        shown = page.locator("#list .row-value")
        expect(shown).to_have_text(["walk", "constructor", "toString"])
        page = visits.open("channels/hasOwnProperty")
        expect(page.locator("#state-text")).to_have_text(re.compile("^Closed: the client cannot"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_other_pages_are_accessible(visits: Visits, scheme: str) -> None:
    visits.allow("404")
    for path, ready in (
        ("channels/", "#channels tbody tr"),
        ("nowhere", ".error-status"),
        ("channels/quiet", "#empty:not([hidden])"),
    ):
        page = visits.open(path, color_scheme=scheme, reduced_motion="reduce")
        expect(page.locator(ready).first).to_be_visible()
        for summary in page.locator("details:visible > summary").all():
            summary.click()
        axe_finds_nothing(page)


def axe_finds_nothing(page: Page) -> None:
    if not page.evaluate("Boolean(window.axe)"):
        page.evaluate(AXE.read_text("utf-8"))
    found = page.evaluate("axe.run()")
    assert [describe(violation) for violation in found["violations"]] == []


def values(text: str) -> list[str]:
    """The decimal numbers in the text of one row."""
    return [word for word in text.split() if word.replace(".", "", 1).isdigit() and "." in word]


def describe(violation: Any) -> str:
    """One finding of axe, and its first element."""
    return f"{violation['id']}: {violation['help']}: {violation['nodes'][0]['html']}"


# Records the time of each new row, in milliseconds since 1970.
RECORD = """
    window.rows = [];
    new MutationObserver(() => {
        const row = document.querySelector('#list li.newest');
        const offset = Number(row?.dataset.offset);
        if (row && offset !== window.rows.at(-1)?.offset) {
            window.rows.push({ offset, text: row.innerText, time: Date.now() });
        }
    }).observe(document.querySelector('#list'), {
        childList: true, subtree: true, attributes: true, characterData: true,
    });
"""

LAYOUT_SHIFT = """
    () => new Promise(resolve => {
        new PerformanceObserver(list => resolve(
            list.getEntries().reduce((sum, entry) => sum + entry.value, 0)
        )).observe({ type: 'layout-shift', buffered: true });
        setTimeout(() => resolve(0), 500);
    })
"""


def test_the_page_reconnects_after_a_restart_of_the_server(
    browser: Browser, fresh_server: Server
) -> None:
    visits = Visits(browser, fresh_server.url)
    visits.allow(LOST_CONNECTION)
    page = visits.open()
    state(page, "live")
    wait_for_newer(page, 0)
    page.evaluate("window.sameDocument = true")

    fresh_server.stop()
    state(page, "reconnecting")
    expect(page.locator("#state-text")).not_to_be_empty()
    assert offsets(page), "what was shown is gone"

    fresh_server.start()
    state(page, "live")
    seen = page.locator("#events-seen")
    expect(seen).not_to_have_text(seen.inner_text())
    assert page.evaluate("window.sameDocument")
    visits.close()
    assert visits.problems == []
