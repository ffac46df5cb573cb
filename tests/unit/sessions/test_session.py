from __future__ import annotations

import gc
import json
from collections.abc import Coroutine
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.channels.channel import ChannelOptions
from pushserver.config.limits import Limits
from pushserver.protocols import centrifuge
from pushserver.sessions.base import CLOSING_SECONDS
from pushserver.sessions.callbacks import Invitation
from pushserver.sessions.node import Node
from pushserver.sessions.session import Session
from tests.unit.fakes.tools import (
    EPOCH,
    Client,
    Time,
    Watcher,
    drive,
    make_node,
    publish,
    row,
)


def error(reply: Any) -> tuple[int, str]:
    assert set(reply) == {"id", "error"}, reply
    return reply["error"]["code"], reply["error"]["message"]


def offsets(reply: Any) -> list[int]:
    return [pub["offset"] for pub in reply["subscribe"].get("publications", [])]


def test_connect_is_answered_with_the_client_id_and_the_ping_interval() -> None:
    time = Time()
    client = Client(make_node(time=time), connect=False)
    reply = client.command("connect", name="js", version="5.8.0", data={"a": 1}, flag=1)
    result = reply["connect"]
    assert result == {
        "client": client.session.info.client,
        "version": "pushserver test",
        "ping": 25,
        "pong": True,
        "time": int(time.now * 1000),
    }


def test_each_connection_has_its_own_client_id() -> None:
    node = make_node()
    assert Client(node).session.info.client != Client(node).session.info.client


@pytest.mark.parametrize("method", [m for m in centrifuge.METHODS if m not in ("connect", "send")])
def test_any_other_command_before_connect_ends_the_connection(method: str) -> None:
    client = Client(make_node(), connect=False)
    client.say({"id": 1, method: {"channel": "a", "data": 1}})
    assert client.closed == (3501, "connect comes first, and once")


def test_second_connect_ends_the_connection() -> None:
    client = Client(make_node())
    assert client.say({"id": 9, "connect": {}}) == []
    assert client.closed == (3501, "connect comes first, and once")


def test_commands_of_one_frame_are_answered_in_their_order() -> None:
    client = Client(make_node(), connect=False)
    replies = client.say(
        {"id": 1, "connect": {}},
        {"id": 2, "subscribe": {"channel": "a"}},
        {"id": 3, "ping": {}},
        {"id": 4, "unsubscribe": {"channel": "a"}},
    )
    assert [(r["id"], next(k for k in r if k != "id")) for r in replies] == [
        (1, "connect"),
        (2, "subscribe"),
        (3, "ping"),
        (4, "unsubscribe"),
    ]


def test_subscriber_gets_the_last_publications_in_the_reply_and_later_ones_live() -> None:
    node = make_node(ChannelOptions(initial=2))
    for n in range(4):
        publish(node, data=n)
    client = Client(node)
    reply = client.command("subscribe", channel="numbers")
    result = reply["subscribe"]
    assert [pub["data"] for pub in result.pop("publications")] == [2, 3]
    assert result == {"recoverable": True, "positioned": True, "epoch": EPOCH, "offset": 4}
    publish(node, data=4, event="newnumber")
    (push,) = client.pushes()
    assert push["channel"] == "numbers"
    assert (push["pub"]["offset"], push["pub"]["tags"]) == (5, {"event": "newnumber"})


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"last": 3}, [3, 4, 5]),
        ({"last": 0}, []),
        ({"last": 99}, [1, 2, 3, 4, 5]),
        ({}, [4, 5]),
        ({"last": None}, [4, 5]),
        ({"mine": [1]}, [4, 5]),
        (None, [4, 5]),
        ("anything", [4, 5]),
        ([1], [4, 5]),
    ],
)
def test_subscriber_may_choose_the_number_of_last_publications(
    data: Any, expected: list[int]
) -> None:
    node = make_node(ChannelOptions(initial=2))
    for _ in range(5):
        publish(node)
    assert offsets(Client(node).command("subscribe", channel="numbers", data=data)) == expected


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"initial": True}, {"initial": 2, "top": 1}),
        ({"initial": True, "last": 3}, {"initial": 2, "top": 1}),
        ({"last": 3}, None),
        ({"initial": False}, None),
        ({"initial": "of the application"}, None),
    ],
)
def test_the_reply_tells_the_initial_number_to_a_client_that_asks(data: Any, told: Any) -> None:
    node = make_node(ChannelOptions(initial=2))
    publish(node)
    client = Client(node)
    reply = client.command("subscribe", channel="numbers", data=data)
    assert reply["subscribe"].get("data") == told


