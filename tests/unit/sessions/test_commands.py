"""Sessions with an application: connect, subscriptions by the server, and waiting handlers."""

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


class FakeHandlers(NoHandlers):
    """An application that records its calls; each of its answers waits for `pending`."""

    def __init__(self) -> None:
        self.pending: Deferred[None] | None = None
        self.raises: Exception | None = None
        self.invitations: tuple[str, ...] = ()
        self.on_connect: Callable[[ClientSession], object] = lambda session: None
        self.connects: list[bytes] = []
        self.departures: list[str] = []
        self.commands: list[bytes] = []

    async def connect(self, session: ClientSession, data: bytes) -> bytes:
        self.connects.append(data)
        for channel in self.invitations:
            await session.invite(channel)
        self.on_connect(session)
        await self._wait()
        return b'{"hello":1}'

    def disconnect(self, session: ClientSession, reason: str) -> None:
        self.departures.append(reason)

    async def subscribe(self, session: ClientSession, channel: str, data: bytes) -> None:
        self.commands.append(data)
        await self._wait()

    def guards(self, channel: str) -> bool:
        return True

    def decides(self, channel: str) -> bool:
        return channel == "open"

    async def publish(self, session: ClientSession, channel: str, data: bytes) -> None:
        self.commands.append(data)
        await self._wait()

    async def rpc(self, session: ClientSession, method: str, data: bytes) -> bytes:
        self.commands.append(data)
        await self._wait()
        return data

    async def message(self, session: ClientSession, data: bytes) -> None:
        self.commands.append(data)
        await self._wait()

    async def _wait(self) -> None:
        if self.pending is not None:
            await self.pending
        if self.raises is not None:
            raise self.raises

    def release(self) -> None:
        """Answer the pending calls, and all later ones at once."""
        pending, self.pending = self.pending, None
        assert pending is not None
        pending.callback(None)


@pytest.fixture
def handlers() -> FakeHandlers:
    return FakeHandlers()


def make_asking_node(
    handlers: FakeHandlers, options: ChannelOptions = ChannelOptions(), time: Time | None = None
) -> Node:
    return make_node(options, time=time, run=run, handlers=handlers)


def connect_to(node: Node, **fields: Any) -> tuple[Client, list[Any]]:
    """A client that has sent connect, and the replies."""
    client = Client(node, connect=False)
    return client, client.say({"id": 1, "connect": fields})


def is_empty(node: Node) -> bool:
    return (node.hub.channels(), len(node.peers)) == ({}, 0)


class TestConnectAnswer:
    def test_carries_the_answer_of_the_application(self, handlers: FakeHandlers) -> None:
        _, [reply] = connect_to(make_asking_node(handlers), data={"name": "Ada"})
        assert json.loads(handlers.connects[0]) == {"name": "Ada"}
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
    def test_refusal_closes_the_connection(
        self, handlers: FakeHandlers, refused: Refused, close: tuple[int, str]
    ) -> None:
        handlers.raises = refused
        node = make_asking_node(handlers)
        client, replies = connect_to(node)
        assert (client.closed, replies) == (close, [])
        client.session.closed()
        assert handlers.departures == []
        assert is_empty(node)

    def test_refusal_with_the_code_of_a_reply_is_a_reply(self, handlers: FakeHandlers) -> None:
        # A close frame cannot have this code; the official client closes when it gets it.
        handlers.raises = Refused("no", 403)
        client, [reply] = connect_to(make_asking_node(handlers))
        assert reply == {"id": 1, "error": {"code": 403, "message": "no"}}
        assert client.closed is None

    def test_client_may_connect_again_after_a_failure(self, handlers: FakeHandlers) -> None:
        handlers.raises, handlers.invitations = HandlerFailed("the application failed"), ("a",)
        handlers.on_connect = lambda session: session.sender("hello", "")()
        client, [reply] = connect_to(make_asking_node(handlers))
        message = "the application failed"
        assert reply["error"] == {"code": 100, "message": message, "temporary": True}
        handlers.raises, handlers.invitations = None, ()
        handlers.on_connect = lambda session: None
        [reply] = client.say({"id": 2, "connect": {}})
        # The invitations of the failed connect are discarded.
        assert "subs" not in reply["connect"]

    def test_may_take_longer_than_connect_seconds(self, handlers: FakeHandlers) -> None:
        time = Time()
        node = make_asking_node(handlers, time=time)
        handlers.pending = Deferred()
        client, _ = connect_to(node)
        idle = Client(node, connect=False)
        for _ in range(29):
            time.now += 1
            node.peers.tick(node.monotonic())
        assert (idle.closed, client.closed) == ((3502, "no connect command came in time"), None)
        handlers.release()
        assert "connect" in client.transport.take()[0]

    @pytest.mark.parametrize("code", [-1, 1, 99, 103, 399, 2000, 3000, 3499, 5000])
    def test_refusal_has_only_codes_of_the_application(self, code: int) -> None:
        with pytest.raises(ValueError, match=f"code {code}: expected 400 to 1999 or"):
            Refused("no", code)

    def test_refusal_has_its_reason_as_text(self, handlers: FakeHandlers) -> None:
        handlers.raises = Refused(KeyError("x"))  # type: ignore[arg-type]
        node = make_asking_node(handlers)
        client, _ = connect_to(node)
        assert client.closed == (4500, "'x'")


