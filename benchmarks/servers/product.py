"""`twistd pushserver`, with a source that publishes the events of the feed.

usage: python -m benchmarks.servers.product FEED CHANNELS [options of twistd pushserver]

Everything but the number that a source makes is the product's own: the process, the site,
the sessions, the log. With one channel its name is `bench`, else `bench:0`, `bench:1`, ...;
with none nothing is published from inside. TWISTD in the environment has more options for
twistd itself, such as those of its profiler.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.scripts.twistd import run

from benchmarks.servers.feed import Feed
from benchmarks.servers.turns import Turns
from pushserver.channels import jsontext
from pushserver.channels.publication import Draft
from pushserver.errors import Unavailable
from pushserver.server import front as assembly
from pushserver.server.logging import run as run_coroutine

RETRY_SECONDS = 0.005


class FeedSource(Service):
    """Takes the place of `sources.runner.Runner`: the same steps for each event, at any rate."""

    feed_path = ""
    channels = 1

    def __init__(self, source: Any, plan: Any, place: Any):
        self.source = source
        self.plan = plan
        self._clock = place.reactor
        self._publish = place.publish
        self._feed = Feed(self.feed_path, self.channels)
        several = self.channels > 1
        self._names = [f"bench:{n}" if several else "bench" for n in range(self.channels)]
        self._refused: list[Draft] = []
        self._turns = Turns(self._feed.publishes)

    def startService(self) -> None:
        super().startService()
        self._turns.watch(self._clock)
        if self.channels:
            self._turn()

    def stopService(self) -> None:
        self._turns.stop()
        self._turns.write(Path(self.feed_path).with_name("turns"))
        super().stopService()

    def _turn(self) -> None:
        if not self.running:
            return
        again, self._refused = self._refused, []
        for draft in again:
            run_coroutine(self._tick(draft))
        if self._refused:
            # The server cannot send fast enough: the publisher waits and tries again.
            self._clock.callLater(RETRY_SECONDS, self._turn)
            return
        for channel, event in self._feed.due():
            draft = Draft(self._names[channel], jsontext.encode(event), "message")
            run_coroutine(self._tick(draft))
        self._clock.callLater(self._feed.wait(), self._turn)

    async def _tick(self, draft: Draft) -> None:
        try:
            await self._publish(draft)
        except Unavailable:
            self._refused.append(draft)


def main() -> None:
    """Run twistd with this source in place of Runner."""
    FeedSource.feed_path, FeedSource.channels = sys.argv[1], int(sys.argv[2])
    if not hasattr(assembly, "Runner"):
        raise SystemExit("benchmarks/servers/product.py: build.Runner is gone; hook anew")
    vars(assembly)["Runner"] = FeedSource
    more = os.environ.get("TWISTD", "").split()
    sys.argv = ["twistd", "--nodaemon", "--pidfile=", *more, "pushserver", *sys.argv[3:]]
    run()


if __name__ == "__main__":
    main()
