"""The metrics and the health of a real server, with a store, an application and its own port."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.sync.client import connect

from tests.e2e.exchange import ask
from tests.e2e.server import CHECKOUT, SHORTCUTS, Server, free_port, get, running

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
            client.recv(timeout=10)
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


def shape(value: object) -> object:
    """The names of the fields, and the types of the values."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    return type(value)


def test_the_command_of_the_document_prints_the_load(server: Server) -> None:
    document = (CHECKOUT / "docs" / "monitoring.md").read_text("utf-8")
    command, shown = document.partition("\n$ pushserver ")[2].split("\n", 2)[:2]
    environment = {
        **os.environ,
        "PUSHSERVER_URL": f"http://127.0.0.1:{server.port}",
        "PUSHSERVER_KEY": "correct-horse-battery",
    }
    with connect(f"ws://127.0.0.1:{server.port}/channels/numbers") as socket:
        socket.recv(timeout=20)
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
