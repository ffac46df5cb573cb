from __future__ import annotations

import faulthandler
import os
from collections.abc import Mapping
from typing import Any, cast

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogLevel

from pushserver.cluster.measures import Measure, Measures
from pushserver.hub.metrics import Metrics
from pushserver.server import watchdog as module
from pushserver.server.meter import Meter
from pushserver.server.pulse import Pulse
from pushserver.server.watchdog import NOT_DELIVERED, Watchdog, watchdog_seconds
from pushserver.transports.unsent import Unsent
from tests.unit.fakes.tools import Client, make_node, publish
from tests.unit.fakes.web import Log, Server, Trouble

SOCKET = {"NOTIFY_SOCKET": "@x"}
MICRO = 1_000_000


class Bench:
    """A watchdog over a node, and the states that it sends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **environment: str):
        self.states: list[str] = []
        self.problem = ""
        self.clock = Clock()
        self.node = make_node()
        self.measures = Measures(Meter(self.node, Unsent(), Pulse(self.node.monotonic)).measure)
        self.watchdog = Watchdog(
            self.node,
            self.measures,
            lambda: self.problem,
            cast(Any, self.clock),
            SOCKET | environment,
        )
        monkeypatch.setattr(module, "notify", self._notify)

    def _notify(self, state: str, environment: Mapping[str, str]) -> bool:
        self.states.append(state)
        return True

    def after(self, seconds: float) -> list[str]:
        """The states of this time."""
        self.states.clear()
        self.clock.advance(seconds)
        return self.states.copy()


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": ""}, 0.0),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "77"}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "78"}, 0.0),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": ""}, 1.5),
    ],
)
def test_time_is_that_of_systemd_for_this_process(
    environment: dict[str, str], seconds: float
) -> None:
    assert watchdog_seconds(environment, 77) == seconds


@pytest.mark.parametrize("text", ["0", "-1", "30s", "1.5", "\u0663", " "])
def test_time_that_is_no_number_is_named_in_a_warning(
    monkeypatch: pytest.MonkeyPatch, trouble: Trouble, text: str
) -> None:
    bench = Bench(monkeypatch, WATCHDOG_USEC=text)
    bench.watchdog.startService()
    (line,) = trouble.take()
    assert line == f"WATCHDOG_USEC {text!r}, expected microseconds, 1 or more"
    # The status is sent all the same.
    assert len(bench.after(module.STATUS_SECONDS)) == 2


@pytest.mark.parametrize(("seconds", "interval"), [(30, 10.0), (6, 2.0), (300, 10.0), (0.03, 0.1)])
def test_a_third_of_the_time_is_the_interval(
    monkeypatch: pytest.MonkeyPatch, seconds: float, interval: float
) -> None:
    bench = Bench(monkeypatch, WATCHDOG_USEC=str(int(seconds * MICRO)))
    bench.watchdog.startService()
    assert bench.after(interval * 0.9) == []
    assert "WATCHDOG=1" in bench.after(interval * 0.11)
    assert "WATCHDOG=1" in bench.after(interval)


def test_status_has_the_connections_and_the_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    time = [100.0]
    bench.node.monotonic = lambda: time[0]
    bench.watchdog.startService()
    clients = [Client(bench.node) for _ in range(2)]
    for client in clients:
        client.command("subscribe", channel="numbers")
    for n in range(50):
        publish(bench.node, data=n)
    time[0] += 10.0
    [status] = [state for state in bench.after(10) if state.startswith("STATUS=")]
    assert status == "STATUS=connections: 2, publications: 5.0/s, deliveries: 10.0/s"
    time[0] += 10.0
    [status] = [state for state in bench.after(10) if state.startswith("STATUS=")]
    assert status == "STATUS=connections: 2, publications: 0.0/s, deliveries: 0.0/s"


def test_status_has_the_sums_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    time = [100.0]
    bench.node.monotonic = lambda: time[0]
    bench.watchdog.startService()
    link = bench.measures.link("p", 1, False, tuple)
    link.told(Measure(Metrics(deliveries=40), clients=3))
    publish(bench.node)
    time[0] += 10.0
    [status] = [state for state in bench.after(10) if state.startswith("STATUS=")]
    assert status == "STATUS=connections: 3, publications: 0.1/s, deliveries: 4.0/s"
    # The rate is not negative when a process is gone.
    link.lost()
    time[0] += 10.0
    [status] = [state for state in bench.after(10) if state.startswith("STATUS=")]
    assert status == "STATUS=connections: 0, publications: 0.0/s, deliveries: 0.0/s"


def test_nothing_happens_without_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, NOTIFY_SOCKET="", WATCHDOG_USEC="30000000")
    bench.watchdog.startService()
    assert bench.clock.getDelayedCalls() == []


def test_closed_port_is_logged_once_and_ends_the_signs_of_life(
    monkeypatch: pytest.MonkeyPatch, trouble: Trouble
) -> None:
    bench = Bench(monkeypatch)
    bench.watchdog.startService()
    bench.problem = "tcp:1 is closed"
    for _ in range(3):
        [status] = bench.after(10)
        assert status.startswith("STATUS=tcp:1 is closed; connections: 0")
    assert trouble.take() == ["the self-check found: tcp:1 is closed"]
    bench.problem = ""
    with Log(LogLevel.info) as log:
        assert "WATCHDOG=1" in bench.after(10)
    assert log.take() == ["the self-check finds no problem"]


def test_fan_out_that_is_stuck_ends_the_signs_of_life(
    monkeypatch: pytest.MonkeyPatch, trouble: Trouble
) -> None:
    bench = Bench(monkeypatch)
    bench.watchdog.startService()
    bench.node.hub._fan_out._sending = True
    assert "WATCHDOG=1" not in bench.after(10)
    [status] = bench.after(10)
    assert NOT_DELIVERED in status
    assert trouble.take() == [f"the self-check found: {NOT_DELIVERED}"]
    bench.node.hub._fan_out._sending = False
    assert "WATCHDOG=1" in bench.after(10)


def test_check_that_raises_is_logged_and_is_made_again(
    monkeypatch: pytest.MonkeyPatch, trouble: Trouble
) -> None:
    bench = Bench(monkeypatch)
    good = bench.watchdog._closed_port

    def fail() -> str:
        raise RuntimeError("a bug")

    bench.watchdog.startService()
    bench.watchdog._closed_port = fail
    assert "WATCHDOG=1" not in bench.after(10)
    assert len(trouble.take()) == 2
    bench.watchdog._closed_port = good
    assert "WATCHDOG=1" in bench.after(10)


def test_abort_of_systemd_shows_the_stacks(monkeypatch: pytest.MonkeyPatch) -> None:
    enabled: list[object] = []
    monkeypatch.setattr(faulthandler, "is_enabled", lambda: bool(enabled))
    monkeypatch.setattr(faulthandler, "enable", enabled.append)
    Bench(monkeypatch).watchdog.startService()
    assert enabled == []
    for _ in range(2):
        Bench(monkeypatch, WATCHDOG_USEC="1", WATCHDOG_PID=str(os.getpid())).watchdog.startService()
    assert len(enabled) == 1


def test_server_that_stops_has_no_closed_port() -> None:
    server = Server()
    server.service.privilegedStartService()
    server.service.startService()
    assert server.service.ports.closed() == ""
    server.service.stopService()
    assert server.service.ports.closed() == ""
