"""The application of the author serves the clients of all followers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from pushserver.auth.identity import Identity
from pushserver.auth.patterns import Patterns
from pushserver.channels.channel import ChannelOptions
from pushserver.cluster.messages import Say, Spread
from pushserver.errors import HandlerFailed, InvalidData, InvalidName, Refused, Unavailable
from pushserver.protocols.socketio import Values, values
from pushserver.sessions.callbacks import Broadcast, ClientSession
from pushserver.sessions.orders import tell
from pushserver.sessions.visit import Visit
from tests.unit.fakes.cluster import Cluster, Edge, result, say
from tests.unit.fakes.socketio import IoClient
from tests.unit.fakes.tools import Client, Time, make_broker
from tests.unit.fakes.web import Trouble
from tests.unit.sessions.test_commands import FakeHandlers

OPTIONS = ChannelOptions(history_size=10)
EVENTS = [("", "connect"), ("guarded", "subscribe"), ("", "publish"), ("", "authenticate")]


class Application(FakeHandlers):
    """An application with a connect handler, which knows its clients."""

    decides_on_clients = True
    authenticates = True

    def __init__(self) -> None:
        super().__init__()
        self.sessions: list[ClientSession] = []
        self.visits: list[Visit] = []
        self.identity = Identity("anna", b"1", 5.0, token=True, channels=Patterns.of(["a*"]))
        self.events: list[tuple[str, list[Any]]] = []

    async def authenticate(self, visit: Visit, data: bytes) -> Identity:
        self.visits.append(visit)
        return self.identity

    async def connect(self, session: ClientSession, data: bytes) -> bytes:
        self.sessions.append(session)
        self.visits.append(session.visit)
        return await super().connect(session, data)

    async def event(self, session: ClientSession, event: str, arguments: list[Any]) -> Values:
        self.events.append((event, arguments))
        return values(arguments)


@pytest.fixture
def app() -> Application:
    return Application()


@pytest.fixture
def cluster(app: Application) -> Cluster:
    time = Time()
    return Cluster(make_broker(OPTIONS, time=time), OPTIONS, time, 2, app, EVENTS)


@pytest.fixture
def edge(cluster: Cluster) -> Edge:
    return cluster.edges[0]


def connected(cluster: Cluster, edge: Edge, **more: Any) -> Client:
    client = Client(edge.node, connect=False)
    say(cluster, client, {"id": 1, "connect": more})
    return client


def io_connected(cluster: Cluster, edge: Edge) -> IoClient:
    """A client of Socket.IO that the application has admitted."""
    client = IoClient(edge.node)
    client.say("40")
    cluster.settle()
    client.take()
    return client


def test_application_admits_a_client(cluster: Cluster, edge: Edge, app: Application) -> None:
    client = Client(edge.node, connect=False)
    (reply,) = say(cluster, client, {"id": 1, "connect": {"data": {"a": 1}}})
    assert reply["connect"]["data"] == {"hello": 1}
    assert json.loads(app.connects[0]) == {"a": 1}
    (session,) = app.sessions
    assert session.connected
    assert list(cluster.node.sessions) == [session]


def test_application_refuses_a_client(cluster: Cluster, edge: Edge, app: Application) -> None:
    app.raises = Refused("not you", 4_001)
    client = connected(cluster, edge)
    assert client.closed == (4_001, "not you")
    client.session.closed()
    cluster.settle()
    assert list(cluster.node.sessions) == []
    assert app.departures == []


def test_connect_handler_sets_the_user_and_subscribes(
    cluster: Cluster, edge: Edge, app: Application
) -> None:
    app.on_connect = lambda session: session.identify("anna", b'"A"')
    app.invitations = ("news",)
    client = Client(edge.node, connect=False)
    (reply, *_) = say(cluster, client, {"id": 1, "connect": {}})
    assert set(reply["connect"]["subs"]) == {"news"}
    assert client.session.info.user == "anna"
    assert cluster.node.sessions.of_user("anna") == app.sessions
    assert app.sessions[0].info.conn_info == b'"A"'
    with pytest.raises(RuntimeError, match="not later"):
        app.sessions[0].identify("other", b"")


def test_message_of_a_connect_handler_comes_after_the_reply(
    cluster: Cluster, edge: Edge, app: Application
) -> None:
    app.on_connect = lambda session: session.sender("hello", "")()
    client = Client(edge.node, connect=False)
    reply, message = say(cluster, client, {"id": 1, "connect": {}})
    assert "connect" in reply
    assert message["push"]["message"]["data"] == "hello"


def test_application_knows_the_request_of_a_client(
    cluster: Cluster, edge: Edge, app: Application
) -> None:
    client = Client(edge.node, connect=False)
    client.session.visit = Visit("192.0.2.1", "websocket", {"cookie": "a=1"}, "http://h/")
    say(cluster, client, {"id": 1, "connect": {}})
    assert app.visits[-1] == Visit("192.0.2.1", "websocket", {"cookie": "a=1"}, "http://h/")


def test_application_learns_once_that_a_client_is_gone(
    cluster: Cluster, edge: Edge, app: Application
) -> None:
    client = connected(cluster, edge)
    client.session.disconnect(3_500, "bye")
    client.session.closed()
    cluster.settle()
    edge.cut()
    assert app.departures == ["bye"]


def test_application_learns_that_a_client_from_before_the_first_link_is_gone(
    app: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Application, "decides_on_clients", False)
    time = Time()
    cluster = Cluster(make_broker(OPTIONS, time=time), OPTIONS, time, 0, app, EVENTS[1:])
    edge = Edge(OPTIONS, time)
    cluster.edges.append(edge)
    client = Client(edge.node)
    edge.connect(cluster.author)
    cluster.settle()
    assert len(app.sessions) == 1
    client.session.disconnect(3_500, "bye")
    client.session.closed()
    cluster.settle()
    assert app.departures == ["bye"]


def test_application_learns_that_a_process_is_gone_with_its_clients(
    cluster: Cluster, edge: Edge, app: Application
) -> None:
    client = connected(cluster, edge)
    other = connected(cluster, cluster.edges[1])
    client.session.disconnect(3_500, "bye")
    client.session.closed()
    edge.cut()
    assert app.departures == ["a process of the server is gone"]
    assert other.closed is None


def test_clients_of_an_earlier_author_connect_anew_if_a_handler_decides(
    cluster: Cluster, edge: Edge
) -> None:
    client = connected(cluster, edge)
    cluster.restart(make_broker(OPTIONS, time=cluster.time))
    edge.connect(cluster.author)
    cluster.settle()
    assert client.closed == (3_001, "the server was restarted")


def test_clients_of_an_earlier_author_stay_if_no_handler_decides(
    cluster: Cluster, edge: Edge, app: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Application, "decides_on_clients", False)
    client = connected(cluster, edge)
    cluster.restart(make_broker(OPTIONS, time=cluster.time))
    edge.connect(cluster.author)
    cluster.settle()
    assert client.closed is None
    assert len(app.sessions) == 2
    (reply,) = say(cluster, client, {"id": 2, "rpc": {"method": "m", "data": 1}})
    assert reply["rpc"]["data"] == 1


def test_clients_of_an_earlier_author_connect_anew_if_the_application_is_too_busy(
    cluster: Cluster, edge: Edge, app: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Application, "decides_on_clients", False)
    client = connected(cluster, edge)
    cluster.restart(make_broker(OPTIONS, time=cluster.time))
    app.raises = HandlerFailed("busy")
    edge.connect(cluster.author)
    cluster.settle()
    assert client.closed == (3_001, "busy")


def test_application_answers_calls_and_decides(
    cluster: Cluster, edge: Edge, app: Application
) -> None:
    client = connected(cluster, edge)
    say(cluster, client, {"id": 2, "rpc": {"method": "m", "data": 2}})
    say(cluster, client, {"id": 3, "send": {"data": 3}})
    say(cluster, client, {"id": 4, "subscribe": {"channel": "guarded:1", "data": 4}})
    say(cluster, client, {"id": 5, "subscribe": {"channel": "free", "data": 5}})
    say(cluster, client, {"id": 6, "publish": {"channel": "open", "data": 6}})
    assert app.commands == [b"2", b"3", b"4", b"6"]
    assert cluster.node.history.top("open") == 1
    app.raises = Refused("no", 1_000)
    (reply,) = say(cluster, client, {"id": 7, "publish": {"channel": "open", "data": 7}})
    assert reply["error"] == {"code": 1_000, "message": "no"}


def test_client_that_leaves_during_a_call_costs_nothing(
    cluster: Cluster, edge: Edge, app: Application
) -> None:
    client = connected(cluster, edge)
    app.pending = Deferred()
    say(cluster, client, {"id": 2, "rpc": {"method": "m", "data": 2}})
    client.session.closed()
    cluster.settle()
    app.pending.callback(None)
    cluster.settle()
    assert len(app.departures) == 1


def test_call_for_a_client_that_the_author_does_not_know_fails(
    cluster: Cluster, edge: Edge
) -> None:
    client = connected(cluster, edge)
    handlers: Any = edge.node.handlers
    roster: Any = edge.node.sessions
    session = client.session
    call = handlers.rpc(session, "m", b"1")
    waiting = Deferred.fromCoroutine(call)
    waiting.addErrback(lambda failure: failure.trap(HandlerFailed))
    roster._forget(session)
    cluster.settle()
    with pytest.raises(Unavailable, match="the connection is closed"):
        roster.number(session)
    assert waiting.called


def test_error_of_the_server_in_a_call_is_logged_and_hidden(
    cluster: Cluster, edge: Edge, app: Application, trouble: Trouble
) -> None:
    client = connected(cluster, edge)
    app.raises = KeyError("secret")
    (reply,) = say(cluster, client, {"id": 2, "rpc": {"method": "m", "data": 2}})
    assert reply["error"]["message"] == "the application failed"
    (text,) = trouble.take()
    assert text.endswith("KeyError('secret')")


def test_application_identifies_peers(cluster: Cluster, edge: Edge, app: Application) -> None:
    handlers: Any = edge.node.handlers
    found = result(cluster, handlers.authenticate(Visit("a"), b""))
    assert found == app.identity
    app.identity = Identity()
    assert result(cluster, handlers.authenticate(Visit("a"), b"")).is_anonymous


def test_event_of_socketio_is_answered_with_bytes(
    cluster: Cluster, edge: Edge, app: Application
) -> None:
    client = io_connected(cluster, edge)
    client.say('451-7["upload",{"_placeholder":true,"num":0},"x"]', b"\x00\x01")
    cluster.settle()
    assert app.events == [("upload", [b"\x00\x01", "x"])]
    assert client.take()[0] == '461-7[{"_placeholder":true,"num":0},"x"]'


def test_application_calls_a_client_of_socketio(
    cluster: Cluster, edge: Edge, app: Application
) -> None:
    client = io_connected(cluster, edge)
    answers: list[Any] = []
    app.sessions[0].caller((1, "two"), "ask", answers.append, 1.0)()
    link = edge.link
    assert link is not None
    link.bring_down()
    assert client.take() == ['420["ask",1,"two"]']
    client.say('430["yes"]')
    link.bring_up()
    assert answers == [["yes"]]
    app.sessions[0].caller(1, "ask", answers.append, 1.0)()
    edge.cut()
    assert answers == [["yes"], None]


def test_call_of_a_client_that_is_gone_has_no_answer(
    cluster: Cluster, edge: Edge, app: Application
) -> None:
    client = io_connected(cluster, edge)
    client.leave()
    answers: list[Any] = []
    app.sessions[0].caller(1, "ask", answers.append, 1.0)()
    cluster.settle()
    assert answers == [None]


def test_data_that_a_client_cannot_get_is_refused_at_once(
    cluster: Cluster, edge: Edge, app: Application
) -> None:
    connected(cluster, edge)
    io = io_connected(cluster, edge)
    for session in app.sessions:
        with pytest.raises(InvalidData):
            session.sender(float("nan"), "")
        with pytest.raises(InvalidName):
            session.sender(1, "a\nb")
    with pytest.raises(InvalidData):
        app.sessions[0].sender(b"bytes", "")
    app.sessions[1].sender(b"bytes", "file")()
    cluster.settle()
    assert "file" in io.take()[-2]


def test_follower_of_a_server_without_an_application_asks_nothing() -> None:
    time = Time()
    cluster = Cluster(make_broker(OPTIONS, time=time), OPTIONS, time, 1)
    handlers = cluster.edges[0].node.handlers
    assert not handlers.decides_on_clients
    assert not handlers.authenticates
    client = connected(cluster, cluster.edges[0])
    (reply,) = say(cluster, client, {"id": 2, "rpc": {"method": "m"}})
    assert reply["error"]["code"] == 108
    (reply,) = say(cluster, client, {"id": 3, "subscribe": {"channel": "a"}})
    assert "subscribe" in reply


class TestClientThatLeaves:
    """It hangs up while a process decides about it."""

    @pytest.mark.parametrize("of_socketio", [False, True])
    def test_while_it_is_identified_is_known_nowhere(
        self, cluster: Cluster, edge: Edge, app: Application, of_socketio: bool
    ) -> None:
        waiting: Deferred[None] = Deferred()

        async def authenticate(visit: Visit, data: bytes) -> Identity:
            await waiting
            return app.identity

        app.authenticate = authenticate  # type: ignore[method-assign]
        client = self.arrive(edge, of_socketio)
        cluster.settle()
        client.session.closed()
        waiting.callback(None)
        cluster.settle()
        assert app.connects == []
        self.is_forgotten(cluster, edge)

    @pytest.mark.parametrize("of_socketio", [False, True])
    def test_while_its_connect_handler_runs_is_departed(
        self, cluster: Cluster, edge: Edge, app: Application, of_socketio: bool
    ) -> None:
        app.pending = Deferred()
        app.on_connect = lambda session: session.identify("bob", b"")
        client = self.arrive(edge, of_socketio)
        cluster.settle()
        client.session.closed()
        app.pending.callback(None)
        cluster.settle()
        assert len(app.departures) == 1
        self.is_forgotten(cluster, edge)

    @pytest.mark.parametrize("of_socketio", [False, True])
    def test_between_the_handlers_for_the_channels_of_its_token_is_departed(
        self, cluster: Cluster, edge: Edge, app: Application, of_socketio: bool
    ) -> None:
        app.identity = Identity(
            "anna", token=True, channels=Patterns.of(["guarded:a", "guarded:b"])
        )
        client = self.arrive(edge, of_socketio)
        for _ in range(3):
            assert edge.link is not None
            edge.link.bring_up()
            edge.link.bring_down()
            if app.connects:
                app.pending = app.pending or Deferred()
        client.session.closed()
        assert app.pending is not None
        app.pending.callback(None)
        cluster.settle()
        assert len(app.departures) == 1
        self.is_forgotten(cluster, edge)

    def arrive(self, edge: Edge, of_socketio: bool) -> Any:
        if of_socketio:
            io = IoClient(edge.node)
            io.say("40/a,")
            return io
        client = Client(edge.node, connect=False)
        client.say({"id": 1, "connect": {}})
        return client

    def is_forgotten(self, cluster: Cluster, edge: Edge) -> None:
        for node in (cluster.node, edge.node):
            assert list(node.sessions) == []
            assert node.sessions._not_admitted == {}
            assert node.hub.channels() == {}


def test_client_that_was_refused_is_not_the_same_user_any_more(
    cluster: Cluster, edge: Edge, app: Application
) -> None:
    app.raises = Refused("not you", 403)
    client = Client(edge.node, connect=False)
    say(cluster, client, {"id": 1, "connect": {}})
    assert client.closed is None
    assert cluster.node.sessions.of_user("anna") == edge.node.sessions.of_user("anna") == []
    app.raises, app.identity = None, Identity("bob", token=True)
    say(cluster, client, {"id": 2, "connect": {}})
    assert client.session.info.user == "bob"
    (session,) = cluster.node.sessions
    assert session.info.user == "bob"


def test_reserved_event_is_refused_to_the_application_and_ends_no_link(
    cluster: Cluster, edge: Edge, app: Application
) -> None:
    client, other = io_connected(cluster, edge), connected(cluster, edge)
    (session,) = (s for s in cluster.node.sessions if s.full_namespace)
    with pytest.raises(InvalidName, match=r"one of Socket\.IO's own"):
        session.sender(1, "connect")
    tell(cluster.node, Broadcast.of(1, "disconnect"), ())
    cluster.settle()
    assert client.take() == ['42["message",1]']
    (push,) = other.pushes()
    assert push["message"]["data"] == {"event": "disconnect", "data": 1}
    # From a process of another version.
    number = edge.node.sessions.number(client.session.namespaces["/"])  # type: ignore[attr-defined]
    edge.node.sessions.received(Say(number, Spread.of(1), "connect"))  # type: ignore[attr-defined]
    assert client.take() == []
