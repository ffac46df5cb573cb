"""Who watches a channel: subscribers by format, and which of them are ready."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from pushserver.channel import ClientInfo
from pushserver.formats import Format

Direct = Callable[[bytes], int]


class Subscriber(Protocol):
    """What the hub delivers to: one connection, or something inside the server."""

    @property
    def info(self) -> ClientInfo:
        """Who it is."""

    @property
    def format(self) -> Format:
        """How publications are encoded for it; the hub encodes once for each format."""

    @property
    def direct(self) -> Direct | None:
        """Sends a frame at once and returns how many bytes were taken, while that is allowed.

        It is called in `send`'s place for as long as the subscriber does not say otherwise
        by `hold`. It runs no code of ours; it may raise OSError.
        """

    def send(self, frame: bytes) -> None:
        """Take one encoded publication; must not block, nor call back into the hub."""

    def held(self, rest: bytes) -> None:
        """Take what `direct` did not."""

    def insufficient(self, channel: str) -> None:
        """The channel has a gap for this subscriber, which the hub has taken out of it."""


class Group:
    """The subscribers of one channel and one format.

    `ready` are those with nothing waiting, by their way past everything; `others` are sent
    to one by one.
    """

    __slots__ = ("others", "ready")

    def __init__(self) -> None:
        self.ready: dict[Direct, Subscriber] = {}
        self.others: dict[Subscriber, None] = {}

    def __iter__(self) -> Iterator[Subscriber]:
        yield from self.ready.values()
        yield from self.others

    def __bool__(self) -> bool:
        return bool(self.ready or self.others)

    def __contains__(self, subscriber: Subscriber) -> bool:
        return subscriber.direct in self.ready or subscriber in self.others

    def add(self, subscriber: Subscriber) -> None:
        if subscriber.direct is None:
            self.others[subscriber] = None
        else:
            self.ready[subscriber.direct] = subscriber

    def discard(self, subscriber: Subscriber) -> None:
        self.others.pop(subscriber, None)
        if subscriber.direct is not None:
            self.ready.pop(subscriber.direct, None)


class Audience:
    """The subscribers of one channel, by format.

    `delivered` is the offset of the publication whose pass began last: those who join
    get what is behind it from the history and what is after it live, whatever passes
    are under way or waiting.
    """

    __slots__ = ("delivered", "groups", "size")

    def __init__(self, delivered: int):
        self.delivered = delivered
        self.groups: dict[Format, Group] = {}
        self.size = 0

    def __iter__(self) -> Iterator[Subscriber]:
        for group in self.groups.values():
            yield from group

    def add(self, subscriber: Subscriber) -> bool:
        group = self.groups.setdefault(subscriber.format, Group())
        if subscriber in group:
            return False
        group.add(subscriber)
        self.size += 1
        return True

    def discard(self, subscriber: Subscriber) -> bool:
        group = self.groups.get(subscriber.format)
        if group is None or subscriber not in group:
            return False
        group.discard(subscriber)
        if not group:
            del self.groups[subscriber.format]
        self.size -= 1
        return True
