"""Readers that compare all that they receive with the plain list."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pushserver.channels.position import Start, parse_cursor
from pushserver.errors import Unavailable
from pushserver.sessions.commands import answer
from pushserver.sessions.event_stream import Stream
from pushserver.sessions.session import Session
from tests.unit.fakes.tools import LINES, TEXT, FakeTransport
from tests.unit.store.plain_list import OPTIONS, Attempt, Lists

ZERO = ("", 0)
"""The position of a client that knows nothing of the channel."""


class Guest:
    """A reader: what it received last of each channel, over all its connections."""

    def __init__(self, world: Lists):
        self.world = world
        self.next: dict[str, int] = {}
        """By live channel: the index of the next number in the plain list."""
        self.stale: set[str] = set()
        """Channels whose position is of another epoch, by a start."""
        self.forgets: dict[str, int] = {}
        self.transport: FakeTransport | None = None
        self.live: set[str] = set()

    @property
    def online(self) -> bool:
        transport = self.transport
        return transport is not None and transport.closed is None and not transport.aborted

    def connect(self, format_: Any) -> FakeTransport:
        self.live.clear()
        transport = self.transport = FakeTransport(format_)
        transport.on_write = lambda frame: self.read(transport, frame)
        return transport

    def read(self, transport: FakeTransport, frame: bytes) -> None:
        """Process all lines of a frame; then an operation of the test may run."""
        with self.world.noted():
            assert self.transport is transport, "a frame on an old connection"
            self.take_frame([json.loads(line) for line in frame.splitlines()])
        self.world.run_reaction()

    def take_frame(self, values: list[dict[str, Any]]) -> None:
        raise NotImplementedError

    def got(self, channel: str, rows: Sequence[dict[str, Any]]) -> None:
        """Receive publications, which must be the next ones."""
        assert channel in self.live, "it left"
        for row in rows:
            numbers, index = self.world.logs[channel].numbers, self.next[channel]
            assert index < len(numbers), "delivered and not in the list"
            assert row["data"] == numbers[index], "twice, missing or out of order"
            self.next[channel] = index + 1
        self.forgets[channel] = self.world.forgets

    def start(self, channel: str, ahead: int) -> None:
        """Begin in this channel `ahead` rows before its present end."""
        self.live.add(channel)
        self.next[channel] = len(self.world.logs[channel].numbers) - ahead
        self.stale.discard(channel)
        self.forgets[channel] = self.world.forgets

    def resume(self, channel: str) -> None:
        """Continue in this channel after the last publication."""
        assert channel not in self.stale, "recovered in a numbering that has ended"
        self.live.add(channel)

    def check_told(self, channels: Sequence[str], reason: str) -> None:
        """A reader of these channels was not recovered: there must be a reason."""
        assert any(self._misses(channel) for channel in channels), f"told {reason} for no reason"
        if reason == "epoch":
            assert self.stale.intersection(channels) or self._forgotten(channels)

    def _misses(self, channel: str) -> bool:
        log, index = self.world.logs[channel], self.next[channel]
        missed = log.numbers[index:]
        return (
            channel in self.stale
            or self._forgotten([channel])
            or bool(self.world.clearing[channel])
            or not {row.number for row in log.kept}.issuperset(missed)
            or len(missed) > OPTIONS[channel].recovery_limit
        )

    def _forgotten(self, channels: Sequence[str]) -> bool:
        return any(self.forgets[channel] < self.world.forgets for channel in channels)

    def check_live(self) -> None:
        """Nothing is under way: every live channel is read to its end."""
        if self.online:
            for channel in self.live:
                assert self.next[channel] == len(self.world.logs[channel].numbers), "a gap"

    def new_run(self, epoch_is_new: bool) -> None:
        """The server was started again."""
        self.transport = None
        self.live.clear()
        if epoch_is_new:
            self.stale.update(self.next)


class Client(Guest):
    """A client of the Centrifuge protocol, with a position in each channel."""

    def __init__(self, world: Lists):
        super().__init__(world)
        self.positions: dict[str, tuple[str, int]] = {}
        self.session: Session | None = None
        self.asked: dict[int, tuple[str, Any]] = {}
        self.count = 0

    def connect_session(self) -> None:
        transport = self.connect(TEXT)
        self.asked.clear()
        self.session = Session(self.world.node, transport, answer)
        self.command("connect")

    def command(self, name: str, context: Any = None, /, **fields: Any) -> None:
        self.count += 1
        self.asked[self.count] = name, context
        assert self.session is not None
        self.session.received(json.dumps({"id": self.count, name: fields}).encode())

    def come(self, channel: str) -> None:
        """Subscribe, from the last position if there is one."""
        if not self.online:
            self.connect_session()
        waits = any(context == channel for _, context in self.asked.values())
        if channel in self.live or waits or not self.online:
            return
        position = self.positions.get(channel)
        if position is None:
            self.command("subscribe", channel, channel=channel)
        else:
            epoch, offset = position
            self.command(
                "subscribe", channel, channel=channel, recover=True, epoch=epoch, offset=offset
            )

    def come_from_zero(self, channel: str) -> None:
        """Subscribe from the position before everything, as the SDKs do after `getState`."""
        if channel not in self.live and not self.asked:
            self.positions[channel] = ZERO
            self.come(channel)

    def go(self, channel: str) -> None:
        if self.online and channel in self.live and not self.asked:
            self.command("unsubscribe", None, channel=channel)
            self.live.discard(channel)

    def publish(self, channel: str, method: str) -> None:
        """Publish by the protocol or by a handler; its reply is that of the command."""
        if not self.online:
            self.connect_session()
        if self.online:
            attempt = self.world.attempt(channel)
            if method == "rpc":
                self.command("rpc", attempt, method=channel, data=attempt.number)
            else:
                self.command("publish", attempt, channel=channel, data=attempt.number)

    def vanish(self) -> None:
        if self.online:
            assert self.session is not None
            assert self.transport is not None
            for method, context in self.asked.values():
                if method in ("publish", "rpc"):
                    context.lost = True
            self.transport.aborted = True
            self.live.clear()
            self.session.closed()

    def take_frame(self, values: list[dict[str, Any]]) -> None:
        for value in values:
            if "push" in value:
                self._push(value["push"])
            elif value:
                method, context = self.asked.pop(value["id"])
                getattr(self, f"_{method}_reply")(context, value)

    def _push(self, push: dict[str, Any]) -> None:
        if "pub" in push:
            channel, pub = push["channel"], push["pub"]
            self.got(channel, [pub])
            self._advance(channel, [pub])

    def _advance(self, channel: str, rows: Sequence[dict[str, Any]]) -> None:
        for row in rows:
            epoch, offset = self.positions[channel]
            assert row["offset"] == offset + 1, "a gap in the offsets"
            self.world.note(channel, epoch, row["offset"], row["data"])
            self.positions[channel] = epoch, row["offset"]

    def _connect_reply(self, _: None, value: dict[str, Any]) -> None:
        assert "connect" in value

    def _unsubscribe_reply(self, _: None, value: dict[str, Any]) -> None:
        assert "unsubscribe" in value

    def _publish_reply(self, attempt: Attempt, value: dict[str, Any]) -> None:
        if "error" in value:
            attempt.outcome = Unavailable(value["error"]["message"])
            assert value["error"]["code"] in (100, 106)
            self.world.refused(attempt)
        else:
            self.world.answered_without_receipt(attempt)

    _rpc_reply = _publish_reply

    def _subscribe_reply(self, channel: str, value: dict[str, Any]) -> None:
        if "error" in value:
            assert value["error"]["code"] == 106
            self.world.check_full([channel])
            return
        result = value["subscribe"]
        rows, position = result.get("publications", []), self.positions.get(channel)
        offset = result.get("offset", 0)
        recovered = result.get("recovered", False)
        if position == ZERO:
            assert recovered, "the zero position is always recovered"
            log = self.world.logs[channel]
            assert [row["data"] for row in rows] == [row.number for row in log.kept] or (
                self.world.clearing[channel]
            ), "not all that is retained"
            self.start(channel, len(rows))
        elif not recovered:
            if position is not None:
                assert result["was_recovering"]
                self.check_told([channel], "")
            offset -= len(rows)
            self.start(channel, len(rows))
        else:
            assert position is not None
            # A channel that was forgotten when the client came has another epoch after a kill, if
            # the store still had it: the position was a place in the log.
            assert offset == position[1] or (result["epoch"] != position[0] and not position[1])
            self.resume(channel)
        self.positions[channel] = result["epoch"], offset
        self.got(channel, rows)
        self._advance(channel, rows)
        assert self.next[channel] == len(self.world.logs[channel].numbers), "a gap after joining"


class Listener(Guest):
    """A stream of some channels with one cursor."""

    def __init__(self, world: Lists, channels: tuple[str, ...]):
        super().__init__(world)
        self.channels = channels
        self.cursor = ""
        self.stream: Stream | None = None
        self._lines: list[dict[str, Any]] = []
        self._offsets: dict[str, tuple[str, int]] = {}

    def come(self, oldest: bool = False) -> None:
        """Open a stream, from the last cursor if there is one."""
        if self.online:
            return
        if oldest:
            self.cursor = ""
        self.stream = Stream(self.world.node, self.connect(LINES))
        since = parse_cursor(self.cursor) if self.cursor else None
        start = Start(since, None if since or oldest else 1, oldest)
        self.world.run(self.stream.follow(self.channels, start))
        assert self.transport is not None
        if self.transport.closed is not None:
            assert self.transport.closed[0] == 1013
            self.world.check_full(self.channels)
            self.vanish_refused()

    def vanish_refused(self) -> None:
        """End the connection of a stream that was refused."""
        assert self.stream is not None
        self.transport = None
        self.stream.closed()

    def vanish(self) -> None:
        if self.online:
            assert self.stream is not None
            assert self.transport is not None
            self.transport.aborted = True
            self.live.clear()
            self.stream.closed()

    def take_frame(self, values: list[dict[str, Any]]) -> None:
        if "subscribed" in values[0]:
            self._open(values)
        for value in values:
            if "data" in value:
                self._receive(value)
        if "subscribed" in values[0]:
            self.check_live()

    def _receive(self, value: dict[str, Any]) -> None:
        channel, number = value["channel"], value["data"]
        self.got(channel, [value])
        epoch, offset = self._offsets[channel]
        assert value["offset"] == offset + 1, "a gap in the offsets"
        self._offsets[channel] = epoch, value["offset"]
        self.world.note(channel, epoch, value["offset"], number)
        self.world.note_id(value["id"], number)
        self.cursor = value["id"]

    def _open(self, values: list[dict[str, Any]]) -> None:
        subscribed = [value["subscribed"] for value in values if "subscribed" in value]
        resets = [value["reset"] for value in values if "reset" in value]
        assert [opening["channel"] for opening in subscribed] == list(self.channels)
        recovered = {opening["recovered"] for opening in subscribed}
        assert recovered == {bool(self.cursor) and not resets}
        if resets:
            assert self.cursor, "told without a cursor"
            if not any(map(self._lost_after_cursor, self.channels)):
                self.check_told(self.channels, resets[0]["reason"])
        for opening in subscribed:
            channel = opening["channel"]
            self._offsets[channel] = opening["epoch"], opening["offset"]
            if True in recovered:
                self.resume(channel)
                # The cursor may be older than the start of the stream, if it began with a
                # publication of one channel and another one had lost later ones.
                self.next[channel] = self._index_after_cursor(channel)
            else:
                self.start(channel, sum(value.get("channel") == channel for value in values))
        self.cursor = subscribed[0]["id"]

    def _index_after_cursor(self, channel: str) -> int:
        (at,), seqs = parse_cursor(self.cursor).parts, self.world.seqs
        return sum(seqs[number] <= at.seq for number in self.world.logs[channel].numbers)

    def _lost_after_cursor(self, channel: str) -> bool:
        """Whether a publication after the cursor is gone, which may be from before the stream."""
        log = self.world.logs[channel]
        kept = {row.number for row in log.kept}
        return not kept.issuperset(log.numbers[self._index_after_cursor(channel) :])
