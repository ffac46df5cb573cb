"""Audiences: subscribers that get the same publications, and the queue of these publications."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Protocol

from pushserver.channels.publication import ClientInfo, Publication, content_bytes
from pushserver.protocols.formats import Format

Direct = Callable[[bytes], int]
"""A socket's `send`: returns the number of bytes taken; may raise OSError and runs no Python."""

EncodeBatch = Callable[[Format, list[Publication]], bytes]

MAX_SKIPS = 32
"""The most subscribers of one pass that do not get all of its publications.

Each has a frame of its own, so a channel in which each publication skips its sender has shorter
batches.
"""

OVERHEAD = 128
"""The bytes of a publication's frame besides its texts, roughly."""


class Outlet(Protocol):
    """The socket of a subscriber's connection."""

    @property
    def direct(self) -> Direct | None:
        """Sends a frame at once; None while earlier bytes wait.

        The outlet calls `block` of each audience of its subscriber when this becomes None, and
        `unblock` when it no longer is.
        """

    @property
    def blocked_at(self) -> float | None:
        """The time since which the peer makes no progress, by the steady clock; None if no bytes
        wait for it."""

    def send_rest(self, frame: bytes, taken: int) -> None:
        """Send all but the first `taken` bytes of a frame, which `direct` has sent."""

    def end_replays(self) -> None:
        """Drop the rest of a replay, and all frames behind it."""


class Subscriber(Protocol):
    """A receiver of publications: a connection, or an object inside the server."""

    __slots__ = ()

    info: ClientInfo
    audiences: dict[str, Audience]
    """The audiences that it is in, by name; only they write here."""

    @property
    def format(self) -> Format:
        """The encoding of its publications; the hub encodes once for each format."""

    @property
    def outlet(self) -> Outlet | None:
        """Its socket, which is used in place of `send` while nothing waits; None without one."""
        return None

    def send(self, frame: bytes) -> None:
        """Take one or several encoded publications; must not block."""

    def insufficient(self, channel: str) -> None:
        """Handle a gap in the channel; the hub has removed the subscriber from it."""


