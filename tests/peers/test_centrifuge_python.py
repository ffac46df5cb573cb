"""The official Python client, by WebSocket; a restart is in test_restart."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Callable, Coroutine
from typing import Any

import centrifuge
import jwt
import pytest

from tests.e2e.exchange import ask, data, history, publish
from tests.e2e.server import Server
from tests.peers.conftest import SECRET

PAUSE_SECONDS = 0.05
"""Between two requests for the presence: a connection has 200 commands a second."""

# centrifuge-python 0.7.0 leaves a connection to the garbage collector, which reports it.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


class Events(centrifuge.SubscriptionEventHandler, centrifuge.ClientEventHandler):  # type: ignore[misc]
    """The events of a client or of a subscription, in their order."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()

    async def next(self, name: str) -> Any:
        """Wait for the next event of this name."""
        while True:
            event, context = await self._events.get()
            if event == name:
                return context


def _keep(name: str) -> Callable[[Events, Any], Coroutine[Any, Any, None]]:
    async def on_event(self: Events, context: Any) -> None:
        await self._events.put((name, context))

    return on_event


for handler in (centrifuge.SubscriptionEventHandler, centrifuge.ClientEventHandler):
    for attribute in filter(lambda name: name.startswith("on_"), dir(handler)):
        setattr(Events, attribute, _keep(attribute.removeprefix("on_")))

Story = Callable[[Any, Events], Coroutine[Any, Any, None]]


def play(server: Server, story: Story, **options: Any) -> None:
    """Run a story with a connected client and its events."""

    async def run() -> None:
        events = Events()
        client = centrifuge.Client(
            server.websocket("connection/websocket"),
            events=events,
            min_reconnect_delay=0.05,
            max_reconnect_delay=0.2,
            timeout=60,
            **options,
        )
        await client.connect()
        try:
            async with asyncio.timeout(120):
                await story(client, events)
        finally:
            await client.disconnect()

    asyncio.run(run())
    gc.collect()


async def subscribe(client: Any, channel: str, **options: Any) -> tuple[Any, Events]:
    events = Events()
    subscription = client.new_subscription(channel, events=events, **options)
    await subscription.subscribe()
    await subscription.ready()
    return subscription, events


async def call(server: Server, method: str, **fields: Any) -> None:
    """Call a method of the server API."""
    body = json.dumps(fields).encode()
    assert (await asyncio.to_thread(ask, server, "POST", f"api/{method}", body)).status == 200


async def heard(events: Events, count: int) -> list[Any]:
    """The data of the next publications."""
    return [(await events.next("publication")).pub.data for _ in range(count)]


def test_it_has_many_subscriptions(server: Server) -> None:
    async def story(client: Any, _: Events) -> None:
        names = [f"python.many.{n}" for n in range(100)]
        all_events = [events for _, events in [await subscribe(client, name) for name in names]]
        await asyncio.to_thread(lambda: [publish(server, name, name) for name in names])
        assert [await heard(events, 1) for events in all_events] == [[name] for name in names]

    play(server, story)


def test_it_may_subscribe_again_and_again(server: Server) -> None:
    async def story(client: Any, _: Events) -> None:
        subscription, events = await subscribe(client, "python.again", data={"last": 0})
        for n in range(20):
            await subscription.unsubscribe()
            await subscription.subscribe()
            if n % 5 == 0:
                await asyncio.to_thread(publish, server, "python.again", n)
        await subscription.ready()
        await asyncio.to_thread(publish, server, "python.again", "end")
        found = await heard(events, 1)
        while found[-1] != "end":
            found += await heard(events, 1)
        assert len(set(map(str, found))) == len(found)

    play(server, story)


