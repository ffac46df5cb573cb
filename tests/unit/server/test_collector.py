"""The metrics of a server, as text: their values, their labels, and what moves each."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from pushserver import PushServer, __version__
from pushserver.cluster.measures import Measure, ProcessLink
from pushserver.config.settings import Auth, Config, KeySettings
from pushserver.diagnosis.facts import WorkerState
from pushserver.hub.metrics import SECONDS, Histogram, Metrics
from pushserver.protocols import formats, socketio_formats
from pushserver.protocols.formats import HISTORY, Format, kind_of
from pushserver.protocols.representations import DATA
from pushserver.server.epoll_limit import LongestTurn
from pushserver.server.pulse import Pulse
from pushserver.sessions.long_poll import LONG_POLL
from pushserver.usercode.thread_pool import ThreadPool
from tests.unit.fakes.tools import Time
from tests.unit.fakes.web import Response, Server, handshake

KEY = "correct-horse-battery"
OPEN = "application/openmetrics-text"
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
"""The Accept header of Prometheus 3."""

Samples = dict[str, float]


def samples(answer: Response, parse: Callable[[str], Any] = plain) -> Samples:
    """Each sample of an answer by its name, with its labels if there are any."""
    assert answer.status == 200, answer
    found: Samples = {}
    for family in cast(Iterator[Metric], parse(answer.body.decode())):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            key = f"{sample.name}{{{labels}}}" if labels else sample.name
            assert key not in found, f"{key} twice"
            found[key] = sample.value
    return found


def scrape(server: Server) -> Samples:
    return samples(server.get("/metrics"))


# -- values ---------------------------------------------------------------------------------------


def test_connections_are_by_transport_and_protocol() -> None:
    config = Config()
    server = Server(config=replace(config, server=replace(config.server, compress=True)))
    deflate = {"sec_websocket_extensions": "permessage-deflate"}
    plain_one = server.open("/channels/a", **handshake())
    server.open("/channels/a", **handshake(**deflate))
    server.open("/channels/a", accept="text/event-stream")
    server.open("/connection/websocket", **handshake())
    server.open("/channels/a?since=now&wait=20", accept="application/json")
    plain_one.vanish()
    found = scrape(server)
    one = "pushserver_connections{protocol=plain,transport=websocket}"
    opened = "pushserver_connections_opened_total{protocol=plain,transport=websocket}"
    assert (found[one], found[opened]) == (1, 2)
    assert found["pushserver_connections{protocol=plain,transport=sse}"] == 1
    assert found["pushserver_connections{protocol=plain,transport=long-poll}"] == 1
    assert found["pushserver_connections{protocol=centrifuge,transport=websocket}"] == 1


def all_formats() -> list[Format]:
    named = [value for module in (formats, socketio_formats) for value in vars(module).values()]
    named += [DATA.sse, DATA.websocket, DATA.lines]
    chosen = {value for value in named if isinstance(value, Format)} - {HISTORY}
    return [*chosen, *(value.coded for value in chosen if value.coded is not None)]


def test_each_format_has_a_known_transport_and_protocol() -> None:
    transports = {"websocket", "sse", "lines", "http-stream", "polling", LONG_POLL}
    kinds = {kind_of(format_.name) for format_ in all_formats()} | {kind_of(LONG_POLL)}
    assert {transport for transport, _ in kinds} <= transports
    assert {protocol for _, protocol in kinds} == {"plain", "centrifuge", "socketio"}
    assert len(all_formats()) >= 10


def test_histogram_has_cumulative_buckets() -> None:
    server = Server()
    metrics = server.node.metrics
    for value in (0.0003, 0.0003, 0.7, 99.0):
        metrics.pass_seconds.observe(value)
    found = scrape(server)
    name = "pushserver_fanout_pass_seconds"
    buckets = [found[f"{name}_bucket{{le={bound}}}"] for bound in SECONDS]
    assert buckets == sorted(buckets)
    assert [found[f"{name}_bucket{{le={bound}}}"] for bound in ("0.00025", "0.0005", "0.5")] == [
        0,
        2,
        2,
    ]
    assert (found[f"{name}_bucket{{le=1.0}}"], found[f"{name}_bucket{{le=10.0}}"]) == (3, 3)
    assert found[f"{name}_bucket{{le=+Inf}}"] == found[f"{name}_count"] == 4
    assert found[f"{name}_sum"] == pytest.approx(99.7006)


def test_recoveries_are_by_result_and_reason() -> None:
    server = Server()
    for reason in ("", "evicted", "evicted"):
        server.node.metrics.resumed(reason)
    found = scrape(server)
    assert found["pushserver_recoveries_total{reason=recovered,result=recovered}"] == 1
    assert found["pushserver_recoveries_total{reason=evicted,result=failed}"] == 2


def test_handlers_are_by_name_with_their_failures(trouble: list[str]) -> None:
    app = PushServer()

    @app.on("job")
    def job(client: object, data: object) -> None:
        if data:
            raise RuntimeError

    server = Server(app=app)
    server.service.startService()
    server.clock.advance(0)
    socket = server.session()
    for number, data in enumerate((0, 1)):
        socket.say({"id": 2 + number, "rpc": {"method": "job", "data": data}})
    # The name of a method that nobody handles is the client's.
    socket.say({"id": 9, "rpc": {"method": "chosen-by-a-client"}})
    answer = server.get("/metrics")
    found = samples(answer)
    assert found["pushserver_handler_seconds_count{handler=job}"] == 2
    assert found["pushserver_handler_failures_total{handler=job}"] == 1
    assert b"chosen-by-a-client" not in answer.body
    trouble.clear()
    socket.line.vanish()
    server.service.stopService()
    server.advance(9)


def test_no_label_has_a_value_of_a_client() -> None:
    server = Server(config=Config(auth=Auth(local_without_key=True)))
    name = "chosen-by-a-client"
    server.open(f"/channels/{name}", "POST", b"1").vanish()
    server.open(f"/channels/{name}", **handshake(user_agent=name, origin=f"https://{name}.example"))
    server.open(f"/{name}", x_api_key=name)
    server.open("/connection/websocket", **handshake(sec_websocket_protocol=name))
    socket = server.session()
    socket.say({"id": 2, "subscribe": {"channel": name}})
    socket.say({"id": 3, name: {}})
    server.open("/api/publish", "POST", b"{}", x_api_key=name)
    assert name.encode() not in server.get("/metrics").body


def test_threads_of_handlers_are_counted_by_state() -> None:
    clock = Clock()
    pool = ThreadPool(cast(Any, clock), clock.seconds, 2)
    assert (pool.counts.running, pool.counts.idle, pool.counts.waiting) == (0, 0, 0)
    pool._running["a"] = 1
    pool._waiting["a"] = {Deferred(): cast(Any, None)}
    pool._idle.append(cast(Any, None))
    assert (pool.counts.running, pool.counts.idle, pool.counts.waiting) == (1, 1, 1)


def test_store_has_its_latency_queue_and_size(tmp_path: Path) -> None:
    config = Config(sources={})
    config = replace(config, store=replace(config.store, path=str(tmp_path / "a.db")))
    server = Server(config=config)
    assert scrape(server)["pushserver_store_bytes"] == 0
    (tmp_path / "a.db").write_bytes(b"x" * 100)
    (tmp_path / "a.db-wal").write_bytes(b"x" * 20)
    server.node.metrics.committed(3, 0.003)
    found = scrape(server)
    assert found["pushserver_store_bytes"] == 120
    assert found["pushserver_store_commit_seconds_count"] == 1
    assert found["pushserver_store_publications_total"] == 3
    assert found["pushserver_store_waiting_publications"] == 0
    server.publish()
    found = scrape(server)
    assert found["pushserver_store_waiting_publications"] == 1
    assert found["pushserver_store_waiting_bytes"] > 100


def test_server_without_a_store_has_no_metrics_of_one() -> None:
    assert not [name for name in scrape(Server()) if "store" in name]


def test_build_and_process_are_there() -> None:
    found = scrape(Server())
    [build] = [name for name in found if name.startswith("pushserver_build_info")]
    assert f"version={__version__}" in build
    for name in ("process_open_fds", "process_max_fds", "process_resident_memory_bytes"):
        assert found[name] > 0
    gc.collect()
    assert found["python_gc_collections_total{generation=2}"] > 0


# -- workers --------------------------------------------------------------------------------------


def worker(server: Server, number: int, measure: Measure) -> ProcessLink:
    """The link of a worker's process, which has told these numbers."""
    link = server.service.measures.link(f"process {number}", number, False, tuple)
    link.told(measure)
    return link


