"""Nodes of several servers on one Redis without sockets: each follows its log.

usage: python -m benchmarks.servers.redis_nodes URL NODES FOLLOWED STRETCH

Each node follows the first of the channels `bench:0`, `bench:1`, ... The interval between two
reads of a node is STRETCH times as long. For each line of the standard input it prints a line of
JSON: the CPU time of the process, and what its nodes have read.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from twisted.internet import epollreactor, stdio
from twisted.internet.defer import Deferred
from twisted.protocols.basic import LineReceiver

epollreactor.install()

from twisted.internet import reactor as global_reactor  # noqa: E402

from pushserver.channels.channel import ChannelOptions  # noqa: E402
from pushserver.channels.history import History  # noqa: E402
from pushserver.config.redis_url import parse_url  # noqa: E402
from pushserver.hub.follower import Follower  # noqa: E402
from pushserver.hub.metrics import Metrics  # noqa: E402
from pushserver.redis.log import RedisLog  # noqa: E402
from pushserver.redis.tail import PACE_SECONDS  # noqa: E402
from pushserver.usercode.steady import steady  # noqa: E402

OPTIONS = ChannelOptions()
reactor: Any = global_reactor


class Log(RedisLog):
    """The log of a node, in stretched time."""

    pace_seconds = PACE_SECONDS * int(sys.argv[4])


class Node:
    """A follower of the log."""

    def __init__(self, url: str):
        seconds = steady(reactor)
        self.log = Log(parse_url(url), reactor, seconds, lambda name: OPTIONS)
        history = History(lambda name: OPTIONS, "none")
        self.follower = Follower(history, Metrics(), self.log, seconds)
        self.log.feed(self.follower)
        self.log.start()


class Asked(LineReceiver):
    """Answers each line."""

    delimiter = b"\n"

    def __init__(self, nodes: list[Node]):
        self._nodes = nodes

    def lineReceived(self, line: bytes) -> None:
        states = [node.log.state for node in self._nodes]
        answer = {
            "cpu": time.process_time(),
            "read": sum(state.entries_read for state in states),
            "least": min(state.entries_read for state in states),
            "attached": sum(state.attached for state in states),
            "losses": sum(state.losses for state in states),
            "kept": sum(len(c) for n in self._nodes for c in n.follower.history.channels.values()),
        }
        self.sendLine(json.dumps(answer).encode())

    def connectionLost(self, reason: Any = None) -> None:
        reactor.stop()


def main() -> None:
    """Run until the standard input ends."""
    url, count, followed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    nodes = [Node(url) for _ in range(count)]

    async def begin() -> None:
        for node in nodes:
            await node.log.when_attached()
            if followed:
                await node.follower.load([f"bench:{n}" for n in range(followed)])
        stdio.StandardIO(Asked(nodes))

    Deferred.fromCoroutine(begin())
    reactor.run()


if __name__ == "__main__":
    main()
