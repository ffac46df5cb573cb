"""One decision: every protocol lets the same peers read and publish."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pushserver import Identified, PushServer, Refused, Visitor
from pushserver.auth.identity import ANONYMOUS, Identity
from pushserver.auth.keys import Key
from pushserver.auth.patterns import Patterns
from pushserver.auth.permissions import Action
from pushserver.channels.channel import ChannelOptions, Rule
from pushserver.config.settings import Auth, Config, KeySettings
from pushserver.errors import Denied
from tests.unit.fakes.web import Line, Log, Server, handshake, parse
from tests.unit.resources.test_centrifuge import CONNECT, Fallback

RULES = st.sampled_from(get_args(Rule))
CHANNELS = st.sampled_from(["a", "$a", "b", "a#ann", "a#bob,eve", "$a#ann", "guarded:a"])
OF_ANN = ("a*", "$a*", "guarded:*")
USERS = {"ann": Identified("ann", {"n": 1}, OF_ANN), "bob": "bob", "": None}
KEYS = {
    "all": KeySettings(key="k-all", may=["publish", "read"]),
    "reader": KeySettings(key="k-reader", channels=["a*"], may=["read"]),
    "publish": KeySettings(key="k-publish", may=["publish"]),
}


@dataclass(frozen=True)
class Peer:
    """The headers of a peer, and the identity that they prove."""

    headers: dict[str, str]
    identity: Identity


PEERS = {
    "nobody": Peer({}, ANONYMOUS),
    "ann": Peer(
        {"cookie": "user=ann"}, Identity("ann", b'{"n":1}', token=True, channels=Patterns(OF_ANN))
    ),
    "bob": Peer({"cookie": "user=bob"}, Identity("bob", token=True)),
    "refused": Peer({"cookie": "user=mallory"}, Identity(problem=Denied(401, "never heard of"))),
    "wrong key": Peer({"x_api_key": "guessed"}, Identity(problem=Denied(401, "not one"))),
    "key": Peer(
        {"x_api_key": "k-all"}, Identity(key=Key("all", may=frozenset({"publish", "read"})))
    ),
    "reader": Peer(
        {"authorization": "Bearer k-reader"},
        Identity(key=Key("reader", Patterns(("a*",)), frozenset({"read"}))),
    ),
    "publisher": Peer(
        {"authorization": "ApiKey k-publish"},
        Identity(key=Key("publish", may=frozenset({"publish"}))),
    ),
}


def authenticate(visitor: Visitor) -> Any:
    user = visitor.cookies.get("user", "")
    if user not in USERS:
        raise Refused("never heard of you")
    return USERS[user]


def make_server(rules: dict[str, Any], closed: bool) -> Server:
    app = PushServer()
    app.authenticate(authenticate)

    @app.on("subscribe", namespace="guarded", thread=False)
    def subscribe(client: Any, channel: str) -> bool:
        return bool(client.user == "ann")

    for name in ("a", "$a", "b", "a#ann", "a#bob,eve", "$a#ann", "guarded:a"):
        app.fragment(name)(lambda publication: "x")
    app.on("publish", namespace="guarded", thread=False)(lambda client: client.user == "ann")
    auth = Auth(keys=KEYS, closed=closed)
    server = Server(config=Config(auth=auth, defaults=ChannelOptions(**rules)), app=app)
    server.service.startService()
    server.clock.advance(0)
    return server


Door = Callable[[Server, str, dict[str, str]], bool]
"""Tries to do something in a channel with these headers; returns whether it was allowed."""


def status(line: Line) -> int:
    """The status of the answer on this connection, which is dropped."""
    answer = parse(line.take())
    line.vanish()
    assert answer.status < 500
    return answer.status


def reading(path: str, **more: str) -> Door:
    def door(server: Server, channel: str, headers: dict[str, str]) -> bool:
        line = server.open(path.format(quote(channel, safe="")), **headers, **more)
        server.clock.advance(0)
        server.publish(channel)
        return status(line) in (101, 200)

    return door


def posting(body: bytes, content_type: str) -> Door:
    def door(server: Server, channel: str, headers: dict[str, str]) -> bool:
        path = f"/channels/{quote(channel, safe='')}"
        line = server.open(path, "POST", body, **headers, content_type=content_type)
        server.clock.advance(1)
        return status(line) == 201

    return door


def command(name: str, how: str, **fields: Any) -> Door:
    """A command of the Centrifuge protocol."""

    def door(server: Server, channel: str, headers: dict[str, str]) -> bool:
        last = {"id": 2, name: {"channel": channel, **fields}}
        if how == "websocket":
            socket = server.websocket("/connection/websocket", **headers)
            frames = [*socket.say(CONNECT), *socket.say(last)]
            replies = [json.loads(frame.payload) for frame in frames if frame.opcode == 1]
            socket.line.vanish()
        else:
            client = Fallback(server, how, CONNECT, last, **headers)
            replies = client.take()
            client.line.vanish()
        return any(name in reply for reply in replies)

    return door


def namespace(server: Server, channel: str, headers: dict[str, str]) -> bool:
    """The CONNECT of a Socket.IO client."""
    socket = server.websocket("/socket.io/?EIO=4&transport=websocket", **headers)
    frames = socket.say(f"40/{channel},".encode())
    socket.line.vanish()
    return any(b'"sid"' in frame.payload for frame in frames)


PLAIN: dict[Action, dict[str, Door]] = {
    "subscribe": {
        "sse": reading("/channels/{}", accept="text/event-stream"),
        "lines": reading("/channels/{}", accept="application/x-ndjson"),
        "websocket": reading("/channels/{}", **handshake()),
        "events": reading("/events?channel={}", accept="text/event-stream"),
        "data": reading("/channels/{}?as=data", accept="text/event-stream"),
        "data by websocket": reading("/channels/{}?as=data", **handshake()),
        "fragments": reading("/channels/{}?as=html", accept="text/event-stream"),
        "fragments by websocket": reading("/channels/{}?as=turbo", **handshake()),
        "events by websocket": reading("/events?channel={}", **handshake()),
    },
    "publish": {
        "post": posting(b"1", "application/json"),
        "lines": posting(b"1\n2\n", "application/x-ndjson"),
    },
    "history": {
        "json": reading("/channels/{}"),
        "html": reading("/channels/{}?as=html"),
        "long poll": reading("/channels/{}?since=now&wait=5"),
    },
    "presence": {},
}
"""The doors of plain HTTP. A handler decides there about publications of users, and about nothing
else: there is no client."""
CONNECTIONS = ("websocket", "http_stream", "sse_post")
COMMANDS: dict[Action, dict[str, Any]] = {
    "subscribe": {},
    "publish": {"data": 1},
    "history": {},
    "presence": {},
}


@pytest.mark.parametrize("action", COMMANDS)
@given(
    rules=st.fixed_dictionaries({}, optional=dict.fromkeys(COMMANDS, RULES)),
    channel=CHANNELS,
    name=st.sampled_from(sorted(PEERS)),
    closed=st.booleans(),
)
@settings(max_examples=15)
def test_all_doors_decide_as_the_rules_do(
    action: Action, rules: dict[str, Any], channel: str, name: str, closed: bool
) -> None:
    peer, decision = PEERS[name], make_server(rules, closed).node.permissions
    try:
        allowed, handled = True, decision.check(action, channel, peer.identity)
    except Denied:
        allowed = handled = False
    with Log():
        # The handlers allow everything to ann, and nothing to anybody else.
        admitted = allowed and (not handled or peer.identity.user == "ann")
        by_request = admitted if action == "publish" else allowed and not handled
        for how, door in PLAIN[action].items():
            is_open = door(made(rules, closed, channel), channel, peer.headers)
            assert is_open == by_request, how
        for how in CONNECTIONS:
            door = command(action, how, **COMMANDS[action])
            assert door(made(rules, closed, channel), channel, peer.headers) == admitted, how
        # A comma ends the name of a namespace.
        if action == "subscribe" and "," not in channel:
            assert namespace(made(rules, closed, channel), channel, peer.headers) == admitted


@pytest.mark.parametrize("name", sorted(PEERS))
@pytest.mark.parametrize("rule", ["anyone", "users", "token", "handler"])
def test_handler_decides_about_publications_at_all_doors(rule: Rule, name: str) -> None:
    peer, channel = PEERS[name], "guarded:a"
    doors = [*PLAIN["publish"].values(), *(command("publish", how, data=1) for how in CONNECTIONS)]
    with Log():
        found = {
            door(made({"publish": rule}, False, channel), channel, peer.headers) for door in doors
        }
    assert found == {name in ("ann", "key", "publisher")}


def made(rules: dict[str, Any], closed: bool, channel: str) -> Server:
    """A server with these rules, and a publication in the channel."""
    server = make_server(rules, closed)
    server.publish(channel)
    return server


@pytest.mark.parametrize("name", ["key", "reader", "publisher"])
@pytest.mark.parametrize("channel", ["a", "b", "$a#ann"])
@pytest.mark.parametrize("rule", get_args(Rule))
def test_server_api_decides_as_the_rules_do_about_keys(rule: Rule, channel: str, name: str) -> None:
    peer = PEERS[name]
    key = peer.identity.key
    assert key is not None
    with Log():
        for action in ("publish", "history", "presence"):
            server = made({action: rule}, False, channel)
            body = json.dumps({"channel": channel, **({"data": 1} if action == "publish" else {})})
            answer = server.get(f"/api/{action}", "POST", body.encode(), **peer.headers)
            scope: Any = "publish" if action == "publish" else "read"
            allowed = rule != "nobody" and key.allows(scope, channel)
            assert (answer.status == 200 and "result" in answer.json) == allowed
