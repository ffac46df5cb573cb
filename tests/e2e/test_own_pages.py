"""The pages of an application, served by twistd, in Chromium."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.blocks import sections_of
from tests.e2e.conditions import wait_until
from tests.e2e.exchange import publish
from tests.e2e.follower import NO_ICON, Follower, Programs, run, visits_at
from tests.e2e.nginx import nginx
from tests.e2e.server import TWISTD, Server, free_port, run_twistd, running
from tests.e2e.supervisor import Supervisor

SECTIONS = sections_of("docs/applications.md", "Pages")
PROGRAM, OWN, FOREIGN, _ = SECTIONS["Pages"]
IMPORT = "from pushserver import PushServer\n"
EMBEDDED = """
from twisted.application.service import Application
from twisted.application.strports import service
from twisted.web.resource import Resource
from twisted.web.server import Site
from pushserver import PushServer

push = PushServer(pages="pages")
root = Resource()
root.putChild(b"a", Resource())
root.children[b"a"].putChild(b"b", push.resource())
application = Application("embedded")
push.service().setServiceParent(application)
service("tcp:{}:interface=127.0.0.1", Site(root)).setServiceParent(application)
"""
MAPS = "map $http_upgrade $connection_upgrade { default upgrade; '' ''; }"
RULES = """
location = /favicon.ico {{ return 204; }}
location /push/ {{
    proxy_pass http://127.0.0.1:{port}/;
    proxy_http_version 1.1;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $connection_upgrade;
    proxy_set_header Host $http_host;
}}
"""
NEWS = """
  server.watch("news", ({ data }) => { document.querySelector("h1").textContent = data; });
  list("#list", "news");
  graph("#graph", "lengths");
"""


def write(file: Path, head: str) -> None:
    """A page that shows the news; `head` creates its server."""
    file.parent.mkdir(exist_ok=True)
    style = "<style>h1 { color: rgb(1, 2, 3) }</style>"
    parts = '<div id="list"></div><div id="graph"></div>'
    assert head.count("{ connect }") == head.count("</script>") == 1
    script = head.replace("{ connect }", "{ connect, graph, list }")
    script = script.replace("</script>", f"{NEWS}</script>")
    page = f"<!doctype html><title>{file.parent.name}</title>{style}<h1>-</h1>{parts}{script}"
    file.write_text(page)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the pages of the reference."""
    write(tmp_path / "pages" / "index.html", OWN.text)
    inner = OWN.text.replace('"./static/', '"../static/')
    write(tmp_path / "pages" / "help" / "index.html", inner)
    (tmp_path / "pages" / "style.css").write_text("h1 { color: red }")
    return tmp_path


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    programs = Programs(tmp_path)
    yield programs
    programs.close()


def show(page: Page, news: str) -> None:
    expect(page.locator("h1")).to_have_text(news)
    expect(page.locator("h1")).to_have_css("color", "rgb(1, 2, 3)")
    expect(page.locator("#list li[data-offset] .row-value")).to_have_text(news)
    expect(page.locator("#list .newest")).to_have_css("display", "flex")


def test_an_application_has_pages(browser: Browser, folder: Path) -> None:
    (folder / "shop.py").write_text(IMPORT + PROGRAM.text)
    with running(Server(folder, "--app", "shop:app")) as server:
        visits = visits_at(browser, server.url)
        pages = [visits.open(path) for path in ("", "help", "help/?a=b")]
        publish(server, "news", "rye")
        for page in pages:
            show(page, "rye")
        assert pages[1].url == f"{server.url}help/"
        assert visits.open("channels/news").title().startswith("news")
        # Another page loads at once, with the history.
        index = folder / "pages" / "index.html"
        index.write_text(index.read_text().replace("<h1>", "<p>changed</p><h1>"))
        pages[0].reload()
        expect(pages[0].locator("body > p")).to_have_text("changed")
        show(pages[0], "rye")
        visits.close()
        assert visits.problems == []
        assert server.get("style.css").text == "h1 { color: red }"
        for path in ("..%2fshop.py", "%2e%2e/shop.py", "shop.py", "help/..%2f..%2fshop.py"):
            assert server.get(path).status == 404