class TestServerSubscription:
    def test_at_connect_has_the_last_publications_after_the_reply(
        self, handlers: FakeHandlers
    ) -> None:
        node = make_asking_node(handlers, INITIAL)
        for n in range(5):
            publish(node, data=n)
        handlers.invitations = ("numbers", "empty")
        client, [reply, *pushes] = connect_to(node)
        assert reply["connect"]["subs"] == {
            "numbers": {"recoverable": True, "positioned": True, "epoch": EPOCH, "offset": 3},
            "empty": {"recoverable": True, "positioned": True, "epoch": EPOCH},
        }
        publish(node, data=5)
        # The official client would ignore them in the reply.
        rows = [push["push"]["pub"] for push in pushes] + [p["pub"] for p in client.pushes()]
        assert [(r["offset"], r["data"]) for r in rows] == [(4, 3), (5, 4), (6, 5)]

    def test_recovers_from_the_position_of_the_client(self, handlers: FakeHandlers) -> None:
        node = make_asking_node(handlers, INITIAL)
        for _ in range(5):
            publish(node)
        handlers.invitations = ("numbers",)
        before = {"numbers": {"recover": True, "epoch": EPOCH, "offset": 1}, "other": {}}
        _, [reply] = connect_to(node, subs=before)
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
    def test_tells_a_client_whose_position_cannot_be_resumed(
        self, handlers: FakeHandlers, position: Any
    ) -> None:
        node = make_asking_node(handlers, ChannelOptions(history_size=3))
        for _ in range(5):
            publish(node)
        handlers.invitations = ("numbers",)
        client, [reply] = connect_to(node, subs={"numbers": {"recover": True, **position}})
        [sub] = reply["connect"]["subs"].values()
        assert (sub["was_recovering"], sub["offset"]) == (True, 5)
        assert not {"recovered", "publications"} & sub.keys()
        assert client.closed is None

    def test_after_connect_comes_as_a_push_with_the_last_publications(
        self, handlers: FakeHandlers
    ) -> None:
        node = make_asking_node(handlers, INITIAL)
        for n in range(3):
            publish(node, data=n)
        client, _ = connect_to(node)
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

    def test_is_replaced_when_the_client_subscribes_itself(self, handlers: FakeHandlers) -> None:
        node = make_asking_node(handlers)
        handlers.invitations = ("numbers",)
        client, _ = connect_to(node)
        publish(node, data="before")
        client.pushes()
        reply = client.command("subscribe", channel="numbers", data={"last": 1})
        assert [row["data"] for row in reply["subscribe"]["publications"]] == ["before"]
        assert node.hub.size("numbers") == 1
        publish(node, data="after")
        [push] = client.pushes()
        assert push["pub"]["data"] == "after"
        # A client can subscribe again to a channel that it subscribed to itself.
        node.hub.deliver(row(7))
        assert client.closed is None
        [push] = client.pushes()
        assert push["unsubscribe"]["code"] == 2500
        client.command("subscribe", channel="numbers")
        reply = client.command("subscribe", channel="numbers")
        assert reply["error"]["code"] == 105

    def test_stays_when_the_application_refuses_the_clients_own(
        self, handlers: FakeHandlers
    ) -> None:
        node = make_asking_node(handlers)
        handlers.invitations = ("numbers",)
        client, _ = connect_to(node)
        handlers.pending = Deferred()
        assert client.say({"id": 2, "subscribe": {"channel": "numbers"}}) == []
        handlers.pending.errback(Refused("no"))
        [reply] = client.transport.take()
        assert reply["error"] == {"code": 103, "message": "no"}
        publish(node, data="after")
        [push] = client.pushes()
        assert push["pub"]["data"] == "after"

    def test_ends_with_a_push_and_the_client_may_subscribe_again(
        self, handlers: FakeHandlers
    ) -> None:
        node = make_asking_node(handlers)
        handlers.invitations = ("numbers",)
        client, _ = connect_to(node)
        assert client.session.unsubscribe("numbers", 2000, "enough")
        assert client.pushes() == [
            {"channel": "numbers", "unsubscribe": {"code": 2000, "reason": "enough"}}
        ]
        publish(node)
        assert client.pushes() == []
        assert not client.session.unsubscribe("numbers", 2000, "enough")
        assert "subscribe" in client.command("subscribe", channel="numbers")

    def test_may_be_ended_by_the_client(self, handlers: FakeHandlers) -> None:
        node = make_asking_node(handlers)
        handlers.invitations = ("numbers",)
        client, _ = connect_to(node)
        assert client.command("unsubscribe", channel="numbers")["unsubscribe"] == {}
        assert node.hub.channels() == {}

    def test_that_is_withdrawn_before_the_reply_is_not_made(self, handlers: FakeHandlers) -> None:
        handlers.invitations = ("a", "b")
        handlers.on_connect = lambda session: session.unsubscribe("a", 2000, "no")
        node = make_asking_node(handlers)
        _, [reply] = connect_to(node)
        assert list(reply["connect"]["subs"]) == ["b"]
        assert node.hub.channels() == {"b": 1}

    def test_with_a_gap_makes_the_client_reconnect(self, handlers: FakeHandlers) -> None:
        node = make_asking_node(handlers)
        handlers.invitations = ("numbers",)
        client, _ = connect_to(node)
        node.hub.deliver(row(7))
        assert client.closed == (centrifuge.INSUFFICIENT_STATE, "insufficient state")
        client.session.closed()
        assert (is_empty(node), handlers.departures) == (True, ["insufficient state"])
        assert client.pushes() == []

    def test_of_the_client_itself_ends_with_a_push_after_a_gap(
        self, handlers: FakeHandlers
    ) -> None:
        node = make_asking_node(handlers)
        client, _ = connect_to(node)
        client.command("subscribe", channel="numbers")
        node.hub.deliver(row(7))
        assert client.closed is None
        [push] = client.pushes()
        assert push["unsubscribe"] == {"code": 2500, "reason": "insufficient state"}

    def test_and_a_pending_subscribe_of_the_client_join_once(self, handlers: FakeHandlers) -> None:
        node = make_asking_node(handlers)
        client, _ = connect_to(node)
        handlers.pending = Deferred()
        assert client.say({"id": 2, "subscribe": {"channel": "a"}}) == []
        drive(client.session.invite("a"))
        handlers.release()
        first, second = client.transport.take()
        assert "subscribe" in first["push"]
        assert "subscribe" in second
        assert node.hub.size("a") == 1