def test_the_reply_tells_the_top_of_a_history_that_does_not_fit() -> None:
    node = make_node(ChannelOptions(initial=10))
    for _ in range(10):
        publish(node, data="x" * 20_000)
    reply = Client(node).command("subscribe", channel="numbers", data={"initial": True})
    result = reply["subscribe"]
    assert (result["data"]["top"], result.get("offset", 0)) == (10, 0)
    assert len(result["publications"]) < 10


@pytest.mark.parametrize(("last", "why"), [(-1, "data.last is -1, expected 0 or more")])
def test_negative_number_of_last_publications_is_refused(last: int, why: str) -> None:
    client = Client(make_node())
    reply = client.command("subscribe", channel="numbers", data={"last": last})
    assert error(reply) == (107, f"bad request: {why}")
    assert error(client.command("subscribe", channel="numbers", data={"last": "x"}))[0] == 107
    assert client.session.node.hub.channels() == {}


def test_client_that_recovers_gets_the_missed_publications_and_its_own_position() -> None:
    node = make_node()
    for _ in range(5):
        publish(node)
    reply = Client(node).command(
        "subscribe", channel="numbers", recover=True, epoch=EPOCH, offset=3, flag=1
    )
    result = reply["subscribe"]
    assert offsets(reply) == [4, 5]
    assert (result["recovered"], result["was_recovering"], result["offset"]) == (True, True, 3)


@pytest.mark.parametrize(
    ("position", "reason"),
    [
        ({"epoch": "other", "offset": 3}, "epoch"),
        ({"epoch": EPOCH, "offset": 9}, "ahead"),
        ({"epoch": EPOCH, "offset": 1}, "evicted"),
        ({"epoch": EPOCH}, "evicted"),
        ({"epoch": EPOCH, "offset": 2}, "limit"),
    ],
)
def test_client_that_cannot_recover_gets_no_publications_or_an_error(
    position: dict[str, Any], reason: str
) -> None:
    node = make_node(ChannelOptions(history_size=3, recovery_limit=2))
    for _ in range(5):
        publish(node)
    client = Client(node)
    result = client.command("subscribe", channel="numbers", recover=True, **position)["subscribe"]
    assert result.pop("publications", []) == []
    assert result == {
        "recoverable": True,
        "positioned": True,
        "epoch": EPOCH,
        "offset": 5,
        "was_recovering": True,
    }
    refusing = Client(node)
    reply = refusing.command("subscribe", channel="numbers", recover=True, flag=2, **position)
    assert error(reply) == (112, f"unrecoverable position: {reason}")
    assert node.hub.size("numbers") == 1
    assert "subscribe" in refusing.command("subscribe", channel="numbers")
    publish(node)
    assert [push["pub"]["offset"] for push in client.pushes()] == [6]


@pytest.mark.parametrize("flag", [0, 2, 3])
@pytest.mark.parametrize("published", [0, 1, 3, 5])
def test_zero_position_recovers_all_retained_publications(published: int, flag: int) -> None:
    node = make_node(ChannelOptions(history_size=3, recovery_limit=1))
    for _ in range(published):
        publish(node)
    for fields in ({}, {"offset": 0, "epoch": ""}):
        client = Client(node)
        reply = client.command("subscribe", channel="numbers", recover=True, flag=flag, **fields)
        evicted = max(0, published - 3)
        assert offsets(reply) == [*range(evicted + 1, published + 1)]
        assert reply["subscribe"]["recovered"]
        # The position that the client has before it takes the publications of the reply.
        assert reply["subscribe"].get("offset", 0) == evicted


