"""Passes: a slice a turn, joined while an audience rests, each in its turn, and nothing twice.

`SLICE` is 3 here. Each send costs what the clock is told that it costs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.channels.history import in_order
from pushserver.channels.position import Cursor, Position, Start
from pushserver.channels.publication import Draft, Publication
from pushserver.errors import Unavailable
from pushserver.hub import fanout
from pushserver.hub.audience import OVERHEAD, Direct
from pushserver.hub.hub import Hub
from pushserver.protocols.formats import STREAM_WEBSOCKET, Format
from tests.unit.fakes.tools import (
    EPOCH,
    PLAIN,
    Shape,
    Time,
    Watcher,
    drive,
    make_node,
    programs,
    row,
)
from tests.unit.fakes.tools import publish as publish_one
from tests.unit.fakes.web import frames

SLICE = 3
PLENTY = 1 << 40


@pytest.fixture(autouse=True)
def _small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout, "SLICE", SLICE)


class Costly(Time):
    """A clock on which each send takes `cost` seconds; `sends` counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.cost = 0.0
        self.sends = 0

    def spend(self) -> None:
        self.sends += 1
        self.now += self.cost


class Member(Watcher):
    """A subscriber with a socket that takes `room` bytes, or a plain one, which is never ready.

    From within its next calls of `send` it does what is `to_do`.
    """

    def __init__(
        self,
        hub: Hub,
        time: Costly,
        name: str = "",
        shape: Format = PLAIN,
        plain: bool = False,
    ):
        super().__init__(name, shape)
        self.hub = hub
        self.time = time
        self.room = PLENTY
        self.waiting = b""
        self.to_do: list[Callable[[], None]] = []
        self.fails = 0
        self._way = None if plain else self.take
        self.direct: Direct | None = self._way
        self.blocked_at: float | None = None
        self.outlet = self

    def take(self, frame: bytes) -> int:
        self.time.spend()
        assert self.direct is not None, "past what waits"
        taken = min(len(frame), self.room)
        if not taken:
            raise BlockingIOError
        self.room -= taken
        self.frames.append(frame[:taken])
        return taken

    def send_rest(self, frame: bytes, taken: int) -> None:
        self.waiting += frame[taken:]
        self.block()
        self._fail()

    def send(self, frame: bytes) -> None:
        self.time.spend()
        if self.waiting:
            self.waiting += frame
        else:
            self.frames.append(frame)
        if self.to_do:
            self.to_do.pop(0)()
        self._fail()

    def _fail(self) -> None:
        if self.fails:
            self.fails -= 1
            raise ValueError("it fails")

    def block(self) -> None:
        direct, self.direct = self.direct, None
        if direct is not None:
            for audience in self.audiences.values():
                audience.block(self, direct)

    def drain(self) -> None:
        self.frames.append(self.waiting)
        self.waiting, self.room = b"", PLENTY
        if self.direct is None:
            self.direct = self._way
            for audience in self.audiences.values():
                audience.unblock(self)

    def join(self, channel: str = "numbers", last: int = 0) -> list[int]:
        """The offsets that the history has for it."""
        joined = drive(self.hub.subscribe(self, channel, None, last))
        return [publication.offset for publication in joined.publications]

    def leave(self, name: str = "numbers") -> None:
        assert self.hub.unsubscribe(self, name)


