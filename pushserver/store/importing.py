"""Makes a store from the lines of an export."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

from pushserver.store.checking import problems
from pushserver.store.copying import check_epoch_kept, mark_copy, replace
from pushserver.store.files import StoreError
from pushserver.store.lines import (
    INVALID,
    LINE_BYTES,
    VERSION,
    ChannelLine,
    End,
    ForgottenLine,
    Header,
    KeyLine,
    Line,
    MemoryLine,
    PublicationLine,
    compact,
    decode,
    publication_of,
)
from pushserver.store.opening import transaction
from pushserver.store.reading import stopped
from pushserver.store.rows import publication_row
from pushserver.store.schema import migrate, set_meta


@dataclass(slots=True)
class Imported:
    """The numbers of lines; `skipped` are of kinds that this version does not know.

    `kept` is the path of the store before, or empty.
    """

    publications: int = 0
    channels: int = 0
    skipped: int = 0
    kept: str = ""


def load(file: BinaryIO, name: str, store: str, keep_epoch: bool = False) -> Imported:
    """Put a store with the lines of this file in the place of the store.

    `name` is that of the file, for errors. Raises StoreError, and the store is unchanged.
    """
    imported = Imported()
    with stopped(store):

        def write(new: str) -> None:
            with closing(sqlite3.connect(new, isolation_level=None)) as database:
                database.execute("PRAGMA synchronous=OFF")
                with transaction(database):
                    migrate(database, 0)
                    header = _write(database, file, name, imported)
                    mark_copy(database, header.closed, os.stat(new).st_ino if keep_epoch else None)
                for problem in problems(database):
                    raise StoreError(f"{name}: {problem}")
                if keep_epoch:
                    check_epoch_kept(name, header.closed, header.epoch, header.seq, store)

        imported.kept = replace(store, write)
    return imported


def _write(database: sqlite3.Connection, file: BinaryIO, name: str, imported: Imported) -> Header:
    header: Header | None = None
    for number, text in enumerate(_texts(file, name), 1):
        try:
            line = decode(text)
            if header is None:
                header = _header(line)
                _write_header(database, header)
            elif isinstance(line, End):
                _check_end(line, number, file)
                return header
            elif line is None:
                imported.skipped += 1
            else:
                _write_line(database, line, header, imported)
        except sqlite3.IntegrityError:
            raise StoreError(f"{name}, line {number}: the same was in an earlier line") from None
        except INVALID as error:
            is_ours = header is not None or isinstance(error, StoreError)
            expected = "" if is_ours else ": expected an export of a store"
            raise StoreError(f"{name}, line {number}: {error}{expected}") from None
    if header is None:
        raise StoreError(f"{name} is empty: expected an export of a store")
    raise StoreError(f"{name} is incomplete: expected a last line of the kind end")


def _texts(file: BinaryIO, name: str) -> Iterator[bytes]:
    try:
        for text in iter(partial(file.readline, LINE_BYTES + 1), b""):
            if len(text) > LINE_BYTES:
                raise StoreError(f"{name}: a line has more than {LINE_BYTES} bytes")
            yield text
    except OSError as error:
        raise StoreError(f"cannot read {name}: {error.strerror}") from None


def _header(line: Line | None) -> Header:
    if not isinstance(line, Header):
        raise ValueError("the kind is not pushserver-store")
    if line.version != VERSION:
        raise StoreError(f"version {line.version}; this version of pushserver reads {VERSION}")
    return line


def _check_end(line: End, number: int, file: BinaryIO) -> None:
    if line.lines != number - 1:
        raise ValueError(f"{number - 1} lines before this one; expected {line.lines}")
    if file.readline(1):
        raise ValueError("more lines after the last one")


def _write_header(database: sqlite3.Connection, header: Header) -> None:
    values: dict[str, object] = {
        "epoch": header.epoch,
        "seq": header.seq,
        "forgotten_seq": header.forgotten_seq,
    }
    set_meta(database, values.items())


def _write_line(
    database: sqlite3.Connection, line: Line, header: Header, imported: Imported
) -> None:
    match line:
        case PublicationLine():
            row = publication_row(publication_of(line, header.epoch))
            database.execute("INSERT INTO publications VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            imported.publications += 1
        case ChannelLine(name, top, floor, floor_seq, generation):
            database.execute(
                "INSERT INTO channels VALUES (?, ?, ?, ?, ?)",
                (name, top, floor, floor_seq, generation),
            )
            imported.channels += 1
        case KeyLine(channel, key, epoch, seq, offset, time):
            database.execute(
                "INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?)",
                (channel, key, epoch, seq, offset, time),
            )
        case MemoryLine(source, value):
            database.execute("INSERT INTO memory VALUES (?, ?)", (source, compact(bytes(value))))
        case ForgottenLine(bucket, seq):
            database.execute("INSERT INTO forgotten VALUES (?, ?)", (bucket, seq))
        case _:
            raise ValueError("a second first line")
