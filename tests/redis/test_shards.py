"""Servers with the channels in two Redis: each Redis fails alone, and all agree on the list."""

from __future__ import annotations

import json
import random
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from pushserver.channels.placement import Placement
from pushserver.channels.publication import Draft
from pushserver.errors import Unavailable
from pushserver.redis.state import State
from tests.e2e.blocks import block_with
from tests.e2e.conditions import wait_until
from tests.e2e.exchange import LINES, Reading, ask, publish
from tests.redis.crew import Crew
from tests.redis.crew import Node as CrewNode
from tests.redis.server import RedisServer
from tests.redis.servers import Node
from tests.unit.hub.test_shards_model import Reader

SHARDS = {"left": 0, "right": 1}
LEFT, RIGHT = "left:1", "right:1"
BOTH = f"events?channel={LEFT}&channel={RIGHT}"
TEXT = "[sources]\n[broker]\nshards = {left = 0, right = 1}\n"


@contextmanager
def two(folder: Path, **options: str) -> Iterator[tuple[RedisServer, RedisServer]]:
    with RedisServer(folder / "a", **options) as a, RedisServer(folder / "b", **options) as b:
        yield a, b


def urls(*servers: RedisServer) -> str:
    return " ".join(f"unix://{server.path}" for server in servers)


@pytest.fixture
def crew() -> Crew:
    return Crew(channels=(LEFT, RIGHT), shards=SHARDS)


class Roamers:
    """Readers of both channels in one stream, which come back at any node with their cursors."""

    def __init__(self, crew: Crew):
        self.crew = crew
        self.found: dict[tuple[str, str, int], int] = {}
        self.readers = [Reader(self._check, (LEFT, RIGHT)) for _ in range(3)]
        for reader in self.readers:
            crew.start(self._roam(reader))

    def _check(self, channel: str, epoch: str, offset: int, data: int) -> None:
        assert self.found.setdefault((channel, epoch, offset), data) == data

    async def _roam(self, reader: Reader) -> None:
        while True:
            reader.connect(random.choice(self.crew.nodes).node, 2)
            await self.crew.sleep(random.choice([0, 0.01, 0.05]))
            reader.leave(random.choice([0, 1, 5, 1_000_000]))
            if self.has_everything(reader):
                return

    def has_everything(self, reader: Reader) -> bool:
        """Whether no publication can come that the reader has not."""
        if not self.crew.is_finished:
            return False
        ends = {(r.channel, r.epoch, r.top) for r in self.crew.readers}
        return {(channel, *top) for channel, top in reader.tops.items()} == ends

    async def finish(self) -> None:
        await self.crew.until(lambda: all(map(self.has_everything, self.readers)))
        assert {channel for channel, *_ in self.found} == {LEFT, RIGHT}


@pytest.mark.fault("one of several [shards](#shards) is killed, with `appendfsync always`")
def test_one_of_two_is_killed_under_load(tmp_path: Path, crew: Crew) -> None:
    with two(tmp_path, appendonly="yes", appendfsync="always") as (left, right):

        async def main() -> None:
            await crew.begin(urls(left, right), urls(left, right))
            roamers = Roamers(crew)
            for _ in range(3):
                await crew.progress()
                right.kill()
                await crew.progress()
                right.start()
                await crew.progress()
            await crew.finish()
            await roamers.finish()
            await crew.check()

        crew.run(main)
    assert crew.told == 0
    assert crew.refused_in == {RIGHT}


@pytest.mark.fault("one of several [shards](#shards) comes back empty")
def test_one_of_two_comes_back_empty(tmp_path: Path, crew: Crew) -> None:
    with two(tmp_path) as (left, right):

        async def main() -> None:
            await crew.begin(urls(left, right), urls(left, right))
            roamers = Roamers(crew)
            await crew.progress()
            right.restart()
            await crew.progress()
            await crew.finish()
            await roamers.finish()
            await crew.check(lost=True)

        crew.run(main)
    assert {reader.channel: reader.told for reader in crew.readers} == {LEFT: 0, RIGHT: 1}


