"""`wsgi.errors`: the messages of an application for the log."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.logger import Logger

MAX_WAITING = 8_192
"""The characters that wait for the end of their line."""


class Errors:
    """A file of text for one request, whose writes are lines of the log.

    A write that ends with a line break is one message, as a traceback is.
    """

    _log = Logger()

    def __init__(self) -> None:
        self._waiting = ""

    def write(self, text: str) -> int:
        """Write; the text is logged at the end of its line."""
        self._waiting += text
        if text.endswith("\n") or len(self._waiting) > MAX_WAITING:
            self.flush()
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write all lines as one message."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Log the text that waits."""
        text, self._waiting = self._waiting.rstrip("\n"), ""
        if text:
            self._log.error("{text}", text=text, event_name="wsgi_message")