class Crowd:
    """A hub, its clock, and so many members of one channel."""

    def __init__(
        self,
        count: int = 0,
        channel: str = "numbers",
        shapes: Sequence[Format] = (PLAIN,),
        plain: bool = False,
        report: Callable[[str], None] | None = None,
    ):
        self.reports: list[str] = []
        self.time = Costly()
        self.node = make_node(report=self.reports.append, time=self.time)
        self.hub = self.node.hub
        self.members: list[Member] = []
        self.add(count, channel, shapes, plain)

    def add(
        self,
        count: int = 1,
        channel: str = "numbers",
        shapes: Sequence[Format] = (PLAIN,),
        plain: bool = False,
    ) -> list[Member]:
        """So many more."""
        added = [self.new(shapes[n % len(shapes)], plain) for n in range(count)]
        for member in added:
            member.join(channel)
        self.members += added
        return added

    def new(self, shape: Format = PLAIN, plain: bool = False) -> Member:
        """One that is nowhere yet."""
        return Member(self.hub, self.time, f"{len(self.members)}", shape, plain)

    def publish(self, times: int = 1, channel: str = "numbers", data: object = 1) -> None:
        for _ in range(times):
            publish_one(self.node, channel, data)

    def turn(self, seconds: float = 0.0) -> None:
        self.time.now += seconds
        self.time.turn()

    def end(self) -> None:
        """Nothing costs anything any more, and all turns come."""
        self.time.cost = 0.0
        self.time.pass_on()

    @property
    def offsets(self) -> list[list[int]]:
        return [member.offsets for member in self.members]

    @property
    def sent(self) -> int:
        """To how many anything was sent."""
        return sum(bool(member.frames) for member in self.members)


BOTH = pytest.mark.parametrize("plain", [False, True], ids=["ready", "others"])


# -- a slice a turn -------------------------------------------------------------------------------


@BOTH
def test_what_is_published_alone_is_sent_when_publish_returns(plain: bool) -> None:
    crowd = Crowd(SLICE, plain=plain)
    for offset in range(1, 9):
        crowd.publish()
        assert [offsets[-1:] for offsets in crowd.offsets] == [[offset]] * SLICE
        crowd.turn()


@BOTH
def test_to_more_than_a_slice_it_is_sent_in_several_turns(plain: bool) -> None:
    crowd = Crowd(8, plain=plain)
    crowd.publish()
    for sent in (3, 6, 8, 8):
        assert crowd.sent == sent
        crowd.turn()
    assert crowd.offsets == [[1]] * 8
    assert crowd.time.calls == []


def test_a_slice_is_of_all_formats_together() -> None:
    crowd = Crowd(8, shapes=[PLAIN, Shape("other").format, Shape("third").format])
    crowd.publish()
    for sent in (3, 6, 8):
        assert crowd.sent == sent
        crowd.turn()
    assert crowd.offsets == [[1]] * 8


def test_a_pass_is_finished_before_the_next_one_begins() -> None:
    crowd = Crowd(4)
    crowd.add(4, plain=True)
    crowd.publish(3)
    while crowd.time.calls:
        came = [len(member.frames) for member in crowd.members]
        assert max(came) - min(came) <= 1
        crowd.turn()
    assert [len(member.frames) for member in crowd.members] == [2] * 8
    assert crowd.offsets == [[1, 2, 3]] * 8


def test_all_who_are_ready_come_before_those_whose_send_may_run_anybodys_code() -> None:
    crowd = Crowd(1, plain=True)
    ready = crowd.add(2, shapes=[Shape("other").format])
    crowd.members[0].to_do.append(lambda: seen.append([member.offsets for member in ready]))
    seen: list[list[list[int]]] = []
    crowd.publish()
    assert seen == [[[1], [1]]]


def in_the_middle(plain: bool = False) -> tuple[Crowd, Member, Member]:
    """Two publications, the first half sent: a crowd, one that has it, and one that has not."""
    crowd = Crowd(8, plain=plain)
    crowd.publish(2)
    crowd.turn()
    has = next(member for member in crowd.members if member.frames)
    waits = next(member for member in crowd.members if not member.frames)
    return crowd, has, waits


@BOTH
def test_who_leaves_in_the_middle_of_a_pass_gets_nothing_more(plain: bool) -> None:
    crowd, has, waits = in_the_middle(plain)
    has.leave()
    waits.leave()
    crowd.end()
    assert sorted(crowd.offsets) == [[], [1], *[[1, 2]] * 6]
    assert (has.offsets, waits.offsets) == ([1], [])


@BOTH
def test_who_leaves_and_comes_back_in_the_middle_has_the_rest_from_the_history(
    plain: bool,
) -> None:
    crowd, has, waits = in_the_middle(plain)
    for member in (has, waits):
        member.leave()
        assert member.join(last=9) == [1, 2]
    crowd.publish()
    crowd.end()
    assert (has.offsets, waits.offsets) == ([1, 3], [3])
    assert crowd.hub.size("numbers") == 8


