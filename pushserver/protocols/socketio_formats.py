"""Formats of Socket.IO: one for each kind of connection and namespace.

The name of the namespace is in each packet, so a publication is encoded once for each namespace
whose clients get it: for `/x`, as the channel `x`, and for others whose clients are in it too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakValueDictionary

from pushserver.channels.publication import Publication
from pushserver.protocols.engineio import MESSAGE, PING, binary_in_payload, encode, in_payload
from pushserver.protocols.formats import UNSUPPORTED, Format, each
from pushserver.protocols.socketio import MAIN, RESERVED, encode_json_event
from pushserver.protocols.websocket_frames import binary_frame, deflated_frame, websocket_frame

UNNAMED = "message"
"""The event of a message without a name, and of one whose name a client would refuse."""

ARGUMENTS, LIST = "arguments", "list"
"""The tag, and its value, of a publication whose data is a list of several arguments."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class NamespaceFormat(Format):
    """The events of one namespace: `event` makes the frame of a name and of JSON texts, joined by
    commas.

    With a `numbered` channel, each of its publications has its position as one more argument, by
    which a client that returns is recovered. A client takes any text at the end of an event for
    that, so `null` follows a text there.
    """

    event: Callable[[str, bytes], bytes]
    numbered: str


@dataclass(frozen=True, slots=True, eq=False)
class EngineFormat(Format):
    """Engine.IO on one kind of connection.

    `frame` makes a frame of a packet, `binary_frame` one of a binary message. Publications are
    those of the namespace `/`.
    """

    frame: Callable[[bytes], bytes]
    binary_frame: Callable[[bytes], bytes]
    ping: bytes

    def of(self, namespace: str, numbered: str = "") -> NamespaceFormat:
        """The format of a namespace, the same one for all that use it at a time."""
        key = (self, namespace, numbered)
        found = _namespaces.get(key)
        if found is None:
            found = _namespaces[key] = _namespace_format(*key)
        return found


def _namespace_format(engine: EngineFormat, namespace: str, numbered: str) -> NamespaceFormat:
    def event(name: str, data: bytes) -> bytes:
        if numbered and (not data or data.endswith(b'"')):
            data = _joined(data, b"null")
        return _event_frame(engine.frame, namespace, name, data)

    def publication(row: Publication) -> bytes:
        if row.channel != numbered:
            return event(row.event, _arguments(row))
        data = _joined(_arguments(row), b'"%b:%d"' % (row.epoch.encode(), row.offset))
        return _event_frame(engine.frame, namespace, row.event, data)

    return NamespaceFormat(engine.name, each(publication), engine.binary_code, event, numbered)


def _arguments(row: Publication) -> bytes:
    """The arguments of a publication: its data, or the values in it if it is a marked list."""
    tags = row.tags
    if tags is not None and tags.get(ARGUMENTS) == LIST and row.data.startswith(b"["):
        return row.data[1:-1].strip()
    return row.data


def _joined(arguments: bytes, one: bytes) -> bytes:
    return b"%b,%b" % (arguments, one) if arguments else one


def _event_frame(frame: Callable[[bytes], bytes], namespace: str, event: str, data: bytes) -> bytes:
    # After a packet with a reserved event, a client closes the connection.
    event = UNNAMED if event in RESERVED or not event else event
    return frame(encode(MESSAGE, encode_json_event(namespace, event, data)))


def _engine(
    name: str,
    frame: Callable[[bytes], bytes],
    binary_frame: Callable[[bytes], bytes],
    coded: EngineFormat | None = None,
) -> EngineFormat:
    return EngineFormat(
        name,
        each(lambda row: _event_frame(frame, MAIN, row.event, _arguments(row))),
        UNSUPPORTED,
        frame,
        binary_frame,
        frame(encode(PING)),
        coded=coded,
    )


ENGINE_POLLING = _engine("socketio-polling", in_payload, binary_in_payload)
ENGINE_WEBSOCKET = _engine(
    "socketio-websocket",
    websocket_frame,
    binary_frame,
    _engine("socketio-websocket-deflate", deflated_frame, binary_frame),
)

_namespaces: WeakValueDictionary[tuple[EngineFormat, str, str], NamespaceFormat] = (
    WeakValueDictionary()
)
