"""The tables of fields in docs/protocols.md: complete by the protocol's own list, and true."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

import pytest
from centrifuge.protocol import client_pb2

from pushserver.auth.identity import Grant, Identity
from pushserver.channels.channel import ChannelOptions
from pushserver.errors import Unavailable
from pushserver.protocols.formats import SESSION_LINES
from pushserver.sessions.callbacks import ClientSession, Invitation, NoHandlers
from pushserver.sessions.commands import answer
from pushserver.sessions.session import Session
from tests.e2e.server import CHECKOUT
from tests.unit.fakes.tools import EPOCH, Client, FakeTransport, Time, drive, make_node, publish
from tests.unit.fakes.web import Line, Server, handshake, parse

DOCUMENT = (CHECKOUT / "docs" / "protocols.md").read_text("utf-8")
SECTION = DOCUMENT.partition("\n### Fields\n")[2].partition("\n### ")[0]
BITS = {"flag": ("flag 1", "flag 2")}
"""Fields of the protocol that have a row for each bit."""

REQUESTS = {
    "connect": "ConnectRequest",
    "subscribe": "SubscribeRequest",
    "unsubscribe": "UnsubscribeRequest",
    "publish": "PublishRequest",
    "history": "HistoryRequest",
    "presence": "PresenceRequest",
    "presence_stats": "PresenceStatsRequest",
    "ping": "PingRequest",
    "rpc": "RPCRequest",
    "send": "SendRequest",
    "refresh": "RefreshRequest",
    "sub_refresh": "SubRefreshRequest",
}
MESSAGES = {
    "reply": "Reply",
    "error": "Error",
    "result of connect": "ConnectResult",
    "result of subscribe, and in subs": "SubscribeResult",
    "result of history": "HistoryResult",
    "result of presence": "PresenceResult",
    "result of presence_stats": "PresenceStatsResult",
    "result of rpc": "RPCResult",
    "push": "Push",
    "publication": "Publication",
    "info of a client": "ClientInfo",
    "push join": "Join",
    "push leave": "Leave",
    "push unsubscribe": "Unsubscribe",
    "push subscribe": "Subscribe",
    "push message": "Message",
    "push disconnect": "Disconnect",
    "push refresh": "Refresh",
    "result of refresh": "RefreshResult",
    "result of sub_refresh": "SubRefreshResult",
}
NEVER_SENT = {"Connect"}
"""Messages in fields that are never sent."""

NEWER = {
    ("connect", "profile"),
    ("connect", "dict"),
    ("subscribe", "type"),
    ("subscribe", "phase"),
    ("subscribe", "cursor"),
    ("subscribe", "limit"),
    ("subscribe", "asc"),
    ("publish", "key"),
    ("Publication", "key"),
    ("Publication", "version"),
}
"""Fields of the protocol that the list in centrifuge-python 0.7.0 does not have."""


def fields(message: str) -> list[str]:
    """The fields of a message in the protocol's own list."""
    return [field.name for field in client_pb2.DESCRIPTOR.message_types_by_name[message].fields]


def table(head: str) -> dict[tuple[str, str], str]:
    """The rows of the table with this first column: the answer by subject and field."""
    rows = {}
    names = r"(?:field|parameter)"
    pattern = rf"^\| {head} \| {names} \| here \|\n.*\n((?:\|.*\n)+)"
    text = re.search(pattern, SECTION, re.MULTILINE)
    assert text is not None, head
    for line in text[1].splitlines():
        subject, names, here = (cell.strip() for cell in line.strip("|").split("|"))
        value = re.split(r"[:,]| if ", here)[0]
        for name in re.findall(r"`[a-z_]+`(?: \d)?", names):
            key = subject.replace("`", ""), name.replace("`", "")
            assert key not in rows, key
            rows[key] = value
    return rows


COMMANDS = table("command")
SENT = table("message")


def test_the_table_of_commands_has_each_field_of_the_protocol() -> None:
    expected = {
        (method, row)
        for method, message in REQUESTS.items()
        for name in fields(message)
        for row in (BITS[name] if (method, name) == ("subscribe", "flag") else (name,))
    }
    assert expected | {key for key in NEWER if key[0] in REQUESTS} | {("every command", "id")} == (
        set(COMMANDS)
    )
    assert set(fields("Command")) == {"id", *REQUESTS}


