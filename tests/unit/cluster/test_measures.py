"""The sums of the numbers of several processes are those of one process with all their events."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pushserver.channels.channel import ChannelOptions
from pushserver.cluster.measures import Measure, Measures, ProcessLink, SlowReader
from pushserver.cluster.messages import Frames, FromFollower, Measured, frame
from pushserver.diagnosis.facts import WorkerState
from pushserver.hub.metrics import Histogram, Metrics, open_by_kind
from tests.unit.fakes.cluster import Cluster, say
from tests.unit.fakes.tools import Client, Time, make_broker, publish

SLOW = SlowReader("192.0.2.1", "websocket", "plain", "c", "anna", 5_000, None)


def sent(measure: Measure) -> Measure:
    """The numbers as they arrive at the other end of a link."""
    (message,) = Frames(FromFollower, 100_000).feed(frame(Measured(measure)))
    assert isinstance(message, Measured)
    return message.measure


def test_numbers_arrive_as_they_were_sent() -> None:
    measure = Measure(a_process().metrics, Histogram(), 3, 4, 1, [SLOW], 0.25, 1.5, 9_000, 60.0)
    assert sent(measure) == measure
    assert isinstance(sent(measure).metrics.opened, dict)
    assert sent(measure).metrics.opened["unknown"] == 0


def test_message_of_a_busy_worker_is_short() -> None:
    assert len(frame(Measured(Measure(a_process().metrics)))) < 1_500


# --- one process with all events ---------------------------------------


def opens(metrics: Metrics) -> None:
    metrics.opened["sse"] += 1


def closes(metrics: Metrics) -> None:
    if metrics.closed["sse"] < metrics.opened["sse"]:
        metrics.closed["sse"] += 1


def delivers(metrics: Metrics) -> None:
    metrics.deliveries += 2
    metrics.fanout_seconds.observe(0.25)


def refuses(metrics: Metrics) -> None:
    metrics.refusals["channels"] += 1


def resumes(metrics: Metrics) -> None:
    metrics.resumed("evicted")


def handles(metrics: Metrics) -> None:
    metrics.handled("job", 0.5)


EVENTS = (opens, closes, delivers, refuses, resumes, handles)
WORKERS = 3


class Process:
    """A process of a worker, and the numbers that it has told."""

    ids = 0

    def __init__(self, worker: int):
        Process.ids += 1
        self.id = f"{Process.ids}"
        self.worker = worker
        self.metrics = Metrics()
        self.lag = Histogram()
        self.told = sent(Measure())
        self.link: ProcessLink | None = None
        self.was_linked = False


def a_process() -> Process:
    process = Process(1)
    for event in EVENTS:
        event(process.metrics)
    return process


def plain(metrics: Metrics) -> dict[str, object]:
    """All counters but `closed`, of which those of lost links are a part."""
    return {
        name: value
        for name in metrics.__slots__
        if name != "closed" and (value := getattr(metrics, name)) != getattr(Metrics(), name)
    }


class Server:
    """A main process, its workers, and one process that counts all that has been told."""

    def __init__(self) -> None:
        self.own = Metrics()
        self.measures = Measures(lambda: Measure(self.own))
        self.one = Metrics()
        self.present = {number: Process(number) for number in range(1, WORKERS + 1)}
        self.before = dict[str, float]()

    def act(self, action: str, number: int, event: Callable[[Metrics], None]) -> None:
        process = self.present[number]
        if action == "count":
            event(process.metrics)
            process.lag.observe(0.5)
        elif action == "count here":
            # The main process has no connections of this kind.
            if event not in (opens, closes):
                event(self.own)
                event(self.one)
        elif action == "tell":
            self.tell(process)
        elif action == "link":
            self.link(process)
        elif action == "cut":
            self.cut(process)
        elif action == "die":
            self.cut(process)
            self.present[number] = Process(number)
        elif action == "die later":
            # Its successor is linked before its own link is lost.
            after = self.present[number] = Process(number)
            self.link(after)
            self.cut(process)
        elif action == "swap":
            # The end of the old link is seen after the new one.
            old = process.link
            self.link(process)
            if old is not None:
                old.told(sent(Measure(Metrics(deliveries=10**9))))
                old.lost()

    def link(self, process: Process) -> None:
        again, process.was_linked = process.was_linked, True
        process.link = self.measures.link(process.id, process.worker, again, tuple)

    def cut(self, process: Process) -> None:
        link, process.link = process.link, None
        if link is not None:
            link.lost()

    def tell(self, process: Process) -> None:
        if process.link is not None:
            told = sent(Measure(process.metrics, process.lag))
            process.link.told(told)
            self.one.add(told.metrics)
            self.one.add(process.told.metrics, -1)
            process.told = told

    def check(self) -> None:
        whole = self.measures.whole()
        assert plain(whole.metrics) == plain(self.one)
        items = {n: v for n, v in whole.metrics.items().items() if not n.startswith("closed.")}
        assert all(items[name] >= value for name, value in self.before.items())
        self.before = items
        linked = [each.told.metrics for each in self.present.values() if each.link is not None]
        count = sum(each.opened["sse"] - each.closed["sse"] for each in linked)
        assert sum(open_by_kind(whole.metrics).values()) == count
        assert len(self.measures._processes) <= 2 * WORKERS


ACTIONS = st.tuples(
    st.sampled_from(
        ["count", "count", "tell", "tell", "link", "count here", "cut", "die", "die later", "swap"]
    ),
    st.integers(1, WORKERS),
    st.sampled_from(EVENTS),
)


@given(st.lists(ACTIONS, min_size=40, max_size=80))
def test_sums_are_those_of_one_process_with_all_events_that_were_told(
    actions: list[tuple[str, int, Callable[[Metrics], None]]],
) -> None:
    server = Server()
    for action in actions:
        server.act(*action)
        server.check()


@given(st.lists(st.sampled_from(EVENTS), max_size=20), st.lists(st.sampled_from(EVENTS)))
def test_counters_of_adopted_processes_begin_with_the_main_process(
    earlier: list[Callable[[Metrics], None]], later: list[Callable[[Metrics], None]]
) -> None:
    """As those of the main process do, so that Prometheus takes both for a start."""
    process, since = Process(1), Metrics()
    process.was_linked = True
    for event in earlier:
        event(process.metrics)
    since.opened["sse"] = process.metrics.opened["sse"] - process.metrics.closed["sse"]
    server = Server()
    server.link(process)
    server.tell(process)
    for event in later:
        event(process.metrics)
        event(since)
    server.tell(process)
    whole = server.measures.whole().metrics
    assert {n: v for n, v in whole.items().items() if v} == {
        n: v for n, v in since.items().items() if v
    }
    assert whole.fanout_seconds == since.fanout_seconds


# --- gauges and lists ---------------------------------------


def test_gauges_are_those_of_linked_processes() -> None:
    own = Measure(clients=1, unsent_bytes=2, unread_by=1, longest_turn=0.1, uptime=99.0)
    measures = Measures(lambda: own)
    assert measures.whole() == own
    links = [measures.link(f"{n}", n, False, partial(list, ["", f"{n}"])) for n in (1, 2)]
    for link in links:
        link.told(Measure(Metrics(), Histogram(), 10, 20, 1, [SLOW], 0.3, 1.5, 100, 5.0))
    whole = measures.whole()
    assert (whole.clients, whole.unsent_bytes, whole.unread_by) == (21, 42, 3)
    assert (whole.longest_turn, whole.cpu_seconds, whole.uptime) == (0.3, 3.0, 99.0)
    assert whole.readers == [SLOW, SLOW]
    assert list(measures.by_worker()) == [0, 1, 2]
    assert measures.users() == {"", "1", "2"}
    links[0].lost()
    assert (measures.whole().clients, measures.whole().longest_turn) == (11, 0.3)
    assert list(measures.by_worker()) == [0, 2]
    assert measures.users() == {"", "2"}


def test_lag_is_of_all_processes_also_of_gone_ones() -> None:
    own, other = Histogram(), Histogram()
    own.observe(0.5)
    other.observe(0.25)
    measures = Measures(lambda: Measure(lag=own))
    for process in ("a", "b"):
        link = measures.link(process, 1, False, tuple)
        link.told(sent(Measure(lag=other)))
        link.lost()
    lag = measures.whole().lag
    assert (sum(lag.counts), lag.sum) == (3, 1.0)


def test_workers_are_known_before_they_are_linked() -> None:
    measures = Measures(Measure)
    assert not measures.has_workers
    measures.states = lambda: [WorkerState(1, 7, "starting", 0)]
    assert measures.has_workers


def test_process_without_an_id_is_gone_with_its_link() -> None:
    measures = Measures(Measure)
    for _ in range(3):
        link = measures.link("", 0, True, tuple)
        link.told(Measure(Metrics(deliveries=5)))
        link.told(Measure(Metrics(deliveries=7)))
        link.lost()
        link.lost()
    assert measures.whole().metrics.deliveries == 6
    assert not measures.has_workers


# --- over a link ---------------------------------------


def total(cluster: Cluster) -> Any:
    """The sums that the author has, when each follower has told its numbers."""
    for edge in cluster.edges:
        edge.uplink.tell_measure()
    cluster.settle()
    return cluster.measures.whole()


def test_author_has_the_sums_of_its_followers_over_lost_links_and_restarts() -> None:
    time, options = Time(), ChannelOptions()
    cluster = Cluster(make_broker(options, time=time), options, time, 2)
    clients = [Client(edge.node) for edge in cluster.edges]
    for client in clients:
        say(cluster, client, {"id": 5, "subscribe": {"channel": "numbers"}})
    publish(cluster.node)
    cluster.settle()
    assert total(cluster).clients == 2
    assert total(cluster).metrics.deliveries == 2
    assert total(cluster).metrics.publications == 1
    edge = cluster.edges[0]
    edge.connect(cluster.author)
    publish(cluster.node)
    cluster.settle()
    assert total(cluster).metrics.deliveries == 4
    assert cluster.measures.users() == {client.session.info.user for client in clients}
    cluster.restart(make_broker(options, time=time))
    for edge in cluster.edges:
        edge.connect(cluster.author)
    cluster.settle()
    assert (total(cluster).clients, total(cluster).metrics.deliveries) == (2, 0)
    assert sum(open_by_kind(total(cluster).metrics).values()) == 2