def test_source_of_one_node_publishes_to_both_and_no_other_one_does(
    tmp_path: Path, crew: Crew
) -> None:
    with two(tmp_path) as (left, right):

        async def publish_at(node: CrewNode) -> list[bool]:
            """Whether the source may publish to each channel."""
            done = []
            for channel in (LEFT, RIGHT):
                try:
                    await node.node.publish(Draft(channel, b"1", lease="s"))
                except Unavailable as error:
                    done.append("another server runs the source s" not in str(error))
                else:
                    done.append(True)
            return done

        async def main() -> None:
            here, there = (crew.add(urls(left, right)) for _ in range(2))
            await crew.attached()
            here.log.leases.want("s", True, lambda: None)
            await crew.until(lambda: here.log.leases.holds("s"))
            there.log.leases.want("s", True, lambda: None)
            assert await publish_at(here) == [True, True]
            assert await publish_at(there) == [False, False]
            # It does not know that it has lost them, as after a long stop of its process.
            for log in here.logs:
                log._writer._fence = dict.fromkeys("s", log.leases.fence("s")).get
            here.log.leases.want("s", False, lambda: None)
            await crew.until(lambda: there.log.leases.holds("s"))
            assert await publish_at(here) == [False, False]
            assert await publish_at(there) == [True, True]
            # Without the other shard, it goes on in the first one.
            right.kill()
            await crew.until(lambda: not there.logs[1].state.attached)
            assert there.log.leases.holds("s")

        crew.run(main)


def test_list_changes_when_each_redis_forgets_its_place(tmp_path: Path, crew: Crew) -> None:
    with two(tmp_path) as (left, right):

        async def main() -> None:
            node = crew.add(urls(left, right))
            await crew.attached()
            before = [await node.node.publish(Draft(name, b"1")) for name in (LEFT, RIGHT)]
            node.log.stop()
            command, printed = block_with("docs/scaling.md", "redis-cli -h").text.splitlines()
            for server in (left, right):
                answer = server.connection(*shlex.split(command)[4:])
                assert printed == f"(integer) {answer}"
            crew.placement = Placement(2, {"left": 1, "right": 1})
            node = crew.add(urls(left, right))
            await crew.until(lambda: all(log.state.attached for log in node.logs))
            after = [await node.node.publish(Draft(name, b"1")) for name in (LEFT, RIGHT)]
            # The first has moved, the second one has its history.
            assert [receipt.offset for receipt in after] == [1, 2]
            epochs = {receipt.epoch for receipt in (*before, *after)}
            assert len(epochs) == 3
            assert after[0].epoch == after[1].epoch

        crew.run(main)


def test_single_redis_becomes_the_first_of_two(tmp_path: Path, crew: Crew) -> None:
    with two(tmp_path) as (left, right):

        async def main() -> None:
            single = crew.add(urls(left))
            await crew.attached()
            before = await single.node.publish(Draft(LEFT, b"1"))
            node = crew.add(urls(left, right))
            await crew.until(lambda: all(log.state.attached for log in node.logs))
            after = await node.node.publish(Draft(LEFT, b"1"))
            assert after.offset == 2
            assert after.epoch != before.epoch
            # One with the earlier list does not see the channels of the second one.
            late = Deferred.fromCoroutine(single.node.publish(Draft(RIGHT, b"1")))
            late.addErrback(lambda failure: failure.trap(Unavailable))
            await crew.until(lambda: "SHARDS 0/2" in single.log.state.reason)
            await crew.until(lambda: single.log.session is None)
            with pytest.raises(Unavailable):
                await single.node.publish(Draft(RIGHT, b"1"))
            single.log.stop()
            assert left.connection("EXISTS", "{ps0}:s:right:1") == 0

        crew.run(main)


