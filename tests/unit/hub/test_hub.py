from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.position import Cursor, Position, Start
from pushserver.hub.hub import Following, Hub, Joined
from tests.unit.fakes.tools import EPOCH, Shape, Watcher, deliver, drive, make_hub, row


def join(
    hub: Hub,
    watcher: Watcher,
    channel: str = "numbers",
    position: Position | None = None,
    last: int = 0,
) -> Joined:
    return drive(hub.subscribe(watcher, channel, position, last))


def offsets(rows: Any) -> list[int]:
    return [row.offset for row in rows]


def test_each_subscriber_gets_each_publication_in_order() -> None:
    hub = make_hub()
    one, two, elsewhere = Watcher("1"), Watcher("2"), Watcher("3")
    join(hub, one)
    join(hub, two)
    join(hub, elsewhere, "other")
    receipts = [deliver(hub, data=n) for n in range(5)]
    assert [r.offset for r in receipts] == one.offsets == two.offsets == [1, 2, 3, 4, 5]
    assert [publication["data"] for publication in one.publications] == [0, 1, 2, 3, 4]
    assert elsewhere.frames == []
    assert hub.metrics.deliveries == 10


def test_late_subscriber_gets_the_last_publications_and_then_live_ones() -> None:
    hub = make_hub()
    for _ in range(5):
        deliver(hub)
    late = Watcher()
    joined = join(hub, late, last=2)
    assert offsets(joined.publications) == [4, 5]
    assert (joined.epoch, joined.offset, joined.reason) == (EPOCH, 5, "")
    deliver(hub)
    assert late.offsets == [6]


def test_subscriber_that_resumes_gets_exactly_the_missed_publications() -> None:
    hub = make_hub()
    for _ in range(5):
        deliver(hub)
    joined = join(hub, Watcher(), position=Position(EPOCH, 2), last=1)
    assert offsets(joined.publications) == [3, 4, 5]
    assert (joined.offset, joined.reason) == (5, "")
    assert hub.metrics.recoveries == {"recovered": 1}


@pytest.mark.parametrize(
    ("position", "reason"),
    [
        (Position("other", 5), "epoch"),
        (Position(EPOCH, 6), "ahead"),
        (Position(EPOCH, 1), "evicted"),
        (Position(EPOCH, 2), "limit"),
    ],
)
def test_subscriber_that_cannot_resume_gets_the_reason_and_is_live(
    position: Position, reason: str
) -> None:
    hub = make_hub(ChannelOptions(history_size=3, recovery_limit=2))
    for _ in range(5):
        deliver(hub)
    watcher = Watcher()
    joined = join(hub, watcher, position=position, last=3)
    assert (joined.publications, joined.reason, joined.offset) == ((), reason, 5)
    assert hub.metrics.recoveries == {reason: 1}
    deliver(hub)
    assert watcher.offsets == [6]


def test_publication_is_encoded_once_for_each_format() -> None:
    hub = make_hub()
    one, two, unused = Shape("one"), Shape("two"), Shape("unused")
    for n in range(40):
        join(hub, Watcher(str(n), one.format if n % 2 else two.format))
    join(hub, Watcher("elsewhere", unused.format), "other")
    for _ in range(3):
        deliver(hub)
    assert (one.calls, two.calls, unused.calls) == (3, 3, 0)


def test_nothing_is_encoded_without_subscribers() -> None:
    hub, shape = make_hub(), Shape()
    watcher = Watcher(shape=shape.format)
    join(hub, watcher)
    hub.unsubscribe(watcher, "numbers")
    deliver(hub)
    assert (shape.calls, watcher.frames) == (0, [])


def test_subscriber_that_joins_twice_is_counted_once() -> None:
    hub, watcher = make_hub(), Watcher()
    joins: list[str] = []
    hub.on_join.append(lambda channel, subscriber: joins.append(channel))
    join(hub, watcher)
    join(hub, watcher)
    deliver(hub)
    assert watcher.offsets == [1]
    assert (hub.size("numbers"), joins) == (1, ["numbers"])


def test_callbacks_of_joins_and_leaves_come_after_the_change() -> None:
    hub, watcher = make_hub(), Watcher()
    seen: list[tuple[str, str, int]] = []
    hub.on_join.append(lambda channel, s: seen.append(("join", channel, hub.size(channel))))
    hub.on_leave.append(lambda channel, s: seen.append(("leave", channel, hub.size(channel))))
    join(hub, watcher)
    assert hub.unsubscribe(watcher, "numbers")
    assert not hub.unsubscribe(watcher, "numbers")
    assert not hub.unsubscribe(watcher, "never heard of")
    assert seen == [("join", "numbers", 1), ("leave", "numbers", 0)]


def test_leaving_removes_only_the_subscriber_itself() -> None:
    hub, one, two, three = make_hub(), Watcher("1"), Watcher("2"), Watcher("3", Shape().format)
    join(hub, one)
    join(hub, three)
    assert not hub.unsubscribe(two, "numbers")
    assert hub.subscribers("numbers") == [one, three]
    assert hub.unsubscribe(one, "numbers")
    assert not hub.unsubscribe(one, "numbers")
    deliver(hub)
    assert (one.offsets, three.offsets) == ([], [1])
    assert hub.channels() == {"numbers": 1}


