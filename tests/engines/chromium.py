"""Debian's Chromium, by Playwright."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import ConsoleMessage, Page, Playwright

from tests.e2e.patience import PATIENCE_MS
from tests.e2e.visits import CHROMIUM
from tests.engines.browser import HEIGHT, WIDTH, Browser, Tab


class ChromiumTab(Tab):
    def __init__(self, page: Page) -> None:
        self._page = page

    def go(self, url: str) -> None:
        self._page.goto(url)

    def back(self) -> None:
        self._page.go_back()

    def resize(self, width: int, height: int) -> None:
        self._page.set_viewport_size({"width": width, "height": height})

    def close(self) -> None:
        self._page.close()

    def call(self, function: str, text: str) -> str:
        return str(self._page.evaluate(function, text))


class Chromium(Browser):
    def __init__(self, playwright: Playwright, dark: bool) -> None:
        self._messages: list[str] = []
        self._browser = playwright.chromium.launch(
            executable_path=CHROMIUM.path, args=CHROMIUM.options
        )
        options: Any = {"color_scheme": "dark" if dark else "light"}
        self._context = self._browser.new_context(
            viewport={"width": WIDTH, "height": HEIGHT}, locale="en-GB", **options
        )
        self._context.set_default_timeout(PATIENCE_MS)
        self._context.on("console", self._note)
        self._context.on("weberror", lambda failed: self._messages.append(f"error: {failed.error}"))

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            url = message.location["url"]
            self._messages.append(f"{message.type}: {message.text} ({url})")

    def open(self) -> Tab:
        return ChromiumTab(self._context.new_page())

    def messages(self) -> list[str]:
        # Events arrive only while a command runs.
        self._context.cookies()
        found, self._messages = self._messages, []
        return found

    def close(self) -> None:
        self._browser.close()
