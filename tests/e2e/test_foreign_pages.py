"""A page of another origin, in Chromium, can cause requests but no change on the server.

The other origin is once another site (127.0.0.1 for localhost) and once another port of the same.
The same script in a page of the server's own origin is the control: there everything works.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page

from tests.e2e.conditions import wait_until
from tests.e2e.patience import PATIENCE
from tests.e2e.server import Server, running
from tests.http_server import HttpServer, Quiet

APP = """
from pathlib import Path
from pushserver import PushServer

app = PushServer(pages="pages")


def note(what):
    with Path("acts").open("a") as file:
        file.write(what + "\\\\n")


@app.on("connect")
def connect(client, data):
    note("connect")


@app.on("order")
def order(client, data):
    note("order")


@app.on("message")
def message(client, data):
    note("message")


@app.source("watched", every=0.05, on_demand=True)
def watched():
    note("watched")


@app.on("start")
def start():
    app.publish("secret", "s3cret")
"""
CONFIG = """
[namespaces.open]
client_publish = true

[sources.unsigned]
type = "webhook"
channel = "hooked"
signature = "none"
"""
CONNECT = {"id": 1, "connect": {}}
ORDER = {"id": 2, "rpc": {"method": "order", "data": 1}}
PUBLISH = {"id": 3, "publish": {"channel": "open:x", "data": 1}}
COMMANDS = "\n".join(map(json.dumps, (CONNECT, ORDER, PUBLISH)))
GETS = [
    f"connection/sse?cf_connect={quote(json.dumps(CONNECT))}",
    f"connection/sse?cf_connect={quote(COMMANDS)}",
    "channels/watched?since=now&wait=1",
    "events?channel=watched",
    "channels/secret",
    "status?channel=secret",
]
POSTS = {
    "channels/open:x": "1",
    "connection/http_stream": COMMANDS,
    "connection/sse": COMMANDS,
    "emulation": '{"session": "x", "data": "{}"}',
    "api/publish": '{"channel": "open:x", "data": 1}',
    "api/disconnect": '{"user": ""}',
    "hooks/unsigned": '{"n": 1}',
}
SOCKETS = ["connection/websocket", "channels/watched", "events?channel=watched"]
SCRIPT = """
async ([root, gets, posts, sockets, kinds]) => {
  const soon = (start) => new Promise((resolve) => {
    start(resolve);
    setTimeout(() => resolve("open"), 20_000);
  });
  const element = async (name, set) => {
    const made = document.createElement(name);
    const result = await soon((done) => {
      made.onload = () => done("loaded");
      made.onerror = () => done("failed");
      set(made);
      document.body.append(made);
    });
    made.remove();
    return result;
  };
  const get = async (url, options) => {
    const abort = new AbortController();
    const answer = await fetch(url, {...options, signal: abort.signal}).catch(() => null);
    setTimeout(() => abort.abort());
    return answer === null ? "failed" : answer.type === "opaque" ? "opaque" : String(answer.status);
  };
  const post = (url, body) => soon((done) => {
    const frame = document.createElement("iframe");
    frame.name = "frame" + Math.random();
    document.body.append(frame);
    const form = document.createElement("form");
    Object.assign(form, {action: url, method: "POST", enctype: "text/plain", target: frame.name});
    const field = document.createElement("input");
    field.name = body;
    form.append(field);
    document.body.append(form);
    frame.onload = () => done("loaded");
    form.submit();
  });
  const tries = {};
  for (const path of gets) {
    const url = root + path;
    const stream = {headers: {accept: "text/event-stream"}, referrerPolicy: "no-referrer"};
    tries["img " + path] = () => element("img", (made) => { made.src = url; });
    tries["img-without-referrer " + path] = () => element("img", (made) => {
      made.referrerPolicy = "no-referrer";
      made.src = url;
    });
    tries["script " + path] = () => element("script", (made) => { made.src = url; });
    tries["style " + path] = () => element("link", (made) => {
      made.rel = "stylesheet";
      made.href = url;
    });
    tries["iframe " + path] = () => element("iframe", (made) => { made.src = url; });
    tries["no-cors " + path] = () => get(url, {mode: "no-cors"});
    tries["no-cors-stream " + path] = () => get(url, {mode: "no-cors", ...stream});
    tries["cors " + path] = () => get(url, {});
    tries["cors-stream " + path] = () => get(url, stream);
    tries["events " + path] = async () => {
      const source = new EventSource(url);
      const result = await soon((done) => {
        source.onopen = () => done("opened");
        source.onerror = () => done("failed");
      });
      source.close();
      return result;
    };
  }
  for (const [path, body] of Object.entries(posts)) {
    const url = root + path;
    tries["no-cors-post " + path] = () => get(url, {method: "POST", mode: "no-cors", body});
    tries["cors-post " + path] = () => get(url, {method: "POST", body});
    tries["form " + path] = () => post(url, body);
    tries["beacon " + path] = () => Promise.resolve(String(navigator.sendBeacon(url, body)));
  }
  for (const path of sockets) {
    tries["socket " + path] = async () => {
      const socket = new WebSocket(root.replace("http", "ws") + path);
      const result = await soon((done) => {
        socket.onopen = () => {
          if (path.startsWith("connection")) socket.send(%s);
        };
        socket.onmessage = () => done("opened");
        socket.onclose = () => done("failed");
      });
      socket.close();
      return result;
    };
  }
  const results = {};
  for (const [name, start] of Object.entries(tries)) {
    if (kinds === null || kinds.includes(name.split(" ")[0])) results[name] = await start();
  }
  return results;
}
""".replace("%s", json.dumps(COMMANDS))
"""Makes a request in each way that a page has, and returns the result of each."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "shop.py").write_text(APP.replace("\\\\", "\\"))
    (tmp_path / "config.toml").write_text(CONFIG)
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "page.html").write_text("<title>a page</title><body></body>")
    with running(Server(tmp_path, "--app=shop:app", "--config=config.toml")) as server:
        yield server


