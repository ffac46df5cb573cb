"""docs/fragments.md is true: its template, its page and its function, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.blocks import sections_of
from tests.e2e.exchange import publish
from tests.e2e.server import Server, get, running
from tests.e2e.visits import LOST_CONNECTION, Visits

SECTIONS = sections_of("docs/fragments.md")
[CONFIG, TEMPLATE, PAGE] = [block.text for block in SECTIONS[""]]
[FUNCTION] = [block.text for block in SECTIONS["Functions and sources"]]
STORE = """
[store]
path = "history.db"
"""
ITEMS = ["tea", "<b>cake</b>", "milk & honey"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A server's folder with the page of the document."""
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "index.html").write_text(
        f"<!doctype html><meta charset='utf-8'><title>Orders</title>{PAGE}"
    )
    return tmp_path


def serve(folder: Path, app: str, config: str) -> Server:
    (folder / "shop.py").write_text(app)
    (folder / "pushserver.toml").write_text(config + STORE)
    return Server(folder, "--app", "shop.py", "--config", "pushserver.toml")


@pytest.fixture
def by_template(folder: Path) -> Iterator[Server]:
    (folder / "templates").mkdir()
    (folder / "templates" / "order.html").write_text(TEMPLATE)
    app = "from pushserver import PushServer\n\napp = PushServer(pages='pages')\n"
    with running(serve(folder, app, CONFIG)) as server:
        yield server


@pytest.fixture
def by_function(folder: Path) -> Iterator[Server]:
    app = FUNCTION.replace("PushServer()", "PushServer(pages='pages')")
    with running(serve(folder, app, "")) as server:
        yield server


def order(server: Server, *items: str) -> None:
    for item in items:
        publish(server, "orders", {"item": item, "price": 3})


def texts(page: Page) -> list[str]:
    return page.locator("#orders li").all_inner_texts()


def test_page_of_the_document_shows_what_the_template_makes(
    browser: Browser, by_template: Server
) -> None:
    server = by_template
    order(server, *ITEMS)
    with closing(Visits(browser, server.url)) as visits:
        page = visits.open()
        rows = page.locator("#orders li")
        expect(rows).to_have_text([f"{item}, 3 €" for item in ITEMS])
        assert page.locator("#orders b").count() == 0
        visits.allow(LOST_CONNECTION)
        server.stop()
        server.start()
        order(server, "last")
        expect(rows).to_have_count(len(ITEMS) + 1)
        assert texts(page) == [f"{item}, 3 €" for item in (*ITEMS, "last")]
        assert [row.get_attribute("id") for row in rows.all()] == [
            f"order-{offset}" for offset in range(1, 5)
        ]
    assert visits.problems == []
    answer = get(server.port, "channels/orders?as=html&last=2", "text/html")
    assert answer.status == 200
    assert answer.body.decode().splitlines() == [
        '<li id="order-3">milk &amp; honey, 3 €</li>',
        '<li id="order-4">last, 3 €</li>',
    ]


def test_page_of_the_document_shows_what_the_function_makes(
    browser: Browser, by_function: Server
) -> None:
    order(by_function, *ITEMS)
    with closing(Visits(browser, by_function.url)) as visits:
        page = visits.open()
        rows = page.locator("#orders li")
        expect(rows).to_have_text(ITEMS)
        order(by_function, "live")
        expect(rows).to_have_text([*ITEMS, "live"])
    assert visits.problems == []
