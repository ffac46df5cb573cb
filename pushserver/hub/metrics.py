"""Counts the publications, deliveries, refusals and other events of a server."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Metrics:
    """Counters, which are never reset. `publications`: those that were accepted.

    `deliveries`: of a publication to one subscriber; `duplicates`: found by an idempotency key;
    `evictions`: publications dropped from a history; `made_room`: histories that were forgotten or
    cut for others, by the setting that was reached; `gaps`: notices of one to a subscriber;
    `recoveries` by result: `recovered`, or the reason why not (`epoch`, `ahead`, `evicted`,
    `limit`); `refusals` of publications by cause, `wrong_key`, `wrong_token`, and
    excesses by the setting of `[limits]`; `ended`: connections that the
    server closed, by close code, with 3008 and 1013 also for peers that did not read; `store_*`:
    commits, their publications, their seconds in all and of the last, and failures.
    """

    publications: int = 0
    deliveries: int = 0
    duplicates: int = 0
    evictions: int = 0
    made_room: Counter[str] = field(default_factory=Counter)
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
        """Count a commit of the store with `rows` publications, which took `seconds`."""
        self.store_commits += 1
        self.store_rows += rows
        self.store_seconds += seconds
        self.store_last_seconds = seconds

    def resumed(self, reason: str) -> None:
        """Count an attempt to resume; an empty reason is a success."""
        self.recoveries[reason or "recovered"] += 1

    def items(self) -> dict[str, float]:
        """Each counter by its name; those with a label as `name.label`."""
        items: dict[str, float] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, Counter):
                items.update({f"{name}.{label}": count for label, count in value.items()})
            else:
                items[name] = value
        return items
