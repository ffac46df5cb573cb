"""The store in both durabilities: the wall clock, starts and ends, and any sequence of events."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.history import History
from pushserver.channels.idempotency import Keys
from pushserver.channels.publication import Publication, Receipt
from pushserver.errors import StartFailed, Unavailable
from pushserver.hub.metrics import Metrics
from pushserver.store.committer import Committer
from pushserver.store.sqlite import SqliteFile
from tests.unit.fakes.tools import Time
from tests.unit.store.runs import (
    THREAD,
    Answer,
    Run,
    folder_in_memory,
)


@pytest.mark.parametrize("durability", ["batched", "sync"])
@pytest.mark.usefixtures("_expects_store_problems")
class TestWallClockIsSet:
    """The steady clock is not affected."""

    HOUR = 3_600.0

    def start(self, path: Path, durability: str, wall: float = 0.0, **options: Any) -> Run:
        time, steady = Time(Time().now + wall), Time(500.0)
        return Run(path, durability, ChannelOptions(**options), time, steady=steady)

    def commit(self, run: Run) -> None:
        run.tick()
        THREAD.finish()

    def test_forward_and_back_keeps_keys_in_the_file(self, path: Path, durability: str) -> None:
        run = self.start(path, durability)
        first = run.publish(1, key="k")
        self.commit(run)
        run.time.now += self.HOUR
        run.publish(2, key="other")
        self.commit(run)
        run.stop()
        again = self.start(path, durability, 60)
        assert again.publish(1, key="k").result == first.result

    @pytest.mark.parametrize("step", [-HOUR, HOUR, -3e8])
    def test_keys_last_five_minutes(self, path: Path, durability: str, step: float) -> None:
        run = self.start(path, durability)
        first = run.publish(1, key="k")
        self.commit(run)
        run.time.now += step
        run.steady.now += 299
        assert run.publish(1, key="k").offset == first.offset
        run.steady.now += 1
        second = run.publish(1, key="k")
        self.commit(run)
        assert second.offset == 2

    def test_expired_keys_are_deleted_from_the_file(self, path: Path, durability: str) -> None:
        run = self.start(path, durability)
        run.publish(1, key="k")
        self.commit(run)
        run.time.now -= self.HOUR
        run.steady.now += 301
        run.broker.expire(run.steady.now, lambda name: False)
        run.publish(2, key="l")
        self.commit(run)
        run.stop()
        with closing(sqlite3.connect(path)) as database:
            assert database.execute("SELECT key FROM keys").fetchall() == [("l",)]

    @pytest.mark.parametrize("runs", [1, 2])
    def test_back_between_runs_does_not_bring_an_expired_key_back(
        self, path: Path, durability: str, runs: int
    ) -> None:
        """It expires in the only run, or before the start of a second one."""
        run = self.start(path, durability)
        run.publish(1, key="k")
        self.commit(run)
        if runs == 2:
            run.stop()
            run = self.start(path, durability, 301)
        else:
            run.steady.now += 301
        run.stop()
        again = self.start(path, durability, -self.HOUR)
        second = again.publish(2, key="k")
        self.commit(again)
        assert second.offset == 2

    def test_back_does_not_extend_a_key_after_a_restart(self, path: Path, durability: str) -> None:
        """The row of the key has the time of the row before it."""
        run = self.start(path, durability)
        run.publish(1)
        self.commit(run)
        run.time.now -= self.HOUR
        run.publish(2, key="k")
        self.commit(run)
        run.stop()
        again = self.start(path, durability, 301 - self.HOUR)
        third = again.publish(2, key="k")
        self.commit(again)
        assert third.offset == 3

    @pytest.mark.parametrize("step", [-HOUR, HOUR, -3e8, 3e8])
    def test_rows_last_their_ttl(self, path: Path, durability: str, step: float) -> None:
        run = self.start(path, durability, history_ttl=100)
        run.publish(1)
        self.commit(run)
        run.time.now += step
        run.steady.now += 99
        run.publish(2)
        self.commit(run)
        run.broker.expire(run.steady.now, lambda name: False)
        assert run.data == {"a": [1, 2]}
        run.steady.now += 1
        run.broker.expire(run.steady.now, lambda name: False)
        assert run.data == {"a": [2]}
        rows = run.history.channels["a"].after(0)
        assert [row.time for row in rows] == [max(Time().now, run.time.now)]

    def test_expired_rows_are_left_out_at_a_start(self, path: Path, durability: str) -> None:
        run = self.start(path, durability, history_ttl=2)
        run.publish(1)
        self.commit(run)
        run.stop()
        again = self.start(path, durability, 4, history_ttl=2)
        assert again.data == {"a": []}
        second = again.publish(2)
        self.commit(again)
        assert second.offset == 2


class TestFailedStart:
    """Raises StartFailed with the file and the reason."""

    def test_with_a_file_that_is_no_database(self, path: Path) -> None:
        path.write_bytes(b"x" * 5_000)
        with pytest.raises(StartFailed, match=r"^pushserver: cannot use .*s\.db: file is not a"):
            Run(path)

    def test_with_a_file_that_cannot_be_read(self, path: Path) -> None:
        file = SqliteFile(str(path), "sync")
        file._db.execute("INSERT INTO channels VALUES ('a', 5, 0, 0, 0)")
        file.close()
        with pytest.raises(StartFailed, match=r"cannot read .*s\.db: channel a ends at 0"):
            Run(path)

    def test_committer_creates_no_file_before_the_start(self, path: Path) -> None:
        history = History(lambda name: ChannelOptions())
        Committer(
            str(path), "sync", THREAD, cast(Any, Clock()), Time(), history, Keys(1), Metrics()
        )
        assert not path.exists()


# -- any sequence of events in the life of a server ---------------------------------------------

PUBLISH = st.tuples(st.just("publish"), st.sampled_from("ab"), st.sampled_from(["", "k", "l"]))
PLAIN = st.sampled_from(
    [
        ("tick",),
        ("commit",),
        ("commit",),
        ("fail",),
        ("clear", "a"),
        ("expire",),
        ("later",),
        ("remember",),
        ("remember",),
        ("stop",),
        ("kill",),
        ("kill unnoticed",),
    ]
)
STEPS = st.lists(PUBLISH | PLAIN | PUBLISH, min_size=1, max_size=40)
OPTIONS = ChannelOptions(history_size=4, history_ttl=100.0)


class Ledger:
    """The publications that clients have seen, which must not change."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str, int], tuple[int, int]] = {}
        self.by_seq: dict[tuple[str, int], tuple[str, int]] = {}

    def note(self, row: Publication) -> None:
        """Note a publication that a client has seen."""
        data = int(row.data)
        assert self.rows.setdefault((row.epoch, row.channel, row.offset), (row.seq, data)) == (
            row.seq,
            data,
        )
        position = (row.channel, row.offset)
        assert self.by_seq.setdefault((row.epoch, row.seq), position) == position

    def check(self, run: Run) -> None:
        """Note the whole history, and check its numbers."""
        for channel in run.history.channels.values():
            rows = channel.after(0)
            assert [r.offset for r in rows] == list(range(channel.floor + 1, channel.top + 1))
            seqs = [r.seq for r in rows]
            assert seqs == sorted(set(seqs))
            assert not rows or channel.floor_seq < seqs[0]
            for row in rows:
                self.note(row)


