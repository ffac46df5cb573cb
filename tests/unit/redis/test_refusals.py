from __future__ import annotations

from pushserver.errors import LimitExceeded, TooMany, Unavailable
from pushserver.redis.commands import ErrorReply
from pushserver.redis.failures import Failures
from pushserver.redis.refusals import LOG_SECONDS, OTHER_SECONDS, REFUSAL_SECONDS, Refusals
from pushserver.redis.scripts import Bounds
from tests.unit.fakes.web import Trouble

FULL = ErrorReply("OOM command not allowed when used memory > 'maxmemory'.")
FEW = ErrorReply("NOREPLICAS Not enough good replicas to write.")


class Node:
    """The refusals of a node, and the reasons why its session was ended."""

    def __init__(self) -> None:
        self.now = 1.0
        self.ended: list[str] = []
        failures = Failures(lambda: "", self._seconds, "shard 1: ")
        self.refusals = Refusals(failures, self._seconds, self.ended.append)

    def _seconds(self) -> float:
        return self.now

    def error(self, error: ErrorReply) -> Exception:
        return self.refusals.error_of(error, Bounds(channels=7, keys_per_publisher=3))


def test_bound_of_the_log_is_named_and_is_no_problem_of_the_node(trouble: Trouble) -> None:
    node = Node()
    channels, keys = node.error(ErrorReply("CHANNELS 7")), node.error(ErrorReply("KEYS 3"))
    assert isinstance(channels, LimitExceeded)
    assert str(channels) == "there are 7 channels, and no more are kept"
    assert isinstance(keys, TooMany)
    assert str(keys).startswith("this publisher has used 3 idempotency keys in five minutes")
    assert (node.refusals.problem, node.ended, trouble.take()) == ("", [], [])


def test_error_of_the_session_ends_it_and_is_no_refusal(trouble: Trouble) -> None:
    node = Node()
    error = node.error(ErrorReply("READONLY You can't write against a read only replica."))
    assert (type(error), str(error)) == (Unavailable, "shard 1: Redis is away")
    assert node.ended == ["READONLY You can't write against a read only replica."]
    assert (node.refusals.problem, trouble.take()) == ("", [])


def test_node_counts_as_refused_for_a_while_or_until_a_call_is_accepted(trouble: Trouble) -> None:
    node = Node()
    assert str(node.error(FULL)) == "shard 1: Redis refused it: the memory of Redis is full"
    node.now += REFUSAL_SECONDS
    assert node.refusals.problem == "the memory of Redis is full"
    node.now += 0.1
    assert node.refusals.problem == ""
    node.error(FULL)
    node.refusals.accepted()
    assert node.refusals.problem == ""
    trouble.clear()


def test_refusals_are_logged_once_a_minute_for_each_reason(trouble: Trouble) -> None:
    node = Node()
    node.error(FULL)
    # Redis takes the publications of another channel, in turn.
    node.refusals.accepted()
    node.now += LOG_SECONDS - 1
    node.error(FULL)
    assert len(trouble.take()) == 1
    node.now += 1
    node.error(FULL)
    node.now += OTHER_SECONDS / 2
    node.error(FEW)
    [line] = trouble.take()
    assert "OOM" in line
    node.now += OTHER_SECONDS / 2
    node.error(FEW)
    [line] = trouble.take()
    assert "NOREPLICAS" in line
