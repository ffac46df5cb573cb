"""Clients that follow one channel across restarts of the server: one class for each transport.

Each connects again after a random pause of up to half a second, with its last position.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

from benchmarks.floods import frame, request, upgrade

CHANNEL = "restarts"
PAUSE_SECONDS = 0.5
LONGEST = 1 << 24
"""The bytes of the longest line."""

CUT = (OSError, EOFError)
"""The connection ended, or there is none."""


class Refused(OSError):
    """An answer other than 200, 204 or 101."""


@dataclass(slots=True)
class Record:
    """The numbers that a client received: 1, 2, 3 … in order, if nothing is lost."""

    last: int = 0
    lost: int = 0
    doubled: int = 0
    resets: int = 0
    """How often the server told the client that it cannot recover."""
    refused: int = 0
    """Connections and requests that the server refused."""
    connects: int = 0
    pause: float = 0.0
    """The most seconds between two publications."""
    at: float = 0.0

    def take(self, number: int, now: float) -> None:
        """A publication has arrived; `now` in seconds."""
        if number <= self.last:
            self.doubled += 1
            return
        self.lost += number - self.last - 1
        if self.last:
            self.pause = max(self.pause, now - self.at)
        self.last, self.at = number, now


@dataclass(slots=True)
class Stream:
    """One HTTP connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, sent: bytes) -> dict[str, str]:
        """Send a request; returns the headers of its answer, raises Refused."""
        self.writer.write(sent)
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("ascii").split("\r\n")
        status = head[0].split()[1]
        if status not in ("101", "200", "204"):
            raise Refused(status)
        return dict(line.lower().split(": ", 1) for line in head[1:] if line)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The parts of an answer with Transfer-Encoding: chunked."""
        while size := int(await self.reader.readuntil(b"\n"), 16):
            yield (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readexactly(2)

    async def lines(self) -> AsyncIterator[str]:
        """The lines of such an answer."""
        rest = b""
        async for part in self.chunks():
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                yield line.decode()

    async def messages(self) -> AsyncIterator[str]:
        """The texts of a WebSocket until it is closed; answers pings."""
        while True:
            opcode, size = await self.reader.readexactly(2)
            if size > 125:
                size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8))
            payload = await self.reader.readexactly(size)
            if opcode == 0x89:
                self.writer.write(frame(0xA, payload))
            elif opcode == 0x88:
                self.writer.write(frame(0x8, payload))
                return
            else:
                yield payload.decode()


@dataclass(slots=True)
class Follower:
    """A client of one transport; `subscribed` is set once it has a position."""

    port: int
    name: ClassVar[str]
    record: Record = field(default_factory=Record)
    subscribed: asyncio.Event = field(default_factory=asyncio.Event)
    position: str = ""
    channel: str = CHANNEL

    async def follow(self) -> None:
        """Connect again and again, until cancelled."""
        while True:
            writer = None
            try:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", self.port, limit=LONGEST
                )
                self.record.connects += 1
                await self.read(Stream(reader, writer))
            except Refused:
                self.record.refused += 1
            except CUT:
                if writer is None:
                    self.record.refused += 1
            finally:
                if writer is not None:
                    writer.close()
            if writer is not None:
                with suppress(*CUT):
                    await writer.wait_closed()
            await asyncio.sleep(random.uniform(0, PAUSE_SECONDS))

    async def read(self, stream: Stream) -> None:
        """Read one connection to its end; raises one of CUT."""
        raise NotImplementedError

    def begin(self, position: str) -> None:
        """The connection has this position."""
        self.position = self.position or position
        self.subscribed.set()

    def take(self, publication: Any) -> None:
        """A publication with its cursor."""
        self.record.take(publication["data"], time.monotonic())
        self.position = publication["id"]

    def take_object(self, found: Any) -> None:
        """An object of a stream of JSON."""
        if "subscribed" in found:
            self.begin(found["subscribed"]["id"])
        elif "reset" in found:
            self.record.resets += 1
            self.position = found["reset"]["id"]
        else:
            self.take(found)

    @property
    def path(self) -> str:
        """The path with the cursor."""
        return f"/channels/{self.channel}?since={self.position or 'now'}"


class RawWebSocket(Follower):
    """A WebSocket at the channel."""

    name = "raw WebSocket"

    async def read(self, stream: Stream) -> None:
        await stream.ask(upgrade(self.path))
        async for text in stream.messages():
            self.take_object(json.loads(text))


class Lines(Follower):
    """A stream of lines of JSON."""

    name = "lines of JSON"

    async def read(self, stream: Stream) -> None:
        await stream.ask(request(f"GET {self.path}", "Accept: application/x-ndjson"))
        async for line in stream.lines():
            if line:
                self.take_object(json.loads(line))


class Events(Follower):
    """Server-Sent Events, as EventSource reads them."""

    name = "Server-Sent Events"

    async def read(self, stream: Stream) -> None:
        last = (f"Last-Event-ID: {self.position}",) if self.position else ()
        await stream.ask(
            request(f"GET /channels/{self.channel}", "Accept: text/event-stream", *last),
        )
        event: dict[str, str] = {}
        async for line in stream.lines():
            if line:
                name, _, value = line.partition(": ")
                event[name] = value
            elif event:
                self._dispatch(event)
                event = {}

    def _dispatch(self, event: dict[str, str]) -> None:
        if "data" not in event:
            return
        if event.get("event") == "pushserver-reset":
            self.record.resets += 1
        if "id" in event and "event" in event:
            self.position = event["id"]
            self.subscribed.set()
        elif "event" not in event:
            self.take(json.loads(event["data"]))


class LongPoll(Follower):
    """One request after the other, on one connection."""

    name = "long-poll"

    async def read(self, stream: Stream) -> None:
        while True:
            wait = "&wait=25" if self.position else "&limit=0"
            headers = await stream.ask(request(f"GET {self.path}{wait}"))
            if "content-length" in headers:
                body = await stream.reader.readexactly(int(headers["content-length"]))
            else:
                body = b"".join([part async for part in stream.chunks()])
            answer = json.loads(body)
            self.record.resets += answer.get("recovered") is False
            for publication in answer["publications"]:
                self.take(publication)
            self.position = answer["id"]
            self.subscribed.set()
            if headers.get("connection") == "close":
                return


class Centrifuge(Follower):
    """A client of the Centrifuge protocol; its position is an epoch and an offset."""

    name = "Centrifuge protocol"

    async def read(self, stream: Stream) -> None:
        await stream.ask(upgrade("/connection/websocket"))
        stream.writer.write(frame(1, self._commands()))
        async for text in stream.messages():
            for line in text.splitlines():
                if line == "{}":
                    stream.writer.write(frame(1, b"{}"))
                    continue
                found = json.loads(line)
                if self._must_subscribe(found):
                    stream.writer.write(frame(1, self._encoded(self._subscribe())))
                else:
                    self._take_reply(found)

    def _commands(self) -> bytes:
        """The commands that begin a connection."""
        return self._encoded({"id": 1, "connect": {}}, self._subscribe())

    def _subscribe(self) -> Any:
        """The command that continues from the position."""
        subscribe: dict[str, Any] = {"channel": self.channel}
        if self.position:
            epoch, _, offset = self.position.partition(":")
            subscribe |= {"recover": True, "epoch": epoch, "offset": int(offset)}
        return {"id": 2, "subscribe": subscribe}

    def _encoded(self, *commands: Any) -> bytes:
        return "\n".join(map(json.dumps, commands)).encode()

    def _must_subscribe(self, found: Any) -> bool:
        """Whether the server has ended the subscription, as its state does not suffice."""
        return bool(found.get("push", {}).get("unsubscribe"))

    def _take_reply(self, found: Any) -> None:
        if "error" in found:
            raise Refused(found["error"])
        if "subscribe" in found:
            reply = found["subscribe"]
            self.record.resets += "was_recovering" in reply and "recovered" not in reply
            self._keep(reply["epoch"], reply.get("offset", 0))
            self._take_all(reply.get("publications", ()))
            self.subscribed.set()
        elif "pub" in found.get("push", {}):
            self._take_all([found["push"]["pub"]])

    def _take_all(self, publications: Any) -> None:
        for publication in publications:
            self.record.take(publication["data"], time.monotonic())
            self._keep(self.position.partition(":")[0], publication["offset"])

    def _keep(self, epoch: str, offset: int) -> None:
        self.position = f"{epoch}:{offset}"


class HttpStream(Centrifuge):
    """A client of the Centrifuge protocol where WebSockets are blocked."""

    name = "Centrifuge protocol over HTTP"

    async def read(self, stream: Stream) -> None:
        await stream.ask(request("POST /connection/http_stream", body=self._commands()))
        session: dict[str, str] = {}
        async for line in stream.lines():
            if line == "{}":
                await self._send(session, b"{}")
            elif line:
                found = json.loads(line)
                if "connect" in found:
                    session = {key: found["connect"][key] for key in ("session", "node")}
                if self._must_subscribe(found):
                    await self._send(session, self._encoded(self._subscribe()))
                else:
                    self._take_reply(found)

    async def _send(self, session: dict[str, str], commands: bytes) -> None:
        """Send commands, by a request of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            body = json.dumps({**session, "data": commands.decode()}).encode()
            await Stream(reader, writer).ask(request("POST /emulation", body=body))
        finally:
            writer.close()


KINDS: tuple[type[Follower], ...] = (
    Centrifuge,
    HttpStream,
    RawWebSocket,
    Events,
    Lines,
    LongPoll,
)
