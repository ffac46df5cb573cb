"""Joins two connections: each gets the bytes of the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from twisted.web.server import Request

from pushserver.web.progress import Progress
from pushserver.web.site import PushSite
from pushserver.web.sockets import drop


class Splice:
    """The connection of a request, whose protocol was changed, and one to another process.

    An end that does not read pauses the other: at most what Twisted reads at once waits. When one
    end is gone, the other one gets its last bytes, and is dropped if it does not take them.
    `gone` is called with this splice when both are.
    """

    def __init__(
        self,
        request: Request,
        other: Any,
        data: bytes,
        reactor: Any,
        gone: Callable[[Splice], None],
    ):
        """`data` is for the client."""
        site, channel = cast(PushSite, request.site), cast(Any, request.channel)
        self._reactor = reactor
        self._seconds = site.limits.request_seconds
        self._gone = gone
        transport, channel.transport = channel.transport, None
        counted_as, channel.counted_as = channel.counted_as, None
        self._leave = lambda: site.admission.leave(counted_as)
        site.release(channel)
        if request.content is not None:
            request.content.close()
        self._ends: dict[Any, Progress | None] = {transport: None, other: None}
        """The open ends; with a bound on the time of one that closes."""
        # The HTTP channel is the producer of its transport until now.
        for here, there in ((transport, other), (other, transport)):
            here.unregisterProducer()
            here.registerProducer(there, True)
            end = _End(self, there)
            wrapped = isinstance(here, ProtocolWrapper)
            setattr(here, "wrappedProtocol" if wrapped else "protocol", end)
            end.makeConnection(here)
        transport.resumeProducing()
        transport.write(data)
        if behind := b"".join(channel._dataBuffer):
            other.write(behind)

    def stop(self) -> None:
        """Drop both ends."""
        for transport in tuple(self._ends):
            drop(transport)

    def lost(self, transport: Any) -> None:
        """One end is gone: close the other when it has all bytes."""
        progress = self._ends.pop(transport)
        if progress is not None:
            progress.stop()
        for other in self._ends:
            self._ends[other] = Progress(self._reactor, self._seconds, other)
            other.unregisterProducer()
            other.loseConnection()
        if not self._ends:
            self._leave()
            self._gone(self)


class _End(Protocol):
    """The protocol of each connection."""

    def __init__(self, splice: Splice, other: Any):
        self._splice = splice
        self._other = other

    def dataReceived(self, data: bytes) -> None:
        self._other.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._splice.lost(self.transport)