@BOTH
def test_who_joins_in_the_middle_has_all_from_the_history(plain: bool) -> None:
    crowd, _, _ = in_the_middle(plain)
    (late,) = crowd.add(plain=plain)
    other = crowd.new(Shape("other").format, plain)
    assert other.join(last=9) == [1, 2]
    crowd.publish()
    assert crowd.new(shape=PLAIN).join(last=9) == [1, 2, 3]
    crowd.end()
    assert (late.offsets, other.offsets) == ([3], [3])


def test_who_joined_while_something_was_queued_and_left_is_not_sent_to() -> None:
    crowd, _, _ = in_the_middle()
    (late,) = crowd.add()
    crowd.publish()
    late.leave()
    assert crowd.hub.size("numbers") == 8
    crowd.end()
    assert late.frames == []


def test_who_is_blocked_in_the_middle_is_sent_to_in_the_ordinary_way_and_misses_nothing() -> None:
    crowd, has, waits = in_the_middle()
    has.block()
    waits.block()
    crowd.end()
    assert crowd.offsets == [[1, 2]] * 8


def test_who_is_drained_in_the_middle_gets_nothing_twice() -> None:
    crowd = Crowd(8)
    for member in crowd.members:
        member.block()
    crowd.publish(2)
    for member in crowd.members:
        member.drain()
    crowd.turn()
    for member in crowd.members:
        member.block()
        member.drain()
    crowd.end()
    assert crowd.offsets == [[1, 2]] * 8


@pytest.mark.parametrize("room", [0, 1, 30])
def test_who_falls_behind_in_the_middle_keeps_the_rest_of_its_frame(room: int) -> None:
    crowd = Crowd(8)
    for member in crowd.members[::2]:
        member.room = room
    crowd.publish(3)
    crowd.end()
    for member in crowd.members:
        member.drain()
    assert crowd.offsets == [[1, 2, 3]] * 8
    assert crowd.reports == []


@BOTH
def test_one_that_raises_is_reported_and_costs_nobody_anything(plain: bool) -> None:
    crowd = Crowd(8, plain=plain)
    for member in crowd.members[2:4]:
        member.room, member.fails = 0, 1
    crowd.publish(2)
    crowd.end()
    for member in crowd.members:
        member.drain()
    assert crowd.reports == ["a subscriber failed; the others go on"] * 2
    assert crowd.offsets == [[1, 2]] * 8


def test_what_is_published_from_within_send_waits_for_its_turn() -> None:
    crowd = Crowd(8, plain=True)
    for member in crowd.members:
        member.to_do.append(crowd.publish)
    crowd.publish()
    assert crowd.sent == SLICE
    crowd.end()
    assert crowd.offsets == [list(range(1, 10))] * 8


# -- joined ---------------------------------------------------------------------------------------

# Whole multiples of these are exact on the clock.
COST = 1 / 64


def resting(count: int = SLICE, **more: Any) -> Crowd:
    """A crowd that was sent one publication, at a cost."""
    crowd = Crowd(count, **more)
    crowd.time.cost = COST
    crowd.publish()
    return crowd


def test_after_a_pass_there_is_rest_for_half_the_time_that_it_took() -> None:
    crowd = resting()
    crowd.publish()
    crowd.turn(SLICE * COST / 2 - 1 / 1024)
    assert crowd.offsets == [[1]] * SLICE
    crowd.turn(1 / 1024)
    assert crowd.offsets == [[1, 2]] * SLICE
    crowd.publish()
    crowd.turn(SLICE * COST / 2)
    assert crowd.offsets == [[1, 2, 3]] * SLICE


def test_who_has_rested_is_sent_to_at_once() -> None:
    crowd = resting()
    crowd.turn(SLICE * COST / 2)
    crowd.publish()
    assert crowd.offsets == [[1, 2]] * SLICE


def test_the_time_between_the_slices_of_a_pass_is_nobodys() -> None:
    crowd = resting(2 * SLICE)
    crowd.turn(10.0)
    assert crowd.offsets == [[1]] * 2 * SLICE
    crowd.publish()
    crowd.turn(SLICE * COST - 1 / 1024)
    assert crowd.offsets == [[1]] * 2 * SLICE
    crowd.turn(1 / 1024)
    crowd.turn()
    assert crowd.offsets == [[1, 2]] * 2 * SLICE


