"""Static files: types, caching, ranges, and the bounds of the folder."""

from __future__ import annotations

import errno
import gzip
import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.web.resource import Resource
from twisted.web.static import File

from pushserver.resources.pages import CLIENT, SOCKET_IO, asset_folder
from pushserver.resources.static import COMPRESSED, PublicFiles, StaticFiles
from pushserver.resources.variants import (
    MAX_VARIANT_BYTES,
    VariantCache,
    brotli_name,
    digest_of,
)
from tests.unit.fakes.web import BROWSER, Log, Server, Trouble


@pytest.fixture
def folder(server: Server, tmp_path: Path) -> Path:
    """Files at `/files`, and a secret file outside the folder."""
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


def test_a_file_is_served_with_its_type_and_revalidated(server: Server, folder: Path) -> None:
    answer = server.get("/files/js/app.js")
    assert (answer.status, answer.body, answer["cache-control"]) == (200, b"app", "no-cache")
    assert "javascript" in answer["content-type"]
    changed = answer["last-modified"]
    again = server.get("/files/js/app.js", if_modified_since=changed)
    assert (again.status, again.rest) == (304, b"")
    head = server.get("/files/js/app.js", "HEAD")
    assert (head.status, head.rest, head["content-length"]) == (200, b"", "3")


def test_a_vendored_file_is_cached_for_ever(server: Server, folder: Path) -> None:
    answer = server.get("/files/vendor/lib-1.0/lib.js")
    assert answer["cache-control"] == "max-age=31536000, immutable"


def test_the_url_of_the_client_without_a_version_is_revalidated(server: Server) -> None:
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


class TestTheScriptOfSocketIO:
    NAMES = ("socket.io.js", "socket.io.min.js", "socket.io.esm.min.js")

    @pytest.mark.parametrize("name", NAMES)
    def test_is_served_where_pages_expect_it(self, server: Server, name: str) -> None:
        answer = server.get(f"/socket.io/{name}", origin="https://other.example")
        content = (asset_folder("static") / SOCKET_IO / name).read_bytes()
        assert (answer.status, answer.body) == (200, content)
        assert (answer["cache-control"], answer["content-type"]) == (
            "no-cache",
            "text/javascript; charset=utf-8",
        )
        assert answer["access-control-allow-origin"] == "*"
        tag = answer["etag"]
        assert server.get(f"/socket.io/{name}", if_none_match=tag).status == 304
        zipped = server.get(f"/socket.io/{name}", accept_encoding="gzip")
        assert gzip.decompress(zipped.body) == content
        pinned = server.get(f"/static/{SOCKET_IO}/{name}")
        assert pinned["cache-control"] == "max-age=31536000, immutable"

    @pytest.mark.parametrize("name", NAMES)
    def test_names_its_version_and_no_map_that_is_not_there(self, name: str) -> None:
        folder = asset_folder("static") / SOCKET_IO
        content = (folder / name).read_text()
        assert f"Socket.IO v{SOCKET_IO.rpartition('-')[2]}\n" in content
        assert "sourceMappingURL" not in content
        assert "MIT" in (folder / "LICENSE").read_text()

    @pytest.mark.parametrize(
        "path", ["/socket.io/x.js", "/socket.io/socket.io.js/x", "/socket.io//socket.io.js"]
    )
    def test_has_no_other_files_beside_it(self, server: Server, path: str) -> None:
        assert server.get(path).status == 404

    def test_is_only_read(self, server: Server) -> None:
        assert server.get("/socket.io/socket.io.js", "POST", b"x").status == 405


@pytest.mark.parametrize("path", ["pushserver.js", "centrifuge.js", "js/host.js", CLIENT])
def test_pages_of_all_origins_may_import_the_files_of_the_server(server: Server, path: str) -> None:
    answer = server.get(f"/static/{path}", origin="https://other.example")
    assert (answer.status, answer["access-control-allow-origin"]) == (200, "*")
    tag = answer["etag"]
    again = server.get(f"/static/{path}", origin="https://other.example", if_none_match=tag)
    assert (again.status, again["access-control-allow-origin"]) == (304, "*")


