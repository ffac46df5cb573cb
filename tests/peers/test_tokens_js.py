"""Tokens in the official JavaScript client, by each transport; see tests/node/stories.mjs."""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.server import Server
from tests.e2e.watcher import NODE
from tests.peers.conftest import SECRET

TRANSPORTS = ["websocket", "http_stream", "sse"]

STORIES = {
    "expired": """
        let calls = 0;
        const getToken = async () => token({}, calls++ ? 60 : -60);
        const client = make(Centrifuge, { getToken });
        const failed = next(client, 'error'), first = next(client, 'connected');
        client.connect();
        const { error } = await failed;
        await first;
        return [error.code, calls, client.state];
    """,
    "invalid": """
        const client = make(Centrifuge, { getToken: async () => 'invalid_token' });
        const ended = next(client, 'disconnected');
        client.connect();
        return ended;
    """,
    "refresh": """
        let calls = 0;
        const getToken = async () => token({ info: { n: ++calls } }, calls > 1 ? 3600 : 2);
        const client = await connected({ getToken });
        const subscription = await subscribed(client, channel);
        const id = client.first.client;
        const n = async () => (await subscription.presence()).clients[id].connInfo.n;
        const before = await n();
        const after = await poll(n, (now) => now !== before);
        const publication = next(subscription, 'publication');
        await post(`channels/${channel}`, 'after');
        await publication;
        return [before, after, calls, subscription.heard, client.state];
    """,
    "subscription": """
        const members = channel.replace('open:', 'members:');
        let calls = 0;
        const lives = [-60, 2, 3600];
        const getToken = async ({ channel }) =>
          token({ channel, info: { n: ++calls } }, lives[Math.min(calls, 3) - 1]);
        const client = await connected({ token: token({}) });
        const subscription = client.newSubscription(members, { getToken });
        const failed = next(subscription, 'error'), first = next(subscription, 'subscribed');
        subscription.subscribe();
        const { error } = await failed;
        await first;
        const n = async () =>
          (await subscription.presence()).clients[client.first?.client].chanInfo.n;
        await poll(n, (now) => now === 3);
        const publication = next(subscription, 'publication');
        await subscription.publish('after');
        const { data, info } = await publication;
        return [error.code, calls, data, info.user, subscription.state];
    """,
    "denied": """
        const members = channel.replace('open:', 'members:');
        const client = await connected({ token: token({}) });
        const told = [];
        const getTokens = [
          undefined,
          async () => 'invalid_token',
          async () => token({ channel: 'members:other' }),
          async () => token({ channel: members, sub: 'bob' }),
        ];
        for (const getToken of getTokens) {
          const subscription = client.newSubscription(members, getToken ? { getToken } : {});
          const left = next(subscription, 'unsubscribed');
          subscription.subscribe();
          told.push((await left).code);
          client.removeSubscription(subscription);
        }
        return [told, client.state];
    """,
    "server": """
        const members = channel.replace('open:', 'members:');
        const subs = { [members]: { data: { hello: 1 } } };
        const client = make(Centrifuge, { token: token({ channels: [channel], subs }) });
        const told = {};
        const both = new Promise((resolve) => client.on('subscribed', ({ channel, data }) => {
          told[channel] = data ?? null;
          if (Object.keys(told).length === 2) resolve();
        }));
        client.connect();
        await both;
        const publication = next(client, 'publication');
        await post(`channels/${channel}`, 'hello');
        const { channel: name, data } = await publication;
        return [told[channel], told[members], name === channel, data];
    """,
}


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
            env={**os.environ, "TOKEN_SECRET": SECRET},
        )
        stories: dict[str, Any] = json.loads(result.stdout)
        return stories

    with ThreadPoolExecutor(len(TRANSPORTS)) as threads:
        return dict(zip(TRANSPORTS, threads.map(play, TRANSPORTS), strict=True))


@pytest.fixture(params=TRANSPORTS)
def played(results: dict[str, dict[str, Any]], request: pytest.FixtureRequest) -> dict[str, Any]:
    """The results of the stories on one transport."""
    return results[request.param]


def test_it_gets_a_new_token_for_an_expired_one(played: dict[str, Any]) -> None:
    assert played["expired"] == [109, 2, "connected"]


def test_it_gives_up_with_an_invalid_token(played: dict[str, Any]) -> None:
    assert played["invalid"]["code"] == 3500
    assert played["invalid"]["reason"].startswith("invalid token: expected a JSON Web Token")


def test_it_refreshes_the_token_of_its_connection(played: dict[str, Any]) -> None:
    assert played["refresh"] == [1, 2, 2, ["after"], "connected"]


def test_it_refreshes_the_token_of_a_subscription(played: dict[str, Any]) -> None:
    assert played["subscription"] == [109, 3, "after", "ann", "subscribed"]


def test_it_is_told_that_a_channel_needs_another_token(played: dict[str, Any]) -> None:
    assert played["denied"] == [[103] * 4, "connected"]


def test_it_is_subscribed_to_the_channels_of_its_token(played: dict[str, Any]) -> None:
    assert played["server"] == [None, {"hello": 1}, True, "hello"]
