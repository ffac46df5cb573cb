"""One conversation in the Centrifuge client protocol, free of any transport."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable

from msgspec import UNSET, Struct

from pushserver import payload, wire
from pushserver.broker import Unavailable
from pushserver.channel import (
    Draft,
    InvalidName,
    Position,
    Publication,
    check_name,
)
from pushserver.conversation import Conversation, Transport
from pushserver.formats import SessionFormat
from pushserver.history import History
from pushserver.node import Node, new_client
from pushserver.payload import InvalidData
from pushserver.wire import Command, FrameError, WireError


class Session(Conversation[SessionFormat]):
    """Commands in, replies and pushes out.

    Commands are answered one after the other, in their order.
    """

    __slots__ = (
        "_awaiting_pong",
        "_connected",
        "_ping_due",
        "_queue",
        "_register",
        "_working",
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
        self._connected = False
        self._awaiting_pong = False
        self._ping_due = 0.0
        self._queue: deque[Command] = deque()
        self._working = False
        super().__init__(node, transport)
        node.peers.wake_at(self, node.monotonic() + node.limits.connect_seconds)

    def received(self, text: bytes) -> None:
        """Take one frame: commands separated by newlines."""
        if self._ended:
            return
        try:
            for command in wire.commands(text):
                self._take(command)
        except FrameError as error:
            self.disconnect(wire.BAD_FRAME, str(error))
        self._go_on()

    def closed(self) -> None:
        super().closed()
        if self._register is not None:
            self._register.pop(self.secret, None)

    def push(self, text: bytes) -> None:
        """Send one push that is no publication."""
        self._transport.write(self._transport.format.frame(text))

    def drained(self) -> None:
        super().drained()
        self._go_on()

    def insufficient(self, channel: str) -> None:
        self._channels.discard(channel)
        self.push(wire.unsubscribe_push(channel, wire.INSUFFICIENT, "insufficient state"))

    def unsubscribe(self, channel: str, code: int, reason: str) -> bool:
        """The server takes the peer out of the channel; False if it was not in it."""
        if channel not in self._channels:
            return False
        self._channels.discard(channel)
        self._node.hub.unsubscribe(self, channel)
        self.push(wire.unsubscribe_push(channel, code, reason))
        return True

    def wake(self, now: float) -> float | None:
        if self._ended:
            return None
        if self.is_stuck(now):
            self.slow()
        elif not self._connected:
            self.disconnect(wire.STALE, "no connect command came in time")
        elif self._blocked_at is not None:
            # A ping would have to wait behind what it has to read first, and its answer too.
            return now + self._node.limits.pong_seconds
        elif self._awaiting_pong:
            self.disconnect(wire.NO_PONG, "no pong")
        elif now < self._ping_due:
            return self._ping_due
        else:
            self._awaiting_pong = True
            self._ping_due = now + self._node.limits.ping_seconds
            self.push(wire.PING)
            return now + self._node.limits.pong_seconds
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
        limit = self._node.limits.queued_commands
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
            self._node.run(self._work())

    async def _work(self) -> None:
        """Answer what is in the queue.

        Nothing is answered before what was answered last is read, else a peer could ask for
        more than may wait for it.
        """
        try:
            while self._queue and not self._ended and self._blocked_at is None:
                await self._answer(self._queue.popleft())
        finally:
            self._working = False

    async def _answer(self, command: Command) -> None:
        try:
            name, text = wire.method(command)
            if not name:
                self._pong()
                return
            if name == "send":
                raise WireError(wire.NOT_AVAILABLE, "nothing on this server takes `send`")
            if command.id <= 0:
                raise FrameError(f"{name} needs an id above 0")
            if self._connected != (name != "connect"):
                raise FrameError("connect comes first, and once")
            result = await _METHODS[name](self, text)
            if not self._ended:
                self.push(wire.reply(command.id, name, result))
        except FrameError as error:
            self.disconnect(wire.BAD_FRAME, str(error))
        except WireError as error:
            if command.id:
                self.push(wire.error_reply(command.id, error))
        except Exception:
            self._node.report("a command failed")
            failed = WireError(wire.INTERNAL, "internal server error", temporary=True)
            self.push(wire.error_reply(command.id, failed))

    def _pong(self) -> None:
        if not self._awaiting_pong:
            raise FrameError("a pong that no ping asked for")
        self._awaiting_pong = False

    async def _connect(self, text: bytes) -> Struct:
        wire.request(text, wire.ConnectRequest)
        if self._register is not None:
            self._register[self.secret] = self
        self._connected = True
        now, interval = self._node.monotonic(), self._node.limits.ping_seconds
        # The first ping at a random time, so that those who came together do not
        # answer together for ever.
        self._ping_due = now + interval * random.uniform(0.5, 1.0)
        self._node.peers.wake_at(self, self._ping_due)
        return wire.ConnectResult(
            self.info.client,
            self._node.version,
            ping=max(1, round(interval)),
            pong=True,
            session=self.secret,
            node=self._node.hub.history.epoch if self.secret else "",
            time=int(self._node.clock() * 1000),
        )

    async def _subscribe(self, text: bytes) -> Struct:
        request = wire.request(text, wire.SubscribeRequest)
        channel = _channel(request.channel)
        self._check_may_subscribe(channel, request)
        # Found out first: from here to the reply everything happens in one turn.
        last = self._initial(request)
        position = Position(request.epoch, request.offset) if request.recover else None
        self._channels.add(channel)
        joined = await self._node.hub.subscribe(self, channel, position, last)
        if joined.reason and request.flag & wire.FLAG_REJECT_UNRECOVERED:
            self._leave(channel)
            raise WireError(wire.UNRECOVERABLE, f"unrecoverable position: {joined.reason}")
        if request.join_leave:
            self._node.presence.observe(channel, self)
        recovered = request.recover and not joined.reason
        return wire.SubscribeResult(
            recoverable=True,
            positioned=True,
            epoch=joined.epoch,
            # The client takes its position from here and then from each publication.
            offset=request.offset if recovered else joined.offset,
            publications=_pubs(joined.publications),
            recovered=recovered,
            was_recovering=request.recover,
        )

    def _check_may_subscribe(self, channel: str, request: wire.SubscribeRequest) -> None:
        if request.type:
            raise WireError(wire.NOT_AVAILABLE, "type: this server has stream subscriptions only")
        if request.tf is not UNSET:
            raise WireError(wire.NOT_AVAILABLE, "tf: this server filters no publications")
        if channel in self._channels:
            raise WireError(wire.ALREADY_SUBSCRIBED, f"already subscribed to {channel}")
        limit = self._node.limits.channels_per_client
        if len(self._channels) >= limit:
            message = f"more than {limit} channels on one connection (channels_per_client)"
            raise WireError(wire.LIMIT_EXCEEDED, message)

    def _initial(self, request: wire.SubscribeRequest) -> int:
        """How many of the last publications a first subscribe is answered with."""
        options = self._node.hub.history.options(request.channel)
        asked = None
        if request.data is not UNSET and request.data != b"null":
            asked = _subscribe_data(bytes(request.data)).last
        if asked is None:
            return options.initial
        if asked < 0:
            raise WireError(
                wire.BAD_REQUEST, f"bad request: data.last is {asked}, expected 0 or more"
            )
        return min(asked, options.history_size)

    def _leave(self, channel: str) -> bool:
        self._channels.discard(channel)
        return self._node.hub.unsubscribe(self, channel)

    async def _unsubscribe(self, text: bytes) -> Struct:
        self._leave(_channel(wire.request(text, wire.ChannelRequest).channel))
        return wire.Empty()

    async def _publish(self, text: bytes) -> Struct:
        request = wire.request(text, wire.PublishRequest)
        channel = _channel(request.channel)
        if not self._node.hub.history.options(channel).client_publish:
            message = f"clients may not publish to {channel} (client_publish)"
            raise WireError(wire.PERMISSION_DENIED, message)
        try:
            data = payload.compact(bytes(request.data))
            await self._node.hub.publish(Draft(channel, data, info=self.info))
        except InvalidData as error:
            raise WireError(wire.BAD_REQUEST, f"bad request: data: {error}") from None
        except Unavailable as error:
            raise WireError(wire.INTERNAL, str(error), temporary=True) from None
        return wire.Empty()

    async def _history(self, text: bytes) -> Struct:
        request = wire.request(text, wire.HistoryRequest)
        channel = _channel(request.channel)
        return history_result(self._node.hub.history, channel, request)

    async def _presence(self, text: bytes) -> Struct:
        channel = _channel(wire.request(text, wire.ChannelRequest).channel)
        clients = self._node.presence.clients(channel)
        return wire.PresenceResult({name: wire.info(client) for name, client in clients.items()})

    async def _presence_stats(self, text: bytes) -> Struct:
        channel = _channel(wire.request(text, wire.ChannelRequest).channel)
        return wire.PresenceStatsResult(*self._node.presence.stats(channel))

    async def _ping(self, text: bytes) -> Struct:
        return wire.Empty()

    async def _not_available(self, text: bytes) -> Struct:
        raise WireError(wire.NOT_AVAILABLE, "not available on this server")


_METHODS: dict[str, Callable[[Session, bytes], Awaitable[Struct]]] = {
    "connect": Session._connect,
    "subscribe": Session._subscribe,
    "unsubscribe": Session._unsubscribe,
    "publish": Session._publish,
    "history": Session._history,
    "presence": Session._presence,
    "presence_stats": Session._presence_stats,
    "ping": Session._ping,
    "rpc": Session._not_available,
    "refresh": Session._not_available,
    "sub_refresh": Session._not_available,
}


def history_result(history: History, name: str, request: wire.HistoryRequest) -> wire.HistoryResult:
    """What the history method answers; raises WireError for a position of another epoch."""
    channel = history.peek(name)
    since = request.since
    if since is not None and since.epoch and since.epoch != history.epoch:
        raise WireError(wire.UNRECOVERABLE, f"unrecoverable position: epoch {since.epoch[:40]!r}")
    if since is None:
        rows = channel.after(0)
    elif request.reverse:
        rows = [row for row in channel.after(0) if row.offset < since.offset]
    else:
        rows = channel.after(since.offset)
    if request.reverse:
        rows.reverse()
    if request.limit >= 0:
        rows = rows[: request.limit]
    return wire.HistoryResult(_pubs(rows), history.epoch, channel.top)


def _channel(name: str) -> str:
    try:
        return check_name(name)
    except InvalidName as error:
        raise WireError(wire.BAD_REQUEST, f"bad request: {error}") from None


def _subscribe_data(text: bytes) -> wire.SubscribeData:
    """Other people's data is none of our business; only an object's `last` counts."""
    if not text.lstrip().startswith(b"{"):
        return wire.SubscribeData()
    return wire.request(text, wire.SubscribeData)


def _pubs(publications: Iterable[Publication]) -> list[wire.Pub]:
    return [wire.pub(publication) for publication in publications]