@pytest.mark.parametrize("path", ["pushserver.js", "app.css", "favicon.svg", CLIENT])
def test_files_of_the_server_are_sent_with_gzip_to_those_who_accept_it(
    server: Server, path: str
) -> None:
    content = (asset_folder("static") / path).read_bytes()
    plain = server.get(f"/static/{path}")
    assert (plain.body, plain["vary"]) == (content, "accept-encoding")
    assert "content-encoding" not in plain
    answer = server.get(f"/static/{path}", accept_encoding="zstd, GZIP;q=0.5, deflate")
    assert gzip.decompress(answer.body) == content
    assert (answer["content-encoding"], answer["vary"]) == ("gzip", "accept-encoding")
    for name in ("content-type", "cache-control", "access-control-allow-origin"):
        assert answer[name] == plain[name]
    assert answer["content-length"] == str(len(answer.body))
    head = server.get(f"/static/{path}", "HEAD", accept_encoding="gzip")
    assert (head.rest, head["content-length"]) == (b"", answer["content-length"])
    # A proxy may make the tag weak.
    for tag in (answer["etag"], f"W/{answer['etag']}"):
        again = server.get(f"/static/{path}", accept_encoding="gzip", if_none_match=tag)
        assert (again.status, again.rest, again["vary"]) == (304, b"", "accept-encoding")
    assert answer["etag"] != plain["etag"]
    assert server.get(f"/static/{path}", if_none_match=answer["etag"]).body == content


@pytest.mark.parametrize("value", ["", "identity", "zstd", "gzip;q=0", "gzip; Q=0.000", "xgzip"])
def test_files_are_sent_as_they_are_without_gzip(server: Server, value: str) -> None:
    answer = server.get("/static/app.css", accept_encoding=value)
    assert answer.body == (asset_folder("static") / "app.css").read_bytes()


def test_a_range_is_one_of_the_file_as_it_is(server: Server) -> None:
    answer = server.get("/static/app.css", accept_encoding="gzip", range="bytes=0-9")
    assert (answer.status, len(answer.body)) == (206, 10)
    assert "content-encoding" not in answer


def test_file_of_the_server_that_changes_is_compressed_again(
    server: Server, tmp_path: Path
) -> None:
    file = tmp_path / "a.css"
    root = server.site.resource
    assert isinstance(root, Resource)
    root.putChild(b"own", PublicFiles(str(tmp_path)))
    for content in (b"one", b"two, longer"):
        file.write_bytes(content)
        answer = server.get("/own/a.css", accept_encoding="gzip")
        assert gzip.decompress(answer.body) == content
    file.unlink()
    assert server.get("/own/a.css", accept_encoding="gzip").status == 404


def test_files_of_a_user_are_sent_as_they_are(server: Server, folder: Path) -> None:
    answer = server.get("/files/js/app.js", accept_encoding="gzip")
    assert (answer.body, "content-encoding" in answer) == (b"app", False)


