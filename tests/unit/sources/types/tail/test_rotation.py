from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.sources.types.tail.rotation import COMPRESSED, is_compressed, rotated_after


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # logrotate, Python's RotatingFileHandler, Twisted's LogFile.
        ("a.log.3", ["a.log.2", "a.log.1", "a.log.0"]),
        ("a.log.10", ["a.log.9", "a.log.2"]),
        # dateext; hourly rotation, and a second other within the hour, make a name longer.
        ("a.log-20261121", ["a.log-20261121-1", "a.log-20261122"]),
        ("a.log-2026112109", ["a.log-2026112110"]),
        ("a.log-1795378647", ["a.log-1795378648"]),
        # TimedRotatingFileHandler, DailyLogFile, ISO 8601.
        ("a.log.2026-11-21", ["a.log.2026-11-21.2", "a.log.2026-11-22_10"]),
        ("a.log.2026_11_21", ["a.log.2026_11_22"]),
        ("a.log.2026-11-21T10:00:00Z", ["a.log.2026-11-21T10:00:01Z"]),
        ("a.log-12", ["a.log-9"]),
    ],
)
def test_names_of_common_tools_have_an_order(name: str, expected: list[str]) -> None:
    others = [
        "a.log",
        "b.log.1",
        "a.log.bak",
        "a.log.err",
        "a.log.",
        "a.log.-",
        "a.log1",
        "a.log.1a",
    ]
    assert rotated_after(name, [name, *expected, *others], ["a.log"]) == expected
    for other in expected:
        assert name not in rotated_after(other, [name, *expected, *others], ["a.log"])


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("kept", ["a.log.1", "a.log-20261122"]),
        ("a.log", ["a.log.1"]),
        ("a.log.3", ["a.log-20261122", "a.log-2", "a.log.20261122", "a.log.3", "a.log.4"]),
        ("a.log-20261122", ["a.log.1", "a.log-1", "a.log.20261123"]),
    ],
)
def test_other_kinds_of_suffixes_are_not_compared(name: str, others: list[str]) -> None:
    assert rotated_after(name, [name, *others], ["a.log"]) == []


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_compressed_file_counts_unless_the_plain_one_exists(suffix: str) -> None:
    packed = f"a.log.1{suffix}"
    assert is_compressed(packed)
    assert not is_compressed("a.log.1")
    assert rotated_after("a.log.2", ["a.log.2", packed], ["a.log"]) == [packed]
    assert rotated_after("a.log.2", ["a.log.2", packed, "a.log.1"], ["a.log"]) == ["a.log.1"]


def test_link_and_its_target_are_both_base_names() -> None:
    names = ["a.log-20261120", "a.log-20261121", "a.log-20261122"]
    assert rotated_after(names[0], names, ["a.log", names[2]]) == names[1:]
    assert rotated_after("today.1", ["today.1", "today.0"], ["a.log", "today"]) == ["today.0"]


@given(st.lists(st.integers(0, 9999), unique=True, min_size=1), st.sampled_from(".-"))
def test_counts_are_in_descending_order(numbers: list[int], separator: str) -> None:
    names = [f"x{separator}{n}" for n in numbers]
    descending = [f"x{separator}{n}" for n in sorted(numbers, reverse=True)]
    assert rotated_after(descending[0], names, ["x"]) == descending[1:]


@given(st.text(alphabet="x.-0123TZ:_gz"), st.lists(st.text(alphabet="x.-0123TZ:_gz")))
def test_no_name_is_after_itself(name: str, names: list[str]) -> None:
    later = rotated_after(name, names, ["x", "x.1"])
    assert name not in later
    assert set(later) <= set(names)
    assert len(later) == len(set(later))
