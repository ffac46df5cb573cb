from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Any

import pytest

import pushserver.resources.pages
from pushserver.resources.pages import Pages, asset_folder
from pushserver.resources.template_failures import TemplateFailures
from pushserver.web.resource import Refusal
from tests.unit.fakes.web import BROWSER, Server


def test_the_folders_are_beside_the_package_in_a_checkout_and_else_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "pushserver"
    package.mkdir()

    def files(name: str) -> Path:
        return package

    monkeypatch.setattr(pushserver.resources.pages, "files", files)
    with pytest.raises(FileNotFoundError, match=r"no static folder in .* or beside it"):
        asset_folder("static")
    (tmp_path / "static").mkdir()
    assert asset_folder("static") == tmp_path / "static"
    (package / "static").mkdir()
    assert asset_folder("static") == package / "static"


def test_a_channels_page_has_its_channel_and_the_path_to_the_root() -> None:
    page = (
        Pages(float, TemplateFailures(float, float))
        .channel(("chat:lobby",), "..", 300)
        .html.decode()
    )
    assert 'data-channels="chat:lobby"' in page
    assert 'data-history-size="300"' in page
    assert 'src="../static/' in page


def test_a_page_loads_nothing_from_elsewhere_and_has_no_inline_script() -> None:
    pages = Pages(float, TemplateFailures(float, float))
    for page in (pages.channel(("a",), ".", 1).html, pages.error(404, "Not Found", "no")):
        text = page.decode()
        for word in ("http://", "https://", 'src="//', 'href="//', "<script>", "onclick", "<style"):
            assert word not in text


def test_values_in_a_page_are_escaped() -> None:
    page = Pages(float, TemplateFailures(float, float)).error(
        400, "Bad", '<img src=x onerror="alert(1)">'
    )
    assert b"<img src=x" not in page
    assert b"&lt;img src=x" in page


def test_a_template_without_a_value_fails() -> None:
    pages: Any = Pages(float, TemplateFailures(float, float))
    with pytest.raises(Exception, match="undefined"):
        pages._render("error.html", status=404)


def test_the_documents_that_a_page_links_are_there() -> None:
    server = Server()
    page = server.get("/channels/numbers", accept=BROWSER).body.decode()
    links = re.findall(r'href="\.\.(/static/pushserver-docs/[^"]+)"', page)
    assert len(links) == 3
    for link in links:
        answer = server.get(link, "HEAD")
        assert (answer.status, answer["content-type"]) == (200, "text/plain; charset=utf-8")
    assert server.get("/static/pushserver-docs/").status == 404


def test_pages_that_cannot_be_read_are_refused_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = Pages(float, TemplateFailures(float, float))

    def no_file(*_: object) -> str:
        raise OSError(errno.EMFILE, "Too many open files", "error.html")

    monkeypatch.setattr(pages._own, "render", no_file)
    with pytest.raises(Refusal) as refused:
        pages.channels(".")
    assert refused.value.http_status == 503
    assert str(refused.value) == "the page cannot be read now: Too many open files"
    page = pages.error(404, "Not Found", "there is no /<b>")
    assert page == (
        b"<!doctype html><title>404 Not Found</title><h1>404 Not Found</h1>"
        b"<p>there is no /&lt;b&gt;"
    )
