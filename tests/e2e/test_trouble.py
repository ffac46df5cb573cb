"""The live page shows failures of an application, in Chromium."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.conditions import wait_until
from tests.e2e.server import Server
from tests.e2e.test_browser import AXE, LAYOUT_SHIFT, describe, state
from tests.e2e.visits import Visits

APP = """
from itertools import count
from pathlib import Path

from pushserver import PushServer

app = PushServer()
ticks = count(1)

@app.source("numbers", every=0.5)
def halting():
    tick = next(ticks)
    if tick % 2:
        raise LookupError(f"tick {tick}")
    return tick

@app.source("sensor", retry_seconds=0.5, retry_max_seconds=0.5)
async def sensor(feed):
    if not Path("plugged").exists():
        raise OSError("no sensor")
    while True:
        await feed.publish(1)
        await feed.sleep(1)

@app.source("fine", every=1.0)
def fine():
    return 1

@app.on("greet")
def greet(client, data):
    raise KeyError("name")
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server with the application, whose failures are in the log."""
    (tmp_path / "halting.py").write_text(APP)
    server = Server(tmp_path, "--app", "halting:app")
    try:
        yield server.start()
        assert server.stop() == -signal.SIGTERM
        assert "halting.py" in server.log
        assert "refused" not in server.log
    finally:
        server.kill()


def says(page: Page, what: str, when: str) -> None:
    """Wait for both parts of the line."""
    expect(page.locator("#trouble-text")).to_have_text(re.compile(what))
    expect(page.locator("#trouble-time")).to_have_text(re.compile(when))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_source_that_fails_at_every_second_tick_is_on_its_page(
    server: Server, visits: Visits, scheme: str
) -> None:
    page = visits.open("channels/numbers", color_scheme=scheme, reduced_motion="reduce")
    state(page, "live")
    says(page, r"^Source halting: LookupError: tick \d*[13579]$", r"^(\d s ago|just now), ")
    expect(page.locator("#list li[data-offset]")).not_to_have_count(0)
    page.evaluate(AXE.read_text("utf-8"))
    found = page.evaluate("axe.run()")
    assert [describe(violation) for violation in found["violations"]] == []
    assert page.evaluate(LAYOUT_SHIFT) < 0.05


def test_the_failure_disappears_when_the_source_works_again(
    server: Server, visits: Visits, tmp_path: Path
) -> None:
    page = visits.open("channels/sensor")
    says(page, "^Source sensor: OSError: no sensor$", "tried again|still running")
    (tmp_path / "plugged").touch()
    expect(page.locator("#trouble-text")).to_be_empty()
    expect(page.locator("#list li[data-offset]")).not_to_have_count(0)


def test_a_failed_handler_is_on_every_page(server: Server, visits: Visits) -> None:
    page = visits.open("channels/fine")
    state(page, "live")
    expect(page.locator("#trouble-text")).to_be_empty()
    failed = page.evaluate("""() => {
        const client = new Centrifuge(`ws://${location.host}/connection/websocket`);
        client.connect();
        return client.rpc("greet", {}).catch((error) => error.code);
    }""")
    assert failed == 100
    says(page, "^Handler greet: KeyError: 'name'$", "ago|just now")


def test_the_page_of_a_remote_visitor_has_no_failures(server: Server, browser: Browser) -> None:
    visits = Visits(browser, server.url)
    page = visits.open(extra_http_headers={"X-Forwarded-For": "192.0.2.1"})
    state(page, "live")
    expect(page.locator("#list li[data-offset]")).not_to_have_count(0)
    assert page.locator("#trouble").count() == 0
    told = page.evaluate("fetch('status?channel=numbers').then((answer) => answer.status)")
    assert told == 403
    visits.allow("403")
    visits.close()
    assert visits.problems == []


def test_the_status_is_json(server: Server) -> None:
    def source() -> tuple[str, str]:
        [source] = json.loads(server.get("status?channel=sensor").body)["sources"]
        return source["name"], source["last_failure"]

    wait_until(lambda: source() == ("sensor", "OSError: no sensor"))
