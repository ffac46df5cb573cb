"""The changes of one commit."""

from __future__ import annotations

from dataclasses import dataclass, field

from pushserver.channels.channel import Channel
from pushserver.channels.idempotency import KeyEntry
from pushserver.channels.position import split_epoch
from pushserver.channels.publication import Publication


@dataclass(frozen=True, slots=True)
class ChannelState:
    """The numbers of a channel, which outlive its rows."""

    name: str
    top: int
    floor: int
    floor_seq: int
    generation: int = 0


@dataclass(slots=True)
class Batch:
    """The changes of one commit.

    The `forgotten` channels are deleted first: one that came back is also in `states`. Each has the
    new seq of its bucket (`Forgotten`).
    """

    seq: int = 0
    rows: list[Publication] = field(default_factory=list)
    keys: list[KeyEntry] = field(default_factory=list)
    states: list[ChannelState] = field(default_factory=list)
    forgotten: dict[str, int] = field(default_factory=dict)
    memory: dict[str, bytes] = field(default_factory=dict)
    forgotten_keys: int = 0
    """The keys up to this seq are deleted."""


def state(channel: Channel, cleared: bool = False) -> ChannelState:
    """The current numbers of a channel, or those after a clear."""
    floor, floor_seq = channel.floor, channel.floor_seq
    newest = channel.last(1) if cleared else ()
    if newest:
        floor, floor_seq = channel.top, newest[0].seq
    _, generation = split_epoch(channel.epoch)
    return ChannelState(channel.name, channel.top, floor, floor_seq, generation)
