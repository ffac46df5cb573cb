"""The facts about a server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pushserver.cluster.measures import Measure
from pushserver.config.settings import Auth, Config, Store
from pushserver.config.settings import Server as ServerSettings
from pushserver.diagnosis.facts import WorkerState
from pushserver.server.facts import MAX_VALUE
from pushserver.server.readiness import Readiness
from tests.unit.fakes.web import Server

KEY = "correct-horse"
CONFIG = Config(auth=Auth([KEY]))


def facts(config: Config, **headers: str) -> dict[str, Any]:
    """The facts that a caller with the key gets."""
    answer = Server(config=config).get("/status", x_api_key=KEY, **headers)
    found: dict[str, Any] = answer.json["facts"]
    return found


def test_the_store_has_its_path_its_size_and_the_space_of_its_disk(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    path.write_bytes(bytes(5_000))
    store = facts(replace(CONFIG, store=Store(path=str(path))))["store"]
    assert store.pop("free_bytes") > 0
    assert store == {"path": str(path), "problem": "", "waiting": 0, "bytes": 5_000}


def test_a_disk_that_is_gone_has_no_free_space(tmp_path: Path) -> None:
    store = facts(replace(CONFIG, store=Store(path=str(tmp_path / "gone" / "history.db"))))["store"]
    assert (store["bytes"], store["free_bytes"]) == (0, None)


def test_connections_and_files_are_counted() -> None:
    found = facts(CONFIG)
    assert found["connections"] == 1
    assert 0 < found["descriptors"] < found["max_descriptors"]
    assert found["limits"]["connections"] == CONFIG.limits.connections


def test_the_client_behind_a_trusted_proxy_is_named() -> None:
    config = replace(CONFIG, server=ServerSettings(trusted_proxies=["127.0.0.1"]))
    request = facts(
        config,
        host="push.example",
        origin="https://push.example",
        x_forwarded_for="192.0.2.1",
        x_forwarded_proto="https",
    )["request"]
    assert (request["peer"], request["client"]) == ("127.0.0.1", "192.0.2.1")
    assert (request["trusted"], request["origin"]) == (True, "https://push.example")


def test_a_long_header_is_cut_and_a_secret_one_left_out() -> None:
    request = facts(CONFIG, x_forwarded_for="1" * 5_000, cookie="a=c00kie")["request"]
    assert {name.lower() for name in request["headers"]} == {"host", "x-forwarded-for"}
    assert {len(value) for value in request["headers"].values()} <= {MAX_VALUE, 14}


def test_workers_are_listed_with_their_connections() -> None:
    server = Server(config=CONFIG)
    measures = server.service.measures
    measures.states = lambda: [
        WorkerState(1, 70, "ready", 2),
        WorkerState(2, 0, "waiting", 0),
    ]
    measures.link("p", 1, False, tuple).told(Measure(clients=5, uptime=12.0))
    found = server.get("/status", x_api_key=KEY).json["facts"]["workers"]
    first = {"number": 1, "pid": 70, "state": "ready", "restarts": 2}
    second = {"number": 2, "pid": 0, "state": "waiting", "restarts": 0}
    assert found == [
        first | {"connections": 5, "uptime": 12.0},
        second | {"connections": 0, "uptime": 0.0},
    ]


def test_server_of_one_process_lists_no_workers() -> None:
    assert facts(CONFIG)["workers"] == []


def test_server_is_not_ready_while_its_workers_are_not() -> None:
    readiness = Readiness(None)
    assert readiness.checks()["workers"] == ""
    readiness.workers = lambda: "1 of 2 workers are not ready"
    assert readiness.checks()["workers"] == "1 of 2 workers are not ready"