def test_zero_position_of_a_channel_after_others_were_forgotten_is_recovered() -> None:
    node = make_node()
    for _ in range(3):
        publish(node, "victim")
    drive(node.clear("victim"))
    node.expire()
    reply = Client(node).command("subscribe", channel="fresh", recover=True, flag=2)
    assert (reply["subscribe"]["recovered"], offsets(reply)) == (True, [])
    assert publish(node, "fresh").offset == 1
    assert offsets(Client(node).command("subscribe", channel="fresh", recover=True)) == [1]


def test_forgotten_channel_comes_back_with_another_epoch() -> None:
    node = make_node()
    for _ in range(3):
        before = publish(node, "a")
    drive(node.clear("a"))
    node.expire()
    client = Client(node)
    assert client.command("history", channel="a")["history"] == {"epoch": f"{EPOCH}-3"}
    for offset in (1, 3):
        position = {"recover": True, "offset": offset, "epoch": before.epoch}
        assert error(Client(node).command("subscribe", channel="a", flag=2, **position))[0] == 112
        position["epoch"] = ""
        assert error(Client(node).command("subscribe", channel="a", flag=2, **position))[0] == 112
    reply = client.command("subscribe", channel="a")["subscribe"]
    assert (reply["epoch"], reply.get("offset", 0)) == (f"{EPOCH}-3", 0)
    receipt = publish(node, "a")
    assert (receipt.epoch, receipt.offset, receipt.id) == (f"{EPOCH}-3", 1, f"{EPOCH}:4")


def test_reader_of_an_empty_channel_recovers_its_first_publications_in_another_generation() -> None:
    """The channel was created and forgotten without this reader, before it came the first time."""
    node = make_node()
    publish(node, "a")
    drive(node.clear("a"))
    node.expire()
    client = Client(node)
    epoch = client.command("subscribe", channel="a")["subscribe"]["epoch"]
    client.session.closed()
    assert node.history.channels == {}
    publish(node, "a")
    reply = Client(node).command("subscribe", channel="a", recover=True, flag=2, epoch=epoch)
    assert offsets(reply) == [1]
    drive(node.clear("a"))
    node.expire()
    publish(node, "a")
    # The sessions are still subscribed: the channel is kept, and its first row is gone.
    reply = Client(node).command("subscribe", channel="a", recover=True, flag=2, epoch=epoch)
    assert error(reply) == (112, "unrecoverable position: evicted")


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"channel": "a b"}, 107, "invalid channel name 'a b'"),
        ({"channel": ""}, 107, "invalid channel name"),
        ({"channel": 7}, 107, "channel"),
        ({}, 107, "channel"),
        ({"channel": "a", "type": 1}, 108, "stream subscriptions only"),
        ({"channel": "a", "tf": {"op": "eq"}}, 108, "filters no publications"),
        ({"channel": "a", "recover": True, "offset": -1}, 107, "offset"),
    ],
)
def test_invalid_subscription_is_refused_and_the_field_is_named(
    fields: dict[str, Any], code: int, words: str
) -> None:
    node = make_node()
    client = Client(node)
    got, message = error(client.command("subscribe", **fields))
    assert got == code
    assert words in message
    assert client.closed is None
    assert node.hub.channels() == {}


def test_channel_is_subscribed_to_once_and_after_unsubscribing_again() -> None:
    client = Client(make_node())
    assert "subscribe" in client.command("subscribe", channel="a")
    assert error(client.command("subscribe", channel="a")) == (105, "already subscribed to a")
    assert client.command("unsubscribe", channel="a")["unsubscribe"] == {}
    assert client.command("unsubscribe", channel="a")["unsubscribe"] == {}
    assert "subscribe" in client.command("subscribe", channel="a")


