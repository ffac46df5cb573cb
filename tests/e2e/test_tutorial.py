"""The tutorial works: its files and commands, in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.e2e.follower import Follower, Programs, visits_at
from tests.e2e.server import CHECKOUT
from tests.e2e.test_browser import points, state

TUTORIAL = CHECKOUT / "docs" / "tutorial.md"
SOON = 15_000
"""Milliseconds for a restart of the server and the reconnection of its pages."""


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    programs = Programs(tmp_path)
    yield programs
    programs.close()


@pytest.fixture
def follower(tmp_path: Path, programs: Programs) -> Iterator[Follower]:
    follower = Follower(TUTORIAL, tmp_path, programs)
    yield follower
    if follower.server is not None:
        follower.server.kill()


def rows(page: Page) -> Locator:
    return page.locator("#list li[data-offset]")


def test_the_whole_tutorial(browser: Browser, follower: Follower) -> None:
    own = visits_at(browser, f"http://localhost:{follower.port}/")
    follower.write("Five lines")
    follower.run("Five lines")
    front = own.open()
    state(front, "live")
    expect(rows(front).nth(1)).to_be_visible(timeout=SOON)
    expect(front.locator("h1")).to_have_text("numbers")

    follower.write("Another source")
    walk = own.open("channels/walk")
    state(walk, "live")
    walk.wait_for_function(
        "() => Number(document.querySelector('#graph').dataset.points) > 2", timeout=SOON
    )
    assert points(walk) > 2
    state(front, "live", timeout=SOON)
    expect(front.locator("#notice-box")).to_be_hidden()

    follower.write("Events from pages")
    follower.write("A page of your own")
    state(own.open("channels/numbers"), "live")
    ann, ben = own.open(), own.open()
    ann.click("#clap")
    expect(ann.locator("#mine")).to_have_text("1 of them yours")
    ben.click("#clap")
    for page in (ann, ben):
        expect(page.locator("#claps")).to_have_text("2")
    expect(ann.locator("#mine")).to_have_text("1 of them yours")
    assert follower.server is not None
    follower.server.stop()
    expect(ann.locator("#state")).to_have_text("connecting")
    expect(ann.locator("#clap")).to_be_disabled()
    ann.fill("#text", "<b>hello</b>")
    ann.press("#text", "Enter")
    follower.server.start()
    for page in (ann, ben):
        expect(page.locator("#state")).to_have_text("connected", timeout=SOON)
    expect(ann.locator("#text")).to_have_value("<b>hello</b>")
    ann.click("text=Send")
    expect(ann.locator("#text")).to_have_value("")
    expect(ben.locator("#talk li")).to_have_text(["<b>hello</b>"])

    follower.write("From a thread")
    ann.reload()
    expect(ann.locator("#talk li")).to_have_text(["<b>hello</b>"])
    ann.click("#clap")
    expect(ben.locator("#claps")).to_have_text("1", timeout=SOON)
    ann.click("#begin")
    cleo = own.open()
    for page in (ann, cleo):
        expect(page.locator("#left")).to_have_text("0", timeout=SOON)
    follower.run("From a thread")
    expect(cleo.locator("#left")).to_have_text("stop!")

    follower.write("A test")
    follower.run("A test")
    assert follower.left() == []
    own.close()
    assert own.problems == []
    follower.stop()
