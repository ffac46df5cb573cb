"""`cent`, the client of Centrifugo's API for programs: its whole surface, and its habits."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import cent
import pytest

from tests.e2e.exchange import data, history, publish, serving
from tests.e2e.server import Server
from tests.e2e.watcher import Watcher

KEY = "s3cret"
CONFIG = f"""
    [auth]
    api_keys = ["{KEY}"]
    local_without_key = true
    [sources]
    """


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a key."""
    with serving(tmp_path_factory.mktemp("cent"), CONFIG) as server:
        yield server


@pytest.fixture
def api(server: Server) -> Iterator[cent.Client]:
    client = cent.Client(f"{server.url}api", api_key=KEY)
    yield client
    client._session._session.close()


def test_cent_publishes(server: Server, api: cent.Client) -> None:
    found = api.publish(cent.PublishRequest(channel="c1", data={"n": 1}))
    assert (found.offset, found.epoch) == (1, history(server, "c1")["epoch"])
    assert data(history(server, "c1")) == [{"n": 1}]


def test_cent_publishes_once_with_a_key(server: Server, api: cent.Client) -> None:
    request = cent.PublishRequest(channel="c2", data=1, idempotency_key="k")
    assert [api.publish(request).offset for _ in range(3)] == [1, 1, 1]
    assert data(history(server, "c2")) == [1]


def test_cent_names_the_event_by_a_tag(server: Server, api: cent.Client) -> None:
    api.publish(cent.PublishRequest(channel="c3", data=1, tags={"event": "e", "colour": "red"}))
    [row] = history(server, "c3")["publications"]
    assert (row["event"], row["tags"]) == ("e", {"colour": "red"})


def test_cent_broadcasts(server: Server, api: cent.Client) -> None:
    found = api.broadcast(cent.BroadcastRequest(channels=["c4", "c5"], data=7))
    results = [response.result for response in found.responses]
    assert [result.offset for result in results if result] == [1, 1]
    assert data(history(server, "c4")) == data(history(server, "c5")) == [7]


def test_cent_sends_a_batch(server: Server, api: cent.Client) -> None:
    requests = [
        cent.PublishRequest(channel="c6", data=1),
        cent.BroadcastRequest(channels=["c6", "c7"], data=2),
        cent.PresenceRequest(channel="c6"),
        cent.HistoryRequest(channel="c6", limit=-1),
    ]
    found = api.batch(cent.BatchRequest(requests=requests)).replies
    assert [type(reply).__name__ for reply in found] == [
        "PublishResult",
        "BroadcastResult",
        "PresenceResult",
        "HistoryResult",
    ]
    assert isinstance(found[3], cent.HistoryResult)
    assert [row.data for row in found[3].publications] == [1, 2]


def test_cent_reads_history_and_removes_it(server: Server, api: cent.Client) -> None:
    for n in range(1, 6):
        publish(server, "c8", n)
    found = api.history(cent.HistoryRequest(channel="c8", limit=2, reverse=True))
    assert [row.data for row in found.publications] == [5, 4]
    assert found.offset == 5
    since = cent.StreamPosition(offset=3, epoch=found.epoch)
    found = api.history(cent.HistoryRequest(channel="c8", limit=-1, since=since))
    assert [(row.offset, row.data) for row in found.publications] == [(4, 4), (5, 5)]
    api.history_remove(cent.HistoryRemoveRequest(channel="c8"))
    found = api.history(cent.HistoryRequest(channel="c8", limit=-1))
    assert (found.publications, found.offset) == ([], 5)


def test_cent_gets_the_presence(server: Server, api: cent.Client) -> None:
    with closing(Watcher(server, "websocket", "c9")) as watcher:
        me = watcher.next("connected")["client"]
        watcher.next("subscribed")
        present = api.presence(cent.PresenceRequest(channel="c9")).presence
        assert [info.client for info in present.values()] == [me]
        stats = api.presence_stats(cent.PresenceStatsRequest(channel="c9"))
        assert (stats.num_clients, stats.num_users) == (1, 1)
        channels = api.channels(cent.ChannelsRequest(pattern="c9*")).channels
        assert {name: info.num_clients for name, info in channels.items()} == {"c9": 1}
        [node] = api.info(cent.InfoRequest()).nodes
        assert (node.num_clients, node.num_channels, node.num_subs) == (1, 1, 1)
        assert node.version.startswith("pushserver ")


