from __future__ import annotations

import pytest

from pushserver.hub.audience import Audience
from pushserver.hub.fanout import SLICE
from pushserver.hub.hub import Hub
from tests.unit.fakes.tools import Time, Watcher, deliver, drive, make_hub


def crowded(time: Time, count: int) -> Hub:
    """A hub with so many subscribers of one channel."""
    hub = make_hub(time=time)
    for _ in range(count):
        drive(hub.subscribe(Watcher(), "numbers", None, 0))
    return hub


def test_probe_is_delivered_at_once_and_leaves_no_trace() -> None:
    hub = make_hub()
    probe, delivered = hub.probe(), []
    for n in range(3):
        probe.start(lambda n=n: delivered.append(n))  # type: ignore[misc]
        assert not probe.waits
    assert delivered == [0, 1, 2]
    metrics = hub.metrics
    assert (metrics.deliveries, metrics.delivered_bytes) == (0, 0)
    assert not sum(metrics.pass_seconds.counts + metrics.fanout_seconds.counts)
    assert hub.channels() == {}


def test_probe_waits_for_its_turn_behind_a_large_audience() -> None:
    time, delivered = Time(), []
    hub = crowded(time, SLICE + 1)
    deliver(hub)
    probe = hub.probe()
    probe.start(lambda: delivered.append("late"))
    assert (probe.waits, delivered) == (True, [])
    time.turn()
    assert (probe.waits, delivered) == (False, ["late"])
    assert hub.metrics.deliveries == SLICE + 1


def test_probe_that_is_never_delivered_waits_and_does_not_pile_up() -> None:
    hub = make_hub()
    hub._fan_out._sending = True
    probe, delivered = hub.probe(), []
    for _ in range(5):
        probe.start(lambda: delivered.append(1))
        assert probe.waits
    assert len(probe._audience.queue) == 1
    hub._fan_out._sending = False
    hub.flush()
    assert (probe.waits, delivered) == (False, [1])


def test_probe_whose_pass_failed_is_delivered_the_next_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reports: list[str] = []
    hub = make_hub(report=reports.append)
    probe, delivered = hub.probe(), []

    def fail(*arguments: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Audience, "_take", fail)
        patch.setattr("pushserver.hub.fanout.SLICE", 1)
        hub._fan_out._left = 1
        probe.start(lambda: delivered.append(1))
    assert (probe.waits, delivered, len(reports)) == (True, [], 1)
    probe.start(lambda: delivered.append(2))
    hub._fan_out._turn()
    assert (probe.waits, delivered) == (False, [2])
