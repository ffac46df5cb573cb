"""A Redis in memory with the scripts of the log, and connections whose bytes the test carries."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from twisted.internet.defer import Deferred

from pushserver.channels.position import channel_epoch
from pushserver.redis import node_scripts, scripts, upkeep_scripts
from pushserver.redis.commands import ErrorReply, Gone
from pushserver.redis.connection import Session
from pushserver.redis.keys import Keys
from pushserver.redis.problems import Problem
from pushserver.redis.rows import Id
from pushserver.redis.scripts import Known
from tests.unit.fakes.redis_presence import PresenceScripts, Subscribers

MOST = 10_000


@dataclass
class Stored:
    """A channel: its rows are (offset, seq, time, bytes, blob)."""

    generation: int = 0
    top: int = 0
    floor: int = 0
    floor_seq: int = 0
    rows: list[tuple[int, int, int, int, bytes]] = field(default_factory=list)

    def evict(self) -> None:
        """Evict the first row."""
        self.floor, self.floor_seq = self.rows.pop(0)[:2]


@dataclass
class DataSet:
    """What a server has in its memory, and what a restart may bring back."""

    run: str = ""
    epoch: str = ""
    seq: int = 0
    runs: list[tuple[bytes, int]] = field(default_factory=list)
    past: set[str] = field(default_factory=set)
    log: list[tuple[Id, list[bytes]]] = field(default_factory=list)
    last: Id = (0, 0)
    nodes: dict[bytes, int] = field(default_factory=dict)
    channels: dict[bytes, Stored] = field(default_factory=dict)
    buckets: dict[bytes, int] = field(default_factory=dict)
    keys: dict[bytes, list[Any]] = field(default_factory=dict)
    subscribers: Subscribers = field(default_factory=Subscribers)


class Foreign(Exception):
    """The log has an entry of another program: a script ends at the entry that it would add."""

    reply = ErrorReply("FENCED")


class FakeRedis:
    """A server; `published` is called with each publication: channel, its epoch, offset, blob.

    `renewed` is called with those that are there when the data set gets another epoch.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.data = DataSet()
        self.run = "run0"
        self.keeps = False
        """Whether its data set is complete after a crash, and it says so."""
        self.knows_scripts = True
        self.due: list[bytes] = []
        """The channels that are due for a sweep."""
        self.swept: list[tuple[bytes, bytes]] = []
        """The channels that were swept, with the milliseconds of each."""
        self.touched: list[bytes] = []
        self.published: Callable[[str, str, int, bytes], None] = lambda *row: None
        self.renewed: Callable[[str, str, int, bytes], None] = lambda *row: None
        self._saved = DataSet()
        self._runs = count(1)
        self._epochs = count(1)
        self.presence = PresenceScripts(now, lambda: self.data, self._append_next)
        self._scripts = self.presence.by_sha | {
            scripts.ATTACH.sha: self._attach,
            scripts.PUBLISH.sha: self._publish,
            scripts.IMAGE.sha: self._image,
            scripts.CLEAR.sha: self._clear,
            scripts.ALIVE.sha: self._alive,
            scripts.ORDER.sha: self._order,
            node_scripts.BEAT.sha: lambda keys, arguments: self.presence.beat(arguments[1]),
            node_scripts.LEAVE.sha: self._node_left,
            upkeep_scripts.DUE.sha: lambda keys, arguments: self.due,
            upkeep_scripts.SWEEP.sha: self._sweep,
            upkeep_scripts.TOUCH.sha: self._touch,
        }

    # --- faults ---------------------------------------

    def save(self) -> None:
        """Save the data set: that of the next crash, unless it `keeps`."""
        self._saved = copy.deepcopy(self.data)

    def crash(self, keeps: bool) -> None:
        """Die and start again; the connections are the test's."""
        # Whether an earlier crash lost something shows only when a node attaches.
        self.keeps = keeps and self.data.run == self.run
        self.run = f"run{next(self._runs)}"
        if not keeps:
            self.data = copy.deepcopy(self._saved)
        self.knows_scripts = False

    def restore(self) -> None:
        """Start with the saved data set, and say that it is complete."""
        self.data = copy.deepcopy(self._saved)
        self.run = f"run{next(self._runs)}"
        self.keeps = True
        self.knows_scripts = False

    def flush(self) -> None:
        """Drop everything."""
        self.data = DataSet()

    def trim(self, length: int) -> None:
        """Drop the first entries of the log."""
        del self.data.log[: max(0, len(self.data.log) - length)]

    def write_foreign(self) -> None:
        """Another program adds an entry to the log, with an id of its own."""
        self.data.last = (self.data.last[0] + 7, 0)
        self.data.log.append((self.data.last, [b"hello", b"world"]))

    def forget(self, channel_key: bytes, bucket: bytes) -> None:
        """Forget a channel, as `sweep` does when it has no rows for a while."""
        stored = self.data.channels.pop(channel_key, None)
        if stored is not None:
            while stored.rows:
                stored.evict()
            known = self.data.buckets.get(bucket, 0)
            self.data.buckets[bucket] = max(known, stored.floor_seq)

    # --- commands ---------------------------------------

    def execute(self, command: Sequence[bytes]) -> Any:
        """The answer; an error is one too."""
        name, *rest = command
        if name == b"EVALSHA":
            if not self.knows_scripts:
                return ErrorReply("NOSCRIPT No matching script")
            number = int(rest[1])
            try:
                return self._scripts[rest[0]](rest[2 : 2 + number], rest[2 + number :])
            except Foreign as error:
                return error.reply
        if name == b"HSCAN":
            counts = self.data.subscribers.counts
            return [b"0", [part for n in counts for part in (n, b"%d" % counts[n])]]
        if name == b"SRANDMEMBER":
            return self.presence.channels(rest[0].partition(b":pn:")[2])
        if name == b"HGETALL":
            term, count, channel = rest[0].partition(b":p:")[2].split(b":", 2)
            return self.presence.members(term + b":" + count, channel)
        if name == b"XRANGE":
            return self._range(*rest)
        if name == b"HGET":
            return self.data.epoch.encode() or None
        assert name == b"XREAD", command
        return self.read(command)

    def read(self, command: Sequence[bytes]) -> Any:
        """The answer to XREAD; None if it has to wait."""
        most, after = int(command[2]), _id(command[-1])
        found = [entry for entry in self.data.log if entry[0] > after][:most]
        return [[command[-2], [_entry(*entry) for entry in found]]] if found else None

    def _range(self, key: bytes, start: bytes, end: bytes, *rest: bytes) -> Any:
        first = _id(start.lstrip(b"("))
        last = (2**60, 0) if end == b"+" else _id(end)
        found = [
            _entry(*entry)
            for entry in self.data.log
            if first <= entry[0] <= last and not (start.startswith(b"(") and entry[0] == first)
        ]
        return found[: int(rest[1])] if rest else found

    def _attach(self, keys: list[bytes], arguments: list[bytes]) -> Any:
        run, new_epoch, keep, _, node, _, *known = arguments
        data = self.data
        foreign = data.last[0] > data.seq
        same = data.run == run.decode()
        runs = list(data.runs) if same else [*data.runs, (run, data.seq)]
        names = [name for name, _ in runs]
        older = False
        for seen, epoch, seq in zip(known[::3], known[1::3], known[2::3], strict=True):
            later = runs[names.index(seen) + 1 :] if seen in names else runs
            if epoch.decode() == data.epoch:
                older |= any(int(seq) > begun for _, begun in later)
            else:
                older |= epoch != b"" and epoch.decode() not in data.past
        if not data.epoch or foreign or older or not (same or keep == b"1"):
            data.past |= {data.epoch, *(epoch.decode() for epoch in known[1::3])}
            data.epoch = new_epoch.decode()
            data.seq = max(data.seq, data.last[0])
            runs = [(run, data.seq)]
            self._renew()
        data.run, data.runs = run.decode(), runs
        return [data.epoch.encode(), data.seq, b"%d" % data.nodes.get(node, 0)]

    def _renew(self) -> None:
        """Tell of the publications that have another epoch now."""
        rows = {}
        for _, fields in self.data.log:
            if fields[0] == b"c":
                rows[fields[1], int(fields[5]), int(fields[3])] = fields[9]
        for key, stored in self.data.channels.items():
            for offset, *_, blob in stored.rows:
                rows[key.rpartition(b":")[2], stored.generation, offset] = blob
        for (channel, generation, offset), blob in rows.items():
            epoch = channel_epoch(self.data.epoch, generation)
            self.renewed(channel.decode(), epoch, offset, blob)

    def _publish(self, keys: list[bytes], arguments: list[bytes]) -> Any:
        run, node, counter, channel, blob = arguments[:5]
        bucket, log_length, most_channels = arguments[9:12]
        size = int(arguments[6])
        data = self.data
        if data.run != run.decode() or data.last[0] > data.seq:
            return ErrorReply("FENCED")
        if len(keys) > 6 and keys[6] in data.keys:
            return [b"key", *data.keys[keys[6]]]
        if int(counter) <= data.nodes.get(node, 0):
            return [b"again", 0, 0, 0, data.epoch.encode(), 0]
        if keys[4] not in data.channels and len(data.channels) >= int(most_channels):
            return ErrorReply("CHANNELS there are too many")
        generation = data.buckets.get(bucket, 0)
        stored = data.channels.setdefault(
            keys[4], Stored(generation=generation, floor_seq=generation)
        )
        data.seq += 1
        stored.top += 1
        data.nodes[node] = int(counter)
        time = round(self.now() * 1000)
        values = [channel, b"%d" % stored.top, b"%d" % stored.generation, b"%d" % time, blob]
        pairs = zip(b"cogtdw", [*values, node + b":" + counter], strict=True)
        fields = [part for name, value in pairs for part in (b"%c" % name, value)]
        self._append((data.seq, 0), fields)
        self.trim(int(log_length))
        stored.rows.append((stored.top, data.seq, time, len(blob), blob))
        while len(stored.rows) > size:
            stored.evict()
        epoch = channel_epoch(data.epoch, stored.generation)
        self.published(channel.decode(), epoch, stored.top, blob)
        numbers = [data.seq, stored.top, stored.generation, data.epoch.encode(), time]
        if len(keys) > 6:
            data.keys[keys[6]] = numbers
        return [b"new", *numbers]

    def _image(self, keys: list[bytes], arguments: list[bytes]) -> Any:
        data = self.data
        if data.run != arguments[0].decode():
            return ErrorReply("FENCED")
        images = []
        for n, key in enumerate(keys[1::2]):
            bucket, epoch, offset = arguments[1 + 3 * n : 4 + 3 * n]
            stored = data.channels.get(key)
            if stored is None:
                generation = data.buckets.get(bucket, 0)
                images.append([generation, 0, 0, generation, 0, []])
                continue
            floor, floor_seq, rows = stored.floor, stored.floor_seq, stored.rows
            own = channel_epoch(data.epoch, stored.generation)
            if epoch.decode() == own and floor < int(offset) <= stored.top:
                floor = int(offset)
                floor_seq = next(row[1] for row in rows if row[0] == floor)
                rows = [row for row in rows if row[0] > floor]
            found = [[o, q, t, d] for o, q, t, _, d in rows]
            images.append([stored.generation, stored.top, floor, floor_seq, stored.floor, found])
        return [data.epoch.encode(), data.seq, round(self.now() * 1000), images]

    def _clear(self, keys: list[bytes], arguments: list[bytes]) -> Any:
        data, stored = self.data, self.data.channels.get(keys[3])
        if data.run != arguments[0].decode() or data.last[0] > data.seq:
            return ErrorReply("FENCED")
        if stored is None:
            return [0, data.seq, 0]
        rows = len(stored.rows)
        while stored.rows:
            stored.evict()
        number = data.last[1] + 1 if data.last[0] == data.seq else 1
        self._append((data.seq, number), [b"k", b"clear", b"c", arguments[1]])
        return [rows, data.seq, number]

    def _order(self, keys: list[bytes], arguments: list[bytes]) -> Any:
        data = self.data
        if data.run != arguments[0].decode() or data.last[0] > data.seq:
            return ErrorReply("FENCED")
        self._append_next([b"k", b"order", b"n", arguments[2], b"d", arguments[3]])
        return 1

    def _node_left(self, keys: list[bytes], arguments: list[bytes]) -> Any:
        self.data.subscribers.ends.pop(arguments[1], None)
        return 1

    def _alive(self, keys: list[bytes], arguments: list[bytes]) -> Any:
        return [self.data.run.encode(), self.data.epoch.encode(), self.data.seq]

    def _sweep(self, keys: list[bytes], arguments: list[bytes]) -> Any:
        self.swept += zip(arguments[1::3], arguments[3::3], strict=True)
        self.due = []
        return [2, 0, [b"a key of another type"] if self.swept[-1][0] == b"foreign" else []]

    def _touch(self, keys: list[bytes], arguments: list[bytes]) -> Any:
        self.touched += arguments[1:]
        return [1] * len(arguments[1:])

    def _append_next(self, fields: list[bytes]) -> None:
        """Add an entry that is no publication; raises Foreign."""
        data = self.data
        if data.last[0] > data.seq:
            raise Foreign
        number = data.last[1] + 1 if data.last[0] == data.seq else 1
        self._append((data.seq, number), fields)

    def _append(self, place: Id, fields: list[bytes]) -> None:
        assert place > self.data.last, "an id below the last one"
        self.data.last = place
        self.data.log.append((place, fields))