class _Files(Quiet, SimpleHTTPRequestHandler): ...


@contextmanager
def elsewhere(folder: Path) -> Iterator[int]:
    """Serve the pages in this folder on another port; yields that."""
    with closing(HttpServer(partial(_Files, directory=str(folder)))) as other:
        yield other.port


def run(
    browser: Browser, url: str, server: Server, kinds: list[str] | None = None
) -> dict[str, str]:
    """The results of the script in the page at `url`, for all kinds of requests or for these."""
    with browser.new_context() as context:
        page = context.new_page()
        beacons = Beacons(page, len(POSTS) if kinds is None or "beacon" in kinds else 0)
        page.goto(url)
        root = f"http://localhost:{server.port}/"
        found: dict[str, str] = page.evaluate(SCRIPT, [root, GETS, POSTS, SOCKETS, kinds])
        beacons.wait()
        return found


class Beacons:
    """Waits for the answers to beacons, which a page cannot do."""

    def __init__(self, page: Page, number: int):
        self._page = page
        self._left = number
        page.on("requestfinished", self._ended)
        page.on("requestfailed", self._ended)

    def _ended(self, request: Any) -> None:
        if request.resource_type == "ping":
            self._left -= 1

    def wait(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while self._left > 0:
            assert time.monotonic() < deadline, f"{self._left} beacons are not answered"
            self._page.wait_for_timeout(50)


def acts(server: Server, folder: Path) -> set[str]:
    """The acts of the application, and the channels with publications."""
    file = folder / "acts"
    found = set(file.read_text().split()) if file.exists() else set()
    for channel in ("open:x", "hooked"):
        history = json.loads(server.get(f"channels/{channel}").body)
        found |= {channel} if history["offset"] else set()
    return found


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"], ids=["other site", "other port"])
def test_a_page_of_another_origin_causes_nothing(
    browser: Browser, server: Server, tmp_path: Path, host: str
) -> None:
    with elsewhere(tmp_path / "pages") as port:
        results = run(browser, f"http://{host}:{port}/page.html", server)
    assert acts(server, tmp_path) == set()
    for what, result in results.items():
        kind = what.split()[0]
        if kind in ("events", "socket", "cors", "cors-stream", "cors-post", "img"):
            assert result == "failed", (what, result)
        else:
            # The page learns only that its request has ended.
            assert result in ("failed", "loaded", "opaque", "true"), (what, result)


def test_speculation_of_a_page_of_another_origin_starts_no_session(
    browser: Browser, server: Server, tmp_path: Path
) -> None:
    """Chromium sends `Sec-Fetch-Site: none` for pages that it loads in advance."""
    urls = [f"http://localhost:{server.port}/{path}" for path in (GETS[0], GETS[2], GETS[3])]
    for kind in ("prefetch", "prerender"):
        rules = json.dumps({kind: [{"source": "list", "urls": urls, "eagerness": "immediate"}]})
        text = f"<script type=speculationrules>{rules}</script>"
        (tmp_path / "pages" / f"{kind}.html").write_text(text)
    with elsewhere(tmp_path / "pages") as port, browser.new_context() as context:
        for kind in ("prefetch", "prerender"):
            page = context.new_page()
            page.goto(f"http://127.0.0.1:{port}/{kind}.html")
        deadline = time.monotonic() + PATIENCE
        while "cannot open this URL as a page" not in server.log:
            assert time.monotonic() < deadline
            page.wait_for_timeout(50)
    assert acts(server, tmp_path) == set()


def test_a_typed_url_that_redirects_starts_no_session(
    browser: Browser, server: Server, tmp_path: Path
) -> None:
    with browser.new_context() as context:
        answer = context.new_page().goto(f"http://localhost:{server.port}/{GETS[0]}")
        assert answer is not None
        assert answer.status == 403
    assert acts(server, tmp_path) == set()


def test_a_page_of_the_server_may_do_all_of_it(
    browser: Browser, server: Server, tmp_path: Path
) -> None:
    kinds = ["events", "cors-stream", "cors-post", "form", "beacon", "socket"]
    url = f"http://localhost:{server.port}/page.html"
    results = run(browser, url, server, kinds)
    all_acts = {"connect", "order", "watched", "open:x", "hooked"}
    wait_until(lambda: acts(server, tmp_path) >= all_acts)
    for path in SOCKETS:
        assert results[f"socket {path}"] == "opened"
    assert results[f"events {GETS[0]}"] == "opened"
    # GET starts a session and nothing else, from every page.
    assert results[f"cors-stream {GETS[1]}"] == "400"
    assert results["cors-post channels/open:x"] == "201"
