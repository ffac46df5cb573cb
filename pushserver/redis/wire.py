"""The protocol of one connection to Redis.

txredisapi imports the reactor, so this module is imported when the process has chosen one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hiredis import ProtocolError, Reader, pack_command
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from txredisapi import HiredisProtocol

from pushserver.redis.commands import ErrorReply, Gone


class Wire(HiredisProtocol):  # type: ignore[misc]
    """Sends commands and gives each its answer; `lost` is called once, after the last one.

    Replaces the parts of txredisapi that convert: each value of an answer costs it a call, which is
    more than hiredis takes for the whole entry of a stream.
    """

    def __init__(self, lost: Callable[[Wire], None]):
        super().__init__(charset=None, convertNumbers=False)
        self._reader = Reader(protocolError=ProtocolError, replyError=ErrorReply)
        self._lost = lost
        self.ended = ""
        """Why the other end, or the network, ended the connection."""

    def send(self, command: Sequence[bytes]) -> Deferred[Any]:
        """Send a command; see `commands.Send`."""
        if not self.connected:
            raise Gone("the connection is lost")
        answer: Deferred[Any] = self.execute_command(*command)
        return answer

    def drop(self) -> None:
        """End the connection at once."""
        if self.connected:
            self.transport.abortConnection()

    def dataReceived(self, data: bytes, unpause: bool = False) -> None:
        reader = self._reader
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not False:
                self.replyReceived(reply)
        except ProtocolError:
            self.ended = "it did not answer as Redis does"
            self.drop()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not reason.check(ConnectionAborted):
            self.ended = reason.getErrorMessage()
        super().connectionLost(reason)
        self._lost(self)

    def _build_command(self, *command: Any) -> bytes:
        packed: bytes = pack_command(command)
        return packed

    @staticmethod
    def handle_reply(reply: Any) -> Any:
        """Return the answer, or raise the error in its place."""
        if isinstance(reply, ErrorReply):
            raise reply
        if isinstance(reply, Exception):
            raise Gone(str(reply))
        return reply