class TestTheBrotliForm:
    """It is made when the package is built; a file without it is sent with gzip."""

    CONTENT = b"content " * 100

    @pytest.fixture
    def file(self, server: Server, tmp_path: Path) -> Path:
        root = server.site.resource
        assert isinstance(root, Resource)
        root.putChild(b"own", PublicFiles(str(tmp_path)))
        file = tmp_path / "a.js"
        file.write_bytes(self.CONTENT)
        Path(brotli_name(str(file), digest_of(self.CONTENT))).write_bytes(b"brotli")
        return file

    @pytest.mark.parametrize(
        "value", ["gzip, deflate, br, zstd", "br", "BR;q=0.5, gzip;q=0.5", "*"]
    )
    def test_is_sent_to_clients_that_accept_it(
        self, server: Server, file: Path, value: str
    ) -> None:
        answer = server.get("/own/a.js", accept_encoding=value)
        assert (answer["content-encoding"], answer.body) == ("br", b"brotli")
        assert (answer["content-length"], answer["vary"]) == ("6", "accept-encoding")
        assert answer["content-type"] == "text/javascript; charset=utf-8"
        head = server.get("/own/a.js", "HEAD", accept_encoding=value)
        assert (head.rest, head["content-length"]) == (b"", "6")
        for tag in (answer["etag"], f"W/{answer['etag']}"):
            again = server.get("/own/a.js", accept_encoding=value, if_none_match=tag)
            assert (again.status, again.rest) == (304, b"")

    @pytest.mark.parametrize(
        ("value", "coding"),
        [("br;q=0.1, gzip;q=0.2", "gzip"), ("br;q=0, *", "gzip"), ("br;q=0.1, identity", "")],
    )
    def test_is_not_sent_to_others(
        self, server: Server, file: Path, value: str, coding: str
    ) -> None:
        answer = server.get("/own/a.js", accept_encoding=value)
        assert answer.headers.get("content-encoding", [""]) == [coding]
        body = gzip.decompress(answer.body) if coding else answer.body
        assert body == self.CONTENT

    def test_is_not_sent_for_a_range(self, server: Server, file: Path) -> None:
        tags = {server.get("/own/a.js", accept_encoding=c)["etag"] for c in ("", "br", "gzip")}
        assert len(tags) == 3
        for tag in tags:
            answer = server.get("/own/a.js", accept_encoding="br", range="bytes=0-9", if_range=tag)
            assert "content-encoding" not in answer
            assert answer.body == self.CONTENT[: 10 if answer.status == 206 else None]

    def test_of_an_earlier_content_is_not_sent(self, server: Server, file: Path) -> None:
        file.write_bytes(b"changed")
        answer = server.get("/own/a.js", accept_encoding="br, gzip")
        assert answer["content-encoding"] == "gzip"
        assert gzip.decompress(answer.body) == b"changed"


CODINGS = ["", "gzip", "br", "*", "identity", "gzip;q=0", "br;q=0", "*;q=0", "deflate", "br;q=0.5"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(CODINGS), max_size=4), st.sampled_from(["GET", "HEAD"]))
def test_any_accepted_coding_has_the_same_content(
    server: Server, values: list[str], method: str
) -> None:
    content = (asset_folder("static") / "app.css").read_bytes()
    answer = server.get("/static/app.css", method, accept_encoding=", ".join(values))
    full = server.get("/static/app.css", accept_encoding=", ".join(values))
    coding = full.headers.get("content-encoding", ["identity"])[0]
    assert (gzip.decompress(full.body) if coding == "gzip" else full.body) == content
    assert answer["content-length"] == str(len(full.body))
    assert answer["etag"] == full["etag"]
    assert f"{coding};q=0" not in values or coding == "identity"


@pytest.mark.parametrize("path", ["app.css", "js/live.js", CLIENT, "centrifuge.js"])
def test_scripts_and_styles_have_no_policy(server: Server, path: str) -> None:
    tag = server.get(f"/static/{path}")["etag"]
    for method in ("GET", "HEAD"):
        for known in ("", tag):
            answer = server.get(f"/static/{path}", method, if_none_match=known)
            assert answer.status == (304 if known else 200)
            assert "content-security-policy" not in answer
            assert answer["x-content-type-options"] == "nosniff"


class TestTheURLOfAVersion:
    def test_is_cached_for_ever(self, server: Server) -> None:
        digest = digest_of((asset_folder("static") / "app.css").read_bytes())
        for coding in ("", "gzip"):
            answer = server.get(f"/static/app.css?v={digest}", accept_encoding=coding)
            assert answer["cache-control"] == "max-age=31536000, immutable"
        again = server.get(
            f"/static/app.css?v={digest}", if_none_match=server.get("/static/app.css")["etag"]
        )
        assert (again.status, again["cache-control"]) == (304, "max-age=31536000, immutable")

    @pytest.mark.parametrize(
        "query", ["", "?v=", "?v=0123456789ab", "?v={0}&v={0}", "?v={0}x", "?w={0}"]
    )
    def test_of_another_version_is_not(self, server: Server, query: str) -> None:
        # A page of an earlier start asks for it, and gets the present file.
        digest = digest_of((asset_folder("static") / "app.css").read_bytes())
        answer = server.get("/static/app.css" + query.format(digest))
        assert (answer.status, answer["cache-control"]) == (200, "no-cache")


