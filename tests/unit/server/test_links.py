"""The services of the links between processes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError, ConnectionDone
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure

import pushserver
from pushserver.channels.channel import ChannelOptions
from pushserver.channels.publication import Draft
from pushserver.cluster import author
from pushserver.cluster import link as cluster_link
from pushserver.cluster.author import Author
from pushserver.cluster.link import UNSENT_BYTES
from pushserver.errors import StartFailed, Unavailable
from pushserver.server.links import AGAIN_SECONDS, MODE, PAUSE_SECONDS, AuthorPort, UplinkService
from tests.unit.fakes.cluster import Edge, Wire, run
from tests.unit.fakes.tools import Reader, Time, Watcher, make_broker, make_node, publish
from tests.unit.fakes.web import Log, Trouble

OPTIONS = ChannelOptions()


class World:
    """An author's port and a follower's service on one reactor, which connects them on request."""

    def __init__(self) -> None:
        time = Time()
        self.has_room = True
        self.node = make_node(time=time, broker=make_broker(OPTIONS, time=time), run=run)
        self.reactor: Any = MemoryReactorClock()
        self.port = AuthorPort(Author(self.node), "/run/link", self.reactor, run)
        self.edge = Edge(OPTIONS, time)
        self.service = UplinkService(
            self.edge.uplink, "/run/link", self.reactor, lambda channel: self.has_room
        )
        self.wire = Wire(self.reactor)

    def connect(self) -> None:
        """Accept the last attempt of the follower to connect."""
        self.wire.connect("/run/link")


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    with Log():
        world.port.startService()
        world.service.startService()
        yield world


def attempts(world: World) -> int:
    return len(world.reactor.unixClients)


def test_socket_is_for_the_user_of_the_server(world: World) -> None:
    ((_, _, _, mode, _),) = world.reactor.unixServers
    assert mode == MODE == 0o600


def test_follower_is_linked_to_its_author(world: World) -> None:
    world.connect()
    assert len(world.port) == 1
    watcher = Watcher()
    Deferred.fromCoroutine(world.edge.node.hub.subscribe(watcher, "numbers", None, 0))
    world.wire.pump()
    publish(world.node)
    world.wire.pump()
    assert watcher.offsets == [1]


def test_follower_reads_on_when_its_fan_out_has_room(world: World) -> None:
    world.connect()
    watcher = Watcher()
    Deferred.fromCoroutine(world.edge.node.hub.subscribe(watcher, "numbers", None, 0))
    world.wire.pump()
    world.has_room = False
    publish(world.node)
    publish(world.node)
    world.wire.pump()
    history = world.edge.node.history
    for _ in range(3):
        world.reactor.advance(PAUSE_SECONDS)
        assert history.top("numbers") == 1
    world.has_room = True
    world.reactor.advance(PAUSE_SECONDS)
    assert history.top("numbers") == 2


def test_link_that_is_lost_while_it_is_held_is_not_read_again(
    world: World, trouble: Trouble
) -> None:
    world.connect()
    Deferred.fromCoroutine(world.edge.node.hub.subscribe(Watcher(), "numbers", None, 0))
    world.wire.pump()
    world.has_room = False
    publish(world.node)
    publish(world.node)
    world.wire.pump()
    world.wire.cut()
    trouble.take()
    world.has_room = True
    world.reactor.advance(AGAIN_SECONDS)
    assert world.edge.node.history.top("numbers") == 1
    world.connect()
    assert world.edge.node.history.top("numbers") == 2


def test_connection_that_is_made_after_the_stop_is_dropped(world: World) -> None:
    _, factory, *_ = world.reactor.unixClients[-1]
    world.service.stopService()
    protocol, transport = factory.buildProtocol(None), StringTransport()
    aborted: list[None] = []
    transport.abortConnection = lambda: aborted.append(None)  # type: ignore[method-assign]
    protocol.makeConnection(transport)
    assert aborted == [None]
    assert transport.value() == b""
    protocol.connectionLost(Failure(ConnectionDone()))
    assert world.reactor.getDelayedCalls() == []


def test_attempt_for_which_no_file_is_left_is_repeated(
    world: World, trouble: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    world.connect()
    before = attempts(world)
    world.wire.cut()
    trouble.take()
    monkeypatch.setattr(world.reactor, "connectUNIX", fail)
    world.reactor.advance(AGAIN_SECONDS)
    monkeypatch.undo()
    world.reactor.advance(AGAIN_SECONDS)
    assert attempts(world) == before + 1
    world.connect()


def test_pause_before_the_next_attempt_can_be_ended(world: World, trouble: Trouble) -> None:
    world.connect()
    world.edge.uplink.link_now()
    assert attempts(world) == 1
    world.wire.cut()
    trouble.take()
    world.edge.uplink.link_now()
    assert attempts(world) == 2
    world.reactor.advance(AGAIN_SECONDS)
    assert attempts(world) == 2
    world.service.stopService()
    world.edge.uplink.link_now()
    assert attempts(world) == 2


def test_author_refuses_publications_of_channels_that_a_slow_follower_has(world: World) -> None:
    world.connect()
    Deferred.fromCoroutine(world.edge.node.hub.subscribe(Watcher(), "numbers", None, 0))
    world.wire.pump()
    (link,) = world.port._links
    link.unsent = UNSENT_BYTES // 2 + 1
    with pytest.raises(Unavailable, match="backlog of numbers is full"):
        publish(world.node)
    publish(world.node, "other")
    link.unsent -= 1
    publish(world.node)


def test_follower_that_does_not_read_answers_is_not_asked_what_else_it_wants(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_link, "UNSENT_BYTES", 1_000)
    for n in range(6):
        publish(world.node, f"c{n}", "x" * 400)
    world.connect()
    (link,) = world.port._links
    link.pauseProducing()
    watchers = [Watcher(str(n)) for n in range(6)]
    joins = [
        Deferred.fromCoroutine(world.edge.node.hub.subscribe(watcher, f"c{n}", None, 1))
        for n, watcher in enumerate(watchers)
    ]
    world.wire.pump()
    assert link._unsent_answers < 1_500
    assert not any(join.called for join in joins)
    publish(world.node, "c0", 1)
    link.resumeProducing()
    world.wire.pump()
    assert all(join.called for join in joins)
    assert len(world.port) == 1
    assert [row["data"] for row in watchers[0].publications] == [1]


def test_follower_connects_again_until_its_author_is_back(world: World, trouble: Trouble) -> None:
    world.connect()
    world.wire.cut()
    assert len(world.port) == 0
    assert trouble.take() == ["the main process is away"]
    for _ in range(3):
        before = attempts(world)
        world.reactor.advance(AGAIN_SECONDS)
        assert attempts(world) == before + 1
        world.reactor.unixClients[-1][1].clientConnectionFailed(None, None)
    world.reactor.advance(AGAIN_SECONDS)
    world.connect()
    assert len(world.port) == 1


def test_worker_of_another_version_is_told_and_ignored(
    world: World, trouble: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(author, "__version__", "9.9")
    versions: list[str] = []
    world.edge.uplink.outdated = versions.append
    reader = Reader(world.edge.node)
    world.connect()
    own = pushserver.__version__
    assert trouble.take() == [
        f"a worker of version {own} is ignored by the main process of version 9.9",
        f"the main process of version 9.9 ignores this worker of version {own}",
    ]
    assert versions == ["9.9"]
    with pytest.raises(Unavailable, match="away"):
        publish(world.edge.node)
    world.wire.ends[0][1].write(b"\xff" * 100)
    world.wire.pump()
    publish(world.node)
    assert world.node.sessions.readers("", reader.stream.info.client) == []
    assert len(world.port) == 1


def test_worker_is_linked_again_to_a_main_process_of_its_version(
    world: World, trouble: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(author, "__version__", "9.9")
        world.connect()
    world.wire.cut()
    trouble.take()
    world.reactor.advance(AGAIN_SECONDS)
    world.connect()
    Deferred.fromCoroutine(world.edge.node.publish(Draft("numbers", b"1")))
    world.wire.pump()
    assert world.node.history.top("numbers") == 1


@pytest.mark.parametrize("state", ["linked", "waiting", "failed"])
def test_stopped_follower_does_not_connect_again(
    world: World, trouble: Trouble, state: str
) -> None:
    if state == "linked":
        world.connect()
    elif state == "failed":
        world.reactor.unixClients[-1][1].clientConnectionFailed(None, None)
    world.service.stopService()
    before = attempts(world)
    if state == "waiting":
        world.reactor.unixClients[-1][1].clientConnectionFailed(None, None)
    world.reactor.advance(10)
    assert attempts(world) == before
    assert len(world.port) == 0
    assert trouble.take() == []


def test_stopped_author_ends_its_links(world: World, trouble: Trouble) -> None:
    world.connect()
    world.port.stopService()
    world.port.stopService()
    assert len(world.port) == 0
    assert world.wire.ends == []
    assert len(trouble.take()) == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EADDRINUSE])
def test_socket_that_cannot_be_made_ends_the_start(number: int) -> None:
    class FullDisk(MemoryReactorClock):
        def listenUNIX(self, *_: object, **__: object) -> Any:
            raise CannotListenError(None, "/run/link", OSError(number, os.strerror(number)))

    port = AuthorPort(Author(make_node()), "/run/link", FullDisk(), run)
    with pytest.raises(StartFailed) as failed:
        port.startService()
    problem = os.strerror(number)
    assert str(failed.value) == f"pushserver: the socket of the workers, /run/link: {problem}"


def test_port_that_never_started_stops() -> None:
    world = World()
    assert world.port.stopService().called
