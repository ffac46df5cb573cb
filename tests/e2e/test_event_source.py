"""The event source of our pages, whose request is a POST: no secret is in a URL or a log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Request

from tests.e2e.server import Server, running
from tests.e2e.test_fallback import NO_STREAMS

SECRET = "hunter2-is-secret"
APP = f"""
from pushserver import PushServer, Refused

app = PushServer(pages="pages")


@app.on("connect")
def connect(client, data):
    if data != {{"token": "{SECRET}"}}:
        raise Refused("wrong token")
    client.user = client.protocol


@app.on("subscribe")
def subscribe():
    return True


@app.source("ticks", every=0.1)
def ticks():
    return "grün"
"""

CONNECT = """
async ([root, token]) => {
  const script = document.createElement("script");
  const loaded = new Promise((done) => (script.onload = done));
  script.src = "static/centrifuge.js";
  document.head.append(script);
  await loaded;
  const { PostEventSource } = await import("./static/js/fetch_event_source.js");
  const client = new Centrifuge([{ transport: "sse", endpoint: `${root}connection/sse` }], {
    emulationEndpoint: `${root}emulation`,
    eventsource: PostEventSource,
    data: { token },
    minReconnectDelay: 50,
    maxReconnectDelay: 200,
  });
  window.client = client;
  window.seen = [];
  const ticks = client.newSubscription("ticks");
  ticks.on("publication", ({ data }) => seen.push(data));
  ticks.subscribe();
  client.connect();
  return new Promise((done) => {
    ticks.on("publication", () => done("live"));
    client.on("disconnected", ({ code, reason }) => done(`${code} ${reason}`));
  });
}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.py").write_text(APP)
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "index.html").write_text('<!doctype html><link rel="icon" href="data:,">')
    return tmp_path


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    yield context.new_page()
    context.close()


def connect(page: Page, root: str = "", token: str = SECRET) -> str:
    return str(page.evaluate(CONNECT, [root or page.url, token]))


def record(page: Page) -> list[Request]:
    """The later requests of the page to `/connection/`."""
    requests: list[Request] = []

    def note(request: Request) -> None:
        if "/connection/" in request.url:
            requests.append(request)

    page.on("request", note)
    return requests


class TestTheClient:
    def test_sends_its_secret_in_no_url(self, folder: Path, page: Page) -> None:
        with running(Server(folder, "--app=secret:app")) as server:
            requests = record(page)
            page.goto(server.url)
            assert connect(page) == "live"
            assert page.evaluate("seen.at(-1)") == "grün"
            [request] = requests
            assert (request.method, request.url) == ("POST", f"{server.url}connection/sse")
            presence = page.evaluate("client.presence('ticks')")
            assert [info["user"] for info in presence["clients"].values()] == ["sse"]
            page.evaluate("client.disconnect()")
            assert SECRET not in server.log

    def test_shows_the_reason_of_a_refusal(self, folder: Path, page: Page) -> None:
        with running(Server(folder, "--app=secret:app")) as server:
            page.goto(server.url)
            assert connect(page, token="guessed") == "4500 wrong token"

    def test_resumes_after_a_restart(self, folder: Path, page: Page) -> None:
        with running(Server(folder, "--app=secret:app")) as server:
            page.goto(server.url)
            assert connect(page) == "live"
            server.stop()
            page.wait_for_function("() => client.state === 'connecting'")
            page.evaluate("seen.length = 0")
            server.start()
            page.wait_for_function("() => seen.length > 2")

    def test_works_from_an_allowed_page_of_another_origin(self, folder: Path, page: Page) -> None:
        other = folder / "other"
        other.mkdir()
        (other / "pages").mkdir()
        (other / "pages" / "index.html").write_text((folder / "pages" / "index.html").read_text())
        (other / "config.toml").write_text('[server]\npages = "pages"\n')
        with running(Server(other, "--config=config.toml")) as there:
            origin = there.url.removesuffix("/")
            config = f'[server]\nallowed_origins = ["{origin}"]\n'
            (folder / "config.toml").write_text(config)
            options = ("--app=secret:app", "--config=config.toml")
            with running(Server(folder, *options)) as server:
                page.goto(there.url)
                assert connect(page, server.url) == "live"


PAGE = """
async ([token]) => {
  const { connect } = await import("./static/pushserver.js");
  const server = connect({ data: { token } });
  return new Promise((done) => {
    server.watch("ticks", ({ data }) => done(data));
    server.onState(({ state, reason }) => state === "closed" && done(reason));
  });
}
"""


