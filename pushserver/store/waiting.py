"""The bound on the publications that wait for a commit."""

from __future__ import annotations

from pushserver.channels.publication import Draft, Publication, content_bytes
from pushserver.errors import Unavailable

MAX_WAITING_BYTES = 16 * 1024 * 1024
"""The memory of all that waits, from which no more publications are accepted."""

ROW_BYTES = 256
"""The memory of a waiting publication besides its texts, roughly."""

KEY_BYTES = 512
"""The memory of its idempotency key, roughly: the longest has 128 characters."""

CALL_BYTES = 2_048
"""The memory of a caller that waits, roughly."""


def waiting_bytes(row: Draft | Publication) -> int:
    """The memory of a publication that waits, roughly."""
    return ROW_BYTES + content_bytes(row)


def check_room(waiting: int) -> None:
    """Raise Unavailable if more than MAX_WAITING_BYTES wait; `waiting` is in bytes."""
    if waiting > MAX_WAITING_BYTES:
        raise Unavailable(f"the store is too slow: {waiting} bytes wait to be written")
