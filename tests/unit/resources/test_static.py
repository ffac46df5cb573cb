"""The files that are served: ours at `/static/`, and the user's own pages beside everything."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.web.resource import Resource
from twisted.web.static import File

from pushserver.config.settings import Config
from pushserver.config.settings import Server as ServerSection
from pushserver.resources.pages import CLIENT, asset_folder
from pushserver.resources.static import StaticFiles
from pushserver.web.site import HEADERS
from tests.unit.fakes.web import BROWSER, Log, Server, Trouble


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


def test_the_client_has_a_name_without_a_version_that_is_asked_for_again(server: Server) -> None:
    answer = server.get("/static/centrifuge.js")
    assert answer.body == (asset_folder("static") / CLIENT).read_bytes()
    assert (answer["cache-control"], answer["content-type"]) == (
        "no-cache",
        "text/javascript; charset=utf-8",
    )
    assert server.get("/static/centrifuge.js", if_none_match=answer["etag"]).status == 304
    pinned = server.get(f"/static/{CLIENT}")
    assert pinned.body == answer.body
    assert pinned["cache-control"] == "max-age=31536000, immutable"


@pytest.mark.parametrize(
    ("asked", "status", "body"),
    [
        ("bytes=1-1", 206, b"p"),
        ("bytes=1-", 206, b"pp"),
        ("bytes=-2", 206, b"pp"),
        ("bytes=-3", 206, b"app"),
        ("bytes=1-99", 206, b"pp"),
        ("bytes=3-", 416, b""),
        ("bytes=-0", 416, b""),
        # What else there is may be ignored (RFC 9110, 14.2), and is: most of it fails in Twisted.
        ("bytes=-4", 200, b"app"),
        ("bytes=0-0,2-2", 200, b"app"),
        ("bytes=7-,9-", 200, b"app"),
        ("bytes=", 200, b"app"),
        ("bytes=-", 200, b"app"),
        ("bytes=2-1", 200, b"app"),
        ("bytes=x-y", 200, b"app"),
        ("bytes=1-" + "9" * 5_000, 200, b"app"),
        ("lines=1-1", 200, b"app"),
    ],
)
def test_a_part_of_a_file_can_be_asked_for(
    server: Server, folder: Path, asked: str, status: int, body: bytes
) -> None:
    with Log() as events:
        answer = server.get("/files/js/app.js", range=asked)
    assert (answer.status, answer.body) == (status, body)
    assert events.take() == []
    head = server.get("/files/js/app.js", "HEAD", range=asked)
    assert (head.status, head.rest) == (200, b"")


def test_a_part_is_of_the_file_that_was_begun_with(server: Server, folder: Path) -> None:
    tag = server.get("/files/js/app.js")["etag"]
    for known, status in ((tag, 206), ('"other"', 200)):
        answer = server.get("/files/js/app.js", range="bytes=1-2", if_range=known)
        assert answer.status == status


class TestWhatABrowserHasAlready:
    def test_is_not_sent_again(self, server: Server, folder: Path) -> None:
        tag = server.get("/files/js/app.js")["etag"]
        for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            for method in ("GET", "HEAD"):
                answer = server.get("/files/js/app.js", method, if_none_match=known)
                assert (answer.status, answer.rest, answer["etag"]) == (304, b"", tag)
                # The file's length is another.
                assert "content-length" not in answer
        assert server.get("/files/js/app.js", if_none_match='"other"').status == 200

    def test_is_not_what_was_written_in_the_same_second(self, server: Server, folder: Path) -> None:
        file = folder / "js" / "app.js"
        os.utime(file, ns=(10**18, 10**18))
        first = server.get("/files/js/app.js")
        file.write_text("ppa")
        os.utime(file, ns=(10**18 - 10**6, 10**18 - 10**6))
        again = server.get(
            "/files/js/app.js",
            if_none_match=first["etag"],
            if_modified_since=first["last-modified"],
        )
        assert (again.status, again.body) == (200, b"ppa")

    def test_is_not_another_file_of_the_same_time(self, server: Server, folder: Path) -> None:
        # As a deployment may leave them that gives all files one time.
        first, other = folder / "a.js", folder / "b.js"
        for file in (first, other):
            file.write_text(file.name)
            os.utime(file, ns=(10**18, 10**18))
        tag = server.get("/files/a.js")["etag"]
        other.rename(first)
        assert server.get("/files/a.js", if_none_match=tag).body == b"b.js"

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.sampled_from(["if_none_match", "if_modified_since", "range", "if_range"]),
        st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=30)
        | st.from_regex(r"bytes=[0-9,\-]*", fullmatch=True),
    )
    def test_may_be_said_in_any_way(
        self, server: Server, folder: Path, name: str, value: str
    ) -> None:
        answer = server.get("/files/js/app.js", "GET", b"", **{name: value})
        assert answer.status in (200, 206, 304, 416), value


class TestAFileThatChangesWhileItIsSent:
    SIZE = 500_000

    def test_is_no_longer_than_was_said(self, server: Server, folder: Path) -> None:
        file = folder / "long.bin"
        file.write_bytes(b"x" * self.SIZE)
        line = server.connect()
        line.reading = False
        line.send(b"GET /files/long.bin HTTP/1.1\r\nhost: localhost\r\n\r\n")
        with file.open("ab") as more:
            more.write(b"y" * 1_000)
        line.read()
        answer = line.response()
        assert (len(answer.body), answer.rest) == (self.SIZE, b"")
        assert set(answer.body) == {ord("x")}
        line.vanish()

    @pytest.mark.parametrize("asked", ["", f"bytes=1-{SIZE}"])
    def test_and_is_shorter_now_is_not_waited_for(
        self, server: Server, folder: Path, asked: str
    ) -> None:
        file = folder / "long.bin"
        file.write_bytes(b"x" * self.SIZE)
        line = server.connect()
        line.reading = False
        line.send(
            f"GET /files/long.bin HTTP/1.1\r\nhost: localhost\r\nrange: {asked}\r\n\r\n".encode()
        )
        os.truncate(file, 10)
        line.read()
        assert not line.response().whole
        assert line.aborted


@pytest.mark.parametrize(
    ("number", "status"), [(errno.EACCES, 403), (errno.EMFILE, 503), (errno.ENOENT, 503)]
)
def test_a_file_that_cannot_be_opened_is_not_sent(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, status: int
) -> None:
    def fail(file: File) -> None:
        raise OSError(number, "why not")

    monkeypatch.setattr(File, "openForReading", fail)
    answer = server.get("/files/js/app.js")
    assert answer.error == (status, "app.js cannot be read: why not")
    assert (answer["cache-control"], "etag" in answer) == ("no-store", False)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.html", "text/html; charset=utf-8"),
        ("a.HTM", "text/html; charset=utf-8"),
        ("a.css", "text/css; charset=utf-8"),
        ("a.js", "text/javascript; charset=utf-8"),
        ("a.mjs", "text/javascript; charset=utf-8"),
        ("a.txt", "text/plain; charset=utf-8"),
        ("a.csv", "text/csv; charset=utf-8"),
        ("a.json", "application/json"),
        ("a.xml", "application/xml"),
        ("a.svg", "image/svg+xml"),
        ("a.png", "image/png"),
        ("a.webp", "image/webp"),
        ("a.woff2", "font/woff2"),
        ("a.wasm", "application/wasm"),
        ("a.tar.gz", "application/gzip"),
        ("a.nothing-known", "application/octet-stream"),
        ("a", "application/octet-stream"),
    ],
)
def test_a_file_has_its_type(server: Server, folder: Path, name: str, kind: str) -> None:
    (folder / name).write_text("x")
    answer = server.get(f"/files/{name}")
    assert (answer["content-type"], "content-encoding" in answer) == (kind, False)


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
        "/.hidden.js",
        "/.git/config",
        "/js/%2ehidden.js",
        "/" + "a" * 5_000,
    ],
)
def test_everything_else_is_404_and_no_folder_is_listed(
    server: Server, folder: Path, path: str
) -> None:
    (folder / ".git").mkdir()
    for hidden in (".git/config", ".hidden.js", "js/.hidden.js"):
        (folder / hidden).write_text("secret")
    answer = server.get(f"/files{path}")
    assert answer.error == (404, "there is nothing at this URL")
    assert "cache-control" not in answer or answer["cache-control"] == "no-store"


def test_a_name_that_no_file_here_can_have_is_404(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> bytes:
        return name.encode("ascii")

    # As where the file system's names are ASCII only.
    monkeypatch.setattr(os, "fsencode", fail)
    assert server.get("/files/gr%C3%B6%C3%9Fe.txt").status == 404
    assert server.get("/files/js/app.js").status == 200


def test_a_browser_gets_a_page_that_says_so(server: Server, folder: Path) -> None:
    assert server.get("/files/nothing", accept=BROWSER)["content-type"].startswith("text/html")


@pytest.mark.parametrize("target", ["secret.txt", "."])
def test_a_link_does_not_lead_out(server: Server, folder: Path, target: str) -> None:
    (folder / "link").symlink_to(folder.parent / target)
    with Log() as events:
        for _ in range(2):
            assert server.get("/files/link").status == 404
    assert events.take() == [f"refused: {folder}/link leads out of {folder}"]
    assert server.get("/files/link/secret.txt").status == 404


def test_a_link_within_is_followed(server: Server, folder: Path) -> None:
    (folder / "link.js").symlink_to(folder / "js" / "app.js")
    assert server.get("/files/link.js").body == b"app"


def test_links_that_go_round_lead_nowhere(server: Server, folder: Path) -> None:
    (folder / "round").symlink_to(folder / "round")
    assert server.get("/files/round").status == 404
    assert server.get("/files/round/round").status == 404


def test_a_folder_may_be_a_link_that_is_put_elsewhere(server: Server, tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name)
    link = tmp_path / "now"
    link.symlink_to(tmp_path / "old")
    root = server.site.resource
    assert isinstance(root, Resource)
    root.putChild(b"files", StaticFiles(str(link)))
    assert server.get("/files/a.txt").body == b"old"
    link.unlink()
    link.symlink_to(tmp_path / "new")
    assert server.get("/files/a.txt").body == b"new"


def test_what_is_no_file_is_not_opened(server: Server, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    assert server.get("/files/pipe").status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_files_are_only_read(server: Server, folder: Path, method: str, trouble: Trouble) -> None:
    answer = server.get("/files/js/app.js", method)
    trouble.clear()
    assert answer.error[0] == 405


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """A folder of somebody's pages."""
    pages = tmp_path / "site"
    (pages / "help" / "empty").mkdir(parents=True)
    (pages / "index.html").write_text("<script>own()</script>")
    (pages / "style.css").write_text("h1 { color: red }")
    (pages / "help" / "index.html").write_text("help")
    return pages


