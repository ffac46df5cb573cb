from __future__ import annotations

from typing import Any

import pytest

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.history import History
from pushserver.channels.idempotency import KeyEntry, Keys
from pushserver.channels.publication import Draft, Publication, Receipt
from pushserver.channels.room import Room
from pushserver.errors import Unavailable
from pushserver.hub.broker import MemoryBroker
from pushserver.hub.metrics import Metrics
from tests.unit.fakes.tools import EPOCH, Time, drive, make_broker


class FakeRecorder:
    """A recorder that keeps its calls in lists, and refuses with the text in `broken`."""

    def __init__(self) -> None:
        self.broken = ""
        self.appended: list[tuple[Publication, KeyEntry | None]] = []
        self.touched: list[str] = []

    def check(self) -> None:
        if self.broken:
            raise Unavailable(self.broken)

    def append(self, publication: Publication, entry: KeyEntry | None) -> None:
        self.appended.append((publication, entry))

    def touch(self, channel: str) -> None:
        self.touched.append(channel)


def make_recorded(
    keys: int = 100, room: Room | None = None, **options: Any
) -> tuple[MemoryBroker, FakeRecorder, Time]:
    recorder, time = FakeRecorder(), Time(1000.0)
    history = History(lambda name: ChannelOptions(**options), EPOCH, room=room)
    return MemoryBroker(history, Keys(keys), Metrics(), time, time, recorder), recorder, time


def test_publication_is_numbered_retained_and_delivered_before_publish_returns() -> None:
    broker, time = make_broker(), Time(12.5)
    broker = make_broker(time=time)
    delivered: list[Publication] = []
    broker.attach(lambda row, _: delivered.append(row))
    receipt = drive(broker.publish(Draft("a", b"1")))
    assert receipt == Receipt(EPOCH, 1, 1)
    assert [(p.offset, p.time) for p in delivered] == [(1, 12.5)]
    assert broker.history.peek("a").last(9) == delivered
    assert broker.metrics.publications == 1


def test_publishing_needs_no_hub() -> None:
    assert drive(make_broker().publish(Draft("a", b"1"))).offset == 1


def test_repeated_key_gets_the_first_receipt_and_publishes_nothing() -> None:
    broker, recorder, time = make_recorded()
    first = drive(broker.publish(Draft("a", b"1", key="k")))
    time.now += 299
    assert drive(broker.publish(Draft("a", b"2", key="k"))) == first
    assert broker.history.top("a") == 1
    assert broker.metrics.duplicates == 1
    assert len(recorder.appended) == 1
    time.now += 1
    assert drive(broker.publish(Draft("a", b"2", key="k"))).offset == 2


def test_keys_are_separate_for_each_channel() -> None:
    broker, _, _ = make_recorded()
    drive(broker.publish(Draft("a", b"1", key="k")))
    assert drive(broker.publish(Draft("b", b"1", key="k"))).seq == 2


def test_without_room_for_keys_only_new_keys_are_refused() -> None:
    broker, _, _ = make_recorded(keys=1)
    drive(broker.publish(Draft("a", b"1", key="k")))
    with pytest.raises(Unavailable, match="idempotency_keys"):
        drive(broker.publish(Draft("a", b"1", key="other")))
    assert drive(broker.publish(Draft("a", b"1"))).offset == 2
    assert drive(broker.publish(Draft("a", b"1", key="k"))).offset == 1


def test_publication_is_recorded_with_its_key() -> None:
    broker, recorder, time = make_recorded()
    drive(broker.publish(Draft("a", b"1")))
    receipt = drive(broker.publish(Draft("a", b"2", key="k")))
    (first, none), (second, entry) = recorder.appended
    assert (first.offset, none) == (1, None)
    assert second.data == b"2"
    assert entry == KeyEntry("a", "k", receipt, time.now)


def test_publication_that_cannot_be_recorded_is_refused() -> None:
    broker, recorder, _ = make_recorded()
    delivered: list[Publication] = []
    broker.attach(lambda row, _: delivered.append(row))
    recorder.broken = "the disk is full"
    with pytest.raises(Unavailable, match="the disk is full"):
        drive(broker.publish(Draft("a", b"1", key="k")))
    assert delivered == []
    assert (broker.history.seq, broker.metrics.publications) == (0, 0)
    recorder.broken = ""
    assert drive(broker.publish(Draft("a", b"1", key="k"))) == Receipt(EPOCH, 1, 1)


def test_repeated_key_is_answered_even_if_nothing_can_be_recorded() -> None:
    broker, recorder, _ = make_recorded()
    first = drive(broker.publish(Draft("a", b"1", key="k")))
    recorder.broken = "the disk is full"
    assert drive(broker.publish(Draft("a", b"1", key="k"))) == first


def test_clearing_keeps_the_numbering_and_is_recorded() -> None:
    broker, recorder, _ = make_recorded()
    drive(broker.publish(Draft("a", b"1")))
    drive(broker.clear("a"))
    drive(broker.clear("never published to"))
    assert broker.history.peek("a").last(9) == []
    assert broker.metrics.evictions == 1
    assert recorder.touched == ["a"]
    assert drive(broker.publish(Draft("a", b"1"))).offset == 2
    recorder.broken = "the disk is full"
    with pytest.raises(Unavailable):
        drive(broker.clear("a"))
    assert len(broker.history.peek("a")) == 1


@pytest.mark.parametrize("watched", [False, True], ids=["forgotten", "halved"])
def test_publications_that_made_room_for_one_are_counted(watched: bool) -> None:
    broker, recorder, _ = make_recorded(room=Room(10_000), history_size=6)
    for channel in "ab":
        if watched:
            broker.history.channel(channel)
        for _ in range(8):
            drive(broker.publish(Draft(channel, b"1" * 1_000)))
    kept = sum(map(len, broker.history.channels.values()))
    assert broker.metrics.made_room["history_total_bytes"] >= 1
    assert broker.metrics.evictions == 16 - kept
    assert recorder.touched


def test_evictions_are_counted_and_changed_channels_are_recorded() -> None:
    broker, recorder, time = make_recorded(history_size=2, history_ttl=10)
    for channel in "aaab":
        drive(broker.publish(Draft(channel, b"1", key=f"k{broker.history.seq}")))
    assert broker.metrics.evictions == 1
    broker.expire(time.now + 10, lambda channel: channel == "b")
    assert broker.metrics.evictions == 4
    assert recorder.touched == ["a", "b"]
    assert list(broker.history.channels) == ["b"]
    time.now += 300
    broker.expire(time.now, lambda channel: False)
    assert drive(broker.publish(Draft("a", b"1", key="k0"))) == Receipt(f"{EPOCH}-3", 5, 1)
