from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.forgotten import bucket
from pushserver.channels.history import History, Resumption, in_order, new_epoch
from pushserver.channels.position import Cursor, Position, Start, parse_cursor
from pushserver.channels.publication import Draft, Publication
from tests.unit.fakes.tools import EPOCH, programs


def make(**options: float) -> History:
    return History(lambda name: ChannelOptions(**options), EPOCH)  # type: ignore[arg-type]


def add(history: History, channel: str = "a", now: float = 0.0) -> Publication:
    publication = history.number(Draft(channel, b"1"), now)
    history.append(publication, now)
    return publication


def resume(history: History, names: list[str], seq: int, epoch: str = EPOCH) -> Resumption:
    """The publications after a cursor."""
    return history.read(names, Start(since=Cursor(epoch, seq)))


def nobody(channel: str) -> bool:
    return False


def test_offsets_count_in_a_channel_and_seqs_over_all_channels() -> None:
    history = make()
    rows = [add(history, name) for name in "aabab"]
    assert [r.offset for r in rows] == [1, 2, 1, 3, 2]
    assert [r.seq for r in rows] == [1, 2, 3, 4, 5]
    assert history.seq == 5


def test_numbering_counts_publications_that_are_not_appended_yet() -> None:
    history = make()
    add(history, "a")
    ahead = history.number(Draft("a", b"1"), 0.0, ahead=3, same=2)
    assert (ahead.seq, ahead.offset) == (5, 4)
    assert history.seq == 1


def test_publication_has_the_fields_of_its_draft() -> None:
    draft = Draft("a", b"[1]", "newnumber", {"k": "v"})
    publication = make().number(draft, 12.5)
    assert (publication.data, publication.event, publication.tags) == (
        b"[1]",
        "newnumber",
        {"k": "v"},
    )
    assert (publication.time, publication.epoch) == (12.5, EPOCH)


def test_each_history_has_a_new_epoch_that_is_valid_in_a_cursor() -> None:
    epochs = {History(lambda name: ChannelOptions()).epoch for _ in range(50)}
    assert len(epochs) == 50
    epoch = new_epoch()
    assert parse_cursor(f"{epoch}:1") == Cursor(epoch, 1)


def test_reading_a_channel_adds_none() -> None:
    history = make()
    assert history.peek("a").last(5) == []
    assert history.resume("a", Position(EPOCH, 0)).recovered
    assert history.top("a") == 0
    assert history.options("a") == ChannelOptions()
    assert history.channels == {}


def test_released_channel_without_publications_is_dropped() -> None:
    history = make()
    history.channel("a")
    history.release("a")
    history.release("never here")
    assert history.channels == {}
    add(history)
    history.release("a")
    assert list(history.channels) == ["a"]


def test_pinned_channel_is_neither_released_nor_forgotten() -> None:
    history = make(history_ttl=10)
    add(history, "b")
    history.channel("watched")
    for name in ("watched", "b", "begun"):
        history.pin(name)
    history.release("watched")
    assert history.expire(10.0, nobody) == (1, ["b"])
    assert set(history.channels) == {"watched", "b", "begun"}
    add(history, "begun")
    history.unpin()
    assert set(history.channels) == {"b", "begun"}


def test_channel_that_is_watched_again_while_pinned_stays() -> None:
    history = make()
    history.pin("begun")
    history.channel("begun")
    history.unpin()
    assert list(history.channels) == ["begun"]


def test_skipped_publication_is_numbered_and_not_retained() -> None:
    history = make()
    lost = [add(history), history.number(Draft("a", b"1"), 0.0)][1]
    history.skip(lost)
    assert history.resume("a", Position(EPOCH, 1)).reason == "evicted"
    assert (add(history).offset, history.seq) == (3, 3)


def filled(**options: float) -> History:
    """Six publications in `a`, with seqs 1, 3, 5, 7, 9, 11, and six in `b`."""
    history = make(**options)
    for name in "ab" * 6:
        add(history, name)
    return history


