"""The parts of a process that follows the log of another one, in place of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pushserver.channels.history import History
from pushserver.cluster.calls import Calls, Run
from pushserver.cluster.handlers import RemoteHandlers
from pushserver.cluster.measures import Measure
from pushserver.cluster.roster import RemotePresence, Roster
from pushserver.cluster.shared_bounds import SharedBounds
from pushserver.cluster.uplink import Uplink
from pushserver.hub.follower import Follower
from pushserver.hub.hub import Hub
from pushserver.hub.metrics import Metrics
from pushserver.hub.presence import Presence
from pushserver.sessions.node import Node


@dataclass(frozen=True, slots=True)
class FollowerParts:
    """The log, the application and the lists of peers of a process that has none of its own."""

    follower: Follower
    handlers: RemoteHandlers
    roster: Roster
    uplink: Uplink
    make_presence: Callable[[Hub, int], Presence]

    def attach(self, node: Node, measure: Callable[[], Measure]) -> None:
        """Use the node of this process, and its numbers; called once, before the first link."""
        self.uplink.measure = measure
        self.follower.reset = node.hub.reset
        self.uplink.bounds = SharedBounds(node).link()
        self.uplink.chan_info = lambda channel, peer: node.presence.info(channel, peer).chan_info


def make_follower_parts(
    history: History, monotonic: Callable[[], float], run: Run, worker: int
) -> FollowerParts:
    """The parts of the process with this number; `history` has no channels yet."""
    calls = Calls()
    roster = Roster(calls, run)
    handlers = RemoteHandlers(calls, roster)
    uplink = Uplink(calls, roster, handlers, worker)
    follower = uplink.follower = Follower(history, Metrics(), uplink, monotonic)
    presence = partial(RemotePresence, roster=roster, calls=calls)
    return FollowerParts(follower, handlers, roster, uplink, presence)