def test_the_table_of_messages_has_each_field_of_the_protocol() -> None:
    documented = {(MESSAGES[subject], name) for subject, name in SENT}
    expected = {(message, name) for message in MESSAGES.values() for name in fields(message)}
    assert documented - NEWER == expected
    empty = {name for name in client_pb2.DESCRIPTOR.message_types_by_name if not fields(name)}
    others = set(client_pb2.DESCRIPTOR.message_types_by_name) - set(MESSAGES.values())
    nested = {"Command", "EmulationRequest", "StreamPosition", "FilterNode"}
    assert others == empty | nested | NEVER_SENT | set(REQUESTS.values())


class Application(NoHandlers):
    """Echoes everything, puts each client into `invited` and keeps the received data."""

    def __init__(self) -> None:
        self.received: list[bytes] = []

    async def connect(self, session: ClientSession, data: bytes) -> bytes:
        await session.invite("invited")
        return data or b'{"none":true}'

    async def subscribe(self, session: ClientSession, channel: str, data: bytes) -> None:
        self.received.append(data)

    async def rpc(self, session: ClientSession, method: str, data: bytes) -> bytes:
        return json.dumps([method, data.decode()]).encode()

    async def message(self, session: ClientSession, data: bytes) -> None:
        self.received.append(data)


class AllTokens:
    """Accepts every token."""

    async def connection(self, text: str) -> Identity:
        subs = {"granted": Grant("granted", data=b"1")}
        return Identity(info=b"1", expires=2e9, token=True, subs=subs)

    async def subscription(self, text: str, channel: str, user: str) -> Grant:
        return Grant(channel, expires=2e9)

    def accepts(self, key: object) -> bool:
        return True


SINCE = {"offset": 2, "epoch": EPOCH}


CLIENT_ID = r"(?<=\")[\w-]{16}(?=\")"


@dataclass(frozen=True)
class Sample:
    """A value of a field, and a request of which only the field is missing."""

    value: Any
    request: dict[str, Any]


A = {"channel": "a"}
SAMPLES = {
    ("connect", "data"): Sample({"name": "Ada"}, {}),
    ("connect", "subs"): Sample({"invited": {"recover": True, **SINCE}}, {}),
    ("connect", "token"): Sample("t", {}),
    ("connect", "name"): Sample("js", {}),
    ("connect", "version"): Sample("1", {}),
    ("connect", "headers"): Sample({"x-api-key": "guessed"}, {}),
    ("connect", "flag"): Sample(1, {}),
    ("connect", "profile"): Sample("p", {}),
    ("connect", "dict"): Sample("d", {}),
    ("subscribe", "channel"): Sample("a", {}),
    ("subscribe", "data"): Sample({"last": 1}, A),
    ("subscribe", "recover"): Sample(True, {**A, **SINCE}),
    ("subscribe", "epoch"): Sample("another", {**A, "recover": True, "offset": 2}),
    ("subscribe", "offset"): Sample(2, {**A, "recover": True, "epoch": EPOCH}),
    ("subscribe", "join_leave"): Sample(True, A),
    ("subscribe", "flag 1"): Sample(1, {**A, "recover": True, "epoch": "another"}),
    ("subscribe", "flag 2"): Sample(2, {**A, "recover": True, "epoch": "another"}),
    ("subscribe", "token"): Sample("t", A),
    ("subscribe", "positioned"): Sample(True, A),
    ("subscribe", "recoverable"): Sample(True, A),
    ("subscribe", "delta"): Sample("fossil", A),
    ("subscribe", "tf"): Sample({"key": "event", "cmp": "eq", "val": "message"}, A),
    ("subscribe", "type"): Sample(1, A),
    ("subscribe", "phase"): Sample(1, A),
    ("subscribe", "cursor"): Sample("c", A),
    ("subscribe", "limit"): Sample(1, A),
    ("subscribe", "asc"): Sample(True, A),
    ("unsubscribe", "channel"): Sample("invited", {}),
    ("publish", "channel"): Sample("a", {"data": 1}),
    ("publish", "data"): Sample(1, A),
    ("publish", "key"): Sample("k", {**A, "data": 1}),
    ("history", "channel"): Sample("a", {"limit": -1}),
    ("history", "limit"): Sample(1, A),
    ("history", "since"): Sample(SINCE, {**A, "limit": -1}),
    ("history", "reverse"): Sample(True, {**A, "limit": -1}),
    ("presence", "channel"): Sample("invited", {}),
    ("presence_stats", "channel"): Sample("invited", {}),
    ("rpc", "method"): Sample("greet", {"data": 1}),
    ("rpc", "data"): Sample(1, {"method": "greet"}),
    ("send", "data"): Sample(1, {}),
    ("refresh", "token"): Sample("t", {}),
    ("sub_refresh", "channel"): Sample("invited", {"token": "t"}),
    ("sub_refresh", "token"): Sample("t", {"channel": "invited"}),
}