@pytest.mark.parametrize("step", [3600.0, -3600.0])
def test_a_clock_that_is_set_makes_no_rest_longer_than_a_second(step: float) -> None:
    crowd = resting(1)
    if step > 0:
        crowd.turn(1.0)
        crowd.time.cost = step
        crowd.publish()
    else:
        crowd.time.now += step
    crowd.publish()
    crowd.turn(fanout.LONGEST_REST)
    assert crowd.members[0].offsets[-1] == crowd.hub.history.top("numbers")


def test_what_is_published_meanwhile_goes_out_as_one_send_each_a_frame_of_its_own() -> None:
    crowd = resting(shapes=[STREAM_WEBSOCKET])
    crowd.publish(5)
    assert crowd.time.sends == SLICE
    crowd.turn(1.0)
    assert crowd.time.sends == 2 * SLICE
    for member in crowd.members:
        _, joined = member.frames
        assert [json.loads(frame.payload)["offset"] for frame in frames(joined)] == [2, 3, 4, 5, 6]
    assert crowd.hub.metrics.deliveries == 6 * SLICE


def test_what_is_joined_is_encoded_once_and_the_same_bytes_for_all_of_a_format() -> None:
    shape = Shape()
    crowd = resting(shapes=[shape.format])
    crowd.publish(5)
    crowd.turn(1.0)
    assert shape.calls == 6
    assert len({id(member.frames[1]) for member in crowd.members}) == 1


def test_no_more_is_joined_than_a_socket_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout, "JOINED_BYTES", 3 * (OVERHEAD + 10))
    crowd = resting()
    crowd.publish(7, data="x" * 8)
    crowd.publish(1, data="x" * 5000)
    crowd.publish(1)
    crowd.end()
    joined = [frame.count(b"\n") for frame in crowd.members[0].frames]
    assert joined == [1, 3, 3, 1, 1, 1]
    assert crowd.offsets == [list(range(1, 11))] * SLICE


def test_however_little_data_there_is_what_is_joined_is_no_more_than_a_socket_takes() -> None:
    crowd = resting(1)
    crowd.publish(5_000)
    crowd.end()
    assert max(map(len, crowd.members[0].frames)) < 2 * fanout.JOINED_BYTES
    assert crowd.members[0].offsets == list(range(1, 5_002))


def test_who_joins_while_an_audience_rests_is_spared_what_is_queued_and_gets_the_rest() -> None:
    crowd = resting()
    late: list[Member] = []
    for number in range(4):
        member = crowd.new(Shape("other").format if number % 2 else PLAIN)
        assert member.join(last=9) == list(range(1, number + 2))
        late.append(member)
        crowd.publish()
    assert crowd.time.sends == SLICE
    crowd.turn(1.0)
    crowd.end()
    assert crowd.offsets == [[1, 2, 3, 4, 5]] * SLICE
    assert [member.offsets for member in late] == [[2, 3, 4, 5], [3, 4, 5], [4, 5], [5]]
    assert crowd.hub.metrics.deliveries == 5 * SLICE + 4 + 3 + 2 + 1


def test_who_joins_behind_more_than_one_pass_is_spared_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fanout, "JOINED_BYTES", 2 * (OVERHEAD + 1))
    crowd = resting()
    crowd.publish(5)
    late = crowd.new()
    assert late.join(last=9) == [1, 2, 3, 4, 5, 6]
    crowd.publish(3)
    crowd.end()
    assert late.offsets == [7, 8, 9]
    assert crowd.offsets == [list(range(1, 10))] * SLICE


# -- everybody's turn -----------------------------------------------------------------------------


def test_a_turn_is_no_longer_for_many_channels_than_for_one() -> None:
    crowd = Crowd()
    for channel in range(20):
        crowd.add(2, f"{channel}")
    for channel in range(20):
        crowd.publish(1, f"{channel}")
    turns = 0
    while crowd.time.calls:
        assert crowd.time.sends < 2 * SLICE
        crowd.time.sends = 0
        crowd.turn()
        turns += 1
    assert crowd.offsets == [[1]] * 40
    assert turns <= 40 // SLICE + 1


