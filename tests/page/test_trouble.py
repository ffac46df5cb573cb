"""The live page shows failures on the server, if the server permits it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.page.site import Site
from tests.page.test_live_page import is_live, shift_of_layout

pytestmark = pytest.mark.slow

NOW = 1_795_334_400.0
ASK_MS = 5_000


def source(name: str = "sensor", **fields: Any) -> dict[str, Any]:
    """A source that failed two seconds ago and runs again, with changes from `fields`."""
    return {
        "name": name,
        "kind": "app",
        "channel": "numbers",
        "state": "running",
        "published": 3,
        "last_event": NOW,
        "last_error": "",
        "last_failure": "OSError: no answer",
        "error_time": NOW - 2,
        "errors": 1,
        "restarts": 0,
        "next_attempt": None,
        "rate": 0.5,
        **fields,
    }


FINE = source(last_failure="", error_time=None, errors=0)
FAILING = source(last_error="OSError: no answer")


def handler(seconds: float = 3.0, **fields: Any) -> dict[str, Any]:
    """A handler that failed `ago` seconds ago."""
    failed = {"name": "greet", "event": "greet", "error": "KeyError: 'name'", "time": NOW - seconds}
    return {**failed, **fields}


def status(*sources: dict[str, Any], handlers: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    """The status from the server."""
    return {"time": NOW, "sources": list(sources), "handlers": list(handlers)}


@pytest.fixture
def told(site: Site) -> Site:
    """A site that permits its pages the status, which has no failures."""
    site.hold_time()
    site.status = status(FINE)
    return site


def opened(site: Site) -> Page:
    """The live page, after its first request of the status."""
    page = site.open()
    is_live(page)
    asked(page, site, 1)
    return page


def asked(page: Page, site: Site, times: int) -> None:
    """Wait until the page has requested the status `times` times, and does not again."""
    site.wait_for(page, lambda: site.asked >= times)
    page.wait_for_timeout(100)
    assert site.asked == times


def says(page: Page, what: str, when: str) -> None:
    expect(page.locator("#trouble")).to_have_class("trouble shown")
    expect(page.locator("#trouble-text")).to_have_text(what)
    expect(page.locator("#trouble-time")).to_have_text(re.compile(f"^{when}$"))


def says_nothing(page: Page) -> None:
    expect(page.locator("#trouble")).to_have_class("trouble")
    for name in ("text", "time", "spoken"):
        expect(page.locator(f"#trouble-{name}")).to_be_empty()
    expect(page.locator("#trouble-more")).to_be_hidden()


def test_a_page_without_failures_shows_none(told: Site) -> None:
    page = opened(told)
    page.clock.run_for(ASK_MS)
    asked(page, told, 2)
    says_nothing(page)


def test_a_failing_source_is_shown_until_it_works_and_nothing_jumps(told: Site) -> None:
    page = opened(told)
    shift_of_layout(page)
    told.status = status(FAILING)
    page.clock.run_for(ASK_MS)
    says(page, "Source sensor: OSError: no answer", "[2-9] s ago, still running")
    expect(page.get_by_role("status").filter(has_text="Failing: Source sensor")).to_have_count(1)
    told.status = status(FINE)
    page.clock.run_for(ASK_MS)
    says_nothing(page)
    assert page.evaluate("window.shift") < 0.001


def test_an_earlier_failure_is_shown_at_once(told: Site) -> None:
    told.status = status(FAILING)
    says(opened(told), "Source sensor: OSError: no answer", "[2-9] s ago, still running")


def test_the_next_try_has_a_countdown(told: Site) -> None:
    told.status = status({**FAILING, "state": "backing off", "next_attempt": NOW + 30})
    page = opened(told)
    says(page, "Source sensor: OSError: no answer", r"[2-9] s ago, tried again in 2\d s|.*30 s")
    told.status["time"] = NOW + 27
    page.clock.run_for(ASK_MS)
    says(page, "Source sensor: OSError: no answer", r"\d+ s ago, tried again in [23] s")
    page.clock.run_for(3_000)
    says(page, "Source sensor: OSError: no answer", r"\d+ s ago, tried again now")


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("waiting", "waits for somebody to watch"),
        ("ended", "has ended"),
        ("stopped", "stopped with the server"),
        ("another", "another"),
    ],
)
def test_the_state_of_the_source_is_shown(told: Site, state: str, words: str) -> None:
    told.status = status({**FAILING, "state": state})
    says(opened(told), "Source sensor: OSError: no answer", f"[2-9] s ago, {words}")


def test_an_occasional_failure_is_shown_for_ten_seconds(told: Site) -> None:
    told.status = status(source())
    page = opened(told)
    says(page, "Source sensor: OSError: no answer", "[2-9] s ago, works again")
    told.status["time"] = NOW + 3
    page.clock.run_for(ASK_MS)
    asked(page, told, 2)
    says(page, "Source sensor: OSError: no answer", "[5-9] s ago, works again")
    told.status["time"] = NOW + 8
    page.clock.run_for(ASK_MS)
    asked(page, told, 3)
    says_nothing(page)


def test_a_failed_handler_is_shown_for_a_minute(told: Site) -> None:
    told.status = status(FINE, handlers=(handler(56),))
    page = opened(told)
    says(page, "Handler greet: KeyError: 'name'", r"5\d s ago")
    page.clock.run_for(4_000)
    says_nothing(page)
    told.status = status(handlers=(handler(name="hello", event="chat:greet"),))
    page.clock.run_for(ASK_MS)
    says(page, "Handler hello of chat:greet: KeyError: 'name'", r"[3-9] s ago")


def test_a_failed_template_is_shown(told: Site) -> None:
    failed = {"name": "row.html", "channel": "", "error": "no such file", "time": NOW - 900}
    told.status = {**status(FINE), "fragments": [failed]}
    page = opened(told)
    says(page, "Template row.html: no such file", r"15 min ago")
    told.status = {**status(FINE), "fragments": [{**failed, "channel": "numbers"}]}
    page.clock.run_for(ASK_MS)
    says(page, "Fragment of numbers (row.html): no such file", r"15 min ago")


def test_the_newest_failure_is_shown_and_all_on_request(told: Site) -> None:
    long = source("other", last_error="<b>" + "long " * 90, error_time=NOW - 9)
    told.status = status(FAILING, long, handlers=(handler(1),))
    page = opened(told)
    says(page, "Handler greet: KeyError: 'name'", r"[1-9] s ago \(and 2 more\)")
    page.locator("#trouble-more").press("Enter")
    expect(page.locator("#whole-title")).to_have_text("Failures")
    text = page.locator("#whole-data").inner_text()
    for line in ("Handler greet", "Source sensor", "OSError: no answer", "Source other"):
        assert line in text.splitlines()
    page.keyboard.press("Escape")
    expect(page.locator("#trouble-more")).to_be_focused()


def test_the_keyboard_focus_stays_when_the_failure_is_over(told: Site) -> None:
    told.status = status(FAILING)
    page = opened(told)
    page.locator("#trouble-more").focus()
    told.status = status(FINE)
    page.clock.run_for(ASK_MS)
    says_nothing(page)
    expect(page.locator("#state")).to_be_focused()


def test_a_screen_reader_announces_a_failing_source_but_not_each_failure(told: Site) -> None:
    page = opened(told)
    page.evaluate("""() => {
      window.spoken = [];
      const region = document.getElementById("trouble-spoken");
      const note = () => window.spoken.push(region.textContent);
      new MutationObserver(note).observe(region, {childList: true});
    }""")
    for number in range(4):
        told.status = status({**FAILING, "last_failure": f"failure {number}"})
        page.clock.run_for(ASK_MS)
        says(page, f"Source sensor: failure {number}", ".*")
    assert page.evaluate("window.spoken") == ["Failing: Source sensor"]


def test_a_page_without_permission_does_not_request_the_status(site: Site) -> None:
    site.hold_time()
    page = site.open()
    is_live(page)
    page.clock.run_for(3 * ASK_MS)
    asked(page, site, 0)
    expect(page.locator("#trouble")).to_have_count(0)


def test_a_page_without_an_answer_asks_again_after_it_has_reconnected(
    told: Site,
) -> None:
    told.allowed = ("error: Failed to load resource",)
    told.status = status(FAILING)
    page = opened(told)
    says(page, "Source sensor: OSError: no answer", ".*")
    told.status = None
    page.clock.run_for(ASK_MS)
    says_nothing(page)
    page.clock.run_for(3 * ASK_MS)
    asked(page, told, 2)
    told.status = status(FAILING)
    told.close(3001, "shutdown")
    page.clock.run_for(ASK_MS)
    is_live(page)
    says(page, "Source sensor: OSError: no answer", ".*")


def test_a_hidden_page_does_not_request_the_status(told: Site) -> None:
    page = opened(told)
    told.status = status(FAILING)
    be_seen(page, False)
    page.clock.run_for(4 * ASK_MS)
    asked(page, told, 1)
    be_seen(page, True)
    says(page, "Source sensor: OSError: no answer", ".*")
    page.clock.run_for(ASK_MS)
    asked(page, told, 3)


def be_seen(page: Page, seen: bool) -> None:
    """Change the visibility of the page, as switching tabs does."""
    page.evaluate(
        """(state) => {
          Object.defineProperty(document, "visibilityState", {value: state, configurable: true});
          document.dispatchEvent(new Event("visibilitychange"));
        }""",
        "visible" if seen else "hidden",
    )
