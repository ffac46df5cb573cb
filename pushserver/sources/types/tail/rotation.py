"""The names of rotated log files, and their order."""

from __future__ import annotations

import re
from collections.abc import Iterable

COMPRESSED = (".Z", ".bz2", ".gz", ".lz4", ".lzma", ".xz", ".zip", ".zst")

_SUFFIX = re.compile(r"([.-])((?:\d[\dT:._-]*)?\d)Z?")
_COUNT = re.compile(r"\d{1,4}")


def rotated_after(name: str, names: Iterable[str], bases: Iterable[str]) -> list[str]:
    """Return the `names` that were rotated after `name`, oldest first.

    They are one of `bases` with a suffix of logrotate, Python's logging, Twisted or others: a
    count such as `.2`, where 1 is the newest, or a time such as `-20261122`, `.2026-11-22_10`,
    `.1795378647`. Only names with the same kind of suffix as `name` are compared. A compressed
    file is left out if the uncompressed one exists.
    """
    existing = set(names)
    for base in bases:
        own = _rank(name, base)
        if own is None:
            continue
        ranked = []
        for other in existing:
            plain = _uncompressed(other)
            rank = _rank(plain, base)
            if rank is None or rank[0] != own[0] or rank[1] <= own[1]:
                continue
            if plain == other or plain not in existing:
                ranked.append((rank[1], other))
        return [other for _, other in sorted(ranked)]
    return []


def is_compressed(name: str) -> bool:
    """Whether the name is that of a compressed file."""
    return name.endswith(COMPRESSED)


def _uncompressed(name: str) -> str:
    return name.rpartition(".")[0] if is_compressed(name) else name


def _rank(name: str, base: str) -> tuple[tuple[str, bool], tuple[int, ...]] | None:
    """Return the kind of the suffix, and a key that is greater for later files."""
    match = _SUFFIX.fullmatch(name, len(base)) if name.startswith(base) else None
    if match is None:
        return None
    separator, text = match.groups()
    if _COUNT.fullmatch(text):
        return (separator, True), (-int(text),)
    return (separator, False), tuple(map(int, re.findall(r"\d+", text)))
