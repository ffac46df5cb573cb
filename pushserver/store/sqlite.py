"""Opens, loads and writes the SQLite file of the store; all calls block."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pushserver.channels.channel import Channel
from pushserver.channels.forgotten import bucket
from pushserver.channels.history import History, new_epoch
from pushserver.channels.idempotency import KeyEntry, Keys
from pushserver.channels.position import channel_epoch, split_epoch
from pushserver.channels.publication import Publication
from pushserver.errors import PushServerError
from pushserver.store.rows import key_of, memory_of, publication_of, publication_row
from pushserver.store.schema import FORMAT, WrongFormat, migrate, read_format
from pushserver.store.source_memory import SourceMemory
from pushserver.store.wal import Log, belongs, log_of, log_path
from pushserver.usercode.steady import births

_REMEDY = (
    ": restore a copy (docs/delivery.md), or move it away with its -wal file to start with an"
    " empty history"
)

_CHECKPOINT_PAGES = 1_000
"""SQLite's default."""


class StoreError(PushServerError):
    """The file cannot be used or written; the text says why."""


@dataclass(frozen=True, slots=True)
class ChannelState:
    """The numbers of a channel, which outlive its rows."""

    name: str
    top: int
    floor: int
    floor_seq: int
    generation: int = 0


@dataclass(slots=True)
class Batch:
    """The changes of one commit.

    The `forgotten` channels are deleted first: one that came back is also in `states`. With each
    name comes the seq of its bucket.
    """

    seq: int = 0
    rows: list[Publication] = field(default_factory=list)
    keys: list[KeyEntry] = field(default_factory=list)
    states: list[ChannelState] = field(default_factory=list)
    forgotten: dict[str, int] = field(default_factory=dict)
    memory: dict[str, bytes] = field(default_factory=dict)
    forgotten_keys: int = 0
    """The keys up to this seq are deleted."""


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
        self._path = path
        self._mode = mode
        self._durability = durability
        self._log: Log | None = None
        try:
            exists = os.path.isfile(path)
            self._lacked_log = exists and not os.path.exists(log_path(path))
            is_own = not exists or belongs(path)
        except OSError as error:
            raise StoreError(f"cannot use {path}: {error}{_hint(path, error)}") from None
        if not is_own:
            raise StoreError(
                f"{path} was replaced, and {log_path(path)} belongs to the replaced file: to start"
                " with the new one, move the -wal file away; to undo, put the replaced file back"
            )
        # SQLite makes its files readable by everybody, and the log with the mode of the database.
        # Any other error is that of SQLite too.
        with contextlib.suppress(OSError, ValueError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode))
        try:
            self._db = sqlite3.connect(
                path, timeout=2.0, isolation_level=None, check_same_thread=False
            )
        except (sqlite3.Error, ValueError) as error:
            folder = os.path.dirname(os.path.abspath(path))
            why = error if os.path.isdir(folder) else f"there is no folder {folder}"
            raise StoreError(f"cannot open {path}: {why}") from None
        try:
            self._inode = os.stat(path).st_ino
            self._prepare()
        except (sqlite3.Error, OSError) as error:
            self._db.close()
            # As text, since a damaged database has several codes.
            remedy = _REMEDY if "malformed" in str(error) else _hint(path, error)
            raise StoreError(f"cannot use {path}: {error}{remedy}") from None
        except WrongFormat as error:
            self._db.close()
            raise StoreError(f"{path} {error}") from None
        except StoreError:
            self._db.close()
            raise

    def _prepare(self) -> None:
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
        # Takes the lock, which is kept. A database of another program stays unchanged.
        with self._transaction("EXCLUSIVE"):
            format_ = read_format(self._db)
        for file in (self._path, log_path(self._path)):
            # A file of another owner that this process may write keeps its mode.
            with contextlib.suppress(PermissionError, FileNotFoundError):
                os.chmod(file, self._mode)
        if self._db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            # The last run ended in the middle of its start.
            self._lacked_log = False
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        problem = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            # SQLite has a line for the database before the problem.
            line = problem.splitlines()[-1]
            raise StoreError(f"{self._path} is damaged ({line}){_REMEDY}")
        if format_ < FORMAT:
            with self._transaction():
                migrate(self._db, format_)

    @contextlib.contextmanager
    def _transaction(self, kind: str = "") -> Iterator[None]:
        self._db.execute(f"BEGIN {kind}")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            # SQLite has rolled back itself if the disk is full.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def load(
        self, history: History, keys: Keys, memory: SourceMemory, wall: float, now: float
    ) -> bool:
        """Fill history, keys and memory from the file, and mark it as running.

        The file has Unix times: `wall` is the current Unix time, `now` that of the steady clock.
        Expired rows and keys are left out, and rows deleted. Returns False if the numbering had
        to continue under a new epoch.
        """
        try:
            return self._load(history, keys, memory, wall, now)
        except (sqlite3.Error, msgspec.DecodeError, ValueError, OSError) as error:
            remedy = "" if isinstance(error, (OSError, sqlite3.OperationalError)) else _REMEDY
            raise StoreError(f"cannot read {self._path}: {error}{remedy}") from None

    def _load(
        self, history: History, keys: Keys, memory: SourceMemory, wall: float, now: float
    ) -> bool:
        epoch = self._get("epoch")
        killed = self._get("running")
        log_is_lost = killed and self._get("wal") and self._lacked_log
        trusted = killed != "batched" and not log_is_lost and self._get("inode") == self._inode
        history.epoch = epoch if epoch and trusted else new_epoch()
        history.seq = self._get("seq") or 0
        # Only a file from before the buckets has a number for all of them.
        seqs = self._db.execute("SELECT bucket, seq FROM forgotten")
        history.forgotten.restore(self._get("forgotten_seq") or 0, seqs)
        expired = self._load_channels(history, wall, now)
        self._load_keys(keys, wall, now)
        memory.restore(map(memory_of, self._db.execute("SELECT source, value FROM memory")))
        mark = {"epoch": history.epoch, "running": self._durability, "inode": self._inode}
        # Synced in both modes: the mark must survive a power cut.
        self._begin_log(mark.items(), expired)
        if self._durability == "batched":
            self._db.execute("PRAGMA synchronous=NORMAL")
        return trusted or not epoch

    def _begin_log(
        self, values: Iterable[tuple[str, object]], states: Sequence[ChannelState] = ()
    ) -> None:
        """Write the log to the database, and begin a new one with these values.

        The database has no record of a log in between: an end between the first write to the new
        log and the checkpoint after it would leave the record of the old one.
        """
        self._db.execute("PRAGMA journal_mode=DELETE")
        self._write([("wal", "")])
        self._db.execute("PRAGMA journal_mode=WAL")
        self._write(values, states)
        self._record_log()
        self._db.execute("PRAGMA wal_checkpoint")

    def _load_channels(self, history: History, wall: float, now: float) -> list[ChannelState]:
        """Fill the channels; return the states of those with expired rows."""
        expired = []
        for name, top, floor, floor_seq, generation in self._db.execute(
            "SELECT name, top, floor, floor_seq, generation FROM channels"
        ).fetchall():
            epoch = channel_epoch(history.epoch, generation)
            channel = history.restore(name, epoch, floor, floor_seq)
            rows = [
                publication_of(name, epoch, row)
                for row in self._db.execute(
                    "SELECT seq, offset, time, event, data, tags, info FROM publications"
                    " WHERE channel = ? AND offset > ? AND offset <= ? ORDER BY offset",
                    (name, floor, top),
                )
            ]
            for row, born in zip(rows, births([r.time for r in rows], wall, now), strict=True):
                channel.append(row, born)
            if channel.top != top:
                raise ValueError(f"channel {name} ends at {channel.top}, expected {top}")
            if channel.expire(now):
                expired.append(state(channel))
        return expired

    def _load_keys(self, keys: Keys, wall: float, now: float) -> None:
        select = "SELECT channel, key, epoch, seq, offset, time FROM keys ORDER BY seq"
        entries = [key_of(row) for row in self._db.execute(select)]
        times = births([entry.time for entry in entries], wall, now)
        for entry, born in zip(entries, times, strict=True):
            keys.remember(entry, born)
        keys.expire(now)

    def commit(self, batch: Batch) -> None:
        """Write all of the batch, or nothing and raise StoreError."""
        try:
            self._check_files()
            with self._transaction():
                self._commit(batch)
        except sqlite3.Error as error:
            if self._durability == "sync":
                self._overwrite_failed_commit()
            raise StoreError(f"cannot write {self._path}: {error}") from None
        # The batch is in the file: an error of the record must not have it written again.
        with contextlib.suppress(StoreError, OSError):
            self._record_log()

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

    def _commit(self, batch: Batch) -> None:
        many = self._db.executemany
        many("DELETE FROM publications WHERE channel = ?", ((name,) for name in batch.forgotten))
        many("DELETE FROM channels WHERE name = ?", ((name,) for name in batch.forgotten))
        many(
            "INSERT OR REPLACE INTO forgotten VALUES (?, ?)",
            ((bucket(name), seq) for name, seq in batch.forgotten.items()),
        )
        many(
            "INSERT INTO publications VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            map(publication_row, batch.rows),
        )
        self._set_states(batch.states)
        many(
            "INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?, ?, ?)",
            (
                (k.channel, k.key, k.receipt.epoch, k.receipt.seq, k.receipt.offset, k.time)
                for k in batch.keys
            ),
        )
        many("INSERT OR REPLACE INTO memory VALUES (?, ?)", batch.memory.items())
        if batch.keys:
            # Not by time: the wall clock may have been set.
            self._db.execute("DELETE FROM keys WHERE seq <= ?", (batch.forgotten_keys,))
        self._set("seq", batch.seq)

    def _set_states(self, states: Sequence[ChannelState]) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO channels VALUES (?, ?, ?, ?, ?)",
            ((s.name, s.top, s.floor, s.floor_seq, s.generation) for s in states),
        )
        self._db.executemany(
            "DELETE FROM publications WHERE channel = ? AND offset <= ?",
            ((s.name, s.floor) for s in states),
        )

    def close(self) -> None:
        """Remove the mark and close; raises StoreError, and stays open."""
        self._check_files()
        self._write([("running", "")])
        self._db.close()

    def abandon(self) -> None:
        """Close, and leave the mark that the run was killed."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
        # SQLite removes a log that it could write to the database; after a kill there is one.
        with contextlib.suppress(OSError):
            os.close(os.open(log_path(self._path), os.O_WRONLY | os.O_CREAT, self._mode))

    def _write(
        self, values: Iterable[tuple[str, object]], states: Sequence[ChannelState] = ()
    ) -> None:
        try:
            with self._transaction():
                for name, value in values:
                    self._set(name, value)
                self._set_states(states)
        except sqlite3.Error as error:
            raise StoreError(f"cannot write {self._path}: {error}") from None

    def _get(self, name: str) -> Any:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def _set(self, name: str, value: object) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))


def state(channel: Channel, cleared: bool = False) -> ChannelState:
    """The current numbers of a channel, or those after a clear."""
    floor, floor_seq = channel.floor, channel.floor_seq
    newest = channel.last(1) if cleared else ()
    if newest:
        floor, floor_seq = channel.top, newest[0].seq
    _, generation = split_epoch(channel.epoch)
    return ChannelState(channel.name, channel.top, floor, floor_seq, generation)


def _hint(path: str, error: Exception) -> str:
    """A likely reason, as SQLite's error names none; empty if there is no guess."""
    if "locked" in str(error):
        return " (another server has it open)"
    folder = os.path.dirname(os.path.abspath(path))
    if all(os.access(name, os.W_OK, effective_ids=True) for name in (path, folder)):
        return ""
    return " (permission: the file and its folder must be writable)"