def test_resuming_gives_all_missed_publications_or_a_reason() -> None:
    history = filled(history_size=4, recovery_limit=3)
    by_offset = [history.resume("a", Position(EPOCH, offset)) for offset in (7, 1, 2, 3, 6)]
    by_seq = [resume(history, ["a"], seq) for seq in (13, 2, 3, 5, 11)]
    for resumed in (by_offset, by_seq):
        assert resumed[:3] == [Resumption(reason=why) for why in ("ahead", "evicted", "limit")]
        assert [r.offset for r in resumed[3].publications] == [4, 5, 6]
        assert resumed[4] == Resumption([])


def test_highest_evicted_offset_can_still_be_resumed_from() -> None:
    history = filled(history_size=4)
    assert [r.offset for r in history.resume("a", Position(EPOCH, 2)).publications] == [3, 4, 5, 6]
    history = filled(history_size=0)
    assert history.resume("a", Position(EPOCH, 5)).reason == "evicted"
    assert history.resume("a", Position(EPOCH, 6)).recovered


def test_negative_or_huge_offset_cannot_be_resumed_from() -> None:
    history = filled()
    assert history.resume("a", Position(EPOCH, -1)).reason == "evicted"
    assert history.resume("a", Position(EPOCH, 2**63)).reason == "ahead"


def test_reading_without_the_limit_gives_a_long_gap() -> None:
    history = filled(recovery_limit=2)
    since = Start(since=Cursor(EPOCH, 0))
    assert history.read(["a"], since).reason == "limit"
    assert len(history.read(["a"], since, limited=False).publications) == 6


def test_last_publications_are_counted_over_all_channels() -> None:
    history = filled()
    assert [r.seq for r in history.read(["a", "b"], Start(last=3)).publications] == [10, 11, 12]
    assert history.read(["a"], Start(last=0)).publications == ()
    assert len(history.read(["a", "b"], Start(oldest=True)).publications) == 12


def test_position_of_another_epoch_is_refused_and_an_empty_epoch_is_the_current() -> None:
    history = make()
    add(history)
    assert history.resume("a", Position("other", 1)).reason == "epoch"
    assert history.resume("a", Position("", 1)).recovered
    assert history.resume("a", Position(EPOCH.upper(), 1)).reason == "epoch"
    assert resume(history, ["a"], 1, epoch="other").reason == "epoch"
    assert resume(history, ["a"], 1, epoch="").reason == "epoch"


def test_cursor_over_channels_gives_their_publications_in_order() -> None:
    history = make()
    rows = [add(history, name) for name in "abcab"]
    missed = resume(history, ["b", "a"], 1)
    assert list(missed.publications) == [rows[1], rows[3], rows[4]]
    assert resume(history, ["a"], 6).reason == "ahead"
    assert [r.seq for r in resume(history, ["a", "b"], 2).publications] == [4, 5]


def test_cursor_before_an_evicted_publication_of_one_channel_is_refused() -> None:
    history = make(history_size=1)
    for name in "abab":
        add(history, name)
    assert resume(history, ["a", "b"], 1).reason == "evicted"
    assert resume(history, ["a"], 1).recovered
    assert resume(history, ["a", "b"], 2).recovered
    assert resume(history, ["c"], 0).recovered


def test_cursor_over_the_limit_in_one_channel_is_refused() -> None:
    history = make(recovery_limit=2)
    for name in "aaab":
        add(history, name)
    assert resume(history, ["a", "b"], 0).reason == "limit"
    assert resume(history, ["a", "b"], 1).recovered


def test_empty_channels_without_subscribers_are_forgotten_and_begin_again_at_1() -> None:
    history = make(history_ttl=10)
    for name in "aaab":
        add(history, name)
    add(history, "c", now=100.0)
    assert history.expire(50.0, lambda name: name == "b") == (4, ["a", "b"])
    assert set(history.channels) == {"b", "c"}
    again = add(history, "a", now=100.0)
    assert (again.offset, again.epoch, again.id) == (1, f"{EPOCH}-3", f"{EPOCH}:6")
    assert history.resume("a", Position(again.epoch, 1)).recovered
    assert resume(history, ["a"], 2).reason == "evicted"
    assert [r.offset for r in resume(history, ["a"], 3).publications] == [1]
    # A channel that never had publications, and one that still has its first numbering.
    assert add(history, "d").offset == 1
    assert (add(history, "b").epoch, history.top("b")) == (EPOCH, 2)


