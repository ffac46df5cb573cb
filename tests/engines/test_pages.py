"""Every page in every engine: loaded, live, dark, small, in two tabs, blocked, restarted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.nginx import nginx
from tests.engines.browser import Browser
from tests.engines.pages import ERROR, LIST, PAGES, Page
from tests.engines.site import Site, opened, shows

every_page = pytest.mark.parametrize("page", PAGES, ids=str)

FITS = "() => document.documentElement.scrollWidth <= document.documentElement.clientWidth"
"""Whether the page is not wider than its window."""
PAINTED = """() => {
  const hosts = [...document.querySelectorAll("pushserver-part")];
  const roots = [document, ...hosts.map(({ shadowRoot }) => shadowRoot)];
  const canvases = roots.flatMap((root) => [...root.querySelectorAll("canvas")]);
  return canvases.some((canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return canvas.checkVisibility() && data.some((value, index) => index % 4 === 3 && value > 0);
  });
}"""
"""Whether something is drawn on a canvas."""
DARK = """() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const { backgroundColor, color } = getComputedStyle(document.body);
  const sum = (colour) => channels(colour).reduce((one, other) => one + other);
  return sum(color) > 384 && (backgroundColor === "rgba(0, 0, 0, 0)" || sum(backgroundColor) < 384);
}"""
"""Whether light text is on a dark page, or on the browser's own."""
PARTS_DARK = """() => [...document.querySelectorAll("[id] > pushserver-part")].every(
  ({ shadowRoot }) => shadowRoot.querySelector(".root").dataset.bsTheme === "dark"
)"""
LOST = "connection/|Failed to load resource|establish a connection|was interrupted"
"""The messages of a page whose connection is lost."""
SUSPENDED = "WebSocket is closed due to suspension"
"""The message of WebKit about a page that it keeps after the user has left it."""
UPGRADE = "map $http_upgrade $refused { default 1; '' 0; }"
BLOCKED = {
    "http_stream": "if ($refused) { return 403; }",
    "sse": "if ($refused) { return 403; } location = /connection/http_stream { return 403; }",
}
"""Rules of nginx that let only this transport pass, and slower ones."""
BLOCKED_MESSAGES = "connection/(websocket|http_stream)"
FORWARD = """
location / {{
    proxy_pass http://127.0.0.1:{port};
    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
    proxy_read_timeout 1h;
}}
"""


@every_page
def test_loads_and_is_live(site: Site, light: Browser, page: Page) -> None:
    before = site.publish(page)
    with opened(light) as [tab]:
        site.load(tab, page)
        shows(tab, page, before)
        shows(tab, page, site.publish(page))
        if page.graph:
            tab.wait_for(PAINTED)
        assert tab.run(FITS)


@every_page
def test_is_dark_and_fits_a_phone(site: Site, dark: Browser, page: Page) -> None:
    before = site.publish(page)
    with opened(dark) as [tab]:
        site.load(tab, page)
        shows(tab, page, before)
        tab.wait_for(PARTS_DARK)
        assert tab.run(DARK)
        tab.resize(390, 844)
        tab.wait_for("() => innerWidth === 390")
        tab.wait_for(FITS)
        shows(tab, page, site.publish(page))


def test_an_error_is_a_page(site: Site, light: Browser, dark: Browser) -> None:
    with opened(light, allowed="404") as [tab]:
        site.load(tab, ERROR)
        assert tab.run(FITS)
    with opened(dark, allowed="404") as [tab]:
        site.load(tab, ERROR)
        assert tab.run(DARK)
        tab.resize(390, 844)
        tab.wait_for(FITS)


@every_page
def test_two_tabs_are_live_and_share_a_connection(site: Site, light: Browser, page: Page) -> None:
    before = site.publish(page)
    with opened(light, 2) as tabs:
        for tab in tabs:
            site.load(tab, page)
            shows(tab, page, before)
        if page.channel:
            assert site.watchers(page.channel) == (1 if page.shared else 2)
        text = site.publish(page)
        for tab in tabs:
            shows(tab, page, text)
        tabs.pop(0).close()
        shows(tabs[0], page, site.publish(page))


@every_page
def test_tab_comes_back_from_another_page(site: Site, light: Browser, page: Page) -> None:
    """Some browsers keep the page meanwhile, without its connection and its lock."""
    with opened(light, 2, allowed=f"404|{SUSPENDED}") as [tab, other]:
        for each in (tab, other):
            site.load(each, page)
        tab.go(f"{site.url}{ERROR.path}")
        text = site.publish(page)
        shows(other, page, text)
        tab.back()
        tab.wait_for(page.ready)
        shows(tab, page, text)
        text = site.publish(page)
        for each in (tab, other):
            shows(each, page, text)


@pytest.fixture(scope="module", params=BLOCKED)
def blocked(
    site: Site, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The root of the site behind a proxy."""
    folder: Path = tmp_path_factory.mktemp("nginx")
    rules = BLOCKED[request.param] + FORWARD.format(port=site.server.port)
    with nginx(folder, rules, UPGRADE) as port:
        yield f"http://localhost:{port}/"


# Through a proxy, the list of channels would need an API key; it uses no such transport.
@pytest.mark.parametrize("page", [page for page in PAGES if page is not LIST], ids=str)
def test_is_live_where_transports_are_blocked(
    site: Site, light: Browser, blocked: str, page: Page
) -> None:
    before = site.publish(page)
    with opened(light, allowed=BLOCKED_MESSAGES) as [tab]:
        site.load(tab, page, blocked)
        shows(tab, page, before)
        shows(tab, page, site.publish(page))


def test_every_page_resumes_after_a_restart(site: Site, light: Browser) -> None:
    """All pages in one test, as a start of the server takes longer than all of them."""
    by_channel = {page.channel: page for page in PAGES}
    with opened(light, len(PAGES), allowed=LOST) as tabs:
        for tab, page in zip(tabs, PAGES, strict=True):
            site.load(tab, page)
        site.server.stop()
        for tab, page in zip(tabs, PAGES, strict=True):
            tab.wait_for(f"() => !({page.ready})()")
        site.server.start()
        for _ in range(2):
            texts = {channel: site.publish(page) for channel, page in by_channel.items()}
            for tab, page in zip(tabs, PAGES, strict=True):
                shows(tab, page, texts[page.channel])
