from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from twisted.web.resource import Resource

import pushserver.pages
from pushserver.pages import Pages, StaticFiles, asset_folder
from tests.unit.web import BROWSER, Server, Trouble


@pytest.fixture
def folder(server: Server, tmp_path: Path) -> Path:
    """Files at `/files`, and a secret beside them."""
    (tmp_path / "secret.txt").write_text("secret")
    files = tmp_path / "files"
    (files / "vendor" / "lib-1.0").mkdir(parents=True)
    (files / "js").mkdir()
    (files / "vendor" / "lib-1.0" / "lib.js").write_text("lib")
    (files / "js" / "app.js").write_text("app")
    (files / "größe.txt").write_text("big")
    root = server.site.resource
    assert isinstance(root, Resource)
    root.putChild(b"files", StaticFiles(str(files)))
    return files


def test_a_file_is_served_with_its_type_and_asked_for_again(server: Server, folder: Path) -> None:
    answer = server.get("/files/js/app.js")
    assert (answer.status, answer.body, answer["cache-control"]) == (200, b"app", "no-cache")
    assert "javascript" in answer["content-type"]
    changed = answer["last-modified"]
    again = server.get("/files/js/app.js", if_modified_since=changed)
    assert (again.status, again.rest) == (304, b"")
    head = server.get("/files/js/app.js", "HEAD")
    assert (head.status, head.rest, head["content-length"]) == (200, b"", "3")


def test_a_vendored_file_is_kept_for_good(server: Server, folder: Path) -> None:
    answer = server.get("/files/vendor/lib-1.0/lib.js")
    assert answer["cache-control"] == "max-age=31536000, immutable"


def test_a_part_of_a_file_can_be_asked_for(server: Server, folder: Path) -> None:
    answer = server.get("/files/js/app.js", range="bytes=1-2")
    assert (answer.status, answer.body) == (206, b"pp")


def test_a_name_may_have_any_letter(server: Server, folder: Path) -> None:
    assert server.get("/files/gr%C3%B6%C3%9Fe.txt").body == b"big"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/js",
        "/js/",
        "/vendor/",
        "/nothing",
        "/js/nothing.js",
        "/js/app.js/more",
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/%2e%2e%2fsecret.txt",
        "/js/..%2f..%2fsecret.txt",
        "/js/../../secret.txt",
        "//etc/passwd",
        "/%2fetc%2fpasswd",
        "/js%5c..%5c..%5csecret.txt",
        "/js/app.js%00.html",
        "/%00",
        "/%ff%fe",
        "/%c0%ae%c0%ae/secret.txt",
        "/~root",
        "/.",
        "/" + "a" * 5_000,
    ],
)
def test_everything_else_is_404_and_no_folder_is_listed(
    server: Server, folder: Path, path: str
) -> None:
    answer = server.get(f"/files{path}")
    assert answer.error == (404, "there is nothing at this URL")
    assert "cache-control" not in answer or answer["cache-control"] == "no-store"


def test_a_browser_gets_a_page_that_says_so(server: Server, folder: Path) -> None:
    assert server.get("/files/nothing", accept=BROWSER)["content-type"].startswith("text/html")


@pytest.mark.parametrize("target", ["secret.txt", "."])
def test_a_link_does_not_lead_out(server: Server, folder: Path, target: str) -> None:
    (folder / "link").symlink_to(folder.parent / target)
    assert server.get("/files/link").status == 404
    assert server.get("/files/link/secret.txt").status == 404


def test_a_link_within_is_followed(server: Server, folder: Path) -> None:
    (folder / "link.js").symlink_to(folder / "js" / "app.js")
    assert server.get("/files/link.js").body == b"app"


def test_what_is_no_file_is_not_opened(server: Server, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    assert server.get("/files/pipe").status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_files_are_only_read(server: Server, folder: Path, method: str, trouble: Trouble) -> None:
    answer = server.get("/files/js/app.js", method)
    trouble.clear()
    assert answer.error[0] == 405


def test_the_pages_of_a_checkout_lie_beside_the_package_and_else_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "pushserver"
    package.mkdir()

    def files(name: str) -> Path:
        return package

    monkeypatch.setattr(pushserver.pages, "files", files)
    with pytest.raises(FileNotFoundError, match=r"no static folder in .* or beside it"):
        asset_folder("static")
    (tmp_path / "static").mkdir()
    assert asset_folder("static") == tmp_path / "static"
    (package / "static").mkdir()
    assert asset_folder("static") == package / "static"


def test_a_channels_page_knows_its_channel_and_the_way_to_the_root() -> None:
    page = Pages().channel("chat:lobby", "..", 300, False).decode()
    assert 'data-channel="chat:lobby"' in page
    assert 'data-history-size="300"' in page
    assert 'data-list-size="10"' in page
    assert 'src="../static/' in page


def test_nothing_in_a_page_is_loaded_from_elsewhere_or_runs_inline() -> None:
    pages = Pages()
    for page in (pages.channel("a", ".", 1, True), pages.error(404, "Not Found", "no")):
        text = page.decode()
        for word in ("http://", "https://", 'src="//', 'href="//', "<script>", "onclick", "<style"):
            assert word not in text


def test_what_a_page_shows_is_escaped() -> None:
    page = Pages().error(400, "Bad", '<img src=x onerror="alert(1)">')
    assert b"<img src=x" not in page
    assert b"&lt;img src=x" in page


def test_a_template_that_lacks_a_value_fails_instead_of_showing_a_hole() -> None:
    pages: Any = Pages()
    with pytest.raises(Exception, match="undefined"):
        pages._render("error.html", status=404)