def test_a_configuration_without_code_is_enough(browser: Browser, folder: Path) -> None:
    (folder / "push.toml").write_text('[server]\npages = "pages"\n')
    with running(Server(folder, "--config", "push.toml")) as server:
        visits = visits_at(browser, server.url)
        page = visits.open()
        publish(server, "news", "rye")
        show(page, "rye")
        visits.close()
        assert visits.problems == []


def test_pages_work_below_a_path_of_a_proxy(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(f"{IMPORT}app = PushServer()\n")
    write(tmp_path / "index.html", OWN.text)
    with running(Server(tmp_path, "shop.py", serve=True)) as server:
        rules = RULES.format(port=server.port)
        with nginx(tmp_path, rules, MAPS) as port:
            visits = visits_at(browser, f"http://localhost:{port}/push/")
            page = visits.open()
            publish(server, "news", "rye")
            show(page, "rye")
            publish(server, "lengths", 3)
            expect(page.locator("#graph canvas")).to_be_visible()
            visits.close()
        assert visits.problems == []
        assert server.get("shop.py").status == 404


def test_pages_work_below_a_path(browser: Browser, folder: Path, programs: Programs) -> None:
    port = free_port()
    (folder / "program.py").write_text(EMBEDDED.format(port))
    programs.start([*TWISTD, "-n", "--pidfile=", "-y", "program.py"], port)
    visits = visits_at(browser, f"http://localhost:{port}/a/b/")
    visits.allow(NO_ICON)
    pages = [visits.open(), visits.open("help")]
    run(["curl", "-sS", "-d", "rye", f"http://localhost:{port}/a/b/channels/news"], folder)
    for page in pages:
        show(page, "rye")
    visits.close()
    assert visits.problems == []


def test_a_page_of_an_allowed_origin_connects(
    browser: Browser, tmp_path: Path, programs: Programs
) -> None:
    follower = Follower(SECTIONS, tmp_path, programs)
    (tmp_path / "shop.py").write_text(f"{IMPORT}app = PushServer()\n")
    write(tmp_path / "page.html", follower.real(FOREIGN.text))
    follower.run("Pages")
    assert follower.server is not None
    allowed = visits_at(browser, f"http://localhost:{follower.page_port}/")
    allowed.allow(NO_ICON)
    allowed.allow(f"request to another host: http://localhost:{follower.port}/static/")
    other = visits_at(browser, f"http://127.0.0.1:{follower.page_port}/")
    page, refused = allowed.open("page.html"), other.open("page.html")
    publish(follower.server, "news", "rye")
    publish(follower.server, "lengths", 3)
    show(page, "rye")
    expect(page.locator("#graph canvas")).to_be_visible()
    server = follower.server
    wait_until(lambda: "a page of 'http://127.0.0.1:" in server.log)
    expect(refused.locator("#list .nothing")).to_contain_text("the server refuses pages of http://")
    expect(refused.locator("h1")).to_have_text("-")
    allowed.close()
    other.close()
    follower.stop()
    assert allowed.problems == []


class TestAFolderThatIsNotThere:
    CODE = f'{IMPORT}app = PushServer(pages="pages")\n'

    def test_ends_the_start(self, tmp_path: Path) -> None:
        (tmp_path / "shop.py").write_text(self.CODE)
        ended = run_twistd(tmp_path, "-n", "--pidfile=", "pushserver", "--app", "shop:app")
        assert ended.returncode == 1
        problem = f"pages = 'pages': there is no folder {tmp_path}/pages"
        assert ended.stdout.splitlines() == [f"pushserver: {problem}"]

    def test_may_be_created_later_under_reload(self, tmp_path: Path) -> None:
        (tmp_path / "shop.py").write_text(f"{IMPORT}app = PushServer()\n")
        supervisor = Supervisor()
        server = Server(tmp_path, "--app", "shop:app", "--reload")
        try:
            server.start(supervisor)
            supervisor.heard.clear()
            time.sleep(0.01)  # So that the time of the file differs.
            (tmp_path / "shop.py").write_text(self.CODE)
            wait_until(lambda: "waiting for a file to change" in server.log)
            write(tmp_path / "pages" / "index.html", OWN.text)
            supervisor.wait_for("READY=1", server.pid)
            assert re.search("<title>pages", server.get("").text)
            assert server.stop() == -signal.SIGTERM
        finally:
            server.kill()