class TestPushserverJs:
    @pytest.mark.parametrize(("token", "result"), [(SECRET, "grün"), ("x", "wrong token (4500)")])
    def test_posts_its_data_where_nothing_else_passes(
        self, folder: Path, page: Page, token: str, result: str
    ) -> None:
        with running(Server(folder, "--app=secret:app")) as server:
            # Playwright does not see the requests of a worker.
            page.add_init_script(f"{NO_STREAMS} delete window.SharedWorker;")
            requests = record(page)
            page.goto(server.url)
            assert page.evaluate(PAGE, [token]) == result
            last = requests[-1]
            assert (last.method, last.url) == ("POST", f"{server.url}connection/sse")
            assert not any("cf_connect" in request.url for request in requests)


READ = """
async ([answer, pieces, options]) => {
  const byte = (character) => character.charCodeAt(0);
  const { PostEventSource } = await import("./static/js/fetch_event_source.js");
  const stream = new ReadableStream({
    start(controller) {
      // A character is a byte: the browser's driver takes seconds for lists of 500,000 numbers.
      for (const piece of pieces) controller.enqueue(Uint8Array.from(piece, byte));
      if (options.ends) controller.close();
    },
  });
  const headers = { "content-type": "text/event-stream" };
  const asked = [];
  class Faked extends PostEventSource {
    async fetch(url, { method, body }) {
      asked.push([method, url, body]);
      if (answer === "lost") throw new TypeError("Failed to fetch");
      return new Response(answer.status === 204 ? null : stream, { headers, ...answer });
    }
  }
  const events = [];
  const source = new Faked("http://server.test/connection/sse?cf_connect=%7B%7D&x=1", {});
  source.onopen = () => events.push("open");
  source.onerror = ({ message }) => events.push(["error", message]);
  source.onmessage = ({ data }) => {
    events.push(data);
    if (data === options.closes) source.close();
  };
  for (let n = 0; n < 20; n += 1) await new Promise((done) => setTimeout(done));
  return [asked, events];
}
"""


class TestTheEventSource:
    @pytest.fixture(scope="class")
    @staticmethod
    def blank(browser: Browser, server: Server) -> Iterator[Page]:
        with browser.new_context() as context:
            page = context.new_page()
            page.goto(f"{server.url}channels/quiet")
            yield page

    @staticmethod
    def read(page: Page, pieces: list[bytes], answer: Any = None, **options: Any) -> list[Any]:
        script = READ.replace("./static", "../static")
        texts = [piece.decode("latin-1") for piece in pieces]
        asked, events = page.evaluate(script, [answer or {}, texts, options])
        assert asked == [["POST", "http://server.test/connection/sse?x=1", "{}"]]
        return list(events)

    @pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
    @pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
    def test_reads_events_in_any_pieces(self, blank: Page, end: bytes, size: int) -> None:
        lines = [b": hello", b"data: gr\xc3\xbcn", b"", b"", b"data:1", b"data: 2", b"id: 7", b""]
        stream = end.join([*lines, b"event: x", b"data", b"data: half"])
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        assert self.read(blank, pieces) == ["open", "grün", "1\n2"]

    def test_reads_a_long_event_in_many_pieces(self, blank: Page) -> None:
        pieces = [b"data: ", *[b"x" * 1000] * 500, b"\n\n"]
        assert self.read(blank, pieces) == ["open", "x" * 500_000]

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            ("lost", "Failed to fetch"),
            ({"status": 403}, "the server answered 403"),
            ({"status": 502}, "the server answered 502"),
            ({"headers": {"content-type": "text/html"}}, "the answer is no event stream"),
            ({"status": 204}, "this browser cannot read an answer in parts"),
        ],
        ids=str,
    )
    def test_fails_once(self, blank: Page, answer: Any, reason: str) -> None:
        assert self.read(blank, [b"data: 1\n\n"], answer) == [["error", reason]]

    def test_reports_the_end_of_the_response(self, blank: Page) -> None:
        events = self.read(blank, [b"data: 1\n\n"], ends=True)
        assert events == ["open", "1", ["error", "the response has ended"]]

    def test_is_silent_after_it_is_closed(self, blank: Page) -> None:
        pieces = [b"data: 1\n\ndata: 2\n\n", b"data: 3\n\n"]
        assert self.read(blank, pieces, closes="1", ends=True) == ["open", "1"]
