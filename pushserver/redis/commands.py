"""Commands to Redis over one connection, and the errors in place of their answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from pushserver.errors import PushServerError

Send = Callable[[Sequence[bytes]], Deferred[Any]]
"""Sends a command and returns its answer: bytes, numbers, None and lists of these.

Fails with ErrorReply or Gone. Redis carries out the commands of a connection in their order.
"""


class ErrorReply(PushServerError):
    """Redis answered with an error; the text is its own and begins with a word such as `OOM`."""

    keys: Sequence[bytes] = ()
    """With WRONGTYPE the keys of the command, one of which has the wrong type."""

    @property
    def word(self) -> str:
        """The first word."""
        return str(self).partition(" ")[0]


def keys_of(command: Sequence[bytes]) -> Sequence[bytes]:
    """The keys of one of our commands."""
    match command:
        case [b"EVALSHA" | b"EVAL", _, count, *rest]:
            return rest[: int(count)]
        case [b"XREAD", *rest]:
            keys_and_ids = rest[rest.index(b"STREAMS") + 1 :]
            return keys_and_ids[: len(keys_and_ids) // 2]
        case _:
            return command[1:2]


class Gone(PushServerError):
    """The connection was lost before the answer: whether Redis did it is not known."""
