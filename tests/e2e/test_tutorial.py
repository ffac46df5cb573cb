"""The tutorial works: its files and commands, in order."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.e2e.blocks import sections_of
from tests.e2e.follower import Follower, Programs, visits_at
from tests.e2e.test_browser import points, state

TUTORIAL = sections_of("docs/tutorial.md")
NUMBER = re.compile(r"^\d+(\.\d+)? at \d\d:\d\d:\d\d$")


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


def test_the_whole_tutorial(browser: Browser, follower: Follower, tmp_path: Path) -> None:
    own = visits_at(browser, f"http://localhost:{follower.port}/")
    follower.write("Five lines")
    follower.run("Five lines")
    front = own.open()
    state(front, "live")
    expect(front.locator("#list li[data-offset]").nth(1)).to_be_visible()
    expect(front.locator("h1")).to_have_text("numbers")

    follower.write("A page of your own")
    page = own.open()
    expect(page.locator("#numbers li").nth(1)).to_be_visible()
    expect(page.locator("#numbers li").first).to_have_text(NUMBER)
    expect(page.locator("#state")).to_have_text("live")
    numbers = own.open("channels/numbers")
    state(numbers, "live")

    follower.write("A graph")
    page.reload()
    expect(page.locator("#graph canvas")).to_be_visible()
    expect(page.locator("#newest .figure-value")).to_have_text(re.compile(r"^\d"))

    follower.write("Another source")
    walk = own.open("channels/walk")
    state(walk, "live")
    walk.wait_for_function("() => Number(document.querySelector('#graph').dataset.points) > 2")
    assert points(walk) > 2
    state(front, "live")
    expect(front.locator("#notice-box")).to_be_hidden()
    # The live pages would draw until the end.
    for left in (front, page, numbers, walk):
        left.close()

    follower.write("Messages")
    ann, ben = own.open(), own.open()
    ann.click("#clap")
    expect(ann.locator("#mine")).to_have_text("1 of them yours")
    ben.click("#clap")
    for page in (ann, ben):
        expect(page.locator("#claps .figure-value")).to_have_text("2")
    expect(ann.locator("#mine")).to_have_text("1 of them yours")
    assert follower.server is not None
    follower.server.stop()
    expect(ann.locator("#state")).to_have_text(re.compile("^reconnecting"))
    expect(ann.locator("#clap")).to_have_js_property("inert", True)
    follower.server.start()
    for page in (ann, ben):
        expect(page.locator("#state")).to_have_text("live")
    ann.fill("#text", "<b>hello</b>")
    ann.click("text=Send")
    expect(ann.locator("#text")).to_have_value("")
    said = ben.locator("#talk li[data-offset] .row-value")
    expect(said).to_have_text(["<b>hello</b>"])

    follower.write("A notification")
    ann.reload()
    expect(ann.locator("#talk li[data-offset] .row-value")).to_have_text(["<b>hello</b>"])
    ann.click("#clap")
    expect(ben.locator("#claps .figure-value")).to_have_text("1")
    ben.reload()
    ann.click("#begin")
    for page in (ann, ben):
        expect(page.locator("#left .row-value")).to_have_text("left 0")
        expect(page.locator("#notice")).to_have_text("The time is up.")
    follower.run("A notification")
    expect(ben.locator("#left .row-value")).to_have_text("left stop!")

    follower.write("A monitor of something outside")
    follower.run("A monitor of something outside")
    ann.reload()
    temperature = ann.locator("#temperature .figure-value")
    expect(temperature).to_have_text("18.5°C")
    weather = tmp_path / "weather.json"
    weather.write_text(weather.read_text().replace("18.5", "-3"))
    expect(temperature).to_have_text("-3.0°C")
    expect(ann.locator("#weather .graph")).to_have_attribute("data-series", "temperature,humidity")

    follower.write("A test")
    follower.run("A test")
    assert follower.left() == []
    own.close()
    assert own.problems == []
    follower.stop()
