"""The messages between the author of the log and its followers, and their frames.

A frame is a length of 4 bytes (big-endian) and one message: a MessagePack array that begins with
the number of its type.

Both ends must have the same version of this package. An author answers the `Hello` of another
version with `Outdated`, and decodes nothing else of that link. So these two have their forms for
ever, as the frames have: a later version may only add values behind the first one.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Literal, get_origin

import msgspec
from msgspec import Struct

from pushserver import errors
from pushserver.channels.position import Cursor
from pushserver.channels.publication import ClientInfo, Draft, Publication, Receipt
from pushserver.cluster.measures import Measure
from pushserver.errors import PushServerError
from pushserver.hub.follower import Image, Point
from pushserver.sessions.callbacks import Invitation
from pushserver.sessions.visit import UNKNOWN, Visit

_LENGTH = struct.Struct(">I")
_LONG_NUMBER = 1
"""The extension type of MessagePack for a whole number of more than 64 bits."""


Level = Literal["debug", "info", "warn", "error", "critical"]
Plain = None | bool | int | float | str
Kind = Literal["connect", "subscribe", "publish", "rpc", "message"]


class BadMessage(Exception):
    """The other end does not keep to the protocol."""


class Message(Struct, frozen=True, array_like=True):
    """The base of all messages."""


# --- of both ---------------------------------------


class Done(Message, frozen=True, tag=24):
    """A call has succeeded."""

    call: int


class Failed(Message, frozen=True, tag=25):
    """A call has failed: with an error of this class of `errors`, and these attributes."""

    call: int
    kind: str
    text: str
    attributes: dict[str, Any]


class Counted(Message, frozen=True, tag=40):
    """What a process counts and charges for the bounds of the whole server, by kind and name.

    `counts` are changes since the last message; if `is_whole`, all numbers, in place of those known
    so far. `charges` are the events that token buckets have allowed. See `cluster.shared_bounds`.
    """

    is_whole: bool
    counts: dict[str, dict[str, int]]
    charges: dict[str, dict[str, int]]


# --- of a follower ---------------------------------------


class Hello(Message, frozen=True, tag=0):
    """The first message: the version of the package. All versions can decode it."""

    version: str


class Attach(Message, frozen=True, tag=11):
    """The channels that the follower has; the answer is `Images` of the call 0.

    `process` is a random id of the process, `worker` its number; `again`: this is not its first
    link.
    """

    points: list[Point]
    process: str = ""
    worker: int = 0
    again: bool = False


class Follow(Message, frozen=True, tag=1):
    """Follow these channels, and have those of the `names` up to date; the answer is `Images`."""

    call: int
    points: list[Point]
    names: list[str] = []


class Leave(Message, frozen=True, tag=2):
    """Follow these channels no longer."""

    channels: list[str]


class Installed(Message, frozen=True, tag=17):
    """The images of the answer to this call are here, and their readers have joined."""

    call: int


class Publish(Message, frozen=True, tag=3):
    """Append a draft; the answer is `Published`. Its key is as it is remembered."""

    call: int
    draft: Draft


class Clear(Message, frozen=True, tag=4):
    """Drop the history of a channel; the answer is `Done`."""

    call: int
    channel: str


class Entered(Message, frozen=True, tag=5):
    """The facts about a peer; a second one of the same peer replaces the first.

    `peer` is its number at the follower. `is_reader`: it is a stream or a long-poll, which takes no
    messages. `expires` is the end of its identity, and `key` the hash by which its API key is
    found. `visit` is that of the request of a client; when it `is_admitted`, without the headers.
    """

    peer: int
    info: ClientInfo
    is_reader: bool
    namespace: str = ""
    full_namespace: str = ""
    secret: str = ""
    expires: float = 0.0
    key: bytes = b""
    is_admitted: bool = True
    visit: Visit = UNKNOWN


class Gone(Message, frozen=True, tag=6):
    """A peer's connection has ended."""

    peer: int


class Joined(Message, frozen=True, tag=7):
    """A peer has subscribed to a channel; `chan_info` as in `ClientInfo`."""

    peer: int
    channel: str
    chan_info: bytes = b""


class Parted(Message, frozen=True, tag=8):
    """A peer has unsubscribed from a channel."""

    peer: int
    channel: str


class Observes(Message, frozen=True, tag=9):
    """A peer wants the joins and leaves of a channel from now on, or no longer."""

    peer: int
    channel: str
    wanted: bool


class Present(Message, frozen=True, tag=10):
    """The answer is the clients of a channel, or only the numbers of them and of their users."""

    call: int
    channel: str
    numbers: bool


