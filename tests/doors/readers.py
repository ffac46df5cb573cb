"""All ways to read a channel, on asyncio, with one interface."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, ClassVar, NamedTuple
from urllib.parse import quote, urlencode

import aiohttp

from tests.e2e.patience import PATIENCE

Jar = dict[str, Any]


class Row(NamedTuple):
    """A publication; None for a field that a way to read does not have."""

    data: Any
    event: str | None = None
    offset: int | None = None
    id: str | None = None
    time: float | None = None


FIELDS = {"channel", "event", "data", "offset", "id", "time"}
"""The keys of a publication object."""
BESIDE = "open:beside"
"""A second channel, which the readers of `/events` read with theirs."""


class Refused(Exception):
    """A refusal; its argument is the status, code or text that the client got."""


class Reader:
    """One way to read one channel.

    `position` is what a client of this way resumes from. `told` is set if it could not resume: to
    the reason, or to True if this way has no reasons.
    """

    protocol = "http"
    """Whose refusals it gets."""
    resumes = True
    """Whether its clients learn a position; else they need a cursor from elsewhere."""
    says_reason = True
    is_limited = True
    """Whether the number of publications of a recovery is limited."""

    def __init__(self, http: aiohttp.ClientSession, port: int, channel: str, token: str = ""):
        self.http, self.port, self.channel, self.token = http, port, channel, token
        self.position: Any = None
        self.told: Any = None
        self.rows: list[Row] = []
        self.gaps: list[int] = []
        """The numbers of publications before each message that it could not resume."""
        self._has_ended = False
        self.both: list[tuple[str, Any]] = []
        """The channel and data of each publication object, those of BESIDE included."""
        self._came = asyncio.Event()
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None

    def url(self, path: str, **query: Any) -> str:
        return f"http://127.0.0.1:{self.port}/{path}" + (
            f"?{urlencode(query, doseq=True)}" if query else ""
        )

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    @property
    def path(self) -> str:
        return f"channels/{quote(self.channel, safe='')}"

    async def open(self, position: Any = None) -> None:
        """Start with the next publication, or after the position; raises Refused."""
        self._task = asyncio.create_task(self._guarded(position))
        await asyncio.wait_for(asyncio.shield(self._ready), PATIENCE)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def take(self, count: int) -> list[Row]:
        """Wait for `count` publications; returns those that it has."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE / 4):
                while len(self.rows) < count and self.is_open:
                    self._came.clear()
                    await self._came.wait()
        return self.rows

    async def gap(self) -> Any:
        """Wait for the message that it could not resume; returns what it said."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE / 4):
                while not self.told and self.is_open:
                    self._came.clear()
                    await self._came.wait()
        return self.told

    async def ended(self) -> None:
        """Wait for the end of the connection."""
        while self.is_open:
            self._came.clear()
            await self._came.wait()

    @property
    def is_open(self) -> bool:
        return self._task is not None and not self._has_ended

    def missed(self, reason: Any) -> None:
        self.told = reason
        self.gaps.append(len(self.rows))
        self._came.set()

    def place(self, id: str, epoch: str, offset: int) -> Any:
        """What this way has as a position, for a cursor and the same place in the channel."""
        return id

    async def run(self, position: Any) -> None:
        raise NotImplementedError

    async def _guarded(self, position: Any) -> None:
        try:
            await self.run(position)
        except (aiohttp.ClientError, ConnectionError, Refused) as error:
            if not self._ready.done():
                status = getattr(error, "status", None)
                found = error if isinstance(error, Refused) else Refused(status or str(error))
                self._ready.set_exception(found)
        finally:
            self._has_ended = True
            self._came.set()
            if not self._ready.done():
                self._ready.set_exception(Refused("ended"))

    def ready(self) -> None:
        if not self._ready.done():
            self._ready.set_result(None)

    def came(self, row: Row) -> None:
        self.rows.append(row)
        self._came.set()

    def came_object(self, value: Jar) -> None:
        """Take a publication object."""
        assert value.keys() == FIELDS, value
        assert value["channel"] in ({self.channel, BESIDE} if self.on_events else {self.channel})
        self.both.append((value["channel"], value["data"]))
        if value["channel"] == self.channel:
            self.came(
                Row(value["data"], value["event"], value["offset"], value["id"], value["time"])
            )

    def take_object(self, value: Any) -> None:
        """Take a publication object, or one of the others of a stream."""
        if "subscribed" in value:
            self.position = value["subscribed"]["id"]
            # A reset follows at once.
            if value["subscribed"]["recovered"] or not self._resuming:
                self.ready()
        elif "reset" in value:
            self.position = value["reset"]["id"]
            self.missed(value["reset"]["reason"])
            self.ready()
        elif "end" not in value:
            self.position = value["id"]
            self.came_object(value)

    form = ""
    """The value of `as=`."""
    on_events = False
    """Whether it reads `/events`, and BESIDE too."""
    _resuming = False

    def stream(self, position: Any) -> str:
        """The URL of a stream that begins there."""
        self._resuming = position is not None
        query: Jar = {"since": position} if self._resuming else {}
        if self.form:
            query["as"] = self.form
        if self.on_events:
            return self.url("events", channel=[self.channel, BESIDE], **query)
        return self.url(self.path, **query)


class Json(Reader):
    """Asks for the history again and again."""

    is_limited = False
    wait: ClassVar[int] = 0

    async def run(self, position: Any) -> None:
        query: Jar = {"since": position or "now"}
        while True:
            if self._ready.done() and self.wait:
                query["wait"] = self.wait
            async with self.http.get(self.url(self.path, **query), headers=self.headers) as answer:
                if answer.status != 200:
                    raise Refused(answer.status)
                value = await answer.json()
            if value.get("recovered") is False:
                self.missed(value["reason"])
            self.position = value["id"]
            query = {"since": value["id"]}
            self.ready()
            for each in value["publications"]:
                self.came_object(each)
            if not self.wait:
                await asyncio.sleep(0.1)


class LongPoll(Json):
    wait = 20


class HtmlHistory(Reader):
    """Asks for the history as HTML: its position and its gaps are fields of the head."""

    is_limited = False

    async def run(self, position: Any) -> None:
        self.position = position or "now"
        while True:
            url = self.url(self.path, **{"as": "html"}, since=self.position)
            headers = {"Accept": "text/html", **self.headers}
            async with self.http.get(url, headers=headers) as answer:
                if answer.status != 200:
                    raise Refused(answer.status)
                if "Pushserver-Reset" in answer.headers:
                    self.missed(answer.headers["Pushserver-Reset"])
                self.position = answer.headers["Pushserver-Cursor"]
                text = await answer.text()
            self.ready()
            for match in FRAGMENT.findall(text):
                self.came(in_fragment(match))
            await asyncio.sleep(0.1)


async def blocks(content: Any) -> AsyncIterator[Jar]:
    """The events of a stream."""
    fields: Jar = {}
    async for raw in content:
        line = raw.decode().rstrip("\n")
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            fields[name] = (
                f"{fields['data']}\n{value}" if name in fields and name == "data" else value
            )
        elif fields:
            yield fields
            fields = {}


class Sse(Reader):
    async def run(self, position: Any) -> None:
        headers = {"Accept": "text/event-stream", **self.headers}
        async with self.http.get(self.stream(position), headers=headers) as answer:
            if answer.status != 200:
                raise Refused(answer.status)
            async for block in blocks(answer.content):
                kind, data = block.get("event", "message"), block.get("data", "")
                if kind == "pushserver-reset":
                    self.missed(json.loads(data)["reason"])
                self.position = block.get("id", self.position)
                if kind in ("pushserver-reset", "pushserver-subscribed"):
                    self.ready()
                elif not kind.startswith("pushserver-"):
                    self.take_block(kind, data)

    def take_block(self, kind: str, data: str) -> None:
        value = json.loads(data)
        assert value["id"] == self.position
        self.came_object(value)


class SseData(Sse):
    def take_block(self, kind: str, data: str) -> None:
        self.came(Row(json.loads(data), kind, id=self.position))


class SseFragments(Sse):
    def take_block(self, kind: str, data: str) -> None:
        self.came(in_fragment(data)._replace(id=self.position))


FRAGMENT = re.compile("~[0-9a-f]+~")
"""What the application makes of a publication."""


def in_fragment(text: str) -> Row:
    """The publication of HTML."""
    [match] = FRAGMENT.findall(text)
    return Row(json.loads(bytes.fromhex(match[1:-1])))


class Lines(Reader):
    async def run(self, position: Any) -> None:
        headers = {"Accept": "application/x-ndjson", **self.headers}
        async with self.http.get(self.stream(position), headers=headers) as answer:
            if answer.status != 200:
                raise Refused(answer.status)
            self.started()
            async for line in answer.content:
                if line.strip():
                    self.take_text(line.decode())

    def started(self) -> None:
        """The answer has begun."""

    def take_text(self, text: str) -> None:
        self.take_object(json.loads(text))


class Raw(Reader):
    async def run(self, position: Any) -> None:
        url = self.stream(position)
        async with self.http.ws_connect(url, headers=self.headers) as socket:
            self.started()
            async for message in socket:
                self.take_text(message.data)

    def started(self) -> None:
        """The handshake is done."""

    def take_text(self, text: str) -> None:
        self.take_object(json.loads(text))


class WithoutPositions(Reader):
    """Its clients start, and resume, with the cursor of a page or of a history."""

    resumes = False

    def started(self) -> None:
        self.ready()

    def take_text(self, text: str) -> None:
        if text.startswith('{"reset":{"reason":'):
            self.missed(json.loads(text)["reset"]["reason"])
        else:
            self.came(self.row(text))

    def row(self, text: str) -> Row:
        return Row(json.loads(text))


class RawData(WithoutPositions, Raw):
    pass


class LinesData(WithoutPositions, Lines):
    pass


class RawFragments(WithoutPositions, Raw):
    def row(self, text: str) -> Row:
        return in_fragment(text)


class Centrifuge(Reader):
    """The Centrifuge protocol, of which each connection here has one subscription."""

    protocol = "centrifuge"
    says_reason = False
    data: ClassVar[Jar] = {"last": 0}

    def commands(self, position: Any) -> list[str]:
        connect: Jar = {"token": self.token} if self.token else {}
        subscribe: Jar = {"channel": self.channel, "data": self.data}
        if position is not None:
            subscribe |= {"recover": True, "epoch": position[0], "offset": position[1]}
        return [
            json.dumps({"id": 1, "connect": connect}),
            json.dumps({"id": 2, "subscribe": subscribe}),
        ]

    def place(self, id: str, epoch: str, offset: int) -> Any:
        return epoch, offset

    def take_lines(self, text: str) -> None:
        # Not `splitlines`: U+2028 ends no line here.
        for line in filter(None, text.split("\n")):
            value = json.loads(line)
            if "error" in value:
                raise Refused(value["error"]["code"])
            if value.get("id") == 2:
                reply = value["subscribe"]
                if reply.get("was_recovering") and not reply.get("recovered"):
                    self.missed(True)
                self.position = reply["epoch"], reply.get("offset", 0)
                for pub in reply.get("publications", []):
                    self.publication(pub)
                self.ready()
            push = value.get("push", {})
            if "pub" in push:
                self.publication(push["pub"])
            if "disconnect" in push:
                raise Refused(push["disconnect"]["code"])
            if "unsubscribe" in push:
                raise Refused(push["unsubscribe"]["code"])

    def publication(self, pub: Jar) -> None:
        self.position = self.position[0], pub["offset"]
        self.came(Row(pub["data"], pub["tags"]["event"], pub["offset"], time=pub["time"] / 1_000))


class CentrifugeSocket(Centrifuge):
    async def run(self, position: Any) -> None:
        url = f"http://127.0.0.1:{self.port}/connection/websocket"
        async with self.http.ws_connect(url) as socket:
            await socket.send_str("\n".join(self.commands(position)))
            async for message in socket:
                if message.data == "{}":
                    await socket.send_str("{}")
                else:
                    self.take_lines(message.data)
            raise Refused(socket.close_code)


class Page(CentrifugeSocket):
    """The live page: its script asks for the number of the first publications too."""

    data: ClassVar[Jar] = {"last": 0, "initial": True}


class CentrifugeStream(Centrifuge):
    async def run(self, position: Any) -> None:
        connect, subscribe = self.commands(position)
        base = f"http://127.0.0.1:{self.port}"
        async with self.begin(base, connect) as answer:
            if answer.status != 200:
                raise Refused(answer.status)
            async for text in self.texts(answer.content):
                value = json.loads(text.split("\n")[0]) if text else {}
                if value.get("id") == 1 and "connect" in value:
                    reply = value["connect"]
                    body = {"session": reply["session"], "node": reply["node"], "data": subscribe}
                    async with self.http.post(f"{base}/emulation", json=body) as sent:
                        if sent.status != 204:
                            raise Refused(sent.status)
                    text = "\n".join(text.split("\n")[1:])
                self.take_lines(text)

    def begin(self, base: str, connect: str) -> Any:
        return self.http.post(f"{base}/connection/http_stream", data=connect)

    async def texts(self, content: Any) -> AsyncIterator[str]:
        async for line in content:
            yield line.decode().strip()


class CentrifugeSse(CentrifugeStream):
    def begin(self, base: str, connect: str) -> Any:
        return self.http.get(f"{base}/connection/sse?{urlencode({'cf_connect': connect})}")

    async def texts(self, content: Any) -> AsyncIterator[str]:
        async for block in blocks(content):
            yield block["data"]


class Io(Reader):
    """Socket.IO. The sign that it could not resume is another `pid`."""

    protocol = "socket.io"
    says_reason = False

    def connect(self, position: Any) -> str:
        auth: Jar = {"token": self.token} if self.token else {}
        if position is not None:
            auth |= {"pid": position[0], "offset": position[1]}
        self._asked = position[0] if position is not None else None
        return f"40/{self.channel},{json.dumps(auth)}"

    def packet(self, text: str) -> str | None:
        """Take a packet; returns what to answer, if it is a ping."""
        if text == "2":
            return "3"
        if text.startswith("41") or text == "1":
            raise Refused("disconnected")
        if text[:2] in ("40", "42", "44"):
            value = json.loads(text[2:].partition(",")[2] if text[2] == "/" else text[2:])
            if text[1] == "4":
                raise Refused(value.get("message"))
            if text[1] == "0":
                if self._asked not in (None, value.get("pid")):
                    self.missed(True)
                self.position = value.get("pid"), ""
                self.ready()
            else:
                event, data, offset = value
                self.position = self.position[0], offset
                self.came(Row(data, event, int(offset.rpartition(":")[2])))
        return None

    def place(self, id: str, epoch: str, offset: int) -> Any:
        return f"{'p' * 16}.{epoch}:{offset}", ""


class IoSocket(Io):
    async def run(self, position: Any) -> None:
        url = f"http://127.0.0.1:{self.port}/socket.io/?EIO=4&transport=websocket"
        async with self.http.ws_connect(url) as socket:
            async for message in socket:
                if message.data.startswith("0"):
                    await socket.send_str(self.connect(position))
                elif answer := self.packet(message.data):
                    await socket.send_str(answer)


class IoPolling(Io):
    async def run(self, position: Any) -> None:
        base = f"http://127.0.0.1:{self.port}/socket.io/?EIO=4&transport=polling"
        async with self.http.get(base) as answer:
            if answer.status != 200:
                raise Refused(answer.status)
            base += f"&sid={json.loads((await answer.text())[1:])['sid']}"
        await self.say(base, self.connect(position))
        while True:
            async with self.http.get(base) as answer:
                if answer.status != 200:
                    raise Refused(answer.status)
                packets = (await answer.text()).split("\x1e")
            for packet in packets:
                if reply := self.packet(packet):
                    await self.say(base, reply)

    async def say(self, url: str, text: str) -> None:
        async with self.http.post(url, data=text) as answer:
            if answer.status != 200:
                raise Refused(answer.status)


def _with(base: type[Reader], **values: Any) -> type[Reader]:
    return type(base.__name__, (base,), values)


READERS: dict[str, type[Reader]] = {
    "page": Page,
    "json": Json,
    "long-poll": LongPoll,
    "sse": Sse,
    "ndjson": Lines,
    "websocket": Raw,
    "sse of /events": _with(Sse, on_events=True),
    "ndjson of /events": _with(Lines, on_events=True),
    "websocket of /events": _with(Raw, on_events=True),
    "as=data, sse": _with(SseData, form="data"),
    "as=data, ndjson": _with(LinesData, form="data"),
    "as=data, websocket": _with(RawData, form="data"),
    "as=html, history": HtmlHistory,
    **{
        f"as={form}, {name}": _with(base, form=form)
        for form in ("html", "htmx", "turbo", "datastar")
        for name, base in (("sse", SseFragments), ("websocket", RawFragments))
        if (form, name) != ("datastar", "websocket")
    },
    "centrifuge, websocket": CentrifugeSocket,
    "centrifuge, http_stream": CentrifugeStream,
    "centrifuge, sse": CentrifugeSse,
    "socket.io, websocket": IoSocket,
    "socket.io, polling": IoPolling,
}