def effect(method: str, request: dict[str, Any]) -> Any:
    """All that a command causes: its reply, and what is different afterwards."""
    handlers = Application()
    node = make_node(ChannelOptions(client_publish=True), handlers=handlers, tokens=AllTokens())
    for channel in ("a", "invited"):
        for n in range(4):
            publish(node, channel, n)
    client = Client(node, connect=method != "connect")
    received = client.say({"id": 9, method: request})
    publish(node, "a", 5)
    received += client.transport.take()
    Client(node).command("subscribe", **A)
    received += client.transport.take()
    rows = [json.loads(row.data) for row in node.history.peek("a").after(0)]
    heard = [data.decode() for data in handlers.received]
    seen = json.dumps([received, sorted(client.session.channels), heard, rows])
    return json.loads(re.sub(CLIENT_ID, "ID", seen))


@pytest.mark.parametrize("key", [key for key in COMMANDS if key[1] != "id"], ids="-".join)
def test_field_of_a_command_has_the_documented_effect(key: tuple[str, str]) -> None:
    method, field = key[0], key[1].split()[0]
    sample, here = SAMPLES[key], COMMANDS[key]
    without = effect(method, sample.request)
    having = effect(method, {**sample.request, field: sample.value})
    if here == "ignored":
        assert having == without
    elif here == "read":
        assert having != without
    else:
        code = int(here.removeprefix("error "))
        assert having[0][0]["error"]["code"] == code


def test_ids_of_commands_are_those_of_replies() -> None:
    client = Client(make_node())
    assert [reply["id"] for reply in client.say({"id": 7, "ping": {}}, {"id": 3, "ping": {}})] == [
        7,
        3,
    ]


NESTED = {
    ("Reply", "error"): "Error",
    ("Reply", "push"): "Push",
    ("ConnectResult", "subs"): "{}SubscribeResult",
    ("PresenceResult", "presence"): "{}ClientInfo",
    ("Push", "pub"): "Publication",
    ("SubscribeResult", "publications"): "[]Publication",
    ("HistoryResult", "publications"): "[]Publication",
    ("Publication", "info"): "ClientInfo",
    ("Join", "info"): "ClientInfo",
    ("Leave", "info"): "ClientInfo",
    **{("Push", name): name.capitalize() for name in ("join", "leave", "unsubscribe", "message")},
    **{("Push", name): name.capitalize() for name in ("subscribe", "disconnect")},
    **{("Reply", name): f"{name.capitalize()}Result" for name in ("connect", "subscribe")},
    **{("Reply", name): f"{name.capitalize()}Result" for name in ("history", "presence")},
    ("Reply", "presence_stats"): "PresenceStatsResult",
    ("Reply", "refresh"): "RefreshResult",
    ("Reply", "sub_refresh"): "SubRefreshResult",
    ("Push", "refresh"): "Refresh",
    ("Reply", "rpc"): "RPCResult",
}
"""The message in a field; `{}`: a map of them, `[]`: a list."""


def collect(message: str, value: Any, seen: dict[str, set[str]]) -> None:
    """Note the fields of a message and of those in it."""
    if message.startswith(("{}", "[]")):
        for item in value.values() if message.startswith("{}") else value:
            collect(message[2:], item, seen)
        return
    seen[message] |= set(value)
    for name, content in value.items():
        if (message, name) in NESTED:
            collect(NESTED[message, name], content, seen)


