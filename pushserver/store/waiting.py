"""The bound on the publications that wait for a commit."""

from __future__ import annotations

from pushserver.channels.publication import Draft, Publication
from pushserver.errors import Unavailable

MAX_WAITING_BYTES = 16 * 1024 * 1024

ROW_BYTES = 256
"""The memory of a waiting publication besides its texts, roughly."""

CALL_BYTES = 2_048
"""The memory of a caller that waits, roughly."""


def waiting_bytes(row: Draft | Publication) -> int:
    """The memory of a publication that waits, roughly."""
    size = ROW_BYTES + len(row.data)
    if row.tags is not None:
        size += sum(len(name) + len(value) for name, value in row.tags.items())
    if row.info is not None:
        size += len(row.info.conn_info) + len(row.info.chan_info)
    return size


def check_room(waiting: int) -> None:
    """Raise Unavailable if so many bytes wait already that no publication may join them."""
    if waiting > MAX_WAITING_BYTES:
        raise Unavailable(f"the store is too slow: {waiting} bytes wait to be written")
