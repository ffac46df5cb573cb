"""Exceptions that end the start of a server."""

from __future__ import annotations

from pathlib import Path


class StartFailed(SystemExit, Exception):
    """Ends the start with one line and status 1.

    As a SystemExit it leaves no traceback; as an Exception it makes twistd clear away its
    pid file, and tell the shell that waits for the daemon. `missing` is what was looked for, if
    that was it.
    """

    def __init__(self, message: str, missing: Path | None = None):
        super().__init__(f"pushserver: {message}")
        self.missing = missing
