"""Remembers idempotency keys, so that a publisher without an answer can safely publish again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

from pushserver.channels.publication import Receipt
from pushserver.errors import InvalidKey, Unavailable

REMEMBERED_SECONDS = 300.0
KEY_RULE = "1 to 128 printable ASCII characters"


def check_key(key: str) -> str:
    """Return `key` if it is a valid idempotency key; raise InvalidKey if not."""
    if not (0 < len(key) <= 128 and key.isascii() and key.isprintable()):
        raise InvalidKey(f"invalid idempotency key {key[:140]!r}: expected {KEY_RULE}")
    return key


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """A key in a channel, with the receipt and the Unix time of the first publication with it."""

    channel: str
    key: str
    receipt: Receipt
    time: float


class Keys:
    """The idempotency keys of the last five minutes, at most `most`.

    `now` and `born` are times of the steady clock; `KeyEntry.time` is for the store. Keys are
    in the order of their seqs; `forgotten_seq` is the seq of the last key that expired.
    """

    def __init__(self, most: int):
        self.forgotten_seq = 0
        self._most = most
        self._entries: dict[tuple[str, str], tuple[KeyEntry, float]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, channel: str, key: str, now: float) -> Receipt | None:
        """The receipt of this key in this channel, if it has not expired."""
        entry = self._entries.get((channel, key))
        if entry is None or entry[1] + REMEMBERED_SECONDS <= now:
            return None
        return entry[0].receipt

    def check_room(self, now: float, pending: int = 0) -> None:
        """Raise Unavailable if there is no room for another key besides the `pending` ones."""
        if len(self._entries) + pending >= self._most:
            self.expire(now)
        if len(self._entries) + pending >= self._most:
            raise Unavailable(
                f"more than {self._most} idempotency keys in five minutes (idempotency_keys)",
                "idempotency_keys",
            )

    def remember(self, entry: KeyEntry, born: float) -> None:
        """Add the entry of a publication made at `born`, never less than for the entry before."""
        self._entries.pop((entry.channel, entry.key), None)
        self._entries[entry.channel, entry.key] = entry, born

    def expire(self, now: float) -> None:
        """Remove the keys that are older than five minutes."""
        # The oldest come first. Only these are copied: without room this runs for each new key.
        old = list(
            takewhile(lambda item: item[1][1] + REMEMBERED_SECONDS <= now, self._entries.items())
        )
        for name, (entry, _) in old:
            self.forgotten_seq = entry.receipt.seq
            del self._entries[name]

    def __iter__(self) -> Iterator[KeyEntry]:
        return (entry for entry, _ in self._entries.values())
