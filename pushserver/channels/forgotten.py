"""Remembers up to which seq publications of forgotten channels may be lost."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from zlib import crc32

BUCKETS = 16_384
"""An array of 128 KB, however many channels are forgotten."""


class Forgotten:
    """The highest seq of all forgotten channels whose names are in the same bucket.

    A channel that was never forgotten, of another name in the bucket, gets this seq too: its
    readers may be told about a loss that they do not have.
    """

    __slots__ = ("_seqs",)

    def __init__(self) -> None:
        self._seqs = array("q", bytes(8 * BUCKETS))

    def seq(self, name: str) -> int:
        """No publication of a forgotten channel of this name is after this seq."""
        return self._seqs[bucket(name)]

    def add(self, name: str, seq: int) -> None:
        """Forget a channel with publications up to `seq`."""
        number = bucket(name)
        self._seqs[number] = max(self._seqs[number], seq)

    def restore(self, least: int, seqs: Iterable[tuple[int, int]]) -> None:
        """Take the seqs of a store, by bucket; `least` is for all other buckets.

        Raises ValueError for a number that is not a bucket, or a seq that is not a number.
        """
        try:
            self._seqs = array("q", [least]) * BUCKETS
            for number, seq in seqs:
                self._seqs[number] = seq
        except (IndexError, TypeError) as error:
            raise ValueError(f"the seqs of forgotten channels: {error}") from None


def bucket(name: str) -> int:
    """The bucket of a name; the same in each process."""
    return crc32(name.encode()) % BUCKETS
