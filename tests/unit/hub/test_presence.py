from __future__ import annotations

from pushserver.channels.publication import ClientInfo
from pushserver.hub.hub import Hub
from pushserver.hub.presence import Presence
from tests.unit.fakes.tools import Watcher, drive, make_hub


def make(audience: int = 100) -> tuple[Hub, Presence]:
    hub = make_hub()
    return hub, Presence(hub, audience)


def join(hub: Hub, watcher: Watcher, channel: str = "a") -> None:
    drive(hub.subscribe(watcher, channel, None, 0))


def test_subscribers_are_listed_by_the_id_of_their_connection() -> None:
    hub, presence = make()
    join(hub, Watcher("c1", user="anna"))
    join(hub, Watcher("c2", user="anna"))
    join(hub, Watcher("c3", user="bert"), "b")
    assert drive(presence.clients("a")) == {
        "c1": ClientInfo("c1", "anna"),
        "c2": ClientInfo("c2", "anna"),
    }
    assert drive(presence.stats("a")) == (2, 1)
    assert drive(presence.stats("b")) == (1, 1)
    assert drive(presence.clients("nobody here")) == {}
    assert drive(presence.stats("nobody here")) == (0, 0)


def test_observer_gets_joins_and_leaves_of_others() -> None:
    hub, presence = make()
    observer, other = Watcher("o"), Watcher("c1", user="anna")
    join(hub, observer)
    presence.observe("a", observer)
    join(hub, other)
    join(hub, other)
    hub.unsubscribe(other, "a")
    hub.unsubscribe(other, "a")
    info = {"info": {"user": "anna", "client": "c1"}}
    assert observer.pushes == [{"channel": "a", "join": info}, {"channel": "a", "leave": info}]
    hub.unsubscribe(observer, "a")
    assert len(observer.pushes) == 2
    assert other.pushes == []


def test_other_subscribers_get_no_joins() -> None:
    hub, presence = make()
    quiet, elsewhere = Watcher("q"), Watcher("e")
    join(hub, quiet)
    join(hub, elsewhere, "b")
    presence.observe("b", elsewhere)
    join(hub, Watcher("c"))
    assert quiet.pushes == elsewhere.pushes == []


def test_observer_that_leaves_is_forgotten() -> None:
    hub, presence = make()
    observer, second = Watcher("o"), Watcher("s")
    for watcher in (observer, second):
        join(hub, watcher)
        presence.observe("a", watcher)
    observer.pushes.clear()
    hub.unsubscribe(observer, "a")
    join(hub, Watcher("c"))
    assert [list(push) for push in second.pushes] == [["channel", "leave"], ["channel", "join"]]
    assert observer.pushes == []
    hub.unsubscribe(second, "a")
    assert presence._observers == {}


def test_no_joins_and_leaves_are_pushed_in_a_crowd() -> None:
    hub, presence = make(audience=3)
    observer = Watcher("o")
    join(hub, observer)
    presence.observe("a", observer)
    crowd = [Watcher(f"c{n}") for n in range(4)]
    for watcher in crowd:
        join(hub, watcher)
    assert [push["join"]["info"]["client"] for push in observer.pushes] == ["c0", "c1"]
    assert drive(presence.stats("a")) == (5, 1)
    observer.pushes.clear()
    for watcher in crowd:
        hub.unsubscribe(watcher, "a")
    assert [push["leave"]["info"]["client"] for push in observer.pushes] == ["c1", "c2", "c3"]