class TestMessage:
    def test_is_sent_at_once_or_after_the_connect_reply(self, handlers: FakeHandlers) -> None:
        def greet(session: ClientSession) -> None:
            for n in range(3):
                session.sender(n, "")()

        handlers.on_connect = greet
        client, [reply, *pushes] = connect_to(make_asking_node(handlers))
        assert "connect" in reply
        assert [push["push"]["message"]["data"] for push in pushes] == [0, 1, 2]
        client.session.message(b'"later"')
        assert client.pushes() == [{"message": {"data": "later"}}]

    def test_to_an_ended_session_is_not_sent(self, handlers: FakeHandlers) -> None:
        client, _ = connect_to(make_asking_node(handlers))
        client.session.disconnect(4000, "enough")
        client.session.message(b"1")
        drive(client.session.invite("a"))
        assert client.transport.take() == []
        assert is_empty(client.session.node) is False
        client.session.closed()
        assert is_empty(client.session.node)


class TestClientThatLeavesWhileAHandlerRuns:
    @pytest.mark.parametrize("how", ["by itself", "by the server"])
    @pytest.mark.parametrize("invite", [(), ("a",)])
    def test_during_connect_disconnects_once_after_the_handler(
        self, handlers: FakeHandlers, how: str, invite: tuple[str, ...]
    ) -> None:
        handlers.pending, handlers.invitations = Deferred(), invite
        node = make_asking_node(handlers)
        client, _ = connect_to(node)
        if how == "by the server":
            client.session.disconnect(4100, "out")
        client.session.closed()
        assert handlers.departures == []
        handlers.release()
        assert handlers.departures == ["out" if how == "by the server" else ""]
        assert is_empty(node)
        assert client.transport.take() == []

    def test_and_is_then_refused_does_not_disconnect(self, handlers: FakeHandlers) -> None:
        handlers.pending = Deferred()
        node = make_asking_node(handlers)
        client, _ = connect_to(node)
        client.session.closed()
        handlers.raises = Refused()
        handlers.release()
        assert (handlers.departures, client.transport.take()) == ([], [])
        assert is_empty(node)

    @pytest.mark.parametrize(
        "command",
        [
            {"subscribe": {"channel": "a"}},
            {"publish": {"channel": "open", "data": 1}},
            {"rpc": {"method": "x", "data": 1}},
            {"send": {"data": 1}},
        ],
    )
    def test_leaves_nothing_behind(self, handlers: FakeHandlers, command: dict[str, Any]) -> None:
        node = make_asking_node(handlers)
        client, _ = connect_to(node)
        handlers.pending = Deferred()
        client.say({"id": 2, **command}, {"id": 3, "ping": {}})
        client.session.closed()
        # The disconnect handler comes after that of the last command.
        assert handlers.departures == []
        handlers.release()
        assert (client.transport.take(), handlers.departures) == ([], [""])
        assert is_empty(node)

    def test_disconnects_at_once_when_the_server_stops(self, handlers: FakeHandlers) -> None:
        node = make_asking_node(handlers)
        client, _ = connect_to(node)
        handlers.pending = Deferred()
        client.say({"id": 2, "rpc": {"method": "x"}})
        node.stop_publishing()
        client.session.closed()
        assert handlers.departures == [""]
        handlers.release()
        assert handlers.departures == [""]

    def test_is_garbage_collected(self, handlers: FakeHandlers) -> None:
        handlers.pending, handlers.invitations = Deferred(), ("a",)
        node = make_asking_node(handlers)

        def connect_and_leave() -> None:
            client, _ = connect_to(node)
            client.session.closed()

        connect_and_leave()
        handlers.release()
        gc.collect()
        assert not [o for o in gc.get_objects() if isinstance(o, Session) and o.node is node]


