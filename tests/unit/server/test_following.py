"""Two whole servers as one: the first has the log and the application, the second the clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pushserver import Client, PushServer
from pushserver.cluster.author import Author
from pushserver.config.limits import Limits
from pushserver.server.links import AuthorPort, UplinkService
from pushserver.server.logging import run
from pushserver.server.place import Place
from tests.unit.fakes.cluster import Wire
from tests.unit.fakes.web import Log, Server

PLACE = Place("/run", 1)
PATH = PLACE.link


class Both:
    """The two servers on one reactor."""

    def __init__(self, app: PushServer):
        self.first = Server(app=app)
        clock = self.first.clock
        run_by = self.first.service._app
        assert run_by is not None
        run_by.startService()
        author = Author(self.first.node, [("", "connect"), ("", "greet"), ("", "disconnect")])
        AuthorPort(author, PATH, clock, run).startService()
        self.second = Server(clock=clock, place=PLACE)
        self.wire = Wire(clock)
        (uplink,) = [s for s in self.second.service if isinstance(s, UplinkService)]
        uplink.startService()
        self.wire.connect(PATH)

    def settle(self) -> None:
        """Let all that is under way arrive."""
        for _ in range(5):
            self.first.clock.advance(0)
            self.wire.pump()


@pytest.fixture
def app() -> PushServer:
    return PushServer()


@pytest.fixture
def make(app: PushServer) -> Iterator[Callable[[], Both]]:
    """Makes both servers, once the application has its handlers."""
    with Log():
        yield lambda: Both(app)


def test_stream_at_the_second_has_publications_of_the_first(make: Callable[[], Both]) -> None:
    both = make()
    socket = both.second.websocket("/channels/numbers")
    both.settle()
    both.first.publish(data=5)
    both.settle()
    received = [value for value in socket.texts() if "data" in value]
    assert [value["data"] for value in received] == [5]


def test_client_of_the_second_talks_to_the_application_of_the_first(
    make: Callable[[], Both], app: PushServer
) -> None:
    gone: list[str] = []

    @app.on("connect")
    def connect(client: Client) -> None:
        client.user = "anna"
        client.join("room")

    @app.on("greet")
    def greet(client: Client, name: str) -> str:
        client.send("before")
        return f"hello {name} from {client.user} at {client.address}"

    @app.on("disconnect")
    def disconnect(client: Client) -> None:
        gone.append(client.user)

    both = make()
    socket = both.second.websocket("/connection/websocket")
    socket.say({"id": 1, "connect": {}})
    both.settle()
    (reply,) = socket.texts()
    assert list(reply["connect"]["subs"]) == ["room"]
    app.publish("room", "news")
    socket.say({"id": 2, "rpc": {"method": "greet", "data": "Bo"}})
    both.settle()
    news, before, answer = socket.texts()
    assert news["push"]["pub"]["data"] == "news"
    assert before["push"]["message"]["data"] == "before"
    assert answer["rpc"]["data"] == "hello Bo from anna at 127.0.0.1"
    app.disconnect("anna")
    both.settle()
    socket.line.vanish()
    both.settle()
    assert gone == ["anna"]


def test_reload_of_the_second_changes_its_bounds(make: Callable[[], Both]) -> None:
    both = make()
    follower: Any = both.second.node._broker
    follower.reconfigure(Limits(channels=7), frozenset({"a"}))
    assert both.second.node.history.room.most_channels == 7
