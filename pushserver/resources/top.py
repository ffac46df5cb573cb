"""The answer of `/api/top`: the busiest channels, and the peers that leave most bytes unread."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from pushserver.channels.history import History
from pushserver.cluster.measures import Measure, Measures, SlowReader
from pushserver.hub.metrics import Metrics, open_by_kind
from pushserver.protocols.formats import kind_of
from pushserver.sessions.node import Node
from pushserver.transports.unsent import Unsent, Waiting

MOST = 20
"""The most channels by each order, and the most peers."""
NEWEST = 200
"""The channels with the newest publications of which the busiest are found."""
RATE_SECONDS = 10.0
"""The time in which publications are counted for the order, after those of the last second."""


class Load:
    """The load of a server by channel, by kind of connection and by slow peer.

    All of it is computed for a request: nothing is counted for it when publications are delivered.
    """

    def __init__(self, node: Node, unsent: Unsent, measures: Measures):
        self.measures = measures
        self._node = node
        self._unsent = unsent

    def answer(self, watched: Mapping[str, int], whole: Measure) -> dict[str, object]:
        """The load; `watched` has the number of subscribers of each channel that has any.

        `whole`: the sums of all processes.
        """
        unread = {
            "clients": whole.unread_by,
            "bytes": whole.unsent_bytes,
            "most": self._unsent.most,
        }
        return {
            "connections": _connections(whole.metrics),
            "channels": self._channels(watched),
            "unsent": unread,
            "readers": heapq.nlargest(MOST, whole.readers, key=lambda reader: reader.bytes),
        }

    def _channels(self, watched: Mapping[str, int]) -> list[dict[str, object]]:
        """The MOST channels with most subscribers, and the MOST with most publications lately."""
        history = self._node.history
        names = dict.fromkeys(heapq.nlargest(MOST, watched, key=watched.__getitem__))
        names |= dict.fromkeys(busiest(history, self._node.clock()))
        return [
            {
                "channel": name,
                "num_clients": watched.get(name, 0),
                "offset": history.peek(name).top,
                "epoch": history.peek(name).epoch,
            }
            for name in names
        ]


def _connections(metrics: Metrics) -> list[dict[str, object]]:
    return [
        {"transport": transport, "protocol": protocol, "count": count}
        for (transport, protocol), count in sorted(open_by_kind(metrics).items())
        if count
    ]


def slow_readers(node: Node, unsent: Unsent) -> list[SlowReader]:
    """The MOST peers of this process that leave most bytes unread."""
    return [_slow_reader(backlog, node.monotonic()) for backlog in unsent.largest(MOST)]


def _slow_reader(backlog: Waiting, now: float) -> SlowReader:
    owner = backlog.owner
    transport, protocol = kind_of(owner.format.name)
    conversation = owner.conversation
    outlet = None if conversation is None else conversation.outlet
    since = None if outlet is None else outlet.blocked_at
    return SlowReader(
        owner.peer,
        transport,
        protocol,
        "" if conversation is None else conversation.info.client,
        "" if conversation is None else conversation.info.user,
        backlog.bytes,
        None if since is None else round(now - since, 3),
    )


def busiest(history: History, now: float) -> list[str]:
    """The MOST channels with most retained publications of the last seconds; `now` in Unix seconds.

    One pass without a call for each channel: with 100,000 channels, all of them with a publication
    in these seconds, it holds the reactor for some 25 ms.
    """
    since = now - RATE_SECONDS
    recent = [(each.time, name) for name, each in history.channels.items() if each.time >= since]
    counted = []
    for _, name in heapq.nlargest(NEWEST, recent):
        channel = history.channels[name]
        # A busy channel may retain less than its last second, a quiet one has none in it.
        last, lately = (channel.count_since(now - seconds) for seconds in (1.0, RATE_SECONDS))
        counted.append((last, lately, name))
    return [name for *_, name in heapq.nlargest(MOST, counted)]
