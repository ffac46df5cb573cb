"""Any sequence of operations, with failing commits, kills and restarts, on a store of each kind.

The rules are those of docs/delivery.md; `model` compares the server with plain lists.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pushserver.hub import fanout
from pushserver.store import removal
from tests.unit.fakes.tools import programs
from tests.unit.store.model import World
from tests.unit.store.plain_list import CHANNELS, GROUPS
from tests.unit.store.runs import RUNS, THREAD, folder_in_memory

Step = tuple[Any, ...]

EXAMPLES = 2_000 if os.environ.get("HYPOTHESIS_PROFILE") == "search" else 60

CHANNEL = st.sampled_from([*CHANNELS, "a"])
CLIENT = st.integers(0, 1)
KEY = st.sampled_from(["k", "k", "l"])
CALLS = st.one_of(
    st.tuples(st.just("publish"), CHANNEL),
    st.tuples(st.just("publish"), CHANNEL),
    st.tuples(st.just("publish"), st.sampled_from("ab"), KEY),
    st.tuples(st.just("publish"), st.sampled_from("ab"), KEY),
    st.tuples(st.just("ask"), CLIENT, CHANNEL, st.sampled_from(["publish", "rpc"])),
    st.tuples(st.just("come"), CLIENT, CHANNEL),
    st.tuples(st.just("come"), CLIENT, CHANNEL),
    st.tuples(st.just("come_from_zero"), CLIENT, CHANNEL),
    st.tuples(st.just("go"), CLIENT, CHANNEL),
    st.tuples(st.just("follow"), st.integers(0, len(GROUPS) - 1), st.sampled_from([0, 0, 0, 1])),
    st.tuples(st.just("vanish"), st.integers(0, 1 + len(GROUPS))),
    st.tuples(st.just("clear"), CHANNEL),
    st.just(("sweep",)),
)
COMMIT = st.sampled_from([("commit",), ("commit",), ("commit",), ("fail",)])
OTHERS = (
    st.just(("advance", 0.06)),
    st.just(("advance", 0.06)),
    st.tuples(st.just("advance"), st.sampled_from([1.3, 1.3, 41.7, 130.3, 310.7])),
    st.tuples(st.just("step"), st.sampled_from([-3_600.0, 86_400.0, -0.5])),
    st.just(("turn",)),
    st.sampled_from([("stop",), ("stop", True), ("kill",), ("kill", True)]),
)
WITHIN = st.tuples(st.sampled_from(["react", "hook"]), CALLS).map(lambda pair: (pair[0], *pair[1]))
STEPS = st.one_of(CALLS, CALLS, *[COMMIT] * 9, *OTHERS, WITHIN, WITHIN)


@pytest.fixture(scope="module", autouse=True)
def _small_steps() -> Iterator[None]:
    """Let removals need several commits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(removal, "STEP_BYTES", 5_000)
        yield


@pytest.mark.parametrize("tight", [False, True], ids=["ample", "tight"])
@pytest.mark.parametrize("kind", ["memory", "batched", "sync"])
@pytest.mark.usefixtures("_expects_store_problems")
@settings(max_examples=EXAMPLES)
@given(steps=programs(STEPS, most=80))
def test_guarantees_hold_in_any_sequence_of_operations(
    kind: str, tight: bool, steps: list[Step]
) -> None:
    run(kind, steps, tight)


@pytest.mark.usefixtures("_expects_store_problems")
def test_client_recovers_in_a_channel_that_was_forgotten_and_is_back_after_a_kill() -> None:
    publications: list[Step] = [("publish", name) for name in "aaaaaba"]
    forget: list[Step] = [("stop",), ("publish", "quiet"), ("commit",), ("step", 86_400.0)]
    run("sync", [*publications, *forget, ("come", 0, "b"), ("kill",), ("come", 0, "b")], True)


def run(kind: str, steps: list[Step], tight: bool = False) -> World:
    """Run the steps, and end the server."""
    THREAD.jobs.clear()
    with pytest.MonkeyPatch.context() as patch, folder_in_memory() as folder:
        # So that a pass takes several turns.
        patch.setattr(fanout, "SLICE", 2)
        world = World(kind, Path(folder, "s.db"), tight)
        try:
            for step in steps:
                world.do(*step)
            world.finish()
        finally:
            while RUNS:
                RUNS.pop().close()
    return world
