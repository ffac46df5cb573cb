"""What happened, counted; nothing here is ever reset."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Metrics:
    """The counters of one server.

    `publications` accepted; `deliveries` of a publication to one subscriber; `duplicates`
    that an idempotency key caught; `evictions` of a publication from a history;
    `recoveries` by how they ended: `recovered`, or the reason why not (`epoch`, `ahead`,
    `evicted`, `limit`); `gaps` that a subscriber was told of; `refusals` of a publication by
    why; connections `ended` by the server, by close code (3008 and 1013 too for those that
    did not read); commits of the store, how many publications they held, how long they
    took in seconds altogether and the last one, and how many failed.
    """

    publications: int = 0
    deliveries: int = 0
    duplicates: int = 0
    evictions: int = 0
    gaps: int = 0
    recoveries: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    store_commits: int = 0
    store_rows: int = 0
    store_seconds: float = 0.0
    store_last_seconds: float = 0.0
    store_errors: int = 0

    def committed(self, rows: int, seconds: float) -> None:
        """The store has committed so many publications, which took so long."""
        self.store_commits += 1
        self.store_rows += rows
        self.store_seconds += seconds
        self.store_last_seconds = seconds

    def resumed(self, reason: str) -> None:
        """A reader asked to go on from its position; the reason is empty if it could."""
        self.recoveries[reason or "recovered"] += 1

    def items(self) -> dict[str, float]:
        """Each counter by its name; those with a label as `name.label`."""
        found: dict[str, float] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, Counter):
                found.update({f"{name}.{label}": count for label, count in value.items()})
            else:
                found[name] = value
        return found
