"""Exports a store as lines of JSON, which each version with an import reads."""

from __future__ import annotations

from collections.abc import Iterator
from sqlite3 import Connection, Error

from msgspec import Raw

from pushserver.store.copying import was_closed
from pushserver.store.files import StoreError
from pushserver.store.lines import (
    INVALID,
    VERSION,
    ChannelLine,
    End,
    ForgottenLine,
    Header,
    KeyLine,
    Line,
    MemoryLine,
    encode,
    line_of,
)
from pushserver.store.reading import check_current, snapshot
from pushserver.store.rows import (
    KEY_COLUMNS,
    MEMORY_COLUMNS,
    PUBLICATION_COLUMNS,
    memory_of,
    publication_of,
)
from pushserver.store.schema import meta


def export(path: str) -> Iterator[bytes]:
    """The lines of the store as it is now, also while a server writes; raises StoreError."""
    with snapshot(path) as database:
        check_current(path, database)
        lines = 0
        try:
            for line in _lines(database):
                yield encode(line)
                lines += 1
        except (Error, TypeError, *INVALID) as error:
            raise StoreError(
                f"{path} is damaged ({error}): `pushserver store check` says more"
            ) from None
        yield encode(End(lines))


def _lines(database: Connection) -> Iterator[Line]:
    rows = database.execute
    yield Header(
        VERSION,
        meta(database, "epoch") or "",
        meta(database, "seq") or 0,
        was_closed(database),
        meta(database, "forgotten_seq") or 0,
    )
    for row in rows("SELECT bucket, seq FROM forgotten ORDER BY bucket"):
        yield ForgottenLine(*row)
    for row in rows("SELECT name, top, floor, floor_seq, generation FROM channels ORDER BY name"):
        yield ChannelLine(*row)
    for name, *row in rows(
        f"SELECT channel, {PUBLICATION_COLUMNS}"
        " FROM publications LEFT JOIN channels ON name = channel"
        # A server may not have deleted the others yet.
        " WHERE offset > coalesce(floor, 0) ORDER BY channel, offset"
    ):
        yield line_of(publication_of(name, "", row))
    for row in rows(f"SELECT {KEY_COLUMNS} FROM keys ORDER BY seq"):
        yield KeyLine(*row)
    for row in rows(f"SELECT {MEMORY_COLUMNS} FROM memory ORDER BY source"):
        source, value = memory_of(row)
        yield MemoryLine(source, Raw(value))
