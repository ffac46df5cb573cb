"""Telling systemd how it stands with the service (sd_notify(3))."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from twisted.logger import Logger

_log = Logger()


def notify(state: str, environment: Mapping[str, str]) -> None:
    """Send `READY=1`, `STOPPING=1`, ... to whoever started the service and wants to know.

    Without NOTIFY_SOCKET in the environment nobody does. A socket that does not take the
    datagram is logged: a service that works is not to end for that.
    """
    address = environment.get("NOTIFY_SOCKET", "")
    if not address:
        return
    # With an @ in front it is a name, and no file.
    target = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.connect(target)
            sender.send(state.encode())
    except OSError as error:
        _log.warn("NOTIFY_SOCKET {address!r}: {error}", address=address, error=error)
