from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pushserver.channels.channel import ChannelOptions
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


def test_offsets_count_in_the_channel_and_seqs_over_all_of_them() -> None:
    history = make()
    rows = [add(history, name) for name in "aabab"]
    assert [r.offset for r in rows] == [1, 2, 1, 3, 2]
    assert [r.seq for r in rows] == [1, 2, 3, 4, 5]
    assert history.seq == 5


def test_numbering_ahead_counts_what_is_not_appended_yet() -> None:
    history = make()
    add(history, "a")
    ahead = history.number(Draft("a", b"1"), 0.0, ahead=3, same=2)
    assert (ahead.seq, ahead.offset) == (5, 4)
    assert history.seq == 1


def test_a_draft_keeps_what_it_says() -> None:
    draft = Draft("a", b"[1]", "newnumber", {"k": "v"})
    publication = make().number(draft, 12.5)
    assert (publication.data, publication.event, publication.tags) == (
        b"[1]",
        "newnumber",
        {"k": "v"},
    )
    assert (publication.time, publication.epoch) == (12.5, EPOCH)


def test_each_history_without_a_name_has_an_epoch_of_its_own_that_cursors_can_hold() -> None:
    epochs = {History(lambda name: ChannelOptions()).epoch for _ in range(50)}
    assert len(epochs) == 50
    assert parse_cursor(f"{new_epoch()}:1").seq == 1


def test_reading_a_channel_begins_none() -> None:
    history = make()
    assert history.peek("a").last(5) == []
    assert history.resume("a", Position(EPOCH, 0)).recovered
    assert history.top("a") == 0
    assert history.options("a") == ChannelOptions()
    assert history.channels == {}


def test_a_channel_that_was_watched_and_never_published_to_is_dropped() -> None:
    history = make()
    history.channel("a")
    history.release("a")
    history.release("never here")
    assert history.channels == {}
    add(history)
    history.release("a")
    assert list(history.channels) == ["a"]


def test_a_pinned_channel_is_neither_released_nor_forgotten() -> None:
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


def test_a_channel_that_is_watched_again_while_it_is_pinned_stays() -> None:
    history = make()
    history.pin("begun")
    history.channel("begun")
    history.unpin()
    assert list(history.channels) == ["begun"]


def test_a_skipped_publication_is_counted_and_not_retained() -> None:
    history = make()
    lost = [add(history), history.number(Draft("a", b"1"), 0.0)][1]
    history.skip(lost)
    assert history.resume("a", Position(EPOCH, 1)).reason == "evicted"
    assert (add(history).offset, history.seq) == (3, 3)


def filled(**options: float) -> History:
    """Six publications in `a`, with seqs 1, 3, 5, 7, 9, 11; as many in `b`."""
    history = make(**options)
    for name in "ab" * 6:
        add(history, name)
    return history


def test_resuming_is_all_or_nothing_and_says_why_not() -> None:
    history = filled(history_size=4, recovery_limit=3)
    by_offset = [history.resume("a", Position(EPOCH, offset)) for offset in (7, 1, 2, 3, 6)]
    by_seq = [resume(history, ["a"], seq) for seq in (13, 2, 3, 5, 11)]
    for resumed in (by_offset, by_seq):
        assert resumed[:3] == [Resumption(reason=why) for why in ("ahead", "evicted", "limit")]
        assert [r.offset for r in resumed[3].publications] == [4, 5, 6]
        assert resumed[4] == Resumption([])


def test_the_highest_evicted_offset_can_still_be_resumed_from() -> None:
    history = filled(history_size=4)
    assert [r.offset for r in history.resume("a", Position(EPOCH, 2)).publications] == [3, 4, 5, 6]
    history = filled(history_size=0)
    assert history.resume("a", Position(EPOCH, 5)).reason == "evicted"
    assert history.resume("a", Position(EPOCH, 6)).recovered


