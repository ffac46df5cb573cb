"""What the tests do in each of the three browsers."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from typing import Any

from tests.e2e.patience import PATIENCE

# JSON is the same in all protocols, unlike their own forms of values.
_RUN = "async (text) => JSON.stringify((await (%s)(...JSON.parse(text))) ?? null)"


class Tab(ABC):
    """A page in a window of its own: the page of a tab in the background would not be drawn."""

    @abstractmethod
    def go(self, url: str) -> None:
        """Load a page, and wait for it and its scripts."""

    @abstractmethod
    def back(self) -> None:
        """Go back to the page before this one."""

    @abstractmethod
    def resize(self, width: int, height: int) -> None:
        """Set the size of the page's area."""

    @abstractmethod
    def close(self) -> None:
        """Close the tab as its user does."""

    @abstractmethod
    def call(self, function: str, text: str) -> str:
        """Call a function, by its source, with a text; returns the text that it resolves to."""

    def run(self, function: str, *arguments: object) -> Any:
        """Call a function, by its source, with values of JSON; returns what it resolves to."""
        return json.loads(self.call(_RUN % function, json.dumps(arguments)))

    def wait_for(self, function: str, *arguments: object) -> None:
        """Wait until the function returns something true."""
        deadline = time.monotonic() + PATIENCE
        while not self.run(function, *arguments):
            assert time.monotonic() < deadline, (
                f"not true: {function} of {arguments}; the page has:\n{self.text}"
            )
            time.sleep(0.05)

    @property
    def text(self) -> str:
        """The visible text of the page."""
        return str(self.run("() => document.body.innerText"))


class Browser(ABC):
    """One browser with one profile."""

    @abstractmethod
    def open(self) -> Tab:
        """Open an empty tab of 1,240 by 800 pixels."""

    @abstractmethod
    def messages(self) -> list[str]:
        """The warnings and errors of all consoles since the last call, and errors in pages."""

    @abstractmethod
    def close(self) -> None:
        """End the browser."""


WIDTH, HEIGHT = 1240, 800