class TestCommand:
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
    def test_that_the_application_refuses_or_fails_is_answered_with_an_error(
        self, handlers: FakeHandlers, command: Any, name: str, raised: Exception, error: Any
    ) -> None:
        node = make_asking_node(handlers)
        client, _ = connect_to(node)
        handlers.raises = raised
        [reply] = client.say({"id": 2, **command})
        assert reply == {"id": 2, "error": error}
        handlers.raises = None
        [reply] = client.say({"id": 3, **command})
        assert name in reply
        assert client.closed is None

    def test_publishes_to_channels_that_the_application_allows(
        self, handlers: FakeHandlers
    ) -> None:
        node = make_asking_node(handlers)
        client, _ = connect_to(node)
        assert client.command("publish", channel="open", data={"a": 1})["publish"] == {}
        reply = client.command("publish", channel="closed", data=1)
        assert reply["error"]["code"] == 103
        assert '(publish = "key")' in reply["error"]["message"]
        assert [r.data for r in node.hub.history.peek("open").last(9)] == [b'{"a":1}']
        assert node.hub.history.top("closed") == 0

    def test_may_take_long_while_pings_are_answered(self, handlers: FakeHandlers) -> None:
        time = Time()
        node = make_asking_node(handlers, time=time)
        client, _ = connect_to(node)
        handlers.pending = Deferred()
        assert client.say({"id": 2, "rpc": {"method": "x", "data": 1}}) == []
        answered = 0
        for _ in range(100):
            time.now += 1
            node.peers.tick(node.monotonic())
            if client.transport.take():
                # The official client can send its queued commands in one frame.
                assert client.say({"id": 3, "ping": {}}, {}) == []
                answered += 1
        assert (client.closed, answered) == (None, 4)
        handlers.release()
        assert [reply["id"] for reply in client.transport.take()] == [2, 3, 3, 3, 3]

    def test_waits_for_the_command_before(self, handlers: FakeHandlers) -> None:
        client, _ = connect_to(make_asking_node(handlers))
        handlers.pending = Deferred()
        client.say(*({"id": n, "rpc": {"method": "x", "data": n}} for n in (2, 3)))
        assert handlers.commands == [b"2"]
        handlers.release()
        replies = client.transport.take()
        assert [(r["id"], r["rpc"]["data"]) for r in replies] == [(2, 2), (3, 3)]

    def test_over_the_limit_of_the_queue_ends_the_connection(self, handlers: FakeHandlers) -> None:
        node = make_node(limits=Limits(queued_commands=2), run=run, handlers=handlers)
        client, _ = connect_to(node)
        handlers.pending = Deferred()
        client.say({"id": 2, "rpc": {"method": "x"}})
        client.say(*({"id": n, "rpc": {"method": "x"}} for n in range(3, 6)))
        assert client.closed is not None
        assert client.closed[0] == 3013
        client.session.closed()
        handlers.release()
        assert (len(handlers.commands), len(handlers.departures)) == (1, 1)


