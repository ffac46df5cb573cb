"""docs/monitoring: its table is that of the collector, and each metric in it exists and moves."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from wsgiref.simple_server import demo_app

import pytest
from msgspec import structs
from prometheus_client import Metric
from twisted.internet.defer import Deferred

from pushserver import PushServer
from pushserver.cluster.measures import Measure
from pushserver.config.settings import Config, Source
from pushserver.diagnosis.facts import WorkerState
from pushserver.hub.metrics import Histogram, Metrics
from pushserver.redis.state import State
from pushserver.server.build import build
from pushserver.server.collector import ServerCollector
from pushserver.server.epoll_limit import LongestTurn
from pushserver.server.service import PushService
from tests.unit.fakes.web import memory_reactor

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "monitoring.md").read_text("utf-8")
RULES = (DOCS / "monitoring" / "rules.yml").read_text("utf-8")
DASHBOARD = json.loads((DOCS / "monitoring" / "grafana.json").read_text("utf-8"))

OF_THE_PROCESS = {
    "process_open_fds",
    "process_max_fds",
    "process_resident_memory_bytes",
    "python_gc_collections_total",
}
SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_count", "_sum"),
    "info": ("_info",),
}


class World:
    """A server with a store, an application, a source and a worker, and its metrics."""

    def __init__(self, folder: Path) -> None:
        config = Config()
        source = Source("random", "numbers", options={"every": 2.0})
        config = replace(
            config,
            store=replace(config.store, path=str(folder / "a.db")),
            sources={"numbers": source},
        )
        reactor = memory_reactor()
        self.file = folder / "a.db"
        self.service: PushService = build(config, reactor, app=PushServer(wsgi=demo_app))
        base = self.service.live._base
        self.collector: ServerCollector = base.collector
        self.pulse = self.service._pulse
        self.pulse.turns = LongestTurn()
        self.metrics: Metrics = base.node.metrics
        self.unsent = base.peers.unread.unsent
        self.room = base.node.history.room
        self.storage: Any = self.collector._storage
        self.pool: Any = self.collector._threads
        assert self.service.gateway is not None
        self.wsgi_pool: Any = self.service.gateway._pool
        [self.runner] = cast(Any, self.service.sources)
        self.worker = WorkerState(1, 70, "ready", 0)
        self.service.measures.states = lambda: [self.worker]
        self.broker = State(False, 0, 0.0, "", "", 0, 0)
        self.collector.broker = lambda: [self.broker]
        self.link = self.service.measures.link("p", 1, False, tuple)
        self.link.told(Measure(longest_turn=0.1))

    def start_worker(self) -> None:
        more = [self.worker, structs.replace(self.worker, number=2)]
        self.service.measures.states = lambda: more

    def restart_worker(self) -> None:
        self.worker = structs.replace(self.worker, restarts=1)

    def families(self) -> list[Metric]:
        return list(self.collector.collect())

    def value(self, name: str) -> float:
        """The sum of the samples of a metric; for a histogram, the number of its values."""
        samples = [sample for family in self.families() for sample in family.samples]
        chosen = [sample for sample in samples if sample.name in (name, f"{name}_count")]
        return sum(sample.value for sample in chosen)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def count(name: str, label: str = "") -> Callable[[World], None]:
    def move(world: World) -> None:
        counter = getattr(world.metrics, name)
        if label:
            counter[label] += 1
        else:
            setattr(world.metrics, name, counter + 1)

    return move


def observe(name: str) -> Callable[[World], None]:
    def move(world: World) -> None:
        histogram: Histogram = getattr(world.metrics, name)
        histogram.observe(0.01)

    return move


def tells(**numbers: Any) -> Callable[[World], None]:
    return lambda world: world.link.told(Measure(**{"longest_turn": 0.1} | numbers))


def _wait_for_a_commit(world: World) -> None:
    world.storage._batcher._queue._rows.append(cast(Any, None))
    world.storage._batcher._queue._bytes += 500


def changes(**values: Any) -> Callable[[World], None]:
    return lambda world: setattr(world, "broker", replace(world.broker, **values))


def _use_threads(pool: Any) -> None:
    pool._running["a"] += 1
    pool._waiting["a"] = {Deferred(): None}


MOVES: dict[str, Callable[[World], object]] = {
    "connections": count("opened", "sse"),
    "connections_opened_total": count("opened", "sse"),
    "connections_ended_total": count("ended", "3001"),
    "slow_connections_dropped_total": count("slow"),
    "refusals_total": count("refusals", "connections"),
    "denials_total": count("denied", "403"),
    "unsent_bytes": lambda world: world.unsent.hold(b"abc"),
    "publications_total": count("publications"),
    "duplicates_total": count("duplicates"),
    "deliveries_total": count("deliveries"),
    "delivered_bytes_total": count("delivered_bytes"),
    "fanout_seconds": observe("fanout_seconds"),
    "fanout_pass_seconds": observe("pass_seconds"),
    "recoveries_total": count("recoveries", "evicted"),
    "gaps_total": count("gaps"),
    "channels": lambda world: world.collector._node.history.channel("a"),
    "history_bytes": lambda world: world.collector._node.history.channel("a"),
    "evictions_total": count("evictions"),
    "histories_evicted_total": count("made_room", "channels"),
    "store_commit_seconds": lambda world: world.metrics.committed(1, 0.1),
    "store_publications_total": lambda world: world.metrics.committed(1, 0.1),
    "store_errors_total": count("store_errors"),
    "store_waiting_publications": _wait_for_a_commit,
    "store_waiting_bytes": _wait_for_a_commit,
    "store_bytes": lambda world: world.file.write_bytes(b"x"),
    "broker_attached": changes(attached=True),
    "broker_lag_publications": changes(lag=1),
    "broker_losses_total": changes(losses=1),
    "broker_publications_total": changes(entries_read=1),
    "source_publications_total": lambda world: world.runner._record.publication(),
    "source_errors_total": lambda world: world.runner._record._note("failed"),
    "source_restarts_total": lambda world: setattr(world.runner, "_restarts", 1),
    "handler_seconds": lambda world: world.metrics.handled("job", 0.1),
    "handler_failures_total": count("handler_failures", "job"),
    "template_failures_total": count("template_failures", "row.html"),
    "handler_threads": lambda world: _use_threads(world.pool),
    "handler_calls_waiting": lambda world: _use_threads(world.pool),
    "wsgi_threads": lambda world: _use_threads(world.wsgi_pool),
    "wsgi_requests_waiting": lambda world: _use_threads(world.wsgi_pool),
    "reactor_lag_seconds": lambda world: world.pulse.lag.observe(0.1),
    "workers": World.start_worker,
    "worker_restarts_total": World.restart_worker,
    "worker_connections": tells(clients=1),
    "worker_deliveries_total": tells(metrics=Metrics(deliveries=1)),
    "worker_unsent_bytes": tells(unsent_bytes=1),
    "worker_cpu_seconds_total": tells(cpu_seconds=1e6),
    "worker_resident_bytes": tells(resident_bytes=10**12),
    "worker_longest_turn_seconds": tells(longest_turn=0.9),
    "reactor_longest_turn_seconds": lambda world: setattr(world.pulse.turns, "longest", 0.3),
}
"""What moves each metric. Those of sources by state, and of the build, have another test."""


@pytest.mark.parametrize("name", MOVES)
def test_each_metric_moves(world: World, name: str) -> None:
    before = world.value(f"pushserver_{name}")
    MOVES[name](world)
    assert world.value(f"pushserver_{name}") > before


def test_sources_move_from_one_state_to_another(world: World) -> None:
    def states() -> dict[str, float]:
        [family] = [one for one in world.families() if one.name == "pushserver_sources"]
        return {sample.labels["state"]: sample.value for sample in family.samples if sample.value}

    assert states() == {"stopped": 1}
    world.runner._ended = True
    assert states() == {"ended": 1}


def exposed(families: list[Metric]) -> dict[str, tuple[str, list[str]]]:
    """The type and the labels of each metric, by its name as it is in the text."""
    found = {}
    for family in families:
        suffix = SUFFIXES[family.type][0] if family.type in ("counter", "info") else ""
        labels = cast(Any, family)._labelnames
        if family.type == "info":
            [sample] = family.samples
            labels = list(sample.labels)
        found[family.name + suffix] = (family.type, list(labels))
    return found


def test_table_has_each_metric_with_its_type_and_labels(world: World) -> None:
    row = re.compile(r"^\| `(pushserver_\w+)` \| (\w+) \| ([^|]*) \| [^|]+ \|$", re.MULTILINE)
    documented = {
        name: (kind, re.findall(r"`(\w+)`", labels)) for name, kind, labels in row.findall(PAGE)
    }
    assert documented == exposed(world.families())
    moved = {f"pushserver_{name}" for name in MOVES}
    assert documented.keys() - moved == {"pushserver_sources", "pushserver_build_info"}


def texts(value: Any) -> Iterator[str]:
    """All texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from texts(inner)


