"""Commits whose sync or write fails, and then a kill: a start must not find them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.store.runs import in_file

ROOT = Path(__file__).parents[3]


def run(path: Path, calls: str, *sizes: int) -> list[str]:
    """Commit a row, and batches of these sizes while these calls fail; return the errors."""
    arguments = [str(path), "sync", calls, *map(str, sizes)]
    ended = subprocess.run(
        [sys.executable, "-m", "tests.unit.store.broken_disk", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        timeout=60,
        text=True,
        check=True,
    )
    return ended.stdout.splitlines()


@pytest.mark.parametrize("sizes", [[1], [3], [400], [2_500], [1, 1, 1], [300, 1, 20]], ids=str)
@pytest.mark.parametrize("calls", ["sync", "write"])
def test_commit_that_failed_does_not_come_back_after_a_kill(
    path: Path, calls: str, sizes: list[int]
) -> None:
    assert run(path, calls, *sizes) == [f"cannot write {path}: disk I/O error"] * len(sizes)
    [(channel, rows)] = in_file(path).items()
    assert (channel, len(rows)) == ("a", 1)


def test_store_whose_syncs_failed_works_after_a_restart(path: Path) -> None:
    run(path, "sync", 1, 200)
    assert len(in_file(path)["a"]) == 1
    assert run(path, "sync", 30, 2) != []
    assert len(in_file(path)["a"]) == 2
