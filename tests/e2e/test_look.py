"""docs/look.md is true: its templates, its page and its script, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.e2e.blocks import block_with, sections_of
from tests.e2e.conditions import wait_until
from tests.e2e.exchange import publish
from tests.e2e.server import Server, running
from tests.e2e.visits import LOST_CONNECTION, Visits

SECTIONS = sections_of("docs/look.md", "Templates", "Pages of your own")
FILES = (*SECTIONS["Templates"], *SECTIONS["Pages of your own"])
NAMES = ("templates/page.html", "static/own.css", "templates/pages/orders.html", "static/orders.js")
INLINE = "templates/pages/inline.html"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files of the document."""
    assert len(FILES) == len(NAMES)
    for name, block in zip(NAMES, FILES, strict=True):
        assert f"`{name}`" in block.before
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(block.text)
    (tmp_path / "store.toml").write_text('[store]\npath = "history.db"\n')
    return tmp_path


def serve(folder: Path, *options: str) -> Server:
    look = block_with("docs/look.md", "$ pushserver serve").text.split()[3:]
    return Server(folder, "--config", "store.toml", *look, *options)


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with running(serve(folder)) as server:
        yield server


def order(server: Server, *items: str) -> None:
    for item in items:
        publish(server, "orders", {"item": item})


def test_page_of_the_document_continues_from_what_it_has(browser: Browser, server: Server) -> None:
    order(server, "tea", "<b>cake</b>")
    with closing(Visits(browser, server.url)) as visits:
        page = visits.open("orders")
        rows = page.locator("#orders li")
        expect(rows).to_have_text(["tea", "<b>cake</b>"])
        expect(page.locator(".brand")).to_have_text("Our factory")
        border = "getComputedStyle(document.querySelector('.page-header')).borderTopWidth"
        assert page.evaluate(border) == "4px"
        order(server, "live")
        expect(rows).to_have_text(["tea", "<b>cake</b>", "live"])
        visits.allow(LOST_CONNECTION)
        server.stop()
        server.start()
        order(server, "last")
        expect(rows).to_have_text(["tea", "<b>cake</b>", "live", "last"])
    assert visits.problems == []


def test_scripts_and_styles_in_a_page_are_not_run(
    browser: Browser, folder: Path, server: Server
) -> None:
    (folder / INLINE).write_text(
        '{% extends "page.html" %}{% block content %}<h1 style="margin-top: 99px">a</h1>'
        '<script>document.title = "run"</script><img src="data:," onerror="document.title = `run`">'
        "{% endblock %}"
    )
    with closing(Visits(browser, server.url)) as visits:
        page = visits.open("inline")
        wait_until(lambda: len(visits.problems) >= 3)
        assert page.title() == "pushserver"
        assert page.locator("h1").evaluate("h => getComputedStyle(h).marginTop") != "99px"
    assert [each for each in visits.problems if "Content Security Policy" not in each] == []


def test_in_development_a_change_counts_at_once_and_an_error_is_shown(folder: Path) -> None:
    (folder / "templates" / "order.html").write_text("one")
    with (folder / "store.toml").open("a") as file:
        file.write('[channels.orders]\ntemplate = "order.html"\n')
    # Its log has problems, so this is not `running`.
    server = serve(folder, "--reload").start()
    try:
        order(server, "tea")
        assert server.get("channels/orders?as=html").text == "one\n"
        (folder / "templates" / "order.html").write_text("another")
        wait_until(lambda: server.get("channels/orders?as=html").text == "another\n")
        page = folder / "templates" / "pages" / "orders.html"
        page.write_text("line\n{{ nothing }}\n")
        answer = server.get("orders", "text/html")
        assert answer.status == 500
        assert "pages/orders.html, line 2: UndefinedError" in answer.text
        assert "{{ nothing }}" in answer.text
        page.write_text("fixed")
        assert server.get("orders").text == "fixed"
        assert "the page pages/orders.html failed" in server.log
    finally:
        server.stop()
