"""Publications and messages that skip clients."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pushserver import Client, PushServer
from pushserver.channels.channel import ChannelOptions
from pushserver.config.settings import Config
from tests.unit.fakes.web import Server, Socket, masked

SOCKETIO = "/socket.io/?EIO=4&transport=websocket"


class Room:
    """A server with clients of both protocols in the channel `a`; each protocol has two."""

    def __init__(self, app: PushServer, config: Config | None = None):
        self.clients: list[Client] = []
        app.on("connect", thread=False)(lambda client: self.clients.append(client))
        self.app = app
        self.server = Server(config=config, app=app)
        self.server.service.startService()
        self.server.clock.advance(0)
        self.pages = [self.server.session() for _ in range(2)]
        for page in self.pages:
            page.say({"id": 2, "subscribe": {"channel": "a"}})
        for _ in range(2):
            socket = self.server.websocket(SOCKETIO)
            socket.say(b"40/a,")
            self.pages.append(socket)

    def say(self, number: int, text: str) -> None:
        self.pages[number].line.send(masked(text.encode()))

    def heard(self) -> list[list[Any]]:
        """The data that each client has got since the last call."""
        self.server.clock.advance(0)
        return [heard(page) for page in self.pages]


def heard(page: Socket) -> list[Any]:
    values = []
    for frame in page.take():
        if frame.opcode == 8:
            break
        text = frame.payload.decode()
        for line in text.split("\n"):
            if line.startswith("42"):
                values.append(json.loads(line.removeprefix("42/a,"))[1])
            elif '"pub"' in line:
                values.append(json.loads(line)["push"]["pub"]["data"])
            elif '"message"' in line:
                values.append(json.loads(line)["push"]["message"]["data"])
    return values


@pytest.fixture
def app() -> PushServer:
    return PushServer()


def test_publication_skips_clients_or_their_ids(app: PushServer) -> None:
    room = Room(app)
    one, two, three, four = room.clients
    app.publish("a", "all")
    app.publish("a", "x", skip=one)
    app.publish("a", "y", skip=four.id)
    app.publish("a", "z", skip=[two, three.id])
    assert room.heard() == [
        ["all", "y", "z"],
        ["all", "x", "y"],
        ["all", "x", "y"],
        ["all", "x", "z"],
    ]


def test_skipped_client_has_the_publication_in_the_history(app: PushServer) -> None:
    room = Room(app)
    app.publish("a", "x", skip=room.clients[0])
    [frame] = room.pages[0].say({"id": 3, "history": {"channel": "a", "limit": -1}})
    [publication] = json.loads(frame.payload)["history"]["publications"]
    assert (publication["data"], publication["offset"]) == ("x", 1)


def test_skipped_client_is_recovered_with_the_publication(app: PushServer) -> None:
    room = Room(app)
    app.publish("a", "x", skip=room.clients[0])
    page = room.pages[0]
    page.say({"id": 3, "unsubscribe": {"channel": "a"}})
    epoch = room.server.node.history.epoch
    recover = {"channel": "a", "recover": True, "epoch": epoch, "offset": 0}
    [frame] = page.say({"id": 4, "subscribe": recover})
    [publication] = json.loads(frame.payload)["subscribe"]["publications"]
    assert publication["data"] == "x"


def test_client_of_another_channel_or_gone_is_skipped_without_effect(app: PushServer) -> None:
    room = Room(app)
    gone = room.clients[1]
    room.pages[1].line.vanish()
    room.pages[1].line.take()
    app.publish("a", "x", skip=[gone, "nobody"])
    app.publish("b", "y", skip=room.clients[0])
    assert room.heard() == [["x"], [], ["x"], ["x"]]


@pytest.mark.parametrize("thread", [True, False])
def test_handler_publishes_to_all_but_its_own_client(app: PushServer, thread: bool) -> None:
    @app.on("say", thread=thread)
    def say(client: Client, data: Any) -> None:
        app.publish("a", data, include_self=False)

    @app.on("say_later")
    async def say_later(client: Client, data: Any) -> None:
        app.publish("a", data, include_self=False)

    room = Room(app)
    for event in ("say", "say_later"):
        room.say(0, f'{{"id":5,"rpc":{{"method":"{event}","data":1}}}}')
        room.say(3, f'42/a,["{event}",2]')
        assert wait(room) == [[2], [1, 2], [1, 2], [1]]


def wait(room: Room) -> list[list[Any]]:
    """The data that each client gets in the next turns."""
    lists: list[list[Any]] = [[] for _ in room.pages]
    for _ in range(20):
        for values, more in zip(lists, room.heard(), strict=True):
            values += more
    return lists


def test_handler_of_one_client_may_run_in_that_of_another(app: PushServer) -> None:
    @app.on("say", thread=False)
    def say(client: Client, data: Any) -> None:
        room.clients[3].disconnect()
        app.publish("a", data, include_self=False)

    @app.on("disconnect", thread=False)
    def disconnect(client: Client) -> None:
        app.publish("a", "gone", include_self=False)

    room = Room(app)
    room.say(2, '42/a,["say",1]')
    assert wait(room) == [["gone", 1], ["gone", 1], ["gone"], []]


def test_message_to_all_clients_skips_some(app: PushServer) -> None:
    @app.on("say", thread=False)
    def say(client: Client, data: Any) -> None:
        app.send(data, event="said", skip=room.clients[0], include_self=False)

    room = Room(app)
    room.say(2, '42/a,["say",1]')
    assert [len(values) for values in room.heard()] == [0, 1, 0, 1]


def test_skipping_needs_clients(app: PushServer) -> None:
    room = Room(app)
    wrong: Any = [1]
    with pytest.raises(TypeError, match="skip has 1, expected clients or their ids"):
        app.publish("a", 1, skip=wrong)
    with pytest.raises(TypeError, match="skip has None"):
        app.send(1, skip=[None])  # type: ignore[list-item]
    with pytest.raises(RuntimeError, match="outside of a client's handler"):
        app.publish("a", 1, include_self=False)
    assert room.heard() == [[], [], [], []]


def test_publications_that_skip_their_senders_come_in_order(app: PushServer) -> None:
    """Within one turn, in a crowd: see tests/unit/hub/test_fanout_model.py for all orders."""
    room = Room(app, Config(defaults=ChannelOptions(history_size=500)))
    for n in range(200):
        app.publish("a", n, skip=room.clients[n % 4])
    expected = [[n for n in range(200) if n % 4 != who] for who in range(4)]
    assert wait(room) == expected
