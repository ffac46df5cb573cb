"""The links of the documents lead somewhere, and the site of the documents has all pages."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from pkgutil import resolve_name

import pytest

import pushserver
import pushserver.flask
import pushserver.testing
from tests.e2e.server import CHECKOUT

DOCS = CHECKOUT / "docs"
PAGES = [CHECKOUT / "README.md", CHECKOUT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
FENCE = re.compile(r"^( *```).*?^\1$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`+[^`\n]+`+")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchor(heading: str) -> str:
    """The anchor of a heading that has no double."""
    words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", words).replace(" ", "-")


@cache
def anchors(page: Path) -> set[str]:
    """The anchors of the headings, as GitHub and the site make them."""
    text = FENCE.sub("", page.read_text())
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)", text, re.MULTILINE):
        base = name = anchor(heading)
        number = 0
        while name in found:
            number += 1
            name = f"{base}-{number}"
        found.add(name)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_link_has_its_target(page: Path) -> None:
    lost = []
    for link in LINK.findall(CODE.sub("", FENCE.sub("", page.read_text()))):
        if re.match(r"\w+:", link):
            continue
        path, _, place = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (place and place not in anchors(target)):
            lost.append(link)
    assert lost == []


@pytest.mark.parametrize("page", PAGES[2:], ids=lambda page: page.stem)
def test_contents_of_a_page_have_each_of_its_sections(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    contents = re.search(r"^Contents:.*?(?=\n## )", text, re.MULTILINE | re.DOTALL)
    if contents is not None:
        linked = re.findall(r"\]\(#(.+?)\)", contents[0])
        links = [anchor(heading) for heading in re.findall(r"^## (.*)", text, re.MULTILINE)]
        assert [link for link in links if link not in linked] == []


def test_front_page_of_the_site_has_each_page_in_one_part() -> None:
    listed = re.findall(r"^- \[[^\]]+\]\((.*)\.md\)", (DOCS / "index.md").read_text(), re.MULTILINE)
    assert sorted([*listed, "index"]) == [page.stem for page in PAGES[2:]]


def test_page_of_the_api_has_each_public_name() -> None:
    names = re.findall(r"^    (pushserver[\w.]+)$", (DOCS / "api.md").read_text(), re.MULTILINE)
    assert all(resolve_name(name).__doc__ for name in names)
    for module in pushserver, pushserver.testing, pushserver.flask:
        public = {f"{module.__name__}.{name}" for name in module.__all__ if name != "__version__"}
        assert public - {*names} == set()
