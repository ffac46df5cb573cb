"""Programs that end with their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.fakes.flask_program import Program


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the programs, which Flask searches for files; it has none."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def make() -> Iterator[Callable[..., Program]]:
    programs: list[Program] = []

    def make_program(**options: Any) -> Program:
        programs.append(Program(**options))
        return programs[-1]

    yield make_program
    for program in programs:
        program.close()


@pytest.fixture
def program(make: Callable[..., Program]) -> Program:
    return make()