class TestTheCacheOfVariants:
    def test_keeps_all_files_of_the_server(self) -> None:
        cache = VariantCache(10**9)
        for file in asset_folder("static").rglob("*"):
            if file.suffix in COMPRESSED:
                cache.get(str(file), (1,))
        assert 0 < cache._bytes < MAX_VARIANT_BYTES

    def test_has_no_more_bytes_than_its_bound(self, tmp_path: Path) -> None:
        cache = VariantCache(20_000)
        file = tmp_path / "a.js"
        for version in range(100):
            content = os.urandom(1_000 + 20 * version)
            file.write_bytes(content)
            found = cache.get(str(file), (version,))
            assert found is not None
            assert gzip.decompress(found.codings["gzip"]) == content
            assert cache._bytes == sum(each.size for each in cache._entries.values())
            assert cache._bytes <= 20_000
        assert len(cache._entries) > 1

    def test_keeps_the_files_that_were_asked_for_last(self, tmp_path: Path) -> None:
        cache = VariantCache(2_500)
        files = [tmp_path / name for name in ("a.js", "b.js", "c.js")]
        for file in files:
            file.write_bytes(b"x")
            cache.get(str(file), (1,))
            cache.get(str(files[0]), (1,))
        kept = {path for path, _ in cache._entries}
        assert kept == {str(files[0]), str(files[2])}

    def test_has_no_file_that_cannot_be_read(self, tmp_path: Path) -> None:
        assert VariantCache().get(str(tmp_path / "nothing.js"), (1,)) is None


def test_pages_of_other_origins_may_not_read_the_files_of_a_user(
    server: Server, folder: Path
) -> None:
    answer = server.get("/files/js/app.js", origin="https://other.example")
    assert "access-control-allow-origin" not in answer.headers


def test_the_size_of_the_module_is_that_in_its_document() -> None:
    files: dict[Path, bytes] = {}
    left = [(asset_folder("static") / "pushserver.js").resolve()]
    while left:
        file = left.pop()
        if file in files:
            continue
        files[file] = file.read_bytes()
        imported = re.findall(rb'(?:^import|from) "(\./[^"]+)"', files[file], re.MULTILINE)
        left += [(file.parent / name.decode()).resolve() for name in imported]
    sizes = [sum(map(len, files.values())), sum(len(gzip.compress(b)) for b in files.values())]
    document = (asset_folder("static").parent / "docs" / "browser.md").read_text("utf-8")
    claimed = re.search(r"imports have ([\d,]+) bytes.*?\bgzip,\s([\d,]+)\.", document, re.DOTALL)
    assert claimed is not None
    for size, text in zip(sizes, claimed.groups(), strict=True):
        assert size == pytest.approx(int(text.replace(",", "")), rel=0.1)


def test_the_module_imports_the_client_of_this_version() -> None:
    module = (asset_folder("static") / "pushserver.js").read_text("utf-8")
    assert f'import "./{CLIENT}";' in module


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
        # Other ranges may be ignored (RFC 9110, 14.2), and are: most of them fail in Twisted.
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
def test_a_range_of_a_file_is_served(
    server: Server, folder: Path, asked: str, status: int, body: bytes
) -> None:
    with Log() as events:
        answer = server.get("/files/js/app.js", range=asked)
    assert (answer.status, answer.body) == (status, body)
    assert events.take() == []
    head = server.get("/files/js/app.js", "HEAD", range=asked)
    assert (head.status, head.rest) == (200, b"")


def test_a_range_is_served_only_of_the_file_with_the_tag(server: Server, folder: Path) -> None:
    tag = server.get("/files/js/app.js")["etag"]
    for known, status in ((tag, 206), ('"other"', 200)):
        answer = server.get("/files/js/app.js", range="bytes=1-2", if_range=known)
        assert answer.status == status


