from __future__ import annotations

from typing import Any

import pytest

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.history import History
from pushserver.channels.idempotency import Keys, Remembered
from pushserver.channels.publication import Draft, Publication, Receipt
from pushserver.errors import Unavailable
from pushserver.hub.broker import MemoryBroker
from pushserver.hub.metrics import Metrics
from tests.unit.fakes.tools import EPOCH, Time, drive, make_broker


class Notebook:
    """A recorder that remembers what it was told; `broken` makes it refuse."""

    def __init__(self) -> None:
        self.broken = ""
        self.appended: list[tuple[Publication, Remembered | None]] = []
        self.touched: list[str] = []

    def check(self) -> None:
        if self.broken:
            raise Unavailable(self.broken)

    def append(self, publication: Publication, known: Remembered | None) -> None:
        self.appended.append((publication, known))

    def touch(self, channel: str) -> None:
        self.touched.append(channel)


def recorded(keys: int = 100, **options: Any) -> tuple[MemoryBroker, Notebook, Time]:
    notebook, time = Notebook(), Time(1000.0)
    history = History(lambda name: ChannelOptions(**options), EPOCH)
    return MemoryBroker(history, Keys(keys), Metrics(), time, time, notebook), notebook, time


def test_a_publication_is_numbered_kept_and_handed_on_before_the_publisher_is_answered() -> None:
    broker, time = make_broker(), Time(12.5)
    broker = make_broker(time=time)
    handed_on: list[Publication] = []
    broker.attach(handed_on.append)
    receipt = drive(broker.publish(Draft("a", b"1")))
    assert receipt == Receipt(EPOCH, 1, 1)
    assert [(p.offset, p.time) for p in handed_on] == [(1, 12.5)]
    assert broker.history.peek("a").last(9) == handed_on
    assert broker.metrics.publications == 1


def test_nobody_needs_to_listen() -> None:
    assert drive(make_broker().publish(Draft("a", b"1"))).offset == 1


def test_the_same_key_again_is_answered_as_before_and_publishes_nothing() -> None:
    broker, notebook, time = recorded()
    first = drive(broker.publish(Draft("a", b"1", key="k")))
    time.now += 299
    assert drive(broker.publish(Draft("a", b"2", key="k"))) == first
    assert broker.history.top("a") == 1
    assert broker.metrics.duplicates == 1
    assert len(notebook.appended) == 1
    time.now += 1
    assert drive(broker.publish(Draft("a", b"2", key="k"))).offset == 2


def test_a_key_belongs_to_its_channel() -> None:
    broker, _, _ = recorded()
    drive(broker.publish(Draft("a", b"1", key="k")))
    assert drive(broker.publish(Draft("b", b"1", key="k"))).seq == 2


def test_when_no_more_keys_can_be_remembered_one_with_a_key_is_refused_and_others_go_on() -> None:
    broker, _, _ = recorded(keys=1)
    drive(broker.publish(Draft("a", b"1", key="k")))
    with pytest.raises(Unavailable, match="idempotency_keys"):
        drive(broker.publish(Draft("a", b"1", key="other")))
    assert drive(broker.publish(Draft("a", b"1"))).offset == 2
    assert drive(broker.publish(Draft("a", b"1", key="k"))).offset == 1


def test_what_is_published_is_written_down_with_its_key() -> None:
    broker, notebook, time = recorded()
    drive(broker.publish(Draft("a", b"1")))
    receipt = drive(broker.publish(Draft("a", b"2", key="k")))
    (first, none), (second, known) = notebook.appended
    assert (first.offset, none) == (1, None)
    assert second.data == b"2"
    assert known == Remembered("a", "k", receipt, time.now)


def test_what_cannot_be_written_down_is_not_published() -> None:
    broker, notebook, _ = recorded()
    handed_on: list[Publication] = []
    broker.attach(handed_on.append)
    notebook.broken = "the disk is full"
    with pytest.raises(Unavailable, match="the disk is full"):
        drive(broker.publish(Draft("a", b"1", key="k")))
    assert handed_on == []
    assert (broker.history.seq, broker.metrics.publications) == (0, 0)
    notebook.broken = ""
    assert drive(broker.publish(Draft("a", b"1", key="k"))) == Receipt(EPOCH, 1, 1)


def test_a_repetition_is_answered_even_when_nothing_can_be_written_down() -> None:
    broker, notebook, _ = recorded()
    first = drive(broker.publish(Draft("a", b"1", key="k")))
    notebook.broken = "the disk is full"
    assert drive(broker.publish(Draft("a", b"1", key="k"))) == first


def test_clearing_keeps_the_numbers_and_is_written_down() -> None:
    broker, notebook, _ = recorded()
    drive(broker.publish(Draft("a", b"1")))
    drive(broker.clear("a"))
    drive(broker.clear("never published to"))
    assert broker.history.peek("a").last(9) == []
    assert broker.metrics.evictions == 1
    assert notebook.touched == ["a"]
    assert drive(broker.publish(Draft("a", b"1"))).offset == 2
    notebook.broken = "the disk is full"
    with pytest.raises(Unavailable):
        drive(broker.clear("a"))
    assert len(broker.history.peek("a")) == 1


def test_what_is_evicted_is_counted_and_what_changed_is_written_down() -> None:
    broker, notebook, time = recorded(history_size=2, history_ttl=10)
    for channel in "aaab":
        drive(broker.publish(Draft(channel, b"1", key=f"k{broker.history.seq}")))
    assert broker.metrics.evictions == 1
    broker.expire(time.now + 10, lambda channel: channel == "b")
    assert broker.metrics.evictions == 4
    assert notebook.touched == ["a", "b"]
    assert list(broker.history.channels) == ["b"]
    time.now += 300
    broker.expire(time.now, lambda channel: False)
    assert drive(broker.publish(Draft("a", b"1", key="k0"))).offset == 4
