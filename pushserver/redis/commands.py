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

    @property
    def word(self) -> str:
        """The first word."""
        return str(self).partition(" ")[0]


class Gone(PushServerError):
    """The connection was lost before the answer: whether Redis did it is not known."""
