"""What becomes of processes that are not the test's own children."""

from __future__ import annotations

from pathlib import Path


def lives(pid: int) -> bool:
    """Whether there is such a process; one that only waits for its parent to look is over."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    # The name before that may hold anything.
    return stat.rpartition(")")[2].split()[0] not in "ZX"
