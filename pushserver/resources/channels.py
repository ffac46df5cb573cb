"""A channel is a URL: what `/channels/{name}` and `/events` answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twisted.web.resource import Resource
from twisted.web.server import Request

from pushserver.channels.names import check_name
from pushserver.protocols.formats import STREAM_LINES, STREAM_SSE, STREAM_WEBSOCKET, StreamFormat
from pushserver.resources.history import history, stream_start
from pushserver.resources.publish import publish
from pushserver.sessions.base import Transport
from pushserver.sessions.event_stream import Stream
from pushserver.sessions.node import Node
from pushserver.web.gate import Gate
from pushserver.web.resource import (
    EVENT_STREAM,
    HTML,
    JSON,
    LINES,
    Answer,
    Door,
    Folder,
    NotHere,
    Open,
    Refusal,
    WebSocket,
    check_no_navigation,
    check_origin,
    is_upgrade,
    wants,
)


@dataclass(frozen=True, slots=True)
class ChannelDoors:
    """What the doors of all channels share.

    `upgrade` and `respond` take a request over as a WebSocket or as a response without an
    end, and call what they are given with the transport; `page` renders the live page
    from the channel's name, the way to the server's root, how many publications the
    history holds, whether this is the front page, and whether it is for somebody who is
    told what fails.
    """

    node: Node
    upgrade: Open
    respond: Open
    page: Callable[[str, str, int, bool, bool], bytes]
    gate: Gate


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

    def __init__(self, doors: ChannelDoors, name: str):
        super().__init__()
        self._doors = doors
        self._name = name

    def answer_get(self, request: Request) -> Answer:
        name = check_name(self._name)
        if is_upgrade(request):
            return self._doors.upgrade(request, *self.websocket(request))
        wanted = wants(request, (JSON, EVENT_STREAM, LINES, HTML))
        if wanted == HTML:
            return live_page(self._doors, request, name, "..")
        if wanted in STREAMS:
            return respond(self._doors, request, wanted, self._begin(request, name))
        if wanted == JSON:
            check_reader(self._doors, request, (name,))
            return history(request, name, self._doors.node)
        raise Refusal(406, f"expected Accept to allow {JSON}, {EVENT_STREAM}, {LINES} or {HTML}")

    def websocket(self, request: Request) -> WebSocket:
        """What a handshake begins."""
        return STREAM_WEBSOCKET, self._begin(request, check_name(self._name))

    def answer_post(self, request: Request) -> Answer:
        return publish(request, check_name(self._name), self._doors.node, self._doors.gate)

    def _begin(self, request: Request, name: str) -> Callable[[Transport[StreamFormat]], Stream]:
        return begin_stream(self._doors, request, (name,))


class FrontDoor(Door):
    """`/`: the live page of the front channel."""

    def __init__(self, doors: ChannelDoors, name: str):
        super().__init__()
        self._doors = doors
        self._name = name

    def answer_get(self, request: Request) -> Answer:
        return live_page(self._doors, request, self._name, ".")


class Events(Door):
    """`/events?channel=a&channel=b`: several channels as one stream with one cursor."""

    def __init__(self, doors: ChannelDoors):
        super().__init__()
        self._doors = doors

    def answer_get(self, request: Request) -> Answer:
        if is_upgrade(request):
            return self._doors.upgrade(request, *self.websocket(request))
        names = self._names(request)
        wanted = wants(request, (EVENT_STREAM, LINES))
        if wanted is None:
            raise Refusal(406, f"expected Accept to allow {EVENT_STREAM} or {LINES}")
        return respond(self._doors, request, wanted, begin_stream(self._doors, request, names))

    def websocket(self, request: Request) -> WebSocket:
        """What a handshake begins."""
        return STREAM_WEBSOCKET, begin_stream(self._doors, request, self._names(request))

    def _names(self, request: Request) -> tuple[str, ...]:
        given = request.args.get(b"channel", [])
        names = tuple(dict.fromkeys(check_name(n.decode("utf-8", "replace")) for n in given))
        limit = self._doors.node.limits.channels_per_client
        if not 0 < len(names) <= limit:
            raise Refusal(400, f"{len(names)} channels, expected 1 to {limit} channel=NAME")
        return names


def live_page(doors: ChannelDoors, request: Request, name: str, root: str) -> bytes:
    """The live page of the channel; `root` is the way from its URL to the server's root."""
    request.setHeader(b"content-type", b"text/html; charset=utf-8")
    request.setHeader(b"cache-control", b"no-cache")
    size = doors.node.history.options(name).history_size
    return doors.page(name, root, size, root == ".", doors.gate.allows(request))


def check_reader(doors: ChannelDoors, request: Request, names: tuple[str, ...]) -> None:
    """Refuse a foreign page, and channels of which the application says who may read them.

    Everybody is asked for a key for those, also on this machine: it is to be here as it will be
    where the server is reached from elsewhere.
    """
    check_origin(request, doors.gate.allowed_origins)
    for name in names:
        if doors.node.handlers.guards(name) and not doors.gate.has_key(request):
            raise Refusal(
                403,
                f"{name} is for clients that subscribe: the application decides who may;"
                " reading it by plain HTTP needs an X-API-Key (auth.api_keys)",
            )


def begin_stream(
    doors: ChannelDoors, request: Request, names: tuple[str, ...]
) -> Callable[[Transport[StreamFormat]], Stream]:
    """What makes the stream that the request asks for, once it has its transport."""
    check_reader(doors, request, names)
    node = doors.node
    start = stream_start(request, node.limits.read_limit)

    def begin(transport: Transport[StreamFormat]) -> Stream:
        stream = Stream(node, transport)
        node.run(stream.follow(names, start))
        return stream

    return begin


def respond(
    doors: ChannelDoors,
    request: Request,
    media: str,
    begin: Callable[[Transport[StreamFormat]], Stream],
) -> Answer:
    """Answer with a stream of this media type."""
    check_no_navigation(request)
    request.setHeader(b"content-type", media.encode())
    request.setHeader(b"cache-control", b"no-store")
    if request.method == b"HEAD":
        return b""
    return doors.respond(request, STREAMS[media], begin)


STREAMS = {EVENT_STREAM: STREAM_SSE, LINES: STREAM_LINES}
