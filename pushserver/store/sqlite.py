"""Loads and writes the SQLite file of the store; all calls block."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pushserver.channels.forgotten import bucket
from pushserver.channels.history import History, new_epoch
from pushserver.channels.idempotency import Keys
from pushserver.channels.position import channel_epoch
from pushserver.channels.publication import Publication, memory_bytes
from pushserver.store.batch import Batch, ChannelState, state
from pushserver.store.locks import unlock
from pushserver.store.opening import REMEDY, StoreError, open_database, transaction
from pushserver.store.removal import Dead, delete, delete_all, empty
from pushserver.store.rows import (
    KEY_COLUMNS,
    MEMORY_COLUMNS,
    PUBLICATION_COLUMNS,
    key_of,
    memory_of,
    publication_of,
    publication_row,
)
from pushserver.store.schema import meta, set_meta
from pushserver.store.source_memory import SourceMemory
from pushserver.store.wal import Log, log_of, log_path
from pushserver.usercode.steady import births

_CHECKPOINT_PAGES = 1_000
"""SQLite's default."""


@dataclass(slots=True)
class Changes:
    """The changes to the file at its start: channels with rows that were not loaded.

    `forgotten` has the last seq of each channel that was not loaded at all; `left_out` is the
    number of rows for which there was no room.
    """

    states: list[ChannelState] = field(default_factory=list)
    forgotten: dict[str, int] = field(default_factory=dict)
    left_out: int = 0


