"""Addresses to listen on: a port, HOST:PORT, or an endpoint of Twisted."""

from __future__ import annotations

import re
import socket
from ipaddress import ip_address

LOOPBACK = "127.0.0.1"
PORT = 8080
FORMS = (
    "expected a port (8081), HOST:PORT (0.0.0.0:8081, [::1]:8081),"
    " or an endpoint of Twisted (tcp:8081:interface=127.0.0.1)"
)

_HOST_AND_PORT = re.compile(
    r"(\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?\]|[A-Za-z0-9.-]+):([0-9]+)", re.ASCII
)
_PORT_OF_ENDPOINT = re.compile(r"(?:tcp6?|ssl):(?:port=)?([0-9]+)(?::|$)", re.ASCII)


def endpoint_text(text: str) -> str:
    """The text of the endpoint for a port, HOST:PORT, or an endpoint.

    A port alone is on loopback. HOST is an IPv4 address, an IPv6 address in brackets, perhaps with
    a zone (fe80::1%eth0), localhost, a name with a dot, or the name of this machine; tcp:8080 is an
    endpoint. Raises ValueError for a port that is out of range.
    """
    if text.isascii() and text.isdigit():
        return _tcp(LOOPBACK, text)
    if port := _PORT_OF_ENDPOINT.match(text):
        # Twisted itself finds it when it listens.
        _check_port(port[1])
    match = _HOST_AND_PORT.fullmatch(text)
    if match is None:
        return text
    host = match[1].strip("[]")
    if match[1] == host and not _is_name(host):
        return text
    return _tcp(host, match[2])


def host_and_port(host: str, port: int | None) -> str:
    """HOST:PORT for `--host` and `--port`, either of which may be missing ("", None).

    Raises ValueError for a host or port that cannot be one.
    """
    host = host.strip("[]") or LOOPBACK
    number = PORT if port is None else port
    if not 0 <= number <= 65_535:
        raise ValueError(f"port {number} is out of range, expected 0 to 65535")
    shown = f"[{host}]" if ":" in host else host
    if not is_address(host) and not re.fullmatch(r"[A-Za-z0-9.-]+", host, re.ASCII):
        raise ValueError(f"host {host!r:.80}, expected an IP address or a name such as localhost")
    return f"{shown}:{number}"


def _check_port(digits: str) -> None:
    # Python converts no number of more than 4,300 digits.
    if len(digits.lstrip("0")) > 5 or int(digits) > 65_535:
        raise ValueError(f"port {digits:.80} is out of range, expected 0 to 65535")


def _tcp(host: str, port: str) -> str:
    _check_port(port)
    escaped = host.replace(":", r"\:")
    return f"tcp:{int(port)}:interface={escaped}"


def _is_name(host: str) -> bool:
    return host == "localhost" or "." in host or host == socket.gethostname()


def is_address(host: str) -> bool:
    """Whether this is an IP address, maybe with a zone."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
