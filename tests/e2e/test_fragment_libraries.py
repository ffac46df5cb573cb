"""The real htmx 2 and 4, Turbo and Datastar show each fragment once: restarts, hidden tabs."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.blocks import block_with
from tests.e2e.exchange import publish
from tests.e2e.server import CHECKOUT, Server, running
from tests.e2e.visits import LOST_CONNECTION, Visits

MODULES = CHECKOUT / "tests" / "node" / "node_modules"
DATASTAR = Path(sys.prefix, "datastar", "starhtml", "static", "js", "datastar-core.js")
"""A package for Python has the client of Datastar 1, which is not on npm: `tools/venv`."""
CONFIG = """
[server]
templates = "templates"

[channels.orders]
template = "order.html"

[store]
path = "history.db"
"""
APP = """
from pushserver import PushServer

app = PushServer(pages="pages")
"""
PAGE = """<!doctype html>
<meta charset="utf-8">
<meta name="htmx-config" content='{{"includeIndicatorStyles": false}}'>
<title>Orders</title>
{scripts}
<ul id="orders" {attributes}></ul>
{more}
"""
APPEND = 'hx-swap="beforeend"'
AGAIN = "{retry: 'always', retryMaxCount: Infinity}"
LIBRARIES: dict[str, tuple[tuple[str | Path, ...], str, str]] = {
    "htmx2": (
        ("htmx2/dist/htmx.min.js", "htmx-ext-sse/dist/sse.min.js"),
        'hx-ext="sse" sse-connect="channels/orders?as=htmx&last=10" sse-swap="message" ' + APPEND,
        "",
    ),
    "turbo": (
        ("@hotwired/turbo/dist/turbo.es2017-umd.js",),
        "",
        '<turbo-stream-source src="channels/orders?as=turbo&last=10"></turbo-stream-source>',
    ),
    "datastar": (
        (DATASTAR,),
        f"data-init=\"@get('channels/orders?as=datastar&last=10', {AGAIN})\"",
        "",
    ),
}
HTMX4 = block_with("docs/fragments.md", "hx-sse.min.js").text
"""The page of htmx 4 is that of the document, with the scripts that it names."""

# htmx 2 writes the event of a lost connection to the console; htmx 4 ends its own request.
LOST = (
    f"{LOST_CONNECTION}|console error: Event$|orders.as=htmx.*: net::ERR_ABORTED"
    "|htmx:sse:error: Failed to fetch|Datastar failed to|orders.as=datastar.*: net::ERR_ABORTED"
)
HIDE = """(state) => {
  Object.defineProperty(document, "visibilityState", { value: state, configurable: true });
  Object.defineProperty(document, "hidden", { value: state === "hidden", configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("libraries")
    (folder / "templates").mkdir()
    (folder / "templates" / "order.html").write_text("<li>{{ data.item }}</li>")
    (folder / "pages").mkdir()
    for name, (scripts, attributes, more) in LIBRARIES.items():
        tags = []
        for number, script in enumerate(scripts):
            file = f"{name}-{number}.js"
            shutil.copy(MODULES / script, folder / "pages" / file)
            kind = "module" if script is DATASTAR else "text/javascript"
            tags.append(f'<script type="{kind}" src="{file}"></script>')
        text = PAGE.format(scripts="\n".join(tags), attributes=attributes, more=more)
        (folder / "pages" / f"{name}.html").write_text(text)
    for script in ("dist/htmx.min.js", "dist/ext/hx-sse.min.js"):
        shutil.copy(MODULES / "htmx4" / script, folder / "pages")
    (folder / "pages" / "htmx4.html").write_text(HTMX4)
    (folder / "pages" / "index.html").write_text("<!doctype html><title>Shop</title>")
    (folder / "shop.py").write_text(APP)
    (folder / "pushserver.toml").write_text(CONFIG)
    with running(Server(folder, "--app", "shop.py", "--config", "pushserver.toml")) as server:
        yield server


class Shop:
    """The orders of one test, and the page that shows them."""

    def __init__(self, server: Server, page: Page):
        self.server = server
        self.page = page
        self.items: list[str] = page.locator("#orders li").all_inner_texts()

    def order(self, *items: str) -> None:
        for item in items:
            publish(self.server, "orders", {"item": item})
            self.items.append(item)

    def check(self) -> None:
        """The page has each order once, in its order."""
        expect(self.page.locator("#orders li")).to_have_text(self.items)


@pytest.mark.parametrize("library", [*LIBRARIES, "htmx4"])
def test_library_shows_each_fragment_once(browser: Browser, server: Server, library: str) -> None:
    publish(server, "orders", {"item": f"<{library}>"})
    with closing(Visits(browser, server.url)) as visits:
        visits.allow(LOST)
        page = visits.open(f"{library}.html")
        expect(page.locator("#orders li").last).to_have_text(f"<{library}>")
        shop = Shop(server, page)
        shop.order("tea", "<b>cake</b>")
        shop.check()
        assert page.locator("#orders b").count() == 0
        server.stop()
        server.start()
        shop.order("milk", "honey")
        shop.check()
        page.evaluate(HIDE, "hidden")
        shop.order("salt", "sugar")
        page.evaluate(HIDE, "visible")
        shop.check()
        shop.order("bread")
        shop.check()
    assert visits.problems == []
