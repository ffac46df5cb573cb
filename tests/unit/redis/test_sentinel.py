"""What Sentinels answer, and which of them is believed."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from pushserver.config.redis_url import Address
from pushserver.redis.sentinel import (
    SENTINEL_SECONDS,
    WATCH_SECONDS,
    Named,
    NoMaster,
    Sentinels,
    Watch,
    named_of,
)
from tests.unit.fakes.web import Trouble
from tests.unit.redis.test_connection import Far, bulk

NIL = b"*-1\r\n"


def array(*texts: bytes) -> bytes:
    return b"*%d\r\n" % len(texts) + b"".join(map(bulk, texts))


class Bench:
    """Two Sentinels behind sockets of memory, which are asked for the master `main`."""

    def __init__(self) -> None:
        self.reactor = MemoryReactorClock()
        places = Address(path="/one"), Address(path="/two", password="secret")
        address = Address(password="own", database=3, master="main", sentinels=places)
        self.found: list[Any] = []
        asked = Deferred.fromCoroutine(Sentinels(address, self.reactor).master())
        self.asked = asked.addBoth(self.found.append)

    def accept(self, number: int) -> Far:
        return Far(self.reactor.unixClients[number][1].buildProtocol(None))

    def refuse(self, number: int) -> None:
        factory = self.reactor.unixClients[number][1]
        factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))

    def answer(self, number: int, place: bytes, facts: bytes = b"") -> Far:
        far = self.accept(number)
        while commands := far.read():
            for command in commands:
                known = {b"get-master-addr-by-name": place, b"master": facts}
                far.say(b"+OK\r\n" if command[0] == b"AUTH" else known[command[1]])
        return far

    @property
    def problem(self) -> str:
        [failure] = self.found
        assert failure.check(NoMaster)
        return str(failure.value)


def test_answer_of_the_latest_failover_counts() -> None:
    bench = Bench()
    old = bench.answer(0, array(b"10.0.0.1", b"1"), array(b"config-epoch", b"9"))
    new = bench.answer(1, array(b"10.0.0.2", b"2"), array(b"name", b"x", b"config-epoch", b"10"))
    assert bench.found == [Address("10.0.0.2", 2, password="own", database=3)]
    assert [command[0] for command in new.commands] == [b"AUTH", b"SENTINEL", b"SENTINEL"]
    assert new.commands[0] == [b"AUTH", b"secret"]
    assert old.commands[0] == [b"SENTINEL", b"get-master-addr-by-name", b"main"]
    assert (old.closed, new.closed) == (True, True)


def test_one_answer_is_enough() -> None:
    bench = Bench()
    bench.refuse(0)
    bench.answer(1, array(b"10.0.0.2", b"2"), array(b"config-epoch", b"0"))
    assert [str(found) for found in bench.found] == ["10.0.0.2:2"]


def test_sentinel_that_does_not_answer_is_not_waited_for_long() -> None:
    bench = Bench()
    bench.answer(0, array(b"10.0.0.2", b"2"), array(b"config-epoch", b"0"))
    silent = bench.accept(1)
    assert bench.found == []
    bench.reactor.advance(SENTINEL_SECONDS)
    assert [str(found) for found in bench.found] == ["10.0.0.2:2"]
    assert silent.closed


@pytest.mark.parametrize(
    ("place", "facts", "problem"),
    [
        (NIL, b"", "it knows no master 'main'"),
        (b"-ERR unknown command `SENTINEL`\r\n", b"", "for one Redis, write redis://host:port"),
        (b"-NOAUTH Authentication required.\r\n", b"", "?sentinel_password= in broker.url"),
        (array(b"h", b"x"), array(b"config-epoch", b"0"), "it did not answer as a Sentinel"),
        (array(b"h", b"1"), array(b"name"), "it did not answer as a Sentinel"),
        (array(b"h", b"1"), b":1\r\n", "it did not answer as a Sentinel"),
        (b"HTTP/1.1 400 Bad Request\r\n", b"", "it did not answer as Redis does"),
    ],
)
def test_each_problem_is_told(place: bytes, facts: bytes, problem: str) -> None:
    bench = Bench()
    bench.answer(0, place, facts)
    bench.refuse(1)
    assert bench.problem.startswith("no Sentinel names the master (/one: ")
    assert problem in bench.problem
    assert "; /two: Connection was refused by other side" in bench.problem
    assert "secret" not in bench.problem


def test_asking_can_be_cancelled() -> None:
    bench = Bench()
    far = bench.accept(0)
    bench.asked.cancel()
    assert far.closed
    assert bench.found[0].check(NoMaster)
    assert not bench.reactor.getDelayedCalls()


def test_host_may_be_a_name() -> None:
    assert named_of("main", [b"r.example", b"7"], [b"config-epoch", b"3"]) == Named(
        3, "r.example", 7
    )


def test_master_is_asked_for_at_an_interval_and_silence_is_told_once(trouble: Trouble) -> None:
    now, asked = [0.0], [0]
    named: list[Address] = []
    failures: list[Exception] = []

    async def ask() -> Address:
        asked[0] += 1
        if failures:
            raise failures[0]
        return Address("h")

    watch = Watch(ask, named.append, lambda: now[0])

    def work(seconds: float) -> int:
        now[0] += seconds
        Deferred.fromCoroutine(watch.work())
        return asked[0]

    assert [work(each) for each in (0.5, WATCH_SECONDS - 1, 0.5, 0.5)] == [0, 0, 1, 1]
    assert named == [Address("h")]
    failures.append(NoMaster("no Sentinel"))
    for _ in range(2):
        work(WATCH_SECONDS)
    assert trouble.take() == ["no Sentinel; a connection to Redis that is there stays as it is"]
    failures.clear()
    work(WATCH_SECONDS)
    assert (named, trouble.take()) == ([Address("h")] * 2, [])
