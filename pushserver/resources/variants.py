"""The compressed forms of the server's own files, kept in memory."""

from __future__ import annotations

import gzip
import os
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

MAX_VARIANT_BYTES = 1_000_000
"""The memory of all compressed files; those of the server have some 500 KB together."""
ENTRY_BYTES = 1_000
"""Of an entry without its compressed forms: its path, its key, its digest and their objects."""

FileVersion = tuple[int, ...]


def version_of(status: os.stat_result) -> FileVersion:
    """The version of a file.

    The time alone is not enough: a file may change twice in a second, and a copy may have the time
    of its original.
    """
    return status.st_mtime_ns, status.st_size, status.st_ino


@dataclass(frozen=True, slots=True)
class Variants:
    """A file's forms by the name of their coding, in the order in which they are preferred.

    `digest` identifies the content: a URL with it in its query may be cached for ever.
    """

    digest: str
    codings: dict[str, bytes]

    @property
    def size(self) -> int:
        """The bytes of memory."""
        return ENTRY_BYTES + sum(map(len, self.codings.values()))


class VariantCache:
    """The variants of the files that were asked for last, of `max_bytes` together."""

    def __init__(self, max_bytes: int = MAX_VARIANT_BYTES):
        self._max_bytes = max_bytes
        self._entries: OrderedDict[tuple[str, FileVersion], Variants] = OrderedDict()
        self._bytes = 0

    def get(self, path: str, version: FileVersion) -> Variants | None:
        """The variants of this version of a file, or None if it cannot be read.

        A file is compressed with gzip the first time. The brotli form is made when the package is
        built (`setup.py`), as it takes a quarter of a second for the largest script.
        """
        key = path, version
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
            return found
        try:
            # A longer one, which can only be the user's, would take too long.
            found = _read(path) if os.path.getsize(path) <= self._max_bytes else None
        except OSError:
            return None
        if found is None:
            return None
        self._entries[key] = found
        self._bytes += found.size
        while self._bytes > self._max_bytes and len(self._entries) > 1:
            _, old = self._entries.popitem(last=False)
            self._bytes -= old.size
        return found


def brotli_name(path: str, digest: str) -> str:
    """The path of a file's brotli form; after a change of the file, its name is another one."""
    return f"{path}.{digest}.br"


def digest_of(content: bytes) -> str:
    """The digest of a content, for URLs and names."""
    return blake2b(content, digest_size=6).hexdigest()


def _read(path: str) -> Variants:
    content = Path(path).read_bytes()
    digest = digest_of(content)
    codings: dict[str, bytes] = {}
    brotli = Path(brotli_name(path, digest))
    if brotli.is_file():
        codings["br"] = brotli.read_bytes()
    # The time in the head would differ for each start.
    codings["gzip"] = gzip.compress(content, 9, mtime=0)
    return Variants(digest, codings)
