"""Signals as in a terminal, and the known warnings of the lowest Twisted, for all tests."""

from __future__ import annotations

import inspect
import signal

import pytest
from twisted.internet import tcp

# A shell ignores these for a program in the background, and so would each program of a test.
for _signal, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
):
    if signal.getsignal(_signal) == signal.SIG_IGN:
        signal.signal(_signal, _handler)


def pytest_configure(config: pytest.Config) -> None:
    # Twisted 25.5 does not close the socket of a port that it cannot bind.
    if "skt.close" not in inspect.getsource(tcp.Port.startListening):
        ignored = r"ignore:Exception ignored in. <socket.socket .*'0.0.0.0', 0\)"
        config.addinivalue_line("filterwarnings", ignored)
