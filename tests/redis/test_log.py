"""Two nodes with publishers and readers, on a real Redis that is killed, stopped and emptied.

Each publication that was acknowledged is kept once and reaches each reader once and in order, or
the reader is told.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from tests.redis.crew import OPTIONS, Crew, Proxy
from tests.redis.server import RedisServer


def test_readers_of_each_node_have_the_publications_of_all(redis: RedisServer) -> None:
    crew = Crew()

    async def main() -> None:
        await crew.begin(f"unix://{redis.path}", f"unix://{redis.path}")
        await crew.progress(200)
        await crew.finish()
        await crew.check()

    crew.run(main)
    assert (crew.told, crew.refused) == (0, 0)


@pytest.mark.parametrize("fsync", ["always", "everysec"])
def test_redis_is_killed_under_load(tmp_path: Path, fsync: str) -> None:
    crew = Crew()
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


def test_redis_is_killed_and_is_to_write_each_answer_from_now_on(tmp_path: Path) -> None:
    crew = Crew()
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


def test_redis_is_killed_and_has_kept_nothing(redis: RedisServer) -> None:
    crew = Crew()

    async def main() -> None:
        await crew.begin(f"unix://{redis.path}", f"unix://{redis.path}")
        await crew.progress()
        redis.restart()
        await crew.progress()
        await crew.finish()
        await crew.check(lost=True)

    crew.run(main)
    assert crew.told >= len(crew.readers)


def test_redis_stops_and_goes_on(redis: RedisServer) -> None:
    crew = Crew()

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


def test_data_set_is_emptied(redis: RedisServer) -> None:
    crew = Crew()

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


def test_scripts_are_dropped(redis: RedisServer) -> None:
    crew = Crew()

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


def test_log_is_trimmed_past_a_node(redis: RedisServer) -> None:
    crew = Crew()

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


def test_network_cuts_and_delays(redis: RedisServer) -> None:
    crew = Crew()
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


def test_memory_is_full_for_a_while(redis: RedisServer) -> None:
    crew = Crew()

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


def test_program_of_somebody_else_writes_into_the_log(redis: RedisServer) -> None:
    crew = Crew()

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
