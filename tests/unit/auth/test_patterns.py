from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.auth.patterns import EVERY, Patterns, check_pattern, matches

LETTERS = st.text("ab:*", max_size=8)


@given(LETTERS, st.text("ab:", max_size=8))
def test_star_stands_for_any_characters(pattern: str, channel: str) -> None:
    expected = re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), channel)
    assert matches(pattern, channel) == (expected is not None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a b",
        "a/b",
        "ü",
        "x" * 129,
        "$$a",
        "[a]",
        "a?",
        "-a",
        "-*",
        "#",
        "#,1",
        "$#1",
        "$",
        "a#",
        "a:b#c,",
    ],
)
def test_pattern_that_no_channel_can_match_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no pattern of channels: expected"):
        check_pattern(text)


def test_patterns_are_a_container_of_names() -> None:
    patterns = Patterns.of(["chat:*", "$vip*", "inbox:#*", "news"])
    assert all(name in patterns for name in ("chat:1", "chat:", "$vip:2", "inbox:#42", "news"))
    assert not any(name in patterns for name in ("chat", "vip:2", "new", "newss", "xnews"))
    assert "$a#1" in EVERY
    assert not Patterns()