def expressions() -> dict[str, str]:
    """The expressions of the alerts and of the panels, by name."""
    alerts = re.split(r"^      - alert: ", RULES, flags=re.MULTILINE)[1:]
    found = {}
    for alert in alerts:
        name, _, rest = alert.partition("\n")
        found[name] = rest.partition("expr:")[2].partition("annotations:")[0]
    for panel in DASHBOARD["panels"]:
        found[panel["title"]] = " ".join(target["expr"] for target in panel["targets"])
    return found


NAMED = re.compile(r"\bup\b|\b(?:pushserver|process|python)_\w+")
"""The names of metrics in an expression; `up` is Prometheus' own."""


@pytest.mark.parametrize("name", expressions())
def test_metrics_of_the_dashboard_and_of_the_alerts_exist(world: World, name: str) -> None:
    known = set(OF_THE_PROCESS)
    for metric, (kind, _) in exposed(world.families()).items():
        ends = SUFFIXES[kind] if kind == "histogram" else ("",)
        known |= {metric + end for end in ends}
    used = set(NAMED.findall(expressions()[name]))
    assert used
    assert used <= known | {"up"}


def test_labels_of_the_dashboard_and_of_the_alerts_exist(world: World) -> None:
    known = {label for _, labels in exposed(world.families()).values() for label in labels}
    known |= {"le", "job", "instance", "generation", "uid"}
    used: set[str] = set()
    for expression in expressions().values():
        used |= {
            name
            for group in re.findall(r"by \(([^)]*)\)", expression)
            for name in group.split(", ")
        }
        used |= set(re.findall(r"[{,]\s*(\w+)=", expression))
    for text in [*texts(DASHBOARD), RULES]:
        used |= set(re.findall(r"\{\{(\w+)\}\}", text))
        used |= set(re.findall(r"\{\{ \$labels\.(\w+) \}\}", text))
    assert used <= known


def test_events_of_the_log_in_the_alerts_are_documented() -> None:
    log = (DOCS / "log.md").read_text("utf-8")
    named = re.findall(r"\((\w+)\)\.$", RULES, re.MULTILINE)
    assert named
    assert all(f"| `{name}` |" in log for name in named)


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)


def test_numbers_of_several_shards_have_their_label(world: World) -> None:
    world.collector.broker = lambda: [world.broker, replace(world.broker, lag=5)]
    by_name = {family.name: family for family in world.families()}
    lag = by_name["pushserver_broker_lag_publications"].samples
    assert [(sample.labels, sample.value) for sample in lag] == [
        ({"shard": "0"}, 0),
        ({"shard": "1"}, 5),
    ]