def forgotten(*channels: str, **options: float) -> History:
    """A history that has forgotten these channels, after one publication in each."""
    history = make(history_ttl=10, **options)
    for name in channels:
        add(history, name)
    history.expire(10.0, nobody)
    assert history.channels == {}
    return history


def test_position_in_a_forgotten_channel_is_never_resumed() -> None:
    history = forgotten("a", "a", "a")
    for back in range(5):
        for offset in (1, 2, 3, 4):
            assert history.resume("a", Position(EPOCH, offset)).reason == "epoch", back
            assert history.resume("a", Position("", offset)).reason == "epoch", back
        assert history.resume("a", Position(EPOCH, 0)).reason == "evicted", back
        add(history, "a", now=10.0)


def test_position_before_the_first_publication_is_the_cursor_of_its_generation() -> None:
    history = forgotten("a", "b", "a")
    early = Position(EPOCH, 0)
    late = Position(history.peek("a").epoch, 0)
    assert late == Position(f"{EPOCH}-3", 0)
    assert history.resume("a", late) == Resumption([])
    rows = [add(history, "a", now=10.0), add(history, "a", now=10.0)]
    assert history.resume("a", early).reason == "evicted"
    assert list(history.resume("a", late).publications) == rows
    history.channel("a").clear()
    history.expire(10.0, nobody)
    assert history.resume("a", late).reason == "evicted"
    # Beyond the last seq; a generation is a number.
    for generation, reason in (("6", "ahead"), ("", "epoch"), ("-1", "epoch"), ("x", "epoch")):
        assert history.resume("a", Position(f"{EPOCH}-{generation}", 0)).reason == reason
    assert history.resume("a", Position("other-3", 0)).reason == "epoch"


@pytest.mark.parametrize("size", [0, 2, 300])
def test_zero_position_recovers_all_retained_publications(size: int) -> None:
    history = make(history_size=size, recovery_limit=1)
    assert history.resume("a", Position("", 0)) == Resumption([])
    for _ in range(4):
        add(history, "a")
    resumed = history.resume("a", Position("", 0))
    assert (resumed.recovered, len(resumed.publications)) == (True, min(size, 4))


def test_reader_of_an_empty_channel_recovers_whatever_others_were_forgotten() -> None:
    history = make(history_ttl=10)
    history.channel("quiet")
    position, cursor = Position(history.peek("quiet").epoch, 0), history.seq
    history.release("quiet")
    for name in "abc":
        add(history, name)
    history.expire(10.0, nobody)
    rows = [add(history, "quiet", now=10.0), add(history, "quiet", now=10.0)]
    assert list(history.resume("quiet", position).publications) == rows
    assert list(resume(history, ["quiet"], cursor).publications) == rows
    assert resume(history, ["quiet", "a"], cursor).reason == "evicted"


def test_readers_of_a_channel_may_be_told_of_a_loss_in_its_bucket_only() -> None:
    names = iter(f"c{n}" for n in range(1_000_000))
    first = next(names)
    same = next(name for name in names if bucket(name) == bucket(first))
    history = forgotten(first)
    assert history.resume(same, Position(EPOCH, 0)).reason == "evicted"
    assert resume(history, [same], 0).reason == "evicted"
    assert resume(history, ["other"], 0).recovered


def test_expiring_names_the_channels_that_changed() -> None:
    history = make(history_ttl=10)
    add(history, "a")
    history.channel("watched")
    add(history, "b", now=5.0)
    assert history.expire(10.0, lambda name: name == "watched") == (1, ["a"])
    assert history.expire(10.0, lambda name: name == "watched") == (0, [])
    assert history.expire(15.0, nobody) == (1, ["watched", "b"])
    assert history.channels == {}