class TestReading:
    @pytest.mark.parametrize("method", ["history", "presence", "presence_stats"])
    def test_channel_without_a_subscription_asks_the_application(
        self, handlers: FakeHandlers, method: str
    ) -> None:
        node = make_node(handlers=handlers)
        publish(node)
        client = Client(node)
        handlers.raises = Refused("members only")
        assert client.command(method, channel="numbers")["error"] == {
            "code": 103,
            "message": "members only",
        }
        handlers.raises = None
        assert "error" not in client.command("subscribe", channel="numbers")
        handlers.raises = Refused("members only")
        assert method in client.command(method, channel="numbers")


class TestForcedJoinsAndLeaves:
    FORCED = ChannelOptions(force_push_join_leave=True)

    def test_are_pushed_without_being_requested(self) -> None:
        node = make_node(self.FORCED)
        client = Client(node)
        client.command("subscribe", channel="a", join_leave=False)
        Client(node).command("subscribe", channel="a")
        assert [list(push) for push in client.pushes()] == [["channel", "join"]]

    def test_are_pushed_in_subscriptions_by_the_server(self) -> None:
        handlers = FakeHandlers()
        handlers.invitations = ("a",)
        node = make_node(self.FORCED, handlers=handlers)
        client = Client(node)
        handlers.invitations = ()
        later = Client(node)
        drive(later.session.invite("a"))
        later.pushes()
        Client(node).command("subscribe", channel="a")
        assert [list(push) for push in client.pushes()] == [["channel", "join"]] * 2
        assert [list(push) for push in later.pushes()] == [["channel", "join"]]

    def test_are_an_option_of_each_channel(self) -> None:
        node = make_node(lambda name: self.FORCED if name == "a" else ChannelOptions())
        client = Client(node)
        for channel in ("a", "b"):
            client.command("subscribe", channel=channel)
        other = Client(node)
        for channel in ("a", "b"):
            other.command("subscribe", channel=channel)
        assert [push["channel"] for push in client.pushes()] == ["a"]
