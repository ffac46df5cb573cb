"""The root of all URLs, and the pages of the user beside the server's own."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pushserver.config.settings import Config
from pushserver.config.settings import Server as ServerSection
from pushserver.resources.pages import asset_folder
from pushserver.web.site import HEADERS
from tests.unit.fakes.web import BROWSER, Server, Trouble


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """A folder with pages of the user."""
    pages = tmp_path / "site"
    (pages / "help" / "empty").mkdir(parents=True)
    (pages / "index.html").write_text("<script>own()</script>")
    (pages / "style.css").write_text("h1 { color: red }")
    (pages / "help" / "index.html").write_text("help")
    return pages


@pytest.fixture
def site(pages: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server with these pages."""
    server = Server(config=Config(server=ServerSection(pages=str(pages))))
    server.send_files(monkeypatch)
    return server


def test_the_icon_is_the_servers(server: Server) -> None:
    answer = server.get("/favicon.ico", accept=BROWSER)
    assert (answer.status, answer["content-type"]) == (200, "image/svg+xml")
    assert answer.body == (asset_folder("static") / "favicon.svg").read_bytes()
    assert server.get("/favicon.ico/x").status == 404


class TestTheIndexPageBesideAnApplication:
    @pytest.fixture
    @staticmethod
    def beside(pages: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
        server = Server(beside=str(pages))
        server.send_files(monkeypatch)
        return server

    def test_is_the_page_of_the_root_as_soon_as_it_exists(
        self, beside: Server, pages: Path
    ) -> None:
        assert beside.get("/").body == b"<script>own()</script>"
        assert beside.get("/index.html").status == 200
        (pages / "index.html").unlink()
        assert b'data-channels="numbers"' in beside.get("/", accept=BROWSER).body
        (pages / "index.html").write_text("back")
        assert beside.get("/").body == b"back"

    @pytest.mark.parametrize(
        "path",
        [
            "/style.css",
            "/help/",
            "/help/index.html",
            "/index.html/",
            "/index.html/../style.css",
            "/%2e/style.css",
            "/..%2fsite/style.css",
            "/index.html%2f..%2fstyle.css",
        ],
    )
    def test_is_the_only_file_that_is_served(self, beside: Server, path: str) -> None:
        assert beside.get(path).status == 404

    def test_leaves_the_icon_to_the_server(self, beside: Server, pages: Path) -> None:
        (pages / "favicon.ico").write_bytes(b"icon")
        assert beside.get("/favicon.ico")["content-type"] == "image/svg+xml"

    def test_is_not_served_if_it_leads_out_of_the_folder(
        self, beside: Server, pages: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "secret").write_text("secret")
        (pages / "index.html").unlink()
        (pages / "index.html").symlink_to(tmp_path / "secret")
        assert beside.get("/").status == 404

    def test_gives_way_to_a_folder_of_pages(
        self, pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "index.html").write_text("beside")
        config = Config(server=ServerSection(pages=str(pages)))
        server = Server(config=config, beside=str(tmp_path))
        server.send_files(monkeypatch)
        assert server.get("/").body == b"<script>own()</script>"


class TestPagesOfTheUser:
    def test_are_served_from_the_root(self, site: Server) -> None:
        for path in ("/", "/?a=b", "/index.html"):
            answer = site.get(path, accept=BROWSER)
            assert (answer.status, answer.body) == (200, b"<script>own()</script>")
            assert answer["content-type"] == "text/html; charset=utf-8"
            assert answer["cache-control"] == "no-cache"
        assert site.get("/", "HEAD")["content-length"] == "22"
        assert site.get("/", "POST", b"x").error[0] == 405

    def test_have_a_wider_policy_than_the_servers_pages(self, site: Server) -> None:
        answer = site.get("/")
        for name, value in HEADERS.items():
            own = b"frame-ancestors 'self'" if name == b"content-security-policy" else value
            assert answer[name.decode()] == own.decode()
        for ours in ("/nothing", "/channels/a", "/static/favicon.svg"):
            policy = site.get(ours, accept=BROWSER)["content-security-policy"]
            assert policy == HEADERS[b"content-security-policy"].decode()

    def test_are_read_on_each_request(self, site: Server, pages: Path) -> None:
        (pages / "index.html").write_text("new")
        (pages / "other.html").write_text("other")
        assert site.get("/").body == b"new"
        assert site.get("/other.html").body == b"other"

    def test_without_an_index_the_root_is_the_live_page(self, site: Server, pages: Path) -> None:
        (pages / "index.html").unlink()
        assert b'data-channels="numbers"' in site.get("/", accept=BROWSER).body
        assert site.get("/style.css").status == 200
        assert site.get("//style.css", accept=BROWSER).status == 404
        (pages / "index.html").write_text("back")
        assert site.get("/").body == b"back"

    def test_may_include_an_icon(self, site: Server, pages: Path) -> None:
        assert site.get("/favicon.ico")["content-type"] == "image/svg+xml"
        (pages / "favicon.ico").write_bytes(b"icon")
        answer = site.get("/favicon.ico")
        assert (answer.body, answer["content-type"]) == (b"icon", "image/vnd.microsoft.icon")

    def test_may_be_in_folders(self, site: Server) -> None:
        assert site.get("/help/").body == b"help"
        for path, there in (("/help", "./help/"), ("/help?a=%2f&b", "./help/?a=%2f&b")):
            answer = site.get(path)
            assert (answer.status, answer["location"], answer.body) == (302, there, b"")
        for path in ("/help/empty", "/help/empty/", "/help/index.html/", "//", "//help/"):
            assert site.get(path, accept=BROWSER).status == 404

    def test_redirect_only_within_the_server(self, site: Server, pages: Path) -> None:
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
    RESERVED = ("metrics", "health/live", "health/ready", "socket.io/index.html")

    @pytest.mark.parametrize("path", [*OURS, *RESERVED])
    def test_do_not_hide_a_url_of_the_server(
        self, pages: Path, monkeypatch: pytest.MonkeyPatch, trouble: Trouble, path: str
    ) -> None:
        plain = Server()
        plain.send_files(monkeypatch)
        before = plain.get(f"/{path}")
        (pages / path).parent.mkdir(exist_ok=True)
        (pages / path).write_text("of the user")
        site = Server(config=Config(server=ServerSection(pages=str(pages))))
        first = path.partition("/")[0]
        assert trouble.take() == [f"{first} in {pages} is not served: /{first} is the server's own"]
        site.send_files(monkeypatch)
        after = site.get(f"/{path}")
        assert after.status == before.status
        assert b"of the user" not in after.body

    def test_are_found_by_any_name(self, site: Server, pages: Path) -> None:
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
    def test_no_path_leads_out_of_their_folder(
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
