"""A browser for these tests, and a site for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.e2e.patience import PATIENCE_MS
from tests.e2e.visits import CHROMIUM
from tests.page.site import Site

expect.set_options(timeout=PATIENCE_MS)


# Not for the session: Playwright keeps an event loop running in this thread as
# long as it is there, in which no other test could run its own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, without its own traffic."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM.path, args=CHROMIUM.options)
        yield chromium
        chromium.close()


@pytest.fixture
def site(browser: Browser) -> Iterator[Site]:
    """A server inside the test; fails the test for anything that went wrong in its pages."""
    context = browser.new_context(viewport={"width": 1240, "height": 800}, locale="en-GB")
    context.set_default_timeout(PATIENCE_MS)
    site = Site(context)
    yield site
    context.close()
    assert site.problems == []
