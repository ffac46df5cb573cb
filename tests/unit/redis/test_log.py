"""Single rules of the two ends of the log in Redis; all of them together: test_log_model.py."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from pushserver.channels.publication import Draft, Publication
from pushserver.errors import LimitExceeded, TooMany, Unavailable
from pushserver.hub.follower import Image
from pushserver.redis import scripts, tail, writer
from pushserver.redis.commands import ErrorReply
from pushserver.redis.log import ALIVE_SECONDS
from pushserver.redis.problems import Problem
from pushserver.redis.rows import Cleared
from pushserver.redis.scripts import Bounds
from tests.unit.cluster.test_follower_model import WIDE
from tests.unit.fakes.tools import Watcher
from tests.unit.fakes.web import Trouble
from tests.unit.redis.test_log_model import Member, World


@pytest.fixture
def world() -> World:
    world = World(WIDE, 10_000)
    world.redis.published = lambda *row: None
    return world


def send(member: Member, data: bytes = b"1", channel: str = "a", key: str = "") -> list[Any]:
    """Publish, and do not wait; the list gets the answer."""
    answers: list[Any] = []
    draft = Draft(channel, data, key=key)
    Deferred.fromCoroutine(member.node.publish(draft)).addBoth(answers.append)
    return answers


def refusal(answers: list[Any]) -> Any:
    [failure] = answers
    return failure.value


def join(member: Member, channel: str = "a") -> Watcher:
    watcher = Watcher()
    Deferred.fromCoroutine(member.node.hub.subscribe(watcher, channel, None, 0))
    while member.carry():
        pass
    return watcher


def values(watcher: Watcher) -> list[int]:
    return [row["data"] for row in watcher.publications]


def test_publisher_has_its_receipt_after_the_delivery(world: World) -> None:
    here, there = world.members
    watcher = join(here)
    answers = send(here)
    here.links[0].bring_up()
    here.links[0].bring_down()
    assert (answers, values(watcher)) == ([], [])
    here.carry()
    assert [(a.seq, a.offset) for a in answers] == [(1, 1)]
    world.time.turn()
    assert values(watcher) == [1]
    assert there.node.history.channels == {}


def test_receipt_does_not_wait_for_a_tail_that_is_away(world: World, trouble: Trouble) -> None:
    here = world.members[0]
    answers = send(here)
    here.links[0].bring_up()
    here.links[0].bring_down()
    here.links[1].again("a fault")
    assert answers[0].offset == 1
    assert trouble.take() == ["not attached to Redis at x:6379: a fault; it is tried again"]


def test_drafts_of_a_turn_wait_for_no_answer(world: World) -> None:
    here = world.members[0]
    answers = [send(here, b"%d" % n) for n in range(1, 4)]
    assert len(here.links[0]._up) == 3
    world.settle()
    assert [a[0].offset for a in answers] == [1, 2, 3]


@pytest.mark.parametrize("arrived", range(4))
@pytest.mark.parametrize("answered", range(4))
def test_drafts_are_published_once_and_in_order_when_the_connection_is_lost(
    world: World, arrived: int, answered: int
) -> None:
    here = world.members[0]
    watcher = join(here)
    answers = [send(here, b"%d" % n) for n in range(1, 4)]
    here.links[0].bring_up(arrived)
    here.links[0].bring_down(answered)
    here.links[0].cut()
    world.settle()
    assert [a[0].offset for a in answers] == [1, 2, 3]
    assert values(watcher) == [1, 2, 3]


def test_error_in_a_look_up_of_receipts_is_logged_and_ends_the_session(
    world: World, trouble: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = world.members[0]
    answers = send(here)
    here.links[0].bring_up()
    here.links[0].cut()

    def fail(epoch: str, entry: Any) -> Any:
        # Once.
        monkeypatch.undo()
        raise RuntimeError("no")

    monkeypatch.setattr(writer, "_numbered", fail)
    world.settle()
    assert [answer.offset for answer in answers] == [1]
    first, second = trouble.take()
    assert first == "receipts cannot be looked up in the log: RuntimeError('no')"
    assert second == "not attached to Redis at x:6379: no; it is tried again"


def test_draft_that_was_refused_before_the_loss_is_tried_again(world: World) -> None:
    here = world.members[0]
    here.log._writer.bounds = Bounds(channels=1)
    world.redis.data.channels[b"other"] = world.redis.data.channels.pop(b"x", _stored())
    first = send(here, b"1", "a")
    here.links[0].bring_up()
    here.log._writer.bounds = Bounds()
    second = send(here, b"2", "b")
    here.links[0].bring_up()
    here.links[0].cut()
    world.settle()
    assert (first[0].seq, second[0].seq) == (2, 1)


def _stored() -> Any:
    from tests.unit.fakes.redis import Stored

    return Stored()


def test_known_key_gives_the_first_receipt(world: World) -> None:
    here, there = world.members
    first = send(here, key="k")
    world.settle()
    second = send(there, key="k")
    world.settle()
    assert first == second


def test_first_receipt_of_an_earlier_epoch_ends_no_connection(
    world: World, trouble: Trouble
) -> None:
    here, there = world.members
    first = send(here, key="k")
    world.settle()
    world.redis.save()
    for member in world.members:
        for link in member.links:
            link.cut()
    world.redis.crash(keeps=False)
    world.settle()
    trouble.clear()
    second = send(there, key="k")
    world.settle()
    assert first == second
    assert world.redis.data.epoch not in first[0].epoch
    assert trouble.take() == []


def test_nothing_is_published_without_a_connection(world: World) -> None:
    here = world.members[0]
    here.links[0].cut()
    assert isinstance(refusal(send(here)), Unavailable)
    join_answers: list[Any] = []
    here.links[1].cut()
    joining = Deferred.fromCoroutine(here.node.hub.subscribe(Watcher(), "a", None, 0))
    joining.addBoth(join_answers.append)
    assert isinstance(refusal(join_answers), Unavailable)


def test_publisher_is_told_when_redis_stays_away(world: World, trouble: Trouble) -> None:
    here = world.members[0]
    answers = send(here)
    here.links[0].cut()
    world.clock.advance(writer.PATIENCE_SECONDS)
    trouble.clear()
    assert isinstance(refusal(answers), Unavailable)
    world.settle()
    assert world.redis.data.seq == 0


@pytest.mark.parametrize(
    ("answer", "kind", "cause"),
    [
        ("CHANNELS there are 100000 channels", LimitExceeded, "channels"),
        ("KEYS this publisher has 3", TooMany, None),
        ("OOM command not allowed when used memory > 'maxmemory'.", Unavailable, "broker"),
        ("MISCONF Redis is configured to save RDB snapshots", Unavailable, "broker"),
    ],
)
def test_refusal_is_that_of_one_draft(
    world: World, trouble: Trouble, answer: str, kind: type[Exception], cause: str | None
) -> None:
    here = world.members[0]
    execute, world.redis.execute = world.redis.execute, lambda command: ErrorReply(answer)  # type: ignore[method-assign]
    refused = send(here)
    here.links[0].bring_up(1)
    world.redis.execute = execute  # type: ignore[method-assign]
    other = send(here)
    world.settle()
    error = refusal(refused)
    assert (type(error), getattr(error, "cause", None)) == (kind, cause)
    assert other[0].seq == 1
    told = [answer in line for line in trouble.take()]
    assert told == ([True] if cause == "broker" else [])


def test_state_says_why_redis_refuses_until_it_accepts(world: World, trouble: Trouble) -> None:
    here = world.members[0]
    execute, world.redis.execute = world.redis.execute, lambda command: ErrorReply("OOM no memory")  # type: ignore[method-assign]
    send(here)
    here.links[0].bring_up(1)
    here.links[0].bring_down(1)
    world.redis.execute = execute  # type: ignore[method-assign]
    assert (here.log.state.attached, here.log.state.problem) == (
        True,
        "the memory of Redis is full",
    )
    assert len(trouble.take()) == 1
    send(here)
    world.settle()
    assert here.log.state.problem == ""


def test_scripts_that_were_dropped_are_loaded_again(world: World, trouble: Trouble) -> None:
    here = world.members[0]
    world.redis.knows_scripts = False
    answers = [send(here, b"%d" % n) for n in range(1, 3)]
    world.settle()
    assert [a[0].offset for a in answers] == [1, 2]
    assert "NOSCRIPT" in trouble.take()[0]


def test_damaged_log_ends_the_session_and_so_is_attached_anew(
    world: World, trouble: Trouble
) -> None:
    alive, epoch = world.redis._scripts[scripts.ALIVE.sha], world.redis.data.epoch.encode()
    world.redis._scripts[scripts.ALIVE.sha] = lambda *_: [b"", epoch, 0]
    here = world.members[0]
    while here.log.session is not None:
        world.clock.advance(ALIVE_SECONDS)
        here.carry()
    world.redis._scripts[scripts.ALIVE.sha] = alive
    told = "not attached to Redis at x:6379: its data is gone or damaged; it is tried again"
    assert set(trouble.take()) == {told}
    world.settle()
    assert here.log.state.attached


def test_drafts_that_wait_have_a_bound(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    here = world.members[0]
    monkeypatch.setattr(writer, "WAITING_BYTES", 10 * (writer.DRAFT_BYTES + 1_000))
    answers = [send(here, b'"%s"' % (b"x" * 980)) for _ in range(12)]
    refused = [a for a in answers if a]
    assert {refusal(a).cause for a in refused} == {"overloaded"}
    assert 1 <= len(refused) <= 3
    world.settle()
    assert all(answers)
    assert here.log._writer._bytes == 0
    assert not send(here)


def test_entries_that_wait_for_images_have_a_bound(
    world: World, monkeypatch: pytest.MonkeyPatch, trouble: Trouble
) -> None:
    here, there = world.members
    monkeypatch.setattr(tail, "LATE_BYTES", 5 * tail.ENTRY_BYTES)
    joined: list[Any] = []
    joining = Deferred.fromCoroutine(here.node.hub.subscribe(Watcher(), "a", None, 0))
    joining.addBoth(joined.append)
    for n in range(1, 9):
        send(there, b"%d" % n)
    there.links[0].bring_up()
    here.links[1].bring_up()
    here.links[1].bring_down()
    assert isinstance(refusal(joined), Unavailable)
    assert here.log._tail._late_bytes == 0
    assert "too many publications came while channels were read" in trouble.take()[0]


def test_entries_wait_while_the_fan_out_has_no_room(world: World) -> None:
    here, there = world.members
    watcher = join(here)
    has_room, here.log._tail._has_room = here.log._tail._has_room, lambda channel: False
    for n in range(1, 4):
        send(there, b"%d" % n)
    there.links[0].bring_up()
    here.links[1].bring_up()
    here.links[1].bring_down()
    world.time.turn()
    assert values(watcher) == [1]
    world.clock.advance(0.01)
    world.time.turn()
    assert values(watcher) == [1, 2]
    here.log._tail._has_room = has_room
    world.clock.advance(0.01)
    world.settle()
    assert values(watcher) == [1, 2, 3]


class TestPace:
    """Entries that keep coming are read several at a time, unless somebody waits for one."""

    @pytest.fixture(autouse=True)
    def paced(self, world: World) -> None:
        world.members[0].log._tail._pace = tail.PACE_SECONDS

    def reads(self, world: World) -> list[bytes]:
        """The places from which the first member reads now."""
        up = world.members[0].links[1]._up
        return [command[-1] for command, _ in up if command[0] == b"XREAD"]

    def publish(self, world: World, number: int) -> None:
        send(world.members[1], b"%d" % number)
        world.members[1].carry()
        world.members[0].carry()
        world.members[0].carry()

    def test_lone_entry_is_not_held_up(self, world: World) -> None:
        here = world.members[0]
        watcher = join(here)
        world.clock.advance(1.0)
        for number in range(1, 4):
            self.publish(world, number)
            world.clock.advance(tail.PACE_SECONDS)
            here.carry()
            world.time.turn()
            assert values(watcher) == list(range(1, number + 1))

    def test_next_ones_come_together(self, world: World) -> None:
        for number in range(1, 4):
            self.publish(world, number)
        assert self.reads(world) == []
        world.clock.advance(tail.PACE_SECONDS)
        assert self.reads(world) == [b"1-0"]
        world.members[0].carry()
        assert self.reads(world) == []
        world.clock.advance(tail.PACE_SECONDS)
        assert self.reads(world) == [b"3-0"]

    def test_publisher_at_this_node_does_not_wait(self, world: World) -> None:
        here = world.members[0]
        self.publish(world, 1)
        answers = send(here, b"2")
        assert self.reads(world) == [b"1-0"]
        while not answers:
            assert here.carry()


def test_node_that_misses_entries_without_an_error_is_deaf(world: World, trouble: Trouble) -> None:
    """As a node whose connection leads to another server than those of the others."""
    here = world.members[0]
    here.links[1].redis = type(world.redis)(world.time)
    here.links[1].redis.data.epoch = world.redis.data.epoch
    send(world.members[1])
    world.members[1].carry()
    for _ in range(16):
        world.clock.advance(0.5)
        here.links[1].wake()
        here.carry()
    assert not here.log.state.attached
    assert "it has publications up to 1, and sent them to 0" in trouble.take()[0]


@pytest.mark.parametrize("link", [0, 1])
def test_server_that_is_silent_is_left(world: World, trouble: Trouble, link: int) -> None:
    here = world.members[0]
    for _ in range(16):
        world.clock.advance(0.5)
        here.links[1 - link].wake()
        here.links[1 - link].bring_up()
        here.links[1 - link].bring_down()
    assert not here.links[link].linked
    assert not here.log.state.attached
    assert here.log.state.deaf_since is not None
    assert "it has not answered for 5 s" in "".join(trouble.take())
    world.settle()
    assert here.log.state.attached


def test_outage_is_told_once_for_each_reason(world: World, trouble: Trouble) -> None:
    here = world.members[0]
    for reason in ("one", "one", "two", "one"):
        here.log._failed(Problem(reason))
    assert len(trouble.take()) == 2
    world.settle()
    here.log._failed(Problem("one"))
    assert len(trouble.take()) == 1


def test_stop_answers_all(world: World) -> None:
    here = world.members[0]
    answers = send(here)
    settled: list[Any] = []
    Deferred.fromCoroutine(here.node.settle()).addBoth(settled.append)
    assert not settled
    here.log.stop()
    assert isinstance(refusal(answers), Unavailable)
    assert settled == [None]
    assert not here.log._next_check.active()  # type: ignore[union-attr]


def test_cleared_channel_is_empty_at_each_node_before_the_answer(world: World) -> None:
    here, there = world.members
    join(here)
    join(there)
    send(here)
    world.settle()
    done: list[Any] = []
    Deferred.fromCoroutine(here.node.clear("a")).addBoth(done.append)
    here.links[0].bring_up()
    here.links[0].bring_down()
    assert (done, len(here.node.history.peek("a"))) == ([], 1)
    world.settle()
    assert done == [None]
    assert [len(m.node.history.peek("a")) for m in world.members] == [0, 0]


def image(rows: int) -> Image:
    """The image of a channel whose rows have the seqs 10, 20, ..."""
    kept = [Publication("a", "e", 10 * n, n, 0.0, "message", b"1") for n in range(1, rows + 1)]
    return Image("a", "e", 0, 0, kept, [float(rows - n) for n in range(rows)], 0)


def test_changes_that_the_image_has_are_skipped_and_the_others_follow_it() -> None:
    later = [(Publication("a", "e", 10 * n, n, 0.0, "message", b"1"), 0.5) for n in (2, 3, 4)]
    merged = tail.merge(image(3), later)
    assert [row.offset for row in merged.rows] == [1, 2, 3, 4]
    assert merged.ages == [3.0, 2.0, 1.0, 0.5]
    with pytest.raises(ValueError, match="offset 4 after 2"):
        tail.merge(image(2), later[2:])


def test_clear_drops_what_was_before_it_though_the_image_has_later_rows() -> None:
    merged = tail.merge(image(3), [(Cleared("a", 25, 1), 0.0)])
    assert [row.offset for row in merged.rows] == [3]
    assert (merged.floor, merged.floor_seq, merged.evicted, merged.ages) == (2, 20, 2, [1.0])
    assert tail.merge(merged, [(Cleared("a", 25, 2), 0.0)]) == merged


def test_channel_that_was_forgotten_after_its_image_begins_again() -> None:
    row = Publication("a", "e-40", 50, 1, 0.0, "message", b"1")
    merged = tail.merge(image(3), [(row, 0.0)])
    assert (merged.epoch, merged.floor, merged.floor_seq, merged.rows) == ("e-40", 0, 40, [row])


def test_entries_of_a_data_set_that_was_emptied_in_between_are_not_taken(
    world: World, trouble: Trouble
) -> None:
    here, there = world.members
    watcher = join(here)
    world.redis.flush()
    there.links[0].again("a fault")
    there.links[0].connect()
    send(there)
    there.links[0].bring_up()
    here.carry()
    world.time.turn()
    assert watcher.frames == []
    world.settle()
    assert watcher.gaps == ["a"]
    assert "the log has a new epoch" in "".join(trouble.take())


def test_channel_is_read_again_after_an_entry_that_does_not_fit(
    world: World, trouble: Trouble
) -> None:
    here, there = world.members
    watcher = join(here)
    send(there)
    there.links[0].bring_up()
    world.redis.data.log[-1][1][3] = b"9"
    world.settle()
    assert (watcher.offsets, watcher.gaps) == ([1], [])
    assert "offset 9 of 'a' after 0" in trouble.take()[0]


def test_channels_that_are_due_are_swept_by_their_age(world: World, trouble: Trouble) -> None:
    world.redis.due = [b"a", b"foreign"]
    world.settle()
    ttl = b"%d" % (WIDE.history_ttl * 1000)
    assert world.redis.swept == [(b"a", ttl), (b"foreign", ttl)]
    assert sum(member.node.metrics.evictions for member in world.members) == 2
    assert trouble.take() == ["a channel in Redis was not swept: a key of another type"]


def test_empty_channels_that_a_node_follows_are_kept(world: World) -> None:
    here = world.members[0]
    join(here, "a")
    join(here, "b")
    join(here, "c")
    send(here, channel="a")
    send(here, channel="b")
    world.settle()
    Deferred.fromCoroutine(here.node.clear("a"))
    world.redis.touched.clear()
    world.settle()
    world.settle()
    assert {*world.redis.touched} == {b"a"}


def test_publications_and_repetitions_are_counted_where_they_came_in(world: World) -> None:
    here, there = world.members
    for member in (here, there, there):
        send(member, key="k")
        world.settle()
    counted = [(m.node.metrics.publications, m.node.metrics.duplicates) for m in world.members]
    assert counted == [(1, 0), (0, 2)]


def test_order_reaches_the_other_nodes_in_the_order_of_the_log(world: World) -> None:
    here, there = world.members
    watcher = join(there)
    got: list[Any] = []
    for member in world.members:
        member.log.ordered = partial(lambda *order: got.append(order), member)
    send(here)
    told: list[Any] = []
    Deferred.fromCoroutine(here.log.order(b"end")).addBoth(told.append)
    send(here, b"2")
    world.settle()
    assert told == [None]
    assert got == [(there, b"end")]
    assert values(watcher) == [1, 2]


def test_order_that_cannot_be_told_fails(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    here = world.members[0]
    told: list[Any] = []

    def order(text: bytes = b"end") -> None:
        Deferred.fromCoroutine(here.log.order(text)).addBoth(told.append)

    monkeypatch.setattr(writer, "ORDER_BYTES", 10)
    order(b"x" * 11)
    order()
    here.links[0].cut()
    order()
    assert [failure.type for failure in told] == [Unavailable] * 3
    world.settle()
