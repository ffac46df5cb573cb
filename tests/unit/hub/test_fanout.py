"""The rules of the fan-out, one by one, with real outlets over fake sockets.

`SLICE` is 3 here. Each send takes as long as the clock is told. test_fanout_model.py has all rules
together.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from typing import Any

import pytest

from pushserver.channels.position import Start
from pushserver.channels.publication import Draft, Publication
from pushserver.errors import Unavailable
from pushserver.hub import fanout
from pushserver.hub.audience import MAX_SKIPS, OVERHEAD, Audience
from pushserver.protocols.formats import STREAM_WEBSOCKET, Format
from tests.unit.fakes.members import READY, Make, Member, SlowTime
from tests.unit.fakes.sockets import PLENTY
from tests.unit.fakes.tools import (
    EPOCH,
    PLAIN,
    FakeOutlet,
    Shape,
    drive,
    make_node,
    row,
)
from tests.unit.fakes.tools import publish as publish_one
from tests.unit.fakes.web import frames

SLICE = 3
FAILED = "a subscriber failed; the others are not affected"

NUMBER_BYTES = OVERHEAD + len("numbersmessage1")
"""The bytes in a queue of a digit in this channel."""

BOTH = pytest.mark.parametrize("make", [READY, None], ids=["ready", "others"])


@pytest.fixture(autouse=True)
def _small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout, "SLICE", SLICE)


class Crowd:
    """A hub, its clock, and members of one channel."""

    def __init__(
        self,
        count: int = 0,
        channel: str = "numbers",
        formats: Sequence[Format] = (PLAIN,),
        make: Make = READY,
    ):
        self.reports: list[str] = []
        self.time = SlowTime()
        self.node = make_node(report=self.reports.append, time=self.time)
        self.hub = self.node.hub
        self.members: list[Member] = []
        self.add(count, channel, formats, make)

    def add(
        self,
        count: int = 1,
        channel: str = "numbers",
        formats: Sequence[Format] = (PLAIN,),
        make: Make = READY,
    ) -> list[Member]:
        """Add members."""
        added = [self.new(formats[n % len(formats)], make) for n in range(count)]
        for member in added:
            member.join(channel)
        self.members += added
        return added

    def new(self, format_: Format = PLAIN, make: Make = READY) -> Member:
        """A member of no channel yet."""
        return Member(self.hub, self.time, f"{len(self.members)}", format_, make)

    def publish(self, times: int = 1, channel: str = "numbers", data: object = 1) -> None:
        for _ in range(times):
            publish_one(self.node, channel, data)

    def skip(self, *numbers: int) -> None:
        """Publish to all but these members."""
        self.hub._find_client = lambda name: self.members[int(name)]
        drive(self.node.publish(Draft("numbers", b"1", skip=tuple(map(str, numbers)))))

    def turn(self, seconds: float = 0.0) -> None:
        self.time.now += seconds
        self.time.turn()

    def end(self) -> None:
        """Let all turns pass, with sends that take no time."""
        self.time.cost = 0.0
        self.time.pass_on()

    @property
    def offsets(self) -> list[list[int]]:
        return [member.offsets for member in self.members]

    @property
    def reached(self) -> int:
        """The number of members that were sent anything."""
        return sum(bool(member.frames) for member in self.members)


# -- a slice in each turn -------------------------------------------------------------------------


@BOTH
def test_publication_alone_is_sent_when_publish_returns(make: Make) -> None:
    crowd = Crowd(SLICE, make=make)
    for offset in range(1, 9):
        crowd.publish()
        assert [offsets[-1:] for offsets in crowd.offsets] == [[offset]] * SLICE
        crowd.turn()


@BOTH
def test_more_subscribers_than_a_slice_are_sent_to_in_several_turns(make: Make) -> None:
    formats = [PLAIN, Shape("other").format, Shape("third").format]
    crowd = Crowd(8, formats=formats, make=make)
    crowd.publish()
    for reached in (3, 6, 8, 8):
        assert crowd.reached == reached
        crowd.turn()
    assert crowd.offsets == [[1]] * 8
    assert crowd.time.calls == []


def test_pass_ends_before_the_next_one_starts() -> None:
    crowd = Crowd(4)
    crowd.add(4, make=None)
    crowd.publish(3)
    while crowd.time.calls:
        sent = [len(member.frames) for member in crowd.members]
        assert max(sent) - min(sent) <= 1
        crowd.turn()
    assert [len(member.frames) for member in crowd.members] == [2] * 8
    assert crowd.offsets == [[1, 2, 3]] * 8


def test_ready_subscribers_are_sent_to_before_the_others() -> None:
    crowd = Crowd(1, make=None)
    ready = crowd.add(2, formats=[Shape("other").format])
    seen: list[list[list[int]]] = []
    crowd.members[0].to_do.append(lambda: seen.append([member.offsets for member in ready]))
    crowd.publish()
    assert seen == [[[1], [1]]]


def in_the_middle(make: Make = READY) -> tuple[Crowd, Member, Member]:
    """A crowd in a pass, a member that it has reached, and one that it has not."""
    crowd = Crowd(8, make=make)
    crowd.publish(2)
    crowd.turn()
    reached = next(member for member in crowd.members if member.frames)
    waiting = next(member for member in crowd.members if not member.frames)
    return crowd, reached, waiting


@BOTH
def test_subscriber_that_leaves_in_a_pass_gets_nothing_more(make: Make) -> None:
    crowd, reached, waiting = in_the_middle(make)
    reached.leave()
    waiting.leave()
    crowd.end()
    assert sorted(crowd.offsets) == [[], [1], *[[1, 2]] * 6]
    assert (reached.offsets, waiting.offsets) == ([1], [])


@BOTH
def test_subscriber_that_comes_back_in_a_pass_gets_the_rest_from_the_history(make: Make) -> None:
    crowd, reached, waiting = in_the_middle(make)
    for member in (reached, waiting):
        member.leave()
        assert member.join(last=9) == [1, 2]
    crowd.publish()
    crowd.end()
    assert (reached.offsets, waiting.offsets) == ([1, 3], [3])
    assert crowd.hub.size("numbers") == 8


@BOTH
def test_subscriber_that_joins_in_a_pass_gets_all_of_it_from_the_history(make: Make) -> None:
    crowd, _, _ = in_the_middle(make)
    (late,) = crowd.add(make=make)
    other = crowd.new(Shape("other").format, make)
    assert other.join(last=9) == [1, 2]
    crowd.publish()
    assert crowd.new().join(last=9) == [1, 2, 3]
    crowd.end()
    assert (late.offsets, other.offsets) == ([3], [3])


def test_subscriber_that_is_blocked_in_a_pass_misses_nothing() -> None:
    crowd, reached, waiting = in_the_middle()
    reached.fill()
    waiting.fill()
    crowd.end()
    assert crowd.offsets == [[1, 2]] * 8


def test_subscriber_that_is_drained_in_a_pass_gets_nothing_twice() -> None:
    crowd = Crowd(8)
    for member in crowd.members:
        member.fill()
    crowd.publish(2)
    for member in crowd.members:
        member.peer.drain()
    crowd.turn()
    for member in crowd.members:
        member.fill()
        member.peer.drain()
    crowd.end()
    assert [member.received for member in crowd.members] == [[1, 2]] * 8


def test_subscriber_of_several_channels_is_blocked_in_all_of_them() -> None:
    crowd = Crowd()
    member = crowd.new()
    for channel in "abc":
        member.join(channel)
    member.socket.room = 5
    crowd.publish(1, "a")
    for channel, audience in member.audiences.items():
        assert not audience.groups[PLAIN].ready
        crowd.publish(1, channel)
        crowd.turn()
    member.peer.drain()
    for channel, audience in member.audiences.items():
        assert not audience.groups[PLAIN].others
        crowd.publish(1, channel)
        crowd.turn()
    assert member.received == [1, 2, 1, 1, 3, 2, 2]
    assert member.socket.taken == member.written


@pytest.mark.parametrize("room", [0, 1, 30])
def test_subscriber_whose_socket_is_full_keeps_the_rest_of_its_frame(room: int) -> None:
    crowd = Crowd(8)
    for member in crowd.members[::2]:
        member.socket.room = room
    crowd.publish(3)
    crowd.end()
    for member in crowd.members:
        member.peer.drain()
    assert [member.received for member in crowd.members] == [[1, 2, 3]] * 8
    assert crowd.hub.metrics.deliveries == 3 * 8
    assert crowd.reports == []


def test_error_of_one_socket_does_not_affect_the_others() -> None:
    crowd = Crowd(SLICE)
    crowd.members[0].socket.error = errno.EPIPE
    crowd.publish(3)
    crowd.end()
    assert crowd.offsets == [[1, 2, 3]] * SLICE
    assert [member.received for member in crowd.members[1:]] == [[1, 2, 3]] * (SLICE - 1)
    assert crowd.reports == []


def test_subscriber_that_raises_is_reported_and_the_others_get_theirs() -> None:
    crowd = Crowd(3)
    crowd.add(5, make=None)
    for member in crowd.members[4:6]:
        member.fails = 1
    broken = crowd.new()
    broken.outlet = FakeOutlet(direct=lambda frame: 0)
    broken.join()
    crowd.publish(2)
    crowd.end()
    assert crowd.reports == [FAILED] * 4
    assert crowd.offsets == [[1, 2]] * 8


def test_publication_from_within_send_waits_for_its_turn() -> None:
    crowd = Crowd(8, make=None)
    for member in crowd.members:
        member.to_do.append(crowd.publish)
    crowd.publish()
    assert crowd.reached == SLICE
    crowd.end()
    assert crowd.offsets == [list(range(1, 10))] * 8


# -- rests, and publications that go out together -------------------------------------------------

# Whole multiples of these are exact on the clock.
COST = 1 / 64


def resting(count: int = SLICE, **more: Any) -> Crowd:
    """A crowd after a pass that took time."""
    crowd = Crowd(count, **more)
    crowd.time.cost = COST
    crowd.publish()
    return crowd


def test_audience_rests_half_the_time_that_its_pass_took() -> None:
    crowd = resting()
    crowd.publish()
    crowd.turn(SLICE * COST / 2 - 1 / 1024)
    assert crowd.offsets == [[1]] * SLICE
    crowd.turn(1 / 1024)
    assert crowd.offsets == [[1, 2]] * SLICE
    crowd.publish()
    crowd.turn(SLICE * COST / 2)
    assert crowd.offsets == [[1, 2, 3]] * SLICE


def test_audience_that_has_rested_is_sent_to_at_once() -> None:
    crowd = resting()
    crowd.turn(SLICE * COST / 2)
    crowd.publish()
    assert crowd.offsets == [[1, 2]] * SLICE


def test_time_between_the_slices_of_a_pass_does_not_count() -> None:
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
def test_rest_after_a_step_of_the_clock_is_at_most_a_second(step: float) -> None:
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


def test_publications_in_a_rest_go_out_in_one_send_and_are_separate_frames() -> None:
    crowd = resting(formats=[STREAM_WEBSOCKET])
    crowd.publish(5)
    assert crowd.time.sends == SLICE
    crowd.turn(1.0)
    assert crowd.time.sends == 2 * SLICE
    for member in crowd.members:
        _, joined = member.frames
        assert [json.loads(frame.payload)["offset"] for frame in frames(joined)] == [2, 3, 4, 5, 6]
    assert crowd.hub.metrics.deliveries == 6 * SLICE


def test_publications_in_a_rest_are_encoded_once_for_all_subscribers_of_a_format() -> None:
    shape = Shape()
    crowd = resting(formats=[shape.format])
    crowd.publish(5)
    crowd.turn(1.0)
    assert shape.calls == 6
    assert len({id(member.frames[1]) for member in crowd.members}) == 1


def test_batch_fits_into_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout, "JOINED_BYTES", 3 * (NUMBER_BYTES + 9))
    crowd = resting()
    crowd.publish(7, data="x" * 8)
    crowd.publish(1, data="x" * 5000)
    crowd.publish(1)
    crowd.end()
    joined = [frame.count(b"\n") for frame in crowd.members[0].frames]
    assert joined == [1, 3, 3, 1, 1, 1]
    assert crowd.offsets == [list(range(1, 11))] * SLICE


def test_overhead_of_small_publications_counts_in_a_batch() -> None:
    crowd = resting(1)
    crowd.publish(5_000)
    crowd.end()
    assert max(map(len, crowd.members[0].frames)) < 2 * fanout.JOINED_BYTES
    assert crowd.members[0].offsets == list(range(1, 5_002))


def test_subscriber_that_joins_in_a_rest_skips_the_queue_and_gets_the_rest() -> None:
    crowd = resting()
    other = Shape("other").format
    late: list[Member] = []
    for number in range(5):
        member = crowd.new(other if number % 2 else PLAIN)
        assert member.join(last=9) == list(range(1, number + 2))
        late.append(member)
        crowd.publish()
    assert crowd.time.sends == SLICE
    crowd.turn(1.0)
    crowd.end()
    assert crowd.offsets == [[1, 2, 3, 4, 5, 6]] * SLICE
    assert [member.offsets for member in late] == [[*range(n, 7)] for n in range(2, 7)]
    assert crowd.hub.metrics.deliveries == 6 * SLICE + 5 + 4 + 3 + 2 + 1


def test_subscriber_that_joins_behind_several_passes_skips_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fanout, "JOINED_BYTES", 2 * NUMBER_BYTES)
    crowd = resting()
    crowd.publish(5)
    late = crowd.new()
    assert late.join(last=9) == [1, 2, 3, 4, 5, 6]
    crowd.publish(3)
    crowd.end()
    assert late.offsets == [7, 8, 9]
    assert crowd.offsets == [list(range(1, 10))] * SLICE


# -- several audiences ----------------------------------------------------------------------------


def test_turn_is_no_longer_for_many_channels_than_for_one() -> None:
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


def test_flood_in_one_channel_does_not_delay_another() -> None:
    crowd = Crowd()
    flooded = [crowd.add(30, f"flood{n}") for n in range(2)]
    (quiet,) = crowd.add(1, "quiet")
    for number in range(1, 30):
        for n in range(2):
            crowd.publish(1, f"flood{n}")
        crowd.publish(1, "quiet")
        for _ in range(3):
            crowd.turn()
        assert quiet.offsets == list(range(1, number + 1))
        sent = [sum(len(member.frames) for member in members) for members in flooded]
        assert abs(sent[0] - sent[1]) <= 2 * SLICE
    crowd.end()
    assert crowd.offsets == [list(range(1, 30))] * 61


@pytest.mark.parametrize(("most", "reached"), [(PLENTY, 3), (150, 6)])
def test_long_frame_counts_as_several_up_to_the_size_that_a_socket_takes(
    most: int, reached: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanout, "SLICE", 12)
    monkeypatch.setattr(fanout, "UNIT", 100)
    monkeypatch.setattr(fanout, "SOCKET_BYTES", most)
    crowd = Crowd(20)
    crowd.publish(data="x" * 250)
    assert 300 < len(next(member.frames[0] for member in crowd.members if member.frames)) < 400
    assert crowd.reached == reached
    crowd.turn()
    assert crowd.reached == 2 * reached
    crowd.end()
    assert crowd.offsets == [[1]] * 20


def test_turn_sends_at_least_one_frame_of_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout, "UNIT", 1)
    crowd = Crowd(4)
    crowd.publish()
    for reached in (1, 2, 3, 4):
        assert crowd.reached == reached
        crowd.turn()


# -- failures -------------------------------------------------------------------------------------


def failing_on(bad: bytes) -> Format:
    """A format that cannot encode this data."""

    def encode(rows: Sequence[Publication]) -> bytes:
        assert bad not in [publication.data for publication in rows]
        return PLAIN.publications(rows)

    return Format("bad", encode, 1003)


GAVE_UP = "a pass over an audience failed; it gets the next publications"


@BOTH
@pytest.mark.parametrize("part", ["start_pass", "_take", "_admit_joining", "parts"])
def test_audience_whose_pass_failed_gets_the_next_publications(
    monkeypatch: pytest.MonkeyPatch, make: Make, part: str
) -> None:
    crowd = resting(3, make=make)
    crowd.add(2, "others", make=make)
    crowd.publish()
    # Joins before the publication is sent.
    late = crowd.add(make=make)
    assert [member.frames for member in late] == [[]]

    def fail(*arguments: object) -> Any:
        monkeypatch.undo()
        monkeypatch.setattr(fanout, "SLICE", SLICE)
        raise MemoryError

    if part == "parts":
        monkeypatch.setattr(fanout.FanOut, "_send", fail)
    else:
        monkeypatch.setattr(Audience, part, fail)
    crowd.turn(fanout.LONGEST_REST)
    assert crowd.reports == [GAVE_UP]
    before = [len(offsets) for offsets in crowd.offsets]
    for _ in range(3):
        crowd.publish()
        crowd.publish(channel="others")
    crowd.end()
    assert crowd.reports == [GAVE_UP]
    numbers = [
        offsets[at:] for offsets, at in zip(crowd.offsets, before, strict=True) if offsets[-1] > 3
    ]
    assert [offsets[-3:] for offsets in numbers] == [[3, 4, 5]] * 4
    assert [member.offsets for member in crowd.members[3:5]] == [[1, 2, 3]] * 2


def test_each_pass_that_fails_gives_up_its_own_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = Crowd(2)

    def fail(*arguments: object) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Audience, "start_pass", fail)
        crowd.publish()
        crowd.publish()
        assert crowd.reports
        crowd.time.cost = 0.0
        for _ in range(5):
            crowd.turn(1.0)
        # A failure that stays costs a turn each time, and no endless loop.
        assert len(crowd.reports) < 100
    crowd.end()
    assert crowd.offsets == [[1, 2], [1, 2]]


def test_socket_that_raises_anything_drops_its_subscriber_alone() -> None:
    crowd = Crowd(3)

    def fail(data: bytes) -> None:
        raise ValueError("a negative file descriptor")

    crowd.members[1].socket.on_send = fail
    crowd.publish(times=2)
    crowd.end()
    assert [crowd.offsets[n] for n in (0, 2)] == [[1, 2]] * 2
    assert GAVE_UP not in crowd.reports


def test_batch_that_cannot_be_encoded_together_is_left_out_of_its_format() -> None:
    def encode(rows: Sequence[Publication]) -> bytes:
        assert len(rows) == 1, "one at a time"
        return PLAIN.publications(rows)

    crowd = resting(formats=[PLAIN, Format("single", encode, 1003), PLAIN])
    for data in (12, 13, 14):
        crowd.publish(data=data)
    crowd.end()
    crowd.publish(data=15)
    crowd.end()
    assert [offsets[-1] for offsets in crowd.offsets] == [5, 5, 5]
    assert crowd.offsets[0] == [1, 2, 3, 4, 5]


def test_publication_that_cannot_be_encoded_is_left_out_of_its_format() -> None:
    crowd = resting(formats=[PLAIN, failing_on(b"13"), PLAIN])
    for data in (12, 13, 14):
        crowd.publish(data=data)
    crowd.end()
    assert crowd.offsets == [[1, 2, 3, 4], [1, 2, 4], [1, 2, 3, 4]]
    assert crowd.reports == ["a publication could not be encoded; other formats are not affected"]


def test_pass_that_cannot_be_encoded_ends_at_once() -> None:
    crowd = resting(formats=[PLAIN, failing_on(b"13"), PLAIN])
    crowd.publish(2, data=13)
    crowd.turn(1.0)
    crowd.publish()
    crowd.end()
    assert crowd.offsets == [[1, 2, 3, 4], [1, 4], [1, 2, 3, 4]]
    assert len(crowd.reports) == 2


def test_gap_drops_the_queue() -> None:
    crowd, reached, _ = in_the_middle()
    sent = crowd.time.sends
    (joining,) = crowd.add()
    crowd.hub.deliver(row(9))
    assert [member.gaps for member in crowd.members] == [["numbers"]] * 9
    assert crowd.hub.channels() == {}
    crowd.end()
    assert crowd.time.sends == sent
    assert (reached.offsets, joining.offsets) == ([1], [])
    assert crowd.hub.metrics.gaps == 9


def test_gap_in_one_channel_ends_the_streams_that_follow_it_and_no_others() -> None:
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


def test_publication_at_the_notice_of_a_gap_reaches_no_subscriber_with_the_gap() -> None:
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
    assert crowd.reached == 0


def test_subscriber_that_raises_at_a_gap_is_reported_and_the_others_are_notified() -> None:
    crowd = Crowd(3)

    def fail(channel: str) -> None:
        raise ValueError("it fails")

    setattr(crowd.members[0], "insufficient", fail)  # noqa: B010
    crowd.hub.deliver(row(9))
    assert [member.gaps for member in crowd.members[1:]] == [["numbers"]] * 2
    assert crowd.reports == [FAILED]


@pytest.mark.parametrize("rests", [False, True])
def test_queue_of_an_audience_without_subscribers_is_dropped(rests: bool) -> None:
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


# -- bounds ---------------------------------------------------------------------------------------


def test_channel_with_a_full_queue_refuses_until_it_is_delivered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fanout, "QUEUE_BYTES", 5 * NUMBER_BYTES)
    crowd = resting()
    crowd.publish(6)
    top = crowd.hub.history.top("numbers")
    for refused in (1, 2):
        with pytest.raises(Unavailable, match="the backlog of numbers is full") as no:
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


def test_full_queue_of_a_stream_makes_each_of_its_channels_refuse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fanout, "QUEUE_BYTES", 2 * (NUMBER_BYTES - len("umbers")))
    crowd = Crowd()
    crowd.time.cost = COST
    follower = crowd.new()
    drive(crowd.hub.follow(follower, ["a", "b"], Start()))
    crowd.publish(4, "a")
    for channel in "ab":
        with pytest.raises(Unavailable, match=f"the backlog of {channel} is full"):
            crowd.publish(1, channel)
    crowd.publish(9, "c")
    crowd.turn(1.0)
    crowd.publish(1, "b")
    crowd.end()
    assert [publication["channel"] for publication in follower.publications] == [*"aaaab"]


def test_server_that_stops_sends_all_queues_without_a_rest() -> None:
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


# -- publications that skip subscribers -----------------------------------------------------------


@BOTH
def test_skipped_subscriber_gets_the_publications_before_and_after(make: Make) -> None:
    crowd = Crowd(3, make=make)
    crowd.skip(0)
    assert crowd.offsets == [[], [1], [1]]
    crowd.publish()
    crowd.skip(0, 2)
    crowd.publish()
    crowd.end()
    assert crowd.offsets == [[2, 4], [1, 2, 3, 4], [1, 2, 4]]


@BOTH
def test_subscribers_are_skipped_in_a_batch(make: Make) -> None:
    crowd = Crowd(SLICE + 1, make=make)
    crowd.time.cost = 1.0
    crowd.publish()
    for n in range(4):
        crowd.skip(n % 2)
    late = crowd.add(make=make)[0]
    crowd.skip(len(crowd.members) - 1)
    crowd.publish()
    crowd.end()
    assert crowd.offsets[:3] == [[1, 3, 5, 6, 7], [1, 2, 4, 6, 7], [1, 2, 3, 4, 5, 6, 7]]
    assert late.offsets == [7]


def test_pass_skips_a_bounded_number_of_subscribers() -> None:
    crowd = Crowd(2 * MAX_SKIPS)
    crowd.time.cost = 1.0
    crowd.publish()
    for n in range(2 * MAX_SKIPS):
        crowd.skip(n)
    [audience] = crowd.hub._audiences.values()
    most = 0
    while crowd.time.calls:
        crowd.turn(1.0)
        most = max(most, len(audience.parts))
    assert most == MAX_SKIPS + 1
    expected = list(range(1, 2 * MAX_SKIPS + 2))
    assert crowd.offsets == [
        [offset for offset in expected if offset != n + 2] for n in range(2 * MAX_SKIPS)
    ]


def test_skip_of_the_last_subscriber_leaves_nothing() -> None:
    crowd = Crowd(SLICE + 1)
    crowd.time.cost = 1.0
    crowd.publish(2)
    crowd.skip(0)
    [audience] = crowd.hub._audiences.values()
    for member in crowd.members:
        member.leave()
    assert audience.skips == []
    crowd.end()


def test_publication_that_skips_nobody_costs_no_part() -> None:
    crowd = Crowd(SLICE + 1)
    crowd.skip()
    [audience] = crowd.hub._audiences.values()
    assert len(audience.parts) == 1
    assert audience.skips == []
    crowd.end()