class Ask(Message, frozen=True, tag=12):
    """Call a handler of the application for a client; `Answered` has the JSON text of its answer.

    `kind` is a method of `callbacks.Handlers`; `name` is the channel or the method.
    """

    call: int
    peer: int
    kind: Kind
    name: str
    data: bytes


class AskEvent(Message, frozen=True, tag=13):
    """Call the handler of an event of Socket.IO; the value of the answer is a list of `Values`."""

    call: int
    peer: int
    event: str
    arguments: list[Any]


class AskPublish(Message, frozen=True, tag=18):
    """Call the `publish` handler for a request by POST; `info`, `expires` and `key` as `Entered`.

    The answer is `Answered`.
    """

    call: int
    info: ClientInfo
    expires: float
    key: bytes
    visit: Visit
    channel: str
    data: bytes


class Authenticate(Message, frozen=True, tag=14):
    """Let the application identify a peer; the value of the answer is that of `Proof`."""

    call: int
    visit: Visit
    data: bytes


class Ended(Message, frozen=True, tag=15):
    """A client that the application has admitted is gone."""

    peer: int
    reason: str


class Acknowledged(Message, frozen=True, tag=16):
    """The arguments with which a client acknowledged an event; None if it did not."""

    call: int
    arguments: list[Any] | None


class Logged(Message, frozen=True, tag=47):
    """An event of the log of a worker, as text; `fields` are plain values.

    `time` is in Unix seconds. `event` is its stable name, `traceback` that of its exception; both
    may be empty.
    """

    worker: int
    time: float
    level: Level
    namespace: str
    event: str
    text: str
    traceback: str
    fields: dict[str, Plain]


class Measured(Message, frozen=True, tag=45):
    """The numbers of the process, once a second; each message replaces the one before."""

    measure: Measure


# --- of the author ---------------------------------------


class Images(Message, frozen=True, tag=20):
    """The images of channels, and the ends of all logs, up to which they go.

    If there are `more`, the next message is another part of the same answer (`image_parts`).
    """

    call: int
    ends: list[Cursor]
    images: list[Image]
    more: bool = False


class Row(Message, frozen=True, tag=21):
    """The next publication of a channel that is followed, and the clients that do not get it."""

    publication: Publication
    skip: tuple[str, ...] = ()


class Cleared(Message, frozen=True, tag=22):
    """The history of a followed channel was dropped."""

    channel: str


class Forgotten(Message, frozen=True, tag=36):
    """The author has this channel no more: nobody watched it, and others needed its room."""

    channel: str


class Published(Message, frozen=True, tag=23):
    """The receipt of a draft."""

    call: int
    receipt: Receipt


class Answered(Message, frozen=True, tag=26):
    """The answer to a call that has a value; its type is that of the call."""

    call: int
    value: Any


class Push(Message, frozen=True, tag=27):
    """Send a push of the Centrifuge protocol to a peer."""

    peer: int
    text: bytes


class End(Message, frozen=True, tag=28):
    """End a peer's connection with this code of the Centrifuge protocol."""

    peer: int
    code: int
    reason: str


class Unsubscribe(Message, frozen=True, tag=29):
    """Unsubscribe a peer from a channel, with this code."""

    peer: int
    channel: str
    code: int
    reason: str


class Invite(Message, frozen=True, tag=30):
    """Subscribe a peer to a channel; the answer is `Done`."""

    call: int
    peer: int
    channel: str
    invitation: Invitation


class Say(Message, frozen=True, tag=31):
    """Send a message of the application to a peer."""

    peer: int
    values: Spread
    event: str


class Request(Message, frozen=True, tag=34):
    """Send an event that a client acknowledges in these seconds; `Acknowledged` is the answer."""

    call: int
    peer: int
    values: Spread
    event: str
    seconds: float


class Handled(Message, frozen=True, tag=35):
    """The handlers of the application, by namespace and event."""

    events: list[tuple[str, str]]


class Outdated(Message, frozen=True, tag=50):
    """The author has this version, and not that of the follower. All versions can decode it."""

    version: str


class Spread(Struct, frozen=True, array_like=True):
    """One value, or the `several` arguments of an event of Socket.IO; those may have bytes."""

    value: Any
    several: bool

    @classmethod
    def of(cls, data: object) -> Spread:
        """The data of a message; it has been checked."""
        plain = msgspec.to_builtins(data, builtin_types=(bytes,), str_keys=True)
        return cls(plain, isinstance(data, tuple))

    @property
    def data(self) -> Any:
        """The data as the application gave it."""
        return tuple(self.value) if self.several else self.value