def test_limit_of_channels_is_refused_with_the_name_of_the_setting() -> None:
    client = Client(make_node(limits=Limits(channels_per_client=2)))
    for name in "ab":
        assert "subscribe" in client.command("subscribe", channel=name)
    code, message = error(client.command("subscribe", channel="c"))
    assert (code, "(channels_per_client)" in message) == (106, True)
    client.command("unsubscribe", channel="a")
    assert "subscribe" in client.command("subscribe", channel="c")


def test_unsubscribed_channel_sends_nothing_more() -> None:
    node = make_node()
    client = Client(node)
    client.command("subscribe", channel="a")
    client.command("subscribe", channel="b")
    client.command("unsubscribe", channel="a")
    publish(node, "a")
    publish(node, "b")
    assert [push["channel"] for push in client.pushes()] == ["b"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, []),
        ({"limit": 0}, []),
        ({"limit": 2}, [1, 2]),
        ({"limit": -1}, [1, 2, 3, 4, 5]),
        ({"limit": 2, "reverse": True}, [5, 4]),
        ({"limit": -1, "since": {"offset": 3, "epoch": EPOCH}}, [4, 5]),
        ({"limit": -1, "since": {"offset": 3}}, [4, 5]),
        ({"limit": 1, "since": {"offset": 3}}, [4]),
        ({"limit": -1, "since": {"offset": 3}, "reverse": True}, [2, 1]),
        ({"limit": -1, "since": {"offset": 99}}, []),
    ],
)
def test_history_is_read_from_both_ends(fields: dict[str, Any], expected: list[int]) -> None:
    node = make_node()
    for _ in range(5):
        publish(node)
    result = Client(node).command("history", channel="numbers", **fields)["history"]
    assert [pub["offset"] for pub in result.get("publications", [])] == expected
    assert (result["epoch"], result["offset"]) == (EPOCH, 5)


def test_history_of_another_epoch_is_refused() -> None:
    client = Client(make_node())
    since = {"epoch": "other", "offset": 1}
    reply = client.command("history", channel="numbers", since=since)
    assert error(reply) == (112, "unrecoverable position: epoch 'other'")
    assert error(client.command("history", channel="a b"))[0] == 107


def test_reading_history_adds_no_channel() -> None:
    node = make_node()
    result = Client(node).command("history", channel="a", limit=-1)["history"]
    assert (result["epoch"], result.get("publications", [])) == (EPOCH, [])
    assert node.hub.history.channels == {}


def test_presence_has_the_subscribers_and_their_number() -> None:
    node = make_node()
    one, two = Client(node), Client(node)
    one.command("subscribe", channel="a")
    two.command("subscribe", channel="a")
    ids = {c.session.info.client for c in (one, two)}
    presence = one.command("presence", channel="a")["presence"]["presence"]
    assert {name: info["client"] for name, info in presence.items()} == {i: i for i in ids}
    stats = one.command("presence_stats", channel="a")["presence_stats"]
    assert stats == {"num_clients": 2, "num_users": 1}
    assert one.command("presence_stats", channel="b")["presence_stats"]["num_clients"] == 0
    assert error(one.command("presence", channel="a/b"))[0] == 107


def test_subscriber_with_join_leave_gets_joins_and_leaves() -> None:
    node = make_node()
    observer, other = Client(node), Client(node)
    observer.command("subscribe", channel="a", join_leave=True)
    other.command("subscribe", channel="a")
    other.command("unsubscribe", channel="a")
    other.command("subscribe", channel="a")
    other.session.closed()
    info = {"info": {"user": "", "client": other.session.info.client}}
    pushes = observer.pushes()
    assert pushes == [{"channel": "a", kind: info} for kind in ("join", "leave") * 2]


def test_own_join_comes_after_the_reply() -> None:
    node = make_node()
    client, quiet = Client(node), Client(node)
    info = {"user": "", "client": client.session.info.client}
    reply, push = client.say({"id": 2, "subscribe": {"channel": "a", "join_leave": True}})
    assert "subscribe" in reply
    assert push == {"push": {"channel": "a", "join": {"info": info}}}
    assert len(quiet.say({"id": 2, "subscribe": {"channel": "a"}})) == 1


