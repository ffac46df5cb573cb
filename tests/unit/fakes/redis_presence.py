"""The scripts of the subscribers of all nodes, for the Redis in memory."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pushserver.redis import presence_scripts
from pushserver.redis.commands import ErrorReply

LEASE_SECONDS = 10.0


@dataclass
class Subscribers:
    """What Redis has of the subscribers: `members` by term, channel and client."""

    ends: dict[bytes, float] = field(default_factory=dict)
    terms: dict[bytes, int] = field(default_factory=dict)
    dead: set[bytes] = field(default_factory=set)
    members: dict[bytes, dict[bytes, dict[bytes, bytes]]] = field(default_factory=dict)
    counts: Counter[bytes] = field(default_factory=Counter)
    users: dict[bytes, Counter[bytes]] = field(default_factory=lambda: defaultdict(Counter))
    observed: dict[bytes, float] = field(default_factory=dict)

    def count(self, channel: bytes, value: bytes, by: int) -> int:
        length, _, rest = value.partition(b":")
        for counter, name in (
            (self.counts, channel),
            (self.users[channel], rest[: int(length)]),
        ):
            counter[name] += by
            assert counter[name] >= 0, f"{name!r} is counted {counter[name]} times"
            if not counter[name]:
                del counter[name]
        return self.counts[channel]


class PresenceScripts:
    """Runs the scripts: `data` returns the present data set, `note` adds an entry to the log."""

    def __init__(
        self,
        now: Callable[[], float],
        data: Callable[[], Any],
        note: Callable[[list[bytes]], None],
    ):
        self._now = now
        self._data = data
        self._note = note
        self.by_sha = {
            presence_scripts.BEGIN.sha: self._fenced(self._begin),
            presence_scripts.TELL.sha: self._fenced(self._tell),
            presence_scripts.FINISH.sha: self._fenced(self._finish),
            presence_scripts.CLEAN.sha: self._fenced(self._clean),
            presence_scripts.READ.sha: self._fenced(self._read),
            presence_scripts.OBSERVE.sha: self._fenced(self._observe),
        }

    def beat(self, node: bytes) -> None:
        """The node tells about itself."""
        ends, now = self._data().subscribers.ends, self._now()
        for other in [name for name, end in ends.items() if end <= now]:
            del ends[other]
        ends[node] = now + LEASE_SECONDS

    def channels(self, term: bytes) -> list[bytes]:
        """The answer to SRANDMEMBER."""
        return list(self._data().subscribers.members.get(term, ()))

    def members(self, term: bytes, channel: bytes) -> list[bytes]:
        """The answer to HGETALL."""
        found = self._data().subscribers.members.get(term, {}).get(channel, {})
        return [part for pair in found.items() for part in pair]

    def _fenced(self, script: Callable[[Subscribers, list[bytes]], Any]) -> Any:
        def run(keys: Sequence[bytes], arguments: list[bytes]) -> Any:
            data = self._data()
            if data.run != arguments[0].decode():
                return ErrorReply("FENCED")
            return script(data.subscribers, arguments[1:])

        return run

    def _is_there(self, data: Subscribers, node: bytes) -> bool:
        return data.ends.get(node, 0.0) > self._now()

    def _begin(self, data: Subscribers, arguments: list[bytes]) -> int:
        node, term = arguments
        if not self._is_there(data, node):
            return 0
        data.terms.setdefault(term, 0)
        return 1

    def _tell(self, data: Subscribers, arguments: list[bytes]) -> bytes:
        node, term, version, most, _, *rest = arguments
        if not self._is_there(data, node):
            return b"gone"
        if term not in data.terms:
            return b"over"
        if int(version) <= data.terms[term]:
            return b"old"
        data.terms[term] = int(version)
        names: list[bytes] = []
        facts: list[bytes] = []
        # The names of the channels, then three parts for each change; the first is a number.
        while rest and not rest[0].isdigit():
            names.append(rest.pop(0))
        facts = rest
        changes: list[bytes] = []
        for n in range(0, len(facts), 3):
            channel, client, value = names[int(facts[n]) - 1], facts[n + 1], facts[n + 2]
            members = data.members.setdefault(term, {}).setdefault(channel, {})
            before = members.get(client)
            sign, total = b"", 0
            if value:
                members[client] = value
                if before is None:
                    sign, total = b"+", data.count(channel, value, 1)
                else:
                    data.count(channel, value, 1)
                    data.count(channel, before, -1)
            elif before is not None:
                del members[client]
                value = before
                sign, total = b"-", data.count(channel, before, -1)
            if not members:
                del data.members[term][channel]
            wanted = data.observed.get(channel, 0.0) > self._now()
            if sign and wanted and total <= int(most) + (sign == b"+"):
                changes += (sign, b"\n".join([b"%d" % total, channel, client, value]))
        if changes:
            self._note([b"k", b"presence", b"n", term, *changes])
        return b"told"

    def _finish(self, data: Subscribers, arguments: list[bytes]) -> list[Any]:
        ended = 0
        for term in list(data.terms):
            node = term.rpartition(b":")[0]
            is_over = node == arguments[1] and term != arguments[2]
            if is_over or not self._is_there(data, node):
                del data.terms[term]
                data.dead.add(term)
                self._note([b"k", b"presence", b"n", term])
                ended += 1
        return [ended, next(iter(data.dead), None)]

    def _clean(self, data: Subscribers, arguments: list[bytes]) -> int:
        term, left, *channels = arguments[0], int(arguments[1]), *arguments[2:]
        own = data.members.get(term, {})
        for channel in channels:
            for client in list(own.get(channel, ()))[:left]:
                data.count(channel, own[channel].pop(client), -1)
                left -= 1
            if not own.get(channel):
                own.pop(channel, None)
        if own:
            return 1
        data.members.pop(term, None)
        data.dead.discard(term)
        return 0

    def _read(self, data: Subscribers, arguments: list[bytes]) -> list[Any]:
        channel, most, ms, *terms = arguments
        if int(ms):
            data.observed[channel] = self._now() + int(ms) / 1000
        place = b"%d-%d" % self._data().last
        if set(terms) != data.terms.keys():
            return [0, list(data.terms), place]
        total, found = data.counts[channel], []
        for term in terms:
            members = self.members(term, channel)
            found.append(members if total <= int(most) else len(members) // 2)
        return [1, place, total, len(data.users[channel]), found]

    def _observe(self, data: Subscribers, arguments: list[bytes]) -> int:
        for channel in arguments[1:]:
            data.observed[channel] = self._now() + int(arguments[0]) / 1000
        return 1
