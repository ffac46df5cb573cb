"""Two nodes with publishers and readers, on a real Redis that is killed, stopped and emptied.

Each publication that was acknowledged is kept once and reaches each reader once and in order, or
the reader is told.
"""

from __future__ import annotations

import random
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from msgspec.msgpack import decode, encode

from pushserver.channels.publication import Draft
from pushserver.redis import rows, scripts
from pushserver.redis.script import Call, Script
from tests.e2e.patience import PATIENCE
from tests.redis.crew import OPTIONS, Crew, Proxy, Reader
from tests.redis.node import KEYS, Node
from tests.redis.server import RedisServer

ALWAYS = "Redis is killed, with `appendfsync always`"
EVERYSEC = "Redis is killed, with `appendfsync everysec`, or its machine loses power"
EMPTY = "Redis comes back empty, or with an older file"


def test_readers_of_each_node_have_the_publications_of_all(redis: RedisServer, crew: Crew) -> None:
    async def main() -> None:
        await crew.begin(f"unix://{redis.path}", f"unix://{redis.path}")
        await crew.progress(200)
        await crew.finish()
        await crew.check()

    crew.run(main)
    assert (crew.told, crew.refused) == (0, 0)


@pytest.mark.parametrize(
    "fsync",
    [
        pytest.param("always", marks=pytest.mark.fault(ALWAYS)),
        pytest.param("everysec", marks=pytest.mark.fault(EVERYSEC)),
    ],
)
def test_redis_is_killed_under_load(tmp_path: Path, crew: Crew, fsync: str) -> None:
    with RedisServer(tmp_path, appendonly="yes", appendfsync=fsync) as redis:

        async def main() -> None:
            await crew.begin(f"unix://{redis.path}", f"unix://{redis.path}")
            for _ in range(3):
                await crew.progress()
                redis.restart()
                await crew.progress()
            await crew.finish()
            # Redis defers a write while the kernel has not done with the last fsync of a second.
            await crew.check(lost=fsync == "everysec")

        crew.run(main)
    assert bool(crew.told) is (fsync == "everysec")


def test_redis_is_killed_and_is_to_write_each_answer_from_now_on(
    tmp_path: Path, crew: Crew
) -> None:
    with RedisServer(tmp_path, appendonly="yes", appendfsync="everysec") as redis:

        async def main() -> None:
            await crew.begin(f"unix://{redis.path}")
            await crew.progress()
            redis.options["appendfsync"] = "always"
            redis.restart()
            await crew.until(lambda: crew.told >= len(crew.readers))
            await crew.progress()
            redis.restart()
            await crew.progress()
            await crew.finish()
            await crew.check(lost=True)

        crew.run(main)
    assert crew.told == len(crew.readers)


@pytest.mark.fault(EMPTY)
def test_redis_is_killed_and_has_kept_nothing(redis: RedisServer, crew: Crew) -> None:
    async def main() -> None:
        await crew.begin(f"unix://{redis.path}", f"unix://{redis.path}")
        await crew.progress()
        redis.restart()
        await crew.progress()
        await crew.finish()
        await crew.check(lost=True)

    crew.run(main)
    assert crew.told >= len(crew.readers)


@pytest.mark.fault("Redis is away for long")
def test_redis_stops_and_goes_on(redis: RedisServer, crew: Crew) -> None:
    async def main() -> None:
        await crew.begin(f"unix://{redis.path}", f"unix://{redis.path}")
        await crew.progress()
        redis.pause()
        try:
            await crew.until(lambda: not any(node.log.state.attached for node in crew.nodes))
        finally:
            redis.go_on()
        await crew.progress()
        await crew.finish()
        await crew.check()

    crew.run(main)
    assert crew.told == 0


@pytest.mark.fault(EMPTY)
def test_data_set_is_emptied(redis: RedisServer, crew: Crew) -> None:
    async def main() -> None:
        await crew.begin(f"unix://{redis.path}", f"unix://{redis.path}")
        for _ in range(3):
            await crew.progress()
            redis.connection("FLUSHALL")
            await crew.until(lambda: crew.told >= len(crew.readers))
        await crew.progress()
        await crew.finish()
        await crew.check(lost=True)

    crew.run(main)