class TestConditionalRequests:
    def test_a_known_tag_is_answered_with_304(self, server: Server, folder: Path) -> None:
        tag = server.get("/files/js/app.js")["etag"]
        for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            for method in ("GET", "HEAD"):
                answer = server.get("/files/js/app.js", method, if_none_match=known)
                assert (answer.status, answer.rest, answer["etag"]) == (304, b"", tag)
                # It would be that of the file.
                assert "content-length" not in answer
        assert server.get("/files/js/app.js", if_none_match='"other"').status == 200

    def test_a_change_within_the_same_second_is_sent(self, server: Server, folder: Path) -> None:
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

    def test_another_file_with_the_same_time_is_sent(self, server: Server, folder: Path) -> None:
        # A deployment may give all files the same time.
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
    def test_any_value_of_a_header_is_answered(
        self, server: Server, folder: Path, name: str, value: str
    ) -> None:
        answer = server.get("/files/js/app.js", "GET", b"", **{name: value})
        assert answer.status in (200, 206, 304, 416), value


class TestAFileThatChangesDuringItsTransfer:
    SIZE = 500_000

    def test_is_sent_up_to_the_length_in_the_header(self, server: Server, folder: Path) -> None:
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
    def test_ends_the_connection_when_it_became_shorter(
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
def test_a_file_that_cannot_be_opened_is_an_error(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, status: int
) -> None:
    def fail(file: File) -> None:
        raise OSError(number, "why not")

    monkeypatch.setattr(File, "openForReading", fail)
    answer = server.get("/files/js/app.js")
    assert answer.error == (status, "app.js cannot be read: why not")
    assert (answer["cache-control"], "etag" in answer) == ("no-store", False)
    page = server.get("/static/js/live.js", accept=BROWSER)
    assert (page.status, page["content-type"]) == (status, "text/html; charset=utf-8")
    assert "default-src 'none'" in page["content-security-policy"]


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


def test_a_name_may_contain_any_letter(server: Server, folder: Path) -> None:
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
def test_any_other_path_is_404_and_no_folder_is_listed(
    server: Server, folder: Path, path: str
) -> None:
    (folder / ".git").mkdir()
    for hidden in (".git/config", ".hidden.js", "js/.hidden.js"):
        (folder / hidden).write_text("secret")
    answer = server.get(f"/files{path}")
    assert answer.error == (404, f"there is nothing at /files{path}"[:120])
    assert "cache-control" not in answer or answer["cache-control"] == "no-store"


def test_a_name_that_the_file_system_cannot_encode_is_404(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> bytes:
        return name.encode("ascii")

    # On a file system with ASCII names only.
    monkeypatch.setattr(os, "fsencode", fail)
    assert server.get("/files/gr%C3%B6%C3%9Fe.txt").status == 404
    assert server.get("/files/js/app.js").status == 200


def test_a_browser_gets_the_404_as_a_page(server: Server, folder: Path) -> None:
    assert server.get("/files/nothing", accept=BROWSER)["content-type"].startswith("text/html")


@pytest.mark.parametrize("target", ["secret.txt", "."])
def test_a_link_out_of_the_folder_is_not_followed(
    server: Server, folder: Path, target: str
) -> None:
    (folder / "link").symlink_to(folder.parent / target)
    with Log() as events:
        for _ in range(2):
            assert server.get("/files/link").status == 404
    line = f"refused 404 to 127.0.0.1: GET /files/link: {folder}/link leads out of {folder}"
    assert events.take() == [line] * 2
    assert server.get("/files/link/secret.txt").status == 404


def test_a_link_within_the_folder_is_followed(server: Server, folder: Path) -> None:
    (folder / "link.js").symlink_to(folder / "js" / "app.js")
    assert server.get("/files/link.js").body == b"app"


def test_a_circular_link_is_404(server: Server, folder: Path) -> None:
    (folder / "round").symlink_to(folder / "round")
    assert server.get("/files/round").status == 404
    assert server.get("/files/round/round").status == 404


def test_the_folder_may_be_a_link_that_changes(server: Server, tmp_path: Path) -> None:
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


def test_a_pipe_is_not_opened(server: Server, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    assert server.get("/files/pipe").status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_files_allow_only_reading(
    server: Server, folder: Path, method: str, trouble: Trouble
) -> None:
    answer = server.get("/files/js/app.js", method)
    trouble.clear()
    assert answer.error[0] == 405


@pytest.mark.parametrize("date", ["x", ";", "; length=5", "Sun,"])
def test_an_invalid_date_is_ignored(server: Server, date: str) -> None:
    assert server.get("/static/app.css", if_modified_since=date).status == 200
