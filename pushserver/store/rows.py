"""Converts the rows of the SQLite file to publications, keys and remembered values of sources."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pushserver.channels.idempotency import KeyEntry
from pushserver.channels.publication import ClientInfo, Publication

PUBLICATION_COLUMNS = "seq, offset, time, event, data, tags, info"
KEY_COLUMNS = "channel, key, epoch, seq, offset, time"
MEMORY_COLUMNS = "source, value"


def publication_row(row: Publication) -> Sequence[object]:
    """The row of a publication."""
    tags = None if row.tags is None else msgspec.json.encode(row.tags)
    info = None if row.info is None else msgspec.json.encode(row.info)
    return row.channel, row.offset, row.seq, row.time, row.event, row.data, tags, info


def publication_of(channel: str, epoch: str, row: Sequence[object]) -> Publication:
    """The publication of a row of PUBLICATION_COLUMNS; raises ValueError for a damaged one."""
    seq, offset, time, event, data, tags, info = row
    of_tags = None if tags is None else msgspec.json.decode(_bytes(tags))
    of_info = None if info is None else msgspec.json.decode(_bytes(info), type=ClientInfo)
    fields = channel, epoch, seq, offset, time, event, data, of_tags, of_info
    return msgspec.convert(fields, Publication, builtin_types=(bytes,))


def key_of(row: Sequence[object]) -> KeyEntry:
    """The entry of a row of KEY_COLUMNS; raises ValueError for a damaged one."""
    channel, key, epoch, seq, offset, time = row
    fields = {"channel": channel, "key": key, "receipt": (epoch, seq, offset), "time": time}
    return msgspec.convert(fields, KeyEntry)


def memory_of(row: Sequence[object]) -> tuple[str, bytes]:
    """The source and JSON text of a row of MEMORY_COLUMNS; raises ValueError for a damaged one."""
    name, value = str(row[0]), _bytes(row[1])
    msgspec.json.decode(value)
    return name, value


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError(f"expected a blob, got {value!r:.40}")
    return value
