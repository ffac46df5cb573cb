"""Lets signals that ask for a reload change nothing while the program starts.

The configuration is read after the start of Python, so that nothing is lost. Their default action
ends the process. The server replaces the handler by its own (`server.signals`).
"""

from __future__ import annotations

import os
import signal
import threading

NAMES = ("SIGHUP", "SIGUSR1", "SIGUSR2")


class Early:
    """The handler; the end of the terminal still ends the process."""

    def __init__(self) -> None:
        self._had_terminal = has_terminal()

    def __call__(self, number: int, _: object) -> None:
        if self._had_terminal and not has_terminal():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


def take_early() -> None:
    """Handle the signals whose action is the default one, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return
    handler = Early()
    for name in NAMES:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, handler)


def has_terminal() -> bool:
    """Whether the process has a terminal that still exists."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