def test_own_join_comes_after_the_push_of_a_subscription_by_the_server() -> None:
    node = make_node(ChannelOptions(force_push_join_leave=True))
    client = Client(node)
    drive(client.session.invite("a", Invitation(info=b"1")))
    subscribed, joined = client.pushes()
    assert "subscribe" in subscribed
    assert joined["join"]["info"]["chan_info"] == 1


def test_own_join_is_not_announced_in_a_crowd() -> None:
    node = make_node(limits=replace(Limits(), announced_audience=1))
    for expected in (2, 1):
        client = Client(node)
        replies = client.say({"id": 2, "subscribe": {"channel": "a", "join_leave": True}})
        assert len(replies) == expected


def test_a_call_without_a_handler_is_not_available() -> None:
    client = Client(make_node())
    [reply] = client.say({"id": 2, "rpc": {"method": "sum"}})
    assert error(reply) == (108, "this server has no handler for 'sum'")
    assert client.closed is None


def test_failed_send_is_answered_only_if_it_has_an_id() -> None:
    client = Client(make_node())
    assert client.say({"send": {"data": 1}}) == []
    assert client.closed is None
    assert error(client.say({"id": 4, "send": {"data": 1}})[0])[0] == 108


def test_clients_publish_only_where_client_publish_allows_it() -> None:
    node = make_node(lambda name: ChannelOptions(client_publish=name == "open"))
    client, watcher = Client(node), Watcher()
    drive(node.hub.subscribe(watcher, "open", None, 0))
    code, message = error(client.command("publish", channel="closed", data=1))
    assert (code, '(publish = "key")' in message) == (103, True)
    assert client.command("publish", channel="open", data={"a": [1, 2]})["publish"] == {}
    assert [json.loads(frame)["data"] for frame in watcher.frames] == [{"a": [1, 2]}]
    (published,) = node.hub.history.peek("open").last(1)
    assert published.info == client.session.info
    assert error(client.command("publish", channel="a b", data=1))[0] == 107


def test_data_of_clients_is_validated() -> None:
    client = Client(make_node(ChannelOptions(client_publish=True)))
    (reply,) = client.say(b'{"id":5,"publish":{"channel":"a","data":{"k":1,"k":2}}}')
    code, message = error(reply)
    assert code == 107
    assert message.startswith("bad request: data: the key 'k' appears twice")
    assert error(client.say(b'{"id":6,"publish":{"channel":"a","data":1e999}}')[0])[0] == 107


def test_client_without_permission_is_refused_before_its_data_is_validated() -> None:
    client = Client(make_node())
    for data in (b'{"k":1,"k":2}', b"1e999", b'"' + b"x" * 60_000 + b'"'):
        (reply,) = client.say(b'{"id":5,"publish":{"channel":"a","data":%b}}' % data)
        assert error(reply)[0] == 103


def test_unavailable_publish_is_a_temporary_error() -> None:
    node = make_node(ChannelOptions(client_publish=True))
    client = Client(node)
    node.stop_publishing()
    reply = client.command("publish", channel="a", data=1)
    assert reply["error"]["temporary"] is True
    assert error(reply) == (100, "the server is shutting down")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"nonsense", "not JSON"),
        (b'{"id":1}', "has no method"),
        (b'{"id":1,"fly":{}}', "has no method"),
        (b'{"id":1,"ping":{},"connect":{}}', "one method"),
        (b'{"ping":{}}', "ping needs an id above 0"),
        (b'{"id":0,"subscribe":{"channel":"a"}}', "subscribe needs an id above 0"),
        (b"[1]", "not a command"),
        (b"{}", "a pong without a ping"),
    ],
)
def test_invalid_frame_ends_the_connection_for_good(text: bytes, words: str) -> None:
    client = Client(make_node())
    assert client.say(text) == []
    assert client.closed is not None
    assert client.closed[0] == 3501
    assert words in client.closed[1]