@pytest.fixture
def site(pages: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server that has them."""
    server = Server(config=Config(server=ServerSection(pages=str(pages))))
    server.send_files(monkeypatch)
    return server


def test_the_icon_that_browsers_ask_for_is_ours(server: Server) -> None:
    answer = server.get("/favicon.ico", accept=BROWSER)
    assert (answer.status, answer["content-type"]) == (200, "image/svg+xml")
    assert answer.body == (asset_folder("static") / "favicon.svg").read_bytes()
    assert server.get("/favicon.ico/x").status == 404


class TestThePagesOfAUser:
    def test_begin_at_the_root(self, site: Server) -> None:
        for path in ("/", "/?a=b", "/index.html"):
            answer = site.get(path, accept=BROWSER)
            assert (answer.status, answer.body) == (200, b"<script>own()</script>")
            assert answer["content-type"] == "text/html; charset=utf-8"
            assert answer["cache-control"] == "no-cache"
        assert site.get("/", "HEAD")["content-length"] == "22"
        assert site.get("/", "POST", b"x").error[0] == 405

    def test_may_do_what_ours_may_not(self, site: Server) -> None:
        answer = site.get("/")
        for name, value in HEADERS.items():
            own = b"frame-ancestors 'self'" if name == b"content-security-policy" else value
            assert answer[name.decode()] == own.decode()
        for ours in ("/nothing", "/channels/a", "/static/app.css"):
            policy = site.get(ours, accept=BROWSER)["content-security-policy"]
            assert policy == HEADERS[b"content-security-policy"].decode()

    def test_are_read_each_time(self, site: Server, pages: Path) -> None:
        (pages / "index.html").write_text("new")
        (pages / "other.html").write_text("other")
        assert site.get("/").body == b"new"
        assert site.get("/other.html").body == b"other"

    def test_leave_the_root_to_the_live_page_if_they_have_none(
        self, site: Server, pages: Path
    ) -> None:
        (pages / "index.html").unlink()
        assert b'data-channel="numbers"' in site.get("/", accept=BROWSER).body
        assert site.get("/style.css").status == 200
        assert site.get("//style.css", accept=BROWSER).status == 404
        (pages / "index.html").write_text("back")
        assert site.get("/").body == b"back"

    def test_may_have_an_icon(self, site: Server, pages: Path) -> None:
        assert site.get("/favicon.ico")["content-type"] == "image/svg+xml"
        (pages / "favicon.ico").write_bytes(b"icon")
        answer = site.get("/favicon.ico")
        assert (answer.body, answer["content-type"]) == (b"icon", "image/vnd.microsoft.icon")

    def test_may_lie_in_folders(self, site: Server) -> None:
        assert site.get("/help/").body == b"help"
        for path, there in (("/help", "./help/"), ("/help?a=%2f&b", "./help/?a=%2f&b")):
            answer = site.get(path)
            assert (answer.status, answer["location"], answer.body) == (302, there, b"")
        for path in ("/help/empty", "/help/empty/", "/help/index.html/", "//", "//help/"):
            assert site.get(path, accept=BROWSER).status == 404

    def test_do_not_send_elsewhere(self, site: Server, pages: Path) -> None:
        for name in ("javascript:a", "evil.example", "a?b", "größe"):
            (pages / name).mkdir()
            (pages / name / "index.html").touch()
            answer = site.get(f"/{quote(name, safe=':')}")
            assert answer["location"] == f"./{quote(name, safe=':')}/"
        for path in ("//evil.example", "/\\evil.example", "/%2fevil.example", "//evil.example/.."):
            assert site.get(path).status == 404

    OURS = (
        "channels/numbers",
        "events",
        "api/info",
        "hooks/a",
        "status",
        "connection/websocket",
        "emulation",
        "static/app.css",
        "static/mine.css",
    )
    LATER = ("metrics", "health/live", "socket.io/index.html")

    @pytest.mark.parametrize("path", [*OURS, *LATER])
    def test_never_have_a_url_of_the_servers(
        self, pages: Path, monkeypatch: pytest.MonkeyPatch, trouble: Trouble, path: str
    ) -> None:
        plain = Server()
        plain.send_files(monkeypatch)
        before = plain.get(f"/{path}")
        (pages / path).parent.mkdir(exist_ok=True)
        (pages / path).write_text("mine")
        site = Server(config=Config(server=ServerSection(pages=str(pages))))
        first = path.partition("/")[0]
        assert trouble.take() == [f"{first} in {pages} is not served: /{first} is the server's own"]
        site.send_files(monkeypatch)
        after = site.get(f"/{path}")
        assert after.status == before.status
        assert b"mine" not in after.body

    def test_are_named_as_they_are(self, site: Server, pages: Path) -> None:
        for name in ("größe.html", "a b.html", "a%2fb.html", "a+b", "metrics.html", "staticx"):
            (pages / name).write_text(name)
            assert site.get(f"/{quote(name)}").body == name.encode()

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.lists(
            st.sampled_from(
                [
                    *("..", ".", "%2e%2e", "%2E.", "..%2f", "%2f", "//", "\\", "%5c", "..%5c"),
                    *("%00", "%c0%ae", "%ff", "%", "%2", "~", ";", "?", "#", "\x01", "ü", ":"),
                    *("help", "index.html", "link", "folder", ".secret", "secret.txt", "site"),
                    *("style.css", "etc", "passwd", "a" * 300, "hidden"),
                ]
            )
            | st.sampled_from("/%.").map(lambda letter: letter * 3)
            | st.text(st.characters(min_codepoint=33, max_codepoint=255), max_size=5),
            max_size=8,
        ),
        st.sampled_from(["", "/"]),
    )
    def test_are_all_that_any_path_leads_to(
        self, site: Server, pages: Path, parts: list[str], between: str
    ) -> None:
        if not (pages / "link").is_symlink():
            for hidden in (pages / ".secret", pages / "help" / ".secret", pages / ".hidden"):
                hidden.write_text("SECRET")
            (pages.parent / "secret.txt").write_text("SECRET")
            (pages.parent / "site-secret.txt").write_text("SECRET")
            (pages / "link").symlink_to(pages.parent / "secret.txt")
            (pages / "folder").symlink_to(pages.parent)
        line = site.connect()
        path = between.join(parts).encode("latin-1", "replace")
        line.send(b"GET /" + path + b" HTTP/1.1\r\nhost: localhost\r\n\r\n")
        wire = line.take()
        line.vanish()
        assert wire[9:12] in (b"200", b"302", b"400", b"404"), wire
        assert b"SECRET" not in wire
        assert b"root:" not in wire


@pytest.mark.parametrize("date", ["x", ";", "; length=5", "Sun,"])
def test_a_time_that_is_none_is_no_condition(server: Server, date: str) -> None:
    assert server.get("/static/app.css", if_modified_since=date).status == 200
