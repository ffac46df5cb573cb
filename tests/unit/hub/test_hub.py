from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.position import Cursor, Position, Start
from pushserver.hub.hub import Hub, Joined
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


def test_everybody_who_watches_gets_each_publication_in_order_and_nobody_else() -> None:
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


def test_late_subscriber_gets_what_it_asked_of_the_past_and_then_everything() -> None:
    hub = make_hub()
    for _ in range(5):
        deliver(hub)
    late = Watcher()
    joined = join(hub, late, last=2)
    assert offsets(joined.publications) == [4, 5]
    assert (joined.epoch, joined.offset, joined.reason) == (EPOCH, 5, "")
    deliver(hub)
    assert late.offsets == [6]


def test_a_subscriber_that_comes_back_gets_exactly_what_it_missed() -> None:
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
def test_one_that_cannot_get_all_gets_nothing_and_the_reason_and_is_live(
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


def test_a_publication_is_encoded_once_for_each_format_whatever_the_audience() -> None:
    hub = make_hub()
    one, two, unused = Shape("one"), Shape("two"), Shape("unused")
    for n in range(40):
        join(hub, Watcher(str(n), one.format if n % 2 else two.format))
    join(hub, Watcher("elsewhere", unused.format), "other")
    for _ in range(3):
        deliver(hub)
    assert (one.calls, two.calls, unused.calls) == (3, 3, 0)


def test_nothing_is_encoded_when_nobody_watches() -> None:
    hub, shape = make_hub(), Shape()
    watcher = Watcher(shape=shape.format)
    join(hub, watcher)
    hub.unsubscribe(watcher, "numbers")
    deliver(hub)
    assert (shape.calls, watcher.frames) == (0, [])


def test_who_joins_twice_is_there_once() -> None:
    hub, watcher = make_hub(), Watcher()
    joins: list[str] = []
    hub.on_join.append(lambda channel, subscriber: joins.append(channel))
    join(hub, watcher)
    join(hub, watcher)
    deliver(hub)
    assert watcher.offsets == [1]
    assert (hub.size("numbers"), joins) == (1, ["numbers"])


def test_joins_and_leaves_are_told_after_the_fact() -> None:
    hub, watcher = make_hub(), Watcher()
    seen: list[tuple[str, str, int]] = []
    hub.on_join.append(lambda channel, s: seen.append(("join", channel, hub.size(channel))))
    hub.on_leave.append(lambda channel, s: seen.append(("leave", channel, hub.size(channel))))
    join(hub, watcher)
    assert hub.unsubscribe(watcher, "numbers")
    assert not hub.unsubscribe(watcher, "numbers")
    assert not hub.unsubscribe(watcher, "never heard of")
    assert seen == [("join", "numbers", 1), ("leave", "numbers", 0)]


def test_leaving_a_channel_that_others_watch_is_not_the_others_leaving() -> None:
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


def test_a_subscriber_that_goes_away_leaves_nothing_behind() -> None:
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


def test_a_channel_that_was_published_to_keeps_its_history_when_the_last_one_leaves() -> None:
    hub, watcher = make_hub(), Watcher()
    join(hub, watcher)
    deliver(hub)
    hub.unsubscribe(watcher, "numbers")
    assert offsets(join(hub, Watcher(), last=9).publications) == [1]


def test_what_was_delivered_already_is_not_delivered_again() -> None:
    hub, watcher = make_hub(), Watcher()
    join(hub, watcher)
    deliver(hub)
    hub.deliver(row(1))
    assert watcher.offsets == [1]
    assert watcher.gaps == []


def follow(hub: Hub, watcher: Watcher, channels: str, start: Start) -> Any:
    return drive(hub.follow(watcher, list(channels), start))


def test_a_stream_from_now_begins_where_each_channel_stands() -> None:
    hub, watcher = make_hub(), Watcher()
    for name in "aab":
        deliver(hub, name)
    begun = follow(hub, watcher, "abc", Start())
    assert begun.cursor == Cursor(EPOCH, 3)
    assert begun.offsets == {"a": 2, "b": 1, "c": 0}
    assert (list(begun.publications), begun.recovered, begun.reason) == ([], False, "")
    for name in "cab":
        deliver(hub, name)
    came = [(publication["channel"], publication["offset"]) for publication in watcher.publications]
    assert came == [("c", 1), ("a", 3), ("b", 2)]


def test_streams_of_the_same_channels_are_one_audience_whatever_their_order() -> None:
    hub, shape = make_hub(), Shape()
    watchers = [Watcher(names, shape.format) for names in ("ab", "ba")]
    assert {follow(hub, w, w.info.client, Start()).audience for w in watchers} == {"a b"}
    deliver(hub, "b")
    assert [watcher.offsets for watcher in watchers] == [[1], [1]]
    assert (shape.calls, hub.channels()) == (1, {"a": 2, "b": 2})


def test_a_stream_with_the_last_few_has_the_newest_of_all_its_channels() -> None:
    hub = make_hub()
    for name in "aabab":
        deliver(hub, name)
    begun = follow(hub, Watcher(), "ab", Start(last=3))
    assert [r.seq for r in begun.publications] == [3, 4, 5]
    assert begun.cursor == Cursor(EPOCH, 2)
    assert begun.offsets == {"a": 2, "b": 0}
    assert not begun.recovered
    assert follow(hub, Watcher(), "ab", Start(last=0)).cursor == Cursor(EPOCH, 5)


def test_a_stream_of_all_that_is_retained_begins_before_its_first() -> None:
    hub = make_hub(lambda name: ChannelOptions(history_size=1 if name == "a" else 9))
    for name in "aabab":
        deliver(hub, name)
    begun = follow(hub, Watcher(), "ab", Start(oldest=True))
    assert [r.seq for r in begun.publications] == [3, 4, 5]
    assert begun.cursor == Cursor(EPOCH, 2)
    assert begun.offsets == {"a": 2, "b": 0}


def test_a_stream_goes_on_from_its_cursor() -> None:
    hub, watcher = make_hub(), Watcher()
    for name in "abcab":
        deliver(hub, name)
    begun = follow(hub, watcher, "ba", Start(since=Cursor(EPOCH, 2)))
    assert [r.seq for r in begun.publications] == [4, 5]
    assert begun.cursor == Cursor(EPOCH, 2)
    assert begun.offsets == {"a": 1, "b": 1}
    assert begun.recovered
    assert hub.metrics.recoveries == {"recovered": 1}
    again = follow(hub, Watcher(), "ab", Start(since=Cursor(EPOCH, 5)))
    assert (list(again.publications), again.recovered) == ([], True)
    assert again.offsets == {"a": 2, "b": 2}


@pytest.mark.parametrize(
    ("cursor", "reason"),
    [
        (Cursor("other", 5), "epoch"),
        (Cursor(EPOCH, 6), "ahead"),
        (Cursor(EPOCH, 1), "evicted"),
        (Cursor(EPOCH, 2), "limit"),
    ],
)
def test_a_stream_that_cannot_go_on_is_told_and_begins_now(cursor: Cursor, reason: str) -> None:
    hub = make_hub(ChannelOptions(history_size=3, recovery_limit=2))
    for _ in range(5):
        deliver(hub, "a")
    begun = follow(hub, Watcher(), "a", Start(since=cursor, last=3))
    assert (list(begun.publications), begun.recovered, begun.reason) == ([], False, reason)
    assert begun.cursor == Cursor(EPOCH, 5)
    assert begun.offsets == {"a": 5}
    assert hub.metrics.recoveries == {reason: 1}