class SqliteFile:
    """An open file, locked for other processes.

    The start sets the mark `running` and an orderly `close` removes it: if a start finds it, the
    last run was killed. In `batched` mode that run may have sent numbers that are not in the
    file, so the numbering continues under a new epoch; in `sync` mode the file has all of them.

    A copy in the place of the file may be older than the numbers that were sent. A file with
    another inode than at the last start gets a new epoch too, and so does one whose log was
    removed after the run was killed.
    """

    def __init__(self, path: str, durability: str, mode: int = 0o600):
        """Open or create the file, with this mode; raises StoreError."""
        opened = open_database(path, mode)
        self._db, self._inode, self._lock = opened.database, opened.inode, opened.lock
        self._log_is_missing, self.copy = opened.log_is_missing, opened.copy
        self._path = path
        self._mode = mode
        self._durability = durability
        self._log: Log | None = None
        self.left_out = 0
        """The publications that were removed at the start, for lack of room."""

    def load(
        self, history: History, keys: Keys, memory: SourceMemory, wall: float, now: float
    ) -> bool:
        """Fill history, keys and memory from the file, and mark it as running.

        The file has Unix times: `wall` is the current Unix time, `now` that of the steady clock.
        Expired rows and keys are left out, and rows deleted; so are the oldest rows if there is
        no room for all. Returns False if the numbering had to continue under a new epoch.
        """
        try:
            return self._load(history, keys, memory, wall, now)
        except (sqlite3.Error, ValueError, OSError) as error:
            remedy = "" if isinstance(error, (OSError, sqlite3.OperationalError)) else REMEDY
            raise StoreError(f"cannot read {self._path}: {error}{remedy}") from None

    def _load(
        self, history: History, keys: Keys, memory: SourceMemory, wall: float, now: float
    ) -> bool:
        epoch = meta(self._db, "epoch")
        killed = meta(self._db, "running")
        log_is_lost = killed and meta(self._db, "wal") and self._log_is_missing
        trusted = killed != "batched" and not log_is_lost and meta(self._db, "inode") == self._inode
        history.epoch = epoch if epoch and trusted else new_epoch()
        history.seq = meta(self._db, "seq") or 0
        # Only a file from before the buckets has a number for all of them.
        seqs = self._db.execute("SELECT bucket, seq FROM forgotten")
        history.forgotten.restore(meta(self._db, "forgotten_seq") or 0, seqs)
        changes = self._load_channels(history, wall, now)
        self.left_out = changes.left_out
        self._load_keys(keys, wall, now)
        memory.restore(map(memory_of, self._db.execute(f"SELECT {MEMORY_COLUMNS} FROM memory")))
        mark = {"epoch": history.epoch, "running": self._durability, "inode": self._inode}
        # Synced in both modes: the mark must survive a power cut.
        self._begin_log(mark.items(), changes, keys.forgotten_seq)
        if self._durability == "batched":
            self._db.execute("PRAGMA synchronous=NORMAL")
        return trusted or not epoch

    def _begin_log(
        self,
        values: Iterable[tuple[str, object]],
        changes: Changes | None = None,
        forgotten_keys: int = 0,
    ) -> None:
        """Write the log to the database, and begin a new one with these values.

        The database has no record of a log in between: an end between the first write to the new
        log and the checkpoint after it would leave the record of the old one. While a backup reads
        it, the present log goes on: it belongs to the database, which has its record.
        """
        if self._end_log():
            self._write([("wal", "")])
            self._db.execute("PRAGMA journal_mode=WAL")
        self._write(values, changes, forgotten_keys)
        self._record_log()
        self._db.execute("PRAGMA wal_checkpoint")

    def _end_log(self) -> bool:
        """Write the log to the database and remove it; False if a reader has the log open."""
        try:
            self._db.execute("PRAGMA journal_mode=DELETE")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or log_of(self._path) is None:
                raise
            return False
        return True

    def _load_channels(self, history: History, wall: float, now: float) -> Changes:
        """Fill the channels while there is room, the last one that was published to first."""
        changes, room = Changes(), history.room
        self._db.create_function("lasting", 1, room.lasting.__contains__, deterministic=True)
        for name, top, floor, floor_seq, generation, last, dead in self._db.execute(
            "SELECT name, top, floor, floor_seq, generation, coalesce((SELECT seq"
            " FROM publications WHERE channel = name AND offset = top), floor_seq) AS last"
            ", EXISTS (SELECT 1 FROM publications WHERE channel = name AND offset <= floor)"
            " FROM channels ORDER BY lasting(name) DESC, last DESC, name"
        ):
            if not isinstance(generation, int):
                raise ValueError(f"channel {name} has generation {generation!r:.40}")
            epoch = channel_epoch(history.epoch, generation)
            rows, after = self._newest_rows(name, epoch, floor, top, room.left(name))
            if after is None and room.left(name) >= 0:
                channel = history.restore(name, epoch, floor, floor_seq)
            elif after is not None and rows:
                changes.left_out += after.offset - floor
                channel = history.restore(name, epoch, after.offset, after.seq)
            else:
                changes.left_out += top - floor
                history.forgotten.add(name, last)
                changes.forgotten[name] = history.forgotten.seq(name)
                continue
            for row, born in zip(rows, births([r.time for r in rows], wall, now), strict=True):
                room.append(channel, row, born)
            if channel.top != top:
                raise ValueError(f"channel {name} ends at {channel.top}, expected {top}")
            if room.expire(channel, now) or after is not None or dead:
                changes.states.append(state(channel))
        room.reverse()
        return changes

    def _newest_rows(
        self, name: str, epoch: str, floor: int, top: int, left: int
    ) -> tuple[list[Publication], Publication | None]:
        """The last rows of a channel with at most `left` bytes, and the one before them, if any."""
        rows: list[Publication] = []
        for row in self._db.execute(
            f"SELECT {PUBLICATION_COLUMNS} FROM publications"
            " WHERE channel = ? AND offset > ? AND offset <= ? ORDER BY offset DESC",
            (name, floor, top),
        ):
            publication = publication_of(name, epoch, row)
            left -= memory_bytes(publication)
            if left < 0:
                return rows[::-1], publication
            rows.append(publication)
        return rows[::-1], None

    def _load_keys(self, keys: Keys, wall: float, now: float) -> None:
        select = f"SELECT {KEY_COLUMNS} FROM keys ORDER BY seq"
        entries = [key_of(row) for row in self._db.execute(select)]
        times = births([entry.time for entry in entries], wall, now)
        for entry, born in zip(entries, times, strict=True):
            keys.remember(entry, born)
        while keys.expire(now):
            pass

    def commit(self, batch: Batch) -> None:
        """Write all of the batch, or raise StoreError.

        Then the file has nothing of it, but forgotten channels may have lost their rows.
        """
        try:
            self._check_files()
            empty(self._db, batch.forgotten, self._record_log)
            with transaction(self._db):
                dead = self._commit(batch)
        except (sqlite3.Error, OSError) as error:
            if self._durability == "sync":
                self._overwrite_failed_commit()
            raise StoreError(f"cannot write {self._path}: {error}") from None
        # The batch is in the file: a later error must not have it written again. Rows that are not
        # deleted now are deleted with a later state of their channel, or at a start.
        with contextlib.suppress(StoreError, OSError, sqlite3.Error):
            self._record_log()
            delete_all(self._db, dead, self._record_log)

    def _check_files(self) -> None:
        """Raise StoreError if the path leads to no file, or another; replace a removed log.

        SQLite writes to files that it has open, also when no later start can find them.
        """
        try:
            present = os.stat(self._path).st_ino == self._inode
        except FileNotFoundError:
            present = False
        except OSError as error:
            raise StoreError(f"cannot write {self._path}: {error}") from None
        if not present:
            raise StoreError(
                f"cannot write {self._path}: it was removed or replaced while the server runs; put"
                " it back, or restart the server"
            )
        if not os.path.exists(log_path(self._path)):
            self._begin_log([("inode", self._inode)])

    def _overwrite_failed_commit(self) -> None:
        """Write another commit over one that may be in the log, although its sync has failed.

        A start after a kill would take it from there: a publication whose publisher was told that
        it failed. The log's checksums are cumulative, so a different first page is enough.
        """
        with contextlib.suppress(sqlite3.Error, StoreError):
            # Nothing may wait for a sync, which would fail again. A checkpoint without one could
            # damage the database.
            self._db.execute("PRAGMA wal_autocheckpoint=0")
            self._db.execute("PRAGMA synchronous=OFF")
            try:
                self._write([("failed", secrets.token_hex(4))])
            finally:
                self._db.execute("PRAGMA synchronous=FULL")
                self._db.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")

    def _record_log(self) -> None:
        """Record the present log, so that a start can tell it from that of another database."""
        log = log_of(self._path)
        if log is not None and log != self._log:
            self._write([("wal", str(log))])
            self._log = log

    def _commit(self, batch: Batch) -> Sequence[Dead]:
        """Write the batch; return the rows that are still to be deleted."""
        many = self._db.executemany
        self._forget_channels(batch.forgotten)
        many(
            "INSERT INTO publications VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            map(publication_row, batch.rows),
        )
        dead = self._set_states(batch.states)
        many(
            "INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?, ?, ?)",
            (
                (k.channel, k.key, k.receipt.epoch, k.receipt.seq, k.receipt.offset, k.time)
                for k in batch.keys
            ),
        )
        many("INSERT OR REPLACE INTO memory VALUES (?, ?)", batch.memory.items())
        if batch.keys:
            self._forget_keys(batch.forgotten_keys)
        set_meta(self._db, [("seq", batch.seq)])
        return dead

    def _forget_channels(self, forgotten: Mapping[str, int]) -> None:
        """Delete these channels, and set the seqs of their buckets."""
        many = self._db.executemany
        many("DELETE FROM publications WHERE channel = ?", ((name,) for name in forgotten))
        many("DELETE FROM channels WHERE name = ?", ((name,) for name in forgotten))
        many(
            "INSERT OR REPLACE INTO forgotten VALUES (?, ?)",
            ((bucket(name), seq) for name, seq in forgotten.items()),
        )

    def _forget_keys(self, seq: int) -> None:
        """Delete the keys up to `seq`; not by time, since the wall clock may have been set."""
        self._db.execute("DELETE FROM keys WHERE seq <= ?", (seq,))

    def _set_states(self, states: Sequence[ChannelState]) -> Sequence[Dead]:
        """Write the numbers of channels; return the rows that are still to be deleted."""
        self._db.executemany(
            "INSERT OR REPLACE INTO channels VALUES (?, ?, ?, ?, ?)",
            ((s.name, s.top, s.floor, s.floor_seq, s.generation) for s in states),
        )
        return delete(self._db, [(s.name, s.floor) for s in states])

    def close(self, forgotten_keys: int = 0) -> None:
        """Remove the mark and the keys up to this seq, and close.

        Raises StoreError, and stays open.
        """
        self._check_files()
        self._write([("running", "")], forgotten_keys=forgotten_keys)
        self._db.close()
        self._unlock()

    def abandon(self) -> None:
        """Close, and leave the mark that the run was killed."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
        self._unlock()
        # SQLite removes a log that it could write to the database; after a kill there is one.
        with contextlib.suppress(OSError):
            os.close(os.open(log_path(self._path), os.O_WRONLY | os.O_CREAT, self._mode))

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        unlock(lock)

    def _write(
        self,
        values: Iterable[tuple[str, object]],
        changes: Changes | None = None,
        forgotten_keys: int = 0,
    ) -> None:
        dead: Sequence[Dead] = ()
        try:
            if changes is not None:
                empty(self._db, changes.forgotten, self._record_log)
            with transaction(self._db):
                set_meta(self._db, values)
                if changes is not None:
                    self._forget_channels(changes.forgotten)
                    dead = self._set_states(changes.states)
                self._forget_keys(forgotten_keys)
            delete_all(self._db, dead, self._record_log)
        except sqlite3.Error as error:
            raise StoreError(f"cannot write {self._path}: {error}") from None
