"""The lines of an exported store: JSON, one object in a line, with its `kind`.

The first line is the Header and the last one the End. The format does not follow the tables: later
versions may add kinds and fields, which earlier versions skip.
"""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from pushserver.channels import jsontext
from pushserver.channels.names import check_event, check_name
from pushserver.channels.publication import ClientInfo, Publication, check_tags
from pushserver.errors import PushServerError

VERSION = 1
"""Increased when an earlier version can no longer read the lines."""
LINE_BYTES = 268_435_456
"""The longest line: a publication has at most `body_bytes`."""

Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_EPOCH = re.compile("[A-Za-z0-9_]{1,64}")


class Header(Struct, tag_field="kind", tag="pushserver-store"):
    """The numbers of the store; `closed` if no server has published more under this epoch."""

    version: Number
    epoch: str
    seq: Number
    closed: bool
    forgotten_seq: Number = 0

    def __post_init__(self) -> None:
        if not _EPOCH.fullmatch(self.epoch):
            raise ValueError(f"invalid epoch {self.epoch!r:.80}")


class ChannelLine(Struct, tag_field="kind", tag="channel"):
    """A row of `channels`."""

    name: str
    top: Number
    floor: Number
    floor_seq: Number
    generation: Number = 0

    def __post_init__(self) -> None:
        check_name(self.name)


class Client(Struct, omit_defaults=True):
    """The client of a publication."""

    client: str
    user: str = ""
    conn_info: Raw | UnsetType = UNSET
    chan_info: Raw | UnsetType = UNSET


class PublicationLine(Struct, tag_field="kind", tag="publication", omit_defaults=True):
    """A publication; its `data` is any JSON."""

    channel: str
    offset: Number
    seq: Number
    time: float
    event: str
    data: Raw
    tags: dict[str, str] | None = None
    client: Client | None = None


class KeyLine(Struct, tag_field="kind", tag="key"):
    """An idempotency key."""

    channel: str
    key: str
    epoch: str
    seq: Number
    offset: Number
    time: float


class MemoryLine(Struct, tag_field="kind", tag="source"):
    """The value that a source remembers."""

    source: str
    value: Raw


class ForgottenLine(Struct, tag_field="kind", tag="forgotten"):
    """The last seq of forgotten channels in one bucket of names."""

    bucket: Number
    seq: Number


class End(Struct, tag_field="kind", tag="end"):
    """The last line; `lines` is the number of those before it."""

    lines: Number


Line = Header | ChannelLine | PublicationLine | KeyLine | MemoryLine | ForgottenLine | End


class _Kind(Struct):
    kind: str


_decoder = msgspec.json.Decoder(Line)
_kind = msgspec.json.Decoder(_Kind)
_KINDS = {str(kind.__struct_config__.tag) for kind in Line.__args__}

encode = msgspec.json.Encoder().encode


def decode(text: bytes) -> Line | None:
    """The line of this text; None for a kind that this version does not know.

    Raises ValueError or PushServerError.
    """
    try:
        line: Line = _decoder.decode(text)
        return line
    except msgspec.ValidationError:
        if _kind.decode(text).kind in _KINDS:
            raise
        return None


def line_of(row: Publication) -> PublicationLine:
    """The line of a publication; raises InvalidData if its data is damaged."""
    client, info = None, row.info
    if info is not None:
        client = Client(info.client, info.user, _raw(info.conn_info), _raw(info.chan_info))
    data = Raw(compact(row.data))
    return PublicationLine(
        row.channel, row.offset, row.seq, row.time, row.event, data, row.tags, client
    )


def publication_of(line: PublicationLine, epoch: str) -> Publication:
    """The publication of a line; raises PushServerError."""
    client, info = line.client, None
    if client is not None:
        texts = _text(client.conn_info), _text(client.chan_info)
        info = ClientInfo(client.client, client.user, *texts)
    data = compact(bytes(line.data))
    name, event, tags = check_name(line.channel), check_event(line.event), check_tags(line.tags)
    return Publication(name, epoch, line.seq, line.offset, line.time, event, data, tags, info)


def compact(text: bytes) -> bytes:
    """The JSON text without white space; raises InvalidData for a text that is no JSON.

    As lenient as the server is to clients: an export never has a text that an import refuses.
    """
    jsontext.decode(text)
    return msgspec.json.format(text, indent=-1)


def _raw(text: bytes) -> Raw | UnsetType:
    return Raw(text) if text else UNSET


def _text(raw: Raw | UnsetType) -> bytes:
    return b"" if isinstance(raw, UnsetType) else compact(bytes(raw))


INVALID = (ValueError, PushServerError)
"""The exceptions for a text that is no line."""
