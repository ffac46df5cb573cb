"""The header of the PROXY protocol, versions 1 and 2, as HAProxy's proxy-protocol.txt defines it.

Twisted has a parser too. It refuses a header that arrives in two pieces within its first bytes,
waits for 64 KB if a header announces them, and raises exceptions of other kinds for some headers.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

MAX_LINE = 107
"""The bytes of a header of version 1, with its CRLF (section 2.1)."""

MAX_BLOCK = 2_048
"""The bytes of addresses and TLVs of version 2; proxies send less than 536 (section 2.2)."""

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
STARTS = (b"PROXY ", SIGNATURE)
"""The first bytes of all headers, of both versions."""

_LINE = re.compile(
    rb"PROXY (?:UNKNOWN(?: [ -~]*)?|(TCP[46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+)"
    rb" (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4}))\r\n"
)
_HEAD = struct.Struct("!12sBBH")
_ADDRESSES = {0x11: struct.Struct("!4s4sHH"), 0x21: struct.Struct("!16s16sHH")}
_SKIPPED = {0x00: 0, 0x31: 216}
"""The sizes of addresses that name no IP address: unknown ones, and Unix sockets."""
_TLV = struct.Struct("!BH")

_TLS = 0x20
"""PP2_TYPE_SSL (section 2.2.5): bits about the client, and whether its certificate is not valid."""
_TLS_FACTS = struct.Struct("!BI")
_OVER_TLS = 0x01
"""PP2_CLIENT_SSL, the first of the bits."""

_DIRECT = 0xE0
"""Of our own (section 2.2 leaves 0xE0 to 0xEF to applications), from one process to another: the
client itself opened the connection, and no proxy. Only other processes of the server are believed.
"""

End = tuple[str, int]
"""A host and a port."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """A whole header: its number of bytes, and the client and the server that it names.

    Both are None where the header names none: the proxy's own connections (LOCAL), and clients
    whose protocol is unknown or a Unix socket. The connection then counts as the proxy's.
    """

    size: int
    client: End | None = None
    server: End | None = None
    tls: bool = False
    """Whether the client's connection to the proxy has TLS."""
    direct: bool = False
    """Whether the sender claims that it is a process of the server, and no proxy before it."""


def make_proxy_header(client: End | None, server: End | None, tls: bool, direct: bool) -> bytes:
    """A header of version 2; None for the ends names none, and `read_proxy_header` reads it.

    Raises ValueError for hosts that are not IP addresses.
    """
    family, addresses = 0x00, b""
    if client is not None and server is not None:
        ips = [ip_address(end[0].partition("%")[0]) for end in (client, server)]
        if {ip.version for ip in ips} == {4}:
            family = 0x11
        else:
            family = 0x21
            ips = [IPv6Address(f"::ffff:{ip}") if ip.version == 4 else ip for ip in ips]
        packed = [ip.packed for ip in ips]
        addresses = _ADDRESSES[family].pack(*packed, client[1], server[1])
    if tls:
        # A client whose certificate is not asked for has none that is valid.
        addresses += _TLV.pack(_TLS, _TLS_FACTS.size) + _TLS_FACTS.pack(_OVER_TLS, 1)
    if direct:
        addresses += _TLV.pack(_DIRECT, 0)
    return _HEAD.pack(SIGNATURE, 0x21, family, len(addresses)) + addresses


def read_proxy_header(data: bytes) -> ProxyHeader | None:
    """The header at the start of these bytes; None if it is not whole yet.

    Raises ValueError for bytes that do not begin with a valid header; its text names them.
    """
    start = data[: len(SIGNATURE)]
    if start == SIGNATURE[: len(start)]:
        return _version_2(data) if len(data) >= _HEAD.size else None
    if data[:6] != b"PROXY "[: len(data)]:
        # No more of the bytes: a URL may have a token.
        raise ValueError(f"{data[:4]!r}..., expected a header of the PROXY protocol")
    line, found, _ = data[:MAX_LINE].partition(b"\r\n")
    if not found:
        if len(data) >= MAX_LINE:
            raise ValueError(f"a header of version 1 without its CRLF in {MAX_LINE} bytes")
        return None
    return _version_1(line + found)


def _version_1(line: bytes) -> ProxyHeader:
    match = _LINE.fullmatch(line)
    if match is None:
        # Not the bytes behind a bare LF: a URL may have a token.
        raise ValueError(f"an invalid header of version 1: {line.splitlines(True)[0]!r}")
    family, *texts = (None if group is None else group.decode() for group in match.groups())
    if family is None:
        return ProxyHeader(len(line))
    client, server, client_port, server_port = (str(text) for text in texts)
    kind = IPv4Address if family == "TCP4" else IPv6Address
    try:
        ends = [
            (_host(kind(host)), _port(port))
            for host, port in ((client, client_port), (server, server_port))
        ]
    except ValueError as error:
        raise ValueError(f"an invalid header of version 1: {line!r}: {error}") from None
    return ProxyHeader(len(line), ends[0], ends[1])


def _host(ip: IPv4Address | IPv6Address) -> str:
    """The address; HAProxy sends IPv4 as ::ffff:192.0.2.1 where the other end is IPv6."""
    mapped: IPv4Address | None = getattr(ip, "ipv4_mapped", None)
    return str(mapped or ip)


def _port(text: str) -> int:
    port = int(text)
    if port > 65_535:
        raise ValueError(f"port {port} is out of range")
    return port


def _version_2(data: bytes) -> ProxyHeader | None:
    _, version, family, length = _HEAD.unpack_from(data)
    if version not in (0x20, 0x21):
        raise ValueError(
            f"a header with the version and command {version:#04x}, expected 0x20 or 0x21"
        )
    if length > MAX_BLOCK:
        raise ValueError(f"a header of {length} bytes, expected at most {MAX_BLOCK}")
    size = _HEAD.size + length
    if len(data) < size:
        return None
    if version == 0x20:
        return ProxyHeader(size)
    if family in _SKIPPED:
        tls, direct = _read_tlvs(data[_HEAD.size : size], _SKIPPED[family])
        return ProxyHeader(size, tls=tls, direct=direct)
    if family not in _ADDRESSES:
        raise ValueError(f"a header with the family and protocol {family:#04x}, expected TCP")
    layout = _ADDRESSES[family]
    tls, direct = _read_tlvs(data[_HEAD.size : size], layout.size)
    client, server, client_port, server_port = layout.unpack_from(data, _HEAD.size)
    client, server = _host(ip_address(client)), _host(ip_address(server))
    return ProxyHeader(size, (client, client_port), (server, server_port), tls, direct)


def _read_tlvs(block: bytes, addresses: int) -> tuple[bool, bool]:
    """Whether the client's connection has TLS, and whether it is said to be direct.

    Raises ValueError unless the addresses and whole TLVs fill the block: a wrong length would take
    bytes of the request, or leave bytes of the header to it.
    """
    tls = direct = False
    at = addresses
    while at + _TLV.size <= len(block):
        kind, length = _TLV.unpack_from(block, at)
        value = block[at + _TLV.size : at + _TLV.size + length]
        at += _TLV.size + length
        if kind == _TLS:
            if len(value) < _TLS_FACTS.size:
                raise ValueError(f"a header with {length} bytes about TLS, expected 5 or more")
            tls = bool(value[0] & _OVER_TLS)
        elif kind == _DIRECT:
            direct = True
    if at != len(block):
        raise ValueError(f"a header whose {len(block)} bytes are not its addresses and TLVs")
    return tls, direct
