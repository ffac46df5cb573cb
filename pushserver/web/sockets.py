"""Ends connections whose sockets other processes may have too."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any


def drop(transport: Any) -> None:
    """Drop the connection at once, also while a fork of this process has a copy of its socket.

    close(), which is all that Twisted calls to abort, ends a connection only with the last copy.
    """
    connected = getattr(transport, "socket", None)
    if connected is not None:
        with suppress(OSError):
            connected.shutdown(socket.SHUT_RDWR)
    transport.abortConnection()
