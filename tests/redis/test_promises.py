"""The table of docs/scaling.md of what is lost when, and its tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.redis.promises import Promise, promises

HERE = Path(__file__).parent


def test_each_row_has_a_test_and_each_test_of_a_fault_a_row() -> None:
    texts = [path.read_text("utf-8") for path in HERE.glob("test_*.py")]
    constants = {name: text for all in texts for name, text in _CONSTANT.findall(all)}
    marks = {mark for text in texts for mark in re.findall(r"mark\.fault\((.+?)\)(?:\n|\))", text)}
    tested = {constants.get(mark, mark.strip('"')) for mark in marks}
    assert tested == promises().keys()


_CONSTANT = re.compile(r'^([A-Z]+) = "(.+)"$', re.MULTILINE)


@pytest.mark.parametrize(
    ("publications", "readers", "lost", "told"),
    [
        ("none; retried", "a pause", 1, 0),
        ("none", "a pause", 0, 1),
        ("the last second", "are told: a new epoch", 1, 0),
    ],
)
def test_test_that_finds_something_else_fails(
    publications: str, readers: str, lost: int, told: int
) -> None:
    with pytest.raises(AssertionError, match=r"the page says|readers were told"):
        Promise(publications, readers).check(lost, told)


def test_some_readers_may_be_told() -> None:
    Promise("none", "those who missed something are told").check(0, 0)
    Promise("up to a second", "are told").check(5, 1)
