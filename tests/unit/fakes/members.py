"""Subscribers of a hub over fake sockets, and a clock on which each send takes time."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

from pushserver.hub.audience import Direct
from pushserver.hub.hub import Hub
from pushserver.protocols.formats import Format
from pushserver.transports.outlet import Outlet, make_outlet
from tests.unit.fakes.sockets import PLENTY, Peer
from tests.unit.fakes.tools import PLAIN, Time, Watcher, drive

Make = Callable[..., Outlet] | None
"""Makes a member's outlet; None for a member without one."""

READY = partial(make_outlet, empty=True)


class SlowTime(Time):
    """A clock on which each send takes `cost` seconds; `sends` counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.cost = 0.0
        self.sends = 0

    def spend(self) -> None:
        self.sends += 1
        self.now += self.cost


class Member(Watcher):
    """A subscriber over a fake socket, or without an outlet.

    `frames` are those that it was sent, `written` these and its replies. Each of its next calls
    of `send` does the first of `to_do`.
    """

    def __init__(
        self,
        hub: Hub,
        time: SlowTime,
        name: str = "",
        format_: Format = PLAIN,
        make: Make = READY,
        queue: int = PLENTY,
    ):
        super().__init__(name, format_)
        self.hub = hub
        self.time = time
        self.to_do: list[Callable[[], None]] = []
        self.fails = 0
        self.written = bytearray()
        self.replying = False
        self.peer = Peer(make or READY, (queue, 10.0))
        self.peer.conversation = self
        self.socket = self.peer.socket
        self.socket.on_send = self.sending
        if make is not None:
            self.outlet = self.peer.outlet

    def sending(self, data: bytes) -> None:
        """Note the data of a direct send; the transport writes only bytes noted before."""
        if self.peer.outlet.direct is not None:
            self.written += data
            if not self.replying:
                self.time.spend()
                self.frames.append(data)

    def send(self, frame: bytes) -> None:
        self.time.spend()
        if self.outlet is not None:
            assert self.outlet.direct is None, "it is ready"
            self.peer.outlet.write(frame)
        if not self.peer.slowness:
            self.written += frame
            self.frames.append(frame)
        if self.to_do:
            self.to_do.pop(0)()
        if self.fails:
            self.fails -= 1
            raise ValueError("it fails")

    def block(self, direct: Direct) -> None:
        for audience in self.audiences.values():
            audience.block(self, direct)

    def unblock(self) -> None:
        for audience in self.audiences.values():
            audience.unblock(self)

    def drained(self) -> None: ...

    def reply(self, size: int) -> None:
        """Write bytes that are not a publication."""
        if self.outlet is None or self.peer.slowness:
            return
        text, direct = b" " * size + b"\n", self.outlet.direct
        self.replying = True
        self.peer.outlet.write(text)
        self.replying = False
        if direct is None and not self.peer.slowness:
            self.written += text

    def fill(self) -> None:
        """Let a reply wait."""
        self.socket.room = 0
        self.reply(0)

    @property
    def received(self) -> list[int]:
        """The offsets that the peer has read."""
        lines = bytes(self.socket.taken).splitlines()
        return [json.loads(line)["offset"] for line in lines if line.strip()]

    def join(self, channel: str = "numbers", last: int = 0) -> list[int]:
        """Subscribe; returns the offsets that came from the history."""
        joined = drive(self.hub.subscribe(self, channel, None, last))
        return [publication.offset for publication in joined.publications]

    def leave(self, name: str = "numbers") -> None:
        assert self.hub.unsubscribe(self, name)
