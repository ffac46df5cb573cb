"""What rotated files are called, and which of them had the name after which."""

from __future__ import annotations

import re
from collections.abc import Iterable

COMPRESSED = (".Z", ".bz2", ".gz", ".lz4", ".lzma", ".xz", ".zip", ".zst")

_SUFFIX = re.compile(r"([.-])((?:\d[\dT:._-]*)?\d)Z?")
_COUNT = re.compile(r"\d{1,4}")


def later(name: str, names: Iterable[str], bases: Iterable[str]) -> list[str]:
    """Those of `names` that were rotated after `name`, oldest first.

    They begin with one of `bases`, and then have what logrotate, Python's logging, Twisted and
    others add: `.2`, where the smallest number is the newest, or a time: `-20261122`,
    `.2026-11-22_10`, `.1795378647`. Those of the other kind than `name` are none of them, and so
    are all when it is of neither. What is compressed is named only if it is not there plain too.
    """
    there = set(names)
    for base in bases:
        own = _place(name, base)
        if own is None:
            continue
        found = []
        for other in there:
            plain = _plain(other)
            place = _place(plain, base)
            if place is None or place[0] != own[0] or place[1] <= own[1]:
                continue
            if plain == other or plain not in there:
                found.append((place[1], other))
        return [other for _, other in sorted(found)]
    return []


def is_compressed(name: str) -> bool:
    """Whether a file of this name is."""
    return name.endswith(COMPRESSED)


def _plain(name: str) -> str:
    return name.rpartition(".")[0] if is_compressed(name) else name


def _place(name: str, base: str) -> tuple[tuple[str, bool], tuple[int, ...]] | None:
    """In which row of names it stands, and where; the later ones are greater."""
    match = _SUFFIX.fullmatch(name, len(base)) if name.startswith(base) else None
    if match is None:
        return None
    separator, text = match.groups()
    if _COUNT.fullmatch(text):
        return (separator, True), (-int(text),)
    return (separator, False), tuple(map(int, re.findall(r"\d+", text)))