def test_negative_id_counts_as_missing() -> None:
    client = Client(make_node())
    assert client.say({"id": -1, "ping": {}}) == []
    assert client.closed == (3501, "ping needs an id above 0")


def test_commands_in_the_frame_of_an_invalid_line_are_not_answered() -> None:
    node = make_node()
    client = Client(node)
    client.command("subscribe", channel="a")
    assert client.say({"id": 7, "ping": {}}, b"nonsense") == []
    assert client.closed is not None
    assert node.hub.channels() == {}


def test_ended_session_neither_answers_nor_sends() -> None:
    node = make_node()
    client = Client(node)
    client.command("subscribe", channel="a")
    client.session.disconnect(3503, "enough")
    assert client.say({"id": 9, "ping": {}}) == []
    client.session.disconnect(3000, "again")
    client.session.shut_down()
    publish(node, "a")
    assert client.session.wake(node.monotonic() + 100) is None
    assert client.transport.frames == []
    assert client.closed == (3503, "enough")
    assert node.hub.channels() == {}


def test_failed_command_is_an_internal_error_and_is_reported() -> None:
    reports: list[str] = []
    node = make_node(report=reports.append)
    client = Client(node)

    def fail(name: str) -> ChannelOptions:
        raise RuntimeError("secret detail")

    node.hub.history._options = fail
    reply = client.command("subscribe", channel="a")
    assert reply["error"] == {"code": 100, "message": "internal server error", "temporary": True}
    assert reports == ["a command failed"]
    assert "ping" in client.command("ping")


def test_connection_without_a_connect_command_in_time_is_stale() -> None:
    time = Time()
    node = make_node(time=time, limits=Limits(connect_seconds=15))
    client = Client(node, connect=False)
    time.now += 14
    node.peers.tick(node.monotonic())
    assert client.closed is None
    time.now += 2
    node.peers.tick(node.monotonic())
    assert client.closed == (3502, "no connect command came in time")


def wait(node: Node, time: Time, seconds: int) -> None:
    for _ in range(seconds):
        time.now += 1
        node.peers.tick(node.monotonic())


def test_pings_come_at_intervals_and_an_answering_client_stays() -> None:
    time = Time()
    node = make_node(time=time)
    client = Client(node)
    pings: list[float] = []
    start = time.now
    for _ in range(300):
        wait(node, time, 1)
        for value in client.transport.take():
            assert value == {}
            pings.append(time.now - start)
            client.say(b"{}")
    assert client.closed is None
    assert 12 <= pings[0] <= 27
    assert all(24 <= b - a <= 27 for a, b in pairwise(pings))
    assert len(pings) >= 10


def test_client_without_a_pong_is_dropped() -> None:
    time = Time()
    node = make_node(time=time)
    client = Client(node)
    while not client.transport.take():
        wait(node, time, 1)
    wait(node, time, 7)
    assert client.closed is None
    wait(node, time, 2)
    assert client.closed == (3012, "no pong")
    wait(node, time, 60)
    assert node.hub.channels() == {}


def test_other_commands_do_not_answer_a_ping() -> None:
    time = Time()
    node = make_node(time=time)
    client = Client(node)
    while not client.transport.take():
        wait(node, time, 1)
    client.command("ping")
    wait(node, time, 10)
    assert client.closed == (3012, "no pong")


def test_second_pong_ends_the_connection() -> None:
    time = Time()
    node = make_node(time=time)
    client = Client(node)
    while not client.transport.take():
        wait(node, time, 1)
    assert (client.say(b"{}"), client.closed) == ([], None)
    client.say(b"{}")
    assert client.closed == (3501, "a pong without a ping")


def test_first_pings_of_clients_that_connect_together_are_spread() -> None:
    time = Time()
    node = make_node(time=time)
    clients = [Client(node) for _ in range(50)]
    moments: set[int] = set()
    for second in range(30):
        wait(node, time, 1)
        moments.update(second for client in clients if client.transport.take())
    assert len(moments) > 5


