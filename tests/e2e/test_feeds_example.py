"""examples/feeds: feeds and streams side by side, in two browsers, on the demo's feed server."""

from __future__ import annotations

import re
import runpy
import tomllib
from collections.abc import Iterator
from contextlib import closing
from shutil import copytree
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from pushserver.config.loader import load
from pushserver.sources.registry import SourceTypes
from tests.e2e.blocks import block_with, sections_of
from tests.e2e.conditions import wait_until
from tests.e2e.exchange import publish
from tests.e2e.server import CHECKOUT, Server, free_port, running
from tests.e2e.test_browser import AXE, describe
from tests.e2e.visits import LOST_CONNECTION, Visits

EXAMPLE = CHECKOUT / "examples" / "feeds"
KINDS = {"news": "RSS", "blog": "Atom", "tides": "SSE", "ships": "JSON", "prices": "WebSocket"}
BROKEN = """
[sources.broken]
type = "feed"
channel = "broken"
url = "http://127.0.0.1:{}/nothing"
every = 5
"""
COLUMN = '<section data-channel="broken"><h2>Broken</h2></section>\n  </main>'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The command of the README, with another port of the feed server, and a feed that fails."""
    folder = tmp_path_factory.mktemp("feeds")
    copytree(EXAMPLE, folder / "examples" / "feeds", ignore=lambda *_: ["__pycache__"])
    port = str(free_port())
    for name in ("feeds.py", "demo.py", "feeds.toml"):
        file = folder / "examples" / "feeds" / name
        file.write_text(file.read_text("utf-8").replace("8081", port))
    page = folder / "examples" / "feeds" / "pages" / "index.html"
    page.write_text(page.read_text("utf-8").replace("</main>", COLUMN))
    with (folder / "examples" / "feeds" / "feeds.toml").open("a") as config:
        config.write(BROKEN.format(port))
    command = block_with("examples/feeds/README.md", "\npushserver serve ").text.partition(
        " serve "
    )[2]
    with running(Server(folder, *command.split(), serve=True)) as server:
        yield server


@pytest.fixture
def visits(browser: Browser, server: Server) -> Iterator[Visits]:
    with closing(Visits(browser, server.url)) as visits:
        yield visits
    assert visits.problems == []


def rows(page: Page, channel: str) -> list[str]:
    """The texts of the events that a column shows, the newest first."""
    return page.locator(f"[data-channel={channel}] li:not([hidden])").all_inner_texts()


def test_columns_are_live_and_filtered(server: Server, visits: Visits) -> None:
    wide = visits.open(viewport={"width": 1300, "height": 800})
    phone = visits.open(viewport={"width": 360, "height": 640}, color_scheme="dark")
    for page in (wide, phone):
        for channel, kind in KINDS.items():
            column = page.locator(f"[data-channel={channel}]")
            expect(column.locator("h2")).to_contain_text(kind)
            expect(column.locator("li").first).to_be_visible()
        expect(page.locator("#state")).to_have_text("Live.")
        expect(page.locator("[data-channel=broken] .problem")).to_contain_text("404")
    assert "Ann, entry" in rows(wide, "blog")[0]
    hostile = {
        "title": "<b>Rye</b> & \u202eegg",
        "link": "javascript:alert(1)",
        "summary": "x" * 9000,
    }
    publish(server, "news", hostile)
    link = {
        "title": "Oats and rye",
        "link": "https://bakery.example/oats",
        "summary": "<img src=x>",
    }
    publish(server, "news", link)
    for odd in ("<i>text</i>", 7, None, [1], {"title": 3, "<b>": {"a": 2**60}}, {}):
        publish(server, "blog", odd)
    for page in (wide, phone):
        news = page.locator("[data-channel=news] li")  # the demo's may come in between
        first, second = news.filter(has_text="Oats"), news.filter(has_text="egg")
        expect(first).to_be_visible()
        assert "<b>Rye</b>" in second.inner_text()
        assert second.locator("a, b").count() == first.locator("img").count() == 0
        expect(first.locator("a")).to_have_attribute("href", link["link"])
        assert page.locator("main i").count() == 0
        page.evaluate(AXE.read_text("utf-8"))
        found = page.evaluate("axe.run()")["violations"]
        assert [describe(violation) for violation in found] == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # One field for all columns, and the URL has it.
    wide.fill("#search", "rye")
    wait_until(lambda: len(rows(wide, "news")) == 2)
    wide.fill("#search", "rye -oats")
    wait_until(lambda: len(rows(wide, "news")) == 1)
    assert rows(wide, "ships") == []
    expect(wide.locator("#found")).to_have_text("1 found")
    expect(wide.locator("[data-channel=news] .quiet").first).to_contain_text("1 of ")
    publish(server, "news", {"title": "Rye bread"})
    wait_until(lambda: len(rows(wide, "news")) == 2)
    expect(wide.locator("#found")).to_have_text("2 found")
    wide.uncheck("text=Harbour news")
    expect(wide.locator("#found")).to_have_text("0 found")
    wide.check("text=Harbour news")
    wide.uncheck("text=Tides")
    expect(wide.locator("[data-channel=tides]")).to_be_hidden()
    query = parse_qs(urlsplit(wide.url).query)
    assert query == {"q": ["rye -oats"], "hide": ["tides"]}
    wide.reload()
    wait_until(lambda: len(rows(wide, "news")) == 2)
    expect(wide.locator("#found")).to_have_text("2 found")
    expect(wide.locator("[data-channel=tides]")).to_be_hidden()
    # A view without columns has a way back.
    empty = wide.context.new_page()
    empty.goto(f"{server.url}?hide={','.join([*KINDS, 'broken'])}")
    expect(empty.locator("text=All columns are hidden.")).to_be_visible()
    empty.click("text=Show all")
    expect(empty.locator("section:visible")).to_have_count(len(KINDS) + 1)
    expect(empty.locator("#none")).to_be_hidden()
    assert empty.url == server.url
    empty.close()
    # A paused page shows what came in meanwhile when it goes on.
    phone.click("text=Pause")
    before = rows(phone, "news")
    wide.fill("#search", "")
    for title in ("Wheat", "Barley"):  # the other page shows both, one after the other
        publish(server, "news", {"title": title})
        wait_until(lambda title=title: title in " ".join(rows(wide, "news")))  # type: ignore[misc]
    assert rows(phone, "news") == before
    expect(phone.locator("#pause")).to_have_text(re.compile(r"Go on \([1-9]\d* new\)"))
    phone.click("text=Go on")
    wait_until(lambda: any("Wheat" in row for row in rows(phone, "news")))


def test_restart_loses_nothing_and_repeats_nothing(server: Server, visits: Visits) -> None:
    page = visits.open()
    publish(server, "news", {"title": "Before the restart"})
    wait_until(lambda: "Before the restart" in " ".join(rows(page, "news")))
    visits.allow(LOST_CONNECTION)
    server.stop()
    server.start()
    publish(server, "news", {"title": "After the restart"})
    wait_until(lambda: "After the restart" in " ".join(rows(page, "news")))
    for again in (page, visits.open()):
        wait_until(lambda again=again: "After the restart" in " ".join(rows(again, "news")))  # type: ignore[misc]
        found = " ".join(rows(again, "news"))
        assert found.count("Before the restart") == found.count("After the restart") == 1


def test_feed_server_has_the_same_entries_after_a_restart() -> None:
    def feeds(now: float) -> list[str]:
        names = runpy.run_path(str(EXAMPLE / "feedserver.py"))
        found = []
        for path, encode in (("/news.rss", "rss"), ("/blog.atom", "atom")):
            events = names["EVENTS"][path]
            events.advance(now)
            text = getattr(names["Handler"], encode)(SimpleNamespace(headers={"Host": "x"}), events)
            found += re.findall("<(?:item|entry)>.*?</(?:item|entry)>", text)
        return found

    before, after = feeds(1.8e9), feeds(1.8e9 + 30)
    assert len(before) == len(after) == 10
    assert len(set(before) & set(after)) == 10 - 2 - 1  # every 15 s, and every 20 s


def test_blocks_of_the_readme_are_configurations() -> None:
    blocks = [
        block.text for each in sections_of("examples/feeds/README.md").values() for block in each
    ]
    names = [name for block in blocks for name in tomllib.loads(block)["sources"]]
    assert names == ["wikipedia", "mastodon", "releases", "toots", "github"]
    for block in blocks:
        load(block, "", {}, SourceTypes())
