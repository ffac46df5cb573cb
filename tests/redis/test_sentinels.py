"""Nodes whose Redis is named by Sentinels: real ones, that promote a replica under load.

Each publication is kept once and reaches each reader in order, or the reader is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pushserver.redis.log import RedisLog
from tests.e2e.conditions import wait_until
from tests.e2e.server import free_port
from tests.redis.crew import Crew
from tests.redis.server import RedisServer, SentinelServer

PROMOTED = "a replica is promoted, by Sentinel or by hand"


class Watched:
    """A master with a replica, and a Sentinel; a second one of the URL is not there."""

    def __init__(self, folder: Path, stack: ExitStack):
        self.ports = free_port(), free_port()
        place = f"127.0.0.1 {self.ports[0]}"
        self.master = stack.enter_context(
            RedisServer(folder / "0", port=str(self.ports[0]), repl_diskless_sync_delay="0")
        )
        self.replica = stack.enter_context(
            RedisServer(folder / "1", port=str(self.ports[1]), replicaof=place)
        )
        self.sentinel = stack.enter_context(SentinelServer(folder / "s", self.ports[0]))
        self.url = f"sentinel://127.0.0.1:{free_port()},127.0.0.1:{self.sentinel.port}/main"
        self.sentinel.connection("SENTINEL", "DEBUG", "INFO-PERIOD", 100, "PUBLISH-PERIOD", 100)
        wait_until(self._knows_the_replica)

    def _knows_the_replica(self) -> bool:
        """Whether the Sentinel does, and the replica is in step."""
        replicas = self.sentinel.connection("SENTINEL", "REPLICAS", "main")
        return [facts(each)["master-link-status"] for each in replicas] == ["ok"]


def is_replica(server: RedisServer) -> bool:
    """Asked over a connection of its own, since a Sentinel ends those of a demoted master."""
    try:
        with closing(server.connect()) as connection:
            return bool(connection("ROLE")[0] == b"slave")
    except ConnectionError:
        # The Sentinel has ended this one too.
        return False


def facts(pairs: list[bytes]) -> dict[str, str]:
    texts = [part.decode() for part in pairs]
    return dict(zip(texts[::2], texts[1::2], strict=True))


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with ExitStack() as stack:
        yield Watched(tmp_path, stack)


def is_refused(log: RedisLog, reason: str) -> bool:
    return reason in log.state.reason


def servers(crew: Crew) -> set[str]:
    """The servers to which the nodes are attached."""
    return {node.log._server for node in crew.nodes}


def run_failover(crew: Crew, watched: Watched, fail: Any) -> None:
    """Two nodes under load, whose master changes by `fail`."""

    async def main() -> None:
        await crew.begin(watched.url, watched.url)
        await crew.progress()
        assert servers(crew) == {f"127.0.0.1:{watched.ports[0]}"}
        fail()
        await crew.until(lambda: servers(crew) == {f"127.0.0.1:{watched.ports[1]}"})
        await crew.attached()
        await crew.progress()
        await crew.finish()
        await crew.check(lost=True)

    crew.run(main)


@pytest.mark.fault(PROMOTED)
def test_replica_takes_over_from_a_master_that_is_killed(watched: Watched, crew: Crew) -> None:
    run_failover(crew, watched, watched.master.kill)
    assert crew.told >= len(crew.readers)


@pytest.mark.fault(PROMOTED)
def test_replica_takes_over_from_a_master_that_hangs_and_comes_back(
    watched: Watched, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushserver.redis.log.ANSWER_SECONDS", 1.0)
    run_failover(crew, watched, watched.master.pause)
    watched.master.go_on()
    wait_until(lambda: is_replica(watched.master))
    assert crew.told >= len(crew.readers)


@pytest.mark.fault(PROMOTED)
def test_master_that_is_demoted_by_a_command_is_left(watched: Watched, crew: Crew) -> None:
    run_failover(crew, watched, lambda: watched.sentinel.connection("SENTINEL", "FAILOVER", "main"))
    assert crew.told >= len(crew.readers)


@pytest.mark.fault(PROMOTED)
def test_readers_are_told_of_what_a_replica_had_not_got_when_it_was_promoted(
    watched: Watched, crew: Crew
) -> None:
    async def main() -> None:
        await crew.begin(watched.url, watched.url)
        await crew.progress()
        # Nothing listens there.
        watched.replica.connection("REPLICAOF", "127.0.0.1", free_port())
        await crew.progress()
        at_master = set(crew.acknowledged)
        watched.master.kill()
        await crew.until(lambda: servers(crew) == {f"127.0.0.1:{watched.ports[1]}"})
        await crew.attached()
        await crew.progress()
        await crew.finish()
        await crew.check(lost=True)
        kept = {int(row.data) for rows in (await crew.kept()).values() for row in rows}
        assert at_master - kept

    crew.run(main)
    assert crew.told >= len(crew.readers)


@pytest.mark.fault("all Sentinels are away")
def test_connection_stays_while_no_sentinel_answers(watched: Watched, crew: Crew) -> None:
    async def main() -> None:
        await crew.begin(watched.url)
        await crew.progress()
        watched.sentinel.kill()
        [node] = crew.nodes
        watch = node.log._watch
        assert watch is not None
        await crew.until(lambda: watch._told)
        await crew.progress()
        assert node.log.state.losses == 0
        watched.master.connection("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await crew.until(lambda: "no Sentinel names the master" in node.log.state.reason)
        assert node.log.state.problem == "no Sentinel names a Redis"
        watched.sentinel.start()
        await crew.progress()
        await crew.finish()
        await crew.check()

    crew.run(main)
    assert crew.told == 0


def test_passwords_of_the_sentinels_and_of_redis(tmp_path: Path) -> None:
    port, crew = free_port(), Crew()
    with (
        RedisServer(tmp_path / "r", port=str(port), requirepass="one", masterauth="one") as redis,
        SentinelServer(
            tmp_path / "s", port, requirepass="two", sentinel="auth-pass main one"
        ) as sentinel,
    ):
        place = f"127.0.0.1:{sentinel.port}/main"

        async def main() -> None:
            for url, reason in [
                (f"sentinel://:one@{place}", "NOAUTH"),
                (f"sentinel://:one@{place}?sentinel_password=one", "WRONGPASS"),
                (f"sentinel://{place}?sentinel_password=two", "NOAUTH"),
                (f"sentinel://:one@{place}x?sentinel_password=two", "knows no master 'mainx'"),
                (f"redis://:two@127.0.0.1:{sentinel.port}/1", "this is a Sentinel"),
                (f"sentinel://:one@127.0.0.1:{port}/main?sentinel_password=one", "no Sentinel"),
            ]:
                log = crew.add(url).log
                await crew.until(partial(is_refused, log, reason))
                log.stop()
            crew.nodes.clear()
            await crew.begin(f"sentinel://:one@{place}?sentinel_password=two")
            await crew.progress()
            await crew.finish()
            await crew.check()

        crew.run(main)
        assert redis.connection("AUTH", "one") == b"OK"