def loaded(seconds: float) -> Measure:
    """The numbers of a process with 2 connections, one of them opened after another had closed."""
    metrics = Metrics(deliveries=5, delivered_bytes=50)
    metrics.opened["sse"] += 3
    metrics.closed["sse"] += 1
    metrics.refusals["channels"] += 1
    metrics.resumed("evicted")
    metrics.fanout_seconds.observe(seconds)
    lag = Histogram()
    lag.observe(seconds)
    return Measure(metrics, lag, 2, 100, 1, [], seconds, 1.5, 9_000, 60.0)


def test_one_process_has_no_families_of_workers() -> None:
    assert not [name for name in scrape(Server()) if "worker" in name]


def test_families_are_sums_of_the_main_process_and_its_workers() -> None:
    server = Server()
    server.publish()
    own = server.node.metrics
    own.opened["sse"] += 1
    own.deliveries += 1
    own.fanout_seconds.observe(0.02)
    links = [worker(server, number, loaded(number / 10)) for number in (1, 2)]
    found = scrape(server)
    kind = "{protocol=plain,transport=sse}"
    assert found[f"pushserver_connections{kind}"] == 5
    assert found[f"pushserver_connections_opened_total{kind}"] == 7
    assert found["pushserver_deliveries_total"] == 11
    assert found["pushserver_publications_total"] == 1
    assert found["pushserver_unsent_bytes"] == 200
    assert found["pushserver_refusals_total{reason=channels}"] == 2
    assert found["pushserver_recoveries_total{reason=evicted,result=failed}"] == 2
    assert found["pushserver_fanout_seconds_count"] == 3
    assert found["pushserver_reactor_lag_seconds_bucket{le=0.1}"] == 1
    assert found["pushserver_reactor_lag_seconds_count"] == 2
    assert found["pushserver_reactor_longest_turn_seconds"] == 0.2
    assert found["pushserver_channels"] == 1
    links[0].lost()
    found = scrape(server)
    assert found[f"pushserver_connections{kind}"] == 3
    assert found[f"pushserver_connections_opened_total{kind}"] == 7
    assert found["pushserver_deliveries_total"] == 11


