"""Which servers are fit, and connections that are made again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hiredis import Reader
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionRefusedError
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure

from pushserver.config.redis_url import Address, parse_url
from pushserver.redis import scripts
from pushserver.redis.commands import ErrorReply, Gone, keys_of
from pushserver.redis.connection import (
    FIT_SECONDS,
    LONGEST_PAUSE,
    Connection,
    Server,
    Session,
    Unfit,
    server_of,
)
from pushserver.redis.dial import ANSWER_SECONDS, reason_of
from pushserver.redis.keys import Keys
from pushserver.redis.wire import Wire
from pushserver.usercode import fork
from tests.unit.fakes.web import Trouble


def info(**facts: str) -> bytes:
    """An answer to INFO."""
    all_facts = {
        "redis_version": "7.0.15",
        "run_id": "abc",
        "role": "master",
        "maxmemory_policy": "noeviction",
        "aof_enabled": "1",
        "master_replid2": "0" * 40,
    } | facts
    lines = ["# Server", *(f"{name}:{value}" for name, value in all_facts.items())]
    return "\r\n".join(lines).encode()


class TestServer:
    @pytest.mark.parametrize(
        ("facts", "problem"),
        [
            ({"redis_version": "6.0.16"}, "its version is '6.0.16': expected 6.2 or later"),
            ({"redis_version": ""}, "its version is '': expected 6.2 or later"),
            ({"role": "slave"}, "its role is 'slave': expected 'master', not a replica"),
            ({"maxmemory_policy": "allkeys-lru"}, "its maxmemory-policy is 'allkeys-lru', .*"),
            ({"run_id": ""}, "INFO has no run_id: expected that of Redis or Valkey"),
            ({"redis_mode": "sentinel"}, "this is a Sentinel: expected a Redis, or broker.url "),
        ],
    )
    def test_unfit_one_is_told_what_is_expected(self, facts: dict[str, str], problem: str) -> None:
        with pytest.raises(Unfit, match=f"^{problem}"):
            server_of(info(**facts), "always")

    def test_one_that_reads_its_file_says_nothing_of_use(self) -> None:
        with pytest.raises(ErrorReply, match=r"^LOADING "):
            server_of(info(loading="1", aof_enabled="0"), "always")
        assert server_of(info(loading="0"), "always").keeps

    @pytest.mark.parametrize(
        ("facts", "fsync", "keeps"),
        [
            ({}, "always", True),
            ({}, "everysec", False),
            ({}, "", False),
            ({"aof_enabled": "0"}, "always", False),
            ({"master_replid2": "1" + 39 * "0"}, "always", False),
        ],
    )
    def test_data_set_outlives_a_kill_only_if_each_answer_was_written(
        self, facts: dict[str, str], fsync: str, keeps: bool
    ) -> None:
        assert server_of(info(**facts), fsync) == Server("abc", keeps)


class Far:
    """The other end of a connection: it answers commands with what the test says."""

    def __init__(self, protocol: Any):
        self.transport = StringTransport()
        self.transport.abortConnection = (  # type: ignore[method-assign]
            lambda: self.close(ConnectionAborted())
        )
        self.protocol = protocol
        self.closed = False
        self.commands: list[list[bytes]] = []
        self._reader = Reader()
        protocol.makeConnection(self.transport)

    def read(self) -> list[list[bytes]]:
        """The commands that have come since."""
        self._reader.feed(self.transport.value())
        self.transport.clear()
        found = []
        while (command := self._reader.gets()) is not False:
            found.append(command)
        self.commands += found
        return found

    def say(self, data: bytes) -> None:
        self.protocol.dataReceived(data)

    def close(self, reason: Exception | None = None) -> None:
        if not self.closed:
            self.closed = True
            self.protocol.connectionLost(Failure(reason or ConnectionDone()))


def bulk(text: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text)


class Bench:
    """A connection on a reactor of memory, and what it told."""

    def __init__(self, url: str = "unix:///redis") -> None:
        self.reactor = MemoryReactorClock()
        self.sessions: list[Session] = []
        self.lost = 0
        self.problems: list[str] = []
        self.made: Callable[[Session], None] = self.sessions.append
        self.connection = Connection(
            parse_url(url),
            self.reactor,
            self.reactor.seconds,
            Keys(),
            "node",
            lambda session: self.made(session),
            self._lose,
            lambda problem: self.problems.append(problem.text),
        )
        self.connection.start()

    def _lose(self) -> None:
        self.lost += 1

    @property
    def attempts(self) -> int:
        return len(self.reactor.unixClients)

    def accept(self) -> Far:
        """Accept the last attempt."""
        return Far(self.reactor.unixClients[-1][1].buildProtocol(None))

    def refuse(self) -> None:
        factory = self.reactor.unixClients[-1][1]
        factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))

    def answer(self, far: Far, **answers: bytes) -> None:
        """Answer all commands as a fit server, with these in place of the usual ones."""
        usual = {
            "CONFIG": b"*2\r\n" + bulk(b"appendfsync") + bulk(b"always"),
            "INFO": bulk(info()),
            "SCRIPT": bulk(b"sha"),
            "HGET": bulk(b"earlier+"),
            "EVALSHA": b"*3\r\n" + bulk(b"epoch") + b":7\r\n" + bulk(b"3"),
        } | answers
        while commands := far.read():
            for command in commands:
                far.say(usual.get(command[0].decode(), b"+OK\r\n"))

    def attach(self) -> Far:
        far = self.accept()
        self.answer(far)
        return far


def test_attaches_with_the_run_of_the_server_before_anything_else() -> None:
    bench = Bench()
    far = bench.attach()
    [session] = bench.sessions
    assert (session.run, session.attached) == ("abc+", scripts.Attached("epoch", 7, 3))
    assert [c[0] for c in far.commands[:3]] == [b"INFO", b"CONFIG", b"SCRIPT"]
    assert far.commands[-1][1] == scripts.ATTACH.sha
    assert far.commands[-1][7] == b"abc+"
    assert far.commands[-1][9] == b"1"


def test_authenticates_and_selects_as_the_url_says() -> None:
    bench = Bench("unix://me:secret@/redis?db=4")
    commands = bench.attach().commands
    assert (commands[0], commands[3]) == ([b"AUTH", b"me", b"secret"], [b"SELECT", b"4"])
    assert len(bench.sessions) == 1


def test_server_that_forbids_config_is_taken_for_one_that_may_lose_its_last_second() -> None:
    bench = Bench()
    far = bench.accept()
    bench.answer(far, CONFIG=b"-NOPERM this user has no permissions\r\n")
    assert far.commands[-1][9] == b"0"


def test_first_run_that_writes_each_answer_vouches_for_no_earlier_one() -> None:
    bench = Bench()
    far = bench.accept()
    bench.answer(far, HGET=bulk(b"earlier"))
    assert (far.commands[-1][7], far.commands[-1][9]) == (b"abc+", b"0")


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ({"INFO": b"-NOAUTH Authentication required.\r\n"}, "NOAUTH Authentication required."),
        ({"INFO": bulk(info(role="slave"))}, "its role is 'slave': expected 'master', "),
        ({"EVALSHA": b"-LAYOUT 2\r\n"}, "LAYOUT 2"),
        ({"EVALSHA": b"-NOREPLICAS not enough\r\n"}, "NOREPLICAS not enough (min-replicas-to-"),
        ({"INFO": b"?what\r\n"}, "it did not answer as Redis does"),
        ({"INFO": b"+OK\r\n", "CONFIG": b"+OK\r\n"}, "its version is '': expected 6.2 or later"),
        ({"INFO": b":1\r\n"}, "its answer to INFO is 1: expected a text, as of Redis or Valkey"),
        ({"INFO": b"*0\r\n"}, "its answer to INFO is []: expected a text"),
        ({"INFO": b"$-1\r\n"}, "its answer to INFO is None: expected a text"),
        ({"HGET": b"-WRONGTYPE Operation\r\n"}, "WRONGTYPE Operation (one of '{ps0}:m'; another "),
        (
            {"EVALSHA": b"-WRONGTYPE Operation\r\n"},
            "WRONGTYPE Operation (one of '{ps0}:m', '{ps0}:log', ",
        ),
    ],
)
def test_refusal_is_told_and_tried_again(answers: dict[str, bytes], problem: str) -> None:
    bench = Bench()
    far = bench.accept()
    bench.answer(far, **answers)
    [told] = bench.problems
    assert told.startswith(problem)
    assert far.closed
    bench.reactor.advance(0.1)
    assert bench.attempts == 2
    bench.attach()
    assert (len(bench.sessions), bench.lost) == (1, 0)


def test_answer_of_another_shape_is_logged_and_its_connection_ends(trouble: Trouble) -> None:
    bench = Bench()
    far = bench.accept()
    bench.answer(far, EVALSHA=b"*2\r\n" + bulk(b"epoch") + b":7\r\n")
    assert trouble.take()[0].startswith("the connection to Redis failed: ValueError")
    assert bench.problems[0].startswith("an error in the server: not enough values to unpack")
    assert far.closed
    bench.reactor.advance(0.1)
    assert bench.attempts == 2


def test_answers_of_another_shape_are_logged_once_a_minute(trouble: Trouble) -> None:
    bench = Bench()
    logged = []
    while bench.reactor.seconds() < 100:
        bench.answer(bench.accept(), EVALSHA=b":7\r\n")
        logged += trouble.take()
        bench.reactor.advance(LONGEST_PAUSE)
    assert len(logged) == 2
    assert " that were not logged)" in logged[1]


@pytest.mark.parametrize("setting", [b":7\r\n", b"*0\r\n", b"*2\r\n:1\r\n:2\r\n", b"$-1\r\n"])
def test_setting_of_another_shape_is_not_known(setting: bytes) -> None:
    bench = Bench()
    far = bench.accept()
    bench.answer(far, CONFIG=setting)
    assert far.commands[-1][9] == b"0"


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        ([b"EVALSHA", b"sha", b"2", b"a", b"b", b"c"], [b"a", b"b"]),
        ([b"EVAL", b"text", b"0", b"c"], []),
        ([b"XREAD", b"BLOCK", b"5", b"STREAMS", b"a", b"b", b"1-0", b"2-0"], [b"a", b"b"]),
        ([b"XRANGE", b"a", b"-", b"+"], [b"a"]),
        ([b"INFO"], []),
    ],
)
def test_keys_of_a_command(command: list[bytes], keys: list[bytes]) -> None:
    assert keys_of(command) == keys


def test_pauses_between_attempts_grow_to_a_bound() -> None:
    bench = Bench()
    pauses = []
    for _ in range(12):
        before, attempts = bench.reactor.seconds(), bench.attempts
        bench.refuse()
        while bench.attempts == attempts:
            bench.reactor.advance(0.01)
        pauses.append(bench.reactor.seconds() - before)
    assert pauses[0] <= 0.11
    assert LONGEST_PAUSE / 2 <= min(pauses[-3:]) <= max(pauses) <= LONGEST_PAUSE + 0.02
    assert len(bench.problems) == 12


def test_server_that_does_not_answer_is_left() -> None:
    bench = Bench()
    far = bench.accept()
    bench.reactor.advance(ANSWER_SECONDS)
    assert far.closed
    assert bench.problems == ["it did not answer"]
    bench.reactor.advance(0.1)
    assert bench.attempts == 2


@pytest.mark.parametrize("size", range(0, 30, 3))
def test_commands_under_way_fail_once_when_the_connection_is_lost_at_any_byte(size: int) -> None:
    bench = Bench()
    far = bench.attach()
    session = bench.sessions[0]
    results: list[Any] = []
    for _ in range(3):
        answer: Deferred[Any] = session.send([b"GET", b"x"])
        answer.addBoth(results.append)
    far.say((bulk(b"0123") + b"*2\r\n:1\r\n$-1\r\n" + b"-ERR no\r\n")[:size])
    far.close()
    assert len(results) == 3
    whole = [result for result in results if not isinstance(result, Failure)]
    assert whole == [b"0123", [1, None]][: len(whole)]
    assert all(r.check(Gone, ErrorReply) for r in results if isinstance(r, Failure))
    assert (bench.lost, bench.problems) == (1, ["the connection was lost"])
    session.send([b"GET", b"x"]).addErrback(results.append)
    assert results[-1].check(Gone)
    bench.reactor.advance(0.1)
    bench.attach()
    assert len(bench.sessions) == 2


def test_error_answer_has_its_first_word() -> None:
    bench = Bench()
    far = bench.attach()
    failures: list[Any] = []
    bench.sessions[0].send([b"GET"]).addErrback(failures.append)
    far.say(b"-OOM command not allowed\r\n")
    assert failures[0].value.word == "OOM"


def test_numbers_in_payloads_stay_bytes() -> None:
    bench = Bench()
    far = bench.attach()
    results: list[Any] = []
    bench.sessions[0].send([b"GET", b"x"]).addCallback(results.append)
    far.say(b"*3\r\n" + bulk(b"0123") + bulk(b"\xff\x00") + b"*1\r\n+QUEUED\r\n")
    assert results == [[b"0123", b"\xff\x00", [b"QUEUED"]]]


@pytest.mark.parametrize("data", [b"+OK\r\n", b"-ERR no\r\n", b"?"])
def test_server_that_says_what_nobody_asked_is_left(data: bytes) -> None:
    bench = Bench()
    far = bench.attach()
    far.say(data)
    assert (far.closed, bench.lost) == (True, 1)


def test_refusal_before_the_first_command_is_told() -> None:
    bench = Bench()
    far = bench.accept()
    far.say(b"-ERR max number of clients reached\r\n")
    assert bench.problems == ["ERR max number of clients reached"]


def test_session_that_is_wrong_is_replaced() -> None:
    bench = Bench()
    far = bench.attach()
    bench.connection.again("a hole")
    assert (bench.lost, bench.problems) == (1, ["a hole"])
    assert far.closed
    bench.connection.again("another one")
    assert bench.lost == 1
    bench.reactor.advance(0.1)
    bench.attach()
    assert len(bench.sessions) == 2


@pytest.mark.parametrize("when", ["connecting", "attaching", "attached", "waiting"])
def test_nothing_follows_the_stop(when: str) -> None:
    bench = Bench()
    if when == "attaching":
        bench.accept()
    elif when == "attached":
        bench.attach()
    elif when == "waiting":
        bench.refuse()
    bench.connection.stop()
    bench.reactor.advance(100.0)
    assert bench.attempts == 1
    assert bench.reactor.getDelayedCalls() == []
    assert bench.lost == (when == "attached")


@pytest.mark.parametrize("tls", [False, True])
def test_connection_does_not_outlive_the_process_in_its_forks(tls: bool) -> None:
    class Opened:
        def close(self) -> None:
            """No-op."""

    transport: Any = StringTransport()
    inner: Any = StringTransport() if tls else transport
    transport.transport = inner
    inner.socket = opened = Opened()
    Wire(lambda wire: None).makeConnection(transport)
    assert opened in fork._closed_in_forks()


@pytest.mark.parametrize(
    ("facts", "problem"),
    [({"role": "slave"}, "its role is"), ({"maxmemory_policy": "allkeys-lru"}, "its maxmemory-")],
)
def test_server_that_becomes_unfit_is_left(facts: dict[str, str], problem: str) -> None:
    bench = Bench()
    far = bench.attach()

    def check(seconds: float, **facts: str) -> int:
        bench.reactor.advance(seconds)
        Deferred.fromCoroutine(bench.connection.check())
        before = len(far.commands)
        bench.answer(far, INFO=bulk(info(**facts)))
        return len(far.commands) - before

    assert [check(each) for each in (FIT_SECONDS / 2, FIT_SECONDS / 2, 1)] == [0, 2, 0]
    check(FIT_SECONDS, **facts)
    assert (far.closed, bench.lost) == (True, 1)
    [told] = bench.problems
    assert told.startswith(problem)


def test_refused_question_ends_no_connection() -> None:
    bench = Bench()
    far = bench.attach()
    bench.reactor.advance(FIT_SECONDS)
    Deferred.fromCoroutine(bench.connection.check())
    bench.answer(far, INFO=b"-LOADING\r\n")
    assert (far.closed, bench.problems) == (False, [])


class TestDroppedScripts:
    """Another program has sent SCRIPT FLUSH."""

    def test_are_loaded_and_the_commands_are_sent_again_in_their_order(self) -> None:
        bench = Bench()
        far = bench.attach()
        send = bench.sessions[0].send
        results: list[Any] = []
        for number in range(3):
            send([b"EVALSHA", b"x", b"%d" % number]).addCallback(results.append)
        far.read()
        far.say(bulk(b"0") + b"-NOSCRIPT No matching script\r\n")
        # It must not be there before the one that is under way.
        send([b"EVALSHA", b"x", b"3"]).addCallback(results.append)
        assert far.read() == []
        far.say(b"-NOSCRIPT No matching script\r\n")
        *loads, second, third, fourth = far.read()
        assert {tuple(load[:2]) for load in loads} == {(b"SCRIPT", b"LOAD")}
        assert [each[2] for each in (second, third, fourth)] == [b"1", b"2", b"3"]
        far.say(bulk(b"sha") * len(loads) + bulk(b"1") + bulk(b"2") + bulk(b"3"))
        assert results == [b"0", b"1", b"2", b"3"]
        assert (bench.lost, bench.problems) == (0, [])

    def test_that_stay_dropped_fail_their_commands(self) -> None:
        bench = Bench()
        far = bench.attach()
        failures: list[Any] = []
        bench.sessions[0].send([b"EVALSHA", b"x"]).addErrback(failures.append)
        far.read()
        far.say(b"-NOSCRIPT\r\n")
        loads = len(far.read()) - 1
        far.say(b"-OOM no memory\r\n" * loads + b"-NOSCRIPT\r\n")
        assert [failure.value.word for failure in failures] == ["NOSCRIPT"]

    def test_commands_that_wait_fail_with_the_connection(self) -> None:
        bench = Bench()
        far = bench.attach()
        failures: list[Any] = []
        for _ in range(2):
            bench.sessions[0].send([b"EVALSHA", b"x"]).addErrback(failures.append)
        far.read()
        far.say(b"-NOSCRIPT\r\n")
        bench.sessions[0].send([b"PING"]).addErrback(failures.append)
        far.close()
        assert [failure.type for failure in failures] == [Gone] * 3


@pytest.mark.parametrize(
    ("url", "heard", "hint"),
    [
        ("rediss://h", False, " (if it has no TLS, write redis in place of rediss in broker.url)"),
        ("redis://h", False, " (if it expects TLS, write rediss in place of redis in broker.url)"),
        ("redis://h", True, ""),
        ("unix:///path", False, ""),
    ],
)
def test_silence_from_the_beginning_may_be_that_of_tls(url: str, heard: bool, hint: str) -> None:
    wire = Wire(lambda wire: None)
    if heard:
        wire._answers.append(([b"INFO"], Deferred(), False))
        wire.dataReceived(b"+OK\r\n")
    assert reason_of(wire, parse_url(url)) == f"it did not answer{hint}"


def test_command_for_a_lost_connection_fails_and_raises_nothing() -> None:
    failures: list[Failure] = []
    Wire(lambda wire: None).send([b"PING"]).addErrback(failures.append)
    assert [failure.type for failure in failures] == [Gone]


def test_server_that_the_sentinels_no_longer_name_is_left() -> None:
    bench = Bench()
    far = bench.attach()
    bench.connection.leave_for(parse_url("unix:///redis"))
    assert not far.closed
    bench.connection.leave_for(Address(path="/other"))
    assert (far.closed, bench.lost) == (True, 1)
    assert bench.problems == ["the Sentinels name another master: /other"]
    bench.reactor.advance(0.1)
    assert bench.attempts == 2


def test_attempt_at_a_server_that_the_sentinels_no_longer_name_ends() -> None:
    bench = Bench()
    hung = bench.accept()
    bench.connection.leave_for(Address(path="/other"))
    assert hung.closed
    bench.reactor.advance(0.1)
    assert (bench.attempts, bench.lost, bench.problems) == (2, 0, [])
    bench.attach()
    assert len(bench.sessions) == 1
