"""Every way to publish: the `cent` package, the command line, a script, and the clients."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cent
import centrifuge
import pytest

import pushserver
from tests.e2e.exchange import LINES, Reading, ask, data, history, publish, serving
from tests.e2e.programs import PUSHSERVER, PYTHON
from tests.e2e.server import Server, environment
from tests.e2e.watcher import Watcher

KEY = "s3cret"
CONFIG = f"""
    [auth]
    api_keys = ["{KEY}"]
    local_without_key = true
    [sources]
    [namespaces.chat]
    client_publish = true
    """


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a key, and a namespace that clients may publish in."""
    with serving(tmp_path_factory.mktemp("publishing"), CONFIG) as server:
        yield server


class TestCent:
    @pytest.fixture
    @staticmethod
    def api(server: Server) -> Iterator[cent.Client]:
        client = cent.Client(f"{server.url}api", api_key=KEY)
        yield client
        client._session._session.close()

    def test_publishes(self, server: Server, api: cent.Client) -> None:
        found = api.publish(cent.PublishRequest(channel="c1", data={"n": 1}))
        assert (found.offset, found.epoch) == (1, history(server, "c1")["epoch"])
        assert data(history(server, "c1")) == [{"n": 1}]

    def test_publishes_once_with_a_key(self, server: Server, api: cent.Client) -> None:
        request = cent.PublishRequest(channel="c2", data=1, idempotency_key="k")
        assert [api.publish(request).offset for _ in range(3)] == [1, 1, 1]
        assert data(history(server, "c2")) == [1]

    def test_names_the_event_by_a_tag(self, server: Server, api: cent.Client) -> None:
        api.publish(cent.PublishRequest(channel="c3", data=1, tags={"event": "e", "colour": "red"}))
        [row] = history(server, "c3")["publications"]
        assert (row["event"], row["tags"]) == ("e", {"colour": "red"})

    def test_broadcasts(self, server: Server, api: cent.Client) -> None:
        found = api.broadcast(cent.BroadcastRequest(channels=["c4", "c5"], data=7))
        results = [response.result for response in found.responses]
        assert [result.offset for result in results if result] == [1, 1]
        assert data(history(server, "c4")) == data(history(server, "c5")) == [7]

    def test_sends_a_batch(self, server: Server, api: cent.Client) -> None:
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

    def test_reads_history_and_removes_it(self, server: Server, api: cent.Client) -> None:
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

    def test_gets_the_presence(self, server: Server, api: cent.Client) -> None:
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

    def test_unsubscribes_a_client(self, server: Server, api: cent.Client) -> None:
        with closing(Watcher(server, "websocket", "c10")) as watcher:
            me = watcher.next("connected")["client"]
            watcher.next("subscribed")
            api.unsubscribe(cent.UnsubscribeRequest(user="", channel="c10", client=me))
            told = watcher.next("unsubscribed")
            assert (told["code"], bool(told["reason"])) == (2000, True)

    @pytest.mark.parametrize("transport", ["websocket", "http_stream", "sse"])
    def test_disconnects_a_client(self, server: Server, api: cent.Client, transport: str) -> None:
        with closing(Watcher(server, transport, "c11")) as watcher:
            me = watcher.next("connected")["client"]
            watcher.next("subscribed")
            said = cent.Disconnect(code=4500, reason="go home")
            api.disconnect(cent.DisconnectRequest(user="", client=me, disconnect=said))
            told = watcher.next("disconnected")
            assert told == {"code": 4500, "reason": "go home"}

    def test_gets_an_error_for_a_wrong_call(self, server: Server, api: cent.Client) -> None:
        with pytest.raises(cent.CentApiResponseError, match="1 to 128 characters") as refused:
            api.publish(cent.PublishRequest(channel="no such name", data=1))
        assert refused.value.code == 107

    def test_gets_an_error_for_a_wrong_key(self, server: Server) -> None:
        client = cent.Client(f"{server.url}api", api_key="wrong")
        try:
            with pytest.raises(cent.CentUnauthorizedError):
                client.info(cent.InfoRequest())
        finally:
            client._session._session.close()


class TestTheCommandLine:
    def run(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PUSHSERVER, *arguments],
            env=environment(),
            input=text,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def test_publishes_and_prints_the_position(self, server: Server) -> None:
        ended = self.run("publish", "l1", '{"n": 1}', "--url", server.url, "--event", "e")
        assert (ended.returncode, ended.stderr) == (0, "")
        [row] = history(server, "l1")["publications"]
        assert (row["data"], row["event"]) == ({"n": 1}, "e")
        position = json.loads(ended.stdout)
        assert position == {"offset": 1, "epoch": position["epoch"], "id": row["id"]}

    def test_publishes_each_line(self, server: Server) -> None:
        ended = self.run("publish", "l2", "-", "--url", server.url, "--key", KEY, text="1\nx\n")
        assert ended.returncode == 0
        assert data(history(server, "l2")) == [1, "x"]

    def test_reads_what_was_published(self, server: Server) -> None:
        for n in range(3):
            publish(server, "l3", n)
        ended = self.run(
            "subscribe", "l3", "--url", server.url, "--since", "oldest", "--count", "3"
        )
        assert ended.returncode == 0
        lines = [json.loads(line) for line in ended.stdout.splitlines()]
        assert lines == history(server, "l3")["publications"]

    @pytest.mark.parametrize(
        ("arguments", "word"),
        [
            (["publish", "no such name", "1"], "400: invalid channel name 'no such name'"),
            (["publish", "l4", "1", "--key", "wrong"], "401: the API key is not one of"),
            (["subscribe", "no such name"], "1 to 128 characters"),
            (["subscribe", "l4", "--last", "-1"], "expected a whole number"),
            (["subscribe", "l4", "--since", "x"], "invalid cursor"),
        ],
    )
    def test_explains_an_error_in_one_line(
        self, server: Server, arguments: list[str], word: str
    ) -> None:
        ended = self.run(*arguments, "--url", server.url)
        assert ended.returncode == 1
        assert ended.stderr.startswith("pushserver: ")
        assert word in ended.stderr
        assert "Traceback" not in ended.stderr
        assert ended.stdout == ""

    def test_checks_a_configuration(self, tmp_path: Path) -> None:
        path = tmp_path / "c.toml"
        path.write_text(CONFIG)
        assert self.run("check-config", str(path)).stdout == f"{path}: good\n"
        path.write_text("[limits]\nbody_byte = 1")
        ended = self.run("check-config", str(path))
        assert ended.returncode == 1
        assert f"{path}: limits.body_byte: unknown key; did you mean body_bytes?" in ended.stderr


