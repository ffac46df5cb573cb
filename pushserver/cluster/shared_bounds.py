"""The bounds that all processes of a server share: open connections, those of users, and rates."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from pushserver.auth.quotas import Connections, Users, add
from pushserver.cluster.calls import Send
from pushserver.cluster.messages import Counted, frame
from pushserver.sessions.node import Node

Numbers = dict[str, dict[str, int]]
"""Numbers by kind and name."""


class SharedBounds:
    """The counts and token buckets of one process, with what the others count and charge.

    A process checks at once, by what it knows. What changes in one turn of the reactor goes over
    each link in one message, and the main process passes on what comes over one link to all others.
    So a bound may be exceeded by what other processes have admitted and is still on its way.
    """

    def __init__(self, node: Node):
        connections = node.connections
        self._counts: Mapping[str, Connections | Users] = {
            "connections": connections,
            "users": node.users,
        }
        self._rates = {
            "new_connections_per_second": connections.rates,
            "wrong_keys_per_minute": node.identification.wrong_keys.rates,
            **node.publications.rates,
        }
        self._timer = node.timer
        self._monotonic = node.monotonic
        self._own: Numbers = {kind: {} for kind in self._counts}
        self._links: dict[BoundsLink, None] = {}
        self._planned = False
        for kind, counts in self._counts.items():
            counts.changed = partial(self._changed, kind)
        for kind, rates in self._rates.items():
            rates.charged = partial(self._charged, kind)

    def link(self) -> BoundsLink:
        """This process's end of a link, which is not connected yet."""
        link = BoundsLink(self)
        self._links[link] = None
        return link

    def remove(self, link: BoundsLink) -> None:
        """Forget a link."""
        del self._links[link]

    def count(self, kind: str, name: str, count: int, source: BoundsLink) -> None:
        """Count what the processes behind a link count."""
        self._counts[kind].add(name, count)
        for link in self._links:
            if link is not source:
                link.tell_count(kind, name, count)

    def charge(self, kind: str, name: str, count: int, source: BoundsLink) -> None:
        """Charge a bucket for the events that the processes behind a link have allowed."""
        self._rates[kind].charge(name, self._monotonic(), count)
        for link in self._links:
            if link is not source:
                link.tell_charge(kind, name, count)

    def numbers_for(self, link: BoundsLink) -> Numbers:
        """What this process counts, and those behind its other links."""
        total = {kind: dict(numbers) for kind, numbers in self._own.items()}
        for other in self._links:
            if other is not link:
                for kind, numbers in other.numbers.items():
                    for name, number in numbers.items():
                        add(total[kind], name, number)
        return total

    def plan(self) -> None:
        """Let the links send what they have, in a later turn of the reactor."""
        if not self._planned:
            self._planned = True
            self._timer.callLater(0, self._flush)

    def _changed(self, kind: str, name: str, count: int) -> None:
        add(self._own[kind], name, count)
        for link in self._links:
            link.tell_count(kind, name, count)

    def _charged(self, kind: str, name: str, count: int) -> None:
        for link in self._links:
            link.tell_charge(kind, name, count)

    def _flush(self) -> None:
        self._planned = False
        for link in self._links:
            link.flush()


class BoundsLink:
    """One end of a link between two processes, as the shared bounds use it."""

    def __init__(self, bounds: SharedBounds):
        self._bounds = bounds
        self._send: Send | None = None
        self.numbers: Numbers = {}
        """What the processes behind the link count, as far as they have told."""
        self._changes: Numbers = {}
        self._charges: Numbers = {}

    def connected(self, send: Send) -> None:
        """There is a connection: tell the other end all numbers, in place of those it knows."""
        self._send = send
        send(frame(Counted(True, self._bounds.numbers_for(self), {})))

    def lost(self) -> None:
        """The connection is gone; what the other end counted last stays until the next one."""
        self._send = None
        self._changes, self._charges = {}, {}

    def remove(self) -> None:
        """The other end is gone for ever, and so is what it counted."""
        self.lost()
        self._forget()
        self._bounds.remove(self)

    def received(self, message: Counted) -> None:
        """Count and charge what the other end does."""
        if message.is_whole:
            self._forget()
        for kind, numbers in message.counts.items():
            known = self.numbers.setdefault(kind, {})
            for name, count in numbers.items():
                add(known, name, count)
                self._bounds.count(kind, name, count, self)
        for kind, numbers in message.charges.items():
            for name, count in numbers.items():
                self._bounds.charge(kind, name, count, self)

    def tell_count(self, kind: str, name: str, count: int) -> None:
        """Tell the other end soon that a number has changed; a no-op without a connection."""
        self._tell(self._changes, kind, name, count)

    def tell_charge(self, kind: str, name: str, count: int) -> None:
        """Tell the other end soon of events that were allowed; a no-op without a connection."""
        self._tell(self._charges, kind, name, count)

    def flush(self) -> None:
        """Tell the other end what has changed since the last time."""
        changes, self._changes = self._changes, {}
        charges, self._charges = self._charges, {}
        if self._send is not None and (any(changes.values()) or charges):
            self._send(frame(Counted(False, changes, charges)))

    def _tell(self, numbers: Numbers, kind: str, name: str, count: int) -> None:
        if self._send is not None:
            add(numbers.setdefault(kind, {}), name, count)
            self._bounds.plan()

    def _forget(self) -> None:
        known, self.numbers = self.numbers, {}
        for kind, numbers in known.items():
            for name, number in numbers.items():
                self._bounds.count(kind, name, -number, self)