def test_nobodys_flood_keeps_the_others_waiting() -> None:
    crowd = Crowd()
    flooded = [crowd.add(30, f"flood{n}") for n in range(2)]
    (one,) = crowd.add(1, "quiet")
    for number in range(1, 30):
        for n in range(2):
            crowd.publish(1, f"flood{n}")
        crowd.publish(1, "quiet")
        for _ in range(3):
            crowd.turn()
        assert one.offsets == list(range(1, number + 1))
        came = [sum(len(member.frames) for member in members) for members in flooded]
        assert abs(came[0] - came[1]) <= 2 * SLICE
    crowd.end()
    assert crowd.offsets == [list(range(1, 30))] * 61


@pytest.mark.parametrize(("most", "sent"), [(PLENTY, 3), (150, 6)])
def test_a_long_frame_counts_for_as_many_as_its_sending_takes(
    most: int, sent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanout, "SLICE", 12)
    monkeypatch.setattr(fanout, "UNIT", 100)
    monkeypatch.setattr(fanout, "SOCKET_BYTES", most)
    crowd = Crowd(20)
    crowd.publish(data="x" * 250)
    assert 300 < len(next(member.frames[0] for member in crowd.members if member.frames)) < 400
    assert crowd.sent == sent
    crowd.turn()
    assert crowd.sent == 2 * sent
    crowd.end()
    assert crowd.offsets == [[1]] * 20


def test_one_frame_is_sent_a_turn_however_long_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout, "UNIT", 1)
    crowd = Crowd(4)
    crowd.publish()
    for sent in (1, 2, 3, 4):
        assert crowd.sent == sent
        crowd.turn()


# -- when something is wrong ----------------------------------------------------------------------


def failing_on(bad: bytes, name: str = "bad") -> Format:
    """A format that cannot encode this data."""

    def encode(rows: Sequence[Publication]) -> bytes:
        assert bad not in [publication.data for publication in rows]
        return PLAIN.publications(rows)

    return Format(name, encode, 1003)


def test_one_that_cannot_be_encoded_is_missing_and_the_others_of_its_pass_are_not() -> None:
    crowd = resting(shapes=[PLAIN, failing_on(b"13"), PLAIN])
    for data in (12, 13, 14):
        crowd.publish(data=data)
    crowd.end()
    assert crowd.offsets == [[1, 2, 3, 4], [1, 2, 4], [1, 2, 3, 4]]
    assert crowd.reports == ["a publication could not be encoded; the other formats go on"]


def test_a_pass_of_which_nothing_can_be_encoded_is_over_at_once() -> None:
    crowd = resting(shapes=[PLAIN, failing_on(b"13"), PLAIN])
    crowd.publish(2, data=13)
    crowd.turn(1.0)
    crowd.publish()
    crowd.end()
    assert crowd.offsets == [[1, 2, 3, 4], [1, 4], [1, 2, 3, 4]]
    assert len(crowd.reports) == 2


def test_who_is_told_of_a_gap_gets_nothing_of_what_was_queued_before_it() -> None:
    crowd, has, _ = in_the_middle()
    sent = crowd.time.sends
    (newcomer,) = crowd.add()
    crowd.hub.deliver(row(9))
    assert [member.gaps for member in crowd.members] == [["numbers"]] * 9
    assert crowd.hub.channels() == {}
    crowd.end()
    assert crowd.time.sends == sent
    assert (has.offsets, newcomer.offsets) == ([1], [])
    assert crowd.hub.metrics.gaps == 9


def test_a_gap_in_one_channel_ends_the_streams_that_follow_it_and_no_others() -> None:
    crowd = Crowd(1, "a")
    (other,) = crowd.add(1, "b")
    follower = crowd.new()
    drive(crowd.hub.follow(follower, ["b", "a"], Start()))
    crowd.publish(1, "a")
    crowd.hub.deliver(Publication("a", EPOCH, 9, 9, 0.0, "message", b"1"))
    crowd.publish(1, "b")
    assert [crowd.members[0].gaps, other.gaps, follower.gaps] == [["a"], [], ["a"]]
    assert (other.offsets, follower.offsets) == ([1], [1])
    assert crowd.hub.channels() == {"b": 1}