def test_an_offset_below_zero_or_beyond_belief_is_no_position() -> None:
    history = filled()
    assert history.resume("a", Position(EPOCH, -1)).reason == "evicted"
    assert history.resume("a", Position(EPOCH, 2**63)).reason == "ahead"


def test_a_reader_of_the_history_is_not_refused_for_a_long_gap() -> None:
    history = filled(recovery_limit=2)
    since = Start(since=Cursor(EPOCH, 0))
    assert history.read(["a"], since).reason == "limit"
    assert len(history.read(["a"], since, limited=False).publications) == 6


def test_the_last_publications_are_counted_over_all_channels() -> None:
    history = filled()
    assert [r.seq for r in history.read(["a", "b"], Start(last=3)).publications] == [10, 11, 12]
    assert history.read(["a"], Start(last=0)).publications == ()
    assert len(history.read(["a", "b"], Start(oldest=True)).publications) == 12


def test_a_position_of_another_epoch_is_refused_and_one_of_none_is_compared_by_offset() -> None:
    history = make()
    add(history)
    assert history.resume("a", Position("other", 1)).reason == "epoch"
    assert history.resume("a", Position("", 1)).recovered
    assert history.resume("a", Position(EPOCH.upper(), 1)).reason == "epoch"
    assert resume(history, ["a"], 1, epoch="other").reason == "epoch"
    assert resume(history, ["a"], 1, epoch="").reason == "epoch"


def test_a_cursor_over_channels_gives_all_of_them_in_the_order_of_publication() -> None:
    history = make()
    rows = [add(history, name) for name in "abcab"]
    missed = resume(history, ["b", "a"], 1)
    assert list(missed.publications) == [rows[1], rows[3], rows[4]]
    assert resume(history, ["a"], 6).reason == "ahead"
    assert [r.seq for r in resume(history, ["a", "b"], 2).publications] == [4, 5]


def test_a_cursor_before_what_one_of_the_channels_lost_is_refused() -> None:
    history = make(history_size=1)
    for name in "abab":
        add(history, name)
    assert resume(history, ["a", "b"], 1).reason == "evicted"
    assert resume(history, ["a"], 1).recovered
    assert resume(history, ["a", "b"], 2).recovered
    assert resume(history, ["c"], 0).recovered


def test_a_gap_that_is_too_long_in_one_channel_is_refused() -> None:
    history = make(recovery_limit=2)
    for name in "aaab":
        add(history, name)
    assert resume(history, ["a", "b"], 0).reason == "limit"
    assert resume(history, ["a", "b"], 1).recovered


def test_channels_that_are_empty_and_unwatched_are_forgotten_and_their_numbers_not_reused() -> None:
    history = make(history_ttl=10)
    for name in "aaab":
        add(history, name)
    add(history, "c", now=100.0)
    assert history.expire(50.0, lambda name: name == "b") == (4, ["a", "b"])
    assert set(history.channels) == {"b", "c"}
    again = add(history, "a", now=100.0)
    assert again.offset == 4
    assert history.resume("a", Position(EPOCH, 2)).reason == "evicted"
    assert history.resume("a", Position(EPOCH, 3)).recovered
    assert resume(history, ["a"], 2).reason == "evicted"
    assert [r.offset for r in resume(history, ["a"], 3).publications] == [4]


def test_expiring_names_the_channels_that_changed() -> None:
    history = make(history_ttl=10)
    add(history, "a")
    history.channel("watched")
    add(history, "b", now=5.0)
    assert history.expire(10.0, lambda name: name == "watched") == (1, ["a"])
    assert history.expire(10.0, lambda name: name == "watched") == (0, [])
    assert history.expire(15.0, nobody) == (1, ["watched", "b"])
    assert history.channels == {}


def test_rows_of_several_channels_are_put_in_order() -> None:
    history = make()
    rows = [add(history, name) for name in "abba"]
    assert in_order([[rows[0], rows[3]], [rows[1], rows[2]], []]) == rows


