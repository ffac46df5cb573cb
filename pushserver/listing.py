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
    try:
        query = urlencode({"q": options.text})
        request = make_request(
            options.url, f"/channels/?{query}", {"Accept": "application/json"}, options.key
        )
        with send(request, TIMEOUT_SECONDS) as response:
            content = json.loads(response.read(MAX_LIST_BYTES))
        rows = [_Listed(row) for row in content["channels"]]
    except HTTPError as error:
        raise CommandFailed(refusal(request, error, TIMEOUT_SECONDS)) from None
    except (OSError, HTTPException) as error:
        reason = printable(str(getattr(error, "reason", None) or error))
        raise CommandFailed(f"{options.url}: {reason}; is it running?") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CommandFailed(f"{options.url}: {printable(str(error))}") from None
    for row in rows:
        print(json.dumps(row.content) if options.json else row.line(), file=out)
    if len(rows) < content["total"]:
        complain(f"and {content['total'] - len(rows)} more")


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
            return text
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._last["time"]))
        return f"{text}, last {printable(self._last['event'])} at {at}"
