"""`/channels/{name}`, `/events` and `/`: reading channels as a page, a stream or a history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from twisted.web.resource import Resource
from twisted.web.server import Request

from pushserver.auth.proxies import Trust
from pushserver.channels.names import check_name
from pushserver.protocols.formats import STREAM_LINES, STREAM_SSE, STREAM_WEBSOCKET, StreamFormat
from pushserver.resources.bulk import Bulks
from pushserver.resources.channel_list import channel_list, check_lister
from pushserver.resources.history import history, stream_start
from pushserver.resources.publish import publish
from pushserver.sessions.base import Transport
from pushserver.sessions.event_stream import Stream
from pushserver.sessions.node import Node
from pushserver.web.checks import check_no_navigation, check_origin
from pushserver.web.gate import Gate
from pushserver.web.mount import to_folder
from pushserver.web.resource import (
    EVENT_STREAM,
    HTML,
    JSON,
    LINES,
    Answer,
    ContainerResource,
    LeafResource,
    NotFound,
    Open,
    Refusal,
    WebSocket,
    is_upgrade,
    wants,
)


@dataclass(frozen=True, slots=True)
class ChannelContext:
    """The shared state of the resources of channels.

    `upgrade` and `respond` take over a request as a WebSocket or as an endless response. `page`
    renders the live page; its arguments are the channel's name, the relative path to the server's
    root, the history size in publications, whether this is the front page, and whether failures
    are shown. `list_page` renders the list of channels; its argument is that path.
    """

    node: Node
    upgrade: Open
    respond: Open
    page: Callable[[str, str, int, bool, bool], bytes]
    gate: Gate
    trust: Trust
    list_page: Callable[[str], bytes]
    bulks: Bulks = field(default_factory=Bulks)


class ChannelsResource(ContainerResource):
    """`/channels/`: one resource for each name, made on request."""

    def __init__(self, context: ChannelContext):
        super().__init__()
        self._context = context

    def render(self, request: Request) -> bytes | int:
        if request.method in (b"GET", b"HEAD"):
            return to_folder(request)
        return super().render(request)

    def getChild(self, path: bytes, request: Request) -> Resource:
        if request.postpath:
            return NotFound("expected /channels/NAME")
        if not path:
            return ChannelListResource(self._context)
        return ChannelResource(self._context, path.decode("utf-8", "replace"))


class ChannelListResource(LeafResource):
    """`/channels/`: the list of all channels, for programs on this machine and with an API key."""

    def __init__(self, context: ChannelContext):
        super().__init__()
        self._context = context

    def answer_get(self, request: Request) -> bytes:
        wanted = wants(request, (JSON, HTML))
        if wanted is None:
            raise Refusal(406, f"expected Accept to allow {JSON} or {HTML}")
        check_lister(request, self._context.gate)
        if wanted == JSON:
            return channel_list(request, self._context.node)
        request.setHeader(b"content-type", b"text/html; charset=utf-8")
        request.setHeader(b"cache-control", b"no-cache")
        return self._context.list_page("..")


class ChannelResource(LeafResource):
    """One channel, in the form that the request prefers."""

    def __init__(self, context: ChannelContext, name: str):
        super().__init__()
        self._context = context
        self._name = name

    def answer_get(self, request: Request) -> Answer:
        name = check_name(self._name)
        if is_upgrade(request):
            return self._context.upgrade(request, *self.websocket(request))
        wanted = wants(request, (JSON, EVENT_STREAM, LINES, HTML))
        if wanted == HTML:
            return live_page(self._context, request, name, "..")
        if wanted in STREAMS:
            return respond(self._context, request, wanted, self._stream_maker(request, name))
        if wanted == JSON:
            check_reader(self._context, request, (name,))
            return history(request, name, self._context.node)
        raise Refusal(406, f"expected Accept to allow {JSON}, {EVENT_STREAM}, {LINES} or {HTML}")

    def websocket(self, request: Request) -> WebSocket:
        """Accept a handshake; see `web.resource.WebSocket`."""
        return STREAM_WEBSOCKET, self._stream_maker(request, check_name(self._name))

    def answer_post(self, request: Request) -> Answer:
        context = self._context
        name = check_name(self._name)
        return publish(request, name, context.node, context.gate, context.bulks)

    def _stream_maker(
        self, request: Request, name: str
    ) -> Callable[[Transport[StreamFormat]], Stream]:
        return stream_maker(self._context, request, (name,))


class FrontResource(LeafResource):
    """`/`: the live page of the front channel."""

    def __init__(self, context: ChannelContext, name: str):
        super().__init__()
        self._context = context
        self._name = name

    def answer_get(self, request: Request) -> Answer:
        return live_page(self._context, request, self._name, ".")


class EventsResource(LeafResource):
    """`/events?channel=a&channel=b`: several channels as one stream with one cursor."""

    def __init__(self, context: ChannelContext):
        super().__init__()
        self._context = context

    def answer_get(self, request: Request) -> Answer:
        if is_upgrade(request):
            return self._context.upgrade(request, *self.websocket(request))
        names = self._names(request)
        wanted = wants(request, (EVENT_STREAM, LINES))
        if wanted is None:
            raise Refusal(406, f"expected Accept to allow {EVENT_STREAM} or {LINES}")
        return respond(self._context, request, wanted, stream_maker(self._context, request, names))

    def websocket(self, request: Request) -> WebSocket:
        """Accept a handshake; see `web.resource.WebSocket`."""
        return STREAM_WEBSOCKET, stream_maker(self._context, request, self._names(request))

    def _names(self, request: Request) -> tuple[str, ...]:
        given = request.args.get(b"channel", [])
        names = tuple(dict.fromkeys(check_name(n.decode("utf-8", "replace")) for n in given))
        limit = self._context.node.limits.channels_per_client
        if not 0 < len(names) <= limit:
            raise Refusal(400, f"{len(names)} channels, expected 1 to {limit} channel=NAME")
        return names


def live_page(context: ChannelContext, request: Request, name: str, root: str) -> bytes:
    """The live page of the channel; `root` is the relative path to the server's root."""
    request.setHeader(b"content-type", b"text/html; charset=utf-8")
    request.setHeader(b"cache-control", b"no-cache")
    size = context.node.history.options(name).history_size
    return context.page(name, root, size, root == ".", context.gate.allows(request))