def test_a_script_publishes_with_the_standard_library_alone(server: Server) -> None:
    program = (
        "import sys, pushserver\n"
        f"print(pushserver.publish({server.url!r}, 's1', {{'n': 1}}, event='e')['offset'])\n"
        "print(*{name.partition('.')[0] for name in sys.modules})\n"
    )
    ended = subprocess.run(
        [*PYTHON, program],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    offset, modules = ended.stdout.splitlines()
    assert offset == "1"
    assert not {"twisted", "msgspec", "autobahn", "jinja2", "zope"} & set(modules.split())
    assert data(history(server, "s1")) == [{"n": 1}]


@pytest.mark.parametrize("durability", ["sync", "batched"])
def test_a_publisher_whose_server_is_restarted_publishes_once(
    tmp_path: Path, durability: str
) -> None:
    config = f'[store]\npath = "s.db"\ndurability = "{durability}"\n[sources]'
    with serving(tmp_path, config) as server:
        server.stop()
        found: list[Any] = []
        errors: list[Exception] = []

        def publish_ten() -> None:
            try:
                found.extend(
                    pushserver.publish(server.url, "a", n, retry_seconds=60.0) for n in range(10)
                )
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=publish_ten)
        thread.start()
        # Starts before the server, and continues while it restarts.
        server.start()
        with closing(Reading(server, "channels/a?since=oldest", LINES)) as reader:
            reader.object()
            for _ in range(3):
                reader.object()
        server.stop()
        server.start()
        thread.join()
        assert errors == []
        assert [position["offset"] for position in found] == list(range(1, 11))
        assert data(history(server, "a")) == list(range(10))


class TestAClient:
    @pytest.mark.parametrize("transport", ["websocket", "http_stream", "sse"])
    def test_may_not_publish(self, server: Server, transport: str) -> None:
        with closing(Watcher(server, transport, "news", publish='{"n":1}')) as watcher:
            told = watcher.next("refused", "published")
        assert told["code"] == 103
        assert "client_publish" in told["message"]
        assert data(history(server, "news")) == []

    @pytest.mark.parametrize("transport", ["websocket", "http_stream", "sse"])
    def test_may_publish_in_an_open_namespace_with_its_identity(
        self, server: Server, transport: str
    ) -> None:
        channel = f"chat:{transport}"
        with (
            closing(Watcher(server, "websocket", channel)) as listener,
            closing(self.said(listener, server, transport, channel)) as speaker,
        ):
            me = speaker.next("connected")["client"]
            heard = listener.next("publication")
            assert heard["data"] == {"n": 1}
            assert (heard["info"]["client"], heard["info"]["user"]) == (me, "")
            speaker.next("published")
        assert data(history(server, channel)) == [{"n": 1}]

    @staticmethod
    def said(listener: Watcher, server: Server, transport: str, channel: str) -> Watcher:
        listener.next("subscribed")
        return Watcher(server, transport, channel, publish='{"n":1}')

    @pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
    def test_in_python_has_the_same_permissions(self, server: Server) -> None:
        async def story() -> None:
            client = centrifuge.Client(server.websocket("connection/websocket"))
            await client.connect()
            try:
                async with asyncio.timeout(15):
                    news = client.new_subscription("news")
                    await news.subscribe()
                    with pytest.raises(centrifuge.ReplyError) as refused:
                        await news.publish(1)
                    assert refused.value.code == 103
                    chat = client.new_subscription("chat:python")
                    await chat.subscribe()
                    await chat.publish({"n": 2})
                    present = await chat.presence()
                    assert len(present.clients) == 1
                    stats = await chat.presence_stats()
                    assert (stats.num_clients, stats.num_users) == (1, 1)
                    found = await chat.history(limit=-1)
                    assert [row.data for row in found.publications] == [{"n": 2}]
            finally:
                await client.disconnect()

        asyncio.run(story())
        # centrifuge-python 0.7.0 leaves its connection to the garbage collector.
        gc.collect()


def test_the_rules_for_posting_hold(server: Server) -> None:
    rules: list[tuple[dict[str, str], int]] = [
        ({}, 201),
        ({"x_api_key": KEY}, 201),
        ({"x_api_key": "wrong"}, 401),
        ({"origin": server.url.rstrip("/")}, 201),
        ({"origin": "http://evil.example"}, 403),
        ({"host": "evil.example"}, 403),
        ({"x_forwarded_for": "10.0.0.1"}, 401),
        ({"x_forwarded_for": "10.0.0.1", "x_api_key": KEY}, 201),
    ]
    found = [ask(server, "POST", "channels/r", b"1", **headers).status for headers, _ in rules]
    assert found == [status for _, status in rules]
