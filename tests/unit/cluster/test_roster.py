"""The peers of followers: the author lists them, and reaches each wherever it is connected."""

from __future__ import annotations

from typing import Any

import pytest

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.publication import ClientInfo
from pushserver.errors import LimitExceeded, Unavailable
from pushserver.sessions.callbacks import Broadcast, ClientSession, Invitation
from tests.unit.fakes.cluster import Cluster, Edge, result, say
from tests.unit.fakes.socketio import IoClient
from tests.unit.fakes.tools import Client, Reader, Time, Watcher, drive, make_broker, publish

OPTIONS = ChannelOptions(history_size=10, initial=2)


@pytest.fixture
def cluster() -> Cluster:
    time = Time()
    return Cluster(make_broker(OPTIONS, time=time), OPTIONS, time, 2)


@pytest.fixture
def edge(cluster: Cluster) -> Edge:
    return cluster.edges[0]


def joined(cluster: Cluster, edge: Edge, **fields: Any) -> Client:
    """A client at the edge that is in `numbers`."""
    client = Client(edge.node)
    say(cluster, client, {"id": 5, "subscribe": {"channel": "numbers", **fields}})
    return client


def only(cluster: Cluster) -> ClientSession:
    """The one session that the author knows."""
    (session,) = cluster.node.sessions
    return session


def test_clients_of_all_followers_are_present_everywhere(cluster: Cluster) -> None:
    clients = [joined(cluster, edge) for edge in cluster.edges]
    ids = {client.session.info.client for client in clients}
    assert set(drive(cluster.node.presence.clients("numbers"))) == ids
    for edge, client in zip(cluster.edges, clients, strict=True):
        (reply,) = say(cluster, client, {"id": 8, "presence": {"channel": "numbers"}})
        assert set(reply["presence"]["presence"]) == ids
        (reply,) = say(cluster, client, {"id": 9, "presence_stats": {"channel": "numbers"}})
        assert reply["presence_stats"]["num_clients"] == 2
        assert edge.node.hub.size("numbers") == 1


