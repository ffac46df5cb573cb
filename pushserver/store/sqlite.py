"""The history in one SQLite file: opening it, reading it back, and commits.

Nothing here knows threads or the reactor; `store` calls it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pushserver.channels.channel import Channel
from pushserver.channels.history import History, new_epoch
from pushserver.channels.idempotency import Keys, Remembered
from pushserver.channels.publication import ClientInfo, Publication
from pushserver.errors import PushServerError
from pushserver.store.schema import FORMAT, WrongFormat, migrate, read_format
from pushserver.store.source_memory import Memory
from pushserver.usercode.steady import births


class StoreError(PushServerError):
    """The file cannot be used, or could not be written; the text says why."""


@dataclass(frozen=True, slots=True)
class ChannelState:
    """The numbers of a channel, kept even when all rows are gone."""

    name: str
    top: int
    floor: int
    floor_seq: int


@dataclass(slots=True)
class Batch:
    """What one commit changes."""

    seq: int = 0
    forgotten_top: int = 0
    forgotten_seq: int = 0
    rows: list[Publication] = field(default_factory=list)
    keys: list[Remembered] = field(default_factory=list)
    states: list[ChannelState] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    memory: dict[str, bytes] = field(default_factory=dict)
    forgotten_keys: int = 0
    """Keys up to this seq are forgotten."""


class SqliteFile:
    """One open store. Locked for everybody else as long as it is open.

    The mark `running` is set at the start and taken back by an orderly `close`. Found at
    a start, it says that the last run was killed. In `batched` mode that run may have sent
    numbers that the file does not know, so the numbering goes on under a new epoch; in
    `sync` mode everything that was sent is in the file.

    A copy that was put in the file's place may be older than what was sent, and is not to
    give those numbers again: a file with another inode than last time gets a new epoch too.
    """

    def __init__(self, path: str, durability: str):
        """Open or begin the file; raises StoreError."""
        self._path = path
        self._durability = durability
        try:
            self._db = sqlite3.connect(
                path, timeout=2.0, isolation_level=None, check_same_thread=False
            )
        except (sqlite3.Error, ValueError) as error:
            folder = os.path.dirname(os.path.abspath(path))
            why = error if os.path.isdir(folder) else f"there is no folder {folder}"
            raise StoreError(f"cannot open {path}: {why}") from None
        try:
            self._prepare()
        except (sqlite3.Error, OSError) as error:
            self._db.close()
            raise StoreError(f"cannot use {path}: {error}{_hint(path, error)}") from None
        except WrongFormat as error:
            self._db.close()
            raise StoreError(f"{path} {error}") from None
        except StoreError:
            self._db.close()
            raise

    def _prepare(self) -> None:
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
        # Takes the lock that is then kept; what is somebody else's stays as it is.
        with self._transaction("EXCLUSIVE"):
            found = read_format(self._db)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        problem = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            raise StoreError(f"{self._path} is damaged: {problem}")
        if found < FORMAT:
            with self._transaction():
                migrate(self._db, found)

    @contextlib.contextmanager
    def _transaction(self, kind: str = "") -> Iterator[None]:
        self._db.execute(f"BEGIN {kind}")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            # A full disk has rolled back by itself already.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def load(self, history: History, keys: Keys, memory: Memory, wall: float, now: float) -> bool:
        """Fill these three from the file, and mark it as running.

        The file has Unix times: `wall` is the present as such, `now` by the steady clock. What is
        too old by them is left out, and goes from the file. Returns whether the numbering goes
        on; if not, it goes on under a new epoch.
        """
        try:
            return self._load(history, keys, memory, wall, now)
        except (sqlite3.Error, msgspec.DecodeError, ValueError, OSError) as error:
            raise StoreError(f"cannot read {self._path}: {error}") from None

    def _load(self, history: History, keys: Keys, memory: Memory, wall: float, now: float) -> bool:
        known, inode = self._get("epoch"), os.stat(self._path).st_ino
        trusted = self._get("running") != "batched" and self._get("inode") == inode
        history.epoch = known if known and trusted else new_epoch()
        history.seq = self._get("seq") or 0
        history.forgotten_top = self._get("forgotten_top") or 0
        history.forgotten_seq = self._get("forgotten_seq") or 0
        expired = self._load_channels(history, wall, now)
        self._load_keys(keys, wall, now)
        memory.restore(map(_remembered, self._db.execute("SELECT source, value FROM memory")))
        mark = {"epoch": history.epoch, "running": self._durability, "inode": inode}
        # Synced in either mode: after a power cut the mark has to be there.
        self._write(mark.items(), expired)
        if self._durability == "batched":
            self._db.execute("PRAGMA synchronous=NORMAL")
        return trusted or not known

    def _load_channels(self, history: History, wall: float, now: float) -> list[ChannelState]:
        """Fill the channels; the states of those that have lost rows by their age."""
        expired = []
        for name, top, floor, floor_seq in self._db.execute(
            "SELECT name, top, floor, floor_seq FROM channels"
        ).fetchall():
            channel = history.restore(name, floor, floor_seq)
            rows = [
                _publication(name, history.epoch, row)
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
        found = [_key(row) for row in self._db.execute(select)]
        for known, born in zip(found, births([k.time for k in found], wall, now), strict=True):
            keys.remember(known, born)
        keys.expire(now)

    def commit(self, batch: Batch) -> None:
        """Write all of the batch, or nothing and raise StoreError."""
        try:
            with self._transaction():
                self._commit(batch)
        except sqlite3.Error as error:
            raise StoreError(f"cannot write {self._path}: {error}") from None

    def _commit(self, batch: Batch) -> None:
        many = self._db.executemany
        many("INSERT INTO publications VALUES (?, ?, ?, ?, ?, ?, ?, ?)", map(_row, batch.rows))
        self._set_states(batch.states)
        many("DELETE FROM publications WHERE channel = ?", ((name,) for name in batch.forgotten))
        many("DELETE FROM channels WHERE name = ?", ((name,) for name in batch.forgotten))
        many(
            "INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?, ?, ?)",
            (
                (k.channel, k.key, k.receipt.epoch, k.receipt.seq, k.receipt.offset, k.time)
                for k in batch.keys
            ),
        )
        many("INSERT OR REPLACE INTO memory VALUES (?, ?)", batch.memory.items())
        if batch.keys:
            # Not by their times: the wall clock may have been set since.
            self._db.execute("DELETE FROM keys WHERE seq <= ?", (batch.forgotten_keys,))
        for name in ("seq", "forgotten_top", "forgotten_seq"):
            self._set(name, getattr(batch, name))

    def _set_states(self, states: Sequence[ChannelState]) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO channels VALUES (?, ?, ?, ?)",
            ((s.name, s.top, s.floor, s.floor_seq) for s in states),
        )
        self._db.executemany(
            "DELETE FROM publications WHERE channel = ? AND offset <= ?",
            ((s.name, s.floor) for s in states),
        )

    def close(self) -> None:
        """Mark the end as orderly, and close; raises StoreError."""
        try:
            self._write([("running", "")])
        finally:
            self._db.close()

    def abandon(self) -> None:
        """Close without the mark."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()

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
        found = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if found is None else found[0]

    def _set(self, name: str, value: object) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))


