"""The command line: the output, pipes that nobody reads, and signals that end a command."""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import select
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TextIO

from pushserver.errors import escaped

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


class Ended(BaseException):
    """A signal has come that ends the process; like KeyboardInterrupt, no Exception."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def raise_ended(number: int, _: FrameType | None) -> None:
    """Raise Ended; a handler of signals."""
    raise Ended(number)


def end_by(number: int) -> None:
    """End the process by this signal, so that its parent sees it."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    with suppress(ValueError, OSError):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def handle(handlers: dict[int, Any], name: str, handler: Any) -> None:
    """Handle a signal, and add the handler before to `handlers`; not one that is ignored."""
    number = getattr(signal, name, None)
    if number is None or signal.getsignal(number) is signal.SIG_IGN:
        # As with nohup.
        return
    handlers[number] = signal.signal(number, handler)


def set_back(handlers: dict[int, Any]) -> None:
    """Set the handlers as they were before `handle`."""
    for number, handler in handlers.items():
        # None: not set by Python.
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def orderly_end() -> Iterator[None]:
    """Leave the block in order, as by Ctrl-C, before a signal ends the process."""
    handlers: dict[int, Any] = {}
    try:
        for name in ("SIGTERM", "SIGHUP", "SIGQUIT"):
            handle(handlers, name, raise_ended)
        yield
    except Ended as ended:
        end_by(ended.number)
    finally:
        set_back(handlers)
