"""`pushserver channels`: prints the list of channels."""

from __future__ import annotations

import json
import time
from typing import Any, TextIO
from urllib.parse import urlencode

from pushserver.api_call import call
from pushserver.command_line.console import complain
from pushserver.opener import printable


def list_channels(options: Any, out: TextIO) -> None:
    """Print the list; raises CommandFailed."""
    path = f"/channels/?{urlencode({'q': options.text})}"

    def convert(content: Any) -> tuple[list[str], int]:
        rows = [_Listed(row) for row in content["channels"]]
        lines = [json.dumps(row.content) if options.json else row.line() for row in rows]
        return lines, int(content["total"]) - len(rows)

    lines, more = call(options.url, path, convert, expected="a list of channels", key=options.key)
    for line in lines:
        print(line, file=out)
    if not lines:
        named = f" has {options.text!r} in its name" if options.text else ""
        complain(f"no channel{named or ' has publications or subscribers'}")
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
