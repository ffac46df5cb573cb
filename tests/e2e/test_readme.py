"""The README works: its commands, its five lines, its page."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.e2e.blocks import ROOT, block_with, sections_of
from tests.e2e.follower import Follower, Programs, visits_at
from tests.e2e.test_browser import state


@pytest.fixture
def follower(tmp_path: Path) -> Iterator[Follower]:
    programs = Programs(tmp_path)
    follower = Follower(sections_of("README.md"), tmp_path, programs)
    yield follower
    if follower.server is not None:
        follower.server.kill()
    programs.close()


def test_commands_start_the_page_and_the_five_lines_and_publish(
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
    front, weather = own.open(), own.open("channels/weather")
    state(front, "live")
    expect(front.locator("h1")).to_have_text("numbers")
    state(weather, "live")
    follower.run("A channel is a URL")
    expect(weather.locator("#list li[data-offset]")).to_contain_text("21.5")
    own.close()
    assert own.problems == []
    follower.stop()
    assert follower.left() == ["As a service"]


def test_make_run_starts_the_server_of_the_clone() -> None:
    assert "$ make run\n" in block_with("README.md", "make run").text
    printed = subprocess.run(
        ["make", "--dry-run", "run", "ARGS=--port 9000"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed.splitlines() == ["tools/venv run", "exec .venv/bin/pushserver serve --port 9000"]


def test_first_screen_ends_with_the_program() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    marks = ("$ make run\n", "$ make test\n", "![", "## Five lines", "serve ticker.py\n", "curl -d")
    places = [text.index(mark) for mark in marks]
    assert places == sorted(places)
    assert text[: places[4]].count("\n") < 50
    assert text.count("\n") < 100
