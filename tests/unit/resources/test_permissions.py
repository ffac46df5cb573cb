"""What a page needs for its login: the permissions of a request, and a key in `connect`."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import quote

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pushserver.channels.channel import ChannelOptions
from pushserver.config.limits import Limits
from pushserver.config.settings import Auth, Config, KeySettings
from pushserver.errors import Denied
from tests.unit.fakes.web import Log, Server, Trouble
from tests.unit.resources.test_doors import (
    CHANNELS,
    COMMANDS,
    PEERS,
    PLAIN,
    RULES,
    made,
    make_server,
)

SECRET = "a secret of thirty-two characters"
KEY = "the-key-of-this-test"
READER = "the-key-of-the-reader"


def world(closed: bool = False, keys: bool = True, tokens: bool = True, **rules: Any) -> Server:
    reader = {"reader": KeySettings(key=READER, channels=["a*"], may=["read"])}
    auth = Auth(
        [KEY] if keys else [],
        keys=reader if keys else {},
        token_secret=SECRET if tokens else "",
        closed=closed,
    )
    limits = Limits(wrong_keys_per_minute=3)
    return Server(config=Config(auth=auth, defaults=ChannelOptions(**rules), limits=limits))


def token(seconds: float = 60, user: str = "ann", **claims: Any) -> str:
    return jwt.encode({"sub": user, "exp": time.time() + seconds, **claims}, SECRET, "HS256")


def ask(server: Server, channel: str = "a", bearer: str = "", **headers: str) -> Any:
    if bearer:
        headers["authorization"] = f"Bearer {bearer}"
    path = f"/channels/{quote(channel, safe='')}/permissions"
    line = server.open(path, **headers)
    server.clock.advance(1)
    return line.response()


class TestPermissions:
    def test_programs_on_this_machine_may_publish_without_keys(self, trouble: Trouble) -> None:
        server = world(keys=False, tokens=False)
        assert ask(server).json == {
            "channel": "a",
            "by": "",
            "user": "",
            "key": "",
            "seconds": None,
            "subscribe": {"allowed": True, "reason": ""},
            "publish": {"allowed": True, "reason": ""},
            "accepts": [],
        }
        through_a_proxy = ask(server, x_forwarded_for="203.0.113.9").json["publish"]
        assert "a proxy on this machine" in trouble.take()[0]
        assert not through_a_proxy["allowed"]
        assert "through a proxy" in through_a_proxy["reason"]

    def test_credentials_are_asked_for_only_if_one_may_help(self) -> None:
        def accepts(channel: str = "a", **more: Any) -> Any:
            return ask(world(**more), channel).json["accepts"]

        assert accepts() == ["key"]
        assert accepts(keys=False) == []
        assert accepts(subscribe="users") == ["token", "key"]
        assert accepts(subscribe="users", tokens=False) == ["key"]
        assert accepts(subscribe="users", keys=False) == ["token"]
        assert accepts(subscribe="key") == ["key"]
        assert accepts(subscribe="nobody", publish="nobody") == []
        assert accepts("$a") == accepts("a#ann") == accepts(closed=True) == ["token", "key"]

    def test_a_token_tells_its_user_and_its_time(self) -> None:
        answer = ask(world(subscribe="users", publish="users"), bearer=token(90)).json
        assert (answer["by"], answer["user"]) == ("token", "ann")
        assert 80 < answer["seconds"] < 91
        assert answer["subscribe"]["allowed"]
        assert answer["publish"]["allowed"]

    def test_a_key_tells_its_name_and_may_what_its_scopes_say(self) -> None:
        server = world(subscribe="key")
        answer = ask(server, bearer=READER).json
        assert (answer["by"], answer["key"], answer["seconds"]) == ("key", "reader", None)
        assert answer["subscribe"]["allowed"]
        assert "may read on the channels a*" in answer["publish"]["reason"]
        assert not ask(server, "b", READER).json["subscribe"]["allowed"]

    @pytest.mark.parametrize("text", ["guessed", token(-3_600), token()[:-4] + "AAAA"])
    def test_wrong_ones_are_errors_which_do_not_show_them(self, text: str) -> None:
        answer = ask(world(), bearer=text)
        assert answer.status == 401
        assert text not in answer.error[1]

    def test_many_wrong_ones_are_slowed(self) -> None:
        server = world()
        assert [ask(server, bearer="guessed").status for _ in range(4)] == [401] * 3 + [429]

    def test_they_need_a_name_that_a_channel_can_have(self) -> None:
        assert ask(world(), "no spaces").status == 400
        server = world()
        assert server.get("/channels//permissions").status == 404
        assert server.get("/channels/a/permissions/b").status == 404
        assert server.get("/channels/a/permissions", "POST", b"1").status == 405

    @given(
        rules=st.fixed_dictionaries({}, optional=dict.fromkeys(COMMANDS, RULES)),
        channel=CHANNELS,
        name=st.sampled_from(sorted(PEERS)),
        closed=st.booleans(),
    )
    @settings(max_examples=30)
    def test_they_are_what_the_request_gets(
        self, rules: dict[str, Any], channel: str, name: str, closed: bool
    ) -> None:
        peer, decision = PEERS[name], make_server(rules, closed).node.permissions
        with Log():
            answer = ask(make_server(rules, closed), channel, **peer.headers)
            if peer.identity.problem is not None:
                assert answer.status == 401
                return
            try:
                decision.check("subscribe", channel, peer.identity)
                allowed = True
            except Denied:
                allowed = False
            assert answer.json["subscribe"]["allowed"] == allowed
            posted = PLAIN["publish"]["post"](made(rules, closed, channel), channel, peer.headers)
            assert answer.json["publish"]["allowed"] == posted


class TestKeysOfConnect:
    @staticmethod
    def replies(server: Server, *commands: Any, **fields: Any) -> list[Any]:
        socket = server.websocket("/connection/websocket")
        frames = socket.say({"id": 1, "connect": fields}, *commands)
        values = [
            json.loads(line) if frame.opcode == 1 else frame.close
            for frame in frames
            for line in (frame.payload.split(b"\n") if frame.opcode == 1 else [b""])
        ]
        socket.line.vanish()
        return values

    @pytest.mark.parametrize("name", ["x-api-key", "X-API-Key"])
    def test_a_key_in_the_headers_is_that_of_the_session(self, name: str) -> None:
        subscribe = {"id": 2, "subscribe": {"channel": "a"}}
        server = world(closed=True, subscribe="key")
        assert "subscribe" in self.replies(server, subscribe, headers={name: READER})[1]
        beyond = {"id": 2, "subscribe": {"channel": "b"}}
        assert self.replies(server, beyond, headers={name: READER})[1]["error"]["code"] == 103

    def test_other_headers_are_ignored(self) -> None:
        subscribe = {"id": 2, "subscribe": {"channel": "a"}}
        headers = {"authorization": f"Bearer {KEY}", "x-api-keys": KEY, "cookie": KEY}
        replies = self.replies(world(subscribe="key"), subscribe, headers=headers)
        assert replies[1]["error"]["code"] == 103

    def test_a_token_counts_before_the_key(self) -> None:
        subscribe = {"id": 2, "subscribe": {"channel": "a"}}
        fields = {"headers": {"x-api-key": KEY}, "token": token()}
        replies = self.replies(world(subscribe="key"), subscribe, **fields)
        assert replies[1]["error"]["code"] == 103

    def test_a_wrong_key_ends_the_session_in_words(self) -> None:
        ((code, reason),) = self.replies(world(), headers={"x-api-key": "guessed"})
        assert code == 3500
        assert reason == "the API key is not one of auth.api_keys and auth.keys"

    def test_too_many_wrong_keys_and_tokens_wait_a_second_each(self) -> None:
        server = world()
        for _ in range(3):
            assert self.replies(server, headers={"x-api-key": "guessed"})
        for fields in ({"headers": {"x-api-key": "guessed"}}, {"token": token()[:-4] + "AAAA"}):
            socket = server.websocket("/connection/websocket")
            assert socket.say({"id": 1, "connect": fields}) == []
            server.clock.advance(1)
            assert socket.close()[0] == 3500
            socket.line.vanish()
        assert "connect" in self.replies(server, headers={"x-api-key": KEY})[0]

    def test_a_client_that_leaves_while_it_waits_costs_nothing(self) -> None:
        server = world()
        for _ in range(4):
            socket = server.websocket("/connection/websocket")
            socket.say({"id": 1, "connect": {"headers": {"x-api-key": "guessed"}}})
            socket.line.vanish()
        server.clock.advance(1)
        server.clock.advance(1)
        assert server.is_empty()
