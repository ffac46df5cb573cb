"""Who watches: subscribers by format, which of them are ready, and what waits for them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from pushserver.channels.publication import ClientInfo, Publication
from pushserver.protocols.formats import Format

Direct = Callable[[bytes], int]

OVERHEAD = 128
"""Bytes of a publication's frame beside its data, about."""


class Outlet(Protocol):
    """The socket of a subscriber's connection."""

    @property
    def direct(self) -> Direct | None:
        """The socket's `send`; None while bytes wait in front of it.

        Returns the number of bytes taken. It runs no code of ours; it may raise OSError. An
        outlet that sets it to None calls `block` of its subscriber's audiences, and `unblock`
        when it is back.
        """

    @property
    def blocked_at(self) -> float | None:
        """Since when bytes wait for the peer, by the steady clock; None if none do."""

    def send_rest(self, frame: bytes, taken: int) -> None:
        """Send all but the first `taken` bytes of a frame, which `direct` has sent."""


class Subscriber(Protocol):
    """What the hub delivers to: one connection, or something inside the server."""

    __slots__ = ()

    info: ClientInfo
    audiences: dict[str, Audience]
    """The audiences that it is in, by name; only they write here."""

    @property
    def format(self) -> Format:
        """How publications are encoded for it; the hub encodes once for each format."""

    @property
    def outlet(self) -> Outlet | None:
        """Its socket, which is sent to in place of calling `send`; None if it has none."""
        return None

    def send(self, frame: bytes) -> None:
        """Take one or several encoded publications; must not block."""

    def insufficient(self, channel: str) -> None:
        """The channel has a gap for this subscriber, which the hub has taken out of it."""


