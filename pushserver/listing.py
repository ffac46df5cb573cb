"""`pushserver channels`: prints the list of channels."""

from __future__ import annotations

import json
import time
from http.client import HTTPException
from typing import Any, TextIO
from urllib.error import HTTPError
from urllib.parse import urlencode

from pushserver.console import CommandFailed, complain
from pushserver.opener import make_request, printable, refusal, send

TIMEOUT_SECONDS = 10.0
"""The longest wait for each part of the answer."""
MAX_LIST_BYTES = 4_194_304
"""The longest list; 1,000 channels, the most that a server lists, have less than 1 MB."""


def list_channels(options: Any, out: TextIO) -> None:
    """Print the list; raises CommandFailed."""
    path = f"/channels/?{urlencode({'q': options.text})}"
    try:
        request = make_request(options.url, path, {"Accept": "application/json"}, options.key)
    except ValueError as error:
        # It names the URL, but not one with a password.
        raise CommandFailed(str(error)) from None
    try:
        with send(request, TIMEOUT_SECONDS) as response:
            content = json.loads(response.read(MAX_LIST_BYTES))
        rows = [_Listed(row) for row in content["channels"]]
        lines = [json.dumps(row.content) if options.json else row.line() for row in rows]
        more = int(content["total"]) - len(rows)
    except HTTPError as error:
        raise CommandFailed(refusal(request, error, TIMEOUT_SECONDS)) from None
    except (OSError, HTTPException) as error:
        reason = printable(str(getattr(error, "reason", None) or error))
        raise CommandFailed(f"{options.url}: {reason}; is it running?") from None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise CommandFailed(f"{options.url}: {printable(str(error))}") from None
    for line in lines:
        print(line, file=out)
    if more > 0:
        complain(f"and {more} more")


class _Listed:
    """A channel of the list."""

    def __init__(self, content: dict[str, Any]):
        self.content = content
        self._last = content["last"]
        self._minute, self._retained = content["last_minute"], content["retained"]
        self._watchers = content["watchers"]

    def line(self) -> str:
        """The name, the counts, and the last event with its local time."""
        text = (
            f"{self.content['channel']:<30} {self._minute:>6} in the last minute,"
            f" {self._retained:>6} retained, {self._watchers:>4} watching"
        )
        if self._last is None:
            return printable(text)
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._last["time"]))
        return printable(f"{text}, last {self._last['event']} at {at}")
