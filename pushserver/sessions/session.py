"""One conversation in the Centrifuge client protocol, free of any transport."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from msgspec import UNSET, Raw, Struct

from pushserver.channels.position import Position
from pushserver.errors import PushServerError
from pushserver.hub.hub import Joined
from pushserver.protocols import centrifuge
from pushserver.protocols.centrifuge import (
    Command,
    FrameError,
    SubscribePosition,
    SubscribeResult,
    WireError,
)
from pushserver.protocols.formats import SessionFormat
from pushserver.sessions.base import (
    CLOSED,
    CLOSING,
    CONNECTING,
    GONE,
    NEW,
    OPEN,
    Conversation,
    Transport,
)
from pushserver.sessions.node import Node

Answer = Callable[["Session", str, bytes], Awaitable[Struct]]
"""The result of a command: its session, its method and the whole text."""


class Session(Conversation[SessionFormat]):
    """The commands of one client and their replies, its channels and its pings.

    Commands are answered one after the other, in their order, by `answer`.
    """

    __slots__ = (
        "_answer",
        "_awaiting_pong",
        "_ended_by",
        "_held",
        "_ping_due",
        "_queue",
        "_working",
        "invited",
        "secret",
    )

    slow_code = centrifuge.SLOW

    def __init__(
        self,
        node: Node,
        transport: Transport[SessionFormat],
        answer: Answer,
        secret: str = "",
    ):
        """`secret`: what requests name the session by, if its commands come with requests."""
        self.secret = secret
        self._answer = answer
        self._awaiting_pong = False
        self._ping_due = 0.0
        # No deque: an empty one takes 760 bytes.
        self._queue: list[Command] = []
        self._working = False
        self._ended_by = ""
        # The channels that the server has put the peer into, or will when it is connected, and
        # that it did not ask for itself.
        self.invited: set[str] = _NONE
        # What follows the reply that is being made.
        self._held: tuple[bytes, ...] = ()
        super().__init__(node, transport)
        node.sessions.add(self)
        node.peers.wake_at(self, node.monotonic() + node.limits.connect_seconds)

    def received(self, text: bytes) -> None:
        """Take one frame: commands separated by newlines."""
        if self.state >= CLOSING:
            return
        try:
            if text == centrifuge.PONG:
                # It waits for nothing, as what the peer has to read first may hold up the rest.
                self._pong()
                return
            for command in centrifuge.commands(text):
                self._take(command)
        except FrameError as error:
            self.disconnect(centrifuge.BAD_FRAME, str(error))
        self._go_on()

    @property
    def connected(self) -> bool:
        return OPEN <= self.state <= CLOSING

    @property
    def channels(self) -> frozenset[str]:
        """The channels that the peer is in."""
        return frozenset(self.audiences)

    def arrive(self) -> None:
        """The application is asked whether it lets the peer in."""
        self.state = CONNECTING
        # What it said and did before it failed to answer does not count.
        self.invited, self._held = _NONE, ()

    async def admit(self, before: Mapping[str, SubscribePosition]) -> dict[str, SubscribeResult]:
        """The application lets the peer in: into the channels too that it was invited to.

        `before` is where the peer stood in them when it was last here.
        """
        try:
            if self.state >= CLOSING:
                # It went while the application was asked.
                raise _gone()
            subs = {name: await self._begin_in(name, before) for name in tuple(self.invited)}
        except BaseException:
            self.node.handlers.disconnect(self, self._ended_by)
            raise
        self._begin()
        return subs

    def _begin(self) -> None:
        self.state = OPEN
        self.node.sessions.identify(self)
        # The first ping at a random time, so that those who came together do not
        # answer together for ever.
        interval = self.node.limits.ping_seconds
        self._ping_due = self.node.monotonic() + interval * random.uniform(0.5, 1.0)
        self.node.peers.wake_at(self, self._ping_due)

    def closed(self) -> None:
        self._leave_all()
        self.node.sessions.remove(self)
        if self.state is CLOSING:
            self.state = GONE
            # While a command is handled `_work` does it: one after the other.
            if not self._working or self.node.stopping:
                self._tell_departure()
        # A server that stops goes on when the last has gone; that is to be after the above.
        super().closed()

    def _tell_departure(self) -> None:
        self.state = CLOSED
        self.node.handlers.disconnect(self, self._ended_by)

    def disconnect(self, code: int, reason: str) -> None:
        self._ended_by = self._ended_by or reason
        super().disconnect(code, reason)

    def push(self, text: bytes) -> None:
        """Send one push that is no publication."""
        self._transport.write(self._transport.format.frame(text))

    def broadcast(self, text: bytes, frames: dict[SessionFormat, bytes]) -> None:
        shape = self._transport.format
        if shape not in frames:
            frames[shape] = shape.frame(text)
        self._transport.write(frames[shape])

    def drained(self) -> None:
        self._go_on()

    def message(self, data: bytes) -> None:
        """Tell the peer something that is no publication; `data` is JSON text.

        It hears of it when it is connected, if it is about to be.
        """
        if self.state >= CLOSING:
            return
        if self.connected:
            self.push(centrifuge.message_push(data))
        else:
            self._held = (*self._held, centrifuge.message_push(data))

    def insufficient(self, channel: str) -> None:
        if channel in self.invited:
            # The peer did not ask for the channel and cannot ask again; but it comes back.
            self.disconnect(centrifuge.INSUFFICIENT_STATE, "insufficient state")
        else:
            self.push(
                centrifuge.unsubscribe_push(channel, centrifuge.INSUFFICIENT, "insufficient state")
            )

    async def join(self, channel: str, position: Position | None, last: int) -> Joined:
        """Put the peer into the channel; what it has to be sent is in the answer."""
        if self.state >= CLOSING:
            raise _gone()
        return await self.node.hub.subscribe(self, channel, position, last)

    def leave(self, channel: str) -> bool:
        """Take the peer out of the channel; False if it was not in it."""
        self.invited.discard(channel)
        return self.node.hub.unsubscribe(self, channel)

    def unsubscribe(self, channel: str, code: int, reason: str) -> bool:
        """The server takes the peer out of the channel; False if it was not in it."""
        if not self.leave(channel):
            return False
        self.push(centrifuge.unsubscribe_push(channel, code, reason))
        return True

    async def invite(self, channel: str) -> None:
        """The server puts the peer into a channel; once it is connected, if it is not yet."""
        if self.state >= CLOSING or channel in self.audiences:
            return
        self.invited = {*self.invited, channel}
        if self.connected:
            joined, rows = _apart(await self.join(channel, None, self._initial(channel)))
            self.push(centrifuge.subscribe_push(channel, joined.epoch, joined.offset))
            for text in rows:
                self.push(text)

    async def _begin_in(
        self, channel: str, before: Mapping[str, SubscribePosition]
    ) -> SubscribeResult:
        at = before.get(channel)
        if at is not None and at.recover:
            position = Position(at.epoch, at.offset)
            return self.subscribed(channel, await self.join(channel, position, 0), position)
        joined, rows = _apart(await self.join(channel, None, self._initial(channel)))
        self._held += rows
        return self.subscribed(channel, joined, None)

    def _initial(self, channel: str) -> int:
        return self.node.history.options(channel).initial

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
            publications=Raw(encode(channel, rows, centrifuge.publications)) if rows else UNSET,
            recovered=recovered,
            was_recovering=position is not None,
        )

    def due(self, now: float) -> float | None:
        if self.state is CONNECTING:
            # The application takes its time, which has its own bound.
            return now + self.node.limits.connect_seconds
        if self.state is NEW:
            self.disconnect(centrifuge.STALE, "no connect command came in time")
        elif self._blocked_at is not None:
            # A ping would have to wait behind what it has to read first, and its answer too.
            return now + self.node.limits.pong_seconds
        elif self._awaiting_pong:
            self.disconnect(centrifuge.NO_PONG, "no pong")
        elif now < self._ping_due:
            return self._ping_due
        else:
            self._awaiting_pong = True
            self._ping_due = now + self.node.limits.ping_seconds
            self._transport.write(self.format.ping)
            return now + self.node.limits.pong_seconds
        return None

    def shut_down(self) -> None:
        self.disconnect(centrifuge.SHUTDOWN, "the server is shutting down")

    def _close(self, code: int, reason: str) -> None:
        if not self.format.says_why:
            self.push(centrifuge.disconnect_push(code, reason))
        super()._close(code, reason)

    def _leave_all(self) -> None:
        super()._leave_all()
        self._queue.clear()

    def _take(self, command: Command) -> None:
        """Queue a command; but a pong waits for nothing, as others may take their time."""
        limit = self.node.limits.queued_commands
        if self.state >= CLOSING:
            return
        if self._awaiting_pong and command == _PONG:
            self._pong()
        elif len(self._queue) >= limit:
            reason = f"more than {limit} commands wait (queued_commands)"
            self.disconnect(centrifuge.TOO_MANY_REQUESTS, reason)
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
            while self._queue and self.state < CLOSING and self._blocked_at is None:
                await self._handle(self._queue.pop(0))
        finally:
            self._working = False
            if self.state is GONE:
                self._tell_departure()

    async def _handle(self, command: Command) -> None:
        try:
            name, text = centrifuge.method(command)
            if not name:
                self._pong()
                return
            if command.id <= 0 and name != "send":
                raise FrameError(f"{name} needs an id above 0")
            if (self.state is NEW) != (name == "connect"):
                raise FrameError("connect comes first, and once")
            result = await self._answer(self, name, text)
            if command.id and self.state < CLOSING:
                self.push(centrifuge.reply(command.id, name, result))
                held, self._held = self._held, ()
                for text in held:
                    self.push(text)
        except FrameError as error:
            self.disconnect(centrifuge.BAD_FRAME, str(error))
        except Exception as error:
            self._fail(command, error)
        finally:
            if self.state is CONNECTING:
                # The client was not let in.
                self.state = NEW

    def _fail(self, command: Command, error: Exception) -> None:
        """Answer with the error, if the command wants an answer."""
        if not isinstance(error, PushServerError) or not error.centrifuge_code:
            self.node.report("a command failed")
            error = WireError(centrifuge.INTERNAL, "internal server error", temporary=True)
        if command.id and self.state < CLOSING:
            self.push(centrifuge.error_reply(command.id, error))

    def _pong(self) -> None:
        if not self._awaiting_pong:
            raise FrameError("a pong that no ping asked for")
        self._awaiting_pong = False


def _gone() -> WireError:
    """Nobody is answered with it. Each time another: with its traceback it holds the session."""
    return WireError(centrifuge.INTERNAL, "the connection is closed")


def _apart(joined: Joined) -> tuple[Joined, tuple[bytes, ...]]:
    """A beginning without publications, and those as pushes that follow it.

    The official client (5.8.0) passes over those in an answer when it was put into a channel,
    unless it recovered.
    """
    rows = joined.publications
    first = replace(joined, offset=joined.offset - len(rows), publications=())
    return first, tuple(centrifuge.publication_push(row) for row in rows)


_NONE: set[str] = set()
_PONG = Command()