def conversation() -> list[Any]:
    """The messages of a server in conversations in which everything happens once."""
    options = ChannelOptions(client_publish=True, initial=1)
    node = make_node(options, handlers=Application(), time=Time(), tokens=AllTokens())
    for n in range(3):
        publish(node, "a", n)
    transport = FakeTransport(replace(SESSION_LINES, ping=b"{}\n"))
    stream = Session(node, transport, answer, "secret")
    client = Client(node, connect=False)
    other = Client(node)
    received = [
        client.command("connect", token="t"),
        client.command("subscribe", channel="b", token="t"),
        client.command("refresh", token="t"),
        client.command("sub_refresh", channel="b", token="t"),
        client.command("subscribe", channel="a", join_leave=True),
        client.command("unsubscribe", channel="a"),
        client.command("subscribe", channel="a", recover=True, join_leave=True, **SINCE),
        client.command("history", channel="a", limit=-1),
        client.command("presence", channel="a"),
        client.command("presence_stats", channel="a"),
        *client.say({"id": 90, "rpc": {"method": "greet"}}),
        client.command("ping"),
        client.command("subscribe", channel="no spaces"),
    ]
    client.session.prolong(2e9)
    told = Invitation(data=b"1", info=b"2")
    drive(other.session.invite("a", told))
    other.command("publish", channel="a", data=1)
    received += client.transport.take()
    other.session.unsubscribe("a", 2000, "unsubscribed by the server")
    client.session.message(b"1")
    stream.received(b'{"id":1,"connect":{"data":1,"subs":{"invited":{"recover":true}}}}')
    stream.disconnect(3001, "the server is shutting down")
    received += client.transport.take() + other.transport.take() + transport.take()
    drive(other.session.invite("a", told))
    received += other.transport.take()
    received.append(other.command("publish", channel="a", data=1))
    node.stop_publishing()
    with pytest.raises(Unavailable):
        publish(node, "a")
    received.append(other.command("publish", channel="a", data=1))
    return received


def test_messages_have_the_documented_fields() -> None:
    seen: dict[str, set[str]] = defaultdict(set)
    for message in conversation():
        collect("Reply", message, seen)
    documented: dict[str, set[str]] = defaultdict(set)
    for (subject, name), here in SENT.items():
        assert here in ("sent", "never")
        if here == "sent":
            documented[MESSAGES[subject]].add(name)
    assert seen == documented


CONNECT = quote('{"id":1,"connect":{}}')
VALUES = {"format": "protobuf", "cf_protocol": "protobuf", "cf_protocol_version": "v2"}


def status_of(line: Line) -> int:
    """The status of an answer, which may not have ended."""
    return parse(line.take()).status


@pytest.mark.parametrize("key", table("query"), ids="-".join)
def test_parameter_of_the_query_has_the_documented_effect(key: tuple[str, str]) -> None:
    subject, name = key
    here = table("query")[key]
    value = VALUES.get(name, "true")
    path = f"/connection/sse?cf_connect={CONNECT}"
    if subject != "every connection":
        assert (Server().get(subject).status, here) == (400, "read")
        return
    refused = int(here.removeprefix("error ")) if here != "ignored" else 0
    assert status_of(Server().open(f"{path}&{name}={value}")) == (refused or 200)
    line = Server().open(f"/connection/websocket?{name}={value}", **handshake())
    assert status_of(line) == (refused or 101)
    if refused:
        assert status_of(Server().open(f"{path}&{name}=json")) == 200


def test_fields_of_an_emulation_request_have_the_documented_effect() -> None:
    rows = table("request to `/emulation`")
    assert {name for _, name in rows} == set(fields("EmulationRequest"))

    def status(**change: str) -> int:
        server = Server()
        line = server.open("/connection/http_stream", "POST", b'{"id":1,"connect":{}}')
        [session] = re.findall(rb'"session":"([^"]*)"', line.take())
        body = {"session": session.decode(), "node": EPOCH, "data": '{"id":2,"ping":{}}'}
        sent = json.dumps({**body, **change}).encode()
        code = server.get("/emulation", "POST", sent).status
        return code + (1_000 if b'"id":2' in line.take() else 0)

    usual = status()
    assert usual == 1_204
    for (_, name), here in rows.items():
        assert (status(**{name: "{}"}) == usual) == (here == "ignored"), name