@pytest.mark.fault("the scripts in Redis are dropped (`SCRIPT FLUSH`)")
def test_scripts_are_dropped(redis: RedisServer, crew: Crew) -> None:
    async def main() -> None:
        await crew.begin(f"unix://{redis.path}", f"unix://{redis.path}")
        for _ in range(3):
            await crew.progress()
            redis.connection("SCRIPT", "FLUSH")
        await crew.progress()
        await crew.finish()
        await crew.check()
        assert {node.log.state.losses for node in crew.nodes} == {0}

    crew.run(main)
    assert crew.told == 0


@pytest.mark.fault("a server reads too slowly, or was away longer than the log")
def test_log_is_trimmed_past_a_node(redis: RedisServer, crew: Crew) -> None:
    async def main() -> None:
        proxy = Proxy(crew, redis.path)
        await crew.begin(f"unix://{redis.path}", await proxy.listen())
        await crew.progress()
        proxy.is_open = False
        proxy.cut()
        await crew.progress()
        redis.connection("XTRIM", "{ps0}:log", "MAXLEN", 0)
        proxy.is_open = True
        await crew.progress()
        await crew.finish()
        await crew.check()
        await proxy.close()

    crew.run(main)
    assert crew.told == 0


@pytest.mark.fault("the connection to Redis is lost")
def test_network_cuts_and_delays(redis: RedisServer, crew: Crew) -> None:
    chance = random.Random(1)

    async def main() -> None:
        proxies = [Proxy(crew, redis.path) for _ in range(2)]
        await crew.begin(*[await proxy.listen() for proxy in proxies])
        proxies[0].delay = 0.005
        for _ in range(8):
            for proxy in proxies:
                proxy.left = chance.randrange(20_000)
            await crew.progress(20)
        for proxy in proxies:
            proxy.cut()
        await crew.progress()
        await crew.finish()
        await crew.check()
        for proxy in proxies:
            await proxy.close()

    crew.run(main)
    assert crew.told == 0


@pytest.mark.fault("the memory of Redis is full")
def test_memory_is_full_for_a_while(redis: RedisServer, crew: Crew) -> None:
    async def main() -> None:
        await crew.begin(f"unix://{redis.path}", f"unix://{redis.path}")
        await crew.progress()
        redis.connection("CONFIG", "SET", "maxmemory", 1)
        refused = crew.refused
        await crew.until(lambda: crew.refused > refused)
        redis.connection("CONFIG", "SET", "maxmemory", 0)
        await crew.progress()
        await crew.finish()
        await crew.check()

    crew.run(main)
    assert crew.told == 0


@pytest.mark.fault("another program writes into the log")
def test_program_of_somebody_else_writes_into_the_log(redis: RedisServer, crew: Crew) -> None:
    async def main() -> None:
        await crew.begin(f"unix://{redis.path}", f"unix://{redis.path}")
        await crew.progress()
        redis.connection("XADD", "{ps0}:log", "*", "hello", "world")
        await crew.until(lambda: crew.told >= len(crew.readers))
        await crew.progress()
        await crew.finish()
        await crew.check()

    crew.run(main)


def test_histories_are_evicted_by_age(redis: RedisServer) -> None:
    crew = Crew(replace(OPTIONS, history_ttl=0.2))

    async def main() -> None:
        await crew.begin(f"unix://{redis.path}")
        await crew.progress()
        await crew.finish()
        log = crew.nodes[0].log
        await crew.until(lambda: not redis.connection("EXISTS", "{ps0}:s:one", "{ps0}:s:two"))
        assert log.state.attached

    crew.run(main)
    assert crew.told == 0


