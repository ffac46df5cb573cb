"""The server of the tests, and its pages in a browser."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import jwt

from tests.e2e.exchange import publish
from tests.e2e.server import Server
from tests.engines.browser import Browser, Tab
from tests.engines.pages import PRIVATE, SECRET, SHOWN, Page

LOG_IN = """(token) => {
  const box = document.querySelector("#login");
  if (box.hidden || !box.open) return false;
  box.querySelector("#login-text").value = token;
  box.querySelector("#login-form").requestSubmit();
  return true;
}"""


class Site:
    """The server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._numbers = count(101)

    @property
    def url(self) -> str:
        """The root; of `localhost`, where tabs can share a connection."""
        return self.server.url.replace("127.0.0.1", "localhost")

    def publish(self, page: Page) -> str:
        """Publish for this page; returns what it has to show."""
        number = next(self._numbers) + 0.5
        channel = page.channel or f"new-{number}"
        publish(self.server, channel, {"number": number, "temperature": number})
        return str(number)

    def load(self, tab: Tab, page: Page, url: str = "") -> None:
        """Load a page, log in if necessary, and wait until it is ready; `url`: another root."""
        tab.go(f"{url or self.url}{page.path}")
        if page is PRIVATE:
            token = jwt.encode({"sub": "ann", "exp": time.time() + 3600}, SECRET, "HS256")
            tab.wait_for(LOG_IN, token)
        tab.wait_for(page.ready)

    def watchers(self, channel: str) -> int:
        """The number of connections that watch a channel."""
        answer = json.loads(self.server.get("channels/", "application/json").text)
        [row] = [row for row in answer["channels"] if row["channel"] == channel]
        return int(row["watchers"])


def shows(tab: Tab, page: Page, text: str) -> None:
    """Wait until each part of the page shows this."""
    for part in page.parts:
        tab.wait_for(SHOWN, part, text)


@contextmanager
def opened(browser: Browser, count: int = 1, allowed: str = "") -> Iterator[list[Tab]]:
    """Tabs that are closed at the end; nothing may be in their consoles but what is allowed."""
    tabs = [browser.open() for _ in range(count)]
    try:
        yield tabs
        found = browser.messages()
        unexpected = [each for each in found if not (allowed and re.search(allowed, each))]
        assert not unexpected, "\n".join(unexpected)
    finally:
        for tab in tabs:
            tab.close()
