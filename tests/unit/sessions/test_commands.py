"""What an application makes of a connection: who may come in, and into which channels."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from pushserver.channels.channel import ChannelOptions
from pushserver.config.limits import Limits
from pushserver.errors import HandlerFailed, Refused
from pushserver.protocols import centrifuge
from pushserver.server.logging import run
from pushserver.sessions.callbacks import ClientSession, NoHandlers
from pushserver.sessions.node import Node
from pushserver.sessions.session import Session
from tests.unit.fakes.tools import EPOCH, Client, Time, drive, make_node, publish, row

INITIAL = ChannelOptions(initial=2)


class Doorman(NoHandlers):
    """An application that keeps what it is told; each of its answers waits for `held`."""

    def __init__(self) -> None:
        self.held: Deferred[None] | None = None
        self.raises: Exception | None = None
        self.invite: tuple[str, ...] = ()
        self.on_connect: Callable[[ClientSession], object] = lambda session: None
        self.came: list[bytes] = []
        self.gone: list[str] = []
        self.said: list[bytes] = []

    async def connect(self, session: ClientSession, data: bytes) -> bytes:
        self.came.append(data)
        for channel in self.invite:
            await session.invite(channel)
        self.on_connect(session)
        await self._wait()
        return b'{"hello":1}'

    def disconnect(self, session: ClientSession, reason: str) -> None:
        self.gone.append(reason)

    async def subscribe(self, session: ClientSession, channel: str, data: bytes) -> None:
        self.said.append(data)
        await self._wait()

    def decides(self, channel: str) -> bool:
        return channel == "open"

    async def publish(self, session: ClientSession, channel: str, data: bytes) -> None:
        self.said.append(data)
        await self._wait()

    async def rpc(self, session: ClientSession, method: str, data: bytes) -> bytes:
        self.said.append(data)
        await self._wait()
        return data

    async def message(self, session: ClientSession, data: bytes) -> None:
        self.said.append(data)
        await self._wait()

    async def _wait(self) -> None:
        if self.held is not None:
            await self.held
        if self.raises is not None:
            raise self.raises

    def let(self) -> None:
        """Answer what waits, and all that comes."""
        held, self.held = self.held, None
        assert held is not None
        held.callback(None)


@pytest.fixture
def doorman() -> Doorman:
    return Doorman()


def node_of(
    doorman: Doorman, options: ChannelOptions = ChannelOptions(), time: Time | None = None
) -> Node:
    return make_node(options, time=time, run=run, handlers=doorman)


def come(node: Node, **fields: Any) -> tuple[Client, list[Any]]:
    """A client that has sent connect, and what came back."""
    client = Client(node, connect=False)
    return client, client.say({"id": 1, "connect": fields})


def nothing_is_left(node: Node) -> bool:
    return (node.hub.channels(), len(node.peers)) == ({}, 0)


class TestAnAnswerToConnect:
    def test_carries_what_the_application_says(self, doorman: Doorman) -> None:
        _, [reply] = come(node_of(doorman), data={"name": "Ada"})
        assert json.loads(doorman.came[0]) == {"name": "Ada"}
        assert reply["connect"]["data"] == {"hello": 1}
        assert "subs" not in reply["connect"]

    @pytest.mark.parametrize(
        ("refused", "close"),
        [
            (Refused(), (4500, "refused by the application")),
            (Refused("not you"), (4500, "not you")),
            (Refused("later", 4000), (4000, "later")),
            (Refused("later", 3500), (3500, "later")),
        ],
    )
    def test_that_says_no_is_the_close(
        self, doorman: Doorman, refused: Refused, close: tuple[int, str]
    ) -> None:
        doorman.raises = refused
        node = node_of(doorman)
        client, told = come(node)
        assert (client.closed, told) == (close, [])
        client.session.closed()
        assert doorman.gone == []
        assert nothing_is_left(node)

    def test_that_says_no_with_the_code_of_a_reply_is_a_reply(self, doorman: Doorman) -> None:
        # A close frame cannot have it; the official client ends by itself when it gets it.
        doorman.raises = Refused("no", 403)
        client, [reply] = come(node_of(doorman))
        assert reply == {"id": 1, "error": {"code": 403, "message": "no"}}
        assert client.closed is None

    def test_that_failed_may_be_asked_for_again(self, doorman: Doorman) -> None:
        doorman.raises, doorman.invite = HandlerFailed("the application failed"), ("a",)
        doorman.on_connect = lambda session: session.message(b'"hello"')
        client, [reply] = come(node_of(doorman))
        message = "the application failed"
        assert reply["error"] == {"code": 100, "message": message, "temporary": True}
        doorman.raises, doorman.invite = None, ()
        doorman.on_connect = lambda session: None
        [reply] = client.say({"id": 2, "connect": {}})
        # What it did for the one that failed is not done.
        assert "subs" not in reply["connect"]

    def test_may_take_longer_than_a_connect_may_be_waited_for(self, doorman: Doorman) -> None:
        time = Time()
        node = node_of(doorman, time=time)
        doorman.held = Deferred()
        client, _ = come(node)
        idle = Client(node, connect=False)
        for _ in range(29):
            time.now += 1
            node.peers.tick(node.monotonic())
        assert (idle.closed, client.closed) == ((3502, "no connect command came in time"), None)
        doorman.let()
        assert "connect" in client.transport.take()[0]

    @pytest.mark.parametrize("code", [-1, 1, 99, 103, 399, 2000, 3000, 3499, 5000])
    def test_has_codes_of_the_application_only(self, code: int) -> None:
        with pytest.raises(ValueError, match=f"code {code}: expected 400 to 1999 or"):
            Refused("no", code)

    def test_gives_its_reason_as_a_text(self, doorman: Doorman) -> None:
        doorman.raises = Refused(KeyError("x"))  # type: ignore[arg-type]
        node = node_of(doorman)
        client, _ = come(node)
        assert client.closed == (4500, "'x'")


class TestAChannelThatTheServerChose:
    def test_at_connect_begins_with_the_last_few_after_the_reply(self, doorman: Doorman) -> None:
        node = node_of(doorman, INITIAL)
        for n in range(5):
            publish(node, data=n)
        doorman.invite = ("numbers", "empty")
        client, [reply, *pushes] = come(node)
        assert reply["connect"]["subs"] == {
            "numbers": {"recoverable": True, "positioned": True, "epoch": EPOCH, "offset": 3},
            "empty": {"recoverable": True, "positioned": True, "epoch": EPOCH},
        }
        publish(node, data=5)
        # The official client would not give them to the page, were they in the reply.
        rows = [push["push"]["pub"] for push in pushes] + [p["pub"] for p in client.pushes()]
        assert [(r["offset"], r["data"]) for r in rows] == [(4, 3), (5, 4), (6, 5)]

    def test_goes_on_where_the_client_was(self, doorman: Doorman) -> None:
        node = node_of(doorman, INITIAL)
        for _ in range(5):
            publish(node)
        doorman.invite = ("numbers",)
        before = {"numbers": {"recover": True, "epoch": EPOCH, "offset": 1}, "other": {}}
        _, [reply] = come(node, subs=before)
        [sub] = reply["connect"]["subs"].values()
        assert [pub["offset"] for pub in sub.pop("publications")] == [2, 3, 4, 5]
        assert sub == {
            "recoverable": True,
            "positioned": True,
            "epoch": EPOCH,
            "offset": 1,
            "recovered": True,
            "was_recovering": True,
        }
        assert node.hub.channels() == {"numbers": 1}

    @pytest.mark.parametrize(
        "position",
        [
            {"epoch": "other", "offset": 4},
            {"epoch": EPOCH, "offset": 9},
            {"epoch": EPOCH, "offset": 0},
            {"epoch": EPOCH, "offset": -3},
        ],
    )
    def test_tells_one_that_cannot_go_on(self, doorman: Doorman, position: Any) -> None:
        node = node_of(doorman, ChannelOptions(history_size=3))
        for _ in range(5):
            publish(node)
        doorman.invite = ("numbers",)
        client, [reply] = come(node, subs={"numbers": {"recover": True, **position}})
        [sub] = reply["connect"]["subs"].values()
        assert (sub["was_recovering"], sub["offset"]) == (True, 5)
        assert not {"recovered", "publications"} & sub.keys()
        assert client.closed is None

    def test_later_is_told_by_a_push_and_what_is_in_it(self, doorman: Doorman) -> None:
        node = node_of(doorman, INITIAL)
        for n in range(3):
            publish(node, data=n)
        client, _ = come(node)
        drive(client.session.invite("numbers"))
        publish(node, data=3)
        first, *rows = client.pushes()
        assert first == {
            "channel": "numbers",
            "subscribe": {"recoverable": True, "positioned": True, "epoch": EPOCH, "offset": 1},
        }
        assert [(r["pub"]["offset"], r["pub"]["data"]) for r in rows] == [(2, 1), (3, 2), (4, 3)]
        drive(client.session.invite("numbers"))
        assert client.pushes() == []

    def test_is_the_clients_own_once_it_subscribes_itself(self, doorman: Doorman) -> None:
        node = node_of(doorman)
        doorman.invite = ("numbers",)
        client, _ = come(node)
        publish(node, data="before")
        client.pushes()
        reply = client.command("subscribe", channel="numbers", data={"last": 1})
        assert [row["data"] for row in reply["subscribe"]["publications"]] == ["before"]
        assert node.hub.size("numbers") == 1
        publish(node, data="after")
        [push] = client.pushes()
        assert push["pub"]["data"] == "after"
        # It asked for the channel, so it can ask again.
        node.hub.deliver(row(7))
        assert client.closed is None
        [push] = client.pushes()
        assert push["unsubscribe"]["code"] == 2500
        client.command("subscribe", channel="numbers")
        reply = client.command("subscribe", channel="numbers")
        assert reply["error"]["code"] == 105

    def test_stays_when_the_application_refuses_to_let_it_subscribe(self, doorman: Doorman) -> None:
        node = node_of(doorman)
        doorman.invite = ("numbers",)
        client, _ = come(node)
        doorman.held = Deferred()
        assert client.say({"id": 2, "subscribe": {"channel": "numbers"}}) == []
        doorman.held.errback(Refused("no"))
        [reply] = client.transport.take()
        assert reply["error"] == {"code": 103, "message": "no"}
        publish(node, data="after")
        [push] = client.pushes()
        assert push["pub"]["data"] == "after"

    def test_is_left_by_a_push_and_with_another_it_begins_anew(self, doorman: Doorman) -> None:
        node = node_of(doorman)
        doorman.invite = ("numbers",)
        client, _ = come(node)
        assert client.session.unsubscribe("numbers", 2000, "enough")
        assert client.pushes() == [
            {"channel": "numbers", "unsubscribe": {"code": 2000, "reason": "enough"}}
        ]
        publish(node)
        assert client.pushes() == []
        assert not client.session.unsubscribe("numbers", 2000, "enough")
        assert "subscribe" in client.command("subscribe", channel="numbers")

    def test_may_be_left_by_the_client(self, doorman: Doorman) -> None:
        node = node_of(doorman)
        doorman.invite = ("numbers",)
        client, _ = come(node)
        assert client.command("unsubscribe", channel="numbers")["unsubscribe"] == {}
        assert node.hub.channels() == {}

    def test_is_none_when_it_is_taken_back_before_the_reply(self, doorman: Doorman) -> None:
        doorman.invite = ("a", "b")
        doorman.on_connect = lambda session: session.unsubscribe("a", 2000, "no")
        node = node_of(doorman)
        _, [reply] = come(node)
        assert list(reply["connect"]["subs"]) == ["b"]
        assert node.hub.channels() == {"b": 1}

    def test_that_had_a_gap_makes_the_client_come_back(self, doorman: Doorman) -> None:
        node = node_of(doorman)
        doorman.invite = ("numbers",)
        client, _ = come(node)
        node.hub.deliver(row(7))
        assert client.closed == (centrifuge.INSUFFICIENT_STATE, "insufficient state")
        client.session.closed()
        assert (nothing_is_left(node), doorman.gone) == (True, ["insufficient state"])
        assert client.pushes() == []

    def test_of_its_own_is_subscribed_to_again_after_a_gap(self, doorman: Doorman) -> None:
        node = node_of(doorman)
        client, _ = come(node)
        client.command("subscribe", channel="numbers")
        node.hub.deliver(row(7))
        assert client.closed is None
        [push] = client.pushes()
        assert push["unsubscribe"] == {"code": 2500, "reason": "insufficient state"}

    def test_is_not_joined_twice_when_the_application_is_quicker(self, doorman: Doorman) -> None:
        node = node_of(doorman)
        client, _ = come(node)
        doorman.held = Deferred()
        assert client.say({"id": 2, "subscribe": {"channel": "a"}}) == []
        drive(client.session.invite("a"))
        doorman.let()
        first, second = client.transport.take()
        assert "subscribe" in first["push"]
        assert "subscribe" in second
        assert node.hub.size("a") == 1


class TestWhatIsSaidToAClient:
    def test_comes_at_once_or_after_the_reply_to_connect(self, doorman: Doorman) -> None:
        def greet(session: ClientSession) -> None:
            for n in range(3):
                session.message(b"%d" % n)

        doorman.on_connect = greet
        client, [reply, *pushes] = come(node_of(doorman))
        assert "connect" in reply
        assert [push["push"]["message"]["data"] for push in pushes] == [0, 1, 2]
        client.session.message(b'"later"')
        assert client.pushes() == [{"message": {"data": "later"}}]

    def test_is_nothing_when_it_is_gone(self, doorman: Doorman) -> None:
        client, _ = come(node_of(doorman))
        client.session.disconnect(4000, "enough")
        client.session.message(b"1")
        drive(client.session.invite("a"))
        assert client.transport.take() == []
        assert nothing_is_left(client.session.node) is False
        client.session.closed()
        assert nothing_is_left(client.session.node)


class TestAClientThatLeavesWhileTheApplicationIsAsked:
    @pytest.mark.parametrize("how", ["by itself", "by the server"])
    @pytest.mark.parametrize("invite", [(), ("a",)])
    def test_before_it_was_let_in_is_gone_once(
        self, doorman: Doorman, how: str, invite: tuple[str, ...]
    ) -> None:
        doorman.held, doorman.invite = Deferred(), invite
        node = node_of(doorman)
        client, _ = come(node)
        if how == "by the server":
            client.session.disconnect(4100, "out")
        client.session.closed()
        assert doorman.gone == []
        doorman.let()
        assert doorman.gone == ["out" if how == "by the server" else ""]
        assert nothing_is_left(node)
        assert client.transport.take() == []

    def test_and_is_then_refused_was_never_there(self, doorman: Doorman) -> None:
        doorman.held = Deferred()
        node = node_of(doorman)
        client, _ = come(node)
        client.session.closed()
        doorman.raises = Refused()
        doorman.let()
        assert (doorman.gone, client.transport.take()) == ([], [])
        assert nothing_is_left(node)

    @pytest.mark.parametrize(
        "command",
        [
            {"subscribe": {"channel": "a"}},
            {"publish": {"channel": "open", "data": 1}},
            {"rpc": {"method": "x", "data": 1}},
            {"send": {"data": 1}},
        ],
    )
    def test_leaves_nothing(self, doorman: Doorman, command: dict[str, Any]) -> None:
        node = node_of(doorman)
        client, _ = come(node)
        doorman.held = Deferred()
        client.say({"id": 2, **command}, {"id": 3, "ping": {}})
        client.session.closed()
        # One after the other: what it said last is being handled.
        assert doorman.gone == []
        doorman.let()
        assert (client.transport.take(), doorman.gone) == ([], [""])
        assert nothing_is_left(node)

    def test_is_gone_at_once_when_the_server_stops(self, doorman: Doorman) -> None:
        node = node_of(doorman)
        client, _ = come(node)
        doorman.held = Deferred()
        client.say({"id": 2, "rpc": {"method": "x"}})
        node.stop_publishing()
        client.session.closed()
        assert doorman.gone == [""]
        doorman.let()
        assert doorman.gone == [""]

    def test_is_collected(self, doorman: Doorman) -> None:
        doorman.held, doorman.invite = Deferred(), ("a",)
        node = node_of(doorman)

        def come_and_go() -> None:
            client, _ = come(node)
            client.session.closed()

        come_and_go()
        doorman.let()
        gc.collect()
        assert not [o for o in gc.get_objects() if isinstance(o, Session) and o.node is node]


class TestACommand:
    @pytest.mark.parametrize(
        ("command", "name"),
        [
            ({"subscribe": {"channel": "a"}}, "subscribe"),
            ({"publish": {"channel": "open", "data": 1}}, "publish"),
            ({"rpc": {"method": "x"}}, "rpc"),
            ({"send": {"data": 1}}, "send"),
        ],
    )
    @pytest.mark.parametrize(
        ("raised", "error"),
        [
            (Refused(), {"code": 103, "message": "refused by the application"}),
            (Refused("too many", 429), {"code": 429, "message": "too many"}),
            (HandlerFailed("it failed"), {"code": 100, "message": "it failed", "temporary": True}),
        ],
    )
    def test_that_the_application_refuses_or_fails_at_is_an_error(
        self, doorman: Doorman, command: Any, name: str, raised: Exception, error: Any
    ) -> None:
        node = node_of(doorman)
        client, _ = come(node)
        doorman.raises = raised
        [reply] = client.say({"id": 2, **command})
        assert reply == {"id": 2, "error": error}
        doorman.raises = None
        [reply] = client.say({"id": 3, **command})
        assert name in reply
        assert client.closed is None

    def test_publishes_where_the_application_says_so(self, doorman: Doorman) -> None:
        node = node_of(doorman)
        client, _ = come(node)
        assert client.command("publish", channel="open", data={"a": 1})["publish"] == {}
        reply = client.command("publish", channel="closed", data=1)
        assert reply["error"]["code"] == 103
        assert "client_publish" in reply["error"]["message"]
        assert [r.data for r in node.hub.history.peek("open").last(9)] == [b'{"a":1}']
        assert node.hub.history.top("closed") == 0

    def test_may_take_its_time_while_pings_are_answered(self, doorman: Doorman) -> None:
        time = Time()
        node = node_of(doorman, time=time)
        client, _ = come(node)
        doorman.held = Deferred()
        assert client.say({"id": 2, "rpc": {"method": "x", "data": 1}}) == []
        answered = 0
        for _ in range(100):
            time.now += 1
            node.peers.tick(node.monotonic())
            if client.transport.take():
                # The official client sends what it has in one frame, when it is asked to.
                assert client.say({"id": 3, "ping": {}}, {}) == []
                answered += 1
        assert (client.closed, answered) == (None, 4)
        doorman.let()
        assert [reply["id"] for reply in client.transport.take()] == [2, 3, 3, 3, 3]

    def test_waits_for_the_one_before(self, doorman: Doorman) -> None:
        client, _ = come(node_of(doorman))
        doorman.held = Deferred()
        client.say(*({"id": n, "rpc": {"method": "x", "data": n}} for n in (2, 3)))
        assert doorman.said == [b"2"]
        doorman.let()
        replies = client.transport.take()
        assert [(r["id"], r["rpc"]["data"]) for r in replies] == [(2, 2), (3, 3)]

    def test_behind_too_many_others_ends_the_connection(self, doorman: Doorman) -> None:
        node = make_node(limits=Limits(queued_commands=2), run=run, handlers=doorman)
        client, _ = come(node)
        doorman.held = Deferred()
        client.say({"id": 2, "rpc": {"method": "x"}})
        client.say(*({"id": n, "rpc": {"method": "x"}} for n in range(3, 6)))
        assert client.closed is not None
        assert client.closed[0] == 3013
        client.session.closed()
        doorman.let()
        assert (len(doorman.said), len(doorman.gone)) == (1, 1)


class TestReading:
    @pytest.mark.parametrize("method", ["history", "presence", "presence_stats"])
    def test_a_channel_that_one_is_not_in_asks_the_application(
        self, doorman: Doorman, method: str
    ) -> None:
        node = make_node(handlers=doorman)
        publish(node)
        client = Client(node)
        doorman.raises = Refused("members only")
        assert client.command(method, channel="numbers")["error"] == {
            "code": 103,
            "message": "members only",
        }
        doorman.raises = None
        assert "error" not in client.command("subscribe", channel="numbers")
        doorman.raises = Refused("members only")
        assert method in client.command(method, channel="numbers")
