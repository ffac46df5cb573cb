"""Programs that end with their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.unit.fakes.flask_program import Program


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