class Proof(Struct, frozen=True, array_like=True):
    """An identity that the application has proved; see `auth.identity`."""

    user: str
    info: bytes
    expires: float
    token: bool
    channels: list[str]


class Admission(Struct, frozen=True, array_like=True):
    """The answer of a `connect` handler, and the user and info that the client has by then."""

    data: bytes
    user: str
    info: bytes


class Prolong(Message, frozen=True, tag=33):
    """End a peer's session at this Unix time, 0 for never."""

    peer: int
    expires: float


FromFollower = (
    Hello
    | Attach
    | Follow
    | Leave
    | Installed
    | Publish
    | Clear
    | Entered
    | Gone
    | Joined
    | Parted
    | Observes
    | Present
    | Done
    | Failed
    | Ask
    | AskEvent
    | AskPublish
    | Authenticate
    | Ended
    | Acknowledged
    | Counted
    | Logged
    | Measured
)
ToPeer = Push | End | Unsubscribe | Invite | Say | Prolong | Request
FromAuthor = (
    Images
    | Row
    | Cleared
    | Forgotten
    | Published
    | Done
    | Answered
    | Failed
    | Handled
    | Counted
    | Outdated
    | ToPeer
)

_encode = msgspec.msgpack.Encoder().encode


def frame(message: Message) -> bytes:
    """The frame of a message."""
    try:
        text = _encode(message)
    except OverflowError:
        text = _encode(_portable(message))
    return _LENGTH.pack(len(text)) + text


def _portable(value: Any) -> Any:
    """The value with its long numbers as MessagePack has them; clients may send any number."""
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        size = value.bit_length() // 8 + 1
        return msgspec.msgpack.Ext(_LONG_NUMBER, value.to_bytes(size, "big", signed=True))
    if isinstance(value, list | tuple):
        return [_portable(each) for each in value]
    if isinstance(value, dict):
        return {key: _portable(each) for key, each in value.items()}
    if isinstance(value, Struct):
        return type(value)(*map(_portable, msgspec.structs.astuple(value)))
    return value


def _long_number(kind: int, data: memoryview) -> int:
    if kind != _LONG_NUMBER:
        raise msgspec.ValidationError(f"an extension of type {kind}")
    return int.from_bytes(data, "big", signed=True)


def failed(call: int, error: PushServerError) -> Failed:
    """The message for an error of the package."""
    attributes = {}
    for name, value in vars(error).items():
        with suppress(TypeError):
            attributes[name] = msgspec.to_builtins(value, str_keys=True)
    return Failed(call, type(error).__name__, str(error), attributes)


def error_of(message: Failed) -> PushServerError:
    """The error of a failed call."""
    kind = getattr(errors, message.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, PushServerError)):
        raise BadMessage(f"a call failed with {message.kind!r:.80}, which is no error")
    error = kind.__new__(kind)
    Exception.__init__(error, message.text)
    vars(error).update(message.attributes)
    return error


def _counter(kind: Any, value: Any) -> Counter[str]:
    """The counters with labels, which msgspec takes for a type that it does not know."""
    assert get_origin(kind) is Counter, f"{kind} in a message"
    return Counter(msgspec.convert(value, dict[str, int]))


class Frames:
    """Splits received bytes into messages of the given types.

    A message has at most `most` bytes. Memory is that of the bytes received.
    """

    def __init__(self, types: Any, most: int):
        self._decode = msgspec.msgpack.Decoder(
            types, dec_hook=_counter, ext_hook=_long_number
        ).decode
        self._most = most
        self._parts: list[bytes] = []
        self._size = 0
        self._wanted = _LENGTH.size
        self._in_length = True

    def feed(self, data: bytes) -> Iterator[Any]:
        """The messages that are complete with `data`; raises BadMessage.

        The caller takes all of them before the next `feed`.
        """
        self._parts.append(data)
        self._size += len(data)
        if self._size < self._wanted:
            return
        received = b"".join(self._parts)
        self._parts.clear()
        at, end = 0, len(received)
        while end - at >= self._wanted:
            part = received[at : at + self._wanted]
            at += self._wanted
            if self._in_length:
                (self._wanted,) = _LENGTH.unpack(part)
                if self._wanted > self._most:
                    raise BadMessage(f"a message of {self._wanted} bytes, more than {self._most}")
            else:
                self._wanted = _LENGTH.size
                yield self._message(part)
            self._in_length = not self._in_length
        self._size = end - at
        if self._size:
            self._parts.append(received[at:])

    def _message(self, text: bytes) -> Any:
        try:
            return self._decode(text)
        except msgspec.MsgspecError as error:
            raise BadMessage(f"not a message: {error}") from None
