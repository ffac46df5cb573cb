"""Whoever cannot publish or read is told why, in short, and by which shard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail

from pushserver.errors import Unavailable
from pushserver.redis.commands import ErrorReply, Gone
from pushserver.redis.connection import Session
from pushserver.redis.failures import LOG_SECONDS, Failures
from pushserver.redis.keys import Keys
from pushserver.redis.registry import Registry
from pushserver.redis.rosters import Rosters
from pushserver.redis.scripts import Attached
from tests.unit.fakes.web import Trouble

WRONG_TYPE = ErrorReply("WRONGTYPE Operation against a key holding the wrong kind of value")


class Node:
    """The readers of the registry and the presence, over a connection with one answer."""

    def __init__(self, answer: Callable[[], Deferred[Any]], problem: str = "", shard: str = ""):
        session: Any = Session(lambda command: answer(), "run", Attached("e", 0, 0))
        self.now = 1.0
        failures = Failures(lambda: problem, self._seconds, shard)
        self.registry = Registry(
            Keys(),
            "n",
            "",
            lambda: session,
            lambda reason: None,
            self._seconds,
            failures,
            lambda error, session: None,
        )
        self.rosters = Rosters(Keys(), lambda: session, self._seconds, lambda term: False, failures)

    def _seconds(self) -> float:
        return self.now

    def reasons(self) -> set[str]:
        """Why each of the readers fails."""
        found = set()
        for call in (self.registry.nodes(), self.rosters.counts(), self.rosters.read("a")):
            with pytest.raises(Unavailable) as caught:
                call.send(None)
            found.add(str(caught.value))
        return found


def test_refused_reads_are_told_and_logged_once_in_a_while(trouble: Trouble) -> None:
    node = Node(lambda: fail(WRONG_TYPE))
    assert node.reasons() == {"Redis refused it: this Redis cannot have the log"}
    [line] = trouble.take()
    assert "WRONGTYPE" in line
    node.now += LOG_SECONDS - 1
    node.reasons()
    assert trouble.take() == []
    node.now += 1
    node.reasons()
    assert len(trouble.take()) == 1


def test_the_log_names_the_keys_of_which_one_has_another_type(trouble: Trouble) -> None:
    error = ErrorReply("WRONGTYPE Operation")
    error.keys = [b"{ps0}:x", *(b"{ps0}:c:%d\n\xff" % number for number in range(1_000))]
    node = Node(lambda: fail(error))
    assert node.reasons() == {"Redis refused it: this Redis cannot have the log"}
    [line] = trouble.take()
    assert r"(one of '{ps0}:x', '{ps0}:c:0\n\ufffd', " in line.replace("\ufffd", r"\ufffd")
    assert "'{ps0}:c:8" in line
    assert ", ...; another program has keys there; set another broker.prefix)" in line
    assert "'{ps0}:c:9" not in line


@pytest.mark.parametrize("error", [Gone("cut"), ErrorReply("FENCED"), ErrorReply("READONLY no")])
def test_a_session_that_ends_is_no_refusal(error: Exception, trouble: Trouble) -> None:
    assert Node(lambda: fail(error)).reasons() == {"Redis is away"}
    node = Node(lambda: fail(error), "this Redis cannot have the log", "shard 1: ")
    assert node.reasons() == {"shard 1: this Redis cannot have the log"}
    assert trouble.take() == []
