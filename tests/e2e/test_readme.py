"""The first screen of the README works: its commands, its five lines, its page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, expect

from tests.e2e.follower import Follower, Programs, read, visits_at
from tests.e2e.server import CHECKOUT
from tests.e2e.test_browser import state

README = CHECKOUT / "README.md"


@pytest.fixture
def follower(tmp_path: Path) -> Iterator[Follower]:
    programs = Programs(tmp_path)
    follower = Follower(README, tmp_path, programs)
    yield follower
    if follower.server is not None:
        follower.server.kill()
    programs.close()


def test_the_two_commands_start_the_five_lines_and_the_page_shows_them(
    browser: Browser, follower: Follower
) -> None:
    own = visits_at(browser, f"http://localhost:{follower.port}/")
    follower.run("")
    front = own.open()
    state(front, "live")
    front.close()
    follower.stop()
    follower.write("Five lines of Python")
    follower.run("Five lines of Python")
    follower.write("Three lines of a page")
    page = own.open()
    logged: list[str] = []

    def note(message: ConsoleMessage) -> None:
        logged.append(message.text)

    page.on("console", note)
    expect(page.locator("#graph canvas")).to_be_visible()
    expect(page.locator(".legend-item")).to_have_text(re.compile(r"^number\d"))
    page.wait_for_event("console")
    assert re.fullmatch(r"\d+(\.\d+)?", logged[-1])
    state(own.open("channels/numbers"), "live")
    own.close()
    assert own.problems == []
    follower.stop()


def test_the_first_screen_has_two_commands_a_picture_five_lines_and_a_page() -> None:
    text = README.read_text("utf-8")
    marks = (
        "$ pip install",
        "$ pushserver serve\n",
        "![",
        "## Five lines",
        "## Three lines",
        "\n## S",
    )
    places = [text.index(mark) for mark in marks]
    assert places == sorted(places)
    assert text[: places[-1]].count("\n") < 80
    [page] = read(README)["Three lines of a page"]
    script = page.text.partition("<script")[2].partition("</script")[0].splitlines()[1:]
    assert len(script) == 3
