"""The messages between the author of the log and its followers, and their frames.

A frame is a length of 4 bytes (big-endian) and one message: a MessagePack array that begins with
the number of its type. Both ends are the same version of this package; `Hello` makes sure of it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from pushserver import errors
from pushserver.channels.publication import Draft, Publication, Receipt
from pushserver.errors import PushServerError
from pushserver.hub.follower import Image, Point

_LENGTH = struct.Struct(">I")


class BadMessage(Exception):
    """The other end does not keep to the protocol."""


class Message(Struct, frozen=True, array_like=True):
    """The base of all messages."""


# --- of a follower ---------------------------------------


class Hello(Message, frozen=True, tag=0):
    """The first message: the version of the package, and the channels that the follower has."""

    version: str
    points: list[Point]


class Follow(Message, frozen=True, tag=1):
    """Follow these channels; the answer is `Images`."""

    call: int
    points: list[Point]


class Leave(Message, frozen=True, tag=2):
    """Follow these channels no longer."""

    channels: list[str]


class Publish(Message, frozen=True, tag=3):
    """Append a draft; the answer is `Published`. Its key is as it is remembered."""

    call: int
    draft: Draft


class Clear(Message, frozen=True, tag=4):
    """Drop the history of a channel; the answer is `Done`."""

    call: int
    channel: str


# --- of the author ---------------------------------------


class Images(Message, frozen=True, tag=20):
    """The images of channels, and the seq up to which they go in this epoch of the run."""

    call: int
    epoch: str
    seq: int
    images: list[Image]


class Row(Message, frozen=True, tag=21):
    """The next publication of a channel that is followed, and the clients that do not get it."""

    publication: Publication
    skip: tuple[str, ...] = ()


class Cleared(Message, frozen=True, tag=22):
    """The history of a followed channel was dropped."""

    channel: str


class Published(Message, frozen=True, tag=23):
    """The receipt of a draft."""

    call: int
    receipt: Receipt


class Done(Message, frozen=True, tag=24):
    """A call has succeeded."""

    call: int


class Failed(Message, frozen=True, tag=25):
    """A call has failed: with an error of this class of `errors`, and these attributes."""

    call: int
    kind: str
    text: str
    attributes: dict[str, str | int | float | None]


FromFollower = Hello | Follow | Leave | Publish | Clear
FromAuthor = Images | Row | Cleared | Published | Done | Failed

_encode = msgspec.msgpack.Encoder().encode


def frame(message: Message) -> bytes:
    """The frame of a message."""
    text = _encode(message)
    return _LENGTH.pack(len(text)) + text


def failed(call: int, error: PushServerError) -> Failed:
    """The message for an error of the package."""
    attributes = {
        name: value
        for name, value in vars(error).items()
        if isinstance(value, (str, int, float)) or value is None
    }
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


class Frames:
    """Splits received bytes into messages of the given types.

    A message has at most `most` bytes. Memory is that of the bytes received.
    """

    def __init__(self, types: Any, most: int):
        self._decode = msgspec.msgpack.Decoder(types).decode
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
