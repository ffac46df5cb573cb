"""The fan-out as a whole: a model of a hub and its guests, which join, leave and read at random.

Each subscriber must get each publication once and in order, from the history or live. The rules
one by one are in test_fanout.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.channels.history import in_order
from pushserver.channels.position import Cursor, Position, Start
from pushserver.channels.publication import Draft, Publication
from pushserver.errors import Unavailable
from pushserver.hub import audience, fanout
from pushserver.transports.outlet import PlainOutlet
from tests.unit.fakes.members import READY, Make, Member, SlowTime
from tests.unit.fakes.sockets import PLENTY
from tests.unit.fakes.tools import EPOCH, Shape, drive, make_node, programs

SLICE = 3
FAILED = "a subscriber failed; the others are not affected"


class Stint:
    """The publications that a guest got of some channels, by seq: all after `start`.

    Those in `without` have skipped it.
    """

    def __init__(self, channels: str, start: int):
        self.channels = channels
        self.start = start
        self.got: list[int] = []
        self.without: set[int] = set()
        self.live = True

    @property
    def last(self) -> int:
        return self.got[-1] if self.got else self.start


class Guest(Member):
    """A member that comes and goes; in one channel after the other, or in those that it follows."""

    def __init__(
        self, world: World, number: int, make: Make = READY, follows: str = "", queue: int = PLENTY
    ):
        format_ = world.formats[number % 2]
        super().__init__(world.hub, world.time, str(number), format_, make, queue)
        self.world = world
        self.follows = follows
        self.stints: dict[str, Stint] = {}
        self.settled = 0
        self.peer.on_slow = self.drop

    def send(self, frame: bytes) -> None:
        sent = len(self.frames)
        try:
            super().send(frame)
        except ValueError:
            self.world.uncounted += frame.count(b"\n")
            raise
        finally:
            if len(self.frames) == sent:
                self.world.dropped += frame.count(b"\n")

    def settle(self) -> None:
        """Add the new frames to the stint, which must not have ended."""
        new, self.settled = self.frames[self.settled :], len(self.frames)
        for line in b"".join(new).splitlines():
            value = json.loads(line)
            stint = self.stints[self.follows or value["channel"]]
            assert stint.live, "it left"
            assert value["channel"] in stint.channels
            stint.got.append(int(value["id"].partition(":")[2]))
            self.world.delivered += 1

    def come(self, channel: str, last: int | None) -> None:
        """Join with the `last` publications, or with None where it left."""
        name = self.follows or channel
        if self.peer.slowness or (name in self.stints and self.stints[name].live):
            return
        self.settle()
        before = None if last is not None else self.stints.get(name)
        if self.follows:
            stint, rows = self._follow(before, last)
        else:
            stint, rows = self._subscribe(channel, before, last)
        assert before is None or stint.start == before.last
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
        stint = Stint(self.follows, following.cursor.parts[0].seq)
        for channel in self.follows:
            offset = self.world.offset(channel, stint.start)
            assert following.positions[channel] == Position(EPOCH, offset)
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
        start = before.last if before else rows[0].seq - 1 if rows else self.hub.history.seq
        return Stint(channel, start), rows

    def go(self, channel: str) -> None:
        name = self.follows or channel
        if name in self.stints and self.stints[name].live:
            self.settle()
            self.stints[name].live = False
            self.leave(" ".join(self.follows) or channel)

    def drop(self) -> None:
        """Leave all channels, like the conversation of a slow peer."""
        for channel in tuple(self.stints):
            self.go(channel)


class World:
    """A hub, its guests, and a history that keeps everything."""

    def __init__(self, queue: int = PLENTY) -> None:
        self.time = SlowTime()
        self.delivered = 0
        self.uncounted = 0
        self.dropped = 0
        self.node = make_node(report=self.report, time=self.time)
        self.hub = self.node.hub
        self.hub._find_client = lambda name: self.guests[int(name)]
        self.formats = [Shape("one").format, Shape("two").format]
        self.guests = [
            Guest(self, 0),
            Guest(self, 1, None),
            Guest(self, 2, queue=queue),
            Guest(self, 3, PlainOutlet, queue=queue),
            # Two that share an audience, and one that is in another with subscribers of `c`.
            Guest(self, 4, follows="ab", queue=queue),
            Guest(self, 5, follows="ab"),
            Guest(self, 6, None, follows="abc"),
            Guest(self, 7, follows="c"),
        ]

    def report(self, text: str) -> None:
        assert text == FAILED

    def rows(self, channels: Iterable[str]) -> list[Publication]:
        return in_order(self.hub.history.peek(channel).after(0) for channel in channels)

    def due(self, stint: Stint) -> list[int]:
        rows = (r.seq for r in self.rows(stint.channels))
        return [seq for seq in rows if seq > stint.start and seq not in stint.without]

    def offset(self, channel: str, seq: int) -> int:
        """The position in the channel of a reader that has all up to this seq."""
        return sum(r.seq <= seq for r in self.rows(channel))

    def publish(self, channel: str, times: int, size: int, *skip: int) -> None:
        names = tuple(map(str, skip))
        for _ in range(times):
            seq = self.hub.history.seq + 1
            stints = [
                stint
                for number in skip
                for stint in self.guests[number].stints.values()
                if stint.live and channel in stint.channels
            ]
            for stint in stints:
                stint.without.add(seq)
            try:
                drive(self.node.publish(Draft(channel, b'"%b"' % (b"x" * size), skip=names)))
            except Unavailable:
                for stint in stints:
                    stint.without.discard(seq)

    def turn(self, seconds: float) -> None:
        self.time.sends = 0
        self.time.now += seconds
        self.time.turn()

    def flush(self) -> None:
        self.hub.flush()
        self.time.sends = 0

    def step(self, op: tuple[Any, ...]) -> None:
        kind, *values = op
        if kind in ("publish", "turn", "flush"):
            getattr(self, kind)(*values)
        elif kind == "cost":
            self.time.cost = values[0]
        else:
            self.guest(self.guests[values[0]], kind, values[1:])

    def guest(self, guest: Guest, kind: str, values: list[Any]) -> None:
        match kind:
            case "room" | "bite":
                setattr(guest.socket, kind, values[0])
            case "read":
                guest.peer.turn()
            case "drain":
                guest.peer.drain()
            case "do":
                guest.to_do.append(partial(self.step, values[0]))
            case "fail":
                guest.fails = 1
            case _:
                getattr(guest, kind)(*values)

    def check(self) -> None:
        assert self.time.sends <= 2 * SLICE
        for guest in self.guests:
            guest.settle()
            for stint in guest.stints.values():
                due = self.due(stint)
                assert stint.got == due[: len(stint.got)], "twice, missing or out of order"
            assert guest.written.startswith(guest.socket.taken), "cut, repeated or out of order"
        line = [*self.hub._fan_out._line, *self.hub._fan_out._resting]
        assert len(set(line)) == len(line), "an audience has two turns"
        for one in self.hub._audiences.values():
            for group in one.groups.values():
                assert all(m.outlet and m.outlet.direct == d for d, m in group.ready.items())
                assert not any(m.outlet and m.outlet.direct for m in group.others)

    def end(self) -> None:
        self.time.cost = 0.0
        self.time.pass_on()
        self.time.sends = 0
        for guest in self.guests:
            guest.peer.drain()
            assert (
                guest.outlet is None or guest.peer.slowness or guest.socket.taken == guest.written
            )
        self.check()
        for guest in self.guests:
            for stint in guest.stints.values():
                assert not stint.live or stint.got == self.due(stint), "not all of it"
        assert self.hub.metrics.refusals.keys() <= {"overloaded"}
        counted = self.hub.metrics.deliveries
        assert counted == self.delivered - self.uncounted + self.dropped
        for one in self.hub._audiences.values():
            rest = one.queue, one.parts, one.joining, one.queued_bytes, one.skips
            assert rest == ([], [], {}, 0, [])
        fan_out = self.hub._fan_out
        assert ([*fan_out._line], fan_out._resting) == ([], {})
        assert fan_out._schedules.keys() <= set(self.hub._audiences.values())
        assert not any(schedule.planned for schedule in fan_out._schedules.values())


WHO = st.integers(0, 7)
CHANNELS = st.sampled_from("abc")
STEPS = (
    st.tuples(st.just("publish"), CHANNELS, st.integers(1, 4), st.integers(0, 90))
    | st.tuples(st.just("publish"), CHANNELS, st.integers(1, 2), st.just(0))
    | st.tuples(st.just("publish"), CHANNELS, st.integers(1, 2), st.integers(0, 90), WHO)
    | st.tuples(st.just("publish"), CHANNELS, st.just(1), st.just(0), WHO, WHO)
    | st.tuples(st.just("come"), WHO, CHANNELS, st.none() | st.integers(0, 3))
    | st.tuples(st.just("come"), WHO, CHANNELS, st.none())
    | st.tuples(st.just("go"), WHO, CHANNELS)
    | st.tuples(st.sampled_from(["fill", "drain", "read", "read", "fail"]), WHO)
    | st.tuples(st.just("room"), WHO, st.integers(0, 400))
    | st.tuples(st.just("bite"), WHO, st.integers(1, 60) | st.just(PLENTY))
    | st.tuples(st.just("reply"), WHO, st.integers(0, 60))
)
TURNS = (
    st.tuples(st.just("turn"), st.sampled_from([0.0, 0.0, 0.01, 0.1]))
    | st.tuples(st.just("cost"), st.sampled_from([0.0, 0.01]))
    | st.just(("flush",))
)
WITHIN_SEND = st.tuples(st.just("do"), WHO, STEPS)


@given(
    steps=programs(STEPS | STEPS | TURNS | WITHIN_SEND, most=100),
    queue=st.sampled_from([PLENTY, PLENTY, 150]),
)
def test_every_subscriber_gets_everything_once_and_in_order(
    steps: list[tuple[Any, ...]], queue: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fanout, "SLICE", SLICE)
        patch.setattr(fanout, "JOINED_BYTES", 500)
        patch.setattr(fanout, "QUEUE_BYTES", 3_000)
        patch.setattr(audience, "MAX_SKIPS", 2)
        world = World(queue)
        # With these most publications reach several guests.
        for number in (0, 1, 2, 4, 6):
            world.step(("come", number, "a", 0))
        for step in steps:
            world.step(step)
            world.check()
        world.end()