def test_who_publishes_when_told_of_a_gap_is_heard_by_nobody_who_is_still_to_be_told() -> None:
    crowd = Crowd(3)
    log = crowd.hub.history.channel("numbers")
    log.top = log.floor = 5

    def publish(channel: str) -> None:
        assert all(member.frames == [] for member in crowd.members)
        publish_one(crowd.node)

    for member in crowd.members:
        setattr(member, "insufficient", publish)  # noqa: B010
    crowd.hub.deliver(row(5))
    assert log.top == 8
    assert crowd.sent == 0


def test_who_raises_when_told_of_a_gap_is_reported_and_the_others_are_told() -> None:
    crowd = Crowd(3)

    def fail(channel: str) -> None:
        raise ValueError("it fails")

    setattr(crowd.members[0], "insufficient", fail)  # noqa: B010
    crowd.hub.deliver(row(9))
    assert [member.gaps for member in crowd.members[1:]] == [["numbers"]] * 2
    assert crowd.reports == ["a subscriber failed; the others go on"]


@pytest.mark.parametrize("rests", [False, True])
def test_what_is_queued_for_an_audience_that_is_gone_goes_to_nobody(rests: bool) -> None:
    crowd = resting() if rests else Crowd(2 * SLICE)
    crowd.publish(3)
    sent = crowd.time.sends
    audience = crowd.hub._audiences["numbers"]
    for member in crowd.members:
        member.leave()
    assert audience.queue == []
    # An audience of the same name is another one, and does not rest.
    crowd.members = []
    crowd.add(SLICE)
    assert crowd.new().join(last=9) == list(range(1, 4 + rests))
    crowd.publish()
    crowd.end()
    assert crowd.offsets == [[4 + rests]] * SLICE
    assert crowd.time.sends == sent + SLICE + 1


# -- bounded --------------------------------------------------------------------------------------


def test_a_channel_with_too_much_to_deliver_takes_nothing_more_until_it_is_delivered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fanout, "QUEUE_BYTES", 5 * (OVERHEAD + 1))
    crowd = resting()
    crowd.publish(6)
    top = crowd.hub.history.top("numbers")
    for refused in (1, 2):
        with pytest.raises(Unavailable, match="numbers has more to deliver than can be sent") as no:
            crowd.publish()
        assert no.value.cause == "overloaded"
        assert crowd.hub.metrics.refusals == {"overloaded": refused}
    assert crowd.hub.history.top("numbers") == top
    crowd.publish(1, "other")
    crowd.turn(1.0)
    crowd.publish()
    crowd.end()
    assert crowd.offsets == [list(range(1, 9))] * SLICE
    assert crowd.hub.metrics.refusals == {"overloaded": 2}


def test_a_stream_of_several_channels_with_too_much_to_deliver_holds_up_each_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fanout, "QUEUE_BYTES", 2 * (OVERHEAD + 1))
    crowd = Crowd()
    crowd.time.cost = COST
    follower = crowd.new()
    drive(crowd.hub.follow(follower, ["a", "b"], Start()))
    crowd.publish(4, "a")
    for channel in "ab":
        with pytest.raises(Unavailable, match=f"{channel} has more to deliver"):
            crowd.publish(1, channel)
    crowd.publish(9, "c")
    crowd.turn(1.0)
    crowd.publish(1, "b")
    crowd.end()
    assert [publication["channel"] for publication in follower.publications] == [*"aaaab"]


def test_at_the_end_all_that_was_taken_is_sent_without_a_rest() -> None:
    crowd = resting(8)
    crowd.add(4, "other")
    late = crowd.new()
    crowd.publish(2)
    assert late.join(last=9) == [1, 2, 3]
    crowd.publish(2)
    crowd.publish(3, "other")
    crowd.node.stop_publishing()
    assert crowd.offsets == [[1, 2, 3, 4, 5]] * 8 + [[1, 2, 3]] * 4
    assert late.offsets == [4, 5]
    sent = crowd.time.sends
    crowd.end()
    assert crowd.time.sends == sent


