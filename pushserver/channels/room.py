"""The channels that are kept, and the bounds of all of them together."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice

from pushserver.channels.channel import CHANNEL_BYTES, Channel
from pushserver.channels.forgotten import Forgotten
from pushserver.channels.publication import Publication
from pushserver.errors import LimitExceeded

CANDIDATES = 16
"""The held channels of which the largest is cut."""

HISTORIES = "history_total_bytes"
CHANNELS = "channels"

OnEvict = Callable[[str, int, str], None]


class Room:
    """The kept channels by name, in the order in which they make room for others.

    A channel that nobody watches is *idle*: the least recently used one is forgotten first, with
    its rows. A channel that is watched, pinned, in `lasting` (named in the configuration) or in
    `expected` (`History.expect`) is *held*: it loses rows when no channel is idle. CANDIDATES of
    those with rows are taken in turn, and the largest of them loses the older half, so small
    histories outlast large ones.

    `bytes` is the memory of all channels and rows, roughly. `on_evict` is called after each step
    with the channel, the number of its evicted rows and the setting; a forgotten channel is gone
    then. `on_forget` is called with each channel that is forgotten. A step takes the same time
    however many channels there are.
    """

    def __init__(
        self,
        most_bytes: int = sys.maxsize,
        most_channels: int = sys.maxsize,
        lasting: frozenset[str] = frozenset(),
    ):
        self.most_bytes = most_bytes
        self.most_channels = most_channels
        self.bytes = 0
        self.channels: dict[str, Channel] = {}
        self.forgotten = Forgotten()
        self.on_evict: OnEvict = _ignore
        self.on_forget: Callable[[str], None] = _keep_on
        self.lasting = lasting
        self.expected: dict[str, int] = {}
        # Ordered dicts: a plain one takes longer to find its first key the more are deleted.
        self._idle: OrderedDict[str, Channel] = OrderedDict()
        self._held: OrderedDict[str, Channel] = OrderedDict()

    def reconfigure(self, most_bytes: int, most_channels: int, lasting: frozenset[str]) -> None:
        """Change the bounds and the channels of the configuration; the next use makes room."""
        self.most_bytes = most_bytes
        self.most_channels = most_channels
        changed, self.lasting = self.lasting ^ lasting, lasting
        for name in changed:
            if name in self.channels:
                self.place(self.channels[name])

    def add(self, channel: Channel, pinned: bool = False) -> Channel:
        """Keep this channel; call `shrink` when it has its watcher or its row."""
        self.channels[channel.name] = channel
        self.bytes += channel.memory
        self.place(channel, pinned)
        return channel

    def remove(self, channel: Channel) -> None:
        """Keep this channel no longer."""
        del self.channels[channel.name]
        self.bytes -= channel.memory
        self._idle.pop(channel.name, None)
        self._held.pop(channel.name, None)

    def forget(self, channel: Channel) -> None:
        """Remove a channel without rows, and remember up to which seq it had some."""
        self.forgotten.add(channel.name, channel.floor_seq)
        self.remove(channel)
        self.on_forget(channel.name)

    def place(self, channel: Channel, pinned: bool = False) -> None:
        """Note that the channel's watchers, pin or first row came or went; counts as a use."""
        name = channel.name
        if channel.watched or pinned or name in self.lasting or name in self.expected:
            self._idle.pop(name, None)
            if len(channel):
                self._held[name] = channel
        else:
            self._held.pop(name, None)
            self._idle[name] = channel
            self._idle.move_to_end(name)

    def use(self, channel: Channel) -> None:
        """Note that the channel was published to or read."""
        if channel.name in self._idle:
            self._idle.move_to_end(channel.name)

    def append(
        self, channel: Channel, publication: Publication, born: float, pinned: bool = False
    ) -> int:
        """Append to a kept channel; return the number of its rows that its options evicted."""
        before = channel.memory
        evicted = channel.append(publication, born)
        self.bytes += channel.memory - before
        if channel.top - channel.floor == 1:
            self.place(channel, pinned)
        elif not channel.watched:
            self.use(channel)
        if self.bytes > self.most_bytes or len(self.channels) > self.most_channels:
            self.shrink()
        return evicted

    def evict(self, channel: Channel, evict: Callable[[], int]) -> int:
        """Call one of the channel's methods that evict; return the number of evicted rows."""
        before = channel.memory
        evicted = evict()
        self.bytes += channel.memory - before
        if not len(channel):
            self._held.pop(channel.name, None)
        return evicted

    def expire(self, channel: Channel, now: float) -> int:
        """Evict by age at `now` (steady clock); return the number of evicted rows."""
        return self.evict(channel, partial(channel.expire, now))

    def check(self, names: Sequence[str]) -> int:
        """Return the number of idle channels that must be forgotten to keep these channels.

        Raises LimitExceeded if there are not as many. Those of the configuration always have room.
        """
        new = [name for name in names if name not in self.channels]
        over = len(self.channels) + len(new) - self.most_channels
        if over <= 0 or self.lasting.issuperset(new):
            return 0
        if over > len(self._idle) - sum(name in self._idle for name in names):
            raise LimitExceeded(
                f"{self.most_channels} channels are watched, and no more are kept (channels)",
                CHANNELS,
            )
        return over

    def left(self, name: str) -> int:
        """The bytes for the rows of this channel, a new one; negative if that has no room."""
        if len(self.channels) >= self.most_channels:
            return -1
        return self.most_bytes - self.bytes - CHANNEL_BYTES - len(name)

    def reverse(self) -> None:
        """Note that idle channels were added in the opposite order of their last use."""
        self._idle = OrderedDict(reversed(self._idle.items()))

    def make(self, names: Sequence[str]) -> None:
        """Forget idle channels until these channels can be kept; raises LimitExceeded."""
        over = self.check(names)
        if over:
            for name in names:
                if name in self._idle:
                    self._idle.move_to_end(name)
            for _ in range(over):
                self._forget_idle(CHANNELS)

    def shrink(self) -> None:
        """Make room until the bounds hold, or nothing is left to evict."""
        while len(self.channels) > self.most_channels and self._forget_idle(CHANNELS):
            pass
        while self.bytes > self.most_bytes:
            if not self._forget_idle(HISTORIES) and not self._cut_held():
                break

    def _forget_idle(self, setting: str) -> bool:
        """Forget the idle channel that was used least recently; False if there is none."""
        channel = next(iter(self._idle.values()), None)
        if channel is None:
            return False
        evicted = self.evict(channel, channel.clear)
        self.forget(channel)
        self.on_evict(channel.name, evicted, setting)
        return True

    def _cut_held(self) -> bool:
        """Evict the older half of a held channel; False if none has rows."""
        candidates = list(islice(self._held.values(), CANDIDATES))
        if not candidates:
            return False
        for channel in candidates:
            self._held.move_to_end(channel.name)
        largest = max(candidates, key=_memory)
        self.on_evict(largest.name, self.evict(largest, largest.halve), HISTORIES)
        return True


def _memory(channel: Channel) -> int:
    return channel.memory


def _ignore(channel: str, rows: int, setting: str) -> None:
    """No-op, until a broker counts what is evicted."""


def _keep_on(channel: str) -> None:
    """No-op, while no other process follows the channels."""
