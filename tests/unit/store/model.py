"""A node on a store of each kind in all its runs, and beside it a plain list of each channel.

The list gets a publication when the broker delivers it. All that publishers and readers get, and
all that a start loads, is compared with the list: by the order of a channel and by pairs of epoch
and offset, but never by the value of an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from pushserver.channels.channel import CHANNEL_BYTES
from pushserver.channels.history import History
from pushserver.channels.idempotency import REMEMBERED_SECONDS, Keys
from pushserver.channels.publication import Draft, Publication, memory_bytes
from pushserver.channels.room import Room
from pushserver.config.limits import Limits
from pushserver.errors import Unavailable
from pushserver.hub.broker import MemoryBroker
from pushserver.hub.metrics import Metrics
from pushserver.sessions.callbacks import ClientSession, NoHandlers
from pushserver.sessions.node import Node
from pushserver.store.batch import Batch
from pushserver.usercode.steady import births
from tests.unit.fakes.tools import Time
from tests.unit.store.guests import Client, Guest, Listener
from tests.unit.store.plain_list import GROUPS, OPTIONS, Lists, Log, Row
from tests.unit.store.runs import THREAD, Run

TIGHT = (4_000, 3, frozenset({"quiet"}))
"""Bounds of all channels together that any sequence of operations reaches."""


class Hooks(NoHandlers):
    """An application whose handlers run operations of the test."""

    def __init__(self, world: World):
        self._world = world

    async def connect(self, session: ClientSession, data: bytes) -> bytes:
        self._world.run_hook()
        return b""

    def disconnect(self, session: ClientSession, reason: str) -> None:
        self._world.run_hook()

    async def subscribe(self, session: ClientSession, channel: str, data: bytes) -> None:
        self._world.run_hook()

    async def rpc(self, session: ClientSession, method: str, data: bytes) -> bytes:
        """Publish, and answer after that."""
        await self._world.node.publish(Draft(method, data))
        return b"1"


class World(Lists):
    """The server, its guests, and the lists."""

    def __init__(self, kind: str, path: Path, tight: bool = False):
        self.kind = kind
        self.tight = tight
        super().__init__()
        self.used: dict[str, float] = dict.fromkeys(self.logs, 0.0)
        """By channel: a number that increases with each use."""
        self.gone: dict[str, int] = dict.fromkeys(self.logs, 0)
        """By channel: the seq up to which publications made room for others."""
        self._uses = count(1_000_000)
        self.wall = Time()
        self.reactions: list[tuple[Any, ...]] = []
        self.hooks: list[tuple[Any, ...]] = []
        self.server: Run | None = None
        self._path = path
        self._job: Any = None
        self._job_time = 0.0
        self._job_stepped = False
        self._start()
        self.committed = self.node.history.seq
        self.clients = [Client(self) for _ in range(2)]
        self.listeners = [Listener(self, channels) for channels in GROUPS]
        self.guests: list[Guest] = [*self.clients, *self.listeners]

    # -- runs of the server

    def _start(self) -> None:
        self.broker: MemoryBroker
        if self.kind == "memory":
            history = History(OPTIONS.__getitem__, room=self._room())
            self.broker = MemoryBroker(history, Keys(100), Metrics(), self.wall, self.steady)
        else:
            self.server = Run(
                self._path,
                self.kind,
                OPTIONS.__getitem__,
                self.wall,
                steady=self.steady,
                room=self._room(),
            )
            self.broker = self.server.broker
        self.node = Node(
            self.broker,
            self.steady,
            Limits(),
            "test",
            self.wall,
            self.steady,
            self.run,
            self._reported,
            Hooks(self),
        )
        self.broker.attach(self._deliver)
        self._on_evict = self.node.history.room.on_evict
        self.node.history.room.on_evict = self._made_room
        self._make = self.node.history.room.make
        self.node.history.room.make = self._use_and_make  # type: ignore[method-assign]
        self._append = self.node.history.append
        self.node.history.append = self._use_and_append  # type: ignore[method-assign]
        self.node.hub.on_leave.append(lambda channel, subscriber: self._use(channel))
        self.epoch, self.seq = self.node.history.epoch, self.node.history.seq
        self.steady.calls.clear()

    def _room(self) -> Room:
        return Room(*TIGHT) if self.tight else Room()

    def stop(self, fails: bool = False) -> None:
        """Stop the server in order, and start it; one commit may fail."""
        self.hooks.clear()
        self.reactions.clear()
        self.node.stop_publishing()
        if fails:
            self.fail()
        settled: list[Any] = []
        Deferred.fromCoroutine(self.node.settle()).addBoth(settled.append)
        while not settled:
            self.commit()
        assert settled == [None]
        self.steady.pass_on()
        for attempt in self.attempts:
            assert attempt.lost or attempt.outcome is not None, "a publisher without an answer"
        for guest in self.guests:
            guest.check_live()
        for peer in tuple(self.node.peers):
            peer.shut_down()
        for client in self.clients:
            if client.transport is not None and client.transport.closed is not None:
                assert client.transport.closed[0] == 3001
                assert client.session is not None
                client.session.closed()
        for listener in self.listeners:
            if listener.transport is not None and listener.transport.closed is not None:
                assert listener.transport.closed[0] == 1001
                assert listener.stream is not None
                listener.stream.closed()
        assert len(self.node.peers) == 0
        if self.server is not None:
            self.server.stop()
        self._restart(orderly=True)

    def kill(self, written: bool = False) -> None:
        """Kill the server and start it; the commit may be `written` and its end not noticed."""
        rows: Sequence[Publication] = ()
        if THREAD.jobs and written:
            batch = self._batch()
            THREAD.work_unnoticed()
            rows = batch.rows
            self.committed = batch.seq
        if self.server is not None:
            self.server.kill()
        for attempt in self.attempts:
            attempt.lost = attempt.lost or attempt.outcome is None
        self.waiting_keys.clear()
        if self.kind == "sync":
            for row in rows:
                self.add(row, self._job_time)
        self._restart(orderly=False)

    def _restart(self, orderly: bool) -> None:
        before = self.epoch, self.seq
        self._start()
        same = self.kind == "sync" or (self.kind == "batched" and orderly)
        assert (self.epoch == before[0]) is same, "the epoch"
        if self.kind == "memory":
            self.seq = 0
        elif orderly or self.kind == "sync":
            assert self.seq == before[1]
        else:
            assert self.seq == self.committed, "more than the last batch is lost"
        self.committed = self.seq
        self._job = None
        for name, log in self.logs.items():
            self._compare_start(name, log, orderly)
            self.clearing[name].clear()
        self._restart_keys()
        for guest in self.guests:
            guest.new_run(epoch_is_new=not same)

    def _compare_start(self, name: str, log: Log, orderly: bool) -> None:
        """Compare a channel that was loaded with its list."""
        channel = self.node.history.peek(name)
        self.tops[name, channel.epoch] = channel.top
        rows = channel.after(0)
        loaded = [int(row.data) for row in rows]
        log.numbers = [number for number in log.numbers if self.seqs[number] <= self.seq]
        log.kept = [row for row in log.kept if row.seq <= self.seq]
        times = births([r.publication.time for r in log.kept], self.wall.now, self.steady.now)
        ttl = OPTIONS[name].history_ttl
        young = [
            row.number
            for row, born in zip(log.kept, times, strict=True)
            if not ttl or born + ttl > self.steady.now
        ]
        if self.clearing[name] and not set(young).issubset(loaded):
            # The commit of the clear is in the file, with the rows of the same commit.
            young = [number for number in young if number in loaded]
        if orderly or self.kind == "memory":
            assert loaded == young, "not what was retained"
        elif self.tight and len(loaded) < len(young):
            # Evicted rows of other channels may have returned, and take their room.
            assert young[len(young) - len(loaded) :] == loaded
            young = loaded
        if self.tight and log.numbers and name not in self.node.history.channels:
            self.forgets += 1
        self.used[name] = rows[-1].seq if rows else channel.floor_seq
        self.gone[name] = 0
        # Rows that were evicted may have returned, since they are deleted by a later commit.
        assert loaded[len(loaded) - len(young) :] == young, "an acknowledged publication is lost"
        assert loaded == log.numbers[len(log.numbers) - len(loaded) :]
        times = births([row.time for row in rows], self.wall.now, self.steady.now)
        log.kept = [Row(int(r.data), r, born) for r, born in zip(rows, times, strict=True)]
        for row in rows:
            self.note(name, row.epoch, row.offset, int(row.data))
            self.note_id(row.id, int(row.data))

    def _restart_keys(self) -> None:
        for place, key in list(self.keys.items()):
            before = key.before
            if key.seq > self.seq and before is not None and before.seq <= self.seq:
                # Its row is in the file, and was not replaced before a kill.
                before.sure, before.born = False, self.steady.now
                self.keys[place] = before
            elif key.seq > self.seq or (
                not key.stepped and key.born + REMEMBERED_SECONDS <= self.steady.now
            ):
                del self.keys[place]
            elif key.stepped:
                key.sure, key.born = False, self.steady.now

    # -- operations

    def do(self, operation: str, *arguments: Any) -> None:
        """Run an operation of the test, and check everything."""
        getattr(self, operation)(*arguments)
        self.check()

    def publish(self, channel: str, key: str = "") -> None:
        attempt = self.attempt(channel, key)
        draft = Draft(channel, b"%d" % attempt.number, key=key)
        done = Deferred.fromCoroutine(self.node.publish(draft))
        done.addCallbacks(lambda receipt: self.answered(attempt, receipt), self.failed(attempt))
        done.addErrback(self.problem)

    def ask(self, client: int, channel: str, method: str) -> None:
        """Publish as a client."""
        self.clients[client].publish(channel, method)

    def come(self, client: int, channel: str) -> None:
        self.clients[client].come(channel)

    def come_from_zero(self, client: int, channel: str) -> None:
        self.clients[client].come_from_zero(channel)

    def go(self, client: int, channel: str) -> None:
        self.clients[client].go(channel)

    def follow(self, listener: int, oldest: bool = False) -> None:
        self.listeners[listener].come(oldest)

    def vanish(self, guest: int) -> None:
        self.guests[guest].vanish()  # type: ignore[attr-defined]

    def clear(self, channel: str) -> None:
        log = self.logs[channel]
        numbers = {row.number for row in log.kept}
        clearing = self.clearing[channel]
        clearing.append(numbers)

        def cleared(_: None) -> None:
            clearing.remove(numbers)
            found = [int(row.data) for row in self.node.history.peek(channel).after(0)]
            # It may have removed publications that came while it waited.
            assert numbers.isdisjoint(found), "acknowledged and not removed"
            kept = [row.number for row in log.kept]
            assert kept[len(kept) - len(found) :] == found, "more than the first rows are gone"
            log.kept = log.kept[len(kept) - len(found) :]

        def failed(failure: Failure) -> None:
            clearing.remove(numbers)
            assert failure.check(Unavailable) is not None

        done = Deferred.fromCoroutine(self.node.clear(channel))
        done.addCallbacks(cleared, failed)
        done.addErrback(self.problem)

    def commit(self) -> None:
        if THREAD.jobs:
            self._note_job()
            batch = self._batch()
            self.committed = batch.seq
            self._end_job(batch, THREAD.work)

    def fail(self) -> None:
        if THREAD.jobs:
            self._end_job(self._batch(), THREAD.fail)

    def _end_job(self, batch: Batch, end: Callable[[], object]) -> None:
        """End the commit; the channels of a sync one are pinned meanwhile, and then used."""
        assert self.server is not None
        names = {row.channel for row in batch.rows} | set(self.node.history._pinned)
        if self.kind != "sync":
            names.clear()
        self.used.update(dict.fromkeys(names, math.inf))
        end()
        self.used.update(dict.fromkeys(names, next(self._uses)))

    def advance(self, seconds: float) -> None:
        self._note_job()
        self.wall.now += seconds
        self.steady.now += seconds
        if self.server is not None:
            self.server.tick(seconds)
        self.steady.turn()

    def step(self, seconds: float) -> None:
        """Set the wall clock."""
        self._note_job()
        self.wall.now += seconds
        self._job_stepped = True
        for key in self.keys.values():
            key.stepped = True

    def sweep(self) -> None:
        history = self.node.history
        before = set(history.channels)
        for name, log in self.logs.items():
            if ttl := OPTIONS[name].history_ttl:
                log.kept = [row for row in log.kept if row.born + ttl > self.steady.now]
        self.node.expire()
        for name in before - set(history.channels):
            assert not self.logs[name].kept, "a channel with rows was forgotten"
            assert not self.node.hub.is_watched(name)
            self.forgets += 1
        for name, channel in history.channels.items():
            needed = len(channel) or self.node.hub.is_watched(name) or name in history._pinned
            assert needed, "a channel is kept for ever"

    def turn(self) -> None:
        self.steady.turn()

    def react(self, *operation: Any) -> None:
        """Run this operation while a guest receives its next frame."""
        self.reactions.append(operation)

    def hook(self, *operation: Any) -> None:
        """Run this operation in the next handler of the application."""
        self.hooks.append(operation)

    def finish(self) -> None:
        """End everything that is under way, and the server."""
        self.hooks.clear()
        self.reactions.clear()
        while THREAD.jobs:
            self.do("commit")
        self.steady.pass_on()
        self.check()
        for attempt in self.attempts:
            assert attempt.lost or attempt.outcome is not None, "a publisher without an answer"
        assert self.waiting_keys == {}
        assert not any(self.clearing.values())
        self.stop()
        self.check()
        if self.server is not None:
            self.server.stop()

    # -- calls from the server

    def run_reaction(self) -> None:
        if self.reactions:
            operation, *arguments = self.reactions.pop(0)
            getattr(self, operation)(*arguments)

    def run_hook(self) -> None:
        if self.hooks:
            operation, *arguments = self.hooks.pop(0)
            getattr(self, operation)(*arguments)

    def _deliver(self, row: Publication, _: Sequence[str] = ()) -> None:
        with self.noted():
            self.add(row, self._job_time if self.kind == "sync" else self.steady.now)
        self.node.hub.deliver(row)

    def add(self, row: Publication, born: float) -> None:
        super().add(row, born)
        log = self.logs[row.channel]
        log.kept = [each for each in log.kept if each.seq > self.gone[row.channel]]
        key = self.keys.get((row.channel, self.attempts[int(row.data)].key))
        if key is not None and self.kind == "sync":
            # The time of the row is from the start of the commit.
            key.stepped = self._job_stepped

    def _use_and_append(self, publication: Publication, born: float) -> int:
        self._use(publication.channel)
        return self._append(publication, born)

    def _use_and_make(self, names: Sequence[str]) -> None:
        self.node.history.room.check(names)
        for name in names:
            self._use(name)
        self._make(names)

    def _use(self, channel: str) -> None:
        if self.used[channel] != math.inf:
            self.used[channel] = next(self._uses)

    def _is_idle(self, name: str) -> bool:
        history = self.node.history
        channel = history.channels.get(name)
        # Checked below, but one that is being joined is not in the hub yet.
        is_watched = channel is not None and channel.watched
        return not (is_watched or name in TIGHT[2] or name in history._pinned)

    def check_full(self, channels: Sequence[str]) -> None:
        names = self.node.history.channels
        new = [channel for channel in channels if channel not in names]
        held = [name for name in names if name in channels or not self._is_idle(name)]
        assert self.tight
        assert len(held) + len(new) > TIGHT[1], "refused although there is room"

    def _made_room(self, name: str, rows: int, setting: str) -> None:
        """A channel makes room: it must be the right one."""
        with self.noted():
            history = self.node.history
            idle = [other for other in history.channels if self._is_idle(other)]
            if name in history.channels:
                left = len(history.channels[name])
                assert (idle, left) == ([], (left + rows) // 2)
                assert setting == "history_total_bytes"
                self.gone[name] = history.channels[name].floor_seq
            else:
                assert self._is_idle(name)
                assert all(self.used[name] <= self.used[other] for other in idle)
                self.gone[name] = history.seq
                self.forgets += 1
            log = self.logs[name]
            log.kept = [row for row in log.kept if row.seq > self.gone[name]]
        self._on_evict(name, rows, setting)

    def _reported(self, text: str) -> None:
        with self.noted():
            raise AssertionError(text)

    # -- checks

    def check(self) -> None:
        if self.problems:
            raise self.problems[0]
        self._note_job()
        history = self.node.history
        assert history.seq == self.seq
        for name, log in self.logs.items():
            channel = self.node.history.peek(name)
            rows = channel.after(0)
            found, kept = [int(row.data) for row in rows], [row.number for row in log.kept]
            assert found == kept or self.clearing[name], "not what is retained"
            assert [row.offset for row in rows] == list(range(channel.floor + 1, channel.top + 1))
            assert [row.seq for row in rows] == sorted({row.seq for row in rows})
            assert [row.time for row in rows] == sorted(row.time for row in rows)
        if self.tight:
            self._check_bounds()
        if not self.steady.calls:
            for guest in self.guests:
                guest.check_live()
        if not THREAD.jobs:
            assert self.waiting_keys == {}, "a key stays pending"

    def _check_bounds(self) -> None:
        room, channels = self.node.history.room, self.node.history.channels
        rows = [row for channel in channels.values() for row in channel.after(0)]
        size = sum(map(_empty, channels)) + sum(map(memory_bytes, rows))
        assert room.bytes == size, "not what is kept"
        for name, channel in channels.items():
            assert channel.watched == self.node.hub.is_watched(name)
        # Those of a sync commit are made without a question.
        pinned = self.node.history._pinned
        assert size <= TIGHT[0] + sum(map(_empty, pinned)), "too many bytes"
        assert len(channels) <= TIGHT[1] + 1 + len(pinned), "too many channels"

    def _note_job(self) -> None:
        """Note the time of a commit that has started."""
        job = THREAD.jobs[0] if THREAD.jobs else None
        if job is not self._job:
            self._job, self._job_time, self._job_stepped = job, self.steady.now, False

    def _batch(self) -> Batch:
        """The batch of the commit that is running."""
        job: Any = THREAD.jobs[0][1]
        batch: Batch = job.args[0]
        return batch


def _empty(channel: str) -> int:
    """The memory of a channel of this name without publications."""
    return CHANNEL_BYTES + len(channel)
