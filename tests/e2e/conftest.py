"""The fixtures of end-to-end tests: servers, and browsers that report errors."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.e2e.patience import PATIENCE_MS
from tests.e2e.server import Server
from tests.e2e.visits import CHROMIUM, Visits

expect.set_options(timeout=PATIENCE_MS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slow)


def _run(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    try:
        yield server.start()
        if server.running:
            assert server.stop() == -signal.SIGTERM
        assert server.problems == []
    finally:
        server.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for all tests of a module, which leave it running."""
    yield from _run(tmp_path_factory.mktemp("server"))


@pytest.fixture
def fresh_server(tmp_path: Path) -> Iterator[Server]:
    """A server for one test, which may stop and start it."""
    yield from _run(tmp_path)


# Not for the whole session: Playwright keeps an event loop running in this thread, in which no
# other test could run its own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, without traffic of its own."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM.path, args=CHROMIUM.options)
        yield chromium
        chromium.close()


@pytest.fixture
def visits(browser: Browser, server: Server) -> Iterator[Visits]:
    """Opens pages of the module's server; an error in a page fails the test."""
    visits = Visits(browser, server.url)
    yield visits
    visits.close()
    assert visits.problems == []
