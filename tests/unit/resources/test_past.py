"""The rules `history` and `presence` hold for subscribers too, however they subscribe."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pushserver import Identified, PushServer
from pushserver.channels.channel import ChannelOptions, Rule
from pushserver.config.settings import Auth, Config
from tests.unit.fakes.web import Server, handshake, parse

KEY = "correct-horse-battery-staple"
HIDDEN: tuple[Rule, ...] = ("nobody", "key", "token")


def make_server(**rules: Any) -> Server:
    app = PushServer()

    @app.authenticate
    def who(visitor: Any) -> Any:
        user = visitor.cookies.get("user")
        return Identified(user, channels=["a*"] if user == "ann" else []) if user else None

    auth = Auth(api_keys=[KEY])
    server = Server(config=Config(auth=auth, defaults=ChannelOptions(**rules)), app=app)
    server.service.startService()
    server.clock.advance(0)
    server.publish("a", "past")
    return server


def subscribed(server: Server, fields: dict[str, Any], user: str = "bob") -> Any:
    client = server.session(cookie=f"user={user}")
    [frame, *_] = client.say({"id": 2, "subscribe": {"channel": "a", **fields}})
    result = json.loads(frame.payload)["subscribe"]
    client.line.vanish()
    return result


@pytest.mark.parametrize("rule", HIDDEN)
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"data": {"last": 300}},
        {"recover": True},
        {"recover": True, "offset": 0, "epoch": "00000000"},
    ],
)
def test_a_subscribe_gives_no_publication_of_a_forbidden_history(
    rule: Rule, fields: dict[str, Any]
) -> None:
    server = make_server(history=rule)
    if "epoch" in fields:
        fields = {**fields, "epoch": server.node.history.epoch}
    result = subscribed(server, fields)
    assert "publications" not in result
    assert result["offset"] == 1, "the live publications follow after this"
    assert not result.get("recovered")


def test_a_reader_that_missed_nothing_is_recovered_without_the_history() -> None:
    server = make_server(history="nobody")
    fields = {"recover": True, "offset": 1, "epoch": server.node.history.epoch}
    assert subscribed(server, fields)["recovered"] is True
    server.publish("a", "missed")
    assert not subscribed(server, fields).get("recovered")


def test_the_history_is_for_subscribers_who_fulfil_its_rule() -> None:
    server = make_server(history="token")
    [row] = subscribed(server, {}, "ann")["publications"]
    assert row["data"] == "past"
    [row] = subscribed(make_server(subscribe="users"), {})["publications"]
    assert row["data"] == "past"


FORMS = {
    "sse": {"accept": "text/event-stream"},
    "lines": {"accept": "application/x-ndjson"},
    "websocket": handshake(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("url", ["/channels/a?", "/events?channel=a&channel=b&"])
@pytest.mark.parametrize("query", ["last=1", "since=oldest"])
def test_a_stream_of_a_forbidden_history_is_refused(form: str, url: str, query: str) -> None:
    server = make_server(history="key")
    line = server.open(url + query, **FORMS[form])
    server.clock.advance(0)
    answer = parse(line.take())
    text = 'the history of a needs an API key (history = "key")'
    assert answer.error == (401, text)
    line.vanish()
    line = server.open(url + query, **FORMS[form], x_api_key=KEY)
    server.clock.advance(0)
    assert b"past" in line.take()
    line.vanish()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("query", ["since={}:0", "lastEventId={}:0"])
def test_a_stream_that_comes_back_to_a_forbidden_history_is_told_that_it_missed_some(
    form: str, query: str
) -> None:
    server = make_server(history="nobody")
    line = server.open(f"/channels/a?{query.format(server.node.history.epoch)}", **FORMS[form])
    server.clock.advance(0)
    server.publish("a", "live")
    server.clock.advance(0)
    text = line.take()
    assert b'"reason":"history"' in text
    assert b"past" not in text
    assert b"live" in text
    line.vanish()


@pytest.mark.parametrize("rule", HIDDEN)
def test_joins_and_leaves_are_for_those_who_may_read_the_presence(rule: Rule) -> None:
    server = make_server(presence=rule)
    spy = server.session(cookie="user=bob")
    spy.say({"id": 2, "subscribe": {"channel": "a", "join_leave": True}})
    member = server.session(cookie="user=ann")
    member.say({"id": 2, "subscribe": {"channel": "a", "join_leave": True}})
    member.line.vanish()
    server.clock.advance(0)
    assert spy.texts() == []
    spy.line.vanish()


def test_joins_and_leaves_are_sent_where_the_presence_is_not_restricted() -> None:
    server = make_server(presence="users")
    watcher = server.session(cookie="user=bob")
    watcher.say({"id": 2, "subscribe": {"channel": "a", "join_leave": True}})
    member = server.session(cookie="user=ann")
    member.say({"id": 2, "subscribe": {"channel": "a"}})
    server.clock.advance(0)
    assert "ann" in str(watcher.texts())
    for each in (watcher, member):
        each.line.vanish()
