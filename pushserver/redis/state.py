"""The state of a node at its log, for readiness and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class State:
    """`attached`: publications are accepted, and readers get them.

    `lag` is the number of publications that had not arrived at the last check. `deaf_since` is the
    time at which the node ceased to be attached, by the steady clock; `reason` says why, and
    `problem` says it to everybody, or why Redis refuses publications at present. `losses`: how
    often it ceased to be. `entries_read`: the publications that came, also those of channels that
    nobody here watches.
    """

    attached: bool
    lag: int
    deaf_since: float | None
    reason: str
    problem: str
    losses: int
    entries_read: int

    @property
    def works(self) -> bool:
        """Whether publications are accepted, and Redis has refused none lately."""
        return self.deaf_since is None and not self.problem


def combined(states: Sequence[State]) -> State:
    """The state of all shards together: the problems are those of the first that has one."""
    if len(states) == 1:
        return states[0]
    deaf = [(n, state) for n, state in enumerate(states) if not state.works]
    number, worst = min(deaf, key=_urgency, default=(0, states[0]))
    since = [state.deaf_since for state in states if state.deaf_since is not None]
    named = f"shard {number}: "
    return State(
        all(state.attached for state in states),
        sum(state.lag for state in states),
        min(since, default=None),
        named + worst.reason if worst.reason else "",
        named + worst.problem if worst.problem else "",
        sum(state.losses for state in states),
        sum(state.entries_read for state in states),
    )


def _urgency(shard: tuple[int, State]) -> tuple[bool, int]:
    return shard[1].deaf_since is None, shard[0]
