from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.fakes.web import Trouble
from tests.unit.store.runs import (
    RUNS,
    THREAD,
    folder_in_memory,
)


@pytest.fixture(autouse=True)
def _no_jobs_and_files_left() -> Iterator[None]:
    THREAD.jobs.clear()
    yield
    THREAD.jobs.clear()
    while RUNS:
        RUNS.pop().close()


@pytest.fixture
def path() -> Iterator[Path]:
    with folder_in_memory() as folder:
        yield Path(folder, "s.db")


@pytest.fixture
def _expects_store_problems(trouble: Trouble) -> Iterator[None]:
    """Take the log lines about the disk and about kills, and no others."""
    yield
    expected = ("the disk is full", "was not closed in order", "history_total_bytes")
    assert [text for text in trouble.take() if not any(part in text for part in expected)] == []
