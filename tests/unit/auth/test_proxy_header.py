"""Headers of the PROXY protocol."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.auth.proxy_header import (
    MAX_BLOCK,
    MAX_LINE,
    SIGNATURE,
    ProxyHeader,
    make_proxy_header,
    read_proxy_header,
)

FOUR = bytes([203, 0, 113, 7, 10, 0, 0, 1]) + (4711).to_bytes(2, "big") + (443).to_bytes(2, "big")
SIX = b"\x20\x01\x0d\xb8" + bytes(11) + b"\x01" + bytes(15) + b"\x01" + b"\x12\x67\x01\xbb"
MAPPED = bytes(10) + b"\xff\xff" + FOUR[:4] + bytes(10) + b"\xff\xff" + FOUR[4:]
TLV = b"\x04\x00\x03abc"


def version_2(
    block: bytes, family: int = 0x11, command: int = 0x21, length: int | None = None
) -> bytes:
    size = len(block) if length is None else length
    return SIGNATURE + bytes([command, family]) + size.to_bytes(2, "big") + block


CLIENT = ("203.0.113.7", 4711), ("10.0.0.1", 443)
VALID = [
    (b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 443\r\n", CLIENT),
    (b"PROXY TCP6 2001:DB8::1 ::1 4711 443\r\n", (("2001:db8::1", 4711), ("::1", 443))),
    (b"PROXY TCP6 ::ffff:203.0.113.7 2001:db8::2 4711 443\r\n", (CLIENT[0], ("2001:db8::2", 443))),
    (b"PROXY UNKNOWN\r\n", (None, None)),
    (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", (None, None)),
    (version_2(FOUR), CLIENT),
    (version_2(FOUR + TLV + b"\x05\x00\x00"), CLIENT),
    (version_2(MAPPED, 0x21), CLIENT),
    (version_2(SIX, 0x21), (("2001:db8::1", 4711), ("::1", 443))),
    # LOCAL: the addresses are skipped, whatever they are.
    (version_2(b"", 0x00, 0x20), (None, None)),
    (version_2(b"junk", 0x11, 0x20), (None, None)),
    (version_2(b"", 0x00), (None, None)),
    (version_2(TLV, 0x00), (None, None)),
    (version_2(bytes(216), 0x31), (None, None)),
    (
        version_2(FOUR + b"\x04" + (MAX_BLOCK - 15).to_bytes(2, "big") + bytes(MAX_BLOCK - 15)),
        CLIENT,
    ),
]


@pytest.mark.parametrize(("data", "ends"), VALID)
def test_header_is_whole_with_its_last_byte(data: bytes, ends: tuple[object, object]) -> None:
    for end in range(len(data)):
        assert read_proxy_header(data[:end]) is None
    header = ProxyHeader(len(data), *ends)  # type: ignore[arg-type]
    assert read_proxy_header(data) == header
    assert read_proxy_header(data + b"GET / HTTP/1.1\r\n") == header


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01",
        b"PROXY",
        b"proxy TCP4 203.0.113.7 10.0.0.1 4711 443\r\n",
        b"PROXY TCP4 203.0.113.7 10.0.0.1 4711\r\n",
        b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 443 1\r\n",
        b"PROXY TCP4 203.0.113.700 10.0.0.1 4711 443\r\n",
        b"PROXY TCP4 2001:db8::1 ::1 4711 443\r\n",
        b"PROXY TCP6 203.0.113.7 10.0.0.1 4711 443\r\n",
        b"PROXY TCP4 203.0.113.7 10.0.0.1 65536 443\r\n",
        b"PROXY TCP4 203.0.113.7 10.0.0.1 04711 443\r\n",
        b"PROXY TCP4 203.0.113.7 10.0.0.1 -1 443\r\n",
        b"PROXY TCP4  203.0.113.7 10.0.0.1 4711 443\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 4711 443\r\n",
        b"PROXY TCP6 [2001:db8::1] ::1 4711 443\r\n",
        b"PROXY TCP4 203.0.113.7:4711 10.0.0.1 4711 443\r\n",
        b"PROXY TCP4 localhost 10.0.0.1 4711 443\r\n",
        b"PROXY UDP4 203.0.113.7 10.0.0.1 4711 443\r\n",
        b"PROXY UNKNOWN\nx\r\n",
        b"PROXY UNKNOWN ".ljust(MAX_LINE, b"x"),
        b"PROXY UNKNOWN ".ljust(MAX_LINE - 1, b"x") + b"\r\n",
        # Lengths that do not fit.
        version_2(FOUR[:-1]),
        version_2(b""),
        version_2(SIX[:-1], 0x21),
        version_2(bytes(215), 0x31),
        version_2(FOUR + b"\x04"),
        version_2(FOUR + b"\x04\x00\x04abc"),
        version_2(FOUR + b"GET / HTTP/1.1\r\n"),
        version_2(b"", length=MAX_BLOCK + 1),
        version_2(b"", length=65_535),
        # Other versions, commands, families.
        version_2(FOUR, command=0x11),
        version_2(FOUR, command=0x22),
        version_2(FOUR, 0x12),
        version_2(FOUR, 0x41),
        version_2(FOUR, 0x10),
    ],
)
def test_other_bytes_are_refused(data: bytes) -> None:
    if data == b"PROXY":
        assert read_proxy_header(data) is None
        data += b"\r\n"
    with pytest.raises(ValueError, match=r"header|port"):
        read_proxy_header(data)


@given(
    st.binary(max_size=300), st.sampled_from([b"", b"PROXY ", SIGNATURE, SIGNATURE + b"\x21\x11"])
)
def test_any_bytes_are_a_header_or_an_error(data: bytes, before: bytes) -> None:
    try:
        header = read_proxy_header(before + data)
    except ValueError:
        return
    assert header is None or header.size <= len(before + data)


_PORTS = st.integers(0, 65_535)
_FOUR = st.tuples(st.ip_addresses(v=4).map(str), _PORTS)
_ENDS = st.one_of(
    st.tuples(_FOUR, _FOUR),
    st.tuples(st.tuples(st.ip_addresses().map(str), _PORTS), _FOUR),
    st.tuples(*[st.tuples(st.ip_addresses().map(str), _PORTS)] * 2),
    st.just((None, None)),
)


@given(_ENDS, st.booleans(), st.booleans())
def test_made_header_is_read_as_it_was_made(ends: Any, tls: bool, direct: bool) -> None:
    header = make_proxy_header(ends[0], ends[1], tls, direct)
    # An IPv4 address in IPv6 is read as the address itself.
    client, server = (
        end and (str(getattr(ip_address(end[0]), "ipv4_mapped", None) or end[0]), end[1])
        for end in ends
    )
    assert read_proxy_header(header + b"GET") == ProxyHeader(
        len(header), client, server, tls, direct
    )
    for end in range(len(header)):
        assert read_proxy_header(header[:end]) is None


def test_zone_of_an_address_is_not_sent() -> None:
    header = make_proxy_header(("fe80::1%eth0", 1), ("fe80::2", 2), False, False)
    assert read_proxy_header(header) == ProxyHeader(len(header), ("fe80::1", 1), ("fe80::2", 2))


def test_header_for_a_name_is_an_error() -> None:
    with pytest.raises(ValueError, match="localhost"):
        make_proxy_header(("localhost", 1), ("127.0.0.1", 2), False, False)


@pytest.mark.parametrize(
    ("bits", "tls"), [(b"\x01", True), (b"\x07", True), (b"\x00", False), (b"\x06", False)]
)
def test_header_says_whether_the_client_has_tls(bits: bytes, tls: bool) -> None:
    # HAProxy adds the version of TLS and the name of the certificate.
    value = bits + bytes(4) + b"\x21\x00\x07TLSv1.3"
    header = read_proxy_header(version_2(FOUR + b"\x20" + len(value).to_bytes(2, "big") + value))
    assert header is not None
    assert header.tls is tls


def test_header_with_half_of_the_facts_about_tls_is_refused() -> None:
    with pytest.raises(ValueError, match="4 bytes about TLS, expected 5 or more"):
        read_proxy_header(version_2(FOUR + b"\x20\x00\x04\x01\0\0\0"))
