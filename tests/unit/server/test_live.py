"""The configuration of a running server is replaced as a whole, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from pushserver.auth.rates import Rates
from pushserver.auth.token_keys import key_of_jwk
from pushserver.channels.channel import ChannelOptions
from pushserver.config.limits import Limits
from pushserver.config.loader import load
from pushserver.config.settings import (
    Auth,
    Config,
    KeySettings,
    Page,
    Source,
    TokenKeySettings,
)
from pushserver.config.settings import Server as ServerConfig
from pushserver.errors import InvalidConfig, StartFailed, Unavailable
from pushserver.server import live as live_module
from pushserver.server import systemd
from pushserver.server.embedding import PushServer
from pushserver.server.live import Outcome
from pushserver.sources.engine.environment import Plan
from pushserver.sources.engine.runner import Runner
from pushserver.sources.interface import Feed
from pushserver.sources.registry import SourceTypes
from tests.unit.fakes.socketio import IoClient
from tests.unit.fakes.source_tools import Script
from tests.unit.fakes.tokens import SECRET, jwk, of_user, token
from tests.unit.fakes.tools import Client
from tests.unit.fakes.web import BROWSER, Log, Server, Socket, Trouble
from tests.unit.resources.test_polling import Poller

KEYS = Auth(api_keys=["the first key"])
OTHER_KEYS = Auth(api_keys=["the second key"])


def config(text: str = "", **sections: Any) -> Config:
    """A configuration without sources, of a TOML text or of sections."""
    if text:
        return load(f"{text}\n[sources]", "push.toml", {}, SourceTypes())
    return Config(**{"sources": {}, **sections})


class Reloaded(Server):
    """A server whose configuration the test replaces."""

    def __init__(self, before: Config | None = None, app: PushServer | None = None):
        super().__init__(config=before or config(), app=app)
        self.live = self.service.live
        self.bounds = self.live._base.peers

    @staticmethod
    def rate(rates: Rates) -> float:
        """The events that are allowed in a second."""
        return 1 / rates._seconds_each

    def request(self, load: Callable[[], Config]) -> list[Any]:
        """Ask for a reload; the list has its outcome when that is known."""
        self.live.allow(load)
        outcomes: list[Any] = []
        self.live.reload().addBoth(outcomes.append)
        return outcomes

    def reload(self, text: str = "", **sections: Any) -> Outcome:
        """Reload, and end the work of it."""
        outcomes = self.request(lambda: config(text, **sections))
        self.clock.advance(live_module.INTERVAL_SECONDS)
        while any(call.getTime() <= self.clock.seconds() for call in self.clock.getDelayedCalls()):
            self.clock.advance(0)
        [outcome] = outcomes
        assert isinstance(outcome, Outcome), outcome
        return outcome

    def refuse(self, load: Callable[[], Config]) -> str:
        """Reload, which is refused; returns the reason."""
        outcomes = self.request(load)
        self.clock.advance(live_module.INTERVAL_SECONDS)
        return str(outcomes[0].value)


def namespaces(server: Server, *names: str, **headers: str) -> Socket:
    """A client of Socket.IO that is connected to these namespaces."""
    socket = server.websocket("/socket.io/?EIO=4&transport=websocket", **headers)
    for name in names:
        [answer] = socket.say(f"40/{name},".encode())
        assert b'"sid"' in answer.payload
    return socket


def raising(error: BaseException) -> Callable[[], Config]:
    def load() -> Config:
        raise error

    return load


class TestOfAccess:
    def test_new_keys_count_at_once_and_old_ones_no_more(self) -> None:
        server = Reloaded(config(auth=KEYS))
        assert server.reload(auth=OTHER_KEYS).changed == ("auth.api_keys",)
        for key, expected in (("the first key", 401), ("the second key", 201)):
            answer = server.get("/channels/news", "POST", b"1", x_api_key=key)
            assert answer.status == expected

    def test_challenges_name_the_credentials_that_count_now(self) -> None:
        server = Reloaded(config(auth=Auth(closed=True)))
        for auth, schemes in (
            (Auth(closed=True, token_secret=SECRET), ["ApiKey", 'Bearer realm="pushserver"']),
            (Auth(closed=True), ["ApiKey"]),
        ):
            server.reload(auth=auth)
            assert server.get("/channels/news").headers["www-authenticate"] == schemes

    def test_a_session_whose_key_is_gone_ends_and_others_notice_nothing(self) -> None:
        keys = {name: KeySettings(key=f"the key of {name}") for name in ("shop", "till")}
        server = Reloaded(config(auth=Auth(keys=keys)))
        gone = server.session(x_api_key="the key of shop")
        stays = server.session(x_api_key="the key of till")
        anonymous = server.session()
        for socket in (gone, stays, anonymous):
            socket.say({"id": 2, "subscribe": {"channel": "news"}})
        server.reload(auth=Auth(keys={"till": keys["till"]}))
        assert gone.close() == (3507, "the API key was removed from the configuration")
        server.publish("news")
        for socket in (stays, anonymous):
            (push,) = socket.texts()
            assert push["push"]["pub"]["data"] == 1

    def test_a_key_with_fewer_rights_has_these_in_open_sessions(self) -> None:
        may_read = {"shop": KeySettings(key="the key", channels=["a", "b"], may=["read"])}
        rules = ChannelOptions(subscribe="key")
        server = Reloaded(config(auth=Auth(keys=may_read), defaults=rules))
        socket = server.session(x_api_key="the key")
        for number, name in enumerate("ab", 2):
            socket.say({"id": number, "subscribe": {"channel": name}})
        socket.take()
        fewer = {"shop": replace(may_read["shop"], channels=["a"])}
        server.reload(auth=Auth(keys=fewer), defaults=rules)
        (push,) = socket.texts()
        assert (push["push"]["channel"], push["push"]["unsubscribe"]["code"]) == ("b", 2000)
        server.publish("a")
        assert socket.texts()[0]["push"]["channel"] == "a"

    @pytest.mark.parametrize("path", ["/channels/news", "/events?channel=news&channel=sport"])
    def test_a_stream_whose_key_is_gone_ends(self, path: str) -> None:
        server = Reloaded(config(auth=KEYS, defaults=ChannelOptions(subscribe="key")))
        given = {"accept": "text/event-stream", "x_api_key": "the first key"}
        line = server.open(path, **given)
        assert b"200 OK" in line.take()
        server.reload(auth=OTHER_KEYS, defaults=ChannelOptions(subscribe="key"))
        assert b"the API key was removed" in line.take()
        assert line.lost or line.disconnecting

    def test_a_long_poll_of_a_closed_channel_is_answered(self) -> None:
        server = Reloaded()
        line = server.open("/channels/news?wait=30&since=oldest", accept="application/json")
        assert line.take() == b""
        server.reload("[channels.news]\nsubscribe = 'key'")
        assert line.response().json["publications"] == []

    def test_new_rules_end_the_subscriptions_that_they_refuse(self) -> None:
        server = Reloaded()
        socket = server.session()
        for number, name in enumerate(("open", "shut"), 2):
            socket.say({"id": number, "subscribe": {"channel": name}})
        socket.take()
        server.reload("[channels.shut]\nsubscribe = 'key'")
        (push,) = socket.texts()
        assert (push["push"]["channel"], push["push"]["unsubscribe"]["code"]) == ("shut", 2000)
        assert socket.say({"id": 4, "subscribe": {"channel": "shut"}})[0].payload.find(b"103") > 0
        server.publish("open")
        assert socket.texts()[0]["push"]["channel"] == "open"

    @pytest.mark.parametrize("rules", ["join_leave = true\npresence = 'key'", "join_leave = false"])
    def test_new_rules_end_the_joins_and_leaves_that_a_client_asked_for(self, rules: str) -> None:
        server = Reloaded(config("[defaults]\njoin_leave = true"))
        socket, other = server.session(), server.session()
        socket.say({"id": 2, "subscribe": {"channel": "a", "join_leave": True}})
        for text, seen in (("join_leave = true", 2), (rules, 0)):
            server.reload(f"[defaults]\n{text}")
            other.say({"id": 2, "subscribe": {"channel": "a"}})
            other.say({"id": 3, "unsubscribe": {"channel": "a"}})
            assert len(socket.texts()) == seen
        server.publish("a")
        assert len(socket.texts()) == 1

    def test_joins_that_the_channel_pushes_stay_with_another_rule_for_presence(self) -> None:
        pushed = "[defaults]\njoin_leave = true\nforce_push_join_leave = true"
        server = Reloaded(config(pushed))
        socket = server.session()
        socket.say({"id": 2, "subscribe": {"channel": "a"}})
        socket.take()
        server.reload(f"{pushed}\npresence = 'key'")
        server.session().say({"id": 2, "subscribe": {"channel": "a"}})
        assert "join" in socket.texts()[0]["push"]

    def test_new_rules_end_the_namespaces_that_they_refuse(self) -> None:
        server = Reloaded()
        socket = namespaces(server, "open", "shut")
        server.reload("[channels.shut]\nsubscribe = 'key'")
        assert [frame.payload for frame in socket.take()] == [b"41/shut,"]
        assert b"subscribing to shut needs" in socket.say(b"40/shut,")[0].payload
        server.publish("open")
        server.publish("shut")
        assert [frame.payload for frame in socket.take()] == [b'42/open,["message",1]']

    def test_a_namespace_ends_with_the_key_of_its_client(self) -> None:
        server = Reloaded(config(auth=KEYS))
        socket = namespaces(server, "a", x_api_key="the first key")
        server.reload(auth=Auth(api_keys=["the first key", "another"]))
        assert socket.take() == []
        server.reload(auth=OTHER_KEYS)
        assert [frame.payload for frame in socket.take()] == [b"41/a,"]

    def test_a_client_of_socket_io_returns_if_the_key_of_its_token_is_gone(self) -> None:
        server = Reloaded(config(auth=Auth(token_secret=SECRET)))
        bearer = f"Bearer {token(of_user(seconds=1e9))}"
        socket = namespaces(server, "a", authorization=bearer)
        server.reload(auth=Auth(token_secret=f"another {SECRET}"))
        assert socket.close()[0] == 3005

    def test_a_closed_server_ends_anonymous_sessions(self) -> None:
        server = Reloaded()
        socket = server.session()
        server.reload(auth=Auth(closed=True))
        assert socket.close()[0] == 3507

    def test_a_session_ends_if_the_key_of_its_token_is_gone(self) -> None:
        server = Reloaded(config(auth=Auth(token_secret=SECRET)))
        bearer = f"Bearer {token(of_user(seconds=1e9))}"
        socket = server.session(authorization=bearer)
        server.reload(auth=Auth(token_secret=SECRET, token_leeway_seconds=7.0))
        assert socket.take() == []
        server.reload(auth=Auth(token_secret=f"another {SECRET}"))
        code, reason = socket.close()
        assert (code, reason) == (3005, "the key of the token was removed from the configuration")
        answer = server.get("/channels/$news", authorization=bearer)
        assert "the signature is not that of a key" in answer.error[1]

    def test_a_subscription_ends_if_the_key_of_its_token_is_gone(self) -> None:
        rules = ChannelOptions(subscribe="token")
        kept, old = (TokenKeySettings("HS256", key=name * 32) for name in "ko")
        server = Reloaded(config(auth=Auth(token_keys=[kept, old]), defaults=rules))
        socket = server.session()
        for number, (channel, name) in enumerate({"a": "k", "b": "o"}.items(), 2):
            claims = {**of_user("", 1e9), "channel": channel}
            given = token(claims, key=(name * 32).encode())
            socket.say({"id": number, "subscribe": {"channel": channel, "token": given}})
        server.publish("b")
        assert b'"channel":"b"' in socket.take()[-1].payload
        server.reload(auth=Auth(token_keys=[kept]), defaults=rules)
        (push,) = socket.texts()
        assert (push["push"]["channel"], push["push"]["unsubscribe"]["code"]) == ("b", 2501)
        server.publish("a")
        assert socket.texts()[0]["push"]["channel"] == "a"

    def test_a_new_origin_may_read(self) -> None:
        server = Reloaded()
        given = {"origin": "https://app.example", "accept": "text/event-stream"}
        assert server.get("/channels/news", **given).status == 403
        server.reload("[server]\nallowed_origins = ['https://app.example']")
        line = server.open("/channels/news", **given)
        assert b"200 OK" in line.take()

    def test_a_new_name_is_one_of_the_server(self) -> None:
        server = Reloaded()
        given = {"host": "push.example", "accept": "application/json"}
        assert server.get("/channels/news", **given).status == 403
        server.reload("[server]\nnames = ['push.example']")
        assert server.get("/channels/news", **given).status == 200

    @pytest.mark.parametrize(("url", "kept"), [("/keys", True), ("/others", False)])
    def test_published_keys_stay_valid_if_they_are_of_the_same_set(
        self, url: str, kept: bool
    ) -> None:
        auth = Auth(jwks_url="http://127.0.0.1:1/keys")
        server = Reloaded(config(auth=auth))
        before = server.live._front.verifier
        assert before is not None
        key = key_of_jwk(jwk("ES256"))
        before.set_published([key])
        auth = Auth(jwks_url=f"http://127.0.0.1:1{url}", token_leeway_seconds=7.0)
        server.reload(auth=auth)
        after = server.live._front.verifier
        assert after is not None
        assert after.accepts(key) is kept

    def test_the_application_makes_tokens_by_the_new_secret(self) -> None:
        app = PushServer()
        server = Reloaded(config(auth=Auth(token_secret=SECRET)), app=app)
        server.service.startService()
        server.clock.advance(0)
        server.reload(auth=Auth(token_secret=f"another {SECRET}"))
        bearer = f"Bearer {app.token('ann')}"
        session = server.session(authorization=bearer)
        [client] = server.node.sessions.of_user("ann")
        assert client.connected
        assert session.take() == []

    def test_the_front_page_is_that_of_the_new_channel(self) -> None:
        server = Reloaded()
        server.reload("[server]\nfront_channel = 'another'")
        assert b"another" in server.get("/", accept="text/html").body


class TestOfTheLook:
    def test_templates_files_and_colours_count_at_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "pages").mkdir()
        (tmp_path / "pages" / "about.html").write_text("{{ site }}")
        (tmp_path / "error.html").write_text("own")
        (tmp_path / "own.js").write_text("own()")
        server = Reloaded()
        server.send_files(monkeypatch)
        assert server.get("/about", accept=BROWSER).body != b"own"
        look = ServerConfig(templates=str(tmp_path), static=str(tmp_path))
        server.reload(server=look, page=Page("Ours", "#b45309"))
        assert server.get("/about").body == b"Ours"
        assert server.get("/nothing", accept=BROWSER).body == b"own"
        assert server.get("/static/own.js").body == b"own()"
        assert b"page-colours.css" in server.get("/", accept=BROWSER).body
        assert server.get("/static/page-colours.css").status == 200
        server.reload()
        assert server.get("/about").status == 404
        assert server.get("/static/own.js").status == 404
        assert server.get("/static/page-colours.css").status == 404


class TestOfLimits:
    def test_limits_count_for_open_connections(self) -> None:
        server = Reloaded()
        socket = server.session()
        server.reload("[limits]\nchannels_per_client = 1\nbody_bytes = 10")
        socket.say({"id": 2, "subscribe": {"channel": "a"}})
        assert b'"code":106' in socket.say({"id": 3, "subscribe": {"channel": "b"}})[0].payload
        answer = server.get("/channels/news", "POST", b'"more than ten"')
        assert answer.status == 413

    def test_connections_over_a_lower_bound_stay(self) -> None:
        server = Reloaded(config(limits=Limits(exempt_networks=[])))
        sockets = [server.session() for _ in range(3)]
        server.reload(limits=Limits(exempt_networks=[], connections_per_address=2))
        assert server.get("/channels/news").status == 429
        assert all(socket.take() == [] for socket in sockets)

    def test_an_exempt_network_counts_for_new_connections(self) -> None:
        server = Reloaded(config(limits=Limits(connections_per_address=1)))
        server.session()
        server.reload(limits=Limits(connections_per_address=1, exempt_networks=[]))
        server.session()
        assert server.get("/channels/news").status == 429

    def test_a_session_is_pinged_at_the_interval_that_its_client_knows(self) -> None:
        server = Reloaded(config(limits=Limits(ping_seconds=10.0, pong_seconds=2.0)))
        client = Client(server.node)
        server.reload(limits=Limits(ping_seconds=60.0, pong_seconds=2.0))
        client.transport.take()
        pings = 0
        for _ in range(45):
            server.advance(1)
            if client.transport.take() == [{}]:
                pings += 1
                client.session.received(b"{}")
        assert pings >= 4
        assert client.closed is None

    def test_a_client_of_socket_io_is_pinged_at_the_interval_that_it_knows(self) -> None:
        server = Reloaded(config(limits=Limits(ping_seconds=10.0, dead_seconds=2.0)))
        client = IoClient(server.node, "")
        server.reload(limits=Limits(ping_seconds=60.0, dead_seconds=2.0))
        pings = 0
        for _ in range(45):
            server.advance(1)
            if client.take() == ["2"]:
                pings += 1
                client.say("3")
        assert pings >= 4
        assert client.closed is None

    def test_a_client_that_polls_notices_nothing(self) -> None:
        server = Reloaded()
        poller = Poller(server, "/a")
        line = poller.wait()
        line.settle()
        server.reload(limits=Limits(ping_seconds=20.0))
        server.publish("a")
        assert line.response().body == b'42/a,["message",1]'
        assert poller.upgrade().say(b"2probe", b"5")[0].payload == b"3probe"

    def test_the_time_limit_of_handlers_changes(self) -> None:
        app = PushServer()
        server = Reloaded(app=app)
        server.reload("[limits]\nhandler_seconds = 2.0")
        assert server.service._app is not None
        assert server.service._app._dispatcher.seconds == 2.0

    def test_publications_over_the_new_rate_are_refused(self) -> None:
        server = Reloaded(config(auth=KEYS))
        limits = Limits(exempt_networks=[], key_publications_per_second=1)
        server.reload(auth=KEYS, limits=limits)
        answers = [
            server.get("/channels/news", "POST", b"1", x_api_key="the first key").status
            for _ in range(12)
        ]
        assert answers == [201] * 10 + [429] * 2


def keys_of(server: Server) -> Any:
    """The idempotency keys of a server."""
    broker: Any = server.node._broker
    return broker._keys


IN_PLACE: dict[str, Callable[[Reloaded], float]] = {
    "address_publications_per_second": lambda s: s.rate(s.bounds.publications._address.rates),
    "announced_audience": lambda s: s.node.presence.announced_audience,
    "channels": lambda s: s.node.history.room.most_channels,
    "connections": lambda s: s.bounds.connections._most,
    "connections_per_address": lambda s: s.bounds.connections._per_name,
    "connections_per_user": lambda s: s.node.users.most,
    "drain_seconds": lambda s: 2 * s.live._base.environment.stop_seconds,
    "history_total_bytes": lambda s: s.node.history.room.most_bytes,
    "idempotency_keys": lambda s: keys_of(s)._most,
    "idempotency_keys_per_publisher": lambda s: keys_of(s)._most_of_one,
    "key_publications_per_second": lambda s: s.rate(s.bounds.publications._key.rates),
    "new_connections_per_second": lambda s: s.rate(s.bounds.connections.rates),
    "ping_seconds": lambda s: s.node.limits.ping_seconds,
    "queue_bytes": lambda s: s.bounds.unread.bytes,
    "queue_seconds": lambda s: s.bounds.unread.seconds,
    "request_seconds": lambda s: s.site.timeOut or 0,
    "requests_per_second": lambda s: s.site.limits.requests_per_second,
    "slow_bytes_per_second": lambda s: s.bounds.unread.slow_bytes_per_second,
    "unsent_bytes": lambda s: s.bounds.unread.unsent.most,
    "user_publications_per_second": lambda s: s.rate(s.bounds.publications._user.rates),
    "wrong_keys_per_minute": lambda s: 60 * s.rate(s.node.identification.wrong_keys.rates),
}
"""Where a limit is kept in a part that outlasts the reload."""


@pytest.mark.parametrize("setting", IN_PLACE)
def test_a_limit_changes_in_the_part_that_has_it(setting: str) -> None:
    server = Reloaded()
    changed: dict[str, Any] = {setting: 7}
    server.reload(limits=Limits(**changed))
    assert IN_PLACE[setting](server) == pytest.approx(7)


class TestOfChannels:
    def test_a_smaller_history_is_cut(self) -> None:
        server = Reloaded()
        for number in range(5):
            server.publish("news", number)
        server.reload("[namespaces.chat]\nhistory_size = 2\n[channels.news]\nhistory_size = 3")
        channel = server.node.history.channels["news"]
        assert [row.data for row in channel.last(9)] == [b"2", b"3", b"4"]
        server.publish("chat:1", 1)
        assert server.node.history.channels["chat:1"].options.history_size == 2

    def test_histories_over_a_smaller_memory_make_room(self) -> None:
        server = Reloaded()
        for name in ("a", "b", "c"):
            server.publish(name)
        server.reload("[limits]\nchannels = 2")
        server.publish("c", 2)
        assert sorted(server.node.history.channels) == ["b", "c"]


class TestOfTheLog:
    def test_levels_of_the_log_change(self) -> None:
        server = Reloaded()
        with Log() as events:
            Logger("pushserver.store").debug("x")
        [event] = events
        assert server.service.levels(event).name == "no"
        assert server.reload("[log.levels]\nstore = 'debug'").changed == ("log.levels",)
        assert server.service.levels(event).name == "maybe"

    def test_connects_are_logged_after_a_reload(self) -> None:
        server = Reloaded()
        server.reload("[log.levels]\nconnections = 'debug'")
        with Log() as events:
            server.session()
        assert "client_connected" in [event.get("event_name") for event in events]


class TestRefusal:
    @pytest.mark.parametrize(
        "error",
        [
            InvalidConfig("push.toml: limits.channels: expected a whole number >= 1, value 0"),
            StartFailed("push.toml: No such file or directory"),
        ],
    )
    def test_a_bad_configuration_is_told_and_the_old_one_stays(
        self, error: Exception, trouble: Trouble
    ) -> None:
        server = Reloaded(config(auth=KEYS))
        socket = server.session(x_api_key="the first key")
        reason = str(error).removeprefix("pushserver: ")
        expected = f"the new configuration is refused, and the old one stays: {reason}"
        assert server.refuse(raising(error)) == expected
        assert trouble.take() == [expected]
        assert socket.say({"id": 2, "subscribe": {"channel": "a"}})
        assert server.get("/channels/a", "POST", b"1", x_api_key="the first key").status == 201

    def test_nothing_of_a_configuration_applies_if_a_source_cannot_be_made(
        self, trouble: Trouble
    ) -> None:
        app = PushServer()

        @app.source("numbers", every=1)
        def numbers() -> int:
            return 1

        server = Reloaded(config(auth=KEYS), app=app)
        bad = config(auth=OTHER_KEYS, sources={"numbers": Source("random", "numbers")})
        reason = server.refuse(lambda: bad)
        assert "sources.numbers: the application has a source of this name too" in reason
        assert len(trouble.take()) == 1
        answer = server.get("/channels/a", "POST", b"1", x_api_key="the first key")
        assert answer.status == 201

    def test_an_error_in_the_server_is_logged_and_the_old_one_stays(self, trouble: Trouble) -> None:
        server = Reloaded()
        reason = server.refuse(raising(ZeroDivisionError("by zero")))
        assert reason.endswith("an error in the server, which the log has")
        assert [text.partition(":")[0] for text in trouble.take()] == [
            "the reload failed",
            "the new configuration is refused, and the old one stays",
        ]

    def test_a_good_configuration_applies_after_a_bad_one(self, trouble: Trouble) -> None:
        server = Reloaded()
        server.refuse(raising(StartFailed("bad")))
        trouble.take()
        assert server.reload("[limits]\nchannels = 5").changed == ("limits.channels",)

    def test_settings_that_need_a_restart_keep_their_values_and_are_named(self) -> None:
        server = Reloaded()
        text = "[store]\npath = 'x.db'\n[server]\nlisten = ['tcp:1']\nfront_channel = 'a'"
        for _ in range(2):
            outcome = server.reload(text)
            assert outcome.restart == ("server.listen", "store.path")
        assert str(outcome) == ("nothing changed; these need a restart: server.listen, store.path")

    def test_the_text_of_many_changes_is_bounded(self) -> None:
        names = tuple(f"channels.{number}" for number in range(25))
        assert str(Outcome(names, ())).endswith("channels.19 and 5 more")


class TestRequests:
    def test_two_at_once_are_one_reload_and_the_next_one_waits_a_second(self) -> None:
        server = Reloaded()
        loads: list[float] = []

        def load() -> Config:
            loads.append(server.clock.seconds())
            return config()

        first = [server.request(load), server.request(load)]
        server.clock.advance(0)
        assert [len(outcomes) for outcomes in first] == [1, 1]
        later = [server.request(load) for _ in range(5)]
        server.clock.advance(0.5)
        assert later == [[]] * 5
        server.clock.advance(0.5)
        assert [len(outcomes) for outcomes in later] == [1] * 5
        assert loads == [0.0, 1.0]

    def test_a_stop_ends_the_requests_that_wait(self, trouble: Trouble) -> None:
        server = Reloaded()
        outcomes = server.request(config)
        server.service.startService()
        server.service.stopService()
        assert isinstance(outcomes[0].value, Unavailable)
        assert outcomes[0].value.cause == "stopping"
        later: list[Any] = []
        server.live.reload().addErrback(later.append)
        assert isinstance(later[0].value, Unavailable)
        with Log() as events:
            server.live.request("SIGHUP")
        assert [event.get("event_name") for event in events] == ["reload_skipped"]
        server.clock.advance(10)

    def test_a_signal_logs_the_outcome(self, trouble: Trouble) -> None:
        server = Reloaded()
        server.live.allow(lambda: config("[limits]\nchannels = 5"))
        with Log() as events:
            server.live.request("SIGHUP")
            server.clock.advance(0)
        [event] = [event for event in events if event.get("event_name") == "reloaded"]
        assert event["outcome"] == "changed limits.channels"
        server.live.allow(raising(StartFailed("bad")))
        server.live.request("SIGHUP")
        server.clock.advance(1)
        assert len(trouble.take()) == 1

    def test_the_api_names_templates_that_fail(self, tmp_path: Path, trouble: Trouble) -> None:
        (tmp_path / "row.html").write_text("{{ data }}")
        text = f"[server]\ntemplates = '{tmp_path}'\n[channels.a]\ntemplate = 'row.html'"
        server = Reloaded(config(text))
        server.live.allow(lambda: config(text))
        answers = [server.get("/api/reload", "POST", b"{}").json["result"]]
        (tmp_path / "row.html").write_text("{{ data")
        line = server.open("/api/reload", "POST", b"{}")
        server.clock.advance(1)
        answers.append(line.response().json["result"])
        assert [answer["changed"] for answer in answers] == [[], []]
        assert answers[0]["problems"] == []
        [problem] = answers[1]["problems"]
        assert problem.startswith("the template row.html fails: ")
        assert len(trouble.take()) == 1

    def test_the_api_answers_with_the_outcome(self, trouble: Trouble) -> None:
        server = Reloaded()
        server.live.allow(lambda: config("[limits]\nchannels = 5\n[store]\npath = 'x'"))
        answer = server.get("/api/reload", "POST", b"{}").json
        outcome = {"changed": ["limits.channels"], "restart": ["store.path"], "problems": []}
        assert answer == {"result": outcome}
        server.live.allow(raising(StartFailed("bad")))
        line = server.open("/api/reload", "POST", b"{}")
        server.clock.advance(1)
        error = line.response().json["error"]
        assert error["message"].endswith("the old one stays: bad")
        assert len(trouble.take()) == 1

    def test_the_uptime_goes_on(self) -> None:
        server = Reloaded(config())
        server.clock.advance(60)
        server.reload()
        info = server.get("/api/info", "POST", b"{}").json["result"]["nodes"][0]
        assert info["uptime"] == 60 + live_module.INTERVAL_SECONDS

    def test_a_server_in_another_program_says_so(self) -> None:
        answer = Server().get("/api/reload", "POST", b"{}").json
        assert "part of another program" in answer["error"]["message"]

    def test_peers_are_checked_in_short_turns(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pushserver.sessions.recheck.CHECKS", 2)
        server = Reloaded()
        sockets = [server.session() for _ in range(5)]
        server.request(lambda: config(auth=Auth(closed=True)))
        closed = []
        for _ in range(4):
            server.clock.advance(0)
            closed.append(sum(socket.line.disconnecting for socket in sockets))
        assert closed[0] < 5
        server.reload(auth=Auth(closed=True))
        assert all(socket.close()[0] == 3507 for socket in sockets)


class TestSystemd:
    @pytest.fixture
    def sent(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        sent: list[str] = []

        def notify(state: str, environment: object) -> bool:
            sent.append(state)
            return True

        monkeypatch.setattr(live_module, "notify", notify)
        monkeypatch.setattr(systemd, "notify", notify)
        return sent

    def test_is_notified_of_the_start_and_the_end(self, sent: list[str]) -> None:
        Reloaded().reload("[limits]\nchannels = 5")
        first, last = sent
        assert first.startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert int(first.rpartition("=")[2]) > 0
        assert last == "READY=1\nSTATUS=configuration: changed limits.channels"

    def test_a_refusal_is_one_line_of_bounded_length(
        self, sent: list[str], trouble: Trouble
    ) -> None:
        Reloaded().refuse(raising(StartFailed("a\nREADY=0\n" + "x" * 1_000)))
        ready, status = sent[-1].split("\n")
        assert ready == "READY=1"
        assert "a READY=0 xxx" in status
        assert len(status) < 600
        trouble.take()

    def test_the_end_is_sent_again_while_the_queue_is_full(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sent: list[str] = []

        def full(state: str, environment: object) -> bool:
            sent.append(state.partition("=")[0])
            return len(sent) > 3

        monkeypatch.setattr(live_module, "notify", full)
        monkeypatch.setattr(systemd, "notify", full)
        server = Reloaded()
        server.reload("[limits]\nchannels = 5")
        for _ in range(10):
            server.clock.advance(systemd.NOTIFY_AGAIN_SECONDS)
        assert sent == ["RELOADING", "READY", "READY", "READY"]


class TestSources:
    def source(self, name: str, **more: Any) -> dict[str, Source]:
        return {name: Source("random", name, options={"every": 1.0}, **more)}

    def running(self, **sections: Any) -> Reloaded:
        server = Reloaded()
        server.service.startService()
        server.clock.advance(0)
        server.reload(**sections)
        return server

    def test_only_those_that_changed_are_replaced(self) -> None:
        server = self.running(sources=self.source("a") | self.source("b") | self.source("c"))
        before = {runner.plan.name: runner for runner in self.runners(server)}
        changed = self.source("a") | self.source("b", event="other") | self.source("d")
        outcome = server.reload(sources=changed)
        assert outcome.changed == ("sources.b", "sources.c", "sources.d")
        after = {runner.plan.name: runner for runner in self.runners(server)}
        assert after["a"] is before["a"]
        assert [status.name for status in server.service.sources.statuses] == ["a", "b", "d"]
        assert all(status.state == "running" for status in server.service.sources.statuses)
        assert not before["b"].running
        assert not before["c"].running

    def runners(self, server: Reloaded) -> list[Runner]:
        return [each for each in server.service.sources if isinstance(each, Runner)]

    def test_a_new_secret_in_its_file_replaces_a_source(self, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_text("the first secret, long enough")
        options = {"secret_file": str(secret), "signature": "github"}
        sources = {"hook": Source("webhook", "shop", options=options)}
        server = self.running(sources=sources)
        assert server.reload(sources=sources).changed == ()
        secret.write_text("the second secret, long enough")
        assert server.reload(sources=sources).changed == ("sources.hook",)

    def test_a_new_one_waits_for_all_earlier_ones_of_its_name(self, trouble: Trouble) -> None:
        server = self.running(sources={})
        environment = server.live._base.environment

        async def deaf(feed: Feed) -> None:
            while True:
                with suppress(Exception):
                    await Deferred()

        async def good(feed: Feed) -> None:
            await Deferred()

        def runner(run: Callable[[Feed], Any]) -> Runner:
            return Runner(Script(run), Plan("x", "c", name="a"), environment)

        first, second, third = runner(deaf), runner(good), runner(good)
        server.service.sources.replace([first])
        server.service.sources.replace([second])
        server.service.sources.replace([third])
        assert (second.running, third.running) == (False, False)
        server.clock.advance(environment.stop_seconds)
        assert (second.running, third.running) == (False, True)
        trouble.take()

    def test_those_of_a_reload_during_the_start_are_started(self) -> None:
        server = Reloaded()
        server.service.startService()
        server.reload(sources=self.source("a"))
        assert [status.state for status in server.service.sources.statuses] == ["running"]

    def test_the_stop_waits_for_those_that_a_reload_removed(self, trouble: Trouble) -> None:
        server = self.running(sources={})

        async def deaf(feed: Feed) -> None:
            while True:
                with suppress(Exception):
                    await Deferred()

        environment = server.live._base.environment
        server.service.sources.replace(
            [Runner(Script(deaf), Plan("x", "c", name="a"), environment)]
        )
        server.service.sources.replace([])
        stopped: list[None] = []
        server.service.stopService().addCallback(stopped.append)
        assert stopped == []
        server.clock.advance(10)
        server.clock.advance(10)
        assert stopped == [None]
        trouble.take()
