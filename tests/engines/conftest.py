"""Browsers and a server for the tests of pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Playwright, sync_playwright

from tests.e2e.server import Server, running
from tests.engines.browser import Browser
from tests.engines.chromium import Chromium
from tests.engines.firefox import Firefox
from tests.engines.pages import write
from tests.engines.site import Site
from tests.engines.webkit import WebKit

ENGINES = ["Chromium", "Firefox", "WebKit"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slow)


# A group runs in one process.
@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in ENGINES],
)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as playwright:
        yield playwright


def _browser(request: pytest.FixtureRequest, engine: str, dark: bool) -> Iterator[Browser]:
    browser: Browser
    if engine == "Chromium":
        browser = Chromium(request.getfixturevalue("playwright"), dark)
    else:
        browser = Firefox(dark) if engine == "Firefox" else WebKit(dark)
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def light(request: pytest.FixtureRequest, engine: str) -> Iterator[Browser]:
    """A browser of a user who prefers light pages."""
    yield from _browser(request, engine, dark=False)


@pytest.fixture(scope="module")
def dark(request: pytest.FixtureRequest, engine: str) -> Iterator[Browser]:
    """A browser of a user who prefers dark pages."""
    yield from _browser(request, engine, dark=True)


@pytest.fixture(scope="module")
def server(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    write(folder)
    with running(Server(folder, "--config", "pushserver.toml")) as server:
        yield server


@pytest.fixture(scope="module")
def site(server: Server) -> Site:
    return Site(server)