class FakeConnection:
    """A connection (`connection.Connection`) that the test makes, carries and cuts."""

    redis: FakeRedis

    def __init__(
        self,
        address: Any,
        reactor: Any,
        seconds: Callable[[], float],
        keys: Keys,
        node: str,
        made: Callable[[Session], None],
        lost: Callable[[], None],
        failed: Callable[[Problem], None],
        enter: Any,
        known: Callable[[], Sequence[Known]],
        place: Any = None,
    ):
        self._keys = keys
        self._node = node
        self._made = made
        self._lost = lost
        self._failed = failed
        self._known = known
        self.linked = False
        self._up: deque[tuple[Sequence[bytes], Deferred[Any]]] = deque()
        self._down: deque[tuple[Deferred[Any], Any]] = deque()
        # Commands of earlier links that are under way yet.
        self.strays: deque[Sequence[bytes]] = deque()

    def start(self) -> None:
        """No-op: the test connects it."""

    def stop(self) -> None:
        self.cut()

    def again(self, reason: str, short: str = "") -> None:
        if self.linked:
            self._failed(Problem(reason, short))
            self.cut()

    async def check(self) -> None:
        """No-op: the server remains what it is."""

    def connect(self) -> None:
        """Connect and attach, unless that is done."""
        if self.linked:
            return
        redis = self.redis
        redis.knows_scripts = True
        epoch = f"epoch{next(redis._epochs)}"
        keys, known = self._keys, self._known()
        call = scripts.attach(keys, redis.run, epoch, redis.keeps, self._node, known)
        attached = scripts.attached_of(redis.execute(call.evalsha))
        redis.presence.beat(self._node.encode())
        self.linked = True
        self._made(Session(self._send, redis.run, attached))

    def cut(self, strays: bool = False) -> None:
        """End the link; the commands that have not arrived do so later (`strays`), or never."""
        if not self.linked:
            return
        self.linked = False
        up, self._up = self._up, deque()
        down, self._down = self._down, deque()
        if strays:
            self.strays += (c for c, _ in up if c[0] == b"EVALSHA")
        self._lost()
        for _, answer in up:
            answer.errback(Gone("cut"))
        for answer, _ in down:
            answer.errback(Gone("cut"))

    def _send(self, command: Sequence[bytes]) -> Deferred[Any]:
        if not self.linked:
            raise Gone("cut")
        answer: Deferred[Any] = Deferred()
        self._up.append((command, answer))
        return answer

    def bring_up(self, number: int = MOST) -> bool:
        """Let commands arrive at the server; whether there were any."""
        some = False
        while number and self._up:
            command, answer = self._up[0]
            reply = self.redis.execute(command)
            if command[0] == b"XREAD" and reply is None:
                break
            self._up.popleft()
            self._down.append((answer, reply))
            some = True
            number -= 1
        return some

    def bring_down(self, number: int = MOST) -> bool:
        """Let answers arrive at the node; whether there were any."""
        some = False
        while number and self._down:
            answer, reply = self._down.popleft()
            if isinstance(reply, ErrorReply):
                answer.errback(reply)
            else:
                answer.callback(reply)
            some = True
            number -= 1
        return some

    def bring_stray(self) -> None:
        """Let a command of an earlier link arrive."""
        if self.strays:
            self.redis.execute(self.strays.popleft())

    def wake(self) -> None:
        """The time of a blocking command is over."""
        if self._up and self._up[0][0][0] == b"XREAD":
            self._down.append((self._up.popleft()[1], None))


def _id(text: bytes) -> Id:
    seq, _, number = text.partition(b"-")
    return int(seq), int(number)


def _entry(place: Id, fields: list[bytes]) -> list[Any]:
    return [b"%d-%d" % place, fields]
