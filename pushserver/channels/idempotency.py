"""Remembers idempotency keys, so that a publisher without an answer can safely publish again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice, takewhile

from pushserver.channels.publication import Receipt
from pushserver.errors import InvalidKey, TooMany, Unavailable

REMEMBERED_SECONDS = 300.0
EXPIRED_AT_ONCE = 2_000
"""The keys that one call of `expire` removes: a few milliseconds."""
RETRY_SECONDS = 60.0
"""The time that a publisher with too many keys is asked to wait."""
ADDRESS = "address "
"""The beginning of the name of a publisher of whom only the address is known."""
THIS_MACHINE = f"{ADDRESS}of a program on this machine "
"""The beginning of the name of a local program, which has the rights of an API key."""
USER = "user "
"""The beginning of the name of a publisher who is a user."""
KEY_RULE = "1 to 128 printable ASCII characters"


def check_key(key: str) -> str:
    """Return `key` if it is a valid idempotency key; raise InvalidKey if not."""
    if not (0 < len(key) <= 128 and key.isascii() and key.isprintable()):
        raise InvalidKey(f"invalid idempotency key {key[:140]!r}: expected {KEY_RULE}")
    return key


def is_guest(publisher: str) -> bool:
    """Whether this is the name of a user or of an address, but not that of a local program."""
    return publisher.startswith((USER, ADDRESS)) and not publisher.startswith(THIS_MACHINE)


def key_of(key: str, publisher: str) -> str:
    """The key as it is remembered: nobody can use up the keys of an API key or of a user.

    Addresses, which are no proof and may change between two attempts, share theirs.
    """
    if not publisher or publisher.startswith(ADDRESS):
        return key
    # No key of a peer has a tab, and the hash has one length: no two of them are alike.
    return f"{sha256(publisher.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}\t{key}"


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """A key in a channel, with the receipt and the Unix time of the first publication with it.

    `publisher` is that of its draft; a store does not keep it.
    """

    channel: str
    key: str
    receipt: Receipt
    time: float
    publisher: str = ""


class Keys:
    """The idempotency keys of the last five minutes, at most `most`.

    A publisher has at most `most_of_one`, so that it cannot take the room of all others; the
    publisher "" (the server itself, and keys of an earlier run) has no bound of its own. Users and
    addresses, of which one person may have many, have at most a half together.
    `now` and `born` are times of the steady clock; `KeyEntry.time` is for the store. Keys are
    in the order of their seqs; `forgotten_seq` is the seq of the last key that expired.
    """

    def __init__(self, most: int, most_of_one: int = 0):
        """`most_of_one` 0 stands for `most`."""
        self.forgotten_seq = 0
        self.reconfigure(most, most_of_one)
        self._entries: dict[tuple[str, str], tuple[KeyEntry, float]] = {}
        self._counts: dict[str, int] = {}
        self._guests = 0

    def reconfigure(self, most: int, most_of_one: int = 0) -> None:
        """Change the bounds; keys over a lower bound stay until they expire."""
        self._most = most
        self._most_of_one = most_of_one or most

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, channel: str, key: str, now: float) -> Receipt | None:
        """The receipt of this key in this channel, if it has not expired."""
        entry = self._entries.get((channel, key))
        if entry is None or entry[1] + REMEMBERED_SECONDS <= now:
            return None
        return entry[0].receipt

    def check_room(
        self, now: float, pending: int = 0, publisher: str = "", own_pending: int = 0
    ) -> None:
        """Raise an error if there is no room for another key besides the `pending` ones.

        `own_pending` are those of this publisher. Raises TooMany if it has too many keys itself,
        else Unavailable.
        """
        total, own = self._most - pending, self._most_of_one - own_pending
        # The pending ones of other guests are few, and do not count here.
        half = max(1, self._most // 2)
        guests = half - own_pending if is_guest(publisher) else self._most + 1
        while (
            len(self._entries) >= total
            or self._counts.get(publisher, 0) >= own
            or self._guests >= guests
        ):
            if not self.expire(now):
                break
        if publisher and self._counts.get(publisher, 0) >= own:
            raise TooMany(
                f"this publisher has used {self._most_of_one} idempotency keys in five minutes",
                "idempotency_keys_per_publisher",
                RETRY_SECONDS,
            )
        if len(self._entries) >= total:
            raise Unavailable(
                f"more than {self._most} idempotency keys in five minutes (idempotency_keys)",
                "idempotency_keys",
            )
        if self._guests >= guests:
            raise Unavailable(
                f"more than {half} idempotency keys of publishers without an API key in five"
                " minutes (half of idempotency_keys)",
                "idempotency_keys",
            )

    def remember(self, entry: KeyEntry, born: float) -> None:
        """Add the entry of a publication made at `born`, never less than for the entry before."""
        self._remove(entry.channel, entry.key)
        self._entries[entry.channel, entry.key] = entry, born
        self._counts[entry.publisher] = self._counts.get(entry.publisher, 0) + 1
        self._guests += is_guest(entry.publisher)

    def expire(self, now: float) -> bool:
        """Remove keys that are older than five minutes, EXPIRED_AT_ONCE at the most.

        Returns whether more may be left.
        """
        # The oldest come first. Only these are copied: without room this runs for each new key.
        first = islice(self._entries.items(), EXPIRED_AT_ONCE)
        old = list(takewhile(lambda item: item[1][1] + REMEMBERED_SECONDS <= now, first))
        for name, (entry, _) in old:
            self.forgotten_seq = entry.receipt.seq
            self._remove(*name)
        return len(old) == EXPIRED_AT_ONCE

    def _remove(self, channel: str, key: str) -> None:
        found = self._entries.pop((channel, key), None)
        if found is not None:
            publisher = found[0].publisher
            self._guests -= is_guest(publisher)
            self._counts[publisher] -= 1
            if not self._counts[publisher]:
                del self._counts[publisher]

    def __iter__(self) -> Iterator[KeyEntry]:
        return (entry for entry, _ in self._entries.values())
