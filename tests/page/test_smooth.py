"""The live page on a channel with a hundred publications a second: nothing in it grows."""

from __future__ import annotations

import pytest
from playwright.sync_api import CDPSession, Page, expect

from tests.page.site import Site
from tests.page.test_live_page import is_live
from tests.page.test_views import choose

pytestmark = pytest.mark.slow

SECONDS, RATE = 30, 100


def used(client: CDPSession) -> dict[str, float]:
    """The nodes, listeners and bytes of the page, without garbage."""
    client.send("HeapProfiler.collectGarbage")
    found = client.send("Performance.getMetrics")["metrics"]
    return {metric["name"]: metric["value"] for metric in found}


def run(site: Site, page: Page, first: int) -> int:
    """Publish as much as in half a minute, and return the last number."""
    last = first + SECONDS * RATE
    for second in range(first, last, RATE):
        site.publish_together(
            *({"a": n, "b": -n, "text": f"t{n}"} for n in range(second, second + RATE))
        )
    expect(page.locator("#events-seen")).to_have_text(f"{last:,}")
    return last


@pytest.mark.parametrize("view", ["overview", "table", "json"])
def test_memory_does_not_grow(site: Site, view: str) -> None:
    page = site.open("fast?rows=100")
    is_live(page)
    choose(page, view)
    client = page.context.new_cdp_session(page)
    client.send("Performance.enable")
    last = run(site, page, 0)
    before = used(client)
    for _ in range(2):
        last = run(site, page, last)
    after = used(client)
    for name, share in {"Nodes": 1.1, "JSEventListeners": 1.1, "JSHeapUsedSize": 1.25}.items():
        assert after[name] <= before[name] * share, (name, before[name], after[name])
    assert before["JSEventListeners"] < 500


HIDING = """
  let away = false;
  const frames = [];
  const request = window.requestAnimationFrame.bind(window);
  window.requestAnimationFrame = (onFrame) => (away ? frames.push(onFrame) : request(onFrame));
  Object.defineProperty(document, "hidden", {get: () => away});
  Object.defineProperty(document, "visibilityState", {get: () => (away ? "hidden" : "visible")});
  window.hide = (now) => {
    away = now;
    document.dispatchEvent(new Event("visibilitychange"));
    if (!away) frames.splice(0).forEach((onFrame) => request(onFrame));
  };
"""


def test_page_that_was_hidden_takes_one_step(site: Site) -> None:
    site.run_first(HIDING)
    site.publish(1, 2, 3)
    page = site.open("fast")
    seen = page.locator("#events-seen")
    expect(seen).to_have_text("3")
    page.evaluate("""() => {
      window.steps = [];
      new MutationObserver(() => steps.push(document.querySelector("#list li").dataset.offset))
        .observe(document.querySelector("#list"), {childList: true});
      hide(true);
    }""")
    for first in range(0, 5_000, 500):
        site.publish_together(*range(first, first + 500))
    # The title is visible also when the page is not.
    expect(page).to_have_title("4999 · fast")
    expect(seen).to_have_text("3")
    page.evaluate("hide(false)")
    expect(seen).to_have_text("5,003")
    assert page.evaluate("window.steps") == ["5003"]
