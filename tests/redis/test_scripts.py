"""The rules of each script, on a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.forgotten import bucket
from pushserver.channels.publication import ClientInfo, Draft
from pushserver.hub.follower import Image, Point
from pushserver.redis import scripts
from pushserver.redis.agreement_scripts import Claim, agree, others_of
from pushserver.redis.rows import Appended, Cleared, Ordered
from pushserver.redis.script import EMPTY_MS
from pushserver.redis.scripts import Attached, Bounds, Numbered
from pushserver.redis.upkeep_scripts import Swept
from tests.redis.node import CLOCK, KEYS, Node, Timed
from tests.redis.server import Connection, RedisError, RedisServer

OPTIONS = ChannelOptions(history_size=3, history_ttl=0)
NOON = 1_795_000_000_000


@pytest.fixture
def node(shared_redis: RedisServer) -> Iterator[Timed]:
    """A node of an empty server, whose clock stands at NOON."""
    shared_redis.connection("FLUSHALL")
    node = Timed(shared_redis, options=OPTIONS)
    node.set_clock(NOON)
    node.attach("e1")
    yield node
    node.close()


@pytest.fixture
def redis(node: Node) -> Connection:
    return node.redis


def contents(redis: Connection) -> dict[bytes, Any]:
    """All keys with their values; those that expire without the time."""
    return {key: redis("DUMP", key) for key in redis("KEYS", "*")}


def change(redis: Connection, key: bytes, field: str, value: str | None) -> None:
    """Change a field of a hash, or remove it."""
    redis("HDEL", key, field)
    if value is not None:
        redis("HSET", key, field, value)


def refuses(redis: Connection, word: str, call: Callable[[], object]) -> None:
    """Check that this call fails with an error of this first word, and changes nothing."""
    before = contents(redis)
    with pytest.raises(RedisError, match=rf"^{word} "):
        call()
    assert contents(redis) == before


def offsets(image: Image) -> list[int]:
    return [row.offset for row in image.rows]


CALLS: dict[str, Callable[[Node], object]] = {
    "publish": Node.publish,
    "image": Node.image,
    "clear": Node.clear,
    "due": Node.due,
    "sweep": lambda node: node.sweep(["a"]),
    "touch": lambda node: node.touch("a"),
}
"""One call of each script that is fenced."""


class TestPublish:
    def test_publications_are_numbered_in_their_channels_and_over_all(self, node: Node) -> None:
        assert [node.publish(channel) for channel in "aba"] == [
            Numbered("new", 1, 1, 0, "e1", NOON),
            Numbered("new", 2, 1, 0, "e1", NOON),
            Numbered("new", 3, 2, 0, "e1", NOON),
        ]

    def test_log_and_history_have_the_draft(self, node: Node) -> None:
        info = ClientInfo("c", "\u00fc", b"{}", b"[1]")
        data = '{"a": "\u4e2d\x00"}'.encode() + bytes(range(256))
        name = "x:\u00fc\u4e2d\r\n\x00"
        node.send(Draft(name, data, "event", {"a": "\u00fc"}, info, skip=("me", "you")))
        (entry,) = node.log()
        assert isinstance(entry, Appended)
        row = entry.publication
        assert (row.channel, row.data, row.event) == (name, data, "event")
        assert (row.tags, row.info) == ({"a": "\u00fc"}, info)
        assert (row.epoch, row.seq, row.offset, row.time) == ("e1", 1, 1, NOON / 1000)
        assert (entry.node, entry.counter, entry.skip) == ("n1", 1, ("me", "you"))
        assert node.image(name).rows == [row]

    def test_large_numbers_are_whole(self, node: Node, redis: Connection) -> None:
        node.publish()
        large = 999_999_999_999_999
        redis("HSET", KEYS.meta, "seq", large)
        redis("HSET", KEYS.channel("a"), "top", large, "floor", large)
        redis("DEL", KEYS.rows("a"))
        numbers = node.publish()
        assert (numbers.seq, numbers.offset) == (large + 1, large + 1)
        assert redis("XRANGE", KEYS.log, f"{large + 1}-0", "+")[0][0] == b"1000000000000000-0"
        assert redis("XRANGE", KEYS.rows("a"), "-", "+")[0][0] == b"1000000000000000-0"
        assert redis("HGET", KEYS.meta, "seq") == b"1000000000000000"
        assert node.attach("e2") == Attached("e1", large + 1, 2)

    def test_a_draft_is_appended_once(self, node: Node, redis: Connection) -> None:
        node.publish()
        node.publish()
        before = contents(redis)
        for counter in (1, 2):
            assert node.send(Draft("b", b"1"), counter).kind == "again"
        assert contents(redis) == before
        assert node.send(Draft("b", b"1"), 3).kind == "new"

    def test_each_node_counts_for_itself(self, node: Node, shared_redis: RedisServer) -> None:
        other = Timed(shared_redis, "n2", OPTIONS)
        node.publish()
        assert other.attach("e2") == Attached("e1", 1, 0)
        assert other.publish().seq == 2
        assert other.attach("e2").counter == 1
        other.close()

    def test_a_key_has_the_receipt_of_its_first_draft(self, node: Node, redis: Connection) -> None:
        first = node.publish(key="k")
        before = contents(redis)
        assert node.publish(key="k", data=b"2") == replace(first, kind="key")
        assert contents(redis) == before
        assert node.publish("b", key="k").kind == "new"
        assert 0 < redis("PTTL", KEYS.key("a", "k")) <= 300_000

    def test_keys_of_channels_with_colons_are_not_mixed_up(self, node: Node) -> None:
        assert node.publish("a:b", key="c").kind == "new"
        assert node.publish("a", key="b:c").kind == "new"

    def test_a_publisher_has_so_many_keys(self, node: Timed, redis: Connection) -> None:
        node.bounds = Bounds(keys_per_publisher=2)
        for key in "kl":
            node.publish(key=key, publisher="p")
        refuses(redis, "KEYS", lambda: node.publish(key="m", publisher="p"))
        assert node.publish(key="k", publisher="p").kind == "key"
        assert node.publish(key="m", publisher="q").kind == "new"
        assert node.publish(key="n").kind == "new"
        assert 0 < redis("PTTL", KEYS.publisher("p")) <= 300_000
        node.set_clock(NOON + 300_000)
        assert node.publish(key="o", publisher="p").kind == "new"
        assert redis("ZCARD", KEYS.publisher("p")) == 1

    def test_there_are_so_many_channels(self, node: Node, redis: Connection) -> None:
        node.bounds = Bounds(channels=2)
        node.publish("a")
        node.publish("b")
        refuses(redis, "CHANNELS", lambda: node.publish("c"))
        assert node.publish("a").offset == 2

    def test_time_of_a_channel_never_decreases(self, node: Timed) -> None:
        assert node.publish("a").time == NOON
        node.set_clock(NOON - 5_000)
        assert node.publish("a").time == NOON
        assert node.publish("b").time == NOON - 5_000

    def test_log_has_about_its_length(self, node: Node, redis: Connection) -> None:
        node.bounds = Bounds(log_length=200)
        for _ in range(500):
            node.publish()
        assert 200 <= redis("XLEN", KEYS.log) < 350
        node.bounds = Bounds(log_length=100)
        for _ in range(300):
            node.clear()
        assert 100 <= redis("XLEN", KEYS.log) < 250

    def test_a_channel_without_history_has_no_stream(self, node: Node, redis: Connection) -> None:
        node.options = ChannelOptions(history_size=0)
        node.publish()
        node.publish()
        assert redis("EXISTS", KEYS.rows("a")) == 0
        assert node.image() == Image("a", "e1", 2, 2, [], [], 2)


class TestImage:
    def test_image_has_the_rows_after_the_point(self, node: Timed) -> None:
        for _ in range(5):
            node.publish("b")
            node.publish("a")
        node.set_clock(NOON + 1_500)
        whole = node.image()
        assert (offsets(whole), whole.floor, whole.floor_seq, whole.evicted) == ([3, 4, 5], 2, 4, 2)
        assert whole.ages == [1.5, 1.5, 1.5]
        # No row has the offset 2 any more.
        assert node.image(epoch="e1", offset=2) == whole
        assert node.image(epoch="e1", offset=6) == whole
        assert node.image(epoch="e2", offset=4) == whole
        rest = node.image(epoch="e1", offset=4)
        assert (offsets(rest), rest.floor, rest.floor_seq, rest.evicted) == ([5], 4, 8, 2)
        last = node.image(epoch="e1", offset=5)
        assert (offsets(last), last.floor, last.floor_seq, last.evicted) == ([], 5, 10, 2)

    def test_image_of_no_channel(self, node: Node) -> None:
        assert node.image() == Image("a", "e1", 0, 0, [], [], 0)

    def test_images_of_many_channels_are_of_one_moment(self, node: Node) -> None:
        names = [f"channel {n}" for n in range(200)]
        for name in names[::2]:
            node.publish(name)
        found = node.images([Point(name) for name in names])
        assert (found.epoch, found.seq, found.errors) == ("e1", 100, ())
        assert [image.channel for image in found.images] == names
        assert [len(image.rows) for image in found.images] == [1, 0] * 100

    def test_time_of_redis_may_be_set_back(self, node: Timed) -> None:
        node.publish()
        node.set_clock(NOON - 1)
        assert node.image().ages == [0.0]


class TestClear:
    def test_rows_are_dropped_and_the_numbers_continue(self, node: Node) -> None:
        node.publish()
        node.publish("b")
        node.publish()
        assert node.clear() == (2, 3, 1)
        assert node.image() == Image("a", "e1", 2, 3, [], [], 2)
        assert offsets(node.image("b")) == [1]
        assert node.publish().offset == 3

    def test_log_has_it_after_the_last_publication(self, node: Node, redis: Connection) -> None:
        node.publish()
        node.publish("b")
        assert [node.clear(), node.clear("b"), node.clear()] == [(1, 2, 1), (1, 2, 2), (0, 2, 3)]
        node.publish()
        assert node.clear() == (1, 3, 1)
        cleared = [entry for entry in node.log() if isinstance(entry, Cleared)]
        assert cleared == [
            Cleared("a", 2, 1),
            Cleared("b", 2, 2),
            Cleared("a", 2, 3),
            Cleared("a", 3, 1),
        ]

    def test_there_is_nothing_to_clear(self, node: Node, redis: Connection) -> None:
        node.publish()
        before = contents(redis)
        assert node.clear("b") == (0, 1, 0)
        assert contents(redis) == before


class TestSweep:
    @pytest.fixture
    def node(self, node: Timed) -> Timed:
        node.options = ChannelOptions(history_ttl=10.0)
        return node

    def test_old_rows_are_evicted(self, node: Timed) -> None:
        node.publish()
        node.set_clock(NOON + 4_000)
        node.publish()
        node.set_clock(NOON + 9_999)
        assert node.due() == []
        assert node.sweep(["a"]) == Swept(0, 0, ())
        node.set_clock(NOON + 10_000)
        assert node.due() == ["a"]
        assert node.sweep() == Swept(1, 0, ())
        assert offsets(node.image()) == [2]
        assert node.due() == []
        node.set_clock(NOON + 14_000)
        assert node.sweep() == Swept(1, 0, ())
        assert node.image() == Image("a", "e1", 2, 2, [], [], 2)

    def test_an_empty_channel_is_forgotten_later(self, node: Timed, redis: Connection) -> None:
        node.publish()
        node.set_clock(NOON + 10_000)
        node.sweep()
        node.set_clock(NOON + 10_000 + EMPTY_MS - 1)
        assert node.sweep(["a"]) == Swept(0, 0, ())
        node.set_clock(NOON + 10_000 + EMPTY_MS)
        assert node.sweep() == Swept(0, 1, ())
        assert set(contents(redis)) == {KEYS.meta, KEYS.log, KEYS.nodes, CLOCK.encode()}
        assert node.image() == Image("a", "e1-1", 0, 1, [], [], 0)
        assert node.publish() == Numbered("new", 2, 1, 1, "e1", NOON + 10_000 + EMPTY_MS)
        assert node.image().rows[0].epoch == "e1-1"

    @pytest.mark.parametrize("how", ["clear", "no history"])
    def test_so_is_one_without_rows(self, node: Timed, how: str) -> None:
        node.options = ChannelOptions(history_ttl=0, history_size=0 if how == "no history" else 9)
        node.publish()
        if how == "clear":
            node.clear()
        node.set_clock(NOON + EMPTY_MS)
        assert node.sweep() == Swept(0, 1, ())

    def test_touched_channels_without_rows_are_kept(self, node: Timed) -> None:
        node.publish("a")
        node.publish("b")
        node.clear("a")
        node.set_clock(NOON + EMPTY_MS - 1)
        assert node.touch("c", "a", "b") == [0, 1, 1]
        node.set_clock(NOON + EMPTY_MS)
        # Only that with rows was due.
        assert node.due() == ["b"]
        node.set_clock(NOON + 2 * EMPTY_MS - 1)
        assert "a" in node.due()

    def test_a_channel_without_a_limit_by_age_is_never_due(self, node: Timed) -> None:
        node.options = OPTIONS
        node.publish()
        node.set_clock(4 * NOON)
        assert node.due() == []

    def test_due_channels_come_in_the_order_of_their_times(self, node: Timed) -> None:
        for n, name in enumerate("cab"):
            node.set_clock(NOON + n)
            node.publish(name)
        node.set_clock(NOON + 60_000)
        assert [node.due(), node.due(2)] == [["c", "a", "b"], ["c", "a"]]

    def test_a_shorter_limit_is_for_the_next_publication(self, node: Timed) -> None:
        node.options = OPTIONS
        node.publish()
        node.options = ChannelOptions(history_ttl=10.0)
        node.publish()
        node.set_clock(NOON + 10_000)
        assert node.sweep() == Swept(2, 0, ())

    def test_long_histories_are_evicted_in_one_sweep(self, node: Timed) -> None:
        for _ in range(250):
            node.publish()
        node.set_clock(NOON + 10_000)
        assert node.sweep() == Swept(250, 0, ())


class TestAttach:
    def test_an_empty_data_set_gets_the_epoch(self, node: Node, redis: Connection) -> None:
        redis("FLUSHALL")
        assert node.attach("e2") == Attached("e2", 0, 0)
        assert node.attach("e3") == Attached("e2", 0, 0)
        assert node.alive() == (node.run, "e2", 0)

    def test_another_run_has_another_epoch(self, node: Node) -> None:
        node.publish()
        node.run = "run2"
        assert node.attach("e2") == Attached("e2", 1, 1)
        assert node.publish() == Numbered("new", 2, 2, 0, "e2", NOON)
        assert [row.epoch for row in node.image().rows] == ["e2", "e2"]

    def test_another_run_may_keep_the_epoch(self, node: Node) -> None:
        node.publish()
        node.run = "run2"
        assert node.attach("e2", keep=True) == Attached("e1", 1, 1)
        assert node.alive() == ("run2", "e1", 1)

    def test_another_layout_is_refused(self, node: Node, redis: Connection) -> None:
        redis("HSET", KEYS.meta, "layout", "2")
        node.run = "run2"
        refuses(redis, "LAYOUT", lambda: node.attach("e2"))

    def test_place_among_several_is_kept_and_another_one_is_refused(
        self, node: Node, redis: Connection
    ) -> None:
        node.publish()
        # What was one log has other channels now.
        assert node.attach("e2", shards="0/2") == Attached("e2", 1, 1)
        assert node.attach("e3", shards="0/2") == Attached("e2", 1, 1)
        for shards in ("1/2", "0/2 chat=1", ""):
            refuses(redis, "SHARDS", partial(node.attach, "e3", shards=shards))
        redis("HDEL", KEYS.place, "shards")
        assert node.attach("e3", shards="1/2") == Attached("e3", 1, 1)
        assert redis("HGET", KEYS.place, "shards") == b"1/2"

    def test_nodes_that_were_silent_for_a_day_are_dropped(
        self, node: Timed, redis: Connection
    ) -> None:
        for n in range(1_000):
            redis("HSET", KEYS.nodes, f"old{n}", f"7:{NOON}")
        redis("HSET", KEYS.nodes, "junk", "junk")
        node.set_clock(NOON + 1)
        node.publish()
        node.set_clock(NOON + 86_400_001)
        assert node.attach("e2").counter == 1
        assert redis("HKEYS", KEYS.nodes) == [b"n1"]

    def test_no_attach(self, node: Node, redis: Connection) -> None:
        redis("FLUSHALL")
        assert node.alive() == ("", "", 0)
        for call in CALLS.values():
            refuses(redis, "FENCED", partial(call, node))


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_connection_of_another_run_is_fenced(
    node: Node, redis: Connection, call: Callable[[Node], object]
) -> None:
    node.publish()
    node.run = "other"
    refuses(redis, "FENCED", partial(call, node))


def test_scripts_are_sent_again_after_they_were_flushed(node: Node, redis: Connection) -> None:
    node.publish()
    redis("SCRIPT", "FLUSH")
    with pytest.raises(RedisError, match=r"^NOSCRIPT "):
        redis(*scripts.alive(KEYS).evalsha)
    for call in CALLS.values():
        call(node)
    assert node.alive() == (node.run, "e1", 2)


class TestRefusedWrites:
    """Redis refuses all that a script would write, or nothing."""

    @pytest.fixture
    def node(self, node: Timed) -> Iterator[Timed]:
        node.options = ChannelOptions(history_ttl=10.0)
        for channel in "abc":
            node.publish(channel)
        yield node
        self.permit(node)

    def permit(self, node: Node) -> None:
        node.redis("CONFIG", "SET", "maxmemory", "0", "min-replicas-to-write", "0")

    def fill(self, node: Node) -> None:
        """No memory is left."""
        node.redis("CONFIG", "SET", "maxmemory", "1")

    def test_nothing_is_published_without_memory(self, node: Node, redis: Connection) -> None:
        self.fill(node)
        refuses(redis, "OOM", node.publish)
        refuses(redis, "OOM", partial(node.publish, "new", key="k", publisher="p"))

    def test_memory_can_be_freed(self, node: Timed, redis: Connection) -> None:
        self.fill(node)
        node.run = "run2"
        assert node.attach("e2", shards="0/2") == Attached("e2", 3, 3)
        claims = [Claim(0, "e2", "")]
        assert others_of(node.call(agree(KEYS, node.run, claims, 10_000))) == []
        assert node.clear("c") == (1, 3, 1)
        self.permit(node)
        node.set_clock(NOON + 10_000)
        self.fill(node)
        assert node.sweep() == Swept(2, 0, ())
        self.permit(node)
        node.set_clock(NOON + 10_000 + EMPTY_MS)
        self.fill(node)
        assert node.sweep() == Swept(0, 3, ())

    def test_nothing_is_written_without_the_replicas(self, node: Timed, redis: Connection) -> None:
        node.set_clock(NOON + 10_000)
        redis("CONFIG", "SET", "min-replicas-to-write", "1")
        for call in (node.publish, node.clear, node.sweep):
            refuses(redis, "NOREPLICAS", call)
        node.run = "run2"
        refuses(redis, "NOREPLICAS", partial(node.attach, "e2"))


class TestForeignPrograms:
    """Another program has written under our keys."""

    @pytest.mark.parametrize("name", ["m", "log", "x", "w", "c:a", "s:a", "k:a\nk", "kp:p"])
    def test_a_key_of_another_type_is_an_error(
        self, node: Node, redis: Connection, name: str
    ) -> None:
        node.publish(key="first", publisher="p")
        key = "{ps0}:" + name
        redis("DEL", key)
        redis("LPUSH", key, "theirs")
        # The channels of those that are there are in `due` already.
        channel = "new" if name == "x" else "a"
        refuses(redis, "WRONGTYPE", lambda: node.publish(channel, key="k", publisher="p"))
        if name in ("m", "log", "x", "c:a", "s:a"):
            refuses(redis, "WRONGTYPE", node.clear)
        if name in ("m", "log", "w"):
            refuses(redis, "WRONGTYPE", lambda: node.attach("e2"))
        if name in ("m", "x"):
            refuses(redis, "WRONGTYPE", node.due)
            refuses(redis, "WRONGTYPE", lambda: node.touch("a"))

    @pytest.mark.parametrize("name", ["c:a", "s:a"])
    def test_a_channel_that_is_none_harms_no_other(
        self, node: Timed, redis: Connection, name: str
    ) -> None:
        node.options = ChannelOptions(history_ttl=10.0)
        for channel in "abc":
            node.publish(channel)
        redis("DEL", "{ps0}:" + name)
        redis("LPUSH", "{ps0}:" + name, "theirs")
        found = node.images([Point(channel) for channel in "bac"])
        assert [image.channel for image in found.images] == ["b", "c"]
        assert [error.split()[0] for error in found.errors] == ["WRONGTYPE"]
        node.set_clock(NOON + 10_000)
        swept = node.sweep()
        assert (swept.evicted, len(swept.errors)) == (2, 1)
        assert node.due() == []

    @pytest.mark.parametrize("field", ["top", "floor", "fq", "g", "b", "t"])
    @pytest.mark.parametrize("value", ["junk", "9007199254740993", "-1", "1.5", None])
    def test_a_field_that_is_no_number_is_named(
        self, node: Node, redis: Connection, field: str, value: str | None
    ) -> None:
        node.publish()
        change(redis, KEYS.channel("a"), field, value)
        if (field, value) == ("top", None):
            # Then there is no channel.
            return
        before = contents(redis)
        found = f"no {field}" if value is None else f'{field} = "{value}"'
        with pytest.raises(RedisError, match=rf"{{ps0}}:c:a has {found}, expected a whole number"):
            node.publish()
        assert contents(redis) == before

    @pytest.mark.parametrize("value", ["junk", "9007199254740993", "-1", "1.5", None])
    def test_a_damaged_seq_begins_another_epoch_that_goes_on(
        self, node: Node, redis: Connection, value: str | None
    ) -> None:
        node.publish()
        change(redis, KEYS.meta, "seq", value)
        for name in ("publish", "image", "clear", "sweep"):
            refuses(redis, "FENCED", partial(CALLS[name], node))
        assert node.alive() == ("", "e1", 0)
        assert node.attach("e2") == Attached("e2", 1, 1)
        assert node.publish() == Numbered("new", 2, 2, 0, "e2", NOON)
        assert node.attach("e3") == Attached("e2", 2, 3)

    def test_a_channel_with_a_damaged_field_is_healed_by_a_new_epoch_without_it(
        self, node: Node, redis: Connection
    ) -> None:
        for channel in "aab":
            node.publish(channel)
        redis("HSET", KEYS.channel("a"), "top", "junk")
        redis("DEL", KEYS.channel("a"), KEYS.rows("a"))
        redis("HDEL", KEYS.meta, "run")
        refuses(redis, "FENCED", node.publish)
        node.attach("e2")
        assert node.publish() == Numbered("new", 4, 1, 0, "e2", NOON)
        assert (offsets(node.image("a")), offsets(node.image("b"))) == ([1], [1])

    def test_a_history_with_other_rows_is_dropped(self, node: Node, redis: Connection) -> None:
        spoils: list[tuple[str | bytes | int, ...]] = [
            ("XADD", KEYS.rows("a"), "*", "theirs", "1"),
            ("XADD", KEYS.rows("a"), "9-1", "q", "1", "t", "1", "n", "1", "d", "1"),
            ("XDEL", KEYS.rows("a"), "2-0"),
            ("XDEL", KEYS.rows("a"), "3-0"),
            ("DEL", KEYS.rows("a")),
        ]
        for spoil in spoils:
            redis("FLUSHALL")
            node.set_clock(NOON)  # type: ignore[attr-defined]
            node.attach("e1")
            for channel in "aaab":
                node.publish(channel)
            redis(*spoil)
            # Readers are told that they miss something: nothing up to the seq is retained.
            assert node.image() == Image("a", "e1", 3, 4, [], [], 3)
            assert node.publish().offset == 4
            image = node.image()
            assert (offsets(image), image.floor, image.floor_seq) == ([4], 3, 4)
            assert node.publish().offset == 5

    def test_a_history_that_takes_no_rows_is_dropped(self, node: Node, redis: Connection) -> None:
        node.publish()
        redis("XDEL", KEYS.rows("a"), redis("XADD", KEYS.rows("a"), "9-1", "theirs", "1"))
        assert offsets(node.image()) == [1]
        assert node.publish().offset == 2
        image = node.image()
        assert (offsets(image), image.floor, image.floor_seq) == ([2], 1, 1)

    @pytest.mark.parametrize("fields", [(), ("theirs", "1")])
    def test_the_sweep_drops_a_history_with_other_rows(
        self, node: Timed, redis: Connection, fields: tuple[str, ...]
    ) -> None:
        node.options = ChannelOptions(history_ttl=10.0)
        for channel in "aab":
            node.publish(channel)
        redis("DEL", KEYS.rows("a"))
        for offset in range(1, len(fields) + 1):
            redis("XADD", KEYS.rows("a"), f"{offset}-0", *fields)
        node.set_clock(NOON + 10_000)
        assert node.sweep() == Swept(3, 0, ())
        assert node.image() == Image("a", "e1", 2, 3, [], [], 2)
        node.set_clock(NOON + 10_000 + EMPTY_MS)
        assert node.sweep() == Swept(0, 2, ())
        assert node.image() == Image("a", "e1-3", 0, 3, [], [], 0)

    def test_rows_of_another_form_are_dropped(self, node: Node, redis: Connection) -> None:
        node.publish()
        redis("DEL", KEYS.rows("a"))
        redis("XADD", KEYS.rows("a"), "1-0", "theirs", "1")
        assert node.image() == Image("a", "e1", 1, 1, [], [], 1)
        for _ in range(3):
            node.publish()
        # Its eviction found the first one.
        assert offsets(node.image()) == [4]

    def test_the_numbering_goes_on_above_a_foreign_entry(
        self, node: Node, redis: Connection
    ) -> None:
        node.publish()
        redis("XADD", KEYS.log, "70-3", "theirs", "1")
        refuses(redis, "FENCED", node.publish)
        assert node.attach("e2") == Attached("e2", 70, 1)
        assert node.publish() == Numbered("new", 71, 2, 0, "e2", NOON)
        assert node.attach("e3") == Attached("e2", 71, 3)

    def test_so_it_does_after_one_that_was_deleted(self, node: Node, redis: Connection) -> None:
        redis("XDEL", KEYS.log, redis("XADD", KEYS.log, "70-3", "theirs", "1"))
        refuses(redis, "FENCED", node.publish)
        assert node.attach("e2", keep=True) == Attached("e2", 70, 0)
        assert node.publish().seq == 71

    def test_a_log_without_further_numbers_is_deleted(self, node: Node, redis: Connection) -> None:
        node.publish()
        redis("XADD", KEYS.log, f"{2**64 - 1}-1", "theirs", "1")
        refuses(redis, "FENCED", node.publish)
        assert node.attach("e2") == Attached("e2", 1, 1)
        assert node.publish().seq == 2

    def test_names_without_channels_are_swept(self, node: Node, redis: Connection) -> None:
        redis("ZADD", KEYS.due, "1", "theirs")
        assert node.sweep() == Swept(0, 0, ())
        assert node.due() == []

    def test_a_lost_numbering_begins_again(self, node: Node, redis: Connection) -> None:
        node.publish()
        redis("DEL", KEYS.meta)
        refuses(redis, "FENCED", node.publish)
        assert node.attach("e2") == Attached("e2", 1, 1)
        assert node.publish().seq == 2


def test_names_of_the_same_bucket_share_its_generation(node: Timed) -> None:
    names: dict[int, str] = {}
    for n in range(100_000):
        other = names.setdefault(bucket(f"a{n}"), f"a{n}")
        if other != f"a{n}":
            break
    node.options = ChannelOptions(history_size=0)
    node.publish(f"a{n}")
    node.set_clock(NOON + EMPTY_MS)
    assert node.sweep() == Swept(0, 1, ())
    assert node.publish(other).generation == 1


def test_orders_are_entries_between_publications(node: Node) -> None:
    def order(text: bytes) -> None:
        assert node.call(scripts.order(KEYS, node.run, "n9", text, node.bounds)) == 1

    order(b"0")
    node.publish()
    order(b"1")
    node.clear()
    order(b"2")
    node.publish()
    places = [name for name, _ in node.redis("XRANGE", KEYS.log, "-", "+")]
    assert places == [b"0-1", b"1-0", b"1-1", b"1-2", b"1-3", b"2-0"]
    entries = node.log()
    assert [entry.order for entry in entries if isinstance(entry, Ordered)] == [b"0", b"1", b"2"]


class TestAgree:
    """Nodes say which epoch each shard has."""

    def others(self, node: Node, *claims: tuple[int, str, str]) -> list[int]:
        own = [Claim(*claim) for claim in claims]
        return others_of(node.call(agree(KEYS, node.run, own, 10_000)))

    def test_another_epoch_is_told_unless_it_followed(self, node: Timed) -> None:
        assert self.others(node, (0, "e1", ""), (1, "x", "")) == []
        assert self.others(node, (0, "e1", ""), (1, "y", "w;")) == [1]
        assert self.others(node, (1, "y", "w;x;")) == []
        assert self.others(node, (1, "x", "w;"), (0, "z", "")) == [1, 0]

    def test_what_nobody_says_any_more_is_over(self, node: Timed) -> None:
        assert self.others(node, (1, "x", "")) == []
        node.set_clock(NOON + 9_999)
        assert self.others(node, (1, "y", "")) == [1]
        node.set_clock(NOON + 10_000)
        assert self.others(node, (1, "y", "")) == []
        assert self.others(node, (1, "x", "")) == [1]

    def test_node_of_another_run_says_nothing(self, node: Timed, redis: Connection) -> None:
        refuses(redis, "FENCED", lambda: node.call(agree(KEYS, "run9", [Claim(0, "e", "")], 1)))
