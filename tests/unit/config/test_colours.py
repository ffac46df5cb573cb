"""`[page]`: the name and the colours of the pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pushserver.config.colours import (
    DARK,
    LEAST_CONTRAST,
    LIGHT,
    colour_warnings,
    contrast,
    page_style,
)
from pushserver.config.loader import load
from pushserver.config.settings import Config, Page
from pushserver.errors import InvalidConfig
from pushserver.resources.pages import asset_folder
from pushserver.sources.registry import SourceTypes
from tests.unit.fakes.web import BROWSER, Server


def test_contrast_is_that_of_wcag() -> None:
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#fff") == pytest.approx(4.48, abs=0.005)
    assert contrast("#767676", "#fff") == contrast("#fff", "#767676") >= 4.54


def test_backgrounds_are_those_of_the_style() -> None:
    css = (asset_folder("static") / "app.css").read_text("utf-8")
    found = re.findall(r"--(?:page|panel): (#\w+);", css)
    assert sorted(found) == sorted(LIGHT + DARK)


@pytest.mark.parametrize(
    "accent", ["#b45309", "#000", "#00f", "#7f1d1d", "#15803d", "#ffffff", "#fe0"]
)
def test_colour_of_dark_pages_can_be_read(accent: str) -> None:
    light, dark = re.findall(r"--pushserver-accent: (#\w+);", page_style(Page(accent=accent)))
    assert light == accent
    assert min(contrast(dark, ground) for ground in DARK) >= LEAST_CONTRAST


def test_a_colour_that_is_hard_to_read_is_told() -> None:
    assert [*colour_warnings(Page(accent="#b45309", accent_dark="#fbbf24"))] == []
    assert [*colour_warnings(Page())] == []
    light, dark = colour_warnings(Page(accent="#fe0", accent_dark="#1d5fd1"))
    assert light == (
        "page.accent: #fe0 has a contrast of 1.1 with light pages, and text needs 4.5 (WCAG AA):"
        " take a darker colour"
    )
    assert dark.startswith("page.accent_dark: #1d5fd1 has a contrast of 2.")
    assert dark.endswith("take a lighter colour")


@pytest.mark.parametrize(
    "line",
    [
        'accent = "red"',
        'accent = "#1d5fd"',
        'accent = "#1d5fd1\\n"',
        'accent = "#fff; } body { display: none"',
        'accent_dark = "url(x)"',
        "accent = 3",
        'title = ""',
        f'title = "{"x" * 65}"',
    ],
)
def test_another_value_is_refused(line: str) -> None:
    with pytest.raises(InvalidConfig, match=rf"page\.{line.split()[0]}"):
        load(f"[page]\n{line}", "f", {}, SourceTypes())


def test_pages_have_the_name_and_the_colours(tmp_path: Path) -> None:
    page = Page(title="<Our> factory", accent="#b45309")
    server = Server(config=Config(page=page))
    for path in ("/channels/a", "/channels/", "/nothing"):
        html = server.get(path, accept=BROWSER).body.decode()
        assert "&lt;Our&gt; factory</title>" in html
        assert "<span>&lt;Our&gt; factory</span>" in html
        [url] = re.findall(r'href="[./]+/(static/page-colours\.css\?v=\w+)"', html)
        answer = server.get(f"/{url}")
        assert answer.body.decode() == page_style(page)
        assert answer["content-type"] == "text/css; charset=utf-8"
        assert answer["cache-control"] == "max-age=31536000, immutable"
    assert server.get("/static/page-colours.css")["cache-control"] == "no-cache"


def test_without_a_colour_there_is_no_style() -> None:
    server = Server()
    assert server.get("/static/page-colours.css").status == 404
    assert b"page-colours" not in server.get("/", accept=BROWSER).body
