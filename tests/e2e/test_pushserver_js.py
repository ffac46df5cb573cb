"""`pushserver.js` in Chromium: of several origins, below a path, with transports blocked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from tests.e2e.exchange import publish
from tests.e2e.follower import Programs
from tests.e2e.server import TWISTD, Server, free_port, running
from tests.e2e.test_fallback import REFUSED
from tests.e2e.test_own_pages import EMBEDDED
from tests.http_server import HttpServer, Quiet

APP = """
from pushserver import PushServer, Refused

app = PushServer(pages="pages")


@app.on("connect")
def connect(client, data):
    if data == "wrong":
        raise Refused("the password is wrong")
    client.state["name"] = data


@app.on("whoami")
def whoami(client, data):
    return client.state["name"]


@app.on("echo")
def echo(client, data):
    client.send(data, event="echo")
"""
PAGE = """<!doctype html><title>-</title><script type="module">
  import { connect } from "%s";
  window.connect = connect;
  window.server = connect(%s);
  window.got = [];
  window.gaps = [];
  server.watch("news", ({ data }) => got.push(data), { last: 100, onGap: (gap) => gaps.push(gap) });
</script>"""


class _Files(Quiet, SimpleHTTPRequestHandler): ...


@contextmanager
def elsewhere(folder: Path) -> Iterator[int]:
    """Serve the pages in this folder on another port; yields that."""
    with closing(HttpServer(partial(_Files, directory=str(folder)))) as other:
        yield other.port


def write(folder: Path, name: str = "page.html", root: str = "", options: Any = None) -> None:
    (folder / "pages").mkdir(exist_ok=True)
    given = "" if options is None else json.dumps(options)
    text = PAGE % (f"{root or './'}static/pushserver.js", given)
    (folder / "pages" / name).write_text(text)


@contextmanager
def tabs(browser: Browser, url: str, count: int = 1, script: str = "") -> Iterator[list[Page]]:
    """Pages at this URL in one browser."""
    with browser.new_context() as context:
        if script:
            context.add_init_script(script)
        yield [open_tab(context, url) for _ in range(count)]


def open_tab(context: BrowserContext, url: str) -> Page:
    page = context.new_page()
    page.goto(url)
    return page


def until(page: Page, condition: str, timeout: int = 20_000) -> None:
    page.wait_for_function(f"() => {condition}", timeout=timeout)


def got(page: Page, *expected: object, timeout: int = 20_000) -> None:
    """Wait until the page has these data, each once and in order."""
    page.wait_for_function("(count) => got.length >= count", arg=len(expected), timeout=timeout)
    assert page.evaluate("got") == list(expected)
    assert page.evaluate("gaps") == []


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "shop.py").write_text(APP)
    write(tmp_path)
    (tmp_path / "pages" / "index.html").write_text("<title>index</title>")
    with running(Server(tmp_path, "--app", "shop:app")) as server:
        yield server


def test_a_page_of_the_server_is_live_and_calls_the_application(
    browser: Browser, server: Server
) -> None:
    publish(server, "news", "rye")
    with tabs(browser, f"{server.url}page.html") as [page]:
        got(page, "rye")
        publish(server, "news", "oat")
        got(page, "rye", "oat")
        page.evaluate("() => { server.on('echo', (data) => (window.echo = data)) }")
        page.evaluate("server.call('echo', {a: 1})")
        until(page, "echo.a === 1")
        error = "server.call('nothing').catch(({code, message}) => [code, message])"
        code, message = page.evaluate(error)
        assert code >= 100
        assert message
        assert page.evaluate("server.publish('news', 1).catch(({code}) => code)") == 103


def test_the_reason_says_that_the_application_refused(browser: Browser, server: Server) -> None:
    with tabs(browser, f"{server.url}page.html") as [page]:
        page.evaluate("() => { window.refused = connect({data: 'wrong'}) }")
        until(page, "refused.state === 'closed'")
        assert "the password is wrong" in page.evaluate("refused.reason")


def test_the_reason_says_that_the_origin_is_refused_or_that_the_server_is_away(
    browser: Browser, tmp_path: Path
) -> None:
    port = free_port()
    with elsewhere(tmp_path) as page_port:
        write(tmp_path, root=f"http://localhost:{port}/")
        origin = f"http://localhost:{page_port}"
        (tmp_path / "push.toml").write_text(f'[server]\nallowed_origins = ["{origin}"]\n')
        listen = ("--listen", f"tcp:{port}:interface=127.0.0.1")
        with running(Server(tmp_path, *listen, "--config", "push.toml")) as server:
            other = f"http://127.0.0.1:{page_port}"
            with (
                tabs(browser, f"{origin}/pages/page.html", 2) as allowed,
                tabs(browser, f"{other}/pages/page.html") as [refused],
            ):
                publish(server, "news", "rye")
                for page in allowed:
                    got(page, "rye")
                until(refused, "server.reason.includes('refuses pages')")
                assert refused.evaluate("server.reason") == (
                    f"the server refuses pages of {other}: it has to be in server.allowed_origins"
                )
                server.stop()
                until(allowed[0], "server.state === 'reconnecting'")
                until(refused, "server.reason === 'no answer from the server'")
                server.start()
                publish(server, "news", "oat")
                for page in allowed:
                    until(page, "got.at(-1) === 'oat'")


def test_a_page_below_a_path_is_live(browser: Browser, tmp_path: Path) -> None:
    port = free_port()
    write(tmp_path)
    (tmp_path / "program.py").write_text(EMBEDDED.format(port))
    programs = Programs(tmp_path)
    try:
        programs.start([*TWISTD, "-n", "--pidfile=", "-y", "program.py"], port)
        with tabs(browser, f"http://localhost:{port}/a/b/page.html", 2) as pages:
            for page in pages:
                until(page, "server.state === 'live'")
            url = f"http://localhost:{port}/a/b/channels/news"
            pages[0].evaluate(f"fetch({url!r}, {{method: 'POST', body: 'rye'}})")
            for page in pages:
                got(page, "rye")
    finally:
        programs.close()


NO_STREAM = "**/connection/http_stream"


@pytest.mark.parametrize("blocked", [[], [NO_STREAM]], ids=["http_stream", "sse"])
def test_where_websockets_are_blocked_a_secret_is_in_no_url(
    browser: Browser, server: Server, blocked: list[str]
) -> None:
    with browser.new_context() as context:
        context.add_init_script(REFUSED)
        for pattern in blocked:
            context.route(pattern, lambda route: route.abort())
        page = context.new_page()
        urls: list[str] = []
        page.on("request", lambda request: urls.append(request.url))
        page.goto(f"{server.url}page.html")
        page.evaluate("() => { window.mine = connect({data: 's3cret'}) }")
        until(page, "mine.state === 'live'")
        assert page.evaluate("mine.call('whoami')") == "s3cret"
        path = "connection/sse" if blocked else "connection/http_stream"
        assert any(path in url for url in urls)
        assert "s3cret" not in "".join(urls)
        until(page, "server.state === 'live'")
        publish(server, "news", "rye")
        got(page, "rye")


@pytest.mark.parametrize("script", ["", REFUSED], ids=["websocket", "blocked"])
def test_eight_tabs_share_a_connection_over_a_restart_of_the_server(
    browser: Browser, tmp_path: Path, script: str
) -> None:
    """With one connection for each tab, HTTP/1.1 has no place for more than six of them."""
    write(tmp_path)
    (tmp_path / "push.toml").write_text('[server]\npages = "pages"\n[store]\npath = "store.db"\n')
    with (
        running(Server(tmp_path, "--config", "push.toml")) as server,
        tabs(browser, f"{server.url}page.html", 8, script) as pages,
    ):
        for page in pages:
            until(page, "server.state === 'live'")
        publish(server, "news", 1)
        for page in pages:
            got(page, 1)
        clients = "fetch('channels/', {headers: {accept: 'application/json'}})"
        listed = pages[0].evaluate(f"{clients}.then((answer) => answer.json())")
        [news] = [row for row in listed["channels"] if row["channel"] == "news"]
        assert news["watchers"] == 1
        server.stop()
        until(pages[7], "server.state === 'reconnecting'")
        server.start()
        publish(server, "news", 2)
        for page in pages:
            got(page, 1, 2)
        pages[0].close()
        publish(server, "news", 3)
        for page in pages[1:]:
            got(page, 1, 2, 3)
