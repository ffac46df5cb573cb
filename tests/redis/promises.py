"""The table of docs/scaling.md of what is lost when, and what the tests of faults have found.

A test of a fault has the mark `fault` with the first cell of its row.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.e2e.server import CHECKOUT
from tests.redis.crew import Crew

PAGE = CHECKOUT / "docs" / "scaling.md"
HEADING = "### What is lost when"


@dataclass(frozen=True)
class Promise:
    """A row of the table."""

    publications: str
    readers: str

    def check(self, lost: int, told: int) -> None:
        """Compare it with what a test has found."""
        if self.publications.startswith("none"):
            assert lost == 0, f"{lost} publications are lost, and the page says: none"
        if self.readers.startswith("are told"):
            assert told, "no reader was told, and the page says that they are"
        elif "told" not in self.readers:
            assert not told, f"readers were told {told} times: {self.readers}"


def promises() -> dict[str, Promise]:
    """The rows by their faults."""
    section = PAGE.read_text("utf-8").partition(HEADING)[2].partition("\n### ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:1] == "|"][2:]
    return {fault: Promise(publications, readers) for fault, publications, readers in rows}


def account(fault: str, crew: Crew | None) -> list[str]:
    """What a test has found, for the report; raises AssertionError if the page says otherwise."""
    if crew is None:
        return [fault, "-", "-", "-", "-"]
    promises()[fault].check(crew.lost, crew.told)
    counts = len(crew.acknowledged), crew.lost, 0, crew.told
    return [fault, *map(str, counts)]
