"""Socket.IO v5: decodes and encodes its packets, which are messages of Engine.IO.

A packet is `<digit>[<attachments>-][<namespace>,][<ack id>][<JSON>]`, and as many binary messages
behind it as it has attachments. The namespace `/` is left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from pushserver.channels import jsontext
from pushserver.errors import InvalidData
from pushserver.protocols.engineio import PacketError

CONNECT, DISCONNECT, EVENT, ACK, CONNECT_ERROR, BINARY_EVENT, BINARY_ACK = range(7)

MAIN = "/"
"""The namespace whose name is left out."""

MAX_ATTACHMENTS = 64
MAX_NAMESPACE = 256
"""The most bytes of a namespace's name, with its query."""

MAX_ID = 2**53 - 1
"""The greatest integer that JavaScript represents exactly."""

RESERVED = frozenset(
    {"connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"}
)
"""The events that no peer can send."""

_NAMES = (
    "CONNECT",
    "DISCONNECT",
    "EVENT",
    "ACK",
    "CONNECT_ERROR",
    "BINARY_EVENT",
    "BINARY_ACK",
)
_HEAD = re.compile(
    rb"(?P<kind>[0-6])(?:(?P<count>[0-9]{1,3})-)?(?:(?P<namespace>/[^,]*),?)?(?P<id>[0-9]*)"
)


class Packet(NamedTuple):
    """A packet of a client; `data` is JSON text, which `arguments` and `auth` decode.

    `attachments` is their number.
    """

    kind: int
    namespace: str = MAIN
    id: int | None = None
    data: bytes = b""
    attachments: int = 0


def decode(text: bytes) -> Packet:
    """Decode all of a packet but its JSON text; raises PacketError."""
    if text[:1] not in _KINDS:
        shown = text[:20].decode("utf-8", "replace")
        raise PacketError(f"a message begins with {shown!r}, expected a packet of Socket.IO")
    match = _HEAD.match(text[: MAX_NAMESPACE + 64])
    assert match is not None, "the pattern needs one digit, which was checked"
    kind, name = int(match["kind"]), _NAMES[int(match["kind"])]
    namespace = match["namespace"] or b""
    if len(namespace) > MAX_NAMESPACE:
        raise PacketError(f"a namespace of {name} is longer than {MAX_NAMESPACE} bytes")
    start = match.end()
    if kind not in _WITH_ID:
        # An id there is the beginning of the data.
        start = match.start("id")
    id_ = _id(name, match["id"]) if kind in _WITH_ID else None
    if kind in (ACK, BINARY_ACK) and id_ is None:
        raise PacketError(f"{name} has no id")
    count = _count(kind, name, match["count"])
    plain = namespace.partition(b"?")[0].decode("utf-8", "replace") or MAIN
    return Packet(kind, plain, id_, text[start:], count)


_KINDS = frozenset(b"%d" % kind for kind in range(7))
_WITH_ID = frozenset({EVENT, ACK, BINARY_EVENT, BINARY_ACK})


def _id(name: str, digits: bytes) -> int | None:
    if not digits:
        return None
    if len(digits) > len(str(MAX_ID)) or int(digits) > MAX_ID:
        raise PacketError(f"the id of {name} is above {MAX_ID}")
    return int(digits)


def _count(kind: int, name: str, digits: bytes | None) -> int:
    is_binary = kind in (BINARY_EVENT, BINARY_ACK)
    if is_binary != (digits is not None):
        found = "no number" if digits is None else "a number"
        raise PacketError(f"{name} has {found} of attachments")
    count = int(digits or 0)
    if count > MAX_ATTACHMENTS:
        raise PacketError(f"{count} attachments of {name}, expected {MAX_ATTACHMENTS} at most")
    return count


def auth(packet: Packet) -> dict[str, Any]:
    """The object of a CONNECT, empty if it has none; raises PacketError."""
    value = _value(packet) if packet.data else {}
    if not isinstance(value, dict):
        raise PacketError("CONNECT has a value that is no object")
    return value


def event(packet: Packet, attachments: Sequence[bytes] = ()) -> tuple[str, list[Any]]:
    """The event and the arguments of an EVENT or BINARY_EVENT; raises PacketError."""
    name, *arguments = _list(packet, attachments) or [None]
    if not isinstance(name, str):
        raise PacketError(f"the event is {name!r:.60}, expected a text")
    if name in RESERVED:
        raise PacketError(f"the event {name!r} is reserved")
    return name, arguments


def arguments(packet: Packet, attachments: Sequence[bytes] = ()) -> list[Any]:
    """The arguments of an ACK or BINARY_ACK; raises PacketError."""
    return _list(packet, attachments)


