"""Processes that are not children of the test."""

from __future__ import annotations

from pathlib import Path


def lives(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    # The name before the parenthesis may contain any character.
    return stat.rpartition(")")[2].split()[0] not in "ZX"
