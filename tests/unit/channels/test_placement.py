"""The log of a channel: the same in each process, and that of its namespace."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pushserver.channels.placement import Placement

namespaces = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,20}", fullmatch=True)
NAMES = [f"namespace{n}" for n in range(2_000)]


def test_places_never_change() -> None:
    placement = Placement(4, {})
    assert [placement(f"{name}:1") for name in ("chat", "game", "orders", "x")] == [3, 1, 1, 0]


@given(namespaces, st.integers(1, 8))
def test_channels_of_a_namespace_are_together(namespace: str, count: int) -> None:
    placement = Placement(count, {})
    shard = placement(f"{namespace}:1")
    assert 0 <= shard < count
    for name in (f"{namespace}:2", f"${namespace}:1", f"{namespace}:1:2#42,43"):
        assert placement(name) == shard
    assert placement(namespace) == placement("") == 0


def test_namespaces_are_spread_evenly() -> None:
    counts = Counter(map(Placement(4, {}).by_hash, NAMES))
    assert all(400 < count < 600 for count in counts.values())


@given(st.integers(1, 7))
def test_with_one_more_log_namespaces_move_only_to_that_one(count: int) -> None:
    before, after = Placement(count, {}), Placement(count + 1, {})
    moved = [name for name in NAMES[:200] if before.by_hash(name) != after.by_hash(name)]
    assert {after.by_hash(name) for name in moved} <= {count}
    assert len(moved) < 200 * 2 / (count + 1)


def test_layout_has_only_the_namespaces_that_are_elsewhere() -> None:
    chat = Placement(2, {}).by_hash("chat")
    placement = Placement(2, {"chat": 1 - chat, "game": Placement(2, {}).by_hash("game")})
    assert placement("chat:1") == 1 - chat
    assert placement.layout(0) == f"0/2 chat={1 - chat}"
    assert Placement(2, {}).layout(1) == "1/2"
