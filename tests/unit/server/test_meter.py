"""The numbers of this process, and the reports of a worker."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.task import Clock

from pushserver.cluster.messages import FromFollower, Measured
from pushserver.server.epoll_limit import LongestTurn
from pushserver.server.meter import REPORT_SECONDS, Meter, Reports
from pushserver.server.place import Place
from pushserver.server.pulse import Pulse
from pushserver.transports.unsent import Unsent
from tests.unit.fakes.cluster import Pipe
from tests.unit.fakes.tools import Client, Time, make_node
from tests.unit.fakes.web import Server


def test_numbers_are_those_of_the_process() -> None:
    time, unsent = Time(), Unsent()
    node = make_node(time=time)
    pulse = Pulse(time.seconds)
    meter = Meter(node, unsent, pulse)
    Client(node)
    unsent.hold(b"12345")
    pulse.lag.observe(0.5)
    time.now += 7.0
    measure = meter.measure()
    assert (measure.clients, measure.unsent_bytes, measure.uptime) == (1, 5, 7.0)
    assert measure.longest_turn is None
    assert measure.lag.sum == 0.5
    assert measure.cpu_seconds > 0
    assert measure.resident_bytes > 1_000_000
    pulse.turns = LongestTurn()
    pulse.turns.longest = 0.25
    assert meter.measure().longest_turn == 0.25


def test_worker_reports_once_a_second_and_at_its_stop() -> None:
    clock, count = Clock(), [0]

    def report() -> None:
        count[0] += 1

    reports = Reports(report, cast(Any, clock))
    reports.startService()
    for _ in range(3):
        clock.advance(REPORT_SECONDS)
    assert count == [3]
    reports.stopService()
    clock.advance(REPORT_SECONDS)
    assert count == [4]
    assert not clock.getDelayedCalls()


def test_built_worker_reports_with_its_number_and_the_same_id_over_each_link() -> None:
    worker = Server(place=Place("/run", 3))
    (uplink,) = (s._uplink for s in cast(Any, worker.service) if hasattr(s, "_uplink"))
    attached = []
    for again in (False, True):
        pipe = Pipe(FromFollower)
        uplink.connected(pipe.send)
        _, attach, *_, measured = pipe.take(10_000)
        assert (attach.worker, attach.again) == (3, again)
        assert measured.measure.uptime == 0.0
        attached.append(attach)
    assert len(attached[0].process) == 16
    assert attached[0].process == attached[1].process


def test_last_report_of_a_worker_has_the_ends_of_its_connections() -> None:
    worker = Server(place=Place("/run", 1))
    (uplink,) = (s._uplink for s in cast(Any, worker.service) if hasattr(s, "_uplink"))
    pipe = Pipe(FromFollower)
    uplink.measure().metrics.opened["sse"] += 1
    worker.service.startService()
    uplink.connected(pipe.send)
    worker.clock.advance(0)
    uplink.measure().metrics.closed["sse"] += 1
    worker.service.stopService()
    for _ in range(10):
        worker.clock.advance(1)
    *_, last = [message for message in pipe.take(100_000) if isinstance(message, Measured)]
    assert last.measure.metrics.closed == {"sse": 1}
    worker.clock.advance(10)
    assert pipe.waiting == b""
