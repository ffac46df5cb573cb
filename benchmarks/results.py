"""Measurements and the figures computed from them; no clock, process or terminal is used here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """A median with the least and the most."""

    middle: float
    least: float
    most: float

    def over(self, other: Figure) -> float:
        """The ratio of the medians."""
        return self.middle / other.middle if other.middle else float("nan")


def figure(values: Iterable[float]) -> Figure:
    """The figure of these values; not a number if there are none."""
    found = list(values) or [float("nan")]
    return Figure(median(found), min(found), max(found))


@dataclass(frozen=True, slots=True)
class Run:
    """One start of one server; `told` is the report of the load tool, as load.c prints it."""

    server: str
    protocol: str
    scenario: str
    clients: int
    rate: float
    told: Mapping[str, Any]

    @property
    def windows(self) -> Sequence[Mapping[str, Any]]:
        """The measured spans, one for each repeat."""
        found: Sequence[Mapping[str, Any]] = self.told.get("windows", ())
        return found

    def complaints(self) -> list[str]:
        """The losses and errors that make the figures of this run unreliable."""
        names = ("failed", "missing", "duplicates", "bad", "closed")
        found = [
            f"group {number}: {group[name]} {name}"
            for number, group in enumerate(self.told["groups"])
            for name in names
            # A client that never reads must be dropped.
            if group[name] and (name != "closed" or group["behaviour"] != "stalls")
        ]
        if self.protocol == "deflate" and not any(g["deflated"] for g in self.told["groups"]):
            found.append("nothing came compressed")
        if self.told.get("refused_posts"):
            found.append(f"{self.told['refused_posts']} posts refused")
        storm = self.told.get("storm")
        if storm and storm["back"] != storm["clients"]:
            found.append(f"{storm['clients'] - storm['back']} did not come back")
        once = self.told.get("once")
        if once and once["have"] != once["clients"]:
            found.append(f"{once['clients'] - once['have']} did not get the long publication")
        return found

    def values(self, of: Callable[[Mapping[str, Any]], float | None]) -> list[float]:
        """One value for each window that has it."""
        return [value for window in self.windows if (value := of(window)) is not None]

    def cost(self) -> Figure | None:
        """CPU microseconds for each delivered publication, if anything was delivered."""
        values = self.values(delivery_microseconds)
        return figure(values) if values else None

    def connect_microseconds(self) -> float:
        """The server's CPU time for one connect and subscribe."""
        return float(self.told["connect"]["cpu_seconds"] / self.clients * 1e6)

    def connects_per_second(self) -> float:
        """Connects and subscriptions a second, 32 at a time."""
        return float(self.clients / self.told["connect"]["seconds"])

    def connection_kilobytes(self) -> float:
        """The growth of the resident memory of the server for each connection, in KB."""
        return float((self.told["rss_kb"] - self.told["rss_before_kb"]) / self.clients)


def delivery_microseconds(window: Mapping[str, Any]) -> float | None:
    """The server's CPU time for each publication that reached a client."""
    if not window["deliveries"]:
        return None
    return float(window["cpu_seconds"] / window["deliveries"] * 1e6)


def pass_milliseconds(window: Mapping[str, Any]) -> float | None:
    """The median time from publishing until the last client has the publication."""
    times = window["passes"]
    return times["p50_us"] / 1000 if times["count"] else None


def deliveries_per_second(window: Mapping[str, Any]) -> float:
    """What reached the clients."""
    return float(window["deliveries"] / window["seconds"])


def publications_per_second(window: Mapping[str, Any]) -> float:
    """What was published."""
    return float(window["published"] / window["seconds"])


def publication_microseconds(window: Mapping[str, Any]) -> float:
    """The server's CPU time for each publication."""
    return float(window["cpu_seconds"] / max(1, window["published"]) * 1e6)


def core_share(span: Mapping[str, Any]) -> float:
    """The share of a core that the server used."""
    return float(span["cpu_seconds"] / span["seconds"])


def peak_kilobytes(run: Run) -> float:
    """The maximum of the resident memory during the measurement."""
    return float(max(window["peak_rss_kb"] for window in run.windows))


@dataclass(slots=True)
class Results:
    """All results of a benchmark. `missing`: the servers that were not measured, with reasons."""

    kind: str
    when: str
    machine: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def find(
        self, server: str, protocol: str, clients: int, scenario: str = "fan-out"
    ) -> list[Run]:
        """The runs of this kind, in their order."""
        wanted = (server, protocol, clients, scenario)
        return [r for r in self.runs if (r.server, r.protocol, r.clients, r.scenario) == wanted]

    def fan_outs(self) -> list[Run]:
        """The runs of the comparison."""
        return [run for run in self.runs if run.scenario == "fan-out"]

    def first(self, server: str, scenario: str, protocol: str = "") -> Run | None:
        """The first run of a scenario."""
        for run in self.runs:
            if (run.server, run.scenario) == (server, scenario) and protocol in ("", run.protocol):
                return run
        return None

    def cost(self, server: str, protocol: str, clients: int) -> Figure | None:
        """CPU microseconds for each delivered publication, over all windows."""
        runs = self.find(server, protocol, clients)
        values = [value for run in runs for value in run.values(delivery_microseconds)]
        return figure(values) if values else None

    def ratio(self, server: str, protocol: str, clients: int) -> float | None:
        """That cost as a multiple of the limit's, measured with as many clients."""
        limit = self.cost("limit", "sse" if protocol == "sse" else "websocket", clients)
        own = self.cost(server, protocol, clients)
        return own.over(limit) if own and limit else None

    def completion(self, server: str, protocol: str, clients: int) -> Figure | None:
        """Milliseconds until the last client has a publication."""
        runs = self.find(server, protocol, clients)
        values = [value for run in runs for value in run.values(pass_milliseconds)]
        return figure(values) if values else None

    def to_json(self) -> str:
        """The text of a file of results."""
        return json.dumps(asdict(self), indent=1) + "\n"


def from_json(text: str) -> Results:
    """The results from the text of to_json."""
    found = json.loads(text)
    found["runs"] = [Run(**run) for run in found["runs"]]
    return Results(**found)