class Seen:
    """What a reader of one channel knows: its last position, and what it may have missed."""

    def __init__(self, offset: int, seq: int):
        self.offset = offset
        self.seq = seq


actions = programs(
    st.tuples(st.just("publish"), st.sampled_from("abc"))
    | st.tuples(st.just("watch"), st.sampled_from("abc"))
    | st.tuples(st.just("leave"), st.sampled_from("abc"))
    | st.tuples(st.just("expire"), st.sampled_from("abc"))
    | st.tuples(st.just("clear"), st.sampled_from("abc")),
    most=60,
)


def play(history: History, actions: list[tuple[str, str]]) -> list[Publication]:
    """Do all this as the hub does it; all that was ever published."""
    log: list[Publication] = []
    watched: set[str] = set()
    now = 0.0
    for what, name in actions:
        if what == "publish":
            log.append(add(history, name, now))
        elif what == "watch":
            watched.add(name)
            history.channel(name)
        elif what == "leave" and name in watched:
            watched.discard(name)
            history.release(name)
        elif what == "expire":
            now += 6.0
            history.expire(now, watched.__contains__)
        elif what == "clear" and name in history.channels:
            history.channels[name].clear()
    return log


@given(actions, st.integers(0, 3))
def test_no_number_is_given_twice_whatever_is_forgotten(
    actions: list[tuple[str, str]], size: int
) -> None:
    history = make(history_size=size, history_ttl=10)
    log = play(history, actions)
    assert [r.seq for r in log] == list(range(1, len(log) + 1))
    assert len({(r.channel, r.offset) for r in log}) == len(log)
    for name in "abc":
        offsets = [r.offset for r in log if r.channel == name]
        assert offsets == sorted(offsets)


@given(actions, st.integers(0, 3))
def test_who_goes_on_from_an_offset_gets_all_that_it_missed_or_is_told(
    actions: list[tuple[str, str]], size: int
) -> None:
    history = make(history_size=size, history_ttl=10)
    log = play(history, actions)
    for name in "abc":
        own = [r for r in log if r.channel == name]
        for seen in own:
            resumed = history.resume(name, Position(EPOCH, seen.offset))
            if resumed.recovered:
                assert list(resumed.publications) == [r for r in own if r.seq > seen.seq]
            else:
                assert resumed.publications == ()


def missed_or_told(history: History, log: list[Publication], names: list[str]) -> None:
    for seq in range(history.seq + 1):
        resumed = resume(history, names, seq)
        if resumed.recovered:
            missed = [r for r in log if r.seq > seq and r.channel in names]
            assert list(resumed.publications) == missed, f"from {seq}"
        else:
            assert resumed.publications == ()


def test_a_channel_dropped_when_its_last_watcher_leaves_is_remembered_by_its_seq() -> None:
    history = make(history_ttl=10)
    log = [add(history, "b"), add(history, "b")]
    history.expire(20.0, nobody)
    history.channel("a")
    assert history.top("a") == 2
    history.release("a")
    missed_or_told(history, log, ["a", "b"])


@given(
    actions,
    st.integers(0, 3),
    st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True),
)
def test_who_goes_on_from_a_cursor_gets_all_that_it_missed_or_is_told(
    actions: list[tuple[str, str]], size: int, names: list[str]
) -> None:
    history = make(history_size=size, history_ttl=10)
    missed_or_told(history, play(history, actions), names)


def test_a_channel_that_lost_its_rows_while_watched_is_not_dropped_unremembered() -> None:
    """`a` published last, with fewer numbers than the forgotten `b`."""
    history = make(history_size=0)
    history.channel("a")
    log = [add(history, "b"), add(history, "b")]
    history.expire(0.0, lambda name: name == "a")
    log.append(add(history, "a"))
    history.release("a")
    missed_or_told(history, log, ["a"])