def _list(packet: Packet, attachments: Sequence[bytes]) -> list[Any]:
    value = _value(packet)
    if not isinstance(value, list):
        raise PacketError(f"{_NAMES[packet.kind]} has a value that is no array")
    if packet.kind not in (BINARY_EVENT, BINARY_ACK):
        return value
    placed: list[bytes] = []
    filled = [_filled(part, attachments, placed) for part in value]
    if len(placed) != len(attachments):
        raise PacketError(f"{len(placed)} placeholders for {len(attachments)} attachments")
    return filled


def _value(packet: Packet) -> Any:
    try:
        return jsontext.decode(packet.data)
    except InvalidData as error:
        raise PacketError(f"the data of {_NAMES[packet.kind]}: {error}") from None


def _filled(value: Any, attachments: Sequence[bytes], placed: list[bytes]) -> Any:
    """The value with attachments in place of placeholders, which have the numbers 0, 1, 2, ...

    Encoders number them in the order of the text. The depth is that of `jsontext.decode` at most.
    """
    if isinstance(value, list):
        return [_filled(part, attachments, placed) for part in value]
    if not isinstance(value, dict):
        return value
    if not _is_placeholder(value):
        return {key: _filled(part, attachments, placed) for key, part in value.items()}
    number = value.get("num")
    if type(number) is not int or number != len(placed) or number >= len(attachments):
        expected = f"{len(placed)} of {len(attachments)}"
        raise PacketError(f"a placeholder has the number {number!r:.20}, expected {expected}")
    placed.append(attachments[number])
    return attachments[number]


def _is_placeholder(value: dict[Any, Any]) -> bool:
    return value.get("_placeholder") is True


def encode_connect(namespace: str, sid: str, pid: str = "") -> bytes:
    """The answer to a CONNECT that is accepted; `pid` is left out if it is empty."""
    return _head(CONNECT, namespace) + jsontext.encode(
        {"sid": sid, **({"pid": pid} if pid else {})}
    )


def encode_connect_error(namespace: str, message: str, data: object = None) -> bytes:
    """The answer to a CONNECT that is refused; raises InvalidData for `data` that is not JSON.

    `data` is left out if it is None.
    """
    text = message.encode("utf-8", "replace").decode()
    more = {} if data is None else {"data": data}
    return _head(CONNECT_ERROR, namespace) + jsontext.encode({"message": text, **more})


def encode_disconnect(namespace: str) -> bytes:
    """The server ends the client's connection to a namespace."""
    return _head(DISCONNECT, namespace)


def encode_json_event(namespace: str, event: str, data: bytes) -> bytes:
    """An event with these arguments: JSON texts, joined by commas."""
    name = jsontext.encode(event)
    return b"%b[%b]" % (_head(EVENT, namespace), b"%b,%b" % (name, data) if data else name)


class Values(NamedTuple):
    """Values of an event or an acknowledgement: JSON text, and the bytes in it apart."""

    json: bytes
    attachments: tuple[bytes, ...] = ()


def values(given: Sequence[object]) -> Values:
    """Make the values of a packet; bytes may be anywhere in lists and dictionaries.

    Raises InvalidData for values that JSON cannot hold, and for more bytes than MAX_ATTACHMENTS.
    """
    attachments: list[bytes] = []
    plain = [_emptied(value, attachments, jsontext.MAX_DEPTH) for value in given]
    if len(attachments) > MAX_ATTACHMENTS:
        raise InvalidData(
            f"{len(attachments)} values are bytes, expected {MAX_ATTACHMENTS} at most"
        )
    if attachments and any(map(_has_placeholder, given)):
        raise InvalidData('a value is like {"_placeholder": true}, the mark of bytes in an event')
    return Values(jsontext.encode(plain), tuple(attachments))


def _emptied(value: object, attachments: list[bytes], depth: int) -> object:
    """The value with placeholders in place of bytes."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        attachments.append(bytes(value))
        return {"_placeholder": True, "num": len(attachments) - 1}
    if not isinstance(value, (list, tuple, dict)) or not value:
        return value
    if not depth:
        raise InvalidData("the value is nested too deeply, or contains itself")
    if isinstance(value, dict):
        return {key: _emptied(part, attachments, depth - 1) for key, part in value.items()}
    return [_emptied(part, attachments, depth - 1) for part in value]


def _has_placeholder(value: object) -> bool:
    if isinstance(value, dict):
        return _is_placeholder(value) or any(map(_has_placeholder, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_has_placeholder, value))


def encode(namespace: str, kind: int, values: Values, id: int | None = None) -> bytes:
    """An EVENT or an ACK, whose attachments follow as binary messages."""
    count = len(values.attachments)
    if count:
        kind = BINARY_EVENT if kind == EVENT else BINARY_ACK
    number = b"" if id is None else b"%d" % id
    return _head(kind, namespace, count) + number + values.json


def _head(kind: int, namespace: str, count: int = 0) -> bytes:
    head = b"%d%d-" % (kind, count) if count else b"%d" % kind
    return head if namespace == MAIN else b"%b%b," % (head, namespace.encode())