# -- whatever happens -----------------------------------------------------------------------------


class Stint:
    """What a guest has of some channels, by seq: all after `begin`, from the history and live."""

    def __init__(self, channels: str, begin: int):
        self.channels = channels
        self.begin = begin
        self.got: list[int] = []
        self.live = True

    @property
    def last(self) -> int:
        return self.got[-1] if self.got else self.begin


class Guest(Member):
    """One that comes and goes; of its channels, one by one, or of all of them together."""

    def __init__(self, world: World, number: int, follows: str = ""):
        shape = world.shapes[number % 2]
        super().__init__(world.hub, world.time, str(number), shape, plain=number in (1, 6))
        self.world = world
        self.follows = follows
        self.stints: dict[str, Stint] = {}
        self.read = 0

    def send(self, frame: bytes) -> None:
        try:
            super().send(frame)
        except ValueError:
            self.world.undelivered += frame.count(b"\n")
            raise

    def settle(self) -> None:
        """What came live goes to its stint; nothing comes for one that has ended."""
        text = b"".join(self.frames) + self.waiting
        news, self.read = text[self.read :], len(text)
        for line in news.splitlines():
            value = json.loads(line)
            stint = self.stints[self.follows or value["channel"]]
            assert stint.live, "it left"
            assert value["channel"] in stint.channels
            stint.got.append(int(value["id"].partition(":")[2]))
            self.world.delivered += 1

    def come(self, channel: str, last: int | None) -> None:
        """Begin with the last so many; with None go on from where it left."""
        name = self.follows or channel
        if name in self.stints and self.stints[name].live:
            return
        self.settle()
        before = None if last is not None else self.stints.get(name)
        if self.follows:
            stint, rows = self._follow(before, last)
        else:
            stint, rows = self._subscribe(channel, before, last)
        assert before is None or stint.begin == before.last
        stint.got = [publication.seq for publication in rows]
        self.stints[name] = stint
        assert stint.got == self.world.due(stint), "not all that was published"

    def _follow(
        self, before: Stint | None, last: int | None
    ) -> tuple[Stint, Sequence[Publication]]:
        since = None if before is None else Cursor(EPOCH, before.last)
        start = Start(since, last, oldest=last == 3)
        following = drive(self.hub.follow(self, [*self.follows], start))
        assert following.recovered == (since is not None)
        stint = Stint(self.follows, following.cursor.seq)
        for channel in self.follows:
            assert following.offsets[channel] == self.world.offset(channel, stint.begin)
        return stint, following.publications

    def _subscribe(
        self, channel: str, before: Stint | None, last: int | None
    ) -> tuple[Stint, Sequence[Publication]]:
        position = None
        if before is not None:
            position = Position(EPOCH, self.world.offset(channel, before.last))
        joined = drive(self.hub.subscribe(self, channel, position, last or 0))
        assert joined.reason == ""
        rows = joined.publications
        assert joined.offset == self.world.offset(channel, PLENTY)
        assert before is not None or len(rows) == min(last or 0, joined.offset)
        begin = before.last if before else rows[0].seq - 1 if rows else self.hub.history.seq
        return Stint(channel, begin), rows

    def go(self, channel: str) -> None:
        name = self.follows or channel
        if name in self.stints and self.stints[name].live:
            self.settle()
            self.stints[name].live = False
            self.leave(" ".join(self.follows) or channel)


