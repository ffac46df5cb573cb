"""A publisher that does not know whether it was heard may say the same again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

from pushserver.channels.publication import Receipt
from pushserver.errors import InvalidKey, Unavailable

REMEMBERED_SECONDS = 300.0
KEY_RULE = "1 to 128 printable ASCII characters"


def check_key(key: str) -> str:
    """Return `key` if it may be an idempotency key; raise InvalidKey if not."""
    if not (0 < len(key) <= 128 and key.isascii() and key.isprintable()):
        raise InvalidKey(f"invalid idempotency key {key[:140]!r}: expected {KEY_RULE}")
    return key


@dataclass(frozen=True, slots=True)
class Remembered:
    """What was answered to the first publication with a key, and when (Unix seconds)."""

    channel: str
    key: str
    receipt: Receipt
    time: float


class Keys:
    """The idempotency keys of the last five minutes, per channel, and what was answered.

    Five minutes by the steady clock, as `now` and `born` are; `Remembered.time` is for the store.
    Keys are remembered in the order of their seqs: `forgotten_seq` is the last that was forgotten.
    """

    def __init__(self, most: int):
        self.forgotten_seq = 0
        self._most = most
        self._known: dict[tuple[str, str], tuple[Remembered, float]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def find(self, channel: str, key: str, now: float) -> Receipt | None:
        """What was answered to this key in this channel, if it is remembered."""
        known = self._known.get((channel, key))
        if known is None or known[1] + REMEMBERED_SECONDS <= now:
            return None
        return known[0].receipt

    def check_room(self, now: float, pending: int = 0) -> None:
        """Raise Unavailable if another key could not be remembered beside the `pending` ones."""
        if len(self._known) + pending >= self._most:
            self.expire(now)
        if len(self._known) + pending >= self._most:
            raise Unavailable(
                f"more than {self._most} idempotency keys in five minutes (idempotency_keys)",
                "idempotency_keys",
            )

    def remember(self, known: Remembered, born: float) -> None:
        """Remember this answer, given at `born`, which is not before that of another."""
        self._known.pop((known.channel, known.key), None)
        self._known[known.channel, known.key] = known, born

    def expire(self, now: float) -> None:
        """Forget what is older than five minutes."""
        # The oldest come first. No copy of them all: this is asked for each key while there is no
        # room.
        old = list(
            takewhile(lambda item: item[1][1] + REMEMBERED_SECONDS <= now, self._known.items())
        )
        for name, (known, _) in old:
            self.forgotten_seq = known.receipt.seq
            del self._known[name]

    def __iter__(self) -> Iterator[Remembered]:
        return (known for known, _ in self._known.values())
