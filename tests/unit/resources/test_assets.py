"""The bundle of the pages: it is that of its sources, and pages load the sources if it is not."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from pushserver.resources.assets import BUNDLE, ENTRIES, SOURCES, Assets, is_current
from pushserver.resources.pages import Pages, asset_folder
from pushserver.resources.template_failures import TemplateFailures
from pushserver.resources.variants import digest_of
from tests.unit.fakes.web import BROWSER, Server

STATIC = asset_folder("static")
PAGES = ["/", "/channels/numbers", "/channels/", "/nothing"]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the folder `static`."""
    return shutil.copytree(STATIC, tmp_path / "static")


def test_bundle_is_that_of_its_sources() -> None:
    assert is_current(STATIC), "run tools/bundle, and commit static/bundle"


@pytest.mark.parametrize("name", ["js/live.js", "pushserver.js", "app.css", f"{BUNDLE}/{SOURCES}"])
def test_pages_load_the_sources_after_a_change(copy: Path, name: str) -> None:
    file = copy / name
    assert Assets(copy).scripts_bundled
    file.write_bytes(file.read_bytes() + b" ")
    assert Assets(copy).scripts_bundled == (name == f"{BUNDLE}/{SOURCES}")
    file.unlink()
    assets = Assets(copy)
    assert not assets.scripts_bundled
    page = Pages(float, TemplateFailures(float, float), assets).channel(("a",), ".", 1)
    assert page.preload == ""
    html = page.html.decode()
    assert 'src="./static/js/live.js"' in html
    assert 'href="./static/vendor/bootstrap-5.3.9/bootstrap.min.css"' in html
    assert BUNDLE not in html


@pytest.mark.parametrize("bundled", [True, False])
def test_each_file_of_a_page_exists(bundled: bool) -> None:
    pages = Pages(float, TemplateFailures(float, float), Assets(STATIC, bundled))
    documents = (pages.channel(("a",), ".", 1), pages.channels("."))
    for html in (*(document.html for document in documents), pages.error(404, "x", "y")):
        named = re.findall(r'(?<!<a )(?:src|href)="\./static/([^"?]+)[^"]*"', html.decode())
        assert len(named) > 3
        assert [name for name in named if not (STATIC / name).is_file()] == []


@pytest.mark.parametrize("path", PAGES)
def test_all_files_of_a_page_are_cached_for_ever(server: Server, path: str) -> None:
    html = server.get(path, accept=BROWSER).body.decode()
    named = re.findall(r'(?<!<a )(?:src|href)="[./]+/(static/[^"]+)"', html)
    assert len(named) > 3
    for url in named:
        answer = server.get(f"/{url}")
        assert (answer.status, answer["cache-control"]) == (200, "max-age=31536000, immutable"), url


@pytest.mark.parametrize(
    ("path", "root", "entry"),
    [("/", ".", "live"), ("/channels/a", "..", "live"), ("/channels/", "..", "channels")],
)
def test_files_that_a_page_needs_first_are_in_its_link_header(
    server: Server, path: str, root: str, entry: str
) -> None:
    page = server.get(path, accept=BROWSER)
    links = dict(re.findall(r"<([^>]+)>; rel=([^,]+)", page["link"]))
    assert {url.partition("?")[0]: rel for url, rel in links.items()} == {
        f"{root}/static/bundle/page.css": "preload; as=style",
        f"{root}/static/js/theme.js": "preload; as=script",
        f"{root}/static/bundle/{entry}.js": "modulepreload",
    }
    # Else a browser would load them twice.
    for url in links:
        assert f'"{url}"' in page.body.decode()
    assert server.get(path, "HEAD", accept=BROWSER)["link"] == page["link"]


def test_bundle_has_each_class_of_bootstrap_in_the_templates() -> None:
    bootstrap = (STATIC / "vendor/bootstrap-5.3.9/bootstrap.min.css").read_text()
    known, kept = (
        set(re.findall(r"\.(-?[a-z][\w-]*)", text))
        for text in (bootstrap, (STATIC / BUNDLE / "page.css").read_text())
    )
    used: set[str] = set()
    for template in asset_folder("templates").glob("*.html"):
        for names in re.findall(r'class="([^"]*)"', template.read_text()):
            used.update(names.split())
    assert len(used & known) > 8
    assert used & known <= kept, "run tools/bundle, and commit static/bundle"


def test_bundle_has_the_licences_of_its_parts() -> None:
    css = (STATIC / BUNDLE / "page.css").read_text()
    assert "Licensed under MIT" in css
    assert "uPlot" in css
    script = (STATIC / BUNDLE / "live.js").read_text()
    for package in re.findall(r"\.\./(vendor/[\w.-]+/LICENSE)", css + script):
        assert (STATIC / package).is_file()
    assert "centrifuge-5.8.0/LICENSE" in script


def test_each_entry_has_its_bundle() -> None:
    scripts = {file.stem for file in (STATIC / BUNDLE).glob("*.js")}
    assert scripts == set(ENTRIES)
    assert all((STATIC / "js" / f"{name}.js").is_file() for name in ENTRIES)


def test_version_in_a_url_is_the_digest_of_the_file() -> None:
    name = f"{BUNDLE}/live.js"
    assert Assets(STATIC, True).url(name) == f"{name}?v={digest_of((STATIC / name).read_bytes())}"
    assert Assets(STATIC, False).url("js/live.js") == "js/live.js"