def state(channel: Channel) -> ChannelState:
    """The numbers of a channel as they are now."""
    return ChannelState(channel.name, channel.top, channel.floor, channel.floor_seq)


def _row(row: Publication) -> Sequence[object]:
    tags = None if row.tags is None else msgspec.json.encode(row.tags)
    info = None if row.info is None else msgspec.json.encode(row.info)
    return row.channel, row.offset, row.seq, row.time, row.event, row.data, tags, info


def _publication(channel: str, epoch: str, row: Sequence[object]) -> Publication:
    seq, offset, time, event, data, tags, info = row
    return msgspec.convert(
        {
            "channel": channel,
            "epoch": epoch,
            "seq": seq,
            "offset": offset,
            "time": time,
            "event": event,
            "data": data,
            "tags": None if tags is None else msgspec.json.decode(_bytes(tags)),
            "info": None if info is None else msgspec.json.decode(_bytes(info), type=ClientInfo),
        },
        Publication,
        builtin_types=(bytes,),
    )


def _key(row: Sequence[object]) -> Remembered:
    channel, key, epoch, seq, offset, time = row
    receipt = {"epoch": epoch, "seq": seq, "offset": offset}
    fields = {"channel": channel, "key": key, "receipt": receipt, "time": time}
    return msgspec.convert(fields, Remembered)


def _remembered(row: Sequence[object]) -> tuple[str, bytes]:
    name, value = str(row[0]), _bytes(row[1])
    msgspec.json.decode(value)
    return name, value


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError(f"expected a blob, got {value!r:.40}")
    return value


def _hint(path: str, error: Exception) -> str:
    """What SQLite does not say."""
    if "locked" in str(error):
        return " (another server has it open)"
    folder = os.path.dirname(os.path.abspath(path))
    if all(os.access(place, os.W_OK, effective_ids=True) for place in (path, folder)):
        return ""
    return " (permission: the file and its folder must be writable)"
