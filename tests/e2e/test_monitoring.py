"""The metrics and the health of a real server, with a store, an application and its own port."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.sync.client import connect

from tests.e2e.blocks import block_with
from tests.e2e.exchange import ask
from tests.e2e.patience import PATIENCE
from tests.e2e.promtool import RULES, check_alerts, promtool, rules_of_the_dashboard
from tests.e2e.server import SHORTCUTS, Server, free_port, get, running

pytestmark = pytest.mark.slow

APP = """
from pushserver import PushServer

app = PushServer()

@app.on("job")
def job(client, data):
    return data

@app.source("numbers", every=0.1)
def number():
    return 1
"""
MOVING = {
    "pushserver_connections_opened_total",
    "pushserver_deliveries_total",
    "pushserver_delivered_bytes_total",
    "pushserver_denials_total",
    "pushserver_fanout_pass_seconds_count",
    "pushserver_fanout_seconds_count",
    "pushserver_handler_seconds_count",
    "pushserver_publications_total",
    "pushserver_reactor_lag_seconds_count",
    "pushserver_source_publications_total",
    "pushserver_store_commit_seconds_count",
    "pushserver_store_publications_total",
}
PRESENT = {
    "pushserver_build_info",
    "pushserver_handler_threads",
    "pushserver_sources",
    "pushserver_store_bytes",
    "process_open_fds",
    "process_resident_memory_bytes",
    "python_gc_collections_total",
}
MOST_ROUNDS = 300
"""Publications of the source until all have moved; the clock of the lag ticks once in ten."""


@pytest.fixture(scope="module")
def metrics_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, metrics_port: int) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("monitoring")
    (folder / "app.py").write_text(APP)
    (folder / "push.toml").write_text(
        f'[server]\nmetrics_listen = "{metrics_port}"\n[store]\npath = "{folder}/a.db"\n'
        '[auth]\napi_keys = ["correct-horse-battery"]\n'
    )
    with running(Server(folder, "--config", "push.toml", "--app", "app.py")) as server:
        yield server


def scrape(port: int) -> dict[str, float]:
    """The sum of the samples of each name."""
    answer = get(port, "metrics")
    assert answer.status == 200, answer
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def test_metrics_of_a_real_server_move(server: Server, metrics_port: int) -> None:
    before = scrape(metrics_port)
    with connect(f"ws://127.0.0.1:{server.port}/connection/websocket") as client:
        client.send('{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"numbers"}}')
        client.send('{"id":3,"rpc":{"method":"job","data":1}}')
        assert ask(server, "POST", "channels/a", b"1").status == 401
        for _ in range(MOST_ROUNDS):
            client.recv(timeout=PATIENCE)
            after = scrape(metrics_port)
            still = {name for name in MOVING if after.get(name, 0.0) <= before.get(name, 0.0)}
            if not still:
                break
        assert still == set()
        assert {name for name in PRESENT if after.get(name, 0.0) <= 0} == set()
        assert after["pushserver_connections"] == 1
        # Of an epoll reactor with the shortcuts; these turns are of a busy machine.
        measured = os.environ.get(SHORTCUTS) != "off"
        assert (after.get("pushserver_reactor_longest_turn_seconds", 0.0) > 0) == measured


def test_main_port_wants_a_key(server: Server) -> None:
    assert server.get("metrics").status == 401
    answer = ask(server, "GET", "metrics", authorization="Bearer correct-horse-battery")
    assert answer.status == 200
    assert b"\npushserver_publications_total " in answer.body


def test_server_is_live_and_ready_on_both_ports(server: Server, metrics_port: int) -> None:
    for port in (server.port, metrics_port):
        for path in ("health/live", "health/ready"):
            answer = get(port, path)
            assert (answer.status, json.loads(answer.body)["status"]) == (200, "ok")


def test_prometheus_finds_no_fault_in_the_metrics(server: Server, metrics_port: int) -> None:
    assert server.running
    assert promtool("check", "metrics", text=get(metrics_port, "metrics").text) == ""


def test_prometheus_finds_no_fault_in_the_alerts_and_in_the_dashboard(tmp_path: Path) -> None:
    dashboard = rules_of_the_dashboard(tmp_path)
    assert promtool("check", "rules", RULES, dashboard).count("SUCCESS") == 2


def test_prometheus_finds_no_fault_in_the_configuration_of_the_document(tmp_path: Path) -> None:
    path = tmp_path / "prometheus.yml"
    path.write_text(block_with("docs/monitoring.md", "scrape_configs").text)
    assert "SUCCESS" in promtool("check", "config", "--syntax-only", path)


SERIES = {
    "up{%s}": ("0x40", "1x40"),
    'pushserver_reactor_lag_seconds_bucket{%s,le="0.25"}': ("0+6x40", "0+60x40"),
    'pushserver_reactor_lag_seconds_bucket{%s,le="1"}': ("0+60x40", "0+60x40"),
    'pushserver_reactor_lag_seconds_bucket{%s,le="+Inf"}': ("0+60x40", "0+60x40"),
    'pushserver_fanout_seconds_bucket{%s,le="1"}': ("0+6x40", "0+60x40"),
    'pushserver_fanout_seconds_bucket{%s,le="5"}': ("0+60x40", "0+60x40"),
    'pushserver_fanout_seconds_bucket{%s,le="+Inf"}': ("0+60x40", "0+60x40"),
    "pushserver_store_errors_total{%s}": ("0x36 1x4", "0x40"),
    "pushserver_store_waiting_bytes{%s}": ("9000000x40", "7000000x40"),
    "pushserver_slow_connections_dropped_total{%s}": ("0+120x40", "0+1x40"),
    'pushserver_recoveries_total{%s,result="failed",reason="evicted"}': ("0+2x40", "0x40"),
    'pushserver_recoveries_total{%s,result="recovered",reason=""}': ("0+8x40", "0+8x40"),
    'pushserver_refusals_total{%s,reason="store"}': ("0+120x40", "0+1x40"),
    "process_open_fds{%s}": ("90x40", "70x40"),
    "process_max_fds{%s}": ("100x40", "100x40"),
    'pushserver_sources{%s,state="backing off"}': ("1x40", "0x40"),
    'pushserver_handler_failures_total{%s,handler="job"}': ("0x36 1x4", "0x40"),
    'pushserver_template_failures_total{%s,template="row.html"}': ("0x36 1x4", "0x40"),
    'pushserver_worker_restarts_total{%s,worker="2"}': ("0x30 1+1x9", "0x30 1x9"),
    "pushserver_broker_attached{%s}": ("0x40", "1x40"),
}
"""The values of 40 minutes for each alert: of an instance in trouble, and of another."""
SUM = {"instance": "bad"}
OWN = {"instance": "bad", "job": "pushserver"}
ALERTS = {
    "PushserverDown": OWN,
    "PushserverReactorLate": SUM,
    "PushserverFanoutSlow": SUM,
    "PushserverStoreFails": OWN,
    "PushserverStoreSlow": OWN,
    "PushserverSlowReaders": OWN,
    "PushserverRecoveriesFail": SUM,
    "PushserverRefuses": {**SUM, "reason": "store"},
    "PushserverOpenFiles": OWN,
    "PushserverSourceFails": {**OWN, "state": "backing off"},
    "PushserverHandlersFail": {**OWN, "handler": "job"},
    "PushserverTemplatesFail": {**OWN, "template": "row.html"},
    "PushserverWorkerDies": {**OWN, "worker": "2"},
    "PushserverBrokerAway": OWN,
}
"""The labels with which each fires."""


def test_each_alert_fires_for_an_instance_in_trouble_and_for_no_other(tmp_path: Path) -> None:
    series = {
        name % f'instance="{instance}",job="pushserver"': values
        for name, both in SERIES.items()
        for instance, values in zip(("bad", "good"), both, strict=True)
    }
    assert ALERTS.keys() == set(re.findall(r"- alert: (\w+)", RULES.read_text("utf-8")))
    check_alerts(series, ALERTS, tmp_path)


def shape(value: object) -> object:
    """The names of the fields, and the types of the values."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    return type(value)


def test_the_command_of_the_document_prints_the_load(server: Server) -> None:
    command, shown = block_with("docs/monitoring.md", "$ pushserver top").text.splitlines()
    command = command.removeprefix("$ pushserver ")
    environment = {
        **os.environ,
        "PUSHSERVER_URL": f"http://127.0.0.1:{server.port}",
        "PUSHSERVER_KEY": "correct-horse-battery",
    }
    with connect(f"ws://127.0.0.1:{server.port}/channels/numbers") as socket:
        socket.recv(timeout=PATIENCE)
        printed = subprocess.run(
            [sys.executable, "-m", "pushserver", *command.split()],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
    expected, load = json.loads(shown), json.loads(printed)
    assert shape(load) == shape(expected)
    for name in ("channels", "sources"):
        assert shape(load[name][0]) == shape(expected[name][0])
    assert (load["clients"], load["connections"][0]["transport"]) == (1, "websocket")
    [channel] = load["channels"]
    assert channel["subscribers"] == 1
    assert channel["deliveries"] == channel["publications"]
