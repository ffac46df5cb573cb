"""The user's templates and static files, in place of the server's own and beside them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pushserver.config.settings import Config, Page
from pushserver.config.settings import Server as ServerConfig
from pushserver.resources.assets import STYLES
from pushserver.resources.pages import Pages, asset_folder, look_problems
from pushserver.resources.template_failures import TemplateFailures
from pushserver.resources.templates import OWN_NAMES
from pushserver.resources.variants import MAX_VARIANT_BYTES, digest_of
from pushserver.usercode.share import MOST_SECONDS
from pushserver.web.resource import Refusal
from tests.e2e.blocks import sections_of
from tests.unit.fakes.web import BROWSER, Response, Server, Trouble

EXTENDED = '{% extends "pushserver/page.html" %}{% block content %}<main>own</main>{% endblock %}'
FOR_EVER = "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}"
OURS = asset_folder("static")
DOCUMENT = (asset_folder("static").parent / "docs" / "look.md").read_text("utf-8")


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    folder = tmp_path / "templates"
    folder.mkdir()
    return folder


@pytest.fixture
def static(tmp_path: Path) -> Path:
    folder = tmp_path / "static"
    folder.mkdir()
    return folder


def make_server(templates: Path | None = None, static: Path | None = None) -> Server:
    server = ServerConfig(templates=str(templates or ""), static=str(static or ""))
    return Server(config=Config(server=server))


def get_page(server: Server, path: str = "/channels/a") -> Response:
    return server.get(path, accept=BROWSER)


# --- templates ---------------------------------------


def test_the_names_of_the_servers_templates_are_those_of_their_files() -> None:
    assert sorted(OWN_NAMES) == sorted(each.name for each in asset_folder("templates").iterdir())


@pytest.mark.parametrize(
    ("name", "path", "status"),
    [
        ("channel.html", "/channels/a", 200),
        ("channels.html", "/channels/", 200),
        ("error.html", "/nothing", 404),
    ],
)
def test_one_template_replaces_one_page(templates: Path, name: str, path: str, status: int) -> None:
    (templates / name).write_text(EXTENDED)
    server = make_server(templates)
    answer = get_page(server, path)
    assert answer.status == status
    assert b"<main>own</main>" in answer.body
    assert b'<header class="page-header">' in answer.body
    others = {"/channels/a", "/channels/", "/nothing"} - {path}
    assert not any(b"own</main>" in get_page(server, other).body for other in others)


def test_a_page_of_ones_own_is_that_of_all_pages(templates: Path) -> None:
    (templates / "page.html").write_text(
        '{% extends "pushserver/page.html" %}{% block title %}{{ super() }} of ours{% endblock %}'
    )
    (templates / "channel.html").write_text(
        '{% extends "pushserver/channel.html" %}{% block title %}{{ channel }}{% endblock %}'
    )
    (templates / "login.html").write_text("<p>Ask the office for a key.</p>")
    server = make_server(templates)
    titles = [
        re.findall(r"<title>(.*)</title>", get_page(server, path).body.decode())
        for path in ("/channels/a", "/channels/", "/nothing")
    ]
    assert titles[0] == ["a"]
    assert b"Ask the office" in get_page(server).body
    # Each page of the server has a title of its own in place of that of page.html.
    assert titles[1:] == [["Channels · pushserver"], ["404 Not Found · pushserver"]]


def test_templates_beside_an_application_or_pages_replace_nothing(templates: Path) -> None:
    (templates / "error.html").write_text("own")
    server = Server(config=Config(server=ServerConfig(pages=str(templates))))
    assert get_page(server, "/nothing").body != b"own"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a\n{% if %}", "channel.html, line 2: Expected an expression"),
        ("\n{{ nothing }}", "channel.html, line 2: UndefinedError: 'nothing' is undefined"),
        ('{% include "none.html" %}', "there is no 'none.html' in"),
        ('{{ asset("none.css") }}', "channel.html, line 1: LookupError: static file 'none.css'"),
        (FOR_EVER, "channel.html, line 1: more than 20000 turns"),
        ('{% extends "channel.html" %}', "it extends itself; the server's own is pushserver/"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
    ],
)
def test_an_error_is_in_the_log_and_costs_its_page_alone(
    templates: Path, trouble: Trouble, text: str, problem: str
) -> None:
    (templates / "channel.html").write_text(text)
    server = make_server(templates)
    answer = get_page(server)
    assert answer.status == 500
    assert b"internal server error" in answer.body
    assert problem.encode() not in answer.body
    assert "channel.html" not in answer.body.decode()
    get_page(server)
    [line] = trouble.take()
    assert line.startswith("the page channel.html failed: ")
    assert problem in line
    assert get_page(server, "/channels/").status == 200
    assert server.get("/channels/a").status == 200


def test_an_error_in_the_page_of_errors_leaves_the_servers_own(
    templates: Path, trouble: Trouble
) -> None:
    for name in ("error.html", "page.html"):
        (templates / name).write_text("{{ nothing }}")
    answer = get_page(make_server(templates), "/nothing")
    assert answer.status == 404
    assert b"there is nothing at /nothing" in answer.body
    assert "the page error.html failed: error.html, line 1" in trouble.take()[0]


def test_errors_are_known_at_the_start(templates: Path, trouble: Trouble) -> None:
    (templates / "channel.html").write_text("{% if %}")
    (templates / "part.html").write_text("{% if %}")
    make_server(templates)
    [line] = trouble.take()
    assert "channel.html, line 1" in line
    assert [line.partition(":")[0] for line in look_problems(str(templates))] == ["templates"]


def test_in_development_a_page_has_its_error_and_changes_count_at_once(
    templates: Path, trouble: Trouble
) -> None:
    file = templates / "channel.html"
    file.write_text("one\n<b>\n{{ nothing }}\n" + "last\n" * 9)
    pages = Pages(float, TemplateFailures(float, float), development=True)
    pages.use(str(templates), "", Page())
    with pytest.raises(Refusal) as failed:
        pages.channel(("a",), ".", 1)
    assert failed.value.http_status == 500
    assert str(failed.value).splitlines() == [
        "channel.html, line 3: UndefinedError: 'nothing' is undefined",
        "",
        "     1 | one",
        "     2 | <b>",
        ">    3 | {{ nothing }}",
        "     4 | last",
        "     5 | last",
        "     6 | last",
    ]
    assert str(failed.value) in trouble.take()[0]
    file.write_text("new, and longer")
    assert pages.channel(("a",), ".", 1).html == b"new, and longer"


def test_templates_are_read_once_and_again_with_the_configuration(templates: Path) -> None:
    file = templates / "channel.html"
    file.write_text("one")
    pages = Pages(float, TemplateFailures(float, float))
    pages.use(str(templates), "", Page())
    assert pages.channel(("a",), ".", 1).html == b"one"
    file.write_text("two, and longer")
    assert pages.channel(("a",), ".", 1).html == b"one"
    pages.use(str(templates), "", Page())
    assert pages.channel(("a",), ".", 1).html == b"two, and longer"
    pages.use("", "", Page())
    assert b"<!doctype html>" in pages.channel(("a",), ".", 1).html


def test_a_slow_template_takes_a_part_of_the_time(templates: Path, trouble: Trouble) -> None:
    (templates / "channel.html").write_text("slow")
    now = [0.0]

    def clock() -> float:
        now[0] += MOST_SECONDS / 2
        return now[0]

    pages = Pages(clock, TemplateFailures(float, clock))
    pages.use(str(templates), "", Page())
    for _ in range(5):
        pages.channel(("a",), ".", 1)
    with pytest.raises(Refusal) as failed:
        pages.channel(("a",), ".", 1)
    assert (failed.value.http_status, failed.value.headers) == (503, {"retry-after": "1"})
    [line] = trouble.take()
    assert "takes more than 25% of the time of the server" in line
    # The page of the refusal is there all the same.
    assert pages.error(503, "Busy", "soon")


# --- the document ---------------------------------------

SHOWN = {"channel.html": "/channels/a", "channels.html": "/channels/", "error.html": "/nothing"}
TABLE = DOCUMENT.partition("### Blocks")[2].partition("\n## ")[0]
BLOCKS = [
    (block, page)
    for block, of in re.findall(r"^\| `(\w+)` \| (.*?) \|", TABLE, re.MULTILINE)
    for page in (re.findall(r"`([\w.]+)`", of) or SHOWN)
]


@pytest.mark.parametrize(("block", "of"), BLOCKS)
def test_each_block_of_the_document_can_be_replaced(templates: Path, block: str, of: str) -> None:
    text = f'{{% extends "pushserver/{of}" %}}{{% block {block} %}}<b>{block}</b>{{% endblock %}}'
    (templates / of).write_text(text)
    server = make_server(templates)
    ours = Server()
    for name, path in SHOWN.items():
        body = get_page(server, path).body
        assert (f"<b>{block}</b>".encode() in body) == (of in (name, "page.html")), name
        assert len(body) != len(get_page(ours, path).body) or of not in (name, "page.html")


def test_the_document_has_all_blocks() -> None:
    found = {
        (block, file.name)
        for file in asset_folder("templates").iterdir()
        for block in re.findall(r"{%-? block (\w+) ", file.read_text())
    }
    assert {block for block, _ in BLOCKS} == {block for block, _ in found}
    assert {each for each in BLOCKS if each[1] == "page.html"} <= found


def test_the_page_and_the_style_of_the_document(templates: Path, static: Path) -> None:
    html, css = sections_of("docs/look.md", "Templates")["Templates"]
    (templates / "page.html").write_text(html.text)
    (static / "own.css").write_text(css.text)
    server = make_server(templates, static)
    for path in SHOWN.values():
        text = get_page(server, path).body.decode()
        assert "Our factory</a>" in text
        [url] = re.findall(r'href="[./]+/(static/own\.css\?v=\w+)"', text)
        answer = server.get(f"/{url}", "HEAD")
        assert (answer.status, answer["cache-control"]) == (200, "max-age=31536000, immutable")
        assert re.search(r"bundle/page\.css", text)


# --- static files ---------------------------------------


def linked(answer: Response) -> list[str]:
    """The files of a page below `/static/`."""
    return re.findall(r'(?:src|href)="\.\./static/([^"]+)"', answer.body.decode())


def test_a_file_is_beside_those_of_the_server(
    static: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (static / "shop").mkdir()
    (static / "shop" / "own.js").write_text("own()")
    server = make_server(static=static)
    server.send_files(monkeypatch)
    answer = server.get("/static/shop/own.js")
    assert (answer.status, answer.body) == (200, b"own()")
    assert answer["content-type"] == "text/javascript; charset=utf-8"
    assert answer["cache-control"] == "no-cache"
    version = digest_of(b"own()")
    versioned = server.get(f"/static/shop/own.js?v={version}")
    assert versioned["cache-control"] == "max-age=31536000, immutable"
    assert server.get("/static/shop/own.js?v=old")["cache-control"] == "no-cache"
    assert server.get("/static/js/live.js").body == (OURS / "js/live.js").read_bytes()
    assert server.get("/static/centrifuge.js").status == 200


def test_a_file_replaces_one_of_the_server(static: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (static / "favicon.svg").write_text("<svg/>")
    (static / "centrifuge.js").write_text("own()")
    server = make_server(static=static)
    server.send_files(monkeypatch)
    assert server.get("/static/favicon.svg").body == b"<svg/>"
    assert server.get("/static/centrifuge.js").body == b"own()"
    assert server.get("/favicon.ico").body == b"<svg/>"
    assert f"favicon.svg?v={digest_of(b'<svg/>')}" in linked(get_page(server))
    (static / "favicon.svg").write_text("<svg>2</svg>")
    assert f"favicon.svg?v={digest_of(b'<svg>2</svg>')}" in linked(get_page(server))
    assert server.get("/static/favicon.svg").body == b"<svg>2</svg>"


@pytest.mark.parametrize(
    ("name", "scripts", "styles"),
    [
        ("app.css", "bundle/", STYLES),
        (STYLES[0], "bundle/", STYLES),
        ("js/list.js", "js/", ("bundle/page.css",)),
        ("pushserver.js", "js/", ("bundle/page.css",)),
        ("own.css", "bundle/", ("bundle/page.css",)),
        ("bundle/page.css", "bundle/", ("bundle/page.css",)),
    ],
)
def test_pages_load_the_sources_of_what_was_replaced(
    static: Path, name: str, scripts: str, styles: tuple[str, ...]
) -> None:
    file = static / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("/* own */")
    server = make_server(static=static)
    answer = get_page(server)
    urls = linked(answer)
    assert f"{scripts}live.js" in {url.partition("?")[0] for url in urls}
    sheets = [url for url in urls if url.partition("?")[0].endswith(".css")]
    assert [url.partition("?")[0] for url in sheets] == list(styles)
    if name in styles:
        assert f"{name}?v={digest_of(b'/* own */')}" in sheets
    preloaded = re.findall(r"<\.\./static/([^>]+)>", answer["link"])
    assert preloaded
    # Else a browser would load them twice.
    assert set(preloaded) <= set(urls)


def test_a_vendored_file_of_ones_own_is_revalidated(static: Path) -> None:
    (static / "vendor").mkdir()
    (static / "vendor" / "plot.js").write_text("plot()")
    server = make_server(static=static)
    assert server.get("/static/vendor/plot.js", "HEAD")["cache-control"] == "no-cache"


def test_a_long_file_is_not_compressed(static: Path) -> None:
    (static / "long.js").write_bytes(b"//" + b"x" * MAX_VARIANT_BYTES)
    server = make_server(static=static)
    answer = server.get("/static/long.js", "HEAD", accept_encoding="gzip")
    assert answer["content-length"] == str(MAX_VARIANT_BYTES + 2)
    assert "content-encoding" not in answer


@pytest.mark.parametrize(
    "path",
    [
        "/static/.hidden",
        "/static/.git/config",
        "/static/out.txt",
        "/static/folder/secret.txt",
        "/static/../secret.txt",
        "/static/%2e%2e/secret.txt",
        "/static/..%2fsecret.txt",
        "/static/sub/..%2f..%2fsecret.txt",
        "/static/sub/",
        "/static/sub",
        "/static/a%00b",
        "/static/%ff",
    ],
)
def test_nothing_hidden_or_outside_is_served(
    static: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (static / ".hidden").write_text("secret")
    (static / ".git").mkdir()
    (static / ".git" / "config").write_text("secret")
    (static / "sub").mkdir()
    (static / "sub" / "file.txt").write_text("public")
    (static / "out.txt").symlink_to(tmp_path / "secret.txt")
    (static / "folder").symlink_to(tmp_path)
    server = make_server(static=static)
    server.send_files(monkeypatch)
    assert server.get("/static/sub/file.txt").body == b"public"
    answer = server.get(path)
    assert answer.status == 404
    assert b"secret" not in answer.body.replace(b"secret.txt", b"")
