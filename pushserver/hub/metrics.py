"""Counts the publications, deliveries, refusals and other events of a server."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from pushserver.protocols.formats import kind_of

MILLISECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000)
SECONDS = tuple(milliseconds / 1_000 for milliseconds in MILLISECONDS)
"""The bounds of histograms."""
_COUNTS = len(SECONDS) + 1


def _no_counts() -> list[int]:
    return [0] * _COUNTS


class Histogram(Struct, array_like=True):
    """The number of values up to each of `SECONDS`, and their sum.

    `counts` has one more item than `SECONDS`: the values above the last bound.
    """

    counts: Annotated[list[int], Meta(min_length=_COUNTS, max_length=_COUNTS)] = msgspec.field(
        default_factory=_no_counts
    )
    sum: float = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(SECONDS, value)] += 1
        self.sum += value

    def add(self, other: Histogram, sign: int = 1) -> None:
        """Add the values of another histogram, or with -1 subtract them."""
        for place, count in enumerate(other.counts):
            self.counts[place] += sign * count
        self.sum += sign * other.sum


@dataclass(slots=True)
class Metrics:
    """Counters, which are never reset. `publications`: those that were accepted.

    `opened` and `closed`: connections with a conversation, by the name of their format;
    `deliveries`: of a publication to one subscriber, and `delivered_bytes` in their frames;
    `pass_seconds`: the time for which a pass of the fan-out held the reactor; `fanout_seconds`:
    from the first publication of a pass until the last subscriber was sent it;
    `slow`: connections that were dropped because their peers did not read;
    `duplicates`: found by an idempotency key;
    `evictions`: publications dropped from a history; `made_room`: histories that were forgotten or
    cut for others, by the setting that was reached; `gaps`: notices of one to a subscriber;
    `recoveries` by result: `recovered`, or the reason why not (`epoch`, `ahead`, `evicted`,
    `limit`); `refusals` of publications by cause, `wrong_key`, `wrong_token`, and
    excesses by the setting of `[limits]`; `denied`: requests and commands that were not permitted,
    by HTTP status or Centrifuge code; `ended`: connections that the
    server closed, by close code, with 3008 and 1013 also for peers that did not read; `store_*`:
    commits, their publications, their seconds in all and of the last, and failures;
    `commit_seconds`: of each; `handler_seconds` and `handler_failures`: of the calls of each
    handler of the application; `template_failures`: the renderings that failed, by the name of the
    template or function.
    """

    publications: int = 0
    opened: Counter[str] = field(default_factory=Counter)
    closed: Counter[str] = field(default_factory=Counter)
    deliveries: int = 0
    delivered_bytes: int = 0
    pass_seconds: Histogram = field(default_factory=Histogram)
    fanout_seconds: Histogram = field(default_factory=Histogram)
    slow: int = 0
    duplicates: int = 0
    evictions: int = 0
    made_room: Counter[str] = field(default_factory=Counter)
    gaps: int = 0
    recoveries: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    denied: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    store_commits: int = 0
    store_rows: int = 0
    store_seconds: float = 0.0
    store_last_seconds: float = 0.0
    store_errors: int = 0
    commit_seconds: Histogram = field(default_factory=Histogram)
    handler_seconds: dict[str, Histogram] = field(default_factory=dict)
    handler_failures: Counter[str] = field(default_factory=Counter)
    template_failures: Counter[str] = field(default_factory=Counter)

    def committed(self, rows: int, seconds: float) -> None:
        """Count a commit of the store with `rows` publications, which took `seconds`."""
        self.store_commits += 1
        self.store_rows += rows
        self.store_seconds += seconds
        self.store_last_seconds = seconds
        self.commit_seconds.observe(seconds)

    def handled(self, name: str, seconds: float) -> None:
        """Count a call of a handler, which took `seconds`."""
        histogram = self.handler_seconds.get(name)
        if histogram is None:
            histogram = self.handler_seconds[name] = Histogram()
        histogram.observe(seconds)

    def resumed(self, reason: str) -> None:
        """Count an attempt to resume; an empty reason is a success."""
        self.recoveries[reason or "recovered"] += 1

    def add(self, other: Metrics, sign: int = 1) -> None:
        """Add the counters of another process, or with -1 subtract an earlier state of them."""
        for name in self.__slots__:
            own, value = getattr(self, name), getattr(other, name)
            if isinstance(own, Histogram):
                own.add(value, sign)
            elif isinstance(own, Counter):
                for label, count in value.items():
                    own[label] += sign * count
            elif isinstance(own, dict):
                for label, histogram in value.items():
                    own.setdefault(label, Histogram()).add(histogram, sign)
            else:
                setattr(self, name, own + sign * value)

    def items(self) -> dict[str, float]:
        """Each counter by its name; those with a label as `name.label`. Without histograms."""
        items: dict[str, float] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, Counter):
                items.update({f"{name}.{label}": count for label, count in value.items()})
            elif isinstance(value, int | float):
                items[name] = value
        return items


def by_kind(counts: Mapping[str, int]) -> dict[tuple[str, ...], float]:
    """The counts by transport and protocol in place of the name of the format."""
    kinds: dict[tuple[str, ...], float] = {}
    for name, count in counts.items():
        kind = kind_of(name)
        kinds[kind] = kinds.get(kind, 0) + count
    return kinds


def open_by_kind(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """The open connections, and polls that wait, by transport and protocol."""
    closed = by_kind(metrics.closed)
    return {kind: n - closed.get(kind, 0) for kind, n in by_kind(metrics.opened).items()}
