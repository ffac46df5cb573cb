"""Publications, drafts without numbers, and receipts for publishers."""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True)
class Draft:
    """A publication without numbers; `data` is compact JSON text (see `jsontext`)."""

    channel: str
    data: bytes
    event: str = "message"
    tags: dict[str, str] | None = None
    info: ClientInfo | None = None
    key: str = ""
    """The idempotency key: within five minutes a draft with the same key is a repetition."""
    publisher: str = ""
    """The name of the peer for the bound on its idempotency keys; empty for none of its own."""


class Receipt(Struct, frozen=True, gc=False):
    """The numbers of a publication, which its publisher gets; `epoch` is that of the channel."""

    epoch: str
    seq: int
    offset: int

    @property
    def id(self) -> str:
        """The cursor after this publication."""
        return cursor_text(self.epoch, self.seq)


class Publication(Struct, frozen=True, gc=False):
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


class Tags(dict[str, str]):
    """Tags that know their size; a broadcast shares them among the publications of its channels."""

    __slots__ = ("bytes",)

    def __init__(self, tags: Mapping[str, str]):
        super().__init__(tags)
        self.bytes = tags_bytes(tags)


def tags_bytes(tags: Mapping[str, str]) -> int:
    """The bytes of all names and values in UTF-8."""
    return sum(len(name.encode()) + len(value.encode()) for name, value in tags.items())


def content_bytes(row: Draft | Publication) -> int:
    """The bytes of all texts of a publication, which bounds in bytes count."""
    size = len(row.channel) + len(row.event) + len(row.data)
    if not row.event.isascii():
        size += len(row.event.encode()) - len(row.event)
    if row.tags is not None:
        size += row.tags.bytes if isinstance(row.tags, Tags) else tags_bytes(row.tags)
    info = row.info
    if info is not None:
        size += len(info.client) + len(info.user.encode())
        size += len(info.conn_info) + len(info.chan_info)
    return size


ROW_BYTES = 288
"""The memory of a retained publication besides its texts, tags and client, roughly."""

_TAGS_BYTES = 320
_TAG_BYTES = 120
_INFO_BYTES = 288


def memory_bytes(row: Publication) -> int:
    """The memory of a retained publication, roughly."""
    return content_bytes(row) + ROW_BYTES + extra_bytes(row)


def extra_bytes(row: Publication) -> int:
    """The memory of the objects of its tags and its client, roughly."""
    size = 0
    if row.tags is not None:
        size += _TAGS_BYTES + _TAG_BYTES * len(row.tags)
    if row.info is not None:
        size += _INFO_BYTES
    return size


def check_tags(tags: Any) -> dict[str, str] | None:
    """Return a copy of `tags`, None if empty; raise InvalidData unless all of it is strings."""
    for name, value in (tags or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InvalidData(f"tags must map strings to strings, got {name!r:.60}: {value!r:.60}")
        jsontext.encode([name, value])
    return Tags(tags) if tags else None