def test_unsubscribe_by_the_server_is_pushed() -> None:
    node = make_node()
    client = Client(node)
    client.command("subscribe", channel="a")
    client.transport.frames.clear()
    assert client.session.unsubscribe("a", 2000, "by the API")
    assert not client.session.unsubscribe("a", 2000, "by the API")
    assert client.pushes() == [
        {"channel": "a", "unsubscribe": {"code": 2000, "reason": "by the API"}}
    ]
    assert node.hub.channels() == {}
    assert "subscribe" in client.command("subscribe", channel="a")


def test_gap_makes_the_client_subscribe_again() -> None:
    node = make_node()
    client = Client(node)
    client.command("subscribe", channel="numbers")
    publish(node)
    client.transport.frames.clear()
    node.hub.deliver(row(5))
    (push,) = client.pushes()
    assert push["unsubscribe"] == {"code": 2500, "reason": "insufficient state"}
    assert "subscribe" in client.command("subscribe", channel="numbers")


def test_stopping_server_closes_with_3001() -> None:
    node = make_node()
    client = Client(node)
    client.command("subscribe", channel="a")
    client.session.shut_down()
    assert client.closed == (3001, "the server is shutting down")
    assert node.hub.channels() == {}
    assert len(node.peers) == 1
    client.session.closed()
    assert len(node.peers) == 0


def test_client_that_stays_after_the_close_is_dropped() -> None:
    time = Time()
    node = make_node(time=time)
    client = Client(node)
    client.transport.block()
    client.session.shut_down()
    wait(node, time, int(CLOSING_SECONDS) - 1)
    assert not client.transport.aborted
    wait(node, time, 2)
    assert client.transport.aborted
    assert node.hub.metrics.ended == {"3001": 1}


def test_dropped_connection_leaves_the_hub_at_once() -> None:
    node = make_node()
    client = Client(node)
    client.command("subscribe", channel="a")
    client.session.abort()
    assert client.transport.aborted
    assert node.hub.channels() == {}


def test_pong_of_the_transport_has_no_effect() -> None:
    client = Client(make_node())
    client.session.alive()
    assert client.closed is None


def test_client_that_leaves_is_forgotten() -> None:
    node = make_node()

    def connect_and_leave() -> int:
        client = Client(node)
        client.command("subscribe", channel="a", join_leave=True)
        client.command("subscribe", channel="b")
        client.session.closed()
        client.session.closed()
        return id(client.session)

    gone = {connect_and_leave() for _ in range(3)}
    assert gone
    gc.collect()
    assert not [o for o in gc.get_objects() if isinstance(o, Session) and o.node is node]
    assert (node.hub.channels(), len(node.peers), node.hub.history.channels) == ({}, 0, {})
    assert node.presence._observers == {}


class DelayedRun:
    """A node's `run` that keeps its coroutines until `resume`, like a slow broker."""

    def __init__(self) -> None:
        self.started: list[Coroutine[Any, Any, None]] = []

    def __call__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.started.append(coroutine)

    def resume(self) -> None:
        for coroutine in self.started:
            drive(coroutine)
        self.started.clear()


def test_commands_behind_a_waiting_one_are_queued_in_order_up_to_a_limit() -> None:
    delayed = DelayedRun()
    node = make_node(limits=Limits(queued_commands=3), run=delayed)
    notes: list[tuple[str, int]] = []
    node.note_excess = lambda error, _, code: notes.append((error.setting, code))
    client = Client(node, connect=False)
    assert client.say({"id": 1, "connect": {}}) == []
    assert client.say({"id": 2, "ping": {}}, {"id": 3, "ping": {}}) == []
    assert len(delayed.started) == 1
    delayed.resume()
    assert [reply["id"] for reply in client.transport.take()] == [1, 2, 3]
    client.say(*({"id": n, "ping": {}} for n in range(4, 10)))
    assert client.closed is not None
    assert client.closed == (3013, "more than 3 commands wait (queued_commands)")
    assert notes == [("queued_commands", 3013)]
    delayed.resume()
    assert client.transport.take() == []