def test_cent_unsubscribes_a_client(server: Server, api: cent.Client) -> None:
    with closing(Watcher(server, "websocket", "c10")) as watcher:
        me = watcher.next("connected")["client"]
        watcher.next("subscribed")
        api.unsubscribe(cent.UnsubscribeRequest(user="", channel="c10", client=me))
        told = watcher.next("unsubscribed")
        assert (told["code"], bool(told["reason"])) == (2000, True)


@pytest.mark.parametrize("transport", ["websocket", "http_stream", "sse"])
def test_cent_disconnects_a_client(server: Server, api: cent.Client, transport: str) -> None:
    with closing(Watcher(server, transport, "c11")) as watcher:
        me = watcher.next("connected")["client"]
        watcher.next("subscribed")
        said = cent.Disconnect(code=4500, reason="go home")
        api.disconnect(cent.DisconnectRequest(user="", client=me, disconnect=said))
        told = watcher.next("disconnected")
        assert told == {"code": 4500, "reason": "go home"}


def test_cent_gets_an_error_for_a_wrong_call(server: Server, api: cent.Client) -> None:
    with pytest.raises(cent.CentApiResponseError, match="1 to 128 characters") as refused:
        api.publish(cent.PublishRequest(channel="no such name", data=1))
    assert refused.value.code == 107


def test_cent_gets_an_error_for_a_wrong_key(server: Server) -> None:
    client = cent.Client(f"{server.url}api", api_key="wrong")
    try:
        with pytest.raises(cent.CentUnauthorizedError):
            client.info(cent.InfoRequest())
    finally:
        client._session._session.close()


SURFACE: dict[str, Any] = {
    "publish": cent.PublishRequest(channel="s", data={"n": 1}, tags={"a": "b"}),
    "broadcast": cent.BroadcastRequest(channels=["s", "t"], data=[None], idempotency_key="k"),
    "subscribe": cent.SubscribeRequest(
        user="",
        channel="s",
        info={"a": 1},
        data={"b": 2},
        client="nobody",
        session="nobody",
        recover_since=cent.StreamPosition(),
        override=cent.ChannelOptionsOverride(
            presence=cent.BoolValue(value=True),
            join_leave=cent.BoolValue(value=True),
            force_push_join_leave=cent.BoolValue(value=False),
            force_positioning=cent.BoolValue(value=True),
            force_recovery=cent.BoolValue(value=True),
        ),
    ),
    "unsubscribe": cent.UnsubscribeRequest(user="u", channel="s", client="c", session="s"),
    "disconnect": cent.DisconnectRequest(
        user="u", client="c", session="s", whitelist=["d"], disconnect=cent.Disconnect()
    ),
    "refresh": cent.RefreshRequest(
        user="u", client="c", session="s", expired=False, expire_at=2_000_000_000
    ),
    "presence": cent.PresenceRequest(channel="s"),
    "presence_stats": cent.PresenceStatsRequest(channel="s"),
    "history": cent.HistoryRequest(
        channel="s", limit=-1, since=cent.StreamPosition(offset=1), reverse=False
    ),
    "history_remove": cent.HistoryRemoveRequest(channel="t"),
    "channels": cent.ChannelsRequest(pattern="*"),
    "info": cent.InfoRequest(),
    "batch": cent.BatchRequest(requests=[cent.InfoRequest()], parallel=True),
}
"""A request of each method, with all fields that the server supports."""

PRO = {
    "connections",
    "update_user_status",
    "get_user_status",
    "delete_user_status",
    "block_user",
    "unblock_user",
    "revoke_token",
    "invalidate_user_tokens",
    "device_register",
    "device_update",
    "device_remove",
    "device_list",
    "device_topic_list",
    "device_topic_update",
    "user_topic_list",
    "user_topic_update",
    "send_push_notification",
    "update_push_status",
    "cancel_push",
}
"""Methods of Centrifugo PRO, which Centrifugo itself answers with 404, too."""


