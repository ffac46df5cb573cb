"""Pages in a browser, and the problems that they report."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, Response


@dataclass(frozen=True)
class Program:
    """A program and its command line options."""

    path: str
    options: Sequence[str]


CHROMIUM = Program(
    shutil.which("chromium-headless-shell") or "/usr/bin/chromium-headless-shell",
    [
        "--no-sandbox",  # root, as on CI machines, has no sandbox
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ],
)


LOST_CONNECTION = (
    r"ERR_CONNECTION_(REFUSED|RESET)|ERR_INCOMPLETE_CHUNKED|WebSocket connection to"
    r"|answered 426: .*/connection/websocket$|status of 426"
)
"""The problems of a page whose server restarts. It asks for the reason by a request to the URL of
the WebSocket, which a server that is back answers with 426."""


class Visits:
    """Opens pages of one site, each in its own browser profile."""

    def __init__(self, browser: Browser, url: str) -> None:
        self._browser = browser
        self._url = url
        self._contexts: list[BrowserContext] = []
        self._allowed: list[re.Pattern[str]] = []
        self._problems: list[str] = []

    @property
    def problems(self) -> list[str]:
        """Errors and warnings in the console, failed requests, requests to other hosts."""
        return [
            problem
            for problem in self._problems
            if not any(allowed.search(problem) for allowed in self._allowed)
        ]

    @property
    def url(self) -> str:
        """The root of the site."""
        return self._url

    def allow(self, pattern: str) -> None:
        """Ignore problems that match, for example while the server restarts."""
        self._allowed.append(re.compile(pattern))

    def open(self, path: str = "", **options: Any) -> Page:
        """Open a path below the root; `options` are Playwright's for a new context."""
        context = self._browser.new_context(**options)
        self._contexts.append(context)
        page = context.new_page()
        page.on("console", self._note_console)
        page.on("pageerror", lambda error: self._problems.append(f"page error: {error}"))
        page.on("request", self._note_request)
        page.on("requestfailed", self._note_failure)
        page.on("response", self._note_response)
        page.goto(self._url + path)
        return page

    def close(self) -> None:
        """Close all pages."""
        for context in self._contexts:
            context.close()
        self._contexts.clear()

    def _note_console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self._problems.append(f"console {message.type}: {message.text}")

    def _note_request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in {"data", "blob"} and parts.netloc != urlsplit(self._url).netloc:
            self._problems.append(f"request to another host: {request.url}")

    def _note_failure(self, request: Request) -> None:
        # The browser itself ends the requests of a page that is left or closed.
        if request.failure == "net::ERR_ABORTED":
            return
        self._problems.append(f"request failed: {request.url}: {request.failure}")

    def _note_response(self, response: Response) -> None:
        if response.status >= 400:
            self._problems.append(f"answered {response.status}: {response.url}")
