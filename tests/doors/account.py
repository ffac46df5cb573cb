"""What publishers were told and readers got, compared with what docs/delivery.md promises."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from pushserver.channels.position import split_epoch
from tests.doors.readers import Reader, Row

LANES = 2
"""The publishers that publish at the same time."""
Place = tuple[str, int]
"""An epoch and an offset."""


class Account:
    """The publications of one channel. Each value is published once.

    The values of a publisher increase; it is that of the remainder by LANES.
    """

    def __init__(self) -> None:
        self.owed: set[int] = set()
        """The values that were acknowledged, and that no failure may have lost."""
        self.acknowledged: set[int] = set()
        self.may_be_told = False
        """Whether a failure began another epoch."""
        self.problems: list[str] = []
        self._places: dict[int, set[Place]] = {}
        """A publication that outlasts a failure has a place in each epoch."""
        self._values: dict[Place, int] = {}

    def publish(self, value: int, receipt: Any) -> None:
        """A publisher got a success; `receipt` is the answer, if it has the position."""
        self.owed.add(value)
        self.acknowledged.add(value)
        if receipt is not None:
            self._put(value, receipt["epoch"], receipt["offset"])

    def lose(self, before: set[int], kept: set[int]) -> None:
        """A failure has begun another epoch, and may have lost the last values.

        `before`: those that were owed when it came; `kept`: those that are in the history since.
        """
        self.may_be_told = True
        for lane in map(set, _lanes(sorted(before))):
            lost, there = lane - kept, lane & kept
            if lost and there and min(lost) < max(there):
                self.problems.append(f"{sorted(lost)} are lost, and later ones are there")
        self.owed &= kept

    def _put(self, value: int, epoch: str, offset: int) -> None:
        place = split_epoch(epoch)[0], offset
        if self._values.setdefault(place, value) != value:
            self.problems.append(f"{place} is {self._values[place]} and {value}")
        self._places.setdefault(value, set()).add(place)

    def check_history(self, answer: Any) -> None:
        """Check the history of the channel, as JSON."""
        rows = answer["publications"]
        values = [row["data"] for row in rows]
        for row in rows:
            self._put(row["data"], answer["epoch"], row["offset"])
        if missing := sorted(self.owed.difference(values)):
            self.problems.append(f"lost: {missing}")
        if len(set(values)) < len(values):
            self.problems.append(f"in the history twice: {values}")
        if (offsets := [row["offset"] for row in rows]) != list(
            range(answer["offset"] - len(rows) + 1, answer["offset"] + 1)
        ):
            self.problems.append(f"the history has the offsets {offsets}")
        # One that got no answer may be published later.
        for known in _lanes([value for value in values if value in self.acknowledged]):
            if known != sorted(known):
                self.problems.append(f"the history is out of order: {known}")

    def check_reader(self, name: str, connections: list[tuple[Reader, bool]]) -> None:
        """Check what a reader got on its connections, each with whether it resumed."""
        for reader, _ in connections:
            for row in reader.rows:
                if row.id is not None and row.offset is not None:
                    self._put(row.data, row.id.partition(":")[0], row.offset)
        values = [row.data for reader, _ in connections for row in reader.rows]
        if len(set(values)) < len(values):
            self.problems.append(f"{name} got some twice: {values}")
        told = [reader.told for reader, _ in connections if reader.gaps]
        if told and not self.may_be_told:
            self.problems.append(f"{name} was told {told}")
        if set(told) - {"epoch", True}:
            self.problems.append(f"{name} was told {told}, expected epoch")

    def check_order(self, name: str, connections: list[tuple[Reader, bool]]) -> None:
        """Check that a reader got all publications in order where it was not told of a gap."""
        for part in _parts(connections):
            for before, row in pairwise(part):
                if not self._follows(before, row):
                    self.problems.append(f"{name} got {row} after {before}")

    def _follows(self, before: Row, row: Row) -> bool:
        first, second = (self._places.get(each.data, set()) for each in (before, row))
        if {epoch for epoch, _ in first} & {epoch for epoch, _ in second}:
            return any((epoch, offset + 1) in second for epoch, offset in first)
        if before.offset is not None and row.offset is not None:
            return row.offset == before.offset + 1
        return True


def _lanes(values: list[int]) -> list[list[int]]:
    """The values of each publisher."""
    return [[value for value in values if value % LANES == lane] for lane in range(LANES)]


def _parts(connections: list[tuple[Reader, bool]]) -> list[list[Row]]:
    """The publications between two gaps, of which the reader knows."""
    parts: list[list[Row]] = [[]]
    for reader, resumed in connections:
        if not resumed:
            parts.append([])
        for number, row in enumerate(reader.rows):
            if number in reader.gaps:
                parts.append([])
            parts[-1].append(row)
        if len(reader.rows) in reader.gaps:
            parts.append([])
    return parts
