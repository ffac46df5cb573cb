"""The state of a node at its log, for readiness and metrics."""

from __future__ import annotations

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
