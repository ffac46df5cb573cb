"""Histories encoded once: those who come back together have missed the same."""

from __future__ import annotations

from collections.abc import Sequence

from pushserver.channels.publication import Publication
from pushserver.protocols.formats import Encode

MOST_BYTES = 8_388_608
ENTRY_BYTES = 512
"""What an entry takes beside its text and its name, about."""

Run = tuple[Encode, str, int, int, int]


class Replays:
    """What was encoded for the last readers, up to `MOST_BYTES` in all.

    An entry counts whole: the name of an audience of 128 channels has 16 KB, and its text may be
    a hundred bytes.

    Within the life of a process a seq is given once, and between two publications rows are only
    taken away: the first, the last and their number say which run of publications it is.
    """

    __slots__ = ("_bytes", "_encoded")

    def __init__(self) -> None:
        self._encoded: dict[Run, bytes] = {}
        self._bytes = 0

    def encode(self, name: str, rows: Sequence[Publication], encode: Encode) -> bytes:
        """A run of the publications of this channel (or of these, named as an audience is)."""
        key = (encode, name, rows[0].seq, rows[-1].seq, len(rows))
        found = self._encoded.get(key)
        if found is None:
            found = encode(rows)
            self._keep(key, found)
        return found

    def _keep(self, key: Run, text: bytes) -> None:
        size = len(text) + len(key[1]) + ENTRY_BYTES
        if size > MOST_BYTES:
            return
        self._bytes += size
        if self._bytes > MOST_BYTES:
            self._encoded.clear()
            self._bytes = size
        self._encoded[key] = text
