"""Tokens of the Centrifuge protocol: connect, refresh, expiry, and the channels of a token."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.auth.credentials import Credentials
from pushserver.auth.identity import Identity
from pushserver.auth.token_keys import secret_key
from pushserver.auth.tokens import TokenRules, Verifier
from pushserver.channels.channel import ChannelOptions
from pushserver.config.limits import Limits
from pushserver.errors import Refused, Unavailable
from pushserver.server.tokens import VerifiedTokens
from pushserver.sessions.callbacks import ClientSession, Invitation, NoHandlers
from pushserver.sessions.expiry import GRACE_SECONDS
from pushserver.sessions.node import Node
from tests.unit.fakes.tokens import SECRET, token
from tests.unit.fakes.tools import Client, Time, drive, make_node, programs, publish


class World:
    """A server with a secret for tokens, its clock, and its issuer."""

    def __init__(self, personal: bool = False, handlers: Any = None, **options: Any) -> None:
        rules = TokenRules(frozenset({"HS256"}), personal=personal)
        self.time = Time()
        tokens = VerifiedTokens(Verifier(rules, [secret_key(SECRET)]), self.time, None)
        self.node: Node = make_node(
            ChannelOptions(**options), time=self.time, tokens=tokens, handlers=handlers
        )

    def token(self, user: str = "42", seconds: float = 60, **claims: Any) -> str:
        return token({"sub": user, "exp": self.time.now + seconds, **claims})

    def grant(self, channel: str, seconds: float = 60, user: str = "42", **claims: Any) -> str:
        return self.token(user, seconds, channel=channel, **claims)

    def connect(self, text: str = "", **fields: Any) -> tuple[Client, Any]:
        """A client, and the reply to its connect."""
        client = Client(self.node, connect=False)
        client.id = 1
        replies = client.say({"id": 1, "connect": {"token": text, **fields}})
        return client, replies[0] if replies else None

    def client(self, text: str = "", **fields: Any) -> Client:
        client, reply = self.connect(text or self.token(), **fields)
        assert "connect" in reply
        return client

    def passes(self, seconds: float) -> None:
        """Let time pass, in ticks of one second as the server has."""
        whole = int(seconds)
        for step in [*[1.0] * whole, seconds - whole]:
            self.time.now += step
            self.time.turn()
            while self.node.peers.tick(self.time.seconds()):
                pass

    def passes_alive(self, seconds: int, *clients: Client) -> None:
        """The same, while the clients answer their pings."""
        for _ in range(seconds):
            self.passes(1)
            for client in clients:
                for value in client.transport.take():
                    if value == {} and client.closed is None:
                        client.session.received(b"{}")
                    client.kept = [*getattr(client, "kept", []), value]  # type: ignore[attr-defined]


def error(reply: Any) -> tuple[int, str]:
    return reply["error"]["code"], reply["error"]["message"]


class TestConnect:
    def test_a_token_gives_the_user_and_the_time_of_the_refresh(self) -> None:
        world = World()
        client, reply = world.connect(world.token(info={"name": "Zoe"}))
        assert (reply["connect"]["expires"], reply["connect"]["ttl"]) == (True, 60)
        info = client.session.info
        assert (info.user, info.conn_info) == ("42", b'{"name":"Zoe"}')

    def test_a_token_without_an_end_needs_no_refresh(self) -> None:
        world = World()
        _, reply = world.connect(world.token(expire_at=0))
        assert "expires" not in reply["connect"]
        assert "ttl" not in reply["connect"]

    def test_an_expired_token_is_an_error_after_which_the_client_tries_again(self) -> None:
        world = World()
        client, reply = world.connect(world.token(seconds=-1))
        assert error(reply)[0] == 109
        assert client.closed is None
        replies = client.say({"id": 2, "connect": {"token": world.token()}})
        assert replies[0]["connect"]["ttl"] == 60

    @pytest.mark.parametrize("text", ["invalid_token", "a.b.c", "x" * 100_000])
    def test_an_invalid_token_ends_the_connection_for_good(self, text: str) -> None:
        client, reply = World().connect(text)
        assert reply is None
        assert client.closed is not None
        assert client.closed[0] == 3500
        assert client.closed[1].startswith("invalid token: ")

    def test_a_subscription_token_is_no_connection_token(self) -> None:
        world = World()
        client, _ = world.connect(world.grant("a"))
        assert client.closed is not None
        assert client.closed[0] == 3500

    def test_keys_that_cannot_be_read_are_a_temporary_error(self) -> None:
        class Down:
            async def connection(self, text: str) -> Any:
                raise Unavailable("the keys of tokens cannot be read now", "jwks")

            subscription: Any = None
            accepts: Any = None

        client = Client(make_node(tokens=Down()), connect=False)
        [reply] = client.say({"id": 1, "connect": {"token": "a.b.c"}})
        assert (reply["error"]["code"], reply["error"]["temporary"]) == (100, True)
        assert client.closed is None


class TestChannelsOfAToken:
    def test_the_server_subscribes_to_its_channels(self) -> None:
        world = World()
        text = world.token(channels=["news", "chat:*"], subs={"inbox:#42": {"data": {"a": 1}}})
        client, reply = world.connect(text)
        subs = reply["connect"]["subs"]
        assert set(subs) == {"news", "inbox:#42"}
        assert subs["inbox:#42"]["data"] == {"a": 1}
        assert "data" not in subs["news"]
        assert client.session.channels == {"news", "inbox:#42"}

    def test_they_have_their_info_and_joins(self) -> None:
        world = World()
        subs = {
            "room": {
                "info": {"role": "host"},
                "override": {"force_push_join_leave": {"value": True}},
            }
        }
        host = world.client(world.token(subs=subs))
        guest = world.client(world.token("43", channels=["room"]))
        [push] = host.pushes()
        assert push["join"]["info"]["user"] == "43"
        presence = guest.command("presence", channel="room")["presence"]["presence"]
        infos = {client["user"]: client.get("chan_info") for client in presence.values()}
        assert infos == {"42": {"role": "host"}, "43": None}

    def test_a_reconnect_recovers_them(self) -> None:
        world = World()
        client, reply = world.connect(world.token(channels=["news"]))
        start = reply["connect"]["subs"]["news"]
        client.session.closed()
        publish(world.node, "news", "missed")
        position = {"recover": True, "epoch": start["epoch"], "offset": start.get("offset", 0)}
        _, reply = world.connect(world.token(channels=["news"]), subs={"news": position})
        sub = reply["connect"]["subs"]["news"]
        assert [pub["data"] for pub in sub["publications"]] == ["missed"]
        assert sub["recovered"]

    def test_a_pattern_permits_and_subscribes_nowhere(self) -> None:
        world = World(subscribe="token")
        client = world.client(world.token(channels=["chat:*"]))
        assert client.session.channels == set()
        assert "subscribe" in client.command("subscribe", channel="chat:1")
        assert error(client.command("subscribe", channel="news"))[0] == 103

    def test_each_user_may_have_a_channel(self) -> None:
        world = World(personal=True)
        _, reply = world.connect(world.token())
        assert set(reply["connect"]["subs"]) == {"#42"}
        for user in ("a,b", "Zoë", ""):
            _, reply = world.connect(world.token(user))
            assert "subs" not in reply["connect"]
        usual = World()
        assert "subs" not in usual.connect(usual.token())[1]["connect"]

    def test_a_channel_that_is_for_nobody_refuses_the_connect(self) -> None:
        world = World(subscribe="nobody")
        client, reply = world.connect(world.token(channels=["news"]))
        assert error(reply)[0] == 103
        assert client.session.channels == set()

    def test_a_channel_of_another_user_refuses_the_connect(self) -> None:
        world = World()
        _, reply = world.connect(world.token(subs={"inbox:#43": {}}))
        assert error(reply)[0] == 103

    def test_the_handler_of_the_application_is_asked_too(self) -> None:
        class App(NoHandlers):
            def __init__(self) -> None:
                self.asked: list[str] = []
                self.gone: list[str] = []

            def guards(self, channel: str) -> bool:
                return channel == "guarded"

            async def subscribe(self, session: ClientSession, channel: str, data: bytes) -> None:
                self.asked.append(channel)
                raise Refused("not you", 403)

            def disconnect(self, session: ClientSession, reason: str) -> None:
                self.gone.append(reason)

        app = App()
        world = World(handlers=app)
        _, reply = world.connect(world.token(channels=["guarded", "open"]))
        assert error(reply) == (403, "not you")
        assert (app.asked, app.gone) == (["guarded"], [""])

    def test_channels_and_subs_together_have_a_bound(self) -> None:
        world = World()
        world.node.limits = replace(Limits(), channels_per_client=3)
        text = world.token(channels=["a", "b"], subs={"c": {}, "d": {}})
        assert error(world.connect(text)[1])[0] == 106


class TestRefresh:
    def test_a_new_token_prolongs_the_session(self) -> None:
        world = World()
        client = world.client()
        world.passes_alive(59, client)
        reply = client.command("refresh", token=world.token(seconds=100))["refresh"]
        assert (reply["expires"], reply["ttl"]) == (True, 100)
        assert reply["client"] == client.session.info.client
        world.passes_alive(100 + int(GRACE_SECONDS) - 1, client)
        assert client.closed is None
        world.passes_alive(3, client)
        assert client.closed == (3005, "expired")

    def test_a_session_ends_when_its_token_is_not_refreshed(self) -> None:
        world = World()
        client = world.client()
        world.passes_alive(60 + int(GRACE_SECONDS) - 1, client)
        assert client.closed is None
        world.passes_alive(2, client)
        assert client.closed == (3005, "expired")
        assert client.session.channels == set()

    def test_joins_end_with_the_right_to_the_presence(self) -> None:
        world = World(join_leave=True, presence="token")
        client = world.client(world.token(channels=["*"]))
        client.command("subscribe", channel="a", join_leave=True)
        client.command("refresh", token=world.token(channels=["*"]))
        client.pushes()
        world.client().command("subscribe", channel="a")
        assert "join" in client.pushes()[0]
        client.command("refresh", token=world.token())
        client.pushes()
        world.client().command("subscribe", channel="a")
        publish(world.node, "a")
        assert ["pub" in push for push in client.pushes()] == [True]

    def test_joins_that_a_subscription_token_asks_for_end_with_it(self) -> None:
        world = World(join_leave=True, subscribe="token", presence="key")
        client = world.client()
        pushed: dict[str, Any] = {"override": {"force_push_join_leave": {"value": True}}}
        other = {"subscribe": {"channel": "a", "token": world.grant("a")}}
        client.command("subscribe", channel="a", token=world.grant("a", **pushed))
        for fields, joins in ((pushed, 1), ({}, 0)):
            client.command("sub_refresh", channel="a", token=world.grant("a", **fields))
            client.pushes()
            world.client().say({"id": 9, **other})
            assert len(client.pushes()) == joins

    def test_a_token_without_an_end_ends_nothing(self) -> None:
        world = World()
        client = world.client()
        reply = client.command("refresh", token=world.token(expire_at=0))["refresh"]
        assert "expires" not in reply
        world.passes_alive(200, client)
        assert client.closed is None

    @pytest.mark.parametrize(
        ("claims", "code", "reason"),
        [
            ({"user": "43"}, 3500, "invalid token: it is of the user '43', expected '42'"),
            ({"user": ""}, 3500, "invalid token: it is of the user '', expected '42'"),
            ({"channel": "a"}, 3500, "invalid token: this is a token of a subscription"),
            ({"seconds": -1}, 3005, "the token has expired"),
        ],
    )
    def test_another_token_ends_the_session(
        self, claims: dict[str, Any], code: int, reason: str
    ) -> None:
        world = World()
        client = world.client()
        client.say({"id": 9, "refresh": {"token": world.token(**claims)}})
        assert client.closed is not None
        assert client.closed[0] == code
        assert client.closed[1].startswith(reason)

    def test_a_refresh_needs_a_token(self) -> None:
        for method, fields in {"refresh": {}, "sub_refresh": {"channel": "a"}}.items():
            client = World().client()
            client.say({"id": 9, method: fields})
            assert client.closed == (3501, f"{method} needs a token")

    def test_the_permissions_are_those_of_the_new_token(self) -> None:
        world = World(subscribe="token")
        client = world.client(world.token(channels=["news", "chat:*"]))
        client.command("subscribe", channel="chat:1")
        client.command("subscribe", channel="shop", token=world.grant("shop"))
        drive(client.session.invite("app"))
        client.pushes()
        values = client.say({"id": 9, "refresh": {"token": world.token(channels=["chat:*"])}})
        assert [value.get("push", {}).get("channel") for value in values] == ["news", None]
        assert values[0]["push"]["unsubscribe"]["code"] == 2000
        assert client.session.channels == {"chat:1", "shop", "app"}

    def test_info_of_the_new_token_is_that_of_the_client(self) -> None:
        world = World()
        client = world.client(world.token(info=1))
        client.command("refresh", token=world.token(info=2))
        assert client.session.info.conn_info == b"2"

    def test_keys_that_cannot_be_read_are_a_temporary_error(self) -> None:
        class Down:
            down = False

            async def connection(self, text: str) -> Identity:
                if self.down:
                    raise Unavailable("the keys of tokens cannot be read now", "jwks")
                return Identity(user="42", token=True)

            subscription: Any = None
            accepts: Any = None

        tokens = Down()
        client = Client(make_node(tokens=tokens), connect=False)
        assert "connect" in client.command("connect", token="a.b.c")
        tokens.down = True
        reply = client.command("refresh", token="a.b.c")
        assert (reply["error"]["code"], reply["error"]["temporary"]) == (100, True)
        assert client.closed is None

    def test_the_application_may_have_set_the_user_and_the_info(self) -> None:
        class App(NoHandlers):
            async def connect(self, session: ClientSession, data: bytes) -> bytes:
                session.identify("ann", b'"ours"')
                return b""

        world = World(handlers=App())
        client = world.client(world.token(info="theirs"))
        assert "refresh" in client.command("refresh", token=world.token(seconds=500, info="new"))
        info = client.session.info
        assert (info.user, info.conn_info) == ("ann", b'"ours"')
        assert client.session.identity.user == "ann"
        client.say({"id": 9, "refresh": {"token": world.token("ann")}})
        assert client.closed is not None
        assert client.closed[0] == 3500

    def test_an_invalid_token_counts_for_the_address_and_is_logged(self) -> None:
        world = World()
        logged: list[Any] = []
        world.node.log_refusal = lambda *refusal: logged.append(refusal)
        client = world.client()
        client.say({"id": 9, "refresh": {"token": "invalid_token"}})
        assert [refusal[0] for refusal in logged] == [3500]
        assert world.node.metrics.refusals["wrong_token"] == 1


class TestALogin:
    """A token in the request of the connection: a header, a cookie or the query."""

    def test_ends_the_session_without_extra_time(self) -> None:
        world = World()
        client = Client(world.node, connect=False)
        client.session.credentials = Credentials(token=world.token())
        reply = client.command("connect")["connect"]
        assert "expires" not in reply
        assert client.session.info.user == "42"
        world.passes_alive(59, client)
        assert client.closed is None
        world.passes_alive(2, client)
        assert client.closed == (3005, "expired")

    def test_may_be_refreshed_by_a_token(self) -> None:
        world = World()
        client = Client(world.node, connect=False)
        client.session.credentials = Credentials(token=world.token())
        client.command("connect")
        reply = client.command("refresh", token=world.token(seconds=100))["refresh"]
        assert reply["ttl"] == 100
        world.passes_alive(100 + int(GRACE_SECONDS) - 1, client)
        assert client.closed is None


class TestSubscriptions:
    def test_a_token_permits_its_channel(self) -> None:
        world = World(subscribe="token")
        client = world.client()
        assert error(client.command("subscribe", channel="news"))[0] == 103
        reply = client.command("subscribe", channel="news", token=world.grant("news"))
        assert (reply["subscribe"]["expires"], reply["subscribe"]["ttl"]) == (True, 60)

    def test_an_anonymous_client_may_have_one(self) -> None:
        world = World(subscribe="token")
        client, _ = world.connect()
        text = world.grant("news", user="")
        assert "subscribe" in client.command("subscribe", channel="news", token=text)

    @pytest.mark.parametrize(
        ("text", "code"),
        [
            (lambda world: "invalid_token", 103),
            (lambda world: world.grant("other"), 103),
            (lambda world: world.grant("news", user="43"), 103),
            (lambda world: world.token(), 103),
            (lambda world: world.grant("news", -1), 109),
        ],
    )
    def test_another_token_is_an_error(self, text: Any, code: int) -> None:
        world = World()
        client = world.client()
        reply = client.command("subscribe", channel="news", token=text(world))
        assert error(reply)[0] == code
        assert client.closed is None
        assert client.session.channels == set()

    def test_its_info_and_joins_are_used(self) -> None:
        world = World()
        client, other = world.client(), world.client(world.token("43"))
        text = world.grant("a", info="host", override={"force_push_join_leave": {"value": True}})
        client.command("subscribe", channel="a", token=text)
        other.command("subscribe", channel="a")
        [push] = client.pushes()
        assert push["join"]["info"]["user"] == "43"
        presence = other.command("presence", channel="a")["presence"]["presence"]
        assert presence[client.session.info.client]["chan_info"] == "host"

    def test_it_ends_without_a_refresh_and_the_client_subscribes_again(self) -> None:
        world = World()
        client = world.client(world.token(seconds=1_000))
        client.command("subscribe", channel="a", token=world.grant("a"))
        client.command("subscribe", channel="b")
        world.passes_alive(60 + int(GRACE_SECONDS) - 1, client)
        assert client.session.channels == {"a", "b"}
        client.kept = []  # type: ignore[attr-defined]
        world.passes_alive(2, client)
        pushes = [value["push"] for value in client.kept if value]  # type: ignore[attr-defined]
        ended = {"code": 2501, "reason": "subscription expired"}
        assert pushes == [{"channel": "a", "unsubscribe": ended}]
        assert client.session.channels == {"b"}
        reply = client.command("subscribe", channel="a", token=world.grant("a"))
        assert "subscribe" in reply

    def test_a_refresh_prolongs_it(self) -> None:
        world = World()
        client = world.client(world.token(seconds=1_000))
        client.command("subscribe", channel="a", token=world.grant("a"))
        world.passes_alive(70, client)
        reply = client.command("sub_refresh", channel="a", token=world.grant("a", 100))
        assert reply["sub_refresh"] == {"expires": True, "ttl": 100}
        world.passes_alive(100, client)
        assert client.session.channels == {"a"}
        reply = client.command("sub_refresh", channel="a", token=world.grant("a", expire_at=0))
        assert reply["sub_refresh"] == {}
        world.passes_alive(200, client)
        assert client.session.channels == {"a"}

    def test_an_expired_token_in_its_refresh_ends_it(self) -> None:
        world = World()
        client = world.client()
        client.command("subscribe", channel="a", token=world.grant("a"))
        text = world.grant("a", -1)
        push, reply = client.say({"id": 9, "sub_refresh": {"channel": "a", "token": text}})
        assert push["push"]["unsubscribe"]["code"] == 2501
        assert error(reply)[0] == 109
        assert client.session.channels == set()

    def test_another_token_in_its_refresh_is_an_error(self) -> None:
        world = World()
        client = world.client()
        client.command("subscribe", channel="a", token=world.grant("a"))
        for text in ("invalid_token", world.grant("b"), world.grant("a", user="43")):
            assert error(client.command("sub_refresh", channel="a", token=text))[0] == 103
        reply = client.command("sub_refresh", channel="b", token=world.grant("b"))
        assert error(reply) == (103, "not subscribed to b")

    def test_a_subscription_without_a_token_replaces_the_end(self) -> None:
        world = World()
        client = world.client(world.token(seconds=1_000))
        client.command("subscribe", channel="a", token=world.grant("a"))
        client.command("unsubscribe", channel="a")
        client.command("subscribe", channel="a")
        world.passes_alive(100, client)
        assert client.session.channels == {"a"}

    def test_one_by_the_server_ends_the_connection(self) -> None:
        world = World()
        client = world.client(world.token(seconds=1_000))
        drive(client.session.invite("a", Invitation(expires=world.time.now + 10)))
        world.passes_alive(10 + int(GRACE_SECONDS) + 1, client)
        assert client.closed == (3006, "subscription expired")


class TestTheServer:
    def test_may_prolong_a_session(self) -> None:
        world = World()
        client = world.client()
        client.session.prolong(world.time.now + 200)
        assert client.pushes() == [{"refresh": {"expires": True, "ttl": 200}}]
        world.passes_alive(200, client)
        assert client.closed is None
        world.passes_alive(int(GRACE_SECONDS) + 1, client)
        assert client.closed == (3005, "expired")

    def test_tells_nothing_to_a_client_that_cannot_refresh(self) -> None:
        world = World()
        client, _ = world.connect()
        client.session.prolong(world.time.now + 50)
        assert client.pushes() == []
        world.passes_alive(51, client)
        assert client.closed == (3005, "expired")

    def test_a_wake_for_the_end_is_no_deadline_of_a_ping(self) -> None:
        """The end and the ping have one timer: a wake for the one must not trigger the other."""
        world = World()
        client = world.client(world.token(seconds=1_000))
        for n in range(60):
            client.command("subscribe", channel=f"c{n}", token=world.grant(f"c{n}", n + 1))
        while {} not in client.transport.take():
            world.passes(1)
        # Grants end in each of these seconds, and the pong is still to come.
        world.passes(7)
        assert client.closed is None
        client.session.received(b"{}")
        world.passes_alive(100, client)
        assert client.closed is None
        assert client.session.channels == set()


steps = st.one_of(
    st.tuples(st.just("pass"), st.integers(1, 40)),
    st.tuples(st.just("refresh"), st.integers(-5, 60)),
    st.tuples(st.just("subscribe"), st.sampled_from("ab"), st.integers(1, 60)),
    st.tuples(st.just("sub_refresh"), st.sampled_from("ab"), st.integers(1, 60)),
    st.tuples(st.just("unsubscribe"), st.sampled_from("ab")),
)


@given(programs(steps, most=30))
def test_nothing_lasts_longer_than_its_token_and_nothing_ends_before(program: list[Any]) -> None:
    world = World()
    client = world.client()
    end, ends = world.time.now + 60, dict[str, float]()
    for step, *rest in program:
        now = world.time.now
        if step == "pass":
            world.passes_alive(rest[0], client)
        elif step == "refresh":
            client.say({"id": 9, "refresh": {"token": world.token(seconds=rest[0])}})
            if rest[0] <= 0:
                assert client.closed is not None
                assert client.closed[0] == 3005
                return
            end = now + rest[0]
        else:
            channel, *seconds = rest
            fields = {"channel": channel}
            if seconds:
                fields["token"] = world.grant(channel, seconds[0])
            client.say({"id": 9, step: fields})
            if step == "unsubscribe":
                ends.pop(channel, None)
            elif step == "sub_refresh" and channel in ends:
                ends[channel] = now + seconds[0]
            elif step == "subscribe":
                ends.setdefault(channel, now + seconds[0])
        now = world.time.now
        if client.closed is not None:
            assert client.closed == (3005, "expired")
            assert now >= end + GRACE_SECONDS
            return
        # A wheel of seconds ends it up to one tick late.
        assert now <= end + GRACE_SECONDS + 1
        for channel, last in tuple(ends.items()):
            if channel in client.session.channels:
                assert now <= last + GRACE_SECONDS + 1
            else:
                assert now >= last + GRACE_SECONDS
                del ends[channel]
        assert client.session.channels == ends.keys()


def test_the_requests_are_small() -> None:
    world = World()
    client = world.client()
    text = json.dumps({"id": 9, "refresh": {"token": ["a"]}})
    assert error(client.say(text.encode())[0])[0] == 107


class TestSubscriptionToken:
    """A subscription token is a token for its channel, whatever the client does there."""

    def test_permits_all_that_needs_a_token_for_the_channel(self) -> None:
        rules: Any = dict.fromkeys(("subscribe", "publish", "history", "presence"), "token")
        world = World(**rules)
        client = world.client()
        commands = {"publish": {"data": 1}, "history": {"limit": 1}, "presence": {}}
        for name, fields in commands.items():
            [reply] = client.say({"id": 7, name: {"channel": "a", **fields}})
            assert error(reply)[0] == 103
        client.say({"id": 2, "subscribe": {"channel": "a", "token": world.grant("a")}})
        for name, fields in commands.items():
            replies = client.say({"id": 7, name: {"channel": "a", **fields}})
            assert any(name in reply for reply in replies)
            [reply] = client.say({"id": 7, name: {"channel": "b", **fields}})
            assert error(reply)[0] == 103
        client.say({"id": 8, "unsubscribe": {"channel": "a"}})
        [reply] = client.say({"id": 9, "publish": {"channel": "a", "data": 1}})
        assert error(reply)[0] == 103

    def test_subscription_by_the_server_is_no_token(self) -> None:
        world = World(publish="token")
        client = world.client()
        drive(client.session.invite("a", Invitation(expires=world.time.now + 60)))
        client.transport.take()
        [reply] = client.say({"id": 2, "publish": {"channel": "a", "data": 1}})
        assert error(reply)[0] == 103
