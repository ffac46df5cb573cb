"""Notifies systemd of the state of the service (sd_notify(3))."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

NOTIFY_AGAIN_SECONDS = 0.2
"""The wait while the queue of the socket is full."""

_log = Logger()


def reloading() -> str:
    """The state of a service that begins to reload; its end is READY=1.

    The time is that of the system's clock, with which systemd compares that of its own request.
    """
    return f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000}"


def notify_until_sent(
    state: str, reactor: IReactorTime, environment: Mapping[str, str], wanted: Callable[[], bool]
) -> None:
    """Send the state now or, while the queue of the socket is full and it is `wanted`, later."""
    if wanted() and not notify(state, environment):
        reactor.callLater(
            NOTIFY_AGAIN_SECONDS, notify_until_sent, state, reactor, environment, wanted
        )


def notify(state: str, environment: Mapping[str, str]) -> bool:
    """Send `READY=1`, `STOPPING=1`, ... to the socket of NOTIFY_SOCKET, if that is set.

    Never blocks: returns False if the queue of the socket is full, so that the state may be sent
    later. Any other error of the socket is logged and not raised: the service works without.
    """
    address = environment.get("NOTIFY_SOCKET", "")
    if not address:
        return True
    # A name with a leading @ is in the abstract namespace.
    target = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.connect(target)
            sender.send(state.encode(), socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError as error:
        _log.warn(
            "NOTIFY_SOCKET {address!r}: {error}",
            address=address,
            error=error,
            event_name="notify_failed",
        )
    return True
