"""The output of the command line: its encoding, terminals, and pipes that nobody reads."""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import select
import stat
import sys
import threading
from contextlib import suppress
from typing import TextIO

from pushserver.errors import PushServerError, escaped


class CommandFailed(PushServerError):
    """Ends the command with one line and status 1."""


_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
"""The control characters C0 and C1 and DEL, without the tab; a terminal obeys them."""


def escape_output() -> None:
    """Escape the characters that the encoding of standard output lacks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=_JSON_ESCAPES)


def shown_json(line: str, out: TextIO) -> str:
    """The line of JSON as this output shows it.

    JSON has control characters only in its texts, so the line stays JSON.
    """
    return _CONTROL.sub(_escape, line) if out.isatty() else line


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def complain(text: str) -> None:
    """Print a message to standard error, without control characters."""
    shown = "\n".join(map(escaped, text.split("\n")))
    if sys.stderr is not None:
        print(f"pushserver: {shown}", file=sys.stderr, flush=True)


def discard_output() -> None:
    """Let Python write the rest of its buffer to nowhere; it would complain at its end."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _json_escapes(error: UnicodeError) -> tuple[str, int]:
    """Replace the characters that an output cannot encode; JSON stays JSON."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


_JSON_ESCAPES = "pushserver.json_escapes"
codecs.register_error(_JSON_ESCAPES, _json_escapes)


def end_with_reader(out: TextIO) -> None:
    """End the process when the reader of its output has closed the pipe.

    Without that, `pushserver subscribe numbers | head -1` waits for one more publication.
    """
    try:
        mode = os.fstat(out.fileno()).st_mode
    except (OSError, ValueError):
        return
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)) or not hasattr(select, "poll"):
        return
    poll = select.poll()
    # Without events, poll reports errors and hang-ups only.
    poll.register(out.fileno(), 0)

    def wait() -> None:
        poll.poll()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
