from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pushserver.channels.publication import ClientInfo
from pushserver.sessions.peers import WAKES, Peers
from tests.unit.fakes.tools import unexpected


class Sleeper:
    """A peer that records its wakes; the next is `again` seconds later."""

    def __init__(self, again: float | None = None):
        self.info = ClientInfo("sleeper")
        self.woken: list[float] = []
        self.again = again
        self.on_wake: Callable[[], None] = lambda: None

    def wake(self, now: float) -> float | None:
        self.woken.append(now)
        self.on_wake()
        return None if self.again is None else now + self.again

    def shut_down(self) -> None: ...

    def abort(self) -> None: ...


def tick_until(peers: Peers, end: float, begin: float = 0.0) -> None:
    now = begin
    while now <= end:
        while peers.tick(now):
            pass
        now += 1.0


def test_peer_is_woken_once_at_its_time() -> None:
    peers, peer = Peers(unexpected), Sleeper()
    peers.wake_at(peer, 5.0)
    tick_until(peers, 4.0)
    assert peer.woken == []
    tick_until(peers, 20.0, begin=5.0)
    assert len(peer.woken) == 1
    assert peer.woken[0] in (5.0, 6.0)


@given(st.floats(0, 20), st.floats(0, 0.99))
def test_no_peer_is_woken_more_than_a_tick_late(at: float, phase: float) -> None:
    peers, peer = Peers(unexpected), Sleeper()
    peers.wake_at(peer, at)
    tick_until(peers, 30.0, begin=phase)
    assert len(peer.woken) == 1
    assert peer.woken[0] <= at + 1.0 + phase


@given(st.floats(0, 20), st.floats(0, 0.99))
def test_no_peer_is_woken_early(at: float, phase: float) -> None:
    peers, peer = Peers(unexpected), Sleeper()
    peers.wake_at(peer, at)
    tick_until(peers, 30.0, begin=phase)
    assert peer.woken[0] >= at


def test_peer_returns_the_time_of_its_next_wake() -> None:
    peers, peer = Peers(unexpected), Sleeper(again=3.0)
    peers.wake_at(peer, 1.0)
    tick_until(peers, 20.0)
    gaps = [b - a for a, b in pairwise(peer.woken)]
    assert len(gaps) >= 4
    assert set(gaps) <= {3.0, 4.0}


def test_new_time_replaces_the_old_one() -> None:
    peers, sooner, later = Peers(unexpected), Sleeper(), Sleeper()
    peers.wake_at(sooner, 50.0)
    peers.wake_at(sooner, 5.0)
    peers.wake_at(later, 5.0)
    peers.wake_at(later, 50.0)
    tick_until(peers, 40.0)
    assert (len(sooner.woken), len(later.woken)) == (1, 0)
    tick_until(peers, 60.0, begin=41.0)
    assert (len(sooner.woken), len(later.woken)) == (1, 1)
    assert len(peers) == 2


def test_late_tick_wakes_all_due_peers_in_order() -> None:
    peers = Peers(unexpected)
    order: list[int] = []
    for due in (7, 3, 5):
        peer = Sleeper()
        peer.on_wake = lambda due=due: order.append(due)  # type: ignore[misc]
        peers.wake_at(peer, due)
    peers.tick(100.0)
    assert order == [3, 5, 7]


def test_tick_wakes_a_bounded_number_and_returns_whether_more_are_due() -> None:
    peers, sleepers = Peers(unexpected), [Sleeper(again=5.0) for _ in range(2 * WAKES + 1)]
    for peer in sleepers:
        peers.wake_at(peer, 1.0)
    counts = []
    for more in (True, True, False):
        assert peers.tick(1.0) is more
        counts.append(sum(len(peer.woken) for peer in sleepers))
    assert counts == [WAKES, 2 * WAKES, 2 * WAKES + 1]
    assert all(len(peer.woken) == 1 for peer in sleepers)


def test_peer_that_is_removed_or_postponed_before_its_turn_is_not_woken() -> None:
    peers, sleepers = Peers(unexpected), [Sleeper() for _ in range(WAKES + 3)]
    for peer in sleepers:
        peers.wake_at(peer, 1.0)
    assert peers.tick(1.0)
    gone, later, last = sleepers[-3:]
    peers.remove(gone)
    peers.wake_at(later, 9.0)
    assert not peers.tick(1.5)
    assert (len(gone.woken), len(later.woken), len(last.woken)) == (0, 0, 1)
    tick_until(peers, 9.0, begin=2.0)
    assert (len(gone.woken), len(later.woken), len(last.woken)) == (0, 1, 1)


