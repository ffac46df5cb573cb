from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import suppress
from weakref import ref

import pytest

from pushserver.server import gc_policy
from pushserver.server.gc_policy import Collector, without_collections


@pytest.fixture(autouse=True)
def _left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(gc_policy, "COUNT_EVERY", 1)
    monkeypatch.setattr(gc_policy, "MAX_UNEXPLAINED", 3_000)
    monkeypatch.setattr(gc_policy, "CHEAP", 0)
    # Python 3.12 starts with some frozen objects.
    gc.unfreeze()
    before = list(gc.callbacks), gc.get_threshold(), gc.get_freeze_count()
    gc.disable()
    yield
    gc.enable()
    assert (list(gc.callbacks), gc.get_threshold(), gc.get_freeze_count()) == before
    assert gc.get_freeze_count() == 0


@pytest.fixture(autouse=True, scope="module")
def _frozen_for_the_next_tests() -> Iterator[None]:
    """As after the collection of the tests: their own objects would be looked at each time."""
    yield
    gc.freeze()


class Peers:
    """A number of connections."""

    def __init__(self, count: int = 0):
        self.count = count

    def __len__(self) -> int:
        return self.count


class Circle:
    """A cycle, which no reference count frees."""

    def __init__(self) -> None:
        self.me = self


def circles(count: int) -> tuple[list[Circle], Callable[[], int]]:
    """Cycles, with weak references to them."""
    cycles = [Circle() for _ in range(count)]
    weak = [ref(circle) for circle in cycles]
    return cycles, lambda: sum(circle() is not None for circle in weak)


def test_objects_of_the_start_are_frozen() -> None:
    ours = Collector(Peers().__len__)
    ours.start()
    assert gc.get_freeze_count() > 1_000
    ours.stop()


def test_collection_freezes_survivors_and_frees_garbage() -> None:
    ours = Collector(Peers().__len__)
    ours.start()
    (kept, _), (dropped, left) = circles(50), circles(70)
    before = gc.get_freeze_count()
    del dropped
    assert gc.collect() >= 70
    assert gc.get_freeze_count() >= before + len(kept)
    assert left() == 0
    ours.stop()


def test_young_collection_freezes_nothing() -> None:
    ours = Collector(Peers().__len__)
    ours.start()
    before = gc.get_freeze_count()
    kept, _ = circles(50)
    gc.collect(1)
    assert gc.get_freeze_count() <= before
    del kept
    ours.stop()


def test_frozen_garbage_is_freed_when_there_may_be_much_of_it() -> None:
    ours = Collector(Peers().__len__)
    ours.start()
    held, left = circles(1_000)
    gc.collect()
    del held
    gc.collect()
    assert left() == 1_000, "too few to be worth a look"
    more, _ = circles(1_000)
    gc.collect()
    gc.collect()
    assert left() == 0
    before = gc.get_freeze_count()
    gc.collect()
    # The remaining objects are explained now, and cause no full collection.
    assert gc.get_freeze_count() >= before
    assert len(more) == 1_000
    ours.stop()


def test_objects_of_connections_cause_no_full_collection() -> None:
    peers = Peers()
    ours = Collector(peers.__len__)
    ours.start()
    peers.count = 10
    held, left = circles(1_800)
    gc.collect()
    del held
    gc.collect()
    assert left() == 1_800
    peers.count = 0
    gc.collect()
    assert left() == 0
    ours.stop()


def test_stop_may_be_called_twice_and_without_start() -> None:
    ours = Collector(Peers().__len__)
    ours.stop()
    ours.start()
    ours.stop()
    ours.stop()


def test_frozen_objects_are_counted_at_some_collections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc_policy, "COUNT_EVERY", 3)
    ours = Collector(Peers().__len__)
    ours.start()
    held, left = circles(2_000)
    gc.collect()
    del held
    gc.collect()
    assert left() == 2_000
    gc.collect()
    assert left() == 0
    ours.stop()


def test_threshold_is_lower_between_start_and_stop() -> None:
    young, middle, old = gc.get_threshold()
    ours = Collector(Peers().__len__)
    ours.start()
    assert gc.get_threshold() == (young, middle, gc_policy.THRESHOLD)
    assert old > gc_policy.THRESHOLD
    ours.stop()


@pytest.mark.parametrize("first_stops_first", [True, False])
def test_last_of_two_servers_restores_the_threshold(first_stops_first: bool) -> None:
    before = gc.get_threshold()
    one, two = Collector(Peers().__len__), Collector(Peers().__len__)
    one.start()
    two.start()
    first, last = (one, two) if first_stops_first else (two, one)
    first.stop()
    assert gc.get_threshold() != before
    assert gc.get_freeze_count() > 0
    last.stop()
    assert gc.get_threshold() == before


def test_full_collection_runs_while_few_objects_are_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc_policy, "CHEAP", 10_000_000)
    ours = Collector(Peers().__len__)
    ours.start()
    held, left = circles(10)
    gc.collect()
    del held
    gc.collect()
    assert left() == 0
    ours.stop()


def test_full_collection_runs_at_least_every_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc_policy, "FULL_EVERY", 3)
    ours = Collector(Peers().__len__)
    ours.start()
    held, left = circles(10)
    gc.collect()
    del held
    gc.collect()
    assert left() == 10
    gc.collect()
    assert left() == 0
    ours.stop()


@pytest.mark.parametrize("enabled", [True, False])
def test_imports_are_not_interrupted_by_collections(enabled: bool) -> None:
    if enabled:
        gc.enable()
    states = []
    with suppress(ImportError), without_collections():
        states.append(gc.isenabled())
        raise ImportError
    assert [*states, gc.isenabled()] == [False, enabled]
