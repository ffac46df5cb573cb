"""`pushserver subscribe`: prints the publications of channels as they arrive."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, TextIO
from urllib.parse import urlencode

from pushserver.api_call import Away, answer_to, checked_request
from pushserver.command_line.console import complain, end_with_reader, shown_json
from pushserver.errors import CommandFailed
from pushserver.opener import printable

SILENCE_SECONDS = 60.0
"""The time after which a silent server is taken for dead; it sends a heartbeat every 20 s."""
RETRY_SECONDS, MAX_RETRY_SECONDS = 1.0, 10.0
"""The pause before another attempt doubles until the server sends a line."""
LINE_BYTES = 67_108_864
"""The longest line of a stream; a publication has `body_bytes` (1 MiB) unless configured."""
TRY_AGAIN_LATER = 1013
"""The code of a stream whose channels cannot be had at present."""

_LINES = "application/x-ndjson"


def subscribe(options: Any, out: TextIO) -> None:
    """Print publications; raises CommandFailed.

    A lost connection is made again, after the last publication that was printed.
    """
    if options.since and options.last is not None:
        raise CommandFailed("--since and --last exclude each other")
    start = {"since": options.since} if options.since else {}
    if options.last is not None:
        start = {"last": str(options.last)}
    end_with_reader(out)
    left, pause = options.count, RETRY_SECONDS
    while left is None or left > 0:
        try:
            for line in _lines(options, start):
                cursor, publication = _read(options, line)
                pause = RETRY_SECONDS
                start = {"since": cursor}
                if publication:
                    print(shown_json(line, out), file=out, flush=True)
                    left = None if left is None else left - 1
                    if left == 0:
                        return
        except Away as error:
            complain(f"{options.url}: {error.reason}; trying again")
        time.sleep(pause)
        pause = min(2 * pause, MAX_RETRY_SECONDS)


_REASONS = {
    "epoch": "the server has begun a new history (epoch)",
    "ahead": "the server does not have the last ones that were read (ahead)",
    "evicted": "the server no longer has them (evicted)",
    "limit": "they are more than recovery_limit (limit)",
    "history": "the history of the channel may not be read (history)",
}
"""See `channels.history.Resumption`."""


def _read(options: Any, line: str) -> tuple[str, bool]:
    """Return the cursor after this line, and whether it is a publication."""
    try:
        message = json.loads(line)
        if "end" in message:
            _end(options, message["end"])
        if "subscribed" in message:
            return str(message["subscribed"]["id"]), False
        if "reset" in message:
            reset = message["reset"]
            reason = str(reset["reason"])
            complain(f"publications are missing: {printable(_REASONS.get(reason, reason))}")
            return str(reset["id"]), False
        return str(message["id"]), True
    except (ValueError, TypeError, KeyError, RecursionError):
        problem = f"expected a publication of pushserver, got {line[:60]!r}"
        raise CommandFailed(f"{options.url}: {problem}") from None


def _end(options: Any, end: Any) -> None:
    """Raise Away or CommandFailed with the reason for which the server has ended the stream."""
    reason = printable(str(end["reason"]))
    text = f"{options.url}: the server has ended the stream: {reason}"
    raise Away(text, reason) if end["code"] == TRY_AGAIN_LATER else CommandFailed(text)


def _lines(options: Any, start: dict[str, str]) -> Iterator[str]:
    """The lines of one connection; raises Away and CommandFailed."""
    query = urlencode([("channel", name) for name in options.channel] + list(start.items()))
    headers = {"Accept": _LINES}
    request = checked_request(options.url, f"/events?{query}", headers, options.key)
    with answer_to(request, options.url, SILENCE_SECONDS) as response:
        media = response.headers.get("Content-Type") or "no Content-Type"
        if response.status != 200 or media.partition(";")[0].strip().lower() != _LINES:
            raise CommandFailed(
                f"{options.url}: expected status 200 and {_LINES}, got {response.status}"
                f" and {printable(media)}"
            )
        while line := response.readline(LINE_BYTES + 1):
            if len(line) > LINE_BYTES:
                raise CommandFailed(f"{options.url} sent a line of more than {LINE_BYTES} bytes")
            text = line.decode("utf-8", "replace").strip()
            if text:
                yield text