def test_peer_that_is_due_again_at_once_waits_for_all_others() -> None:
    peers, sleepers = Peers(unexpected), [Sleeper(again=0.0) for _ in range(WAKES + 1)]
    for peer in sleepers:
        peers.wake_at(peer, 1.0)
    assert [peers.tick(1.0) for _ in range(4)] == [True, False, True, False]
    assert {len(peer.woken) for peer in sleepers} == {2}


def test_peer_without_a_next_wake_stays_registered() -> None:
    peers, peer = Peers(unexpected), Sleeper(again=None)
    peers.wake_at(peer, 1.0)
    tick_until(peers, 100.0)
    assert len(peer.woken) == 1
    assert list(peers) == [peer]


def test_peer_that_raises_is_reported_and_the_others_are_woken() -> None:
    reports: list[str] = []
    peers, bad, good = Peers(reports.append), Sleeper(), Sleeper()

    def fail() -> None:
        raise RuntimeError("no")

    bad.on_wake = fail
    peers.wake_at(bad, 1.0)
    peers.wake_at(good, 1.0)
    tick_until(peers, 5.0)
    assert reports == ["a peer could not be woken"]
    assert (len(good.woken), len(peers)) == (1, 2)


def test_peer_that_is_removed_during_a_wake_is_not_woken_again() -> None:
    peers, first, second = Peers(unexpected), Sleeper(again=1.0), Sleeper(again=1.0)

    def remove_both() -> None:
        peers.remove(first)
        peers.remove(second)

    first.on_wake = remove_both
    peers.wake_at(first, 1.0)
    peers.wake_at(second, 1.0)
    tick_until(peers, 9.0)
    assert (len(first.woken), len(second.woken), len(peers)) == (1, 0, 0)


def test_due_peer_that_another_postpones_is_woken_later() -> None:
    peers, first, second = Peers(unexpected), Sleeper(), Sleeper()
    first.on_wake = lambda: peers.wake_at(second, 8.0)
    peers.wake_at(first, 1.0)
    peers.wake_at(second, 1.0)
    tick_until(peers, 5.0)
    assert second.woken == []
    tick_until(peers, 9.5, begin=6.0)
    assert len(second.woken) == 1


def test_removing_twice_leaves_nothing() -> None:
    peers = Peers(unexpected)
    sleepers = [Sleeper() for _ in range(5)]
    for n, peer in enumerate(sleepers):
        peers.wake_at(peer, n % 2)
    for peer in sleepers:
        peers.remove(peer)
        peers.remove(peer)
    assert (len(peers), peers._due, peers._second) == (0, {}, {})


def test_peers_may_be_removed_during_iteration() -> None:
    peers = Peers(unexpected)
    for _ in range(3):
        peers.wake_at(Sleeper(), 1.0)
    for peer in peers:
        peers.remove(peer)
    assert len(peers) == 0


def test_when_empty_calls_once_after_the_last_removal() -> None:
    peers, peer, other = Peers(unexpected), Sleeper(), Sleeper()
    calls: list[str] = []
    peers.when_empty(lambda: calls.append("at once"))
    assert calls == ["at once"]
    peers.wake_at(peer, 1.0)
    peers.wake_at(other, 1.0)
    peers.when_empty(lambda: calls.append("one"))
    peers.when_empty(lambda: calls.append("two"))
    peers.remove(peer)
    assert calls == ["at once"]
    peers.remove(other)
    assert calls == ["at once", "one", "two"]
    peers.wake_at(peer, 1.0)
    peers.remove(peer)
    assert len(calls) == 3


def test_after_a_standstill_nobody_is_ended_before_what_came_is_read() -> None:
    peers, peer = Peers(unexpected), Sleeper(again=8.0)
    peers.wake_at(peer, 10.0)
    tick_until(peers, 9.0)
    # A handler blocks the reactor: this tick comes before the sockets are read.
    assert not peers.tick(29.5)
    assert peer.woken == []
    assert not peers.tick(30.5)
    assert peer.woken == [30.5]


def test_a_server_that_is_always_late_wakes_its_peers_all_the_same() -> None:
    peers, peer = Peers(unexpected), Sleeper(again=1.0)
    peers.wake_at(peer, 1.0)
    for now in range(0, 100, 10):
        peers.tick(float(now))
    assert len(peer.woken) >= 4
