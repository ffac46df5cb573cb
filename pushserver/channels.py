"""A channel is a URL: what `/channels/{name}` answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
from msgspec import Raw
from twisted.web.resource import Resource
from twisted.web.server import Request

from pushserver import formats
from pushserver.answers import (
    EVENT_STREAM,
    HTML,
    JSON,
    Answer,
    Door,
    Folder,
    NotHere,
    Open,
    Refusal,
    check_origin,
    is_upgrade,
    number,
    wants,
)
from pushserver.channel import InvalidName, Publication, check_name
from pushserver.cursor import Cursor, Start
from pushserver.node import Node
from pushserver.stream import Stream, Transport


@dataclass(frozen=True, slots=True)
class ChannelDoors:
    """What the doors of all channels share.

    `upgrade` and `respond` take a request over as a WebSocket or as a response without an
    end, and call what they are given with the transport; `page` renders the live page
    from the channel's name, the way to the server's root, how many publications the
    history holds, and whether this is the front page.
    """

    node: Node
    upgrade: Open
    respond: Open
    page: Callable[[str, str, int, bool], bytes]
    allowed_origins: frozenset[str]


class Channels(Folder):
    """`/channels/`: a door for each name, made when it is asked for."""

    def __init__(self, doors: ChannelDoors):
        super().__init__()
        self._doors = doors

    def getChild(self, path: bytes, request: Request) -> Resource:
        if request.postpath or not path:
            return NotHere("expected /channels/NAME")
        return ChannelDoor(self._doors, path.decode("utf-8", "replace"))


class ChannelDoor(Door):
    """One channel, as whatever the request prefers."""

    def __init__(self, doors: ChannelDoors, name: str, root: str = ".."):
        super().__init__()
        self._doors = doors
        self._name = name
        self._root = root

    def answer_get(self, request: Request) -> Answer:
        name = self._check_name()
        if is_upgrade(request):
            return self._websocket(request, name)
        wanted = wants(request, (JSON, EVENT_STREAM, HTML))
        if wanted == HTML:
            return self._page(request)
        if wanted == EVENT_STREAM:
            return self._events(request, name)
        if wanted == JSON:
            return self._history(request, name)
        raise Refusal(406, f"expected Accept to allow {JSON}, {EVENT_STREAM} or {HTML}")

    def _page(self, request: Request) -> bytes:
        size = self._doors.node.hub.history.options(self._name).history_size
        request.setHeader(b"content-type", b"text/html; charset=utf-8")
        request.setHeader(b"cache-control", b"no-cache")
        return self._doors.page(self._name, self._root, size, self._root == ".")

    def _check_name(self) -> str:
        try:
            return check_name(self._name)
        except InvalidName as error:
            raise Refusal(400, str(error)) from None

    def _history(self, request: Request, name: str) -> bytes:
        history = self._doors.node.hub.history
        channel = history.peek(name)
        last = number(request, "last", channel.options.history_size, channel.options.history_size)
        rows = channel.last(last or 0)
        request.setHeader(b"content-type", JSON.encode())
        request.setHeader(b"cache-control", b"no-store")
        return _history_object(name, rows, history.epoch, channel.top, history.seq)

    def _start(self, request: Request, name: str) -> Start:
        size = self._doors.node.hub.history.options(name).history_size
        return Start(last=number(request, "last", None, size))

    def _websocket(self, request: Request, name: str) -> int:
        begin = self._begin(request, name)
        return self._doors.upgrade(request, formats.STREAM_WEBSOCKET, begin)

    def _events(self, request: Request, name: str) -> Answer:
        begin = self._begin(request, name)
        request.setHeader(b"content-type", EVENT_STREAM.encode())
        if request.method == b"HEAD":
            return b""
        return self._doors.respond(request, formats.STREAM_SSE, begin)

    def _begin(self, request: Request, name: str) -> Callable[[Transport], Stream]:
        check_origin(request, self._doors.allowed_origins)
        start, node = self._start(request, name), self._doors.node

        def begin(transport: Transport) -> Stream:
            stream = Stream(node, transport)
            node.run(stream.follow((name,), start))
            return stream

        return begin


class FrontDoor(ChannelDoor):
    """`/`: the live page of the front channel."""

    def __init__(self, doors: ChannelDoors, name: str):
        super().__init__(doors, name, root=".")

    def answer_get(self, request: Request) -> Answer:
        return self._page(request)


class HistoryObject(msgspec.Struct):
    """A history answer; `offset` and `id` say where the channel stands now, to go on from."""

    channel: str
    publications: list[Raw]
    epoch: str
    offset: int
    id: str


def _history_object(
    name: str, rows: Sequence[Publication], epoch: str, offset: int, seq: int
) -> bytes:
    objects = [Raw(formats.publication_object(row)) for row in rows]
    answer = HistoryObject(name, objects, epoch, offset, str(Cursor(epoch, seq)))
    return msgspec.json.encode(answer) + b"\n"