class Group:
    """Subscribers of one format.

    `ready` are those for whom nothing waits, by their socket's `send`; `others` are sent
    to by their own `send`.
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

    def copy(self) -> Group:
        """Another group of the same subscribers."""
        group = Group()
        group.ready = self.ready.copy()
        group.others = self.others.copy()
        return group

    def add(self, subscriber: Subscriber) -> None:
        direct = _direct(subscriber)
        if direct is None:
            self.others[subscriber] = None
        else:
            self.ready[direct] = subscriber

    def discard(self, subscriber: Subscriber) -> None:
        self.others.pop(subscriber, None)
        direct = _direct(subscriber)
        if direct is not None:
            self.ready.pop(direct, None)

    def block(self, subscriber: Subscriber, direct: Direct) -> None:
        if self.ready.pop(direct, None) is not None:
            self.others[subscriber] = None

    def unblock(self, subscriber: Subscriber) -> None:
        if subscriber in self.others:
            del self.others[subscriber]
            self.add(subscriber)


class Part:
    """What is left of a pass in one format: whom the frame still has to be sent to.

    `count` is how many publications are in the frame.
    """

    __slots__ = ("count", "format", "frame", "group")

    def __init__(self, format: Format, frame: bytes, count: int, group: Group):
        self.format = format
        self.frame = frame
        self.count = count
        self.group = group


class Audience:
    """Subscribers who all get the same publications: those of one channel, or of several.

    `queue` is what was published since the last pass began. Who joins has all that is in the
    queue from the history; until the pass that takes it, it is one of the `newcomers`, by how
    much of the queue it is to be spared. `parts` is what is left of the pass under way.
    """

    __slots__ = (
        "channels",
        "groups",
        "name",
        "newcomers",
        "parts",
        "queue",
        "queued_bytes",
        "size",
        "tops",
    )

    def __init__(self, name: str, tops: dict[str, int]):
        self.name = name
        self.tops = tops
        self.groups: dict[Format, Group] = {}
        self.newcomers: dict[Subscriber, int] = {}
        self.queue: list[Publication] = []
        self.queued_bytes = 0
        self.parts: list[Part] = []
        self.size = 0

    def __iter__(self) -> Iterator[Subscriber]:
        for group in self.groups.values():
            yield from group
        yield from self.newcomers

    def put(self, publication: Publication) -> None:
        """Queue what was published."""
        self.queue.append(publication)
        self.queued_bytes += _size(publication)

    def add(self, subscriber: Subscriber) -> bool:
        if self.name in subscriber.audiences:
            return False
        subscriber.audiences[self.name] = self
        self.size += 1
        if self.queue:
            self.newcomers[subscriber] = len(self.queue)
        else:
            self._admit(subscriber)
        return True

    def remove(self, subscriber: Subscriber) -> None:
        del subscriber.audiences[self.name]
        self.size -= 1
        self.newcomers.pop(subscriber, None)
        for group in self._groups(subscriber):
            group.discard(subscriber)
        if not self.groups.get(subscriber.format, True):
            del self.groups[subscriber.format]

    def block(self, subscriber: Subscriber, direct: Direct) -> None:
        """Call the subscriber's `send` from now on in place of its outlet's `direct`."""
        for group in self._groups(subscriber):
            group.block(subscriber, direct)

    def unblock(self, subscriber: Subscriber) -> None:
        """Call its outlet's `direct` again."""
        for group in self._groups(subscriber):
            group.unblock(subscriber)

    def begin(self, most_bytes: int, encode: Callable[[Format, list[Publication]], bytes]) -> None:
        """Begin a pass with what is queued, up to about so many bytes, one at the least."""
        batch = self._take(most_bytes)
        for shape, group in self.groups.items():
            frame = encode(shape, batch)
            if frame:
                self.parts.append(Part(shape, frame, len(batch), group.copy()))
        if self.newcomers:
            self._let_in(batch, encode)

    def _take(self, most_bytes: int) -> list[Publication]:
        count, size = 0, 0
        for publication in self.queue:
            if count and size + _size(publication) > most_bytes:
                break
            size += _size(publication)
            count += 1
        batch = self.queue[:count]
        del self.queue[:count]
        self.queued_bytes -= size
        return batch

    def _let_in(
        self, batch: list[Publication], encode: Callable[[Format, list[Publication]], bytes]
    ) -> None:
        newcomers, self.newcomers = self.newcomers, {}
        late: dict[Format, dict[int, Group]] = {}
        for subscriber, spared in newcomers.items():
            if spared > len(batch):
                self.newcomers[subscriber] = spared - len(batch)
                continue
            self._admit(subscriber)
            if spared < len(batch):
                by_place = late.setdefault(subscriber.format, {})
                by_place.setdefault(spared, Group()).add(subscriber)
        for shape, by_place in late.items():
            self._let_late_in(shape, batch, by_place, encode)

    def _let_late_in(
        self,
        shape: Format,
        batch: list[Publication],
        late: dict[int, Group],
        encode: Callable[[Format, list[Publication]], bytes],
    ) -> None:
        """The end of the batch for each, from where it joined; nothing is encoded twice."""
        frame, after = b"", len(batch)
        for spared in sorted(late, reverse=True):
            if shape.joins:
                frame = encode(shape, batch[spared:after]) + frame
            else:
                frame = encode(shape, batch[spared:])
            after = spared
            if frame:
                self.parts.append(Part(shape, frame, len(batch) - spared, late[spared]))

    def _admit(self, subscriber: Subscriber) -> None:
        self.groups.setdefault(subscriber.format, Group()).add(subscriber)

    def _groups(self, subscriber: Subscriber) -> Iterator[Group]:
        """Where the subscriber is, or may be still to be sent to."""
        shape = subscriber.format
        if shape in self.groups:
            yield self.groups[shape]
        for part in self.parts:
            if part.format is shape:
                yield part.group


def _direct(subscriber: Subscriber) -> Direct | None:
    outlet = subscriber.outlet
    return None if outlet is None else outlet.direct


def _size(publication: Publication) -> int:
    return OVERHEAD + len(publication.data)
