"""Caches encoded histories: readers that reconnect together get the same publications."""

from __future__ import annotations

from collections.abc import Sequence

from pushserver.channels.publication import Publication
from pushserver.protocols.formats import Encode

MOST_BYTES = 8_388_608
ENTRY_BYTES = 512
"""The memory of an entry besides its text and its name, roughly."""

Run = tuple[Encode, str, int, int, int]


class Replays:
    """The encoded histories of the last readers, up to `MOST_BYTES` in all.

    The size of an entry includes its name: that of an audience of 128 channels has 16 KB, and its
    text may have a hundred bytes.

    A process gives each seq once, and rows are never inserted between others: so the first seq,
    the last one and the number of rows identify a run of publications.
    """

    __slots__ = ("_bytes", "_encoded")

    def __init__(self) -> None:
        self._encoded: dict[Run, bytes] = {}
        self._bytes = 0

    def encode(self, name: str, rows: Sequence[Publication], encode: Encode) -> bytes:
        """Encode a run of publications of one audience (its name), or return the cached text."""
        key = (encode, name, rows[0].seq, rows[-1].seq, len(rows))
        text = self._encoded.get(key)
        if text is None:
            text = encode(rows)
            self._keep(key, text)
        return text

    def _keep(self, key: Run, text: bytes) -> None:
        size = len(text) + len(key[1]) + ENTRY_BYTES
        if size > MOST_BYTES:
            return
        self._bytes += size
        if self._bytes > MOST_BYTES:
            self._encoded.clear()
            self._bytes = size
        self._encoded[key] = text
