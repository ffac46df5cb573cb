"""Everything works where WebSockets are blocked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.server import Server
from tests.e2e.test_browser import offsets, state, wait_for_newer

TRANSPORTS = ["http_stream", "sse"]

# The effect of a proxy that blocks WebSockets, as the page sees it.
REFUSED = """
    window.refused = 0;
    window.WebSocket = class extends EventTarget {
        constructor() {
            super();
            window.refused += 1;
            this.readyState = 0;
            setTimeout(() => {
                this.readyState = 3;
                for (const type of ['error', 'close']) {
                    const event = type === 'close'
                        ? new CloseEvent('close', { code: 1006 }) : new Event('error');
                    this['on' + type]?.(event);
                    this.dispatchEvent(event);
                }
            });
        }
        close() {}
        send() {}
    };
"""
MISSING = "delete window.WebSocket;"

# A page of a slow machine would fall back after the five seconds of the client.
PATIENT = """
    let kind;
    Object.defineProperty(window, "Centrifuge", {
        configurable: true,
        get: () => kind,
        set: (original) => {
            kind = class extends original {
                constructor(endpoint, options) {
                    super(endpoint, { timeout: 60_000, ...options });
                }
            };
        },
    });
"""
NO_STREAMS = REFUSED + "delete window.ReadableStream;"


class Visit:
    """The page in a browser with a script that runs before those of the page.

    `patient`: whether the client of the page waits longer for answers than it does by default.
    """

    def __init__(self, browser: Browser, server: Server, script: str, patient: bool = True):
        self._context = browser.new_context()
        if patient:
            self._context.add_init_script(PATIENT)
        self._context.add_init_script(script)
        self.page = self._context.new_page()
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(server.url)

    def close(self) -> None:
        self._context.close()

    def asked(self, path: str) -> bool:
        """Whether the page has requested this path."""
        return any(f"/{path}" in url for url in self.requests)


@pytest.fixture
def _watching(server: Server) -> Iterator[None]:
    yield
    assert server.problems == []


@pytest.mark.usefixtures("_watching")
class TestThePage:
    @pytest.mark.parametrize(
        ("script", "path"),
        [
            pytest.param(REFUSED, "connection/http_stream", id="WebSockets are refused"),
            pytest.param(MISSING, "connection/http_stream", id="there are none"),
            pytest.param(NO_STREAMS, "connection/sse", id="responses cannot be streamed either"),
        ],
    )
    def test_falls_back_and_is_live(
        self, server: Server, browser: Browser, script: str, path: str
    ) -> None:
        with closing(Visit(browser, server, script)) as visit:
            page = visit.page
            state(page, "live")
            assert visit.asked(path)
            first = wait_for_newer(page, 0)
            wait_for_newer(page, first)
            shown = offsets(page)
            assert shown == list(range(shown[0], shown[0] - len(shown), -1))
            assert visit.problems == []

    def test_shows_the_watchers(self, server: Server, browser: Browser) -> None:
        """The page requests them over /emulation."""
        with (
            closing(Visit(browser, server, REFUSED)) as one,
            closing(Visit(browser, server, "")) as other,
        ):
            for visit in (one, other):
                state(visit.page, "live")
            expect(one.page.locator("#watching")).to_contain_text("2")
            assert one.asked("emulation")
            assert not other.asked("emulation")

    def test_reconnects_after_a_restart_of_the_server(
        self, browser: Browser, fresh_server: Server
    ) -> None:
        with closing(Visit(browser, fresh_server, REFUSED)) as visit:
            page = visit.page
            state(page, "live")
            wait_for_newer(page, 0)
            fresh_server.stop()
            state(page, "reconnecting")
            fresh_server.start()
            state(page, "live")
            self.hears_something(page)

    def test_shows_the_answer_if_its_commands_are_refused(
        self, server: Server, browser: Browser
    ) -> None:
        """As by a proxy that lets streams pass, and not the requests to /emulation."""
        with closing(Visit(browser, server, REFUSED, patient=False)) as visit:
            page = visit.page
            page.route("**/emulation", lambda route: route.fulfill(status=413, body="too large"))
            page.reload()
            text = page.locator("#state-text")
            expect(text).to_contain_text("the server answered 413")
            assert "in time" not in text.inner_text()
            page.unroute("**/emulation")
            state(page, "live")

    @staticmethod
    def hears_something(page: Page) -> None:
        seen = page.locator("#events-seen")
        expect(seen).not_to_have_text(seen.inner_text())
