"""Caches encoded histories: readers that reconnect together get the same publications."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from pushserver.channels.publication import Publication
from pushserver.hub.audience import frame_size
from pushserver.protocols.formats import Encode

MOST_BYTES = 8_388_608
ENTRY_BYTES = 512
"""The memory of an entry besides its text and its name, roughly."""

FIRST_BYTES = 131_072
"""The bytes of publications that are encoded at once; what is more follows in portions."""

PORTION_BYTES = 32_768
"""The bytes of publications in each of these portions. To compress one takes half a millisecond."""

Run = tuple[Encode, str, str, str, str, int]


class Replays:
    """The encoded histories of the last readers, up to `MOST_BYTES` in all.

    The size of an entry includes its name: that of an audience of 128 channels has 16 KB, and its
    text may have a hundred bytes.

    A log gives each seq once, and rows are never inserted between others: so the first cursor,
    the last one and the number of rows identify a run of publications. In a stream over several
    logs, cursors name the place in each, after a row: the epoch of the first row says which log it
    is from.
    """

    __slots__ = ("_bytes", "_encoded")

    def __init__(self) -> None:
        self._encoded: dict[Run, bytes] = {}
        self._bytes = 0

    def encode(self, name: str, rows: Sequence[Publication], encode: Encode) -> bytes:
        """Encode a run of publications of one audience (its name), or return the cached text."""
        key = _run(name, rows, encode)
        text = self._encoded.get(key)
        if text is None:
            text = encode(rows)
            self._keep(key, text)
        return text

    def first(
        self, name: str, rows: Sequence[Publication], encode: Encode, most: int = FIRST_BYTES
    ) -> tuple[bytes, int]:
        """Encode the first rows of a run, about `most` bytes; return their number, too."""
        text = self._encoded.get(_run(name, rows, encode))
        if text is not None and len(text) <= most:
            return text, len(rows)
        count = fitting(rows, most)
        return self.encode(name, rows[:count], encode), count

    def start(
        self, name: str, rows: Sequence[Publication], encode: Encode
    ) -> tuple[bytes, Iterator[bytes] | None]:
        """Encode the first rows of a run, and return the rest of it, to be encoded later."""
        text, count = self.first(name, rows, encode)
        return text, self.portions(name, rows[count:], encode) if count < len(rows) else None

    def portions(self, name: str, rows: Sequence[Publication], encode: Encode) -> Iterator[bytes]:
        """Encode a run in portions, each when it is asked for; keeps no row that was encoded."""
        left = deque(rows)
        while left:
            count = fitting(left, PORTION_BYTES)
            yield self.encode(name, [left.popleft() for _ in range(count)], encode)

    def clear(self) -> None:
        """Forget all texts: the encoders make others from now on."""
        self._encoded.clear()
        self._bytes = 0

    def _keep(self, key: Run, text: bytes) -> None:
        size = len(text) + len(key[1]) + ENTRY_BYTES
        if size > MOST_BYTES:
            return
        self._bytes += size
        if self._bytes > MOST_BYTES:
            self._encoded.clear()
            self._bytes = size
        self._encoded[key] = text


def _run(name: str, rows: Sequence[Publication], encode: Encode) -> Run:
    return encode, name, rows[0].epoch, rows[0].id, rows[-1].id, len(rows)


def fitting(rows: Iterable[Publication], most: int) -> int:
    """The number of first rows, at least one, that have up to about `most` bytes."""
    count = 0
    for count, row in enumerate(rows):
        most -= frame_size(row)
        if most < 0 and count:
            return count
    return count + 1
