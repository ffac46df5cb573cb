"""Remembers the recent refusals of a server by their causes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pushserver.diagnosis.remedies import setting_of
from pushserver.errors import escaped

MAX_CAUSES = 64
"""The causes that are remembered; the one that was seen least recently is forgotten."""
MAX_REASON = 500
"""The characters of a reason."""

# The texts and numbers that a peer chose do not make another cause.
_VARIABLE = re.compile(r"'[^']*'|\"[^\"]*\"|[0-9]+")


@dataclass(slots=True)
class RecentRefusal:
    """The refusals of one cause: the HTTP status or the code of the Centrifuge protocol.

    The status is 0 for a connection that was closed because of its PROXY protocol.

    `setting`: the setting that the reason names, with its section; empty if it names none.
    `reason`, `address` and `time` (Unix seconds) are those of the last one.
    """

    status: int
    setting: str
    reason: str
    address: str
    count: int
    time: float


class RecentRefusals:
    """The refusals of one server since its start; `clock` returns Unix seconds."""

    def __init__(self, clock: Callable[[], float]):
        self._clock = clock
        self._causes: dict[tuple[int, str], RecentRefusal] = {}

    def note(self, status: int, address: str | None, reason: str) -> None:
        """Remember a refusal; the address None is a Unix socket."""
        reason = escaped(reason[:MAX_REASON])
        cause = status, _VARIABLE.sub("", reason)
        refusal = self._causes.pop(cause, None)
        if refusal is None:
            refusal = RecentRefusal(status, setting_of(reason), "", "", 0, 0.0)
        refusal.reason = reason
        refusal.address = address or "unix"
        refusal.count += 1
        refusal.time = round(self._clock(), 3)
        self._causes[cause] = refusal
        if len(self._causes) > MAX_CAUSES:
            del self._causes[next(iter(self._causes))]

    def newest_first(self) -> Sequence[RecentRefusal]:
        """The refusals by the time of their last one."""
        return tuple(reversed(self._causes.values()))