@pytest.mark.fault("the clock of a server is wrong")
def test_clocks_of_nodes_are_wrong(redis: RedisServer, crew: Crew) -> None:
    crew.options = replace(OPTIONS, history_ttl=600)
    crew.clocks = iter((3_600.0, -3_600.0))

    async def main() -> None:
        url = f"unix://{redis.path}"
        await crew.begin(url, url)
        for node in crew.nodes:
            node.log.leases.want("source", True, lambda: None)
        await crew.until(lambda: any(node.log.leases.holds("source") for node in crew.nodes))
        await crew.progress(200)
        await crew.finish()
        await crew.check()
        seconds, _ = redis.connection("TIME")
        for found in (await crew.kept()).values():
            times = [row.time for row in found]
            assert times == sorted(times)
            assert all(-PATIENCE < time - int(seconds) < 1 for time in times)
        assert sum(node.log.leases.holds("source") for node in crew.nodes) == 1
        for node in crew.nodes:
            assert len(await node.log.registry.nodes()) == 2

    crew.run(main)
    assert crew.told == 0


def test_databases_of_a_server_have_logs_of_their_own(redis: RedisServer, crew: Crew) -> None:
    async def main() -> None:
        await crew.begin(f"unix://{redis.path}?db=1")
        other = crew.add(f"unix://{redis.path}?db=2")
        await crew.attached()
        await crew.progress()
        await crew.finish()
        await crew.check()
        assert (other.log._tail.place, other.log.state.losses) == ((0, 0), 0)

    crew.run(main)
    assert redis.connection("DBSIZE") == 0


@pytest.mark.fault("Redis is set to drop keys when its memory is full")
def test_redis_is_told_to_drop_keys(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch, crew: Crew
) -> None:
    monkeypatch.setattr("pushserver.redis.connection.FIT_SECONDS", 0.1)

    async def main() -> None:
        await crew.begin(f"unix://{redis.path}", f"unix://{redis.path}")
        await crew.progress()
        redis.connection("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        await crew.until(lambda: not any(node.log.state.attached for node in crew.nodes))
        problems = {node.log.state.problem for node in crew.nodes}
        assert problems == {"this Redis cannot have the log"}
        redis.connection("CONFIG", "SET", "maxmemory-policy", "noeviction")
        await crew.progress()
        await crew.finish()
        await crew.check()

    crew.run(main)
    assert crew.told == 0


class Newer(Node):
    """A node of a later version, whose entries and rows have more fields, and other kinds."""

    def call(self, call: Call) -> Any:
        text = call.script.text.decode()
        text = text.replace("'w', node .. ':' .. counter", "'w', node .. ':' .. counter, 'z', '1'")
        text = text.replace("'n', ARGV[6], 'd', blob", "'n', ARGV[6], 'd', blob, 'z', '1'")
        text = text.replace("'k', 'order', 'n', ARGV[3]", "'k', 'joined', 'z', ARGV[3]")
        return super().call(structs.replace(call, script=Script(call.script.name, text)))


@pytest.mark.fault("servers have different versions, during an upgrade")
def test_node_of_a_later_version_is_beside_this_one(redis: RedisServer, crew: Crew) -> None:
    async def main() -> None:
        await crew.begin(f"unix://{redis.path}", f"unix://{redis.path}")
        await crew.progress()
        with closing(Newer(redis, options=OPTIONS)) as newer:
            newer.attach("e")
            for _ in range(20):
                value = next(crew.numbers)
                blob = encode([*decode(rows.encode(Draft("one", b"%d" % value))), "more"])
                call = newer.publication(Draft("one", b"%d" % value), value)
                parts = list(call.arguments)
                parts[parts.index(rows.encode(Draft("one", b"%d" % value)))] = blob
                newer.call(structs.replace(call, arguments=tuple(parts)))
                newer.call(scripts.order(KEYS, newer.run, "newer", b"text", newer.bounds))
                await crew.sleep(0)
        # A reader that comes now gets them from the history.
        late = Reader(crew, crew.nodes[0], "one")
        await late.join()
        crew.readers.append(late)
        await crew.progress()
        await crew.finish()
        await crew.check()
        fields = redis.connection("XREVRANGE", "{ps0}:log", "+", "-", "COUNT", 10**6)
        assert {b"z", b"joined"} <= {part for _, entry in fields for part in entry}

    crew.run(main)
    assert crew.told == 0
    assert all(node.log.state.losses == 0 for node in crew.nodes)