def test_each_worker_has_its_own_numbers_and_the_main_process_is_0() -> None:
    server = Server()
    server.service.measures.states = lambda: [
        WorkerState(1, 70, "ready", 3),
        WorkerState(2, 71, "starting", 0),
    ]
    server.node.metrics.deliveries += 1
    worker(server, 1, loaded(0.1))
    found = {name: value for name, value in scrape(server).items() if "worker" in name}
    resident = found.pop("pushserver_worker_resident_bytes{worker=0}")
    cpu = found.pop("pushserver_worker_cpu_seconds_total{worker=0}")
    assert min(resident, cpu) > 0
    assert found == {
        "pushserver_workers{state=ready}": 1,
        "pushserver_workers{state=starting}": 1,
        "pushserver_workers{state=silent}": 0,
        "pushserver_workers{state=waiting}": 0,
        "pushserver_workers{state=stopping}": 0,
        "pushserver_worker_restarts_total{worker=1}": 3,
        "pushserver_worker_restarts_total{worker=2}": 0,
        "pushserver_worker_connections{worker=0}": 0,
        "pushserver_worker_connections{worker=1}": 2,
        "pushserver_worker_deliveries_total{worker=0}": 1,
        "pushserver_worker_deliveries_total{worker=1}": 5,
        "pushserver_worker_unsent_bytes{worker=0}": 0,
        "pushserver_worker_unsent_bytes{worker=1}": 100,
        "pushserver_worker_cpu_seconds_total{worker=1}": 1.5,
        "pushserver_worker_resident_bytes{worker=1}": 9_000,
        "pushserver_worker_longest_turn_seconds{worker=1}": 0.1,
    }


