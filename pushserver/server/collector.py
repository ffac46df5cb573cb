"""Collects the metrics of one server for Prometheus; docs/monitoring.md has a table of them.

No label has a value that a client chooses: the labels are names of the configuration, of the
application's handlers, and words and codes of the code.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, get_args

import twisted
from pushserver import __version__
from pushserver.cluster.measures import Measure, Measures
from pushserver.diagnosis.facts import State
from pushserver.hub.metrics import SECONDS, Histogram, Metrics, by_kind, open_by_kind
from pushserver.redis.state import State as BrokerState
from pushserver.sessions.node import Node
from pushserver.sources.engine.runner import STATES, Status
from pushserver.store.service import Storage
from pushserver.usercode.thread_pool import Pool, ThreadPool
from pushserver.wsgi.gateway import Gateway

if TYPE_CHECKING:
    # Imported where it is used, with the first request: it takes time to import.
    from prometheus_client.metrics_core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
    )

Values = Mapping[tuple[str, ...], float]


class ServerCollector:
    """The metrics of a server; `sources` returns the status of each source.

    `measures`: the numbers of its processes.
    """

    def __init__(
        self,
        node: Node,
        measures: Measures,
        storage: Storage | None,
        threads: Pool | None,
        gateway: Gateway | None = None,
    ):
        self.sources: Callable[[], Sequence[Status]] = list
        self.broker: Callable[[], Sequence[BrokerState]] | None = None
        """Returns the state of the log in each Redis, if it is there."""
        self._node = node
        self._measures = measures
        self._storage = storage
        self._threads = threads
        self._gateway = gateway

    def collect(self) -> Iterator[Metric]:
        """The present values."""
        whole = self._measures.whole()
        yield from self._peers(whole)
        yield from self._publications(whole.metrics)
        if self._storage is not None:
            yield from self._store(self._storage)
        if self.broker is not None:
            yield from _broker(self.broker())
        yield from self._sources(self.sources())
        yield from self._handlers()
        yield _counter(
            "template_failures",
            "Renderings of templates, and calls of functions in their place, that failed.",
            _labelled(whole.metrics.template_failures),
            ("template",),
        )
        yield from self._process(whole)
        if self._measures.has_workers:
            yield from _workers(self._measures)

    def _peers(self, whole: Measure) -> Iterator[Metric]:
        metrics = whole.metrics
        labels = "transport", "protocol"
        opened, present = by_kind(metrics.opened), open_by_kind(metrics)
        yield _gauge("connections", "Open connections and waiting long polls.", present, labels)
        yield _counter("connections_opened", "Accepted connections.", opened, labels)
        yield _counter(
            "connections_ended",
            "Connections that the server closed, by close code.",
            _labelled(metrics.ended),
            ("code",),
        )
        yield _counter(
            "slow_connections_dropped",
            "Connections that were dropped because their peers did not read.",
            metrics.slow,
        )
        yield _counter(
            "refusals",
            "Refused connections, requests and publications, by limit or cause.",
            _labelled(metrics.refusals),
            ("reason",),
        )
        yield _counter(
            "denials",
            "Requests and commands that were not permitted, by HTTP status or Centrifuge code.",
            _labelled(metrics.denied),
            ("code",),
        )
        yield _gauge("unsent_bytes", "Bytes that peers have not read.", whole.unsent_bytes)

    def _publications(self, metrics: Metrics) -> Iterator[Metric]:
        room = self._node.history.room
        yield _counter("publications", "Accepted publications.", metrics.publications)
        yield _counter(
            "duplicates", "Publications found by their idempotency key.", metrics.duplicates
        )
        yield _counter("deliveries", "Publications to one subscriber.", metrics.deliveries)
        yield _counter(
            "delivered_bytes", "Bytes of the frames of deliveries.", metrics.delivered_bytes
        )
        yield _histogram(
            "fanout_seconds",
            "From a publication until its last subscriber was sent it.",
            metrics.fanout_seconds,
        )
        yield _histogram(
            "fanout_pass_seconds",
            "The time for which a pass over the subscribers held the reactor.",
            metrics.pass_seconds,
        )
        recoveries: Values = {
            ("recovered" if result == "recovered" else "failed", result): float(count)
            for result, count in metrics.recoveries.items()
        }
        yield _counter(
            "recoveries", "Attempts to resume from a position.", recoveries, ("result", "reason")
        )
        yield _counter("gaps", "Notices of a gap to a subscriber.", metrics.gaps)
        yield _gauge("channels", "Channels in memory.", len(room.channels))
        yield _gauge("history_bytes", "Memory of all histories, roughly.", room.bytes)
        yield _counter("evictions", "Publications dropped from a history.", metrics.evictions)
        yield _counter(
            "histories_evicted",
            "Histories that were cut or forgotten for others, by the setting that was reached.",
            _labelled(metrics.made_room),
            ("setting",),
        )

    def _store(self, storage: Storage) -> Iterator[Metric]:
        metrics = self._node.metrics
        rows, size = storage.waiting
        yield _histogram("store_commit_seconds", "The time of a commit.", metrics.commit_seconds)
        yield _counter("store_publications", "Committed publications.", metrics.store_rows)
        yield _counter("store_errors", "Commits that failed.", metrics.store_errors)
        yield _gauge("store_waiting_publications", "Publications that wait for a commit.", rows)
        yield _gauge("store_waiting_bytes", "Their memory, roughly.", size)
        yield _gauge("store_bytes", "The size of the file and its log.", storage.file_bytes())

    def _sources(self, sources: Sequence[Status]) -> Iterator[Metric]:
        states = Counter(source.state for source in sources)
        by_state: Values = {(state,): states[state] for state in STATES}
        yield _gauge("sources", "Sources by state.", by_state, ("state",))
        by_name = ("source",)
        yield _counter(
            "source_publications",
            "Publications of each source.",
            {(source.name,): source.published for source in sources},
            by_name,
        )
        yield _counter(
            "source_errors",
            "Errors of each source.",
            {(source.name,): source.errors for source in sources},
            by_name,
        )
        yield _counter(
            "source_restarts",
            "Restarts of each source after an error.",
            {(source.name,): source.restarts for source in sources},
            by_name,
        )

    def _handlers(self) -> Iterator[Metric]:
        from prometheus_client.metrics_core import HistogramMetricFamily

        metrics = self._node.metrics
        family = HistogramMetricFamily(
            _PREFIX + "handler_seconds", "The time of a call of a handler.", labels=("handler",)
        )
        for name, histogram in metrics.handler_seconds.items():
            family.add_metric((name,), _buckets(histogram), histogram.sum)
        yield family
        yield _counter(
            "handler_failures",
            "Calls of handlers that failed or were late.",
            _labelled(metrics.handler_failures),
            ("handler",),
        )
        if isinstance(self._threads, ThreadPool):
            counts = self._threads.counts
            threads: Values = {("running",): counts.running, ("idle",): counts.idle}
            yield _gauge("handler_threads", "Threads of handlers by state.", threads, ("state",))
            yield _gauge("handler_calls_waiting", "Calls that wait for a thread.", counts.waiting)

        if self._gateway is not None:
            counts = self._gateway.counts
            threads = {("running",): counts.running, ("idle",): counts.idle}
            text = "Threads of the WSGI application by state."
            yield _gauge("wsgi_threads", text, threads, ("state",))
            text = "Requests to the WSGI application that wait for a thread."
            yield _gauge("wsgi_requests_waiting", text, counts.waiting)

    def _process(self, whole: Measure) -> Iterator[Metric]:
        from prometheus_client.metrics_core import InfoMetricFamily

        yield _histogram("reactor_lag_seconds", "How late a timer of the reactor is.", whole.lag)
        if whole.longest_turn is not None:
            yield _gauge(
                "reactor_longest_turn_seconds",
                "The longest turn of the reactor in the last minute.",
                whole.longest_turn,
            )
        versions = {
            "version": __version__,
            "python": platform.python_version(),
            "twisted": twisted.__version__,
        }
        yield InfoMetricFamily(_PREFIX + "build", "Versions of the server.", versions)


def _broker(states: Sequence[BrokerState]) -> Iterator[Metric]:
    """The numbers of each shard; one alone has no label."""
    labels = ("shard",) if len(states) > 1 else ()
    by = [((str(n),) if labels else (), state) for n, state in enumerate(states)]
    attached: Values = {shard: state.attached for shard, state in by}
    yield _gauge("broker_attached", "1 while the server is attached to Redis.", attached, labels)
    lag: Values = {shard: state.lag for shard, state in by}
    yield _gauge("broker_lag_publications", "Those in Redis that have not arrived.", lag, labels)
    losses: Values = {shard: state.losses for shard, state in by}
    text = "How often the server ceased to be attached."
    yield _counter("broker_losses", text, losses, labels)
    read: Values = {shard: state.entries_read for shard, state in by}
    text = "Publications of all servers that have arrived from Redis."
    yield _counter("broker_publications", text, read, labels)


def _workers(measures: Measures) -> Iterator[Metric]:
    """The numbers of each process; 0 is the main process."""
    workers, by = measures.states(), ("worker",)
    states = Counter(worker.state for worker in workers)
    by_state: Values = {(state,): states[state] for state in get_args(State)}
    yield _gauge("workers", "Workers by state.", by_state, ("state",))
    restarts: Values = {(str(worker.number),): worker.restarts for worker in workers}
    yield _counter("worker_restarts", "Replaced processes of each worker.", restarts, by)
    processes = {(str(number),): each for number, each in measures.by_worker().items()}
    clients: Values = {label: each.clients for label, each in processes.items()}
    yield _gauge("worker_connections", "Its open connections and waiting polls.", clients, by)
    delivered: Values = {label: each.metrics.deliveries for label, each in processes.items()}
    yield _counter("worker_deliveries", "Its publications to one subscriber.", delivered, by)
    unsent: Values = {label: each.unsent_bytes for label, each in processes.items()}
    yield _gauge("worker_unsent_bytes", "Bytes that its peers have not read.", unsent, by)
    cpu: Values = {label: each.cpu_seconds for label, each in processes.items()}
    yield _counter("worker_cpu_seconds", "The time of the processor that it took.", cpu, by)
    resident: Values = {label: each.resident_bytes for label, each in processes.items()}
    yield _gauge("worker_resident_bytes", "Its memory.", resident, by)
    turns: Values = {
        label: each.longest_turn
        for label, each in processes.items()
        if each.longest_turn is not None
    }
    text = "Its longest turn of the reactor in the last minute."
    yield _gauge("worker_longest_turn_seconds", text, turns, by)


_PREFIX = "pushserver_"


def _labelled(counts: Mapping[str, int]) -> Values:
    return {(label,): count for label, count in counts.items()}


def _counter(
    name: str, text: str, values: float | Values, labels: Sequence[str] = ()
) -> CounterMetricFamily:
    from prometheus_client.metrics_core import CounterMetricFamily

    family = CounterMetricFamily(_PREFIX + name, text, labels=labels)
    _add(family, values)
    return family


def _gauge(
    name: str, text: str, values: float | Values, labels: Sequence[str] = ()
) -> GaugeMetricFamily:
    from prometheus_client.metrics_core import GaugeMetricFamily

    family = GaugeMetricFamily(_PREFIX + name, text, labels=labels)
    _add(family, values)
    return family


def _add(family: CounterMetricFamily | GaugeMetricFamily, values: float | Values) -> None:
    for labels, value in values.items() if isinstance(values, Mapping) else [((), values)]:
        family.add_metric(labels, value)


def _histogram(name: str, text: str, histogram: Histogram) -> HistogramMetricFamily:
    from prometheus_client.metrics_core import HistogramMetricFamily

    family = HistogramMetricFamily(_PREFIX + name, text, labels=())
    family.add_metric((), _buckets(histogram), histogram.sum)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, int]]:
    """The bounds and the number of values up to each, the last one without a bound."""
    from prometheus_client.utils import floatToGoString

    bounds = [*map(floatToGoString, SECONDS), "+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True))
