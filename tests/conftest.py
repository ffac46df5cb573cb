"""Signals as in a terminal, for all tests."""

from __future__ import annotations

import signal

# A shell ignores these for a program in the background, and so would each program of a test.
for _signal, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
):
    if signal.getsignal(_signal) == signal.SIG_IGN:
        signal.signal(_signal, _handler)