class Story:
    """A server in all its runs, and the answers that its clients got."""

    def __init__(self, path: Path, durability: str):
        self._path = path
        self._durability = durability
        self._time = Time()
        self._count = 0
        self.ledger = Ledger()
        self._pending: list[tuple[int, str, str, Answer]] = []
        self._attempts: dict[tuple[str, str], set[int]] = {}
        self.run = self._start()

    def _start(self) -> Run:
        return Run(self._path, self._durability, OPTIONS, self._time)

    def step(self, event: str, *arguments: str) -> None:
        getattr(self, f"do_{event.replace(' ', '_')}")(*arguments)
        self._read_answers()
        self.ledger.check(self.run)
        # The memory is never newer than the history.
        remembered = self.run.memory.get("s") or 0
        assert isinstance(remembered, int)
        assert remembered <= self.run.history.seq

    def do_publish(self, channel: str, key: str) -> None:
        self._count += 1
        if key:
            self._attempts.setdefault((channel, key), set()).add(self._count)
        answer = self.run.publish(self._count, channel, key)
        self._pending.append((self._count, channel, key, answer))

    def do_tick(self) -> None:
        self._time.now += 1
        self.run.tick(1.0)

    def do_commit(self) -> None:
        if THREAD.jobs:
            THREAD.work()

    def do_fail(self) -> None:
        if THREAD.jobs:
            THREAD.fail()

    def do_clear(self, channel: str) -> None:
        self.run.clear(channel)

    def do_remember(self) -> None:
        """Remember the number of the last acknowledged publication, as a source does."""
        self.run.memory.set("s", self.run.history.seq)

    def do_expire(self) -> None:
        self.run.broker.expire(self._time.now, lambda name: False)

    def do_later(self) -> None:
        self._time.now += 60

    def do_stop(self) -> None:
        self.run.stop()
        self._read_answers()
        before = self.run
        self.run = self._start()
        assert self.run.history.epoch == before.history.epoch
        assert self.run.history.seq == before.history.seq
        kept = {n: c for n, c in before.history.channels.items() if c.top}
        assert {n: c.top for n, c in self.run.history.channels.items()} == {
            n: c.top for n, c in kept.items()
        }
        # A start leaves out expired rows without a sweep.
        for channel in before.history.channels.values():
            channel.expire(self._time.now)
        assert self._read(self.run) == self._read(before)
        assert self.run.memory.get("s") == before.memory.get("s")

    def do_kill(self) -> None:
        for log in self.run.history.channels.values():
            log.expire(self._time.now)
        before = self._read(self.run)
        epoch, seq = self.run.history.epoch, self.run.history.seq
        self.run.kill()
        self._pending.clear()
        self.run = self._start()
        if self._durability == "batched":
            assert self.run.history.epoch != epoch
        else:
            assert self.run.history.epoch == epoch
            assert self.run.history.seq >= seq
            # No acknowledged publication is lost; evicted ones may have returned.
            after = self._read(self.run)
            for channel, rows in before.items():
                assert rows == after.get(channel, [])[-len(rows) :] if rows else True

    def do_kill_unnoticed(self) -> None:
        """Kill the server when the commit is written and before the reactor knows."""
        if THREAD.jobs:
            THREAD.work_unnoticed()
            self.run.kill()
            epoch = self.run.history.epoch
            self._pending.clear()
            self.run = self._start()
            assert (self.run.history.epoch == epoch) is (self._durability == "sync")

    @staticmethod
    def _read(run: Run) -> dict[str, list[tuple[int, int, int]]]:
        return {
            name: [(r.offset, r.seq, int(r.data)) for r in channel.after(0)]
            for name, channel in run.history.channels.items()
            if len(channel)
        }

    def _read_answers(self) -> None:
        for row in self.run.delivered:
            self.ledger.note(row)
        waiting = []
        for entry in self._pending:
            number, channel, key, answer = entry
            if answer.waits:
                waiting.append(entry)
                continue
            try:
                receipt: Receipt = answer.result
            except Unavailable:
                assert all(int(row.data) != number for row in self.run.delivered)
                continue
            self._acknowledged(number, channel, key, receipt)
        self._pending = waiting

    def _acknowledged(self, number: int, channel: str, key: str, receipt: Receipt) -> None:
        seq, data = self.ledger.rows[receipt.epoch, channel, receipt.offset]
        assert seq == receipt.seq
        # With a key, the receipt may be that of an earlier publication with the same key.
        assert data == number or (key and data in self._attempts[channel, key])
        if data != number:
            assert all(int(row.data) != number for row in self.run.delivered)


@pytest.mark.parametrize("durability", ["sync", "batched"])
@pytest.mark.usefixtures("_expects_store_problems")
@settings(max_examples=60)
@given(steps=STEPS)
def test_no_number_is_used_twice_and_no_acknowledged_publication_is_lost(
    durability: str, steps: list[tuple[str, ...]]
) -> None:
    with folder_in_memory() as folder:
        story = Story(Path(folder, "s.db"), durability)
        for step in steps:
            story.step(*step)
        story.do_commit()
        story.do_stop()
        story.run.stop()