def test_it_calls_every_method(server: Server) -> None:
    channel = "open:python"

    async def story(client: Any, _: Events) -> None:
        subscription, _ = await subscribe(client, channel)
        for n in range(5):
            await subscription.publish({"n": n, "text": "Grüße 🎉"})
        found = await subscription.history(limit=-1)
        assert [row.data["n"] for row in found.publications] == [0, 1, 2, 3, 4]
        since = centrifuge.StreamPosition(offset=4, epoch=found.epoch)
        found = await subscription.history(limit=2, since=since, reverse=True)
        assert [row.data["n"] for row in found.publications] == [2, 1]
        assert len((await subscription.presence()).clients) == 1
        stats = await subscription.presence_stats()
        assert (stats.num_clients, stats.num_users) == (1, 1)
        refusals = [
            (client.rpc("greet", 1), 108),
            (client.publish("closed", 1), 103),
            (client.history("no spaces"), 107),
            (client.presence("café"), 107),
        ]
        for call, code in refusals:
            with pytest.raises(centrifuge.ReplyError) as refused:
                await call
            assert refused.value.code == code

    play(server, story)
    assert len(data(history(server, channel))) == 5


def test_it_gets_joins_and_leaves_of_others(server: Server) -> None:
    async def story(client: Any, _: Events) -> None:
        _, events = await subscribe(client, "python.joins", join_leave=True)
        own = (await events.next("join")).info.client
        other = centrifuge.Client(server.websocket("connection/websocket"))
        await other.connect()
        await subscribe(other, "python.joins")
        joined = (await events.next("join")).info.client
        await other.disconnect()
        assert (await events.next("leave")).info.client == joined
        assert joined != own

    play(server, story)


@pytest.mark.parametrize(
    ("channel", "options", "code"),
    [
        ("no such name", {}, 107),
        ("日本", {}, 107),
        ("filtered", {"tags_filter": centrifuge.Filter.eq("event", "a")}, 108),
    ],
)
def test_it_is_told_why_it_is_not_subscribed(
    server: Server, channel: str, options: dict[str, Any], code: int
) -> None:
    async def story(client: Any, _: Events) -> None:
        events = Events()
        await client.new_subscription(channel, events=events, **options).subscribe()
        assert (await events.next("unsubscribed")).code == code

    play(server, story)


def test_it_asks_for_deltas_and_gets_whole_data(server: Server) -> None:
    async def story(client: Any, _: Events) -> None:
        delta = centrifuge.DeltaType.FOSSIL
        _, events = await subscribe(client, "python.delta", delta=delta)
        for n in range(2):
            await asyncio.to_thread(publish, server, "python.delta", {"n": n})
        assert await heard(events, 2) == [{"n": 0}, {"n": 1}]

    play(server, story)


def test_its_state_is_asked_for_where_a_gap_begins(server: Server) -> None:
    """`get_state` gives the position of what the application has; the rest is recovered."""
    positions = [publish(server, "short", n) for n in range(5)]

    async def story(client: Any, _: Events) -> None:
        for offset, expected in ((top - 2, [3, 4]), (top - 1, [4])):

            async def get_state(channel: str, offset: int = offset) -> Any:
                return centrifuge.StreamPosition(offset=offset, epoch=positions[0]["epoch"])

            subscription, events = await subscribe(client, "short", get_state=get_state)
            assert await heard(events, len(expected)) == expected
            await subscription.unsubscribe()
            client.remove_subscription(subscription)

    top = positions[-1]["offset"]
    play(server, story)


@pytest.mark.parametrize(
    ("method", "fields", "code", "event"),
    [
        ("disconnect", {}, 3503, "disconnected"),
        ("disconnect", {"disconnect": {"code": 4000, "reason": "x"}}, 4000, "connecting"),
        ("refresh", {"expired": True}, 3005, "connecting"),
    ],
)
def test_it_returns_after_a_disconnect_or_not(
    server: Server, method: str, fields: dict[str, Any], code: int, event: str
) -> None:
    async def story(client: Any, events: Events) -> None:
        me = (await events.next("connected")).client
        await call(server, method, user="", client=me, **fields)
        told = await events.next(event)
        assert told.code == code
        if event == "connecting":
            assert (await events.next("connected")).client != me

    play(server, story)


