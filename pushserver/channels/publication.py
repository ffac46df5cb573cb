"""Publications, drafts without numbers, and receipts for publishers."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from pushserver.channels import jsontext
from pushserver.channels.position import cursor_text
from pushserver.errors import InvalidData


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """The client of a connection, in presence and in publications of clients.

    `conn_info` and `chan_info` are JSON text, or empty.
    """

    client: str
    user: str = ""
    conn_info: bytes = b""
    chan_info: bytes = b""


class Draft(Struct, frozen=True, gc=False):
    """A publication without numbers; `data` is compact JSON text (see `jsontext`).

    A msgspec struct, as Publication is: a frozen dataclass of this size takes ten times as long.
    """

    channel: str
    data: bytes
    event: str = "message"
    tags: dict[str, str] | None = None
    info: ClientInfo | None = None
    key: str = ""
    """The idempotency key: within five minutes a draft with the same key is a repetition."""
    publisher: str = ""
    """The name of the peer for the bound on its idempotency keys; empty for none of its own."""
    skip: tuple[str, ...] = ()
    """The ids of clients to which it is not delivered. It is in the history for them, too."""
    lease: str = ""
    """The source that publishes it: of several servers, only the one that runs it may."""


class Receipt(Struct, frozen=True, gc=False, array_like=True):
    """The numbers of a publication, which its publisher gets; `epoch` is that of the channel."""

    epoch: str
    seq: int
    offset: int

    @property
    def id(self) -> str:
        """The cursor after this publication."""
        return cursor_text(self.epoch, self.seq)


class Publication(Struct, frozen=True, gc=False, array_like=True):
    """One event in one channel.

    `epoch` is that of the channel. `time` is in Unix seconds and never decreases in a channel;
    `data` is compact JSON text.
    A msgspec struct is made in 0.3 us, a frozen dataclass of this size in 2.0 us.
    """

    channel: str
    epoch: str
    seq: int
    offset: int
    time: float
    event: str
    data: bytes
    tags: dict[str, str] | None = None
    info: ClientInfo | None = None

    @property
    def id(self) -> str:
        """The cursor after this publication."""
        return cursor_text(self.epoch, self.seq)

    @property
    def receipt(self) -> Receipt:
        """The numbers for the publisher."""
        return Receipt(self.epoch, self.seq, self.offset)


class StreamPublication(Publication, frozen=True, gc=False, array_like=True):
    """A publication in a stream over several logs; `cursor` is that of the stream after it."""

    cursor: str = ""

    @property
    def id(self) -> str:
        return self.cursor

    @classmethod
    def of(cls, row: Publication, cursor: str) -> StreamPublication:
        """The publication with this cursor."""
        return cls(
            row.channel,
            row.epoch,
            row.seq,
            row.offset,
            row.time,
            row.event,
            row.data,
            row.tags,
            row.info,
            cursor,
        )


class Tags(dict[str, str]):
    """Tags that know their size; a broadcast shares them among the publications of its channels.

    `bytes` are those in UTF-8, `wide_bytes` the further memory of texts that are not ASCII.
    """

    __slots__ = ("bytes", "wide_bytes")

    def __init__(self, tags: Mapping[str, str]):
        super().__init__(tags)
        text = "".join((*tags, *tags.values()))
        self.bytes = len(text.encode())
        self.wide_bytes = 0
        if self.bytes > len(text):
            self.wide_bytes = sum(map(_wide_bytes, tags)) + sum(map(_wide_bytes, tags.values()))


def content_bytes(row: Draft | Publication) -> int:
    """The bytes of all texts of a publication, which bounds in bytes count."""
    size = len(row.channel) + len(row.event) + len(row.data)
    if not row.event.isascii():
        size += len(row.event.encode()) - len(row.event)
    tags = row.tags
    if tags is not None:
        size += tags.bytes if isinstance(tags, Tags) else Tags(tags).bytes
    info = row.info
    if info is not None:
        size += len(info.client) + len(info.user.encode())
        size += len(info.conn_info) + len(info.chan_info)
    return size


ROW_BYTES = 288
"""The memory of a retained publication besides its texts, tags and client, roughly."""

_EMPTY_BYTES = sys.getsizeof("")

_TAGS_BYTES = 320
_TAG_BYTES = 120
_INFO_BYTES = 288


def memory_bytes(row: Publication) -> int:
    """The memory of a retained publication, roughly; it shares the name of its channel."""
    return sizes(row)[1]


def sizes(row: Publication) -> tuple[int, int]:
    """`content_bytes` and `memory_bytes`; one short step for most publications."""
    event, tags, info = row.event, row.tags, row.info
    if tags is None and info is None and event.isascii():
        size = len(event) + len(row.data)
        return size + len(row.channel), size + ROW_BYTES
    size = content_bytes(row)
    memory = size - len(row.channel) + ROW_BYTES
    if not event.isascii():
        memory += _wide_bytes(event)
    if tags is not None:
        wide = tags.wide_bytes if isinstance(tags, Tags) else Tags(tags).wide_bytes
        memory += _TAGS_BYTES + _TAG_BYTES * len(tags) + wide
    if info is not None:
        memory += _INFO_BYTES + _wide_bytes(info.user)
    return size, memory


def _wide_bytes(text: str) -> int:
    """The memory of a text besides that of an ASCII text with as many bytes in UTF-8.

    If a text is not ASCII, its widest character sets the bytes of each (1, 2 or 4; PEP 393), and
    Python keeps the UTF-8 beside it once it was encoded. The size of the text itself would change
    with that, so that of a copy counts.
    """
    return 0 if text.isascii() else sys.getsizeof(text + " ") - _EMPTY_BYTES


def check_tags(tags: Any) -> dict[str, str] | None:
    """Return a copy of `tags`, None if empty; raise InvalidData unless all of it is strings."""
    for name, value in (tags or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InvalidData(f"tags must map strings to strings, got {name!r:.60}: {value!r:.60}")
        jsontext.encode([name, value])
    return Tags(tags) if tags else None