class Servers:
    """Two servers with both Redis; the second one has workers."""

    def __init__(self, folder: Path, left: RedisServer, right: RedisServer):
        self.left, self.right = left, right
        places, workers = urls(left, right), "[server]\nworkers = 2\n"
        self.here = Node(folder / "here", places, TEXT)
        self.there = Node(folder / "there", places, TEXT + workers)

    def start(self) -> None:
        for node in (self.here, self.there):
            node.start()
        for node in (self.here, self.there):
            wait_until(node.is_ready)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Two running servers; a test leaves them attached to both Redis."""
    folder = tmp_path_factory.mktemp("servers")
    with two(folder) as (left, right):
        made = Servers(folder, left, right)
        try:
            made.start()
            yield made
        finally:
            for node in (made.here, made.there):
                node.kill()


def objects(stream: Reading, count: int) -> list[Any]:
    """The next lines of a stream."""
    return [json.loads(stream.line()) for _ in range(count)]


def next_line(stream: Reading) -> str:
    """The next line; empty at the end."""
    try:
        return stream.line()
    except EOFError:
        return ""


def ready(node: Node) -> tuple[int, Any]:
    answer = node.get("health/ready")
    return answer.status, json.loads(answer.body)


def test_stream_over_both_goes_on_at_any_server_and_one_redis_fails_alone(
    servers: Servers,
) -> None:
    here, there = servers.here, servers.there
    stream = Reading(there, BOTH, LINES)
    first, second = (each["subscribed"] for each in objects(stream, 2))
    assert first["id"] == second["id"]
    assert re.fullmatch(r"\w+:\d+,\w+:\d+", first["id"])
    receipts = [publish(here, channel, n) for n, channel in enumerate([LEFT, RIGHT, LEFT])]
    assert all("," not in receipt["id"] for receipt in receipts)
    rows = objects(stream, 3)
    assert sorted(row["data"] for row in rows) == [0, 1, 2]
    stream.close()

    # Nothing is doubled or missing at the other server, after any of them.
    for n, row in enumerate(rows):
        stream = Reading(here, f"{BOTH}&since={row['id']}", LINES)
        assert {each["subscribed"]["recovered"] for each in objects(stream, 2)} == {True}
        assert [each["data"] for each in objects(stream, 2 - n)] == [
            each["data"] for each in rows[n + 1 :]
        ]
        stream.close()

    stream = Reading(there, f"{BOTH}&since={rows[-1]['id']}", LINES)
    objects(stream, 2)
    servers.right.kill()
    wait_until(lambda: ready(here)[1]["status"] == "degraded")
    status, answer = ready(here)
    assert (status, answer["checks"]["broker"][:24]) == (200, "shard 1: Redis is away, ")
    assert 'pushserver_broker_attached{shard="0"} 1.0' in here.get("metrics").text
    assert 'pushserver_broker_attached{shard="1"} 0.0' in here.get("metrics").text
    assert ask(here, "POST", f"channels/{RIGHT}", b"0").status == 503
    publish(here, LEFT, "still")
    [last] = objects(stream, 1)
    assert last["data"] == "still"

    # It comes back empty: the reader is told, and of its channels alone.
    servers.right.start()
    assert list(iter(partial(next_line, stream), "")) == []
    stream.close()
    wait_until(here.is_ready)
    publish(here, LEFT, "missed")
    stream = Reading(here, f"{BOTH}&since={last['id']}", LINES)
    *subscribed, reset, missed = objects(stream, 4)
    recovered = {each["subscribed"]["channel"]: each["subscribed"] for each in subscribed}
    assert [recovered[channel]["recovered"] for channel in (LEFT, RIGHT)] == [True, False]
    assert (reset["reset"]["reason"], reset["reset"]["channels"]) == ("epoch", [RIGHT])
    assert missed["data"] == "missed"
    stream.close()


def test_another_redis_in_the_place_of_one_is_not_used(
    tmp_path: Path, crew: Crew, redis: RedisServer
) -> None:
    def problem(node: CrewNode, shard: int) -> str:
        state: State = node.logs[shard].state
        return "" if state.attached else state.reason

    async def settled(node: CrewNode, strange: int) -> None:
        await crew.until(lambda: "another Redis" in problem(node, strange))
        await crew.until(lambda: not problem(node, 1 - strange))

    with two(tmp_path) as (left, right):

        async def main() -> None:
            crew.add(urls(left, right))
            await crew.attached()
            for servers, strange in (([left, redis], 1), ([redis, right], 0)):
                node = crew.add(urls(*servers))
                await settled(node, strange)
                node.log.stop()
                redis.connection("FLUSHALL")
            assert problem(crew.nodes[0], 0) == problem(crew.nodes[0], 1) == ""

        crew.run(main)


@pytest.mark.parametrize("which", ["turned", "longer", "alone", "placed"])
def test_node_with_another_list_takes_no_part(
    tmp_path: Path, crew: Crew, redis: RedisServer, which: str
) -> None:
    with two(tmp_path) as (left, right):
        wrong = {
            "turned": [right, left],
            "longer": [left, right, redis],
            "alone": [right],
            "placed": [left, right],
        }

        async def main() -> None:
            first = crew.add(urls(left, right))
            await crew.attached()
            if which == "placed":
                crew.placement = Placement(2, {"left": 1, "right": 1})
            elif which == "longer":
                crew.placement = Placement(3, SHARDS)
            node = crew.add(urls(*wrong[which]))
            await crew.until(lambda: all("broker.url" in log.state.reason for log in node.logs))
            assert not any(log.state.attached for log in node.logs)
            for channel in (LEFT, RIGHT):
                with pytest.raises(Unavailable):
                    await node.node.publish(Draft(channel, b"1"))
                await first.node.publish(Draft(channel, b"1"))
            node.log.stop()

        crew.run(main)
    assert redis.connection("KEYS", "*") == []


def test_server_with_another_list_says_so(servers: Servers, tmp_path: Path) -> None:
    node = Node(tmp_path / "turned", urls(servers.right, servers.left), TEXT)
    node.start()
    try:
        wait_until(lambda: "another list" in node.check()[1])
        assert node.check()[0] == 503
        for channel in (LEFT, RIGHT):
            assert ask(node, "POST", f"channels/{channel}", b"0").status == 503
        assert "give all servers the same broker.url" in node.log
    finally:
        node.kill()
    for channel in (LEFT, RIGHT):
        publish(servers.here, channel, 1)
    assert servers.there.is_ready()
