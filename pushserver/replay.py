"""Histories encoded once: those who come back together have missed the same."""

from __future__ import annotations

from collections.abc import Sequence

from pushserver.channel import Publication
from pushserver.formats import Encode

MOST_BYTES = 8_388_608


Run = tuple[Encode, str, int, int, int]


class Replays:
    """What was encoded for the last readers, up to `MOST_BYTES` in all.

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
        self._bytes += len(text)
        if self._bytes > MOST_BYTES:
            self._encoded.clear()
            self._bytes = len(text)
        self._encoded[key] = text