def test_it_is_subscribed_by_the_server(server: Server) -> None:
    async def story(client: Any, events: Events) -> None:
        me = (await events.next("connected")).client
        who = {"user": "", "client": me, "channel": "python.server"}
        await call(server, "subscribe", **who, data=7)
        told = await events.next("subscribed")
        assert (told.channel, told.data) == ("python.server", 7)
        await asyncio.to_thread(publish, server, "python.server", "hello")
        assert (await events.next("publication")).pub.data == "hello"
        await call(server, "unsubscribe", **who)
        assert (await events.next("unsubscribed")).channel == "python.server"

    play(server, story)


def test_its_protobuf_form_is_refused(server: Server) -> None:
    async def story(client: Any, events: Events) -> None:
        assert "400" in str((await events.next("error")).error)

    play(server, story, use_protobuf=True)
    assert "the Protobuf form of the Centrifuge protocol is not spoken here" in server.log


def signed(seconds: int = 3_600, **claims: Any) -> str:
    """A token of the user 42."""
    content = {"sub": "42", "exp": int(time.time()) + seconds, **claims}
    return jwt.encode(content, SECRET, algorithm="HS256")


def test_it_gets_a_new_token_for_an_expired_one(server: Server) -> None:
    lives = [-60, 2, 3_600]

    async def get_token() -> str:
        return signed(lives.pop(0), info={"left": len(lives)})

    async def story(client: Any, events: Events) -> None:
        assert "Error 109: the token has expired" in str((await events.next("error")).error)
        identity = (await events.next("connected")).client
        subscription, _ = await subscribe(client, "python.refreshed")
        while True:
            clients = (await subscription.presence()).clients
            if clients[identity].conn_info == {"left": 0}:
                break
            await asyncio.sleep(PAUSE_SECONDS)
        assert (clients[identity].user, lives) == ("42", [])

    play(server, story, get_token=get_token)


def test_it_refreshes_the_token_of_a_subscription(server: Server) -> None:
    lives = [-60, 2, 3_600]

    async def get_token(channel: str) -> str:
        return signed(lives.pop(0), channel=channel, info={"left": len(lives)})

    async def story(client: Any, events: Events) -> None:
        identity = (await events.next("connected")).client
        subscription, _ = await subscribe(client, "members:python", get_token=get_token)
        while True:
            clients = (await subscription.presence()).clients
            if clients[identity].chan_info == {"left": 0}:
                break
            await asyncio.sleep(PAUSE_SECONDS)
        assert subscription.state == centrifuge.SubscriptionState.SUBSCRIBED

    play(server, story, token=signed())


def test_it_gives_up_with_an_invalid_token(server: Server) -> None:
    async def story(client: Any, events: Events) -> None:
        assert (await events.next("disconnected")).code == 3500

    play(server, story, token="invalid_token")


def test_it_may_not_subscribe_with_an_invalid_token(server: Server) -> None:
    async def get_token(channel: str) -> str:
        return "invalid_token"

    async def story(client: Any, _: Events) -> None:
        events = Events()
        subscription = client.new_subscription("members:a", events=events, get_token=get_token)
        await subscription.subscribe()
        assert (await events.next("unsubscribed")).code == 103
        assert client.state == centrifuge.ClientState.CONNECTED

    play(server, story, token=signed())


def test_it_is_subscribed_to_the_channels_of_its_token(server: Server) -> None:
    async def story(client: Any, events: Events) -> None:
        assert (await events.next("subscribed")).channel == "members:python.own"
        await client.publish("members:python.own", {"input": 1})
        publication = await events.next("publication")
        assert (publication.channel, publication.pub.data) == ("members:python.own", {"input": 1})

    play(server, story, token=signed(channels=["members:python.own"]))
