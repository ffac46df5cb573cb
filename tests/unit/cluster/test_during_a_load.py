"""Orders and rules that change the channels of a peer while some of them are loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred

from pushserver.auth.identity import Identity
from pushserver.auth.keys import Key
from pushserver.auth.patterns import Patterns
from pushserver.channels.channel import ChannelOptions
from pushserver.channels.position import Start
from pushserver.channels.publication import Draft
from pushserver.errors import Denied
from pushserver.hub.hub import Hub
from pushserver.resources.api_methods import Methods
from pushserver.sessions.callbacks import Invitation
from pushserver.sessions.entering import _invite_by_token
from pushserver.sessions.event_stream import Stream
from pushserver.sessions.long_poll import LongPoll
from pushserver.sessions.namespace import Namespace
from pushserver.sessions.node import Node
from pushserver.sessions.orders import Prolong, Subscribe, Unsubscribe, carry_out, invitations
from pushserver.sessions.recheck import Recheck
from pushserver.sessions.refreshing import invite_by_token
from pushserver.sessions.session import Session
from tests.unit.fakes.cluster import Cluster, run
from tests.unit.fakes.socketio import IoClient
from tests.unit.fakes.tools import LINES, Client, FakeTransport, Reader, Time, make_broker

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
    transport = FakeTransport(LINES)
    stream = Stream(node, transport, Identity("ann"))
    run(stream.follow(["b", "a"], Start()))
    unsubscribe(node)
    cluster.settle()
    assert transport.closed is not None
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

    @pytest.mark.parametrize("method", ["history", "presence", "presence_stats"])
    def test_of_a_client_that_reads(
        self, cluster: Cluster, node: Node, forbid: Callable[[], None], method: str
    ) -> None:
        client = client_of(cluster)
        if method != "history":
            client.say({"id": 2, "subscribe": {"channel": "a"}})
            cluster.settle()
            client.transport.take()
        assert client.say({"id": 3, method: {"channel": "a"}}) == []
        forbid()
        client.transport.take()
        cluster.settle()
        (reply,) = client.transport.take()
        assert reply["error"]["code"] == 103

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

    def test_leaves_one_of_two(self, cluster: Cluster, node: Node) -> None:
        connect_as(node, "ann", "first", "second")
        client = Client(node, connect=False)
        client.say({"id": 1, "connect": {}})
        client.session.unsubscribe("first", 2000, "")
        cluster.settle()
        (reply,) = client.transport.take()
        assert set(reply["connect"]["subs"]) == client.session.channels == {"second"}

    def test_pushes_no_end_before_the_reply(self, cluster: Cluster, node: Node) -> None:
        client = Client(node, connect=False)
        client.session.start_connect()
        run(client.session.join("a", None, 0))
        cluster.settle()
        assert client.session.unsubscribe("a", 2000, "")
        assert client.transport.take() == []

    def test_namespace_joins_one_more(self, cluster: Cluster, node: Node) -> None:
        connect_as(node, "ann", "first", "third")
        client = IoClient(node)
        assert client.say("40/chess,") == []
        namespace = client.session.namespaces["/chess"]
        run(namespace.invite("second"))
        namespace.unsubscribe("third", 2000, "")
        cluster.settle()
        assert namespace.channels == {"chess", "first", "second"}


class TestOrdersDuringAdmission:
    """The server API and `app.subscribe` name the user of a client that is being admitted."""

    INVITATION = Invitation(data=b'{"d":1}', info=b'{"i":1}', initial=2, expires=2e9)

    @pytest.fixture(params=["client", "namespace"])
    def peer(self, request: Any, node: Node) -> Client | IoClient:
        connect_as(node, "ann", "first")
        if request.param == "client":
            client = Client(node, connect=False)
            assert client.say({"id": 1, "connect": {}}) == []
            return client
        namespace = IoClient(node)
        assert namespace.say("40/chess,") == []
        return namespace

    def session(self, peer: Client | IoClient) -> Any:
        return peer.session if isinstance(peer, Client) else peer.session.namespaces["/chess"]

    def test_take_it_out_of_a_channel(
        self, cluster: Cluster, node: Node, peer: Client | IoClient
    ) -> None:
        unsubscribe(node, "first")
        cluster.settle()
        session = self.session(peer)
        assert session.connected
        assert "first" not in session.channels
        assert "first" not in cluster.node.hub.channels()

    def test_put_it_into_a_channel(
        self, cluster: Cluster, node: Node, peer: Client | IoClient
    ) -> None:
        for n in range(5):
            cluster.node.publish_at_once(Draft("more", b'"more-%d"' % n))
        carry_out(node, Subscribe("ann", None, None, "more", self.INVITATION))
        carry_out(node, Subscribe("bob", None, None, "others", Invitation()))
        cluster.settle()
        session = self.session(peer)
        assert session.channels - {"chess"} == {"first", "more"}
        texts = str(peer.transport.take()) if isinstance(peer, Client) else str(peer.take())
        assert [f"more-{n}" in texts for n in range(5)] == [False, False, False, True, True]
        if isinstance(peer, Client):
            assert "'data': {'d': 1}" in texts
            assert session.invited == {"first", "more"}
            assert session.planned == {}
        assert len(node.presence._infos) == 1
        # The subscription ends in its time.
        cluster.time.now = 2e9 + 30
        cluster.time.pass_on()
        assert session.expires if isinstance(peer, Client) else session.ends == [2e9]

    def test_are_not_for_a_client_that_has_another_user_then(
        self, cluster: Cluster, node: Node
    ) -> None:
        waiting: Deferred[None] = Deferred()

        async def handler(session: Any, data: bytes) -> bytes:
            session.identify("ann", b"")
            await session.invite("first")
            await waiting
            session.identify("bob", b"")
            return b""

        node.handlers.connect = handler  # type: ignore[method-assign]
        client, namespace = Client(node, connect=False), IoClient(node)
        client.say({"id": 1, "connect": {}})
        namespace.say("40/chess,")
        for channel in ("more", "chess"):
            carry_out(node, Subscribe("ann", None, None, channel, Invitation(info=b"1")))
        waiting.callback(None)
        cluster.settle()
        assert client.session.channels == {"first"}
        assert namespace.session.namespaces["/chess"].channels == {"first", "chess"}
        assert node.presence._infos == {}

    def test_cost_a_client_of_another_user_no_channel_of_its_own(
        self, cluster: Cluster, node: Node
    ) -> None:
        """The handler, or its token, joins it to the channel of the order too."""
        waiting: Deferred[None] = Deferred()

        async def handler(session: Any, data: bytes) -> bytes:
            session.identify("ann", b"")
            await waiting
            await session.invite("more")
            session.identify("bob", b"")
            return b""

        node.handlers.connect = handler  # type: ignore[method-assign]
        client, namespace = Client(node, connect=False), IoClient(node)
        client.say({"id": 1, "connect": {}})
        namespace.say("40/chess,")
        carry_out(node, Subscribe("ann", None, None, "more", self.INVITATION))
        waiting.callback(None)
        cluster.settle()
        assert client.session.channels == {"more"}
        assert client.session.grants == {}
        assert namespace.session.namespaces["/chess"].channels == {"more", "chess"}
        assert namespace.session.namespaces["/chess"].ends == []
        assert node.presence._infos == {}

    def test_end_in_their_time_for_a_client_that_recovers(
        self, cluster: Cluster, node: Node
    ) -> None:
        connect_as(node, "ann", "first")
        client = Client(node, connect=False)
        position = {"recover": True, "epoch": "x", "offset": 10**7}
        client.say({"id": 1, "connect": {"subs": {"more": position}}})
        carry_out(node, Subscribe("ann", None, None, "more", self.INVITATION))
        cluster.settle()
        (reply,) = client.transport.take()
        assert reply["connect"]["subs"]["more"]["data"] == {"d": 1}
        assert client.session.grants["more"].expires == self.INVITATION.expires

    def test_come_late_for_a_client_that_has_another_user_now(
        self, cluster: Cluster, node: Node
    ) -> None:
        """The server API waits for one client of the user after the other."""
        order = Subscribe("ann", None, None, "more", Invitation())
        waiting: Deferred[None] = Deferred()

        async def handler(session: Any, data: bytes) -> bytes:
            session.identify("ann", b"")
            await waiting
            session.identify("bob", b"")
            return b""

        node.handlers.connect = handler  # type: ignore[method-assign]
        client, namespace = Client(node, connect=False), IoClient(node)
        client.say({"id": 1, "connect": {}})
        namespace.say("40/chess,")
        found = invitations(node, order)
        assert len(found) == 2
        waiting.callback(None)
        cluster.settle()
        for session, invitation in found:
            assert session.connected
            run(session.invite("more", invitation))
        cluster.settle()
        assert [session.channels for session, _ in found] == [set(), {"chess"}]

    def test_take_it_out_of_a_channel_of_its_token_while_the_handler_of_another_runs(
        self, node: Node
    ) -> None:
        waiting: list[Deferred[None]] = []

        async def decide(session: Any, channel: str, data: bytes) -> None:
            waiting.append(Deferred())
            await waiting[-1]

        node.handlers.subscribe = decide  # type: ignore[method-assign]
        node.permissions.check = lambda *_, **__: True  # type: ignore[method-assign]
        identity = Identity("ann", token=True, channels=Patterns.of(["one", "two"]))
        client, namespace = Client(node, connect=False), IoClient(node)
        run(self.invited_by_token(client.session, identity))
        name = Namespace(namespace.session, "/x", "")
        run(self.invited_by_token(name, identity))
        for peer in (client.session, name):
            peer.unsubscribe("one", 2000, "")
        while waiting:
            waiting.pop(0).callback(None)
        assert client.session.wanted == {"two"}
        assert set(name.invited) == {"two"}

    async def invited_by_token(self, peer: Session | Namespace, identity: Identity) -> None:
        if isinstance(peer, Session):
            peer.start_connect()
            peer.become(identity)
            await invite_by_token(peer)
        else:
            peer.become(identity)
            await _invite_by_token(peer, 9)

    def test_are_not_for_a_client_whose_user_is_not_known(
        self, cluster: Cluster, node: Node
    ) -> None:
        waiting: Deferred[None] = Deferred()

        async def handler(session: Any, data: bytes) -> bytes:
            await waiting
            return b""

        node.handlers.connect = handler  # type: ignore[method-assign]
        client = Client(node, connect=False)
        client.say({"id": 1, "connect": {}})
        for user in ("ann", ""):
            carry_out(node, Subscribe(user, None, None, "more", Invitation()))
            carry_out(node, Prolong(user, None, None, int(cluster.time.now) + 500))
        waiting.callback(None)
        cluster.settle()
        assert client.session.connected
        assert client.session.channels == set()
        assert not client.session.identity.expires

    def test_change_its_end(self, cluster: Cluster, node: Node, peer: Client | IoClient) -> None:
        carry_out(node, Prolong("ann", None, None, int(cluster.time.now) + 500))
        cluster.settle()
        assert self.session(peer).identity.expires == int(cluster.time.now) + 500

    def test_of_the_main_process_come_to_the_worker(
        self, cluster: Cluster, peer: Client | IoClient
    ) -> None:
        edge = cluster.edges[0]
        assert edge.link is not None
        # The handler of this test is the worker's own.
        edge.node.sessions.arrived(self.session(peer))  # type: ignore[attr-defined]
        edge.link.bring_up()
        carry_out(cluster.node, Unsubscribe("ann", None, None, "first", 2000, ""))
        carry_out(cluster.node, Subscribe("ann", None, None, "more", Invitation()))
        cluster.settle()
        assert self.session(peer).channels - {"chess"} == {"more"}

    def test_of_the_server_api(self, cluster: Cluster, node: Node, peer: Client | IoClient) -> None:
        answers: list[Any] = []
        api = Methods(node, list, cast(Any, None), Key())
        call: Any = api.call("subscribe", b'{"user":"ann","channel":"more"}')
        Deferred.fromCoroutine(call).addBoth(answers.append)
        cluster.settle()
        assert answers == [{"result": {}}]
        assert self.session(peer).channels - {"chess"} == {"first", "more"}


class TestOfReadersInTheMainProcess:
    def test_unsubscribe_reaches_one_whose_channels_are_loaded(
        self, cluster: Cluster, node: Node
    ) -> None:
        transport = FakeTransport(LINES)
        stream = Stream(node, transport, Identity("ann"))
        run(stream.follow(["b", "a"], Start()))
        edge = cluster.edges[0]
        assert edge.link is not None
        edge.link.bring_up()
        unsubscribe(cluster.node, "c")
        unsubscribe(cluster.node)
        cluster.settle()
        assert transport.closed is not None
        assert "unsubscribed from a" in str(transport.closed)
        assert node.hub.channels() == {}


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


class TestSeveralOrdersForOneChannel:
    """They come while the channel is loaded."""

    @pytest.fixture
    def published(self, cluster: Cluster) -> None:
        for n in range(5):
            cluster.node.publish_at_once(Draft("a", b"%d" % n))

    def test_two_joins_are_one(self, cluster: Cluster, published: None) -> None:
        client = client_of(cluster)
        for _ in range(2):
            run(client.session.invite("a", Invitation(initial=3)))
        cluster.settle()
        pushes = client.pushes()
        assert [p["pub"]["offset"] for p in pushes if "pub" in p] == [3, 4, 5]
        assert sum("subscribe" in p for p in pushes) == 1

    def test_two_joins_of_a_namespace_are_one(self, cluster: Cluster, published: None) -> None:
        connect_as(cluster.edges[0].node, "ann")
        client = IoClient(cluster.edges[0].node, "")
        namespace = client.session.namespaces["/"]
        for _ in range(2):
            run(namespace.invite("a", Invitation(initial=3)))
        cluster.settle()
        assert len(client.take()) == 3

    @pytest.mark.parametrize("of_namespace", [False, True])
    def test_join_after_a_leave_counts(self, cluster: Cluster, of_namespace: bool) -> None:
        node = cluster.edges[0].node
        peer: Any = client_of(cluster).session
        if of_namespace:
            peer = IoClient(node, "").session.namespaces["/"]
        invitation = Invitation(info=b'{"chan":1}', expires=cluster.time.now + 100)
        run(peer.invite("a", invitation))
        peer.unsubscribe("a", 2000, "")
        run(peer.invite("a", invitation))
        cluster.settle()
        assert peer.channels == {"a"}
        assert len(node.presence._infos) == 1
        if of_namespace:
            assert peer.ends
        else:
            assert peer.invited == {"a"}
            assert set(peer.grants) == {"a"}

    def test_join_after_a_leave_is_passed_to_the_worker(self, cluster: Cluster) -> None:
        client = client_of(cluster)
        run(client.session.invite("a"))
        cluster.settle()
        client.transport.take()
        (peer,) = [p for p in cluster.node.sessions if p.info.client == client.session.info.client]
        peer.unsubscribe("a", 2000, "out")
        run(peer.invite("a"))
        cluster.settle()
        kinds = [kind for push in client.pushes() for kind in push if kind != "channel"]
        assert kinds == ["unsubscribe", "subscribe"]
        assert client.session.channels == {"a"}

    def test_leave_and_join_before_the_connect_reply(self, cluster: Cluster, node: Node) -> None:
        connect_as(node, "ann", "a", "b")
        client = Client(node, connect=False)
        client.say({"id": 1, "connect": {}})
        client.session.unsubscribe("a", 2000, "")
        run(client.session.invite("a"))
        cluster.settle()
        (value,) = client.transport.take()
        assert set(value["connect"]["subs"]) == {"a", "b"}


class TestTheServerAndTheClientSubscribe:
    """The server joins a client to a channel while the client's own subscription is loaded."""

    @pytest.fixture
    def client(self, cluster: Cluster) -> Client:
        for n in range(5):
            cluster.node.publish_at_once(Draft("a", b"%d" % n))
        client = client_of(cluster)
        client.say({"id": 2, "subscribe": {"channel": "a", "data": {"last": 3}}})
        return client

    def test_publications_come_once(self, cluster: Cluster, client: Client) -> None:
        run(client.session.invite("a", Invitation(initial=3, expires=2e9)))
        cluster.settle()
        (reply,) = client.transport.take()
        assert [row["offset"] for row in reply["subscribe"]["publications"]] == [3, 4, 5]
        assert client.session.channels == {"a"}
        assert client.session.invited == set()
        assert client.session.grants == {}

    def test_one_by_the_server_that_began_first_is_replaced(
        self, cluster: Cluster, node: Node, client: Client
    ) -> None:
        cluster.settle()
        client.session.leave("a")
        client.transport.take()
        hub, invitation = node.hub, Invitation(initial=0)
        waiting: list[Deferred[None]] = []
        load = hub._load

        async def slow(names: Any, fresh: bool = False) -> None:
            if not waiting:
                waiting.append(Deferred())
                await waiting[0]
            await load(names, fresh)

        hub._load = slow
        client.say({"id": 3, "subscribe": {"channel": "a", "data": {"last": 3}}})
        run(client.session.invite("a", invitation))
        cluster.settle()
        assert client.session.invited == {"a"}
        waiting[0].callback(None)
        cluster.settle()
        push, reply = client.transport.take()
        assert "subscribe" in push["push"]
        assert len(reply["subscribe"]["publications"]) == 3
        assert client.session.channels == {"a"}
        assert client.session.invited == set()


