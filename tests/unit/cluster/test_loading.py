"""Peers of a follower that end, or fail, while one of their channels is loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.position import Start
from pushserver.errors import Unavailable
from pushserver.sessions.callbacks import Invitation
from pushserver.sessions.long_poll import LongPoll
from pushserver.sessions.node import Node
from pushserver.sessions.session import Session
from tests.unit.fakes.cluster import Cluster, run
from tests.unit.fakes.socketio import IoClient
from tests.unit.fakes.tools import Client, Reader, Time, make_broker

OPTIONS = ChannelOptions()


@pytest.fixture
def cluster() -> Cluster:
    time = Time()
    return Cluster(make_broker(OPTIONS, time=time), OPTIONS, time, 1)


def stream(node: Node) -> Callable[[], None]:
    reader = Reader(node)
    run(reader.stream.follow(["a", "b"], Start()))
    return reader.stream.closed


def long_poll(node: Node) -> Callable[[], None]:
    answers: list[object] = []
    poll = LongPoll(node, "a", answers.append, answers.append, b"")
    run(poll.wait(5))
    return poll.leave


def subscribe(node: Node) -> Callable[[], None]:
    client = Client(node)
    client.say({"id": 2, "subscribe": {"channel": "a"}})
    return client.session.closed


def invited(node: Node) -> Callable[[], None]:
    client = Client(node)
    run(client.session.invite("a", Invitation(info=b"1")))
    return client.session.closed


def connect(node: Node) -> Callable[[], None]:
    client = Client(node, connect=False)
    handle(node, lambda session: session.invite("a"))
    client.say({"id": 1, "connect": {}})
    return client.session.closed


def namespace(node: Node) -> Callable[[], None]:
    client = IoClient(node)
    client.say("40/a,")
    return client.session.closed


def handle(node: Node, do: Callable[[Session], Any]) -> None:
    """Do this in the `connect` handler of the application."""

    async def handler(session: Any, data: bytes) -> bytes:
        await do(session)
        return b""

    node.handlers.connect = handler  # type: ignore[method-assign]


@pytest.mark.parametrize("start", [stream, long_poll, subscribe, invited, connect, namespace])
def test_peer_that_ends_meanwhile_is_in_no_channel(
    cluster: Cluster, start: Callable[[Node], Callable[[], None]]
) -> None:
    node = cluster.edges[0].node
    end = start(node)
    assert node.hub.channels() == {}
    end()
    cluster.settle()
    assert node.hub.channels() == cluster.node.hub.channels() == {}
    assert node.presence._infos == {}
    roster: Any = node.sessions
    assert (roster._peers, roster._numbers) == ({}, {})
    assert not len(node.peers)


def test_client_whose_connect_fails_is_in_no_channel(cluster: Cluster) -> None:
    edge = cluster.edges[0]

    async def invite(session: Session) -> None:
        await session.invite("a")
        await session.invite("b")

    handle(edge.node, invite)
    first = Client(edge.node, connect=False)
    first.say({"id": 1, "connect": {}})
    assert edge.link is not None
    edge.link.bring_up()
    assert edge.node.hub.channels() == {}
    edge.cut()
    (reply,) = first.transport.take()
    assert reply["error"]["temporary"]
    assert edge.node.hub.channels() == {}
    edge.connect(cluster.author)
    cluster.settle()
    first.say({"id": 2, "connect": {}})
    cluster.settle()
    replies = first.transport.take()
    assert set(replies[0]["connect"]["subs"]) == {"a", "b"}


def test_invitation_that_fails_leaves_nothing(cluster: Cluster) -> None:
    edge = cluster.edges[0]
    client = Client(edge.node)
    edge.cut()
    for peer in (client.session, io(edge.node)):
        failures: list[Any] = []
        invitation = Invitation(info=b"1", expires=cluster.time.now + 10)
        call: Any = Deferred.fromCoroutine(peer.invite("a", invitation))
        call.addErrback(failures.append)
        assert failures[0].check(Unavailable)
        assert edge.node.presence._infos == {}
    assert client.session.invited == set()
    assert client.session.grants == {}
    edge.connect(cluster.author)
    call = Deferred.fromCoroutine(client.session.invite("a"))
    cluster.settle()
    assert call.called
    assert client.session.channels == {"a"}


def test_subscription_that_fails_forgets_its_facts(cluster: Cluster) -> None:
    edge = cluster.edges[0]
    client = Client(edge.node)
    edge.cut()
    edge.node.presence.describe("a", client.session, b"1")
    client.say({"id": 2, "subscribe": {"channel": "a"}})
    assert edge.node.presence._infos == {}


def io(node: Node) -> Any:
    """A client in the namespace `/`."""
    client = IoClient(node, "")
    return client.session.namespaces["/"]
