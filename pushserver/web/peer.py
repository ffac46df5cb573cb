"""The address of a peer, as rules compare it and as the log shows it."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import UNIXAddress


def host(peer: Any) -> str | None:
    """The IP address of a peer; None on a Unix socket."""
    if isinstance(peer, UNIXAddress):
        return None
    address = str(getattr(peer, "host", ""))
    # A socket for both versions of IP has such addresses for its IPv4 peers.
    return address.removeprefix("::ffff:") if "." in address else address


def host_and_port(peer: Any) -> str:
    """The address of a peer for the log, such as `127.0.0.1:4711` or `[::1]:4711`."""
    address = host(peer)
    if address is None:
        return "unix:"
    return f"{f'[{address}]' if ':' in address else address}:{getattr(peer, 'port', '')}"