def test_subscriber_that_leaves_is_forgotten() -> None:
    hub = make_hub()
    watcher = Watcher()
    gone = weakref.ref(watcher)
    for channel in ("a", "b"):
        join(hub, watcher, channel)
    followed = drive(hub.follow(watcher, ["c", "d"], Start(last=1))).audience
    for name in ("a", "b", followed):
        assert hub.unsubscribe(watcher, name)
    del watcher
    gc.collect()
    assert gone() is None
    assert hub.channels() == {}
    assert hub.subscribers("a") == []
    assert hub.history.channels == {}


def test_channel_keeps_its_history_when_the_last_subscriber_leaves() -> None:
    hub, watcher = make_hub(), Watcher()
    join(hub, watcher)
    deliver(hub)
    hub.unsubscribe(watcher, "numbers")
    assert offsets(join(hub, Watcher(), last=9).publications) == [1]


def test_repeated_offset_is_not_delivered_again() -> None:
    hub, watcher = make_hub(), Watcher()
    join(hub, watcher)
    deliver(hub)
    hub.deliver(row(1))
    assert watcher.offsets == [1]
    assert watcher.gaps == []


def follow(hub: Hub, watcher: Watcher, channels: str, start: Start) -> Any:
    return drive(hub.follow(watcher, list(channels), start))


def starts(following: Following) -> dict[str, int]:
    """The offsets from which it starts, all in the first numbering of their channels."""
    assert {position.epoch for position in following.positions.values()} == {EPOCH}
    return {name: position.offset for name, position in following.positions.items()}


def test_stream_from_now_starts_at_the_top_of_each_channel() -> None:
    hub, watcher = make_hub(), Watcher()
    for name in "aab":
        deliver(hub, name)
    following = follow(hub, watcher, "abc", Start())
    assert following.cursor == Cursor(EPOCH, 3)
    assert starts(following) == {"a": 2, "b": 1, "c": 0}
    assert (list(following.publications), following.recovered, following.reason) == ([], False, "")
    for name in "cab":
        deliver(hub, name)
    received = [
        (publication["channel"], publication["offset"]) for publication in watcher.publications
    ]
    assert received == [("c", 1), ("a", 3), ("b", 2)]


def test_streams_of_the_same_channels_in_any_order_are_one_audience() -> None:
    hub, shape = make_hub(), Shape()
    watchers = [Watcher(names, shape.format) for names in ("ab", "ba")]
    assert {follow(hub, w, w.info.client, Start()).audience for w in watchers} == {"a b"}
    deliver(hub, "b")
    assert [watcher.offsets for watcher in watchers] == [[1], [1]]
    assert (shape.calls, hub.channels()) == (1, {"a": 2, "b": 2})


def test_stream_with_last_publications_has_the_newest_of_all_its_channels() -> None:
    hub = make_hub()
    for name in "aabab":
        deliver(hub, name)
    following = follow(hub, Watcher(), "ab", Start(last=3))
    assert [r.seq for r in following.publications] == [3, 4, 5]
    assert following.cursor == Cursor(EPOCH, 2)
    assert starts(following) == {"a": 2, "b": 0}
    assert not following.recovered
    assert follow(hub, Watcher(), "ab", Start(last=0)).cursor == Cursor(EPOCH, 5)


def test_stream_from_oldest_starts_before_the_first_retained_publication() -> None:
    hub = make_hub(lambda name: ChannelOptions(history_size=1 if name == "a" else 9))
    for name in "aabab":
        deliver(hub, name)
    following = follow(hub, Watcher(), "ab", Start(oldest=True))
    assert [r.seq for r in following.publications] == [3, 4, 5]
    assert following.cursor == Cursor(EPOCH, 2)
    assert starts(following) == {"a": 2, "b": 0}


def test_stream_resumes_from_its_cursor() -> None:
    hub, watcher = make_hub(), Watcher()
    for name in "abcab":
        deliver(hub, name)
    following = follow(hub, watcher, "ba", Start(since=Cursor(EPOCH, 2)))
    assert [r.seq for r in following.publications] == [4, 5]
    assert following.cursor == Cursor(EPOCH, 2)
    assert starts(following) == {"a": 1, "b": 1}
    assert following.recovered
    assert hub.metrics.recoveries == {"recovered": 1}
    again = follow(hub, Watcher(), "ab", Start(since=Cursor(EPOCH, 5)))
    assert (list(again.publications), again.recovered) == ([], True)
    assert starts(again) == {"a": 2, "b": 2}


@pytest.mark.parametrize(
    ("cursor", "reason"),
    [
        (Cursor("other", 5), "epoch"),
        (Cursor(EPOCH, 6), "ahead"),
        (Cursor(EPOCH, 1), "evicted"),
        (Cursor(EPOCH, 2), "limit"),
    ],
)
def test_stream_that_cannot_resume_gets_the_reason_and_starts_now(
    cursor: Cursor, reason: str
) -> None:
    hub = make_hub(ChannelOptions(history_size=3, recovery_limit=2))
    for _ in range(5):
        deliver(hub, "a")
    following = follow(hub, Watcher(), "a", Start(since=cursor, last=3))
    assert (list(following.publications), following.recovered, following.reason) == (
        [],
        False,
        reason,
    )
    assert following.cursor == Cursor(EPOCH, 5)
    assert starts(following) == {"a": 5}
    assert hub.metrics.recoveries == {reason: 1}