# -- forms and access -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (PROMETHEUS, OPEN),
        (OPEN, OPEN),
        ("application/openmetrics-text; version=9.9; charset=latin-1", OPEN),
        ("", "text/plain"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/plain"),
        ("application/openmetrics-text;q=0.1, text/plain", "text/plain"),
        ("application/json", "text/plain"),
        ("text/plain; version=\N{SNOWMAN}", "text/plain"),
    ],
)
def test_form_is_by_the_accept_header(accept: str, form: str) -> None:
    answer = Server().get("/metrics", accept=accept)
    assert answer["content-type"].startswith(f"{form}; version=")
    assert answer["cache-control"] == "no-store"
    assert answer["vary"] == "Accept"
    assert answer.body.endswith(b"# EOF\n") == (form == OPEN)
    parse = openmetrics if form == OPEN else plain
    assert samples(answer, parse)["pushserver_publications_total"] == 0


def with_keys(**keys: list[str]) -> Server:
    named = {name: KeySettings(key=f"{KEY}-{name}", may=may) for name, may in keys.items()}
    return Server(config=Config(auth=Auth(api_keys=[KEY], keys=named)))


@pytest.mark.parametrize(
    ("may", "status"),
    [(["admin"], 200), (["read"], 200), (["publish"], 403), (["publish", "read"], 200)],
)
def test_key_must_read_or_administer_the_whole_server(may: list[str], status: int) -> None:
    server = with_keys(some=may)
    assert server.get("/metrics", x_api_key=f"{KEY}-some").status == status
    assert server.get("/metrics", authorization=f"Bearer {KEY}-some").status == status
    assert server.get("/metrics", x_api_key=KEY).status == 200


def test_key_of_some_channels_is_not_enough() -> None:
    key = KeySettings(key=f"{KEY}-some", may=["read"], channels=["a", "b:*"])
    server = Server(config=Config(auth=Auth(keys={"some": key})))
    assert server.get("/metrics", x_api_key=f"{KEY}-some").status == 403


def test_nobody_reads_without_a_key_where_keys_are_configured() -> None:
    assert with_keys().get("/metrics").status == 401


def test_without_keys_only_programs_of_the_own_user_on_this_machine_read(
    trouble: list[str],
) -> None:
    server = Server()
    assert server.get("/metrics").status == 200
    assert server.get("/metrics", x_forwarded_for="203.0.113.9").status == 401
    trouble.clear()
    assert server.get("/metrics", origin="https://elsewhere.example").status == 403
    server.own = False
    assert server.get("/metrics").status == 401


def test_other_methods_are_refused_and_head_has_no_body() -> None:
    assert Server().get("/metrics", "POST", b"1").status == 405
    assert Server().get("/metrics", "HEAD").body == b""


# -- the pulse ------------------------------------------------------------------------------------


def test_lag_is_the_lateness_of_a_tick() -> None:
    time = Time(0.0)
    pulse = Pulse(time)
    pulse.start()
    for now in (1.0, 2.25, 3.0, 6.5, 7.0):
        time.now = now
        pulse.tick()
    # The ticks of 4 and 5 were missed; the one that came at 6.5 was that of 4.
    assert pulse.lag.sum == pytest.approx(0.25 + 2.5)
    assert sum(pulse.lag.counts) == 5


def test_longest_turn_is_forgotten_after_a_minute() -> None:
    turns = LongestTurn()
    turns.longest = 0.3
    for _ in range(60):
        turns.end_second()
        assert turns.seconds == 0.3
        turns.longest = max(turns.longest, 0.1)
    turns.end_second()
    assert turns.seconds == 0.1
