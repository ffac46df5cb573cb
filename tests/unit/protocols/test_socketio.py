from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.channels import jsontext
from pushserver.errors import InvalidData
from pushserver.protocols import socketio
from pushserver.protocols.engineio import PacketError
from pushserver.protocols.socketio import (
    ACK,
    BINARY_ACK,
    BINARY_EVENT,
    CONNECT,
    DISCONNECT,
    EVENT,
    MAX_ATTACHMENTS,
    MAX_ID,
    MAX_NAMESPACE,
    RESERVED,
    Packet,
    decode,
)

KEYS = st.text(st.characters(codec="utf-8"), max_size=5) | st.just("__proto__")
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(["/", "/test", "/a:b", "/\u00fc"])
IDS = st.none() | st.integers(0, MAX_ID)


@given(NAMES, IDS, st.text(st.characters(codec="utf-8"), max_size=5), st.lists(VALUES, max_size=4))
def test_event_is_decoded_as_it_was_encoded(
    namespace: str, id: int | None, name: str, arguments: list[Any]
) -> None:
    values = socketio.values([name, *arguments])
    packet = decode(socketio.encode(namespace, EVENT, values, id))
    assert packet.kind == (BINARY_EVENT if values.attachments else EVENT)
    assert (packet.namespace, packet.id) == (namespace, id)
    assert packet.attachments == len(values.attachments)
    if name in RESERVED:
        return
    assert socketio.event(packet, values.attachments) == (name, arguments)


@given(NAMES, st.integers(0, MAX_ID), st.lists(VALUES, max_size=4))
def test_acknowledgement_is_decoded_as_it_was_encoded(
    namespace: str, id: int, arguments: list[Any]
) -> None:
    values = socketio.values(arguments)
    packet = decode(socketio.encode(namespace, ACK, values, id))
    assert packet.kind == (BINARY_ACK if values.attachments else ACK)
    assert (packet.namespace, packet.id) == (namespace, id)
    assert socketio.arguments(packet, values.attachments) == arguments


PIECES = st.sampled_from(
    [
        *(b"0", b"2", b"3", b"5", b"6", b"1-", b"/a", b",", b"9", b"?b", b'["e",', b"]", b"{}"),
        *(b"[]", b'{"_placeholder":true,"num":0}', b"\xff", b'"'),
    ]
)


@given(st.lists(PIECES, max_size=8).map(b"".join) | st.binary(max_size=60), st.binary(max_size=3))
def test_any_packet_is_decoded_or_refused(text: bytes, attachment: bytes) -> None:
    with suppress(PacketError):
        packet = decode(text)
        attachments = [attachment] * packet.attachments
        if packet.kind in (EVENT, BINARY_EVENT):
            socketio.event(packet, attachments)
        elif packet.kind in (ACK, BINARY_ACK):
            socketio.arguments(packet, attachments)
        elif packet.kind == CONNECT:
            socketio.auth(packet)


@pytest.mark.parametrize(
    ("text", "packet"),
    [
        (b"0", Packet(CONNECT)),
        (b'0{"token":"a"}', Packet(CONNECT, "/", None, b'{"token":"a"}')),
        (b'0/admin,{"token":"a"}', Packet(CONNECT, "/admin", None, b'{"token":"a"}')),
        (b"0/admin,", Packet(CONNECT, "/admin")),
        (b"0/admin?a=b,", Packet(CONNECT, "/admin")),
        (b"1/admin,", Packet(DISCONNECT, "/admin")),
        (b'2["foo"]', Packet(EVENT, "/", None, b'["foo"]')),
        (b'2/admin,["bar"]', Packet(EVENT, "/admin", None, b'["bar"]')),
        (b'212["foo"]', Packet(EVENT, "/", 12, b'["foo"]')),
        (b'3/admin,13["bar"]', Packet(ACK, "/admin", 13, b'["bar"]')),
        (b'51-["baz",{}]', Packet(BINARY_EVENT, "/", None, b'["baz",{}]', 1)),
        (b"62-/admin,15[]", Packet(BINARY_ACK, "/admin", 15, b"[]", 2)),
    ],
)
def test_packets_are_as_in_the_documents_of_the_protocol(text: bytes, packet: Packet) -> None:
    assert decode(text) == packet


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "begins with ''"),
        (b"7", "begins with '7'"),
        (b'["a"]', "expected a packet of Socket.IO"),
        (b"3[]", "ACK has no id"),
        (b"61-[]", "BINARY_ACK has no id"),
        (b"3-1[]", "ACK has no id"),
        (f"3{MAX_ID + 1}[]".encode(), "the id of ACK is above"),
        (b"3" + b"9" * 5_000 + b"[]", "the id of ACK is above"),
        (b'21-["a"]', "EVENT has a number of attachments"),
        (b'5["a"]', "BINARY_EVENT has no number of attachments"),
        (b'51["a"]', "BINARY_EVENT has no number of attachments"),
        (f'5{MAX_ATTACHMENTS + 1}-["a"]'.encode(), "attachments of BINARY_EVENT, expected"),
        (b'5999999999-["a"]', "BINARY_EVENT has no number of attachments"),
        (b"0/" + b"a" * MAX_NAMESPACE + b",", "a namespace of CONNECT is longer than"),
        (b"0/" + b"a" * 60_000, "a namespace of CONNECT is longer than"),
    ],
)
def test_malformed_packet_is_refused(text: bytes, problem: str) -> None:
    with pytest.raises(PacketError, match=problem):
        decode(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"2", "the data of EVENT"),
        (b"2{}", "no array"),
        (b"2[]", "the event is None"),
        (b"2[1]", "the event is 1, expected a text"),
        (b'2-1["a"]', "the data of EVENT"),
        (b'2["a"', "the data of EVENT"),
        (b'2["a",NaN]', "the data of EVENT"),
        (b'2["a",1e999]', "beyond the range"),
        (b'2["\xff"]', "invalid UTF-8"),
        (b'2["a",' + b"[" * 101 + b"]" * 102, "nested deeper than 100"),
        *((b'2["%b"]' % name.encode(), "is reserved") for name in sorted(RESERVED)),
    ],
)
def test_event_that_is_none_is_refused(text: bytes, problem: str) -> None:
    with pytest.raises(PacketError, match=problem):
        socketio.event(decode(text))


