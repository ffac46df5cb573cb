"""A terminal that shows lines in place of its content, and gets that back at the end."""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TextIO

from pushserver.command_line.console import handle, raise_ended, set_back

# ECMA-48, and xterm's private modes: the alternate screen (1049), the cursor (25), and the wrap of
# long lines (7), so that a character of unexpected width cannot scroll the screen.
_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"

_ENDING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
MAX_COLUMNS, MAX_LINES = 500, 200
"""The most that is drawn; a terminal may say that it is larger."""
_KEYS_AT_ONCE = 1_024


def is_screen(out: TextIO) -> bool:
    """Whether the output is a terminal that can be drawn on."""
    return out.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb")


def frame(lines: Sequence[str], height: int) -> str:
    """The text that draws the lines: each at its place, and none below them."""
    rows = [f"\x1b[{place};1H\x1b[2K{line}" for place, line in enumerate(lines[:height], 1)]
    # To the end of the screen; where the lines fill it, nothing is left to clear.
    rest = f"\x1b[{len(rows) + 1};1H\x1b[J" if len(rows) < height else ""
    return "".join(rows) + rest


class Screen:
    """The terminal while it shows lines; `open_screen` makes it."""

    def __init__(self, out: TextIO, keys: int | None):
        """`keys`: the descriptor from which keys are read, if any."""
        self._out = out
        self._keys = keys
        # Signals are written here, so that `wait` does not miss one.
        self._signals, self._signalled = os.pipe()
        os.set_blocking(self._signals, False)
        os.set_blocking(self._signalled, False)

    @property
    def size(self) -> tuple[int, int]:
        """The columns and lines."""
        try:
            width, height = os.get_terminal_size(self._out.fileno())
        except OSError:
            width, height = shutil.get_terminal_size()
        return min(width or 80, MAX_COLUMNS), min(height or 24, MAX_LINES)

    def show(self, lines: Sequence[str]) -> None:
        """Draw the lines in place of the present ones; raises OSError if the terminal is gone."""
        self._write(frame(lines, self.size[1]))

    def wait(self, seconds: float) -> str:
        """Wait for this time, a key or another size of the terminal; return the keys."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            sources = [self._signals, *([] if self._keys is None else [self._keys])]
            ready = select.select(sources, [], [], left)[0]
            if self._signals in ready:
                with suppress(BlockingIOError):
                    os.read(self._signals, _KEYS_AT_ONCE)
                return ""
            if ready:
                keys = os.read(ready[0], _KEYS_AT_ONCE).decode("utf-8", "replace")
                if keys:
                    return keys
                # The end of the input.
                self._keys = None
        return ""

    def _write(self, text: str) -> None:
        # Not by the buffer of the output: a signal in the middle of its write would find it locked.
        data = text.encode(self._out.encoding or "ascii", "replace")
        while data:
            data = data[os.write(self._out.fileno(), data) :]

    def enter(self) -> None:
        self._write(_ENTER)

    def leave(self) -> None:
        self._write(_LEAVE)

    def note(self) -> int:
        """The descriptor that a signal is written to."""
        return self._signalled

    def close(self) -> None:
        os.close(self._signals)
        os.close(self._signalled)


@contextmanager
def open_screen(out: TextIO) -> Iterator[Screen]:
    """Show the alternate screen, and read keys without an echo; both end with the context.

    Raises Ended in the main thread for a signal that ends the process, after which the terminal is
    as it was. Ctrl-Z leaves the screen for the time that the process is stopped.
    """
    out.flush()
    screen = Screen(out, _keys())
    quiet = _Quiet(screen._keys)
    handlers: dict[int, Any] = {}
    woken = -1

    def stop(number: int, _: FrameType | None) -> None:
        screen.leave()
        quiet.end()
        # Not SIGSTOP: without a shell to continue it (ssh -t), the system ignores this signal.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        # The process continues.
        signal.signal(number, stop)
        quiet.begin()
        screen.enter()

    try:
        for name in _ENDING:
            if hasattr(signal, name):
                handle(handlers, name, raise_ended)
        handle(handlers, "SIGTSTP", stop)
        handle(handlers, "SIGWINCH", lambda *_: None)
        woken = signal.set_wakeup_fd(screen.note(), warn_on_full_buffer=False)
        quiet.begin()
        screen.enter()
        yield screen
    finally:
        for name in _ENDING:
            if hasattr(signal, name):
                # A second Ctrl-C must not keep the terminal from its old state.
                signal.signal(getattr(signal, name), signal.SIG_IGN)
        with suppress(OSError):
            screen.leave()
        quiet.end()
        signal.set_wakeup_fd(woken)
        set_back(handlers)
        screen.close()


def _keys() -> int | None:
    with suppress(AttributeError, OSError, ValueError):
        if sys.stdin.isatty():
            return sys.stdin.fileno()
    return None


class _Quiet:
    """The input of the terminal without echo and by key, not by line."""

    def __init__(self, descriptor: int | None):
        self._descriptor = descriptor
        self._before: list[Any] | None = None

    def begin(self) -> None:
        if self._descriptor is None:
            return
        # Imported here: Windows has none.
        import termios

        with suppress(termios.error):
            self._before = termios.tcgetattr(self._descriptor)
            now = termios.tcgetattr(self._descriptor)
            now[3] &= ~(termios.ECHO | termios.ICANON)
            termios.tcsetattr(self._descriptor, termios.TCSANOW, now)

    def end(self) -> None:
        if self._descriptor is None or self._before is None:
            return
        import termios

        with suppress(termios.error):
            termios.tcsetattr(self._descriptor, termios.TCSAFLUSH, self._before)
        self._before = None
