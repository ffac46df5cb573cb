"""The official JavaScript client; for each transport one process plays all stories."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.exchange import data, history
from tests.e2e.server import Server
from tests.e2e.watcher import NODE

TRANSPORTS = ["websocket", "http_stream", "sse"]

STORIES = {
    "watch": """
        await post(`channels/${channel}`, 1);
        const client = await connected();
        const subscription = await subscribed(client, channel);
        const publication = next(subscription, 'publication');
        await post(`channels/${channel}?event=greeting`, { text: 'a\\nb', 'ü': '✓' });
        const { offset, tags } = await publication;
        return [client.first.transport, subscription.heard, offset, tags];
    """,
    "joins": """
        const client = await connected();
        const subscription = await subscribed(client, channel, { joinLeave: true });
        const own = await next(subscription, 'join');
        const joined = next(subscription, 'join'), left = next(subscription, 'leave');
        const visitor = await connected();
        await subscribed(visitor, channel);
        const join = await joined;
        visitor.disconnect();
        return [own.info.client === client.first.client].concat(
          [join.info.client, (await left).info.client].map(
            (name) => name === visitor.first.client));
    """,
    "names": """
        const client = await connected();
        const told = [];
        for (const name of ['no such name', 'café', '日本', 'x'.repeat(129), '-', 'a/b']) {
          const subscription = client.newSubscription(name);
          const left = next(subscription, 'unsubscribed');
          subscription.subscribe();
          told.push(await left);
        }
        return told;
    """,
    "many": """
        const client = await connected();
        const names = Array.from({ length: 100 }, (_, n) => `${channel}.${n}`);
        const all = await Promise.all(names.map((name) => subscribed(client, name)));
        const last = next(all[99], 'publication');
        for (const name of names) await post(`channels/${name}`, name.slice(channel.length));
        await last;
        return all.map(({ heard }) => heard);
    """,
    "again": """
        const client = await connected();
        const subscription = await subscribed(client, channel, { data: { last: 0 } });
        for (let n = 0; n < 20; n += 1) {
          subscription.unsubscribe();
          subscription.subscribe();
          if (n % 5 === 0) await post(`channels/${channel}`, n);
        }
        await subscription.ready(60_000);
        const before = [...subscription.heard];
        await post(`channels/${channel}`, 'end');
        while (subscription.heard.at(-1) !== 'end') await next(subscription, 'publication');
        return [before, subscription.heard];
    """,
    "since": """
        const [{ epoch }] = [await post(`channels/${channel}`, 0)];
        for (const n of [1, 2, 3]) await post(`channels/${channel}`, n);
        const options = { since: { offset: 2, epoch } };
        const subscription = await subscribed(await connected(), channel, options);
        const { wasRecovering, recovered } = await subscription.first;
        return [wasRecovering, recovered, subscription.heard];
    """,
    "large": """
        const client = await connected();
        const subscription = await subscribed(client, channel);
        await subscription.publish('ü'.repeat(30_000));
        return subscription.heard.length;
    """,
    "toolarge": """
        // There is no answer to a command that is too large for /emulation.
        const client = await connected(transport === 'websocket' ? {} : { timeout: 1_000 });
        const left = next(client, 'disconnected');
        const sent = client.publish(channel, 'ü'.repeat(35_000));
        return (await Promise.race([sent.catch((error) => error), left])).code;
    """,
    "methods": """
        const client = await connected();
        const subscription = await subscribed(client, channel);
        for (let n = 0; n < 5; n += 1) await subscription.publish({ n });
        const all = await subscription.history({ limit: -1 });
        const since = { offset: 4, epoch: all.epoch };
        const refusals = Promise.allSettled([
          client.rpc('greet', 1), client.publish('closed', 1), client.history('no spaces'),
          subscription.history({ limit: 1, since: { offset: 1, epoch: 'another' } }),
        ]);
        const rows = async (query) =>
          (await subscription.history(query)).publications.map(({ data }) => data.n);
        await client.send('no answer');
        const { publications, offset } = await subscription.history({ limit: 0 });
        return {
          info: all.publications[0].info.client === client.first.client,
          all: all.publications.map(({ data }) => data.n),
          top: [publications.length, offset],
          before: await rows({ limit: 2, since, reverse: true }),
          newest: await rows({ limit: 2, reverse: true }),
          after: await rows({ limit: 9, since }),
          present: Object.keys((await subscription.presence()).clients).length,
          stats: await subscription.presenceStats(),
          refusals: (await refusals).map(({ reason }) => reason.code),
        };
    """,
    "batch": """
        const client = await connected();
        client.startBatching();
        const sent = Array.from({ length: 200 }, (_, n) => client.publish(channel, n));
        client.stopBatching();
        return (await Promise.all(sent)).length;
    """,
    "delta": """
        const subscription = await subscribed(await connected(), channel, { delta: 'fossil' });
        for (const n of [1, 2]) {
          const heard = next(subscription, 'publication');
          await post(`channels/${channel}`, { text: 'x'.repeat(100), n });
          await heard;
        }
        return subscription.heard.map(({ n }) => n);
    """,
    "filter": """
        const tagsFilter = { key: 'event', cmp: 'eq', val: 'a' };
        const subscription = (await connected()).newSubscription(channel, { tagsFilter });
        const left = next(subscription, 'unsubscribed');
        subscription.subscribe();
        return left;
    """,
    "by-the-server": """
        const client = await connected();
        const joined = next(client, 'subscribed'), heard = next(client, 'publication');
        const left = next(client, 'unsubscribed');
        const name = `${channel}.room`;
        const who = { user: '', client: client.first.client, channel: name };
        await post('api/subscribe', { ...who, data: { seat: 12 } });
        const { channel: where, data } = await joined;
        await post(`channels/${name}`, 'hello');
        const publication = await heard;
        await post('api/unsubscribe', who);
        return [where, data, publication.data, (await left).channel];
    """,
    "ends": """
        const all = {};
        const ends = {
          disconnect: {}, refresh: { expired: true },
          4000: { disconnect: { code: 4000, reason: 'by the test' } },
          4500: { disconnect: { code: 4500, reason: 'by the test' } },
        };
        for (const [name, fields] of Object.entries(ends)) {
          const client = await connected();
          const told = Promise.race(['connecting', 'disconnected'].map((n) => next(client, n)));
          const method = name === 'refresh' ? name : 'disconnect';
          await post(`api/${method}`, { user: '', client: client.first.client, ...fields });
          const { code, reason } = await told;
          const state = client.state;
          if (state !== 'disconnected') await client.ready(60_000);
          all[name] = [code, reason, state];
        }
        return all;
    """,
    "protobuf": """
        const client = make(ProtobufCentrifuge);
        const failed = next(client, 'error');
        client.connect();
        const { type } = await failed;
        client.disconnect();
        return type;
    """,
}


Played = tuple[str, dict[str, Any]]


@pytest.fixture(scope="module")
def results(server: Server) -> dict[str, dict[str, Any]]:
    """The result of each story by transport; all transports at the same time."""

    def play(transport: str) -> dict[str, Any]:
        result = subprocess.run(
            ["node", "stories.mjs", server.url, transport],
            input=json.dumps(STORIES),
            cwd=NODE,
            stdout=subprocess.PIPE,
            timeout=240,
            check=True,
            text=True,
        )
        stories: dict[str, Any] = json.loads(result.stdout)
        return stories

    with ThreadPoolExecutor(len(TRANSPORTS)) as threads:
        return dict(zip(TRANSPORTS, threads.map(play, TRANSPORTS), strict=True))


@pytest.fixture(params=TRANSPORTS)
def played(results: dict[str, dict[str, Any]], request: pytest.FixtureRequest) -> Played:
    """A transport and the results of its stories; see tests/node/stories.mjs."""
    return request.param, results[request.param]


def test_it_gets_the_history_and_new_publications(played: Played) -> None:
    transport, results = played
    heard = [1, {"text": "a\nb", "ü": "✓"}]
    assert results["watch"] == [transport, heard, 2, {"event": "greeting"}]


def test_it_gets_joins_and_leaves_of_others(played: Played) -> None:
    assert played[1]["joins"] == [True, True, True]


def test_it_gets_the_reason_for_an_invalid_name(played: Played) -> None:
    names = played[1]["names"]
    assert [told["code"] for told in names] == [107] * 6
    assert all("1 to 128" in told["reason"] for told in names)


def test_it_has_many_subscriptions(played: Played) -> None:
    assert played[1]["many"] == [[f".{n}"] for n in range(100)]


def test_it_may_subscribe_again_and_again(played: Played) -> None:
    """Each publication comes once, though the client comes and goes without waiting."""
    before, after = played[1]["again"]
    assert after == [*before, "end"]
    assert len(set(after)) == len(after)


def test_it_begins_at_a_position_of_the_past(played: Played) -> None:
    assert played[1]["since"] == [True, True, [2, 3]]


def test_it_publishes_messages_up_to_the_limit(played: Played, server: Server) -> None:
    """`frame_bytes` is 65,536; beyond it the SDK has codes of its own: 1 timeout, 3 size limit."""
    transport, results = played
    assert results["large"] == 1
    assert results["toolarge"] == (3 if transport == "websocket" else 1)
    assert data(history(server, f"open:toolarge.{transport}")) == []


def test_it_calls_every_method(played: Played) -> None:
    assert played[1]["methods"] == {
        "info": True,
        "all": [0, 1, 2, 3, 4],
        "top": [0, 5],
        "before": [2, 1],
        "newest": [4, 3],
        "after": [4],
        "present": 1,
        "stats": {"numClients": 1, "numUsers": 1},
        "refusals": [108, 103, 107, 112],
    }


def test_it_sends_a_batch(played: Played, server: Server) -> None:
    transport, results = played
    assert results["batch"] == 200
    assert data(history(server, f"open:batch.{transport}")) == list(range(200))


def test_it_asks_for_deltas_and_gets_whole_data(played: Played) -> None:
    assert played[1]["delta"] == [1, 2]


def test_it_is_told_that_a_filter_is_not_available(played: Played) -> None:
    told = played[1]["filter"]
    assert told["code"] == 108
    assert told["reason"].startswith("tf: ")


def test_it_is_subscribed_by_the_server(played: Played) -> None:
    transport, results = played
    room = f"open:by-the-server.{transport}.room"
    assert results["by-the-server"] == [room, {"seat": 12}, "hello", room]


def test_it_returns_after_a_disconnect_or_not(played: Played) -> None:
    assert played[1]["ends"] == {
        "disconnect": [3503, "force disconnect", "disconnected"],
        "refresh": [3005, "expired", "connecting"],
        "4000": [4000, "by the test", "connecting"],
        "4500": [4500, "by the test", "disconnected"],
    }


def test_its_protobuf_form_is_refused_and_the_log_says_why(played: Played, server: Server) -> None:
    assert played[1]["protobuf"] == "transport"
    assert "the Protobuf form of the Centrifuge protocol is not spoken here" in server.log
