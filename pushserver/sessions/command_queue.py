"""The commands of one client of the Centrifuge protocol: their queue, replies and pushes."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from msgspec import Struct

from pushserver.channels.publication import Publication
from pushserver.errors import Denied, PushServerError, TooMany
from pushserver.protocols import centrifuge
from pushserver.protocols.centrifuge import Command, CommandError, FrameError
from pushserver.protocols.formats import SessionFormat
from pushserver.sessions.base import CLOSING, CONNECTING, GONE, NEW, Transport
from pushserver.sessions.node import Node
from pushserver.sessions.replay_cache import FIRST_BYTES
from pushserver.sessions.working import Working
from pushserver.usercode.rate import Budget

AT_ONCE = 10
"""Commands at once, as a multiple of those a second."""

Run = tuple[str, Sequence[Publication]]
"""A channel, and publications in it."""


class CommandQueue(Working[SessionFormat, Command]):
    """A conversation whose peer sends commands, which have replies in their order.

    A base class and not an attribute of the session, with which each would refer to the other: a
    closed connection is freed by reference counting.
    """

    __slots__ = (
        "_after_reply",
        "_awaiting_pong",
        "_budget",
    )

    def __init__(self, node: Node, transport: Transport[SessionFormat], address: str | None):
        self._awaiting_pong = False
        # Pushes for after the reply to the current command.
        self._after_reply: tuple[bytes | Run, ...] = ()
        super().__init__(node, transport, address)
        self._budget = Budget(AT_ONCE * node.limits.commands_per_second, node.monotonic())

    def answer(self, method: str, text: bytes) -> Awaitable[Struct]:
        """Return the result of a command, given its request as JSON text."""
        raise NotImplementedError

    def not_admitted(self) -> None:
        """Forget the client of a `connect` command that failed; another one may follow."""
        raise NotImplementedError

    def gone(self) -> None:
        """Notify the application of the end, once no command of the client is being handled."""
        raise NotImplementedError

    def received(self, text: bytes) -> None:
        """Process one frame: commands separated by newlines."""
        if self.state >= CLOSING:
            return
        try:
            if text == centrifuge.PONG:
                # At once: the queue may wait until the peer has read earlier replies.
                self._pong()
                return
            command = None
            for command in centrifuge.commands(text):
                self._enqueue(command)
            if command is None:
                self._is_too_many()
        except FrameError as error:
            self.disconnect(centrifuge.BAD_FRAME, str(error))
        self.resume()
        if self._queue:
            self._add_waiting(len(text))
            self._check_waiting()

    def rested(self) -> None:
        if self.state is GONE:
            self.gone()

    def push(self, text: bytes) -> None:
        """Send a push other than a publication."""
        self._transport.write(self._transport.format.frame(text))

    def push_after_reply(self, *texts: bytes) -> None:
        """Send pushes after the reply to the current command."""
        self._after_reply += texts

    def push_rows_after_reply(self, channel: str, rows: Sequence[Publication]) -> None:
        """Send publications after the reply to the current command."""
        if rows:
            self._after_reply += ((channel, rows),)

    def _push_all(self, pushes: Sequence[bytes | Run]) -> None:
        """Send pushes; publications beyond FIRST_BYTES, and all behind them, as the peer reads."""
        replays, encode, left = self.node.replays, self.format.publications, FIRST_BYTES
        for push in pushes:
            if isinstance(push, bytes):
                self.push(push)
                continue
            channel, rows = push
            if left > 0:
                text, count = replays.first(channel, rows, encode, left)
                self._transport.write(text)
                left -= len(text)
                rows = rows[count:]
            if rows:
                left = 0
                self._transport.replay(replays.portions(channel, rows, encode))

    def _enqueue(self, command: Command) -> None:
        """Queue a command; a pong counts at once, since queued commands may take long."""
        limit = self.node.limits.queued_commands
        if self.state >= CLOSING:
            return
        if self._awaiting_pong and command == _PONG:
            self._pong()
        elif (error := self._is_too_many()) is not None:
            if command.id and self.state < CLOSING:
                self.push(centrifuge.error_reply(command.id, error))
        elif len(self._queue) >= limit:
            self.flooded(TooMany(f"more than {limit} commands wait", "queued_commands"))
        else:
            self._queue.append(command)

    def _is_too_many(self) -> TooMany | None:
        """Count a command, or a frame without one; return the error if it is one too many.

        A client that continues over the rate is disconnected.
        """
        node = self.node
        rate = node.limits.commands_per_second
        if not self._budget.is_exceeded(rate, AT_ONCE * rate, node.monotonic):
            return None
        error = TooMany(f"more than {rate} commands a second", "commands_per_second")
        is_last = self._budget.left < -AT_ONCE * rate
        node.note_excess(error, self.address, self.flood_code if is_last else 0)
        if is_last:
            self.disconnect(self.flood_code, str(error))
        return error

    async def handle(self, command: Command) -> None:
        if self._waiting_bytes:
            # The bytes of a frame are shared by its commands.
            self._remove_waiting(self._waiting_bytes // (len(self._queue) + 1))
        try:
            name, text = centrifuge.method(command)
            if not name:
                self._pong()
                return
            if command.id <= 0 and name != "send":
                raise FrameError(f"{name} needs an id above 0")
            if (self.state is NEW) != (name == "connect"):
                raise FrameError("connect comes first, and once")
            result = await self.answer(name, text)
            if command.id and self.state < CLOSING:
                self.push(centrifuge.reply(command.id, name, result))
                pushes, self._after_reply = self._after_reply, ()
                self._push_all(pushes)
        except FrameError as error:
            self.disconnect(centrifuge.BAD_FRAME, str(error))
        except Exception as error:
            self._fail(command, error)
        finally:
            if self.state is CONNECTING:
                self.state = NEW
                self.not_admitted()

    def _fail(self, command: Command, error: Exception) -> None:
        """Answer with the error, if the command has an id."""
        if not isinstance(error, PushServerError) or not error.centrifuge_code:
            self.node.report("a command failed")
            error = CommandError(centrifuge.INTERNAL, "internal server error", temporary=True)
        if isinstance(error, TooMany):
            self.node.note_excess(error, self.address, 0)
        elif isinstance(error, Denied):
            self.node.log_refusal(error.centrifuge_code, self.address, str(error))
        if command.id and self.state < CLOSING:
            self.push(centrifuge.error_reply(command.id, error))

    def _pong(self) -> None:
        if not self._awaiting_pong:
            raise FrameError("a pong without a ping")
        self._awaiting_pong = False


_PONG = Command()
