"""The presence of several nodes with the scripts of a real Redis, and of real servers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from random import Random
from typing import Any

import pytest
from twisted.logger import LogLevel

from pushserver.redis import node_scripts
from pushserver.redis.commands import ErrorReply
from pushserver.redis.connection import SCRIPTS
from pushserver.redis.keys import Keys
from tests.redis.node import CLOCK, TIMED
from tests.redis.server import RedisError, RedisServer
from tests.unit.fakes.web import Log
from tests.unit.redis.test_presence_model import LIMIT, World, play, program

KEYS = Keys()
SHAS = {script.sha: TIMED[script.name].sha for script in SCRIPTS}


class Real:
    """A real server in place of `tests.unit.fakes.redis.FakeRedis`, with the clock of the test."""

    def __init__(self, server: RedisServer, keys: Keys = KEYS):
        self._keys = keys
        self.now: Callable[[], float] = lambda: 1_000.0
        self.run = "run0"
        self.keeps = False
        self.knows_scripts = True
        self.presence = self
        self._redis = server.connection
        self._runs = count(1)
        self._epochs = count(1)
        self._time = 0
        for script in TIMED.values():
            self._redis("SCRIPT", "LOAD", script.text)

    def execute(self, command: Sequence[bytes]) -> Any:
        """The answer; an error is one too."""
        ms = round(self.now() * 1000)
        if ms != self._time:
            self._time = ms
            self._redis.pipeline([("DEL", CLOCK), ("RPUSH", CLOCK, ms // 1000, ms % 1000 * 1000)])
        name, *rest = command
        if name == b"EVALSHA":
            rest[0] = SHAS[rest[0]]
        elif name == b"XREAD":
            # It does not wait here.
            rest = [*rest[:2], *rest[4:]]
        try:
            return self._redis(name, *rest)
        except RedisError as error:
            return ErrorReply(str(error))

    def beat(self, node: bytes) -> None:
        """The node tells about itself."""
        self.execute(
            node_scripts.beat(self._keys, self.run, node.decode(), "", 10_000, b"{}").evalsha
        )

    def save(self) -> None:
        """No-op: it loses all or nothing."""

    def crash(self, keeps: bool) -> None:
        """Start again with all data; it may be told that some was lost."""
        self.keeps = keeps
        self.run = f"run{next(self._runs)}"

    def flush(self) -> None:
        self._redis("FLUSHALL")
        self._time = 0

    def trim(self, length: int) -> None:
        self._redis("XTRIM", self._keys.log, "MAXLEN", length)


@pytest.mark.parametrize("seed", range(8))
def test_scripts_do_what_those_of_the_model_do(shared_redis: RedisServer, seed: int) -> None:
    real = Real(shared_redis)
    real.flush()
    random = Random(seed)
    most = random.choice([LIMIT, 100])
    with Log(LogLevel.warn) as trouble:
        world = World(real, crowds=most > LIMIT)
        play(world, program(random, 80, most))
    known = "not attached to Redis at ", "the log in Redis does not continue "
    assert [line for line in trouble.take() if not line.startswith(known)] == []
    left = shared_redis.connection("KEYS", "{ps0}:p*")
    here = [channel for channel in "ab" if world.here(channel)]
    expected = {KEYS.terms, *([KEYS.counts] if here else []), *map(KEYS.users, here)}
    assert expected <= {*left}
    assert KEYS.dead not in left
