"""The bound on what waits for a commit that does not end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.publication import ClientInfo, Draft
from pushserver.store import waiting
from pushserver.store.waiting import waiting_bytes
from tests.unit.store.runs import THREAD, Answer, Run, in_file

MOST = 200_000


@pytest.fixture(autouse=True)
def _low_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "MAX_WAITING_BYTES", MOST)


def busy(path: Path, durability: str = "sync", **options: Any) -> Run:
    """A run during a commit."""
    run = Run(path, durability, ChannelOptions(**options))
    run.publish(0)
    run.tick()
    assert len(THREAD.jobs) == 1
    return run


def call(run: Run, draft: Draft) -> Answer:
    return Answer(Deferred.fromCoroutine(run.broker.publish(draft)))


DRAFTS: dict[str, Callable[[int], Draft]] = {
    "small": lambda n: Draft("a", b"1"),
    "large": lambda n: Draft("a", b"7" * 10_000),
    "channels": lambda n: Draft(f"c{n}", b"1"),
    "tags": lambda n: Draft("a", b"1", tags={"tag": "x" * 10_000}),
    "info": lambda n: Draft("a", b"1", info=ClientInfo("c", conn_info=b"8" * 10_000)),
    "keys": lambda n: Draft("a", b"1", key=f"k{n}"),
    "one key": lambda n: Draft("a", b"1", key="k"),
}


@pytest.mark.parametrize("kind", DRAFTS)
def test_publishers_beyond_the_bound_are_refused_at_once_and_the_others_continue(
    path: Path, kind: str
) -> None:
    make = DRAFTS[kind]
    run = busy(path)
    waits: list[Answer] = []
    while (answer := call(run, make(len(waits)))).waits:
        waits.append(answer)
        assert len(waits) <= MOST / waiting.CALL_BYTES + 1, "no bound"
    assert "the store is too slow: " in answer.refused
    size = waiting_bytes(make(0)) if kind != "one key" else 0
    assert len(waits) >= MOST / (size + waiting.CALL_BYTES) - 2
    THREAD.finish()
    assert [type(one.result).__name__ for one in waits] == ["Receipt"] * len(waits)
    again = [call(run, make(n)) for n in range(len(waits))]
    THREAD.finish()
    assert not any(one.waits for one in again)
    run.stop()


def test_clears_beyond_the_bound_are_refused(path: Path) -> None:
    run = busy(path)
    THREAD.work()
    run.publish(1)
    waits = []
    while (answer := run.clear()).waits:
        waits.append(answer)
        assert len(waits) <= MOST / waiting.CALL_BYTES + 1, "no bound"
    assert "the store is too slow" in answer.refused
    THREAD.finish()
    assert {one.result for one in waits} == {None}


@pytest.mark.usefixtures("_expects_store_problems")
def test_no_bytes_wait_after_any_end_of_a_commit(path: Path) -> None:
    run = busy(path)
    for end in (THREAD.work, THREAD.fail):
        for n in range(5):
            call(run, Draft("a", b"1", tags={"a": "b"}, key=f"{n % 2}"))
        run.clear()
        end()
        assert run.broker._bytes > 0  # type: ignore[attr-defined]
    THREAD.finish()
    assert run.broker._bytes == 0  # type: ignore[attr-defined]


def test_publisher_with_a_key_of_the_same_commit_that_is_being_answered(path: Path) -> None:
    """The second caller of a key comes while the row before its own is delivered."""
    run = busy(path)
    late: list[Answer] = []
    run.broker.attach(lambda *_: late.append(call(run, Draft("a", b"2", key="k"))))
    first, second = run.publish(1), run.publish(2, key="k")
    THREAD.finish()
    assert (first.offset, second.offset) == (2, 3)
    assert {one.offset for one in late} == {3}
    assert run.broker._bytes == 0  # type: ignore[attr-defined]


def test_delivery_after_the_commit_skips_the_clients_of_the_draft(path: Path) -> None:
    run = busy(path)
    skips: list[tuple[bytes, list[str]]] = []
    run.broker.attach(lambda row, skip: skips.append((row.data, [*skip])))
    call(run, Draft("a", b"1", skip=("x", "y")))
    call(run, Draft("a", b"2"))
    THREAD.finish()
    assert skips[-2:] == [(b"1", ["x", "y"]), (b"2", [])]


@pytest.mark.parametrize("draft", [DRAFTS["small"](0), DRAFTS["tags"](0)], ids=["small", "tags"])
def test_batched_rows_count_whole(path: Path, draft: Draft) -> None:
    run = busy(path, "batched", history_size=3)
    answers = [call(run, draft) for _ in range(MOST // waiting_bytes(draft) + 5)]
    assert "the store is too slow" in answers[-1].refused
    accepted = run.history.channels["a"].top
    assert accepted == pytest.approx(MOST / waiting_bytes(draft), rel=0.1)
    THREAD.work()
    run.tick()
    THREAD.work()
    assert call(run, draft).offset == accepted + 1
    run.stop()
    assert [len(rows) for rows in in_file(path).values()] == [3]
