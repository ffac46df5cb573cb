"""Subscriptions that are ended, or not permitted any more, while their channels are loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred

from pushserver.auth.keys import Key
from pushserver.channels.channel import ChannelOptions
from pushserver.channels.position import Start
from pushserver.errors import Denied
from pushserver.hub.hub import Hub
from pushserver.resources.api_methods import Methods
from pushserver.sessions.callbacks import Invitation
from pushserver.sessions.long_poll import LongPoll
from pushserver.sessions.node import Node
from pushserver.sessions.orders import Subscribe, Unsubscribe, carry_out
from pushserver.sessions.recheck import Recheck
from tests.unit.fakes.cluster import Cluster, run
from tests.unit.fakes.socketio import IoClient
from tests.unit.fakes.tools import Client, Reader, Time, make_broker

OPTIONS = ChannelOptions()


@pytest.fixture
def cluster() -> Cluster:
    time = Time()
    return Cluster(make_broker(OPTIONS, time=time), OPTIONS, time, 1)


@pytest.fixture
def node(cluster: Cluster) -> Node:
    return cluster.edges[0].node


def connect_as(node: Node, user: str, *channels: str) -> None:
    """Have the application name the user, and invite it to these channels."""

    async def handler(session: Any, data: bytes) -> bytes:
        session.identify(user, b"")
        for channel in channels:
            await session.invite(channel)
        return b""

    node.handlers.connect = handler  # type: ignore[method-assign]


def unsubscribe(node: Node, channel: str = "a") -> None:
    carry_out(node, Unsubscribe("ann", None, None, channel, 2000, "unsubscribed by the server"))


def client_of(cluster: Cluster) -> Client:
    node = cluster.edges[0].node
    connect_as(node, "ann")
    client = Client(node, connect=False)
    client.say({"id": 1, "connect": {}})
    cluster.settle()
    assert client.session.connected
    client.transport.take()
    return client


def test_subscribe_of_a_client_is_refused(cluster: Cluster, node: Node) -> None:
    client = client_of(cluster)
    assert client.say({"id": 2, "subscribe": {"channel": "a"}}) == []
    unsubscribe(node)
    cluster.settle()
    (reply,) = client.transport.take()
    assert reply["error"]["code"] == 103
    assert "was ended before it began" in reply["error"]["message"]
    assert client.session.channels == set()
    assert cluster.node.hub.channels() == node.hub.channels() == {}
    # The next one is not affected.
    client.say({"id": 3, "subscribe": {"channel": "a"}})
    cluster.settle()
    assert client.session.channels == {"a"}


def test_subscription_by_the_server_does_not_begin(cluster: Cluster, node: Node) -> None:
    client = client_of(cluster)
    run(client.session.invite("a", Invitation(info=b"1", expires=cluster.time.now + 10)))
    unsubscribe(node)
    cluster.settle()
    assert client.transport.take() == []
    assert not client.session.channels
    assert not client.session.invited
    assert client.session.grants == {}
    assert node.presence._infos == {}


def test_another_channel_is_joined(cluster: Cluster, node: Node) -> None:
    client = client_of(cluster)
    run(client.session.invite("a"))
    unsubscribe(node, "b")
    cluster.settle()
    assert client.session.channels == {"a"}


def test_subscription_by_the_client_in_place_of_one_by_the_server(
    cluster: Cluster, node: Node
) -> None:
    client = client_of(cluster)
    run(client.session.invite("a"))
    client.say({"id": 2, "subscribe": {"channel": "a"}})
    cluster.settle()
    (reply,) = client.transport.take()
    assert "subscribe" in reply
    assert client.session.channels == {"a"}
    assert not client.session.invited


def test_room_of_socketio_is_not_entered(cluster: Cluster, node: Node) -> None:
    connect_as(node, "ann")
    client = IoClient(node, "")
    namespace = client.session.namespaces["/"]
    run(namespace.invite("a", Invitation(expires=cluster.time.now + 10)))
    unsubscribe(node)
    cluster.settle()
    assert not namespace.channels
    assert not namespace._ends


def test_stream_ends(cluster: Cluster, node: Node) -> None:
    reader = Reader(node)
    reader.stream.info.__init__(reader.stream.info.client, "ann")  # type: ignore[misc]
    node.sessions.leave(reader.stream)
    node.sessions.enter(reader.stream)
    run(reader.stream.follow(["b", "a"], Start()))
    unsubscribe(node)
    cluster.settle()
    assert reader.closed is not None
    assert node.hub.channels() == {}


class TestRights:
    """They change while a channel is loaded."""

    @pytest.fixture
    def forbid(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
        def refuse(action: str, channel: str, *_: Any) -> bool:
            raise Denied(403, f"{action} {channel} is not allowed any more")

        def forbid() -> None:
            monkeypatch.setattr(node.permissions, "check", refuse)
            for _ in Recheck(node).run():
                pass

        return forbid

    def test_of_a_client(self, cluster: Cluster, node: Node, forbid: Callable[[], None]) -> None:
        client = client_of(cluster)
        client.say({"id": 2, "subscribe": {"channel": "a"}})
        forbid()
        cluster.settle()
        (reply,) = client.transport.take()
        assert reply["error"] == {"code": 103, "message": "subscribe a is not allowed any more"}
        assert node.hub.channels() == {}

    def test_of_a_namespace(self, cluster: Cluster, node: Node, forbid: Callable[[], None]) -> None:
        client = IoClient(node)
        assert client.say("40/a,") == []
        forbid()
        cluster.settle()
        assert client.take() == ['44/a,{"message":"subscribe a is not allowed any more"}']
        assert node.hub.channels() == {}

    def test_of_a_stream(self, cluster: Cluster, node: Node, forbid: Callable[[], None]) -> None:
        reader = Reader(node)
        run(reader.stream.follow(["a"], Start()))
        forbid()
        cluster.settle()
        assert reader.closed is not None
        assert node.hub.channels() == {}

    def test_of_a_long_poll(self, cluster: Cluster, node: Node, forbid: Callable[[], None]) -> None:
        answers: list[object] = []
        run(LongPoll(node, "a", answers.append, answers.append, b"nothing").wait(5))
        forbid()
        assert answers == [b"nothing"]
        cluster.settle()
        assert node.hub.channels() == {}

    def test_to_connect(
        self, cluster: Cluster, node: Node, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connect_as(node, "ann", "a")
        client = Client(node, connect=False)
        client.say({"id": 1, "connect": {}})

        def refuse(_: object) -> None:
            raise Denied(403, "closed")

        monkeypatch.setattr(node.permissions, "check_connect", refuse)
        cluster.settle()
        assert client.closed is not None
        assert client.closed[1] == "closed"
        assert node.hub.channels() == {}


class TestAdmission:
    """The application changes the channels of a client while its first ones are loaded."""

    @pytest.fixture
    def client(self, node: Node) -> Client:
        connect_as(node, "ann", "first")
        client = Client(node, connect=False)
        assert client.say({"id": 1, "connect": {}}) == []
        return client

    def test_joins_one_more(self, cluster: Cluster, client: Client) -> None:
        run(client.session.invite("second"))
        cluster.settle()
        (reply,) = client.transport.take()
        assert set(reply["connect"]["subs"]) == client.session.channels == {"first", "second"}

    def test_leaves_the_one_that_is_loaded(self, cluster: Cluster, client: Client) -> None:
        client.session.unsubscribe("first", 2000, "")
        cluster.settle()
        (reply,) = client.transport.take()
        assert "subs" not in reply["connect"]
        assert client.session.channels == set()

    def test_leaves_one_that_is_joined(self, cluster: Cluster, node: Node) -> None:
        connect_as(node, "ann", "first", "second")
        client = Client(node, connect=False)
        client.say({"id": 1, "connect": {}})
        edge = cluster.edges[0]
        assert edge.link is not None
        edge.link.bring_up()
        edge.link.bring_down()
        (joined,) = client.session.channels
        client.session.unsubscribe(joined, 2000, "")
        cluster.settle()
        reply = next(each for each in client.transport.take() if "connect" in each)
        assert set(reply["connect"]["subs"]) == {"first", "second"} - {joined}

    def test_namespace_joins_one_more(self, cluster: Cluster, node: Node) -> None:
        connect_as(node, "ann", "first", "third")
        client = IoClient(node)
        assert client.say("40/chess,") == []
        namespace = client.session.namespaces["/chess"]
        edge = cluster.edges[0]
        assert edge.link is not None
        edge.link.bring_up()
        edge.link.bring_down()
        run(namespace.invite("second"))
        namespace.unsubscribe("third", 2000, "")
        cluster.settle()
        assert namespace.channels == {"chess", "first", "second"}


class TestSeveralConnections:
    """`/api/subscribe` is for all connections of a user."""

    def test_one_that_leaves_meanwhile_costs_the_others_nothing(
        self, cluster: Cluster, node: Node
    ) -> None:
        clients = [client_of(cluster) for _ in range(2)]
        answers: list[Any] = []
        api = Methods(node, list, cast(Any, None), Key())
        call: Any = api.call("subscribe", b'{"user":"ann","channel":"news"}')
        Deferred.fromCoroutine(call).addBoth(answers.append)
        clients[0].session.closed()
        cluster.settle()
        assert answers == [{"result": {}}]
        assert clients[1].session.channels == {"news"}


def test_order_of_another_server_that_fails_is_a_line_of_the_log(
    cluster: Cluster, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[Any] = []
    monkeypatch.setattr(node, "log_refusal", lambda *line: lines.append(line))
    client_of(cluster)
    cluster.edges[0].cut()
    carry_out(node, Subscribe("ann", None, None, "a", Invitation()))
    ((code, _, text),) = lines
    assert code == 100
    assert text.startswith("a subscription to a: ")


def test_hub_forgets_arrivals(cluster: Cluster, node: Node) -> None:
    client = client_of(cluster)
    run(client.session.invite("a"))
    hub: Hub = node.hub
    assert hub.channels_of(client.session) == {"a"}
    cluster.settle()
    assert hub._arrivals == {}
    assert hub.channels_of(client.session) == {"a"}
