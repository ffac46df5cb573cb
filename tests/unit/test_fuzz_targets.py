"""The targets of `make fuzz` read their examples, and a few changes of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, target
from tests.unit.fakes.web import Trouble


@pytest.mark.parametrize("name", TARGETS)
def test_reads_its_examples_and_changes_of_them(name: str, trouble: Trouble) -> None:
    read = target(name)
    examples = st.sampled_from(read.examples)
    parts = st.builds(
        lambda data, a, b: data[a:b], examples, st.integers(0, 99), st.integers(0, 99)
    )

    @given(st.lists(examples | parts | st.binary(max_size=20), max_size=4))
    def check(pieces: list[bytes]) -> None:
        read(b"".join(pieces))

    for example in read.examples:
        read(example)
    check()
    # Autobahn warns of each frame that breaks the protocol.
    assert all(text.startswith("failing WebSocket connection") for text in trouble.take())


def test_an_exception_that_no_parser_documents_is_a_fault() -> None:
    with pytest.raises(ZeroDivisionError):
        type(target("json"))(lambda data: 1 / len(data), (b"",), (ValueError,))(b"")
