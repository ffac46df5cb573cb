from __future__ import annotations

import pytest

from pushserver.errors import InvalidData
from pushserver.store.source_memory import MOST_BYTES, SourceMemory


def test_last_value_is_remembered() -> None:
    memory = SourceMemory()
    assert memory.get("a") is None
    memory.set("a", {"position": 1})
    memory.set("a", {"position": 2, "name": "grün"})
    memory.set("b", [1.5, None, True])
    assert memory.get("a") == {"position": 2, "name": "grün"}
    assert memory.get("b") == [1.5, None, True]


def test_value_is_a_copy() -> None:
    memory = SourceMemory()
    value = {"seen": ["x"]}
    memory.set("a", value)
    value["seen"].append("y")
    copy = memory.get("a")
    assert isinstance(copy, dict)
    copy.clear()
    assert memory.get("a") == {"seen": ["x"]}


@pytest.mark.parametrize("value", [float("nan"), object(), {"a": b"\xff"}.keys(), "\ud800"])
def test_value_that_is_no_json_is_refused_and_the_old_value_stays(value: object) -> None:
    memory = SourceMemory()
    memory.set("a", 1)
    with pytest.raises(InvalidData):
        memory.set("a", value)
    assert memory.get("a") == 1


def test_value_over_the_bound_is_refused_with_name_and_sizes() -> None:
    memory = SourceMemory()
    memory.set("a", "x" * (MOST_BYTES - 2))
    message = rf"^a is to remember {MOST_BYTES + 1} bytes of JSON; expected at most {MOST_BYTES}$"
    with pytest.raises(InvalidData, match=message):
        memory.set("a", "x" * (MOST_BYTES - 1))
    assert memory.get("a") == "x" * (MOST_BYTES - 2)


class TestTake:
    def test_returns_each_value_once(self) -> None:
        memory = SourceMemory()
        assert not memory.waits
        memory.set("a", 1)
        memory.set("b", 2)
        memory.set("a", 3)
        assert memory.waits
        assert memory.take() == {"a": b"3", "b": b"2"}
        assert not memory.waits
        assert memory.take() == {}

    def test_listener_is_called_when_a_value_changes(self) -> None:
        calls: list[object] = []
        memory = SourceMemory(lambda: calls.append(memory.get("a")))
        for value in (1, 1, 2, 2):
            memory.set("a", value)
        assert calls == [1, 2]

    def test_put_back_does_not_replace_a_newer_value(self) -> None:
        memory = SourceMemory()
        memory.set("a", 1)
        memory.set("b", 1)
        taken = memory.take()
        memory.set("a", 2)
        memory.put_back(taken)
        assert memory.take() == {"a": b"2", "b": b"1"}

    def test_does_not_return_restored_values(self) -> None:
        memory = SourceMemory()
        memory.restore(iter([("a", b'{"n":1}')]))
        assert memory.get("a") == {"n": 1}
        memory.set("a", {"n": 1})
        assert not memory.waits