def test_rows_of_several_channels_are_sorted() -> None:
    history = make()
    rows = [add(history, name) for name in "abba"]
    assert in_order([[rows[0], rows[3]], [rows[1], rows[2]], []]) == rows


actions = programs(
    st.tuples(st.just("publish"), st.sampled_from("abc"))
    | st.tuples(st.just("watch"), st.sampled_from("abc"))
    | st.tuples(st.just("leave"), st.sampled_from("abc"))
    | st.tuples(st.just("expire"), st.sampled_from("abc"))
    | st.tuples(st.just("clear"), st.sampled_from("abc")),
    most=60,
)


def play(history: History, actions: list[tuple[str, str]]) -> list[Publication]:
    """Do all actions as the hub does them; return all publications."""
    log: list[Publication] = []
    watched: set[str] = set()
    now = 0.0
    for action, name in actions:
        if action == "publish":
            log.append(add(history, name, now))
        elif action == "watch":
            watched.add(name)
            history.channel(name)
        elif action == "leave" and name in watched:
            watched.discard(name)
            history.release(name)
        elif action == "expire":
            now += 6.0
            history.expire(now, watched.__contains__)
        elif action == "clear" and name in history.channels:
            history.channels[name].clear()
    return log


@given(actions, st.integers(0, 3))
def test_no_number_is_given_twice(actions: list[tuple[str, str]], size: int) -> None:
    history = make(history_size=size, history_ttl=10)
    log = play(history, actions)
    assert [r.seq for r in log] == list(range(1, len(log) + 1))
    for name in "abc":
        generations: dict[str, list[int]] = {}
        for row in log:
            if row.channel == name:
                generations.setdefault(row.epoch, []).append(row.offset)
        # No generation comes back, and each counts from 1.
        for offsets in generations.values():
            assert offsets == list(range(1, len(offsets) + 1))


@given(actions, st.integers(0, 3))
def test_resuming_from_an_offset_gives_all_missed_publications_or_a_reason(
    actions: list[tuple[str, str]], size: int
) -> None:
    history = make(history_size=size, history_ttl=10)
    log = play(history, actions)
    for name in "abc":
        own = [r for r in log if r.channel == name]
        for seen in own:
            resumed = history.resume(name, Position(seen.epoch, seen.offset))
            if resumed.recovered:
                assert list(resumed.publications) == [r for r in own if r.seq > seen.seq]
            else:
                assert resumed.publications == ()


def check_all_cursors(history: History, log: list[Publication], names: list[str]) -> None:
    for seq in range(history.seq + 1):
        resumed = resume(history, names, seq)
        if resumed.recovered:
            missed = [r for r in log if r.seq > seq and r.channel in names]
            assert list(resumed.publications) == missed, f"from {seq}"
        else:
            assert resumed.publications == ()


def test_cursor_of_a_channel_dropped_by_its_last_subscriber_can_be_resumed_or_is_refused() -> None:
    history = make(history_ttl=10)
    log = [add(history, "b"), add(history, "b")]
    history.expire(20.0, nobody)
    history.channel("a")
    history.release("a")
    check_all_cursors(history, log, ["a", "b"])


@given(
    actions,
    st.integers(0, 3),
    st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True),
)
def test_resuming_from_a_cursor_gives_all_missed_publications_or_a_reason(
    actions: list[tuple[str, str]], size: int, names: list[str]
) -> None:
    history = make(history_size=size, history_ttl=10)
    check_all_cursors(history, play(history, actions), names)


def test_watched_channel_that_lost_its_rows_stays_resumable_or_is_refused() -> None:
    """`a` is published to last, and has fewer numbers than the forgotten `b`."""
    history = make(history_size=0)
    history.channel("a")
    log = [add(history, "b"), add(history, "b")]
    history.expire(0.0, lambda name: name == "a")
    log.append(add(history, "a"))
    history.release("a")
    check_all_cursors(history, log, ["a"])