@pytest.mark.parametrize("command", ["presence", "presence_stats"])
def test_presence_that_the_author_cannot_tell_is_refused(
    cluster: Cluster, edge: Edge, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(channel: str) -> None:
        raise Unavailable("Redis is away", "broker")

    for name in ("clients", "stats"):
        monkeypatch.setattr(cluster.node.presence, name, refuse)
    client = joined(cluster, edge)
    (reply,) = say(cluster, client, {"id": 8, command: {"channel": "numbers"}})
    assert "Redis is away" in reply["error"]["message"]


def test_subscriber_that_leaves_is_present_nowhere(cluster: Cluster, edge: Edge) -> None:
    client = joined(cluster, edge)
    assert cluster.node.hub.size("numbers") == 1
    say(cluster, client, {"id": 6, "unsubscribe": {"channel": "numbers"}})
    assert cluster.node.hub.size("numbers") == 0
    assert only(cluster).channels == frozenset()


def test_connection_that_ends_is_known_nowhere(cluster: Cluster, edge: Edge) -> None:
    client = joined(cluster, edge)
    client.session.closed()
    cluster.settle()
    assert list(cluster.node.sessions) == []
    assert cluster.node.hub.channels() == {}


def test_follower_that_is_lost_takes_its_peers_along(cluster: Cluster, edge: Edge) -> None:
    joined(cluster, edge)
    edge.cut()
    assert list(cluster.node.sessions) == []
    assert cluster.node.hub.channels() == {}


def test_peers_are_reported_again_over_another_link(cluster: Cluster, edge: Edge) -> None:
    client = joined(cluster, edge, join_leave=True)
    Reader(edge.node)
    cluster.restart(make_broker(OPTIONS, time=cluster.time))
    assert list(cluster.node.sessions) == []
    edge.connect(cluster.author)
    cluster.settle()
    assert only(cluster).channels == {"numbers"}
    assert only(cluster).info == client.session.info
    client.pushes()
    other = joined(cluster, cluster.edges[0])
    cluster.settle()
    assert other.session.info.client in str(client.pushes())


def test_joins_at_one_follower_are_pushed_at_another(cluster: Cluster) -> None:
    first = joined(cluster, cluster.edges[0], join_leave=True)
    second = joined(cluster, cluster.edges[1])
    (push,) = first.pushes()
    assert push["join"]["info"]["client"] == second.session.info.client
    second.session.closed()
    cluster.settle()
    (push,) = first.pushes()
    assert push["leave"]["info"]["client"] == second.session.info.client


def test_observer_gets_its_own_join_after_the_reply(cluster: Cluster, edge: Edge) -> None:
    client = Client(edge.node)
    reply, own = say(
        cluster, client, {"id": 5, "subscribe": {"channel": "numbers", "join_leave": True}}
    )
    assert "subscribe" in reply
    assert own["push"]["join"]["info"]["client"] == client.session.info.client


def test_observer_that_leaves_gets_no_more_joins(cluster: Cluster, edge: Edge) -> None:
    client = joined(cluster, edge, join_leave=True)
    edge.node.presence.ignore("numbers", client.session)
    edge.node.presence.ignore("numbers", client.session)
    cluster.settle()
    client.pushes()
    joined(cluster, cluster.edges[1])
    assert client.pushes() == []


def test_author_sends_to_one_client(cluster: Cluster, edge: Edge) -> None:
    client = joined(cluster, edge)
    only(cluster).sender({"n": 1}, "")()
    only(cluster).broadcast(Broadcast.of("all", "news"))
    cluster.settle()
    assert [push["message"]["data"] for push in client.pushes()] == [
        {"n": 1},
        {"event": "news", "data": "all"},
    ]


def test_author_disconnects_a_client(cluster: Cluster, edge: Edge) -> None:
    client = joined(cluster, edge)
    only(cluster).disconnect(4500, "go")
    cluster.settle()
    assert client.closed == (4500, "go")


def test_author_unsubscribes_a_client(cluster: Cluster, edge: Edge) -> None:
    client = joined(cluster, edge)
    session = only(cluster)
    assert not session.unsubscribe("other", 2000, "no")
    assert session.unsubscribe("numbers", 2000, "no")
    cluster.settle()
    (push,) = client.pushes()
    assert push["unsubscribe"] == {"code": 2000, "reason": "no"}
    assert session.channels == frozenset()


def test_author_subscribes_a_client(cluster: Cluster, edge: Edge) -> None:
    client = joined(cluster, edge)
    publish(cluster.node, "other", 7)
    session = only(cluster)
    result(cluster, session.invite("other", Invitation(info=b'{"a":1}')))
    subscribed, publication = client.pushes()
    assert subscribed["channel"] == publication["channel"] == "other"
    assert publication["pub"]["data"] == 7
    assert session.channels == {"numbers", "other"}
    (info,) = drive(cluster.node.presence.clients("other")).values()
    assert info.chan_info == b'{"a":1}'
    result(cluster, session.invite("other"))
    assert client.pushes() == []


def test_follower_without_room_refuses_a_subscription_by_the_author(
    cluster: Cluster, edge: Edge
) -> None:
    joined(cluster, edge)
    edge.node.history.room.most_channels = 1
    with pytest.raises(LimitExceeded):
        result(cluster, only(cluster).invite("other"))


def test_author_prolongs_a_session(cluster: Cluster, edge: Edge) -> None:
    client = joined(cluster, edge)
    only(cluster).prolong(cluster.time.now + 100)
    cluster.settle()
    assert client.session.identity.expires == cluster.time.now + 100


def test_orders_to_a_client_that_is_gone_do_nothing(cluster: Cluster, edge: Edge) -> None:
    client = joined(cluster, edge)
    session = only(cluster)
    client.session.closed()
    session.sender("late", "")()
    session.disconnect(4500, "late")
    result(cluster, session.invite("other"))
    assert edge.node.hub.channels() == {}


def test_client_of_socketio_is_reached_too(cluster: Cluster, edge: Edge) -> None:
    client = IoClient(edge.node)
    client.say("40/chess,")
    cluster.settle()
    (answer,) = client.take()
    assert '"sid"' in answer
    session = only(cluster)
    assert (session.namespace, session.full_namespace) == ("chess", "/chess")
    session.sender([1], "news")()
    cluster.settle()
    assert client.take() == ['42/chess,["news",[1]]']


def test_stream_of_a_user_ends_with_the_author(cluster: Cluster, edge: Edge) -> None:
    reader = Reader(edge.node)
    stream: Any = reader.stream
    stream.info = ClientInfo("c", "anna")
    edge.node.sessions.enter(stream)
    cluster.settle()
    (remote,) = cluster.node.sessions.readers("anna")
    remote.end(4500, "go")
    cluster.settle()
    assert reader.closed == (4500, "go")


def test_reports_of_peers_that_the_author_does_not_know_are_ignored(
    cluster: Cluster, edge: Edge
) -> None:
    client = joined(cluster, edge)
    roster: Any = edge.node.sessions
    stranger = Reader(edge.node).stream
    roster.parted("numbers", stranger)
    roster.observes("numbers", stranger, True)
    client.session.closed()
    client.session.closed()
    cluster.settle()
    assert list(cluster.node.sessions) == []


def test_author_without_room_does_not_list_the_subscriber(cluster: Cluster, edge: Edge) -> None:
    client = joined(cluster, edge)
    roster: Any = edge.node.sessions
    cluster.node.history.room.most_channels = 0
    roster.joined("other", client.session, b"1")
    cluster.settle()
    assert cluster.node.hub.size("other") == 0


def test_remote_client_has_neither_a_user_to_set_nor_calls(cluster: Cluster, edge: Edge) -> None:
    joined(cluster, edge)
    session = only(cluster)
    with pytest.raises(RuntimeError, match="connect handler"):
        session.identify("anna", b"")
    with pytest.raises(RuntimeError, match=r"client\.call"):
        session.caller(1, "event", lambda _: None, 1.0)


def test_author_counts_no_deliveries_to_peers_of_its_followers(cluster: Cluster) -> None:
    clients = [joined(cluster, edge) for edge in cluster.edges for _ in range(3)]
    watcher = Watcher()
    drive(cluster.node.hub.subscribe(watcher, "watched", None, 0))
    publish(cluster.node)
    publish(cluster.node, "watched")
    cluster.settle()
    assert all(len(client.transport.take()) == 1 for client in clients)
    author, *others = (node.metrics for node in (cluster.node, *(e.node for e in cluster.edges)))
    assert [each.deliveries for each in others] == [3, 3]
    assert [sum(each.fanout_seconds.counts) for each in (author, *others)] == [1, 1, 1]
    assert (author.deliveries, sum(author.opened.values())) == (1, 0)


def test_author_visits_no_peer_of_a_follower_when_it_delivers(cluster: Cluster, edge: Edge) -> None:
    for _ in range(3):
        joined(cluster, edge)
    (audience,) = cluster.node.hub._by_channel["numbers"]
    watcher = Watcher()
    drive(cluster.node.hub.subscribe(watcher, "numbers", None, 0))
    publish(cluster.node)
    assert list(audience.groups) == [watcher.format]
    assert (len(audience.listed), audience.size) == (3, 4)
    assert watcher.offsets == [1]
    cluster.node.hub.unsubscribe(watcher, "numbers")
    publish(cluster.node)
    assert (audience.queue, audience.groups) == ([], {})
