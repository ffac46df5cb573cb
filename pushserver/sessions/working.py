"""A conversation whose peer asks for work: its queue, and its share of a turn of the reactor."""

from __future__ import annotations

from typing import Generic, TypeVar

from pushserver.errors import TooMany
from pushserver.sessions.base import CLOSING, Conversation, FormatT, Transport
from pushserver.sessions.node import Node

ItemT = TypeVar("ItemT")

AT_A_TIME = 32
"""Items of one conversation that one turn of the reactor handles: about a millisecond. The
conversations whose items wait share a turn (`usercode.turns`)."""

PART_BYTES = 16_384
"""The bytes of waiting items that a peer may have while those of all peers are over their bound."""


class Working(Conversation[FormatT], Generic[FormatT, ItemT]):
    """A conversation that handles the items of its peer one at a time, in their order.

    Each waits until the peer has read the answers before it, so that a peer cannot ask for more
    than its outlet may queue.
    """

    __slots__ = ("_queue", "_waiting_bytes", "_working", "_yielding", "address")

    def __init__(self, node: Node, transport: Transport[FormatT], address: str | None):
        """`address` is that of the peer, None on a Unix socket."""
        self.address = address
        # No deque: an empty one takes 760 bytes.
        self._queue: list[ItemT] = []
        self._working = False
        self._yielding = False
        self._waiting_bytes = 0
        super().__init__(node, transport)

    async def handle(self, item: ItemT) -> None:
        """Handle an item."""
        raise NotImplementedError

    def rested(self) -> None:
        """Note that no item is being handled any more."""

    def _add_waiting(self, size: int) -> None:
        """Count bytes of items that wait."""
        self._waiting_bytes += size
        self.node.waiting_bytes += size

    def _remove_waiting(self, size: int) -> None:
        """Count bytes that wait no longer."""
        self._waiting_bytes -= size
        self.node.waiting_bytes -= size

    def _check_waiting(self) -> None:
        """Disconnect the peer if the items of all have too many bytes, and its own PART_BYTES."""
        most = self.node.limits.waiting_bytes
        if self.node.waiting_bytes > most and self._waiting_bytes > PART_BYTES:
            reason = f"the requests of all clients that wait have {most} bytes"
            self.flooded(TooMany(reason, "waiting_bytes"))

    def flooded(self, error: TooMany) -> None:
        """Disconnect a peer that sends too much."""
        self.node.note_excess(error, self.address, self.flood_code)
        self.disconnect(self.flood_code, str(error))

    def drained(self) -> None:
        self.resume()

    @property
    def is_yielding(self) -> bool:
        return self._yielding

    def resume(self) -> None:
        """Handle the items that wait, if there are some and the peer reads."""
        ready = not self._working and not self._yielding and self._blocked_at is None
        if self._queue and ready:
            self._working = True
            self.node.run(self._work())

    async def _work(self) -> None:
        left = AT_A_TIME
        try:
            while self._queue and self.state < CLOSING and self._blocked_at is None:
                if not left:
                    self._yielding = True
                    self.node.turns.later(self._continue)
                    break
                left -= 1
                await self.handle(self._queue.pop(0))
        finally:
            self._working = False
            self.rested()

    def _continue(self) -> None:
        self._yielding = False
        self.resume()

    def _leave_all(self) -> None:
        super()._leave_all()
        self._queue.clear()
        self._remove_waiting(self._waiting_bytes)