def methods(client: type) -> set[str]:
    """The methods of a client that are calls of the API."""
    named = inspect.getmembers(client, inspect.isfunction)
    return {name for name, _ in named if not name.startswith("_")} - {"close"}


def test_each_method_of_cent_is_tried_or_of_the_paid_edition() -> None:
    assert methods(cent.Client) == methods(cent.AsyncClient) == set(SURFACE) | PRO


@pytest.mark.parametrize("method", SURFACE)
def test_each_method_has_the_result_of_its_type(api: cent.Client, method: str) -> None:
    api.publish(cent.PublishRequest(channel="s", data=1))
    found = getattr(api, method)(SURFACE[method])
    assert type(found).__name__ == f"{''.join(map(str.title, method.split('_')))}Result"
    # A field of another name would be in the extras, as the result allows any.
    extra = found.__pydantic_extra__ or {}
    assert set(extra) == set()


@pytest.mark.parametrize("method", SURFACE)
def test_each_method_works_in_the_async_client(server: Server, method: str) -> None:
    async def call() -> Any:
        async with cent.AsyncClient(f"{server.url}api", api_key=KEY) as client:
            await client.publish(cent.PublishRequest(channel="s", data=1))
            return await getattr(client, method)(SURFACE[method])

    assert isinstance(asyncio.run(call()), cent.CentResult)


def test_methods_of_the_paid_edition_are_404(api: cent.Client) -> None:
    with pytest.raises(cent.CentTransportError) as refused:
        api.block_user(cent.BlockUserRequest(user="u"))
    assert refused.value.status_code == 404


def test_data_in_base64_is_refused_and_not_published(server: Server, api: cent.Client) -> None:
    for call in (
        lambda: api.publish(cent.PublishRequest(channel="b64", data=0, b64data="MQ==")),
        lambda: api.broadcast(cent.BroadcastRequest(channels=["b64"], data=0, b64data="MQ==")),
        lambda: api.subscribe(cent.SubscribeRequest(user="", channel="b64", b64info="MQ==")),
    ):
        with pytest.raises(cent.CentApiResponseError, match="not supported") as refused:
            call()
        assert refused.value.code == 108
    assert data(history(server, "b64")) == []


def test_a_client_is_subscribed_with_its_info(server: Server, api: cent.Client) -> None:
    with closing(Watcher(server, "websocket", "seats")) as watcher:
        me = watcher.next("connected")["client"]
        watcher.next("subscribed")
        request = cent.SubscribeRequest(
            user="", client=me, channel="hall", info={"name": "Ada"}, data={"seat": 1}
        )
        api.subscribe(request)
        present = api.presence(cent.PresenceRequest(channel="hall")).presence
        assert {name: info.chan_info for name, info in present.items()} == {me: {"name": "Ada"}}


@pytest.mark.parametrize("fields", [{"expired": True}, {"expire_at": 1_700_000_000}], ids=str)
def test_a_refresh_of_an_expired_client_ends_it(
    server: Server, api: cent.Client, fields: dict[str, Any]
) -> None:
    with closing(Watcher(server, "websocket", "expiry")) as watcher:
        me = watcher.next("connected")["client"]
        api.refresh(cent.RefreshRequest(user="nobody", **fields))
        api.refresh(cent.RefreshRequest(user="", client=me, **fields))
        assert watcher.next("connecting")["code"] == 3005
        assert watcher.next("connected")["client"] != me


def test_a_session_over_http_keeps_its_connection(server: Server) -> None:
    with cent.Client(f"{server.url}api", api_key=KEY) as client:
        for n in range(20):
            client.publish(cent.PublishRequest(channel="kept", data=n))
        adapter: Any = client._session._session.get_adapter(server.url)
        [pool] = map(adapter.poolmanager.pools.get, adapter.poolmanager.pools.keys())
        assert pool.num_connections == 1
    assert data(history(server, "kept")) == list(range(20))
