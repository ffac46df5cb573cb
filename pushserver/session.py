"""One conversation in the Centrifuge client protocol, free of any transport."""

from __future__ import annotations

import random
from collections.abc import Mapping

from msgspec import UNSET, Raw

from pushserver import wire
from pushserver.channel import Position
from pushserver.commands import METHODS
from pushserver.conversation import Conversation, Transport
from pushserver.formats import SessionFormat
from pushserver.handlers import HandlerFailed, NotHandled, Refused
from pushserver.hub import Joined
from pushserver.node import Node, new_client
from pushserver.wire import Command, FrameError, SubscribePosition, SubscribeResult, WireError


class Session(Conversation[SessionFormat]):
    """Commands in, replies and pushes out.

    Commands are answered one after the other, in their order; `commands` says how.
    """

    __slots__ = (
        "_awaiting_pong",
        "_ended_by",
        "_invited",
        "_ping_due",
        "_queue",
        "_register",
        "_working",
        "connected",
        "secret",
    )

    slow_code = wire.SLOW

    def __init__(
        self,
        node: Node,
        transport: Transport[SessionFormat],
        register: dict[str, Session] | None = None,
    ):
        """`register` is where requests find the session by its `secret`, if they carry it."""
        self.secret = "" if register is None else new_client()
        self._register = register
        self.connected = False
        self._awaiting_pong = False
        self._ping_due = 0.0
        # No deque: an empty one takes 760 bytes.
        self._queue: list[Command] = []
        self._working = False
        self._ended_by = ""
        # The channels that the server has put the peer into, or will when it is connected.
        self._invited: set[str] = _NONE
        super().__init__(node, transport)
        node.peers.wake_at(self, node.monotonic() + node.limits.connect_seconds)

    def received(self, text: bytes) -> None:
        """Take one frame: commands separated by newlines."""
        if self._ended:
            return
        try:
            if text == wire.PONG:
                # It waits for nothing, as what the peer has to read first may hold up the rest.
                self._pong()
                return
            for command in wire.commands(text):
                self._take(command)
        except FrameError as error:
            self.disconnect(wire.BAD_FRAME, str(error))
        self._go_on()

    @property
    def channels(self) -> frozenset[str]:
        """The channels that the peer is in."""
        return frozenset(self._audiences)

    def begin(self) -> None:
        """The peer is connected."""
        if self._ended:
            # It went while the application was asked.
            self.node.handlers.disconnect(self, self._ended_by)
            raise _GONE
        self.connected = True
        if self._register is not None:
            self._register[self.secret] = self
        # The first ping at a random time, so that those who came together do not
        # answer together for ever.
        interval = self.node.limits.ping_seconds
        self._ping_due = self.node.monotonic() + interval * random.uniform(0.5, 1.0)
        self.node.peers.wake_at(self, self._ping_due)

    def closed(self) -> None:
        super().closed()
        if self._register is not None:
            self._register.pop(self.secret, None)
        if self.connected:
            self.connected = False
            self.node.handlers.disconnect(self, self._ended_by)

    def disconnect(self, code: int, reason: str) -> None:
        self._ended_by = self._ended_by or reason
        super().disconnect(code, reason)

    def push(self, text: bytes) -> None:
        """Send one push that is no publication."""
        self._transport.write(self._transport.format.frame(text))

    def drained(self) -> None:
        super().drained()
        self._go_on()

    def message(self, data: bytes) -> None:
        """Tell the peer something that is no publication; `data` is JSON text."""
        if self.connected and not self._ended:
            self.push(wire.message_push(data))

    def insufficient(self, channel: str) -> None:
        self._audiences.discard(channel)
        if channel in self._invited:
            # The peer did not ask for the channel and cannot ask again; but it comes back.
            self.disconnect(wire.INSUFFICIENT_STATE, "insufficient state")
        else:
            self.push(wire.unsubscribe_push(channel, wire.INSUFFICIENT, "insufficient state"))

    async def join(self, channel: str, position: Position | None, last: int) -> Joined:
        """Put the peer into the channel; what it has to be sent is in the answer."""
        if self._ended:
            raise _GONE
        self._audiences.add(channel)
        return await self.node.hub.subscribe(self, channel, position, last)

    def leave(self, channel: str) -> bool:
        """Take the peer out of the channel; False if it was not in it."""
        if channel not in self._audiences:
            return False
        self._audiences.discard(channel)
        if self._invited:
            self._invited.discard(channel)
        return self.node.hub.unsubscribe(self, channel)

    def unsubscribe(self, channel: str, code: int, reason: str) -> bool:
        """The server takes the peer out of the channel; False if it was not in it."""
        if not self.leave(channel):
            return False
        self.push(wire.unsubscribe_push(channel, code, reason))
        return True

    async def invite(self, channel: str) -> None:
        """The server puts the peer into a channel; once it is connected, if it is not yet."""
        if self._ended or channel in self._audiences:
            return
        self._invited = {*self._invited, channel}
        if self.connected:
            joined = await self.join(channel, None, 0)
            self.push(wire.subscribe_push(channel, joined.epoch, joined.offset))

    async def welcome(self, before: Mapping[str, SubscribePosition]) -> dict[str, SubscribeResult]:
        """Put the peer into the channels that it was invited to.

        `before` is where it stood in them when it was last here.
        """
        subs = {}
        for channel in self._invited:
            at = before.get(channel)
            position = Position(at.epoch, at.offset) if at is not None and at.recover else None
            last = 0 if position else self.node.hub.history.options(channel).initial
            subs[channel] = self.subscribed(
                channel, await self.join(channel, position, last), position
            )
        return subs

    def subscribed(
        self, channel: str, joined: Joined, position: Position | None
    ) -> SubscribeResult:
        """What a peer is told that joined, coming from `position`."""
        recovered = position is not None and not joined.reason
        rows, encode = joined.publications, self.node.replays.encode
        return SubscribeResult(
            recoverable=True,
            positioned=True,
            epoch=joined.epoch,
            # The client takes its position from here and then from each publication.
            offset=position.offset if position and recovered else joined.offset,
            publications=Raw(encode(channel, rows, wire.publications)) if rows else UNSET,
            recovered=recovered,
            was_recovering=position is not None,
        )

    def due(self, now: float) -> float | None:
        if not self.connected:
            self.disconnect(wire.STALE, "no connect command came in time")
        elif self._blocked_at is not None:
            # A ping would have to wait behind what it has to read first, and its answer too.
            return now + self.node.limits.pong_seconds
        elif self._awaiting_pong:
            self.disconnect(wire.NO_PONG, "no pong")
        elif now < self._ping_due:
            return self._ping_due
        else:
            self._awaiting_pong = True
            self._ping_due = now + self.node.limits.ping_seconds
            self._transport.write(self.format.ping)
            return now + self.node.limits.pong_seconds
        return None

    def shut_down(self) -> None:
        self.disconnect(wire.SHUTDOWN, "the server is shutting down")

    def _close(self, code: int, reason: str) -> None:
        if not self.format.says_why:
            self.push(wire.disconnect_push(code, reason))
        super()._close(code, reason)

    def _leave_all(self) -> None:
        super()._leave_all()
        self._queue.clear()

    def _take(self, command: Command) -> None:
        """Queue a command; but a pong does not wait behind what the peer has to read first."""
        limit = self.node.limits.queued_commands
        if self._ended:
            return
        if self._blocked_at is not None and not wire.method(command)[0]:
            self._pong()
        elif len(self._queue) >= limit:
            reason = f"more than {limit} commands wait (queued_commands)"
            self.disconnect(wire.TOO_MANY_REQUESTS, reason)
        else:
            self._queue.append(command)

    def _go_on(self) -> None:
        if self._queue and not self._working and self._blocked_at is None:
            self._working = True
            self.node.run(self._work())

    async def _work(self) -> None:
        """Answer what is in the queue.

        Nothing is answered before what was answered last is read, else a peer could ask for
        more than may wait for it.
        """
        try:
            while self._queue and not self._ended and self._blocked_at is None:
                await self._answer(self._queue.pop(0))
        finally:
            self._working = False

    async def _answer(self, command: Command) -> None:
        try:
            name, text = wire.method(command)
            if not name:
                self._pong()
                return
            if command.id <= 0 and name != "send":
                raise FrameError(f"{name} needs an id above 0")
            if self.connected != (name != "connect"):
                raise FrameError("connect comes first, and once")
            result = await METHODS[name](self, text)
            if command.id and not self._ended:
                self.push(wire.reply(command.id, name, result))
        except FrameError as error:
            self.disconnect(wire.BAD_FRAME, str(error))
        except Exception as error:
            self._fail(command, error)

    def _fail(self, command: Command, error: Exception) -> None:
        """Answer with the error, if the command wants an answer."""
        if isinstance(error, NotHandled):
            error = WireError(wire.NOT_AVAILABLE, str(error))
        elif isinstance(error, Refused):
            error = WireError(error.code or wire.PERMISSION_DENIED, error.reason)
        elif isinstance(error, HandlerFailed):
            error = WireError(wire.INTERNAL, str(error), temporary=True)
        elif not isinstance(error, WireError):
            self.node.report("a command failed")
            error = WireError(wire.INTERNAL, "internal server error", temporary=True)
        if command.id and not self._ended:
            self.push(wire.error_reply(command.id, error))

    def _pong(self) -> None:
        if not self._awaiting_pong:
            raise FrameError("a pong that no ping asked for")
        self._awaiting_pong = False


_NONE: set[str] = set()
_GONE = WireError(wire.INTERNAL, "the connection is closed")