def test_queued_commands_of_a_closed_session_are_not_processed() -> None:
    delayed = DelayedRun()
    node = make_node(run=delayed)
    client = Client(node, connect=False)
    client.say({"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": "a"}})
    client.session.closed()
    delayed.resume()
    assert client.transport.take() == []
    assert (node.hub.channels(), len(node.peers)) == ({}, 0)


def test_command_that_ends_its_session_gets_no_reply() -> None:
    node = make_node(ChannelOptions(client_publish=True))
    client = Client(node)
    watcher = Watcher()
    drive(node.hub.subscribe(watcher, "a", None, 0))
    watcher.on_send = lambda frame: client.session.disconnect(3503, "enough")
    assert client.say({"id": 5, "publish": {"channel": "a", "data": 1}}) == []
    assert client.closed == (3503, "enough")


lines = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=40).map(str.encode),
    st.just(b"{}"),
    st.fixed_dictionaries(
        {"id": st.integers(-1, 3) | st.text(max_size=2)},
        optional={
            method: st.fixed_dictionaries(
                {},
                optional={
                    "channel": st.sampled_from(["a", "numbers", "", "a b", 7, None]),
                    "offset": st.integers(-2, 3) | st.just(2**70),
                    "epoch": st.sampled_from([EPOCH, "", "x", 1]),
                    "recover": st.booleans(),
                    "limit": st.integers(-2, 2),
                    "since": st.none() | st.fixed_dictionaries({"offset": st.integers(-2, 9)}),
                    "reverse": st.booleans(),
                    "data": st.none()
                    | st.integers()
                    | st.fixed_dictionaries({"last": st.integers()}),
                    "type": st.integers(0, 1),
                    "join_leave": st.booleans(),
                    "flag": st.integers(0, 3),
                },
            )
            | st.none()
            | st.lists(st.integers(), max_size=2)
            for method in centrifuge.METHODS
        },
    ).map(lambda value: json.dumps(value).encode()),
)


@given(st.booleans(), st.lists(st.lists(lines, max_size=3).map(b"\n".join), max_size=8))
def test_no_input_of_a_client_disturbs_another(connect: bool, texts: list[bytes]) -> None:
    node = make_node(ChannelOptions(client_publish=True))
    quiet = Client(node)
    quiet.command("subscribe", channel="quiet")
    client = Client(node, connect)
    for n, text in enumerate(texts):
        client.session.received(text)
        publish(node, "quiet", n)
    assert [push["pub"]["data"] for push in quiet.pushes()] == list(range(len(texts)))
    assert quiet.closed is None
    for value in client.transport.take():
        assert isinstance(value, dict)
    if client.closed is not None:
        assert client.closed[0] in (3501, 3013)
        assert client.closed[1]
    client.session.closed()
    assert node.hub.channels() == {"quiet": 1}
    assert len(node.peers) == 1


def test_slow_reader_is_not_dropped_as_dead() -> None:
    time = Time()
    node = make_node(time=time)
    client = Client(node)
    while not client.transport.take():
        wait(node, time, 1)
    client.transport.block()
    # The client answers a ping while other bytes still wait for it.
    assert client.say({}) == []
    assert client.closed is None
    wait(node, time, 40)
    assert client.closed is None
    # No ping is sent behind unread bytes.
    assert client.transport.take() == []
    client.transport.drain()
    wait(node, time, 20)
    assert client.transport.take() == [{}]


def test_client_that_stops_reading_is_dropped_even_if_nothing_more_is_sent() -> None:
    time = Time()
    node = make_node(time=time)
    client = Client(node)
    client.transport.block()
    wait(node, time, 70)
    assert client.transport.aborted
    assert (node.hub.metrics.ended["3008"], node.hub.metrics.slow) == (1, 1)


def test_command_waits_until_the_reply_before_is_read() -> None:
    client = Client(make_node())
    client.transport.block()
    assert client.say({"id": 7, "ping": {}}) == []
    client.transport.drain()
    assert client.transport.take() == [{"id": 7, "ping": {}}]