def check_reader(context: ChannelContext, request: Request, names: tuple[str, ...]) -> None:
    """Refuse a page of another origin, and channels with a `subscribe` handler without a key.

    A program on this machine needs the key too, so that development and production are alike.
    """
    check_origin(request, context.trust)
    for name in names:
        if context.node.handlers.guards(name) and not context.gate.has_key(request):
            raise Refusal(
                403,
                f"the application decides which clients may subscribe to {name};"
                " reading it by plain HTTP needs an X-API-Key (auth.api_keys)",
            )


def stream_maker(
    context: ChannelContext, request: Request, names: tuple[str, ...]
) -> Callable[[Transport[StreamFormat]], Stream]:
    """Return the function that makes the requested stream for its transport."""
    check_reader(context, request, names)
    node = context.node
    start = stream_start(request, node.limits.read_limit)

    def make_stream(transport: Transport[StreamFormat]) -> Stream:
        stream = Stream(node, transport)
        node.run(stream.follow(names, start))
        return stream

    return make_stream


def respond(
    context: ChannelContext,
    request: Request,
    media: str,
    make_stream: Callable[[Transport[StreamFormat]], Stream],
) -> Answer:
    """Answer with a stream of this media type."""
    check_no_navigation(request)
    request.setHeader(b"content-type", media.encode())
    request.setHeader(b"cache-control", b"no-store")
    if request.method == b"HEAD":
        return b""
    return context.respond(request, STREAMS[media], make_stream)


STREAMS = {EVENT_STREAM: STREAM_SSE, LINES: STREAM_LINES}