def test_client_that_leaves_while_its_handler_runs_costs_the_handler_nothing(node: Node) -> None:
    waiting: Deferred[None] = Deferred()
    done: list[str] = []

    async def handler(session: Any, data: bytes) -> bytes:
        await waiting
        session.identify("ann", b"")
        done.append(session.info.user)
        return b""

    node.handlers.connect = handler  # type: ignore[method-assign]
    client, namespace = Client(node, connect=False), IoClient(node)
    client.say({"id": 1, "connect": {}})
    namespace.say("40/chess,")
    client.session.closed()
    namespace.session.closed()
    waiting.callback(None)
    assert done == ["", ""]
    assert list(node.sessions) == []


class TestPublicationBeforeTheConnectReply:
    """Another channel of the client is still loaded when it comes: clients would drop it."""

    def test_comes_after_it_for_a_client_with_positions_of_an_earlier_server(
        self, cluster: Cluster, node: Node
    ) -> None:
        """The author is asked for what the client has seen, once for all channels."""
        connect_as(node, "ann", "a", "b")
        client = Client(node, connect=False)
        position = {"recover": True, "epoch": "x", "offset": 10**7}
        client.say({"id": 1, "connect": {"subs": {"a": position, "b": position}}})
        edge = cluster.edges[0]
        assert edge.link is not None
        edge.link.bring_up()
        edge.link.bring_down()
        reply, *_ = client.transport.take()
        assert set(reply["connect"]["subs"]) == {"a", "b"}

    def test_comes_after_it(self, cluster: Cluster, node: Node) -> None:
        connect_as(node, "ann", "a", "b")
        client = Client(node, connect=False)
        client.say({"id": 1, "connect": {}})
        self.publish_between(cluster, client.session)
        cluster.settle()
        reply, *pushes = client.transport.take()
        assert set(reply["connect"]["subs"]) == client.session.channels == {"a", "b", "c"}
        # Those before the subscription are history, as for each client that subscribes.
        for channel in "ab":
            got = [push for push in pushes if push["push"]["channel"] == channel]
            assert reply["connect"]["subs"][channel].get("offset", 0) + len(got) == 2

    def test_comes_after_the_answer_of_socketio(self, cluster: Cluster, node: Node) -> None:
        connect_as(node, "ann", "a", "b")
        client = IoClient(node)
        assert client.say("40/x,") == []
        self.publish_between(cluster, client.session.namespaces["/x"])
        cluster.settle()
        answer, *_ = client.take()
        assert answer.startswith('40/x,{"sid"')
        assert client.session.namespaces["/x"].channels == {"x", "a", "b", "c"}

    def publish_between(self, cluster: Cluster, peer: Any) -> None:
        """Publish before and after the worker has these channels, and before it has `c`."""
        edge = cluster.edges[0]
        assert edge.link is not None
        for channel in "abx":
            cluster.node.publish_at_once(Draft(channel, b"1"))
        edge.link.bring_up()
        run(peer.invite("c"))
        edge.link.bring_down()
        for channel in "abx":
            cluster.node.publish_at_once(Draft(channel, b"2"))
        edge.link.bring_down()
        cluster.time.pass_on()
