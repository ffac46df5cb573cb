"""examples/fragments: one page in four forms, each of which shows each order once."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.exchange import publish
from tests.e2e.server import CHECKOUT, Server, environment, running
from tests.e2e.visits import LOST_CONNECTION, Visits

EXAMPLE = CHECKOUT / "examples" / "fragments"
VENDOR = EXAMPLE / "static" / "vendor"
MODULES = CHECKOUT / "tests" / "node" / "node_modules"
COPIES = {
    "htmx-4.0.1/htmx.min.js": "htmx4/dist/htmx.min.js",
    "htmx-4.0.1/hx-sse.min.js": "htmx4/dist/ext/hx-sse.min.js",
    "turbo-8.0.23/turbo.es2017-umd.js": "@hotwired/turbo/dist/turbo.es2017-umd.js",
}
AXE = MODULES / "axe-core" / "axe.min.js"
FOUND = "async () => (await axe.run()).violations.map((found) => found.id)"
# A page that leaves ends its stream, and htmx writes a lost connection to the console.
LOST = f"{LOST_CONNECTION}|orders.as=.*: net::ERR_ABORTED|htmx:sse:error: Failed to fetch"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("example")
    env = environment(PUSHSERVER_STORE_PATH=str(folder / "history.db"))
    with running(Server(folder, "--app", str(EXAMPLE / "orders.py"), env=env)) as server:
        yield server


def offsets(page: Page) -> list[int]:
    """The numbers of the orders in the list, in its order."""
    ids = page.locator("#orders > li").evaluate_all("rows => rows.map((row) => row.id)")
    return [int(text.removeprefix("order-")) for text in ids]


def order(server: Server, page: Page, item: str) -> None:
    """Publish an order between those of the source, and wait until the page shows it."""
    publish(server, "orders", {"item": item, "pieces": 1})
    expect(page.locator("#orders > li").filter(has_text=item)).to_have_count(1)


@pytest.mark.parametrize(("path", "title"), [("", "plain"), ("htmx", "htmx"), ("turbo", "Turbo")])
def test_page_shows_each_order_once(
    browser: Browser, server: Server, path: str, title: str
) -> None:
    first = f"<i>before {path}</i>"
    publish(server, "orders", {"item": first, "pieces": 1})
    with closing(Visits(browser, server.url)) as visits:
        visits.allow(LOST)
        page = visits.open(path)
        assert page.title() == f"Orders: {title}"
        rows = page.locator("#orders > li")
        # The page has it without a script.
        expect(rows.filter(has_text=first)).to_have_count(1)
        assert page.locator("#orders i").count() == 0
        begin = offsets(page)[0]
        order(server, page, f"live {path}")
        server.stop()
        server.start()
        order(server, page, f"after {path}")
        seen = offsets(page)
        assert seen == list(range(begin, begin + len(seen)))
        page.evaluate(AXE.read_text("utf-8"))
        assert page.evaluate(FOUND) == []
    assert visits.problems == []


def test_pages_begin_anew_with_a_new_history(browser: Browser, tmp_path: Path) -> None:
    with (
        running(Server(tmp_path, "--app", str(EXAMPLE / "orders.py"))) as server,
        closing(Visits(browser, server.url)) as visits,
    ):
        visits.allow(LOST)
        pages = [visits.open(path) for path in ("", "htmx", "turbo")]
        for page in pages:
            order(server, page, f"before {page.title()}")
        server.stop()
        server.start()
        publish(server, "orders", {"item": "the first", "pieces": 1})
        for page in pages:
            expect(page.locator("#orders > li").filter(has_text="the first")).to_have_count(1)
            seen = offsets(page)
            assert seen == list(range(seen[0], seen[0] + len(seen)))
    assert visits.problems == []


def test_page_of_datastar_says_what_is_missing(browser: Browser, server: Server) -> None:
    with closing(Visits(browser, server.url)) as visits:
        visits.allow(r"datastar\.js|status of 404")
        page = visits.open("datastar.html")
        expect(page.locator("#missing")).to_be_visible()
        page.evaluate(AXE.read_text("utf-8"))
        assert page.evaluate(FOUND) == []
    assert visits.problems == []


def test_page_of_datastar_gets_events_in_the_form_of_its_sdk(server: Server) -> None:
    publish(server, "orders", {"item": "tea\nand milk", "pieces": 2})
    page = server.get("datastar.html").text
    [url] = re.findall(r"@get\('\./([^']*)'", page)
    # The Accept of Datastar 1.
    accept = "text/event-stream, text/html, application/json"
    request = urllib.request.Request(
        server.url + url.replace("&amp;", "&"),
        headers={"Accept": accept, "Datastar-Request": "true"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        lines = iter(answer.readline, b"")
        text = b""
        while b"and milk" not in text:
            text += next(lines)
        text += next(lines)
    [event] = [block for block in text.decode().split("\n\n") if "tea" in block]
    fields = [line.partition(": ")[::2] for line in event.strip().splitlines()]
    names = [name for name, _ in fields]
    assert (sorted(names[:2]), set(names[2:])) == (["event", "id"], {"data"})
    assert ("event", "datastar-patch-elements") in fields
    data = [value for name, value in fields if name == "data"]
    assert data[:2] == ["mode append", 'selector [id="orders"]']
    elements = [line.removeprefix("elements ") for line in data[2:]]
    assert all(line.startswith("elements ") for line in data[2:])
    assert re.fullmatch(r'<li id="order-\d+"><b>2</b> tea\nand milk .*</li>', "\n".join(elements))


def test_libraries_are_those_of_npm() -> None:
    assert len(COPIES) == len(list(VENDOR.glob("*/*.js")))
    for name, source in COPIES.items():
        original = (MODULES / source).read_text("utf-8")
        code = re.sub(r"\n?//# sourceMappingURL=\S+\s*$", "", original).rstrip() + "\n"
        assert (VENDOR / name).read_text("utf-8") == code
        assert (VENDOR / name).with_name("LICENSE").is_file()


def test_readme_names_each_file() -> None:
    text = (EXAMPLE / "README.md").read_text("utf-8")
    for name in ("orders.py", "templates/order.html", "_orders.html", "files/datastar.html"):
        assert name in text
        assert list(EXAMPLE.rglob(Path(name).name))
