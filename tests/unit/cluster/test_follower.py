"""Single rules of a follower and of the author; all of them together: test_follower_model.py."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from pushserver.channels import history
from pushserver.channels.channel import ChannelOptions
from pushserver.channels.position import Cursor, Position, Start
from pushserver.channels.publication import Draft
from pushserver.channels.room import Room
from pushserver.cluster import calls, image_parts
from pushserver.cluster.messages import AskEvent, Follow, Message, Publish, Request, Spread, frame
from pushserver.errors import LimitExceeded, Unavailable
from pushserver.hub.follower import MAX_IDLE_SECONDS, Point
from tests.unit.fakes.cluster import Cluster, Edge, result, run
from tests.unit.fakes.tools import Client, Time, Watcher, drive, make_broker, publish
from tests.unit.fakes.web import Trouble

OPTIONS = ChannelOptions(history_size=10, history_ttl=100)


@pytest.fixture
def cluster() -> Cluster:
    time = Time()
    return Cluster(make_broker(OPTIONS, time=time), OPTIONS, time, 2)


def join(cluster: Cluster, edge: Edge, position: Position | None = None, last: int = 0) -> Any:
    """A watcher of `numbers`, and the answer that it got."""
    watcher = Watcher()
    return watcher, result(cluster, edge.node.hub.subscribe(watcher, "numbers", position, last))


def values(rows: Any) -> list[int]:
    return [int(row.data) for row in rows]


def test_first_reader_of_a_channel_gets_its_history_and_live_ones(cluster: Cluster) -> None:
    for n in range(3):
        publish(cluster.node, data=n)
    watcher, joined = join(cluster, cluster.edges[0], last=2)
    assert values(joined.publications) == [1, 2]
    publish(cluster.node, data=3)
    cluster.settle()
    assert [row["data"] for row in watcher.publications] == [3]


def test_publisher_at_a_follower_has_its_receipt_after_the_delivery(cluster: Cluster) -> None:
    edge = cluster.edges[0]
    watcher, _ = join(cluster, edge)
    receipt = result(cluster, edge.node.publish(Draft("numbers", b"7")))
    assert receipt.offset == 1
    assert watcher.offsets == [1]
    assert cluster.node.history.top("numbers") == 1


def test_channels_without_readers_at_a_follower_are_not_sent(cluster: Cluster) -> None:
    join(cluster, cluster.edges[0])
    publish(cluster.node, "other")
    publish(cluster.node)
    assert cluster.edges[1].link is not None
    assert cluster.edges[1].link.down.waiting == b""
    cluster.settle()
    assert list(cluster.edges[0].node.history.channels) == ["numbers"]


def test_reader_from_a_faster_follower_continues_at_a_slower_one(cluster: Cluster) -> None:
    fast, slow = cluster.edges
    join(cluster, fast)
    join(cluster, slow)
    publish(cluster.node)
    assert fast.link is not None
    fast.link.bring_down()
    position = Position(fast.node.history.epoch, 1)
    answer: Any = Deferred.fromCoroutine(
        slow.node.hub.subscribe(Watcher("x"), "numbers", position, 0)
    )
    assert not answer.called
    cluster.settle()
    assert answer.result.reason == ""


def test_stream_from_a_faster_follower_continues_at_a_slower_one(cluster: Cluster) -> None:
    fast, slow = cluster.edges
    join(cluster, fast)
    join(cluster, slow)
    seq = publish(cluster.node).seq
    since = Start(since=Cursor(fast.node.history.epoch, seq))
    answer: Any = Deferred.fromCoroutine(slow.node.hub.follow(Watcher("x"), ["numbers"], since))
    assert not answer.called
    cluster.settle()
    assert answer.result.recovered


def test_position_that_was_never_reached_is_refused_after_the_author_was_asked(
    cluster: Cluster,
) -> None:
    edge = cluster.edges[0]
    join(cluster, edge)
    _, joined = join(cluster, edge, Position(edge.node.history.epoch, 5))
    assert joined.reason == "ahead"


def test_new_stream_begins_after_the_publications_that_came_before_it(cluster: Cluster) -> None:
    edge = cluster.edges[0]
    join(cluster, edge)
    edge.cut()
    seq = [publish(cluster.node), publish(cluster.node, "other")][-1].seq
    edge.connect(cluster.author)
    cluster.settle()
    stream = Watcher("stream")
    following = result(cluster, edge.node.hub.follow(stream, ["numbers"], Start(last=0)))
    assert following.cursor.seq == seq


def test_channel_stays_at_the_author_while_a_follower_has_it(cluster: Cluster) -> None:
    edge, author = cluster.edges[0], cluster.node
    join(cluster, edge)
    watcher = Watcher()
    drive(author.hub.subscribe(watcher, "numbers", None, 0))
    author.hub.unsubscribe(watcher, "numbers")
    assert "numbers" in author.history.channels
    publish(author)
    cluster.time.now += 1_000
    while author.expire():
        pass
    assert author.history.top("numbers") == 1


def test_channel_is_left_some_time_after_its_last_reader(cluster: Cluster) -> None:
    edge, author = cluster.edges[0], cluster.node
    watcher, _ = join(cluster, edge)
    publish(author)
    cluster.settle()
    edge.node.hub.unsubscribe(watcher, "numbers")
    for seconds, kept in ((0.0, True), (MAX_IDLE_SECONDS - 1, True), (1.0, False)):
        cluster.time.now += seconds
        edge.node.expire()
        assert ("numbers" in edge.node.history.channels) is kept
    cluster.settle()
    publish(author)
    assert edge.link is not None
    assert edge.link.down.waiting == b""


def test_reader_that_comes_back_in_time_keeps_the_channel(cluster: Cluster) -> None:
    edge = cluster.edges[0]
    publish(cluster.node)
    watcher, _ = join(cluster, edge)
    edge.node.hub.unsubscribe(watcher, "numbers")
    edge.node.expire()
    cluster.time.now += MAX_IDLE_SECONDS
    watcher, _ = join(cluster, edge)
    edge.node.expire()
    edge.node.hub.unsubscribe(watcher, "numbers")
    edge.node.expire()
    assert "numbers" in edge.node.history.channels


def test_idle_channels_are_left_in_slices(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "SWEEP", 2)
    node = cluster.edges[0].node
    names = [f"c{n}" for n in range(7)]
    for name in names:
        publish(cluster.node, name)
    result(cluster, node.load(names))
    for seconds in (0.0, MAX_IDLE_SECONDS):
        cluster.time.now += seconds
        left = []
        while node.expire():
            left.append(len(node.history.channels))
        assert left == ([5, 3, 1] if seconds else [7, 7, 7])
    assert node.history.channels == {}
    cluster.settle()
    publish(cluster.node, "c3")
    assert cluster.edges[0].link is not None
    assert cluster.edges[0].link.down.waiting == b""


def test_channel_that_never_had_a_publication_is_left_with_its_last_reader(
    cluster: Cluster,
) -> None:
    edge = cluster.edges[0]
    watcher, _ = join(cluster, edge)
    assert "numbers" in cluster.node.history.channels
    edge.node.hub.unsubscribe(watcher, "numbers")
    # It was published before the author knows that it is not followed any more.
    publish(cluster.node)
    cluster.settle()
    publish(cluster.node)
    assert edge.link is not None
    assert edge.link.down.waiting == b""


def test_names_that_a_reader_invents_leave_no_channels_anywhere(cluster: Cluster) -> None:
    client = Client(cluster.edges[0].node)
    for n in range(3):
        client.say({"id": 3 * n + 2, "history": {"channel": f"read{n}"}})
        client.say({"id": 3 * n + 3, "subscribe": {"channel": f"watched{n}"}})
        client.say({"id": 3 * n + 4, "unsubscribe": {"channel": f"watched{n}"}})
        cluster.settle()
    assert len(client.transport.take()) == 3, "of the last round"
    assert cluster.edges[0].node.history.channels == {}
    assert cluster.node.history.channels == {}


def test_reader_that_waits_for_an_empty_channel_has_it_while_another_one_has_read_it(
    cluster: Cluster,
) -> None:
    edge = cluster.edges[0]
    watcher = Watcher()
    first: Any = Deferred.fromCoroutine(edge.node.load(["numbers"]))
    second: Any = Deferred.fromCoroutine(edge.node.hub.subscribe(watcher, "numbers", None, 0))
    cluster.settle()
    assert first.called
    assert second.called
    publish(cluster.node)
    cluster.settle()
    assert watcher.offsets == [1]


def test_removed_history_is_gone_at_the_followers(cluster: Cluster) -> None:
    edge = cluster.edges[0]
    publish(cluster.node)
    join(cluster, edge)
    drive(cluster.node.clear("numbers"))
    cluster.settle()
    assert len(edge.node.history.channels["numbers"]) == 0
    publish(cluster.node)
    cluster.settle()
    assert edge.node.history.top("numbers") == 2


def test_history_that_was_removed_while_the_link_was_lost_is_gone(cluster: Cluster) -> None:
    edge = cluster.edges[0]
    publish(cluster.node)
    watcher, _ = join(cluster, edge)
    edge.cut()
    drive(cluster.node.clear("numbers"))
    publish(cluster.node)
    edge.connect(cluster.author)
    cluster.settle()
    assert values(edge.node.history.channels["numbers"].after(0)) == [1]
    assert len(edge.node.history.channels["numbers"]) == 1
    assert (watcher.offsets, watcher.gaps) == ([2], [])


def test_history_can_be_removed_through_a_follower(cluster: Cluster) -> None:
    publish(cluster.node)
    result(cluster, cluster.edges[0].node.clear("numbers"))
    assert len(cluster.node.history.channels["numbers"]) == 0


def test_publications_expire_at_a_follower_with_their_age_at_the_author(cluster: Cluster) -> None:
    publish(cluster.node)
    cluster.time.now += 90
    join(cluster, cluster.edges[0])
    cluster.time.now += 20
    cluster.edges[0].node.expire()
    assert len(cluster.edges[0].node.history.channels["numbers"]) == 0


def test_lost_link_delays_publications_and_loses_none(cluster: Cluster) -> None:
    edge = cluster.edges[0]
    watcher, _ = join(cluster, edge)
    edge.cut()
    for _ in range(3):
        publish(cluster.node)
    edge.connect(cluster.author)
    cluster.settle()
    assert watcher.offsets == [1, 2, 3]
    assert watcher.gaps == []


def test_reader_is_told_when_more_came_than_the_author_retains(cluster: Cluster) -> None:
    edge = cluster.edges[0]
    watcher, _ = join(cluster, edge)
    edge.cut()
    for _ in range(OPTIONS.history_size + 1):
        publish(cluster.node)
    edge.connect(cluster.author)
    cluster.settle()
    assert watcher.offsets == []
    assert watcher.gaps == ["numbers"]
    _, joined = join(cluster, edge, last=1)
    assert joined.offset == OPTIONS.history_size + 1


def test_readers_are_told_when_the_author_has_another_log(cluster: Cluster) -> None:
    edge = cluster.edges[0]
    publish(cluster.node)
    watcher, _ = join(cluster, edge)
    cluster.restart(make_broker(OPTIONS, time=cluster.time))
    cluster.node.history.epoch = "e2"
    edge.connect(cluster.author)
    cluster.settle()
    assert watcher.gaps == ["numbers"]
    publish(cluster.node)
    cluster.settle()
    assert edge.node.history.epoch == "e2"


def test_missed_publications_of_several_channels_come_in_their_order(cluster: Cluster) -> None:
    edge = cluster.edges[0]
    stream = Watcher()
    result(cluster, edge.node.hub.follow(stream, ["a", "b"], Start(last=0)))
    edge.cut()
    for channel in "abba":
        publish(cluster.node, channel)
    edge.connect(cluster.author)
    cluster.settle()
    assert [row["channel"] for row in stream.publications] == list("abba")


def test_calls_fail_while_the_author_is_away(cluster: Cluster) -> None:
    edge = cluster.edges[0]
    waiting = Deferred.fromCoroutine(edge.node.publish(Draft("numbers", b"1")))
    failures: list[Any] = []
    waiting.addErrback(failures.append)
    edge.cut()
    assert failures[0].check(Unavailable)
    with pytest.raises(Unavailable, match="away"):
        drive(edge.node.publish(Draft("numbers", b"1")))
    with pytest.raises(Unavailable):
        join(cluster, edge)
    assert edge.node.history.channels == {}


def test_calls_wait_in_a_bounded_memory(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    size = calls.CALL_BYTES + len(frame(Publish(1, Draft("numbers", b"1"))))
    monkeypatch.setattr(calls, "WAITING_BYTES", 2 * size)
    node = cluster.edges[0].node
    waiting: list[Any] = [
        Deferred.fromCoroutine(node.publish(Draft("numbers", b"1"))) for _ in range(2)
    ]
    with pytest.raises(Unavailable, match="too many calls wait"):
        drive(node.publish(Draft("numbers", b"1")))
    cluster.settle()
    assert [call.result.offset for call in waiting] == [1, 2]
    assert result(cluster, node.publish(Draft("numbers", b"1"))).offset == 3


@pytest.mark.parametrize(
    "message",
    [
        Publish(1, Draft("numbers", b"1" * 1_000)),
        AskEvent(1, 1, "event", ["x" * 1_000]),
        Request(1, 1, Spread(["x" * 1_000], False), "event", 1.0),
        Follow(1, [Point("x" * 100)] * 10),
    ],
    ids=lambda message: type(message).__name__,
)
def test_whole_message_of_a_call_counts(monkeypatch: pytest.MonkeyPatch, message: Message) -> None:
    monkeypatch.setattr(calls, "WAITING_BYTES", calls.CALL_BYTES + 1_000)
    sent: list[bytes] = []
    waiting = calls.Calls()
    waiting.connected(sent.append)
    with pytest.raises(Unavailable, match="too many calls wait"):
        waiting.call(lambda _: message)
    assert sent == []


def test_settling_waits_for_the_calls_under_way(cluster: Cluster) -> None:
    node = cluster.edges[0].node
    drive(node.settle())
    published = Deferred.fromCoroutine(node.publish(Draft("numbers", b"1")))
    settled = Deferred.fromCoroutine(node.settle())
    assert not settled.called
    cluster.settle()
    assert settled.called
    assert published.called


def refusals(cluster: Cluster, edge: Edge) -> tuple[dict[str, int], dict[str, int]]:
    """Those that the author has counted, and those that the follower has."""
    return cluster.node.metrics.refusals, edge.node.metrics.refusals


def test_refused_publication_is_counted_once_by_the_process_of_the_publisher(
    cluster: Cluster,
) -> None:
    (edge, *_) = cluster.edges
    cluster.node.stop_publishing()
    with pytest.raises(Unavailable):
        result(cluster, edge.node.publish(Draft("numbers", b"1")))
    assert refusals(cluster, edge) == ({}, {"stopping": 1})


def test_author_without_room_refuses_a_reader(cluster: Cluster) -> None:
    cluster.node.history.room.most_channels = 0
    with pytest.raises(LimitExceeded):
        join(cluster, cluster.edges[0])
    assert cluster.node.history.channels == {}
    assert refusals(cluster, cluster.edges[0]) == ({}, {"channels": 1})


def follower_of(cluster: Cluster, *channels: str) -> Watcher:
    """A reader that has come and gone at the first follower, in each channel."""
    watcher, hub = Watcher(), cluster.edges[0].node.hub
    for channel in channels:
        result(cluster, hub.subscribe(watcher, channel, None, 0))
        hub.unsubscribe(watcher, channel)
    cluster.settle()
    return watcher


def test_channels_of_gone_readers_make_room_for_others_at_once(cluster: Cluster) -> None:
    author, edge = cluster.node, cluster.edges[0]
    author.history.room.most_channels = 3
    watched, _ = join(cluster, edge)
    for channel in ("numbers", "a", "b"):
        publish(author, channel)
    follower_of(cluster, "a", "b")
    for channel in ("c", "d"):
        publish(author, channel)
    cluster.settle()
    assert set(author.history.channels) == {"numbers", "c", "d"}
    assert set(edge.node.history.channels) == {"numbers"}
    assert watched.offsets == [1]
    assert watched.gaps == []


def test_channel_whose_reader_is_about_to_join_makes_no_room_for_others(cluster: Cluster) -> None:
    author, edge = cluster.node, cluster.edges[0]
    author.history.room.most_channels = 2
    publish(author)
    watcher = Watcher()
    run(edge.node.hub.subscribe(watcher, "numbers", None, 0))
    assert edge.link is not None
    edge.link.bring_up()
    for channel in ("a", "b"):
        publish(author, channel)
    edge.link.bring_down()
    for channel in ("c", "d"):
        publish(author, channel)
    cluster.settle()
    assert set(author.history.channels) == {"numbers", "d"}
    publish(author)
    cluster.settle()
    assert (watcher.offsets, watcher.gaps) == ([2], [])
    edge.node.hub.unsubscribe(watcher, "numbers")
    cluster.settle()
    for channel in ("e", "f"):
        publish(author, channel)
    assert set(author.history.channels) == {"e", "f"}


def test_channel_of_a_reader_whose_process_dies_makes_room_for_others(cluster: Cluster) -> None:
    author, edge = cluster.node, cluster.edges[0]
    author.history.room.most_channels = 1
    publish(author)
    call = Deferred.fromCoroutine(edge.node.hub.subscribe(Watcher(), "numbers", None, 0))
    call.addErrback(lambda failure: failure.trap(Unavailable))
    assert edge.link is not None
    edge.link.bring_up()
    edge.cut()
    publish(author, "b")
    assert set(author.history.channels) == {"b"}
    assert author.history.room.expected == {}


def test_reader_that_comes_while_its_channel_makes_room_is_told(cluster: Cluster) -> None:
    author, edge = cluster.node, cluster.edges[0]
    author.history.room.most_channels = 1
    publish(author)
    follower_of(cluster, "numbers")
    watcher = Watcher()
    drive(edge.node.hub.subscribe(watcher, "numbers", None, 0))
    publish(author, "other")
    cluster.settle()
    assert watcher.gaps == ["numbers"]
    # It comes back, to another numbering.
    edge.node.hub.unsubscribe(watcher, "numbers")
    cluster.settle()
    _, joined = join(cluster, edge, Position("", 1))
    assert joined.reason == "epoch"


def test_stream_of_more_channels_than_the_author_keeps_is_refused(cluster: Cluster) -> None:
    cluster.node.history.room.most_channels = 2
    with pytest.raises(LimitExceeded, match="2 channels are watched"):
        result(cluster, cluster.edges[0].node.load(["a", "b", "c"]))
    assert cluster.node.history.channels == {}


def test_another_link_continues_the_watched_channels_last(cluster: Cluster) -> None:
    # The author forgets the first ones if it has no room for all.
    join(cluster, cluster.edges[0])
    follower_of(cluster, "a", "b")
    for channel in ("numbers", "a", "b"):
        publish(cluster.node, channel)
    follower_of(cluster, "a", "b")
    points = cluster.edges[0].uplink.follower.points()
    assert [point.channel for point in points] == ["a", "b", "numbers"]


def test_author_that_keeps_fewer_channels_now_has_those_that_are_watched(cluster: Cluster) -> None:
    edge = cluster.edges[0]
    watcher, _ = join(cluster, edge)
    for channel in ("numbers", "a", "b"):
        publish(cluster.node, channel)
    follower_of(cluster, "a", "b")
    edge.cut()
    cluster.node.history.room.most_channels = 1
    publish(cluster.node)
    edge.connect(cluster.author)
    cluster.settle()
    assert watcher.offsets == [1, 2]
    assert set(edge.node.history.channels) == set(cluster.node.history.channels) == {"numbers"}


def test_long_history_comes_in_parts(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_parts, "PART_BYTES", 300)
    for n in range(10):
        publish(cluster.node, data=n)
        publish(cluster.node, "other", data=n)
    edge = cluster.edges[0]
    start = Start(last=20)
    followed = result(cluster, edge.node.hub.follow(Watcher(), ["numbers", "other"], start))
    assert values(followed.publications) == [n for n in range(10) for _ in range(2)]


def test_parts_of_a_lost_link_are_dropped(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_parts, "PART_BYTES", 300)
    edge = cluster.edges[0]
    watcher, _ = join(cluster, edge)
    edge.cut()
    for n in range(10):
        publish(cluster.node, data=n)
    edge.connect(cluster.author)
    assert edge.link is not None
    edge.link.bring_up()
    edge.link.bring_down(len(edge.link.down.waiting) // 2)
    edge.connect(cluster.author)
    cluster.settle()
    assert watcher.offsets == list(range(1, 11))


def test_follower_without_room_refuses_a_reader_and_leaves_the_channel() -> None:
    time = Time()
    cluster = Cluster(make_broker(OPTIONS, time=time), OPTIONS, time, 1)
    edge = cluster.edges[0]
    edge.node.history.room.most_channels = 0
    with pytest.raises(LimitExceeded, match="0 channels are watched"):
        join(cluster, edge)
    assert refusals(cluster, edge) == ({}, {"channels": 1})
    cluster.settle()
    publish(cluster.node)
    assert edge.link is not None
    assert edge.link.down.waiting == b""


def test_stream_of_more_channels_than_a_follower_keeps_is_refused() -> None:
    time = Time()
    cluster = Cluster(make_broker(OPTIONS, time=time), OPTIONS, time, 0)
    edge = Edge(OPTIONS, time, Room(most_channels=2))
    edge.connect(cluster.author)
    cluster.edges.append(edge)
    result(cluster, edge.node.load(["a"]))
    with pytest.raises(LimitExceeded, match="2 channels are watched"):
        result(cluster, edge.node.hub.follow(Watcher(), ["a", "b", "c"], Start(last=0)))


def test_channel_that_makes_room_at_a_follower_is_left() -> None:
    time = Time()
    cluster = Cluster(make_broker(OPTIONS, time=time), OPTIONS, time, 0)
    edge = Edge(OPTIONS, time, Room(most_channels=1))
    edge.connect(cluster.author)
    cluster.edges.append(edge)
    cluster.settle()
    publish(cluster.node, "a")
    watcher = Watcher()
    result(cluster, edge.node.hub.subscribe(watcher, "a", None, 0))
    edge.node.hub.unsubscribe(watcher, "a")
    result(cluster, edge.node.hub.subscribe(watcher, "b", None, 0))
    cluster.settle()
    publish(cluster.node, "a")
    assert edge.link is not None
    assert edge.link.down.waiting == b""


def test_author_that_cannot_keep_a_channel_any_more_costs_only_its_readers(
    cluster: Cluster,
) -> None:
    edge = cluster.edges[0]
    watcher, _ = join(cluster, edge)
    cluster.restart(make_broker(OPTIONS, time=cluster.time))
    cluster.node.history.room.most_channels = 0
    edge.connect(cluster.author)
    cluster.settle()
    assert watcher.gaps == ["numbers"]
    assert edge.node.history.channels == {}


def test_channel_whose_last_watcher_leaves_during_another_load_is_loaded_again(
    cluster: Cluster,
) -> None:
    edge = cluster.edges[0]
    first, _ = join(cluster, edge)
    stream = Watcher("stream")
    following: Any = Deferred.fromCoroutine(
        edge.node.hub.follow(stream, ["numbers", "other"], Start(last=0))
    )
    edge.node.hub.unsubscribe(first, "numbers")
    publish(cluster.node)
    cluster.settle()
    assert following.result.cursor.seq == 1
    publish(cluster.node)
    cluster.settle()
    assert stream.offsets == [2]


def test_tap_of_a_node_comes_after_the_delivery_to_its_own_subscribers(cluster: Cluster) -> None:
    seen: list[int] = []
    watcher = Watcher()
    drive(cluster.node.hub.subscribe(watcher, "numbers", None, 0))
    cluster.node.tap(lambda *_: seen.append(len(watcher.frames)), lambda _: True)
    publish(cluster.node)
    assert seen == [1]


def test_publication_from_anywhere_skips_a_client_of_another_process(cluster: Cluster) -> None:
    edge = cluster.edges[0]
    other, _ = join(cluster, edge)
    skipped, _ = join(cluster, edge)
    edge.node.hub._find_client = {"s": skipped}.get
    for node in (cluster.node, edge.node):
        publishing = Deferred.fromCoroutine(node.publish(Draft("numbers", b"1", skip=("s",))))
        cluster.settle()
        assert publishing.called
    publish(cluster.node)
    cluster.settle()
    assert (other.offsets, skipped.offsets) == ([1, 2, 3], [3])


def test_publication_under_way_does_not_leave_a_channel_that_is_being_loaded(
    cluster: Cluster,
) -> None:
    edge = cluster.edges[0]
    watcher, _ = join(cluster, edge)
    edge.node.hub.unsubscribe(watcher, "numbers")
    publish(cluster.node)
    watcher, joined = join(cluster, edge)
    assert joined.offset == 1
    publish(cluster.node)
    cluster.settle()
    assert watcher.offsets == [2]


@pytest.mark.parametrize("method", ["publish", "clear"])
def test_error_in_the_author_costs_the_call_alone(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, trouble: Trouble, method: str
) -> None:
    async def fail(_: object) -> None:
        raise RuntimeError("secret")

    edge = cluster.edges[0]
    monkeypatch.setattr(cluster.node, "append" if method == "publish" else "clear", fail)
    call = edge.node.publish(Draft("a", b"1")) if method == "publish" else edge.node.clear("a")
    with pytest.raises(Unavailable, match="an error in the server, which the log has"):
        result(cluster, call)
    (text,) = trouble.take()
    assert text.endswith("of a worker failed: RuntimeError('secret')")
    watcher, _ = join(cluster, edge)
    assert watcher.gaps == []


def test_client_that_asks_for_a_history_gets_that_of_the_author(cluster: Cluster) -> None:
    publish(cluster.node, data=5)
    client = Client(cluster.edges[0].node)
    assert client.say({"id": 9, "history": {"channel": "numbers", "limit": 1}}) == []
    cluster.settle()
    (reply,) = client.transport.take()
    assert reply["history"]["publications"][0]["data"] == 5