@pytest.mark.parametrize(
    ("numbers", "count"),
    [
        ([1, 0], 2),
        ([0, 0], 2),
        ([0], 2),
        ([0, 1, 2], 2),
        ([], 1),
        ([-1], 1),
        ([1], 1),
        (["0"], 1),
        ([True], 1),
        ([None], 1),
        ([1e300], 1),
    ],
)
def test_placeholders_have_the_numbers_of_the_attachments_in_order(
    numbers: list[Any], count: int
) -> None:
    marks = [{"_placeholder": True, "num": number} for number in numbers]
    packet = decode(f"5{count}-".encode() + jsontext.encode(["a", *marks]))
    with pytest.raises(PacketError, match="placeholder"):
        socketio.event(packet, [b"x"] * count)


def test_auth_is_an_object() -> None:
    assert socketio.auth(decode(b"0")) == {}
    assert socketio.auth(decode(b'0/a,{"b":1}')) == {"b": 1}
    for text in (b"0[]", b'0"a"', b"01", b"0null", b"0{"):
        with pytest.raises(PacketError):
            socketio.auth(decode(text))


def test_mark_of_bytes_is_plain_data_in_an_event_without_bytes() -> None:
    mark = {"_placeholder": True, "num": 0}
    values = socketio.values(["a", mark])
    assert socketio.event(decode(socketio.encode("/", EVENT, values))) == ("a", [mark])
    # The peer would take it for the bytes.
    for value in (mark, [mark], {"a": [mark]}):
        with pytest.raises(InvalidData, match="_placeholder"):
            socketio.values(["a", value, b"x"])


def test_values_have_bounds() -> None:
    most = socketio.values([[b"x"] * MAX_ATTACHMENTS])
    assert len(most.attachments) == MAX_ATTACHMENTS
    with pytest.raises(InvalidData, match=f"{MAX_ATTACHMENTS + 1} values are bytes"):
        socketio.values([[b"x"] * (MAX_ATTACHMENTS + 1)])
    endless: list[Any] = [b"x"]
    endless.append(endless)
    for value in (endless, {1: {2, 3}, "a": object()}, float("nan")):
        with pytest.raises(InvalidData):
            socketio.values([value])


def test_server_packets_leave_out_the_main_namespace() -> None:
    assert socketio.encode_connect("/", "s1") == b'0{"sid":"s1"}'
    assert socketio.encode_connect("/a", "s1") == b'0/a,{"sid":"s1"}'
    assert socketio.encode_connect_error("/a", "no") == b'4/a,{"message":"no"}'
    refused = socketio.encode_connect_error("/", "no\ud800", {"code": 4500})
    assert refused == b'4{"message":"no?","data":{"code":4500}}'
    assert socketio.encode_disconnect("/a") == b"1/a,"
    assert socketio.encode_json_event("/a", 'e"', b'{"n":1}') == b'2/a,["e\\"",{"n":1}]'
    assert socketio.encode_json_event("/", "e", b"1") == b'2["e",1]'