class Group:
    """Subscribers of one format.

    No bytes wait for `ready` ones: a pass calls the `direct` of their outlet, which is the key.
    It calls the `send` of the `others`.
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

    def discard(self, subscriber: Subscriber) -> bool:
        """Remove a subscriber; False if it was not in the group."""
        found = self.others.pop(subscriber, 0) is None
        direct = _direct(subscriber)
        return (direct is not None and self.ready.pop(direct, None) is not None) or found

    def block(self, subscriber: Subscriber, direct: Direct) -> None:
        if self.ready.pop(direct, None) is not None:
            self.others[subscriber] = None

    def unblock(self, subscriber: Subscriber) -> None:
        if subscriber in self.others:
            del self.others[subscriber]
            self.add(subscriber)


class Part:
    """A frame of `count` publications, and the group to which a pass still has to send it."""

    __slots__ = ("count", "format", "frame", "group")

    def __init__(self, format: Format, frame: bytes, count: int, group: Group):
        self.format = format
        self.frame = frame
        self.count = count
        self.group = group


class Audience:
    """Subscribers that get the same publications: those of one channel, or of several.

    `tops` has the last offset of each channel. `queue` has the publications since the last pass
    started. A subscriber that joins gets those from the history: until a pass has taken them
    out of the queue it is in `joining`, with the number of them to skip. `parts` are the frames
    that the pass still has to send. `skips` has places in the queue, in their order, each with a
    subscriber that does not get the publication there. Those that are `listed` get none from here.
    `shards` are the logs of the channels, if they are in several.
    """

    __slots__ = (
        "groups",
        "joining",
        "listed",
        "name",
        "parts",
        "queue",
        "queued_bytes",
        "shards",
        "size",
        "skips",
        "tops",
    )

    def __init__(self, name: str, tops: dict[str, int], shards: Sequence[int] = ()):
        self.name = name
        self.tops = tops
        self.shards = shards
        self.groups: dict[Format, Group] = {}
        self.joining: dict[Subscriber, int] = {}
        self.listed: dict[Subscriber, None] = {}
        self.queue: list[Publication] = []
        self.queued_bytes = 0
        self.parts: list[Part] = []
        self.skips: list[tuple[int, Subscriber]] = []
        self.size = 0

    def __iter__(self) -> Iterator[Subscriber]:
        for group in self.groups.values():
            yield from group
        yield from self.joining
        yield from self.listed

    @property
    def has_receivers(self) -> bool:
        """Whether some subscriber gets publications from here."""
        return bool(self.groups or self.joining)

    def put(self, publication: Publication, skipped: Sequence[Subscriber] = ()) -> None:
        """Queue a publication for all but the skipped ones, which may be of other audiences."""
        for subscriber in skipped:
            if self.name in subscriber.audiences and subscriber not in self.listed:
                self.skips.append((len(self.queue), subscriber))
        self.queue.append(publication)
        self.queued_bytes += frame_size(publication)

    def add(self, subscriber: Subscriber, listed: bool = False) -> bool:
        """Add a subscriber, or only list it; False if it is in the audience already."""
        if self.name in subscriber.audiences:
            return False
        subscriber.audiences[self.name] = self
        self.size += 1
        if listed:
            self.listed[subscriber] = None
        elif self.queue:
            self.joining[subscriber] = len(self.queue)
        else:
            self._admit(subscriber)
        return True

    def remove(self, subscriber: Subscriber) -> None:
        """Remove a subscriber, which must be in the audience."""
        del subscriber.audiences[self.name]
        self.size -= 1
        self.joining.pop(subscriber, None)
        if self.listed.pop(subscriber, 0) is None:
            return
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

    def take_pending(self, subscriber: Subscriber) -> bytes:
        """The frames that the present pass has not sent to the subscriber; it sends them no more.

        For a subscriber without a `direct`, before its format changes.
        """
        frames = b""
        for part in self.parts:
            if subscriber in part.group.others:
                part.group.discard(subscriber)
                frames += part.frame
        return frames

    def change_format(self, subscriber: Subscriber, before: Format) -> None:
        """Use the subscriber's present format in place of the one before."""
        group = self.groups.get(before)
        if group is None or subscriber not in group.others:
            # It is joining.
            return
        del group.others[subscriber]
        if not group:
            del self.groups[before]
        self._admit(subscriber)

    def start_pass(self, max_bytes: int, encode: EncodeBatch) -> None:
        """Make parts from the queue, up to about `max_bytes` but at least one publication."""
        batch = self._take(max_bytes)
        for format_, group in self.groups.items():
            frame = encode(format_, batch)
            if frame:
                self.parts.append(Part(format_, frame, len(batch), group.copy()))
        if self.joining:
            self._admit_joining(batch, encode)
        if self.skips:
            self._skip(batch, encode)

    def give_up_pass(self) -> None:
        """Drop the frames of a pass that failed; the next one is for all subscribers."""
        self.parts = []
        most = len(self.queue)
        self.joining = {subscriber: min(skip, most) for subscriber, skip in self.joining.items()}

    def _take(self, max_bytes: int) -> list[Publication]:
        count, size, most = 0, 0, len(self.queue)
        if len(self.skips) > MAX_SKIPS:
            most = max(1, self.skips[MAX_SKIPS][0])
        for publication in islice(self.queue, most):
            if count and size + frame_size(publication) > max_bytes:
                break
            size += frame_size(publication)
            count += 1
        batch = self.queue[:count]
        del self.queue[:count]
        self.queued_bytes -= size
        return batch

    def _admit_joining(self, batch: list[Publication], encode: EncodeBatch) -> None:
        joining, self.joining = self.joining, {}
        late: dict[Format, dict[int, Group]] = {}
        for subscriber, skip in joining.items():
            if skip > len(batch):
                self.joining[subscriber] = skip - len(batch)
                continue
            self._admit(subscriber)
            if skip < len(batch):
                by_skip = late.setdefault(subscriber.format, {})
                by_skip.setdefault(skip, Group()).add(subscriber)
        for format_, by_skip in late.items():
            self._add_late_parts(format_, batch, by_skip, encode)

    def _add_late_parts(
        self,
        format_: Format,
        batch: list[Publication],
        late: dict[int, Group],
        encode: EncodeBatch,
    ) -> None:
        """Make a part of the end of the batch for each group; no publication is encoded twice."""
        frame, end = b"", len(batch)
        for skip in sorted(late, reverse=True):
            if format_.joins:
                frame = encode(format_, batch[skip:end]) + frame
            else:
                frame = encode(format_, batch[skip:])
            end = skip
            if frame:
                self.parts.append(Part(format_, frame, len(batch) - skip, late[skip]))

    def _skip(self, batch: list[Publication], encode: EncodeBatch) -> None:
        """Take the subscribers that are skipped out of the parts; each gets a part of its own."""
        count, skips = len(batch), self.skips
        self.skips = [(place - count, one) for place, one in skips if place >= count]
        places: dict[Subscriber, set[int]] = {}
        for place, subscriber in skips[: len(skips) - len(self.skips)]:
            places.setdefault(subscriber, set()).add(place)
        for subscriber, without in places.items():
            for part in self.parts:
                if part.format is subscriber.format and part.group.discard(subscriber):
                    # One that has joined meanwhile gets the end of the batch.
                    start = count - part.count
                    rows = [row for n, row in enumerate(batch) if n >= start and n not in without]
                    self._add_part(subscriber, rows, encode)
                    break

    def _add_part(
        self, subscriber: Subscriber, rows: list[Publication], encode: EncodeBatch
    ) -> None:
        if rows and (frame := encode(subscriber.format, rows)):
            group = Group()
            group.add(subscriber)
            self.parts.append(Part(subscriber.format, frame, len(rows), group))

    def _admit(self, subscriber: Subscriber) -> None:
        self.groups.setdefault(subscriber.format, Group()).add(subscriber)

    def _groups(self, subscriber: Subscriber) -> Iterator[Group]:
        """All groups that the subscriber may be in: of its format, and of the parts."""
        format_ = subscriber.format
        if format_ in self.groups:
            yield self.groups[format_]
        for part in self.parts:
            if part.format is format_:
                yield part.group


def _direct(subscriber: Subscriber) -> Direct | None:
    outlet = subscriber.outlet
    return None if outlet is None else outlet.direct


def frame_size(publication: Publication) -> int:
    """The bytes of a publication's frame, roughly."""
    return OVERHEAD + content_bytes(publication)