class World:
    """A hub, its guests, and the log, which keeps everything."""

    def __init__(self) -> None:
        self.time = Costly()
        self.delivered = 0
        self.undelivered = 0
        self.node = make_node(report=self.report, time=self.time)
        self.hub = self.node.hub
        self.shapes = [Shape("one").format, Shape("two").format]
        sessions = [Guest(self, number) for number in range(4)]
        # Two share an audience with each other, and one with those who subscribe to `c`.
        followers = [Guest(self, n, names) for n, names in enumerate(("ab", "ab", "abc", "c"), 4)]
        self.guests = sessions + followers

    def report(self, what: str) -> None:
        assert what == "a subscriber failed; the others go on"

    def rows(self, channels: Iterable[str]) -> list[Publication]:
        return in_order(self.hub.history.peek(channel).after(0) for channel in channels)

    def due(self, stint: Stint) -> list[int]:
        return [r.seq for r in self.rows(stint.channels) if r.seq > stint.begin]

    def offset(self, channel: str, seq: int) -> int:
        """Where a reader of the channel stands that has all up to this seq."""
        return sum(r.seq <= seq for r in self.rows(channel))

    def publish(self, channel: str, times: int, size: int) -> None:
        for _ in range(times):
            with suppress(Unavailable):
                drive(self.node.publish(Draft(channel, b'"%b"' % (b"x" * size))))

    def turn(self, seconds: float) -> None:
        self.time.sends = 0
        self.time.now += seconds
        self.time.turn()

    def flush(self) -> None:
        self.hub._fan_out.flush()
        self.time.sends = 0

    def step(self, op: tuple[Any, ...]) -> None:
        what, *values = op
        if what in ("publish", "turn", "flush"):
            getattr(self, what)(*values)
        elif what == "cost":
            self.time.cost = values[0]
        else:
            self.guest(self.guests[values[0]], what, values[1:])

    def guest(self, guest: Guest, what: str, values: list[Any]) -> None:
        match what:
            case "room":
                guest.room = values[0]
            case "do":
                guest.to_do.append(partial(self.step, values[0]))
            case "fail":
                guest.fails = 1
            case _:
                getattr(guest, what)(*values)

    def check(self) -> None:
        assert self.time.sends < 2 * SLICE
        for guest in self.guests:
            guest.settle()
            for stint in guest.stints.values():
                due = self.due(stint)
                assert stint.got == due[: len(stint.got)], "twice, missing or out of order"

    def end(self) -> None:
        self.time.cost = 0.0
        self.time.pass_on()
        self.time.sends = 0
        self.check()
        for guest in self.guests:
            for stint in guest.stints.values():
                assert not stint.live or stint.got == self.due(stint), "not all of it"
        assert self.hub.metrics.refusals.keys() <= {"overloaded"}
        assert self.hub.metrics.deliveries == self.delivered - self.undelivered
        for audience in self.hub._audiences.values():
            rest = audience.queue, audience.parts, audience.joining, audience.queued_bytes
            assert rest == ([], [], {}, 0)
        fan_out = self.hub._fan_out
        assert ([*fan_out._line], fan_out._resting) == ([], {})
        assert fan_out._schedules.keys() <= set(self.hub._audiences.values())
        assert not any(schedule.planned for schedule in fan_out._schedules.values())


WHO = st.integers(0, 7)
CHANNELS = st.sampled_from("abc")
STEPS = (
    st.tuples(st.just("publish"), CHANNELS, st.integers(1, 4), st.integers(0, 90))
    | st.tuples(st.just("publish"), CHANNELS, st.integers(1, 2), st.just(0))
    | st.tuples(st.just("come"), WHO, CHANNELS, st.none() | st.integers(0, 3))
    | st.tuples(st.just("come"), WHO, CHANNELS, st.none())
    | st.tuples(st.just("go"), WHO, CHANNELS)
    | st.tuples(st.sampled_from(["block", "drain", "fail"]), WHO)
    | st.tuples(st.just("room"), WHO, st.integers(0, 200))
)
TURNS = (
    st.tuples(st.just("turn"), st.sampled_from([0.0, 0.0, 0.01, 0.1]))
    | st.tuples(st.just("cost"), st.sampled_from([0.0, 0.01]))
    | st.just(("flush",))
)
MEANWHILE = st.tuples(st.just("do"), WHO, STEPS)


@given(programs(STEPS | STEPS | TURNS | MEANWHILE, most=100))
def test_everybody_gets_everything_once_and_in_order_whatever_happens_meanwhile(
    steps: list[tuple[Any, ...]],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fanout, "JOINED_BYTES", 500)
        patch.setattr(fanout, "QUEUE_BYTES", 3_000)
        world = World()
        # So that most of what is published reaches several.
        for number in (0, 1, 4, 6):
            world.step(("come", number, "a", 0))
        for step in steps:
            world.step(step)
            world.check()
        world.end()
