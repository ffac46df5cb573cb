"""Streams of channels: their WebSockets, and their responses of events or lines."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from twisted.web.server import Request

from pushserver.auth.identity import ANONYMOUS, Identity
from pushserver.errors import LimitExceeded, Unavailable
from pushserver.protocols.formats import StreamFormat
from pushserver.protocols.representations import Representation
from pushserver.resources.as_query import websocket_format
from pushserver.resources.fragments import Fragments
from pushserver.resources.history import stream_start
from pushserver.sessions.arriving import arrive
from pushserver.sessions.base import Transport
from pushserver.sessions.event_stream import Stream
from pushserver.sessions.node import Node
from pushserver.web.checks import check_no_navigation
from pushserver.web.gate import Gate
from pushserver.web.resource import EVENT_STREAM, LINES, Answer, Open, Refusal, WebSocket, wants

Maker = Callable[[Transport[StreamFormat]], Stream]

NAMES = {EVENT_STREAM: "sse", LINES: "http_stream"}
"""The names of the transports for the application."""


class Streams:
    """Answers requests with streams of channels.

    `open_websocket` and `open_response` take over a request as a WebSocket or as an endless
    response.
    """

    def __init__(
        self,
        node: Node,
        gate: Gate,
        fragments: Fragments,
        open_websocket: Open,
        open_response: Open,
    ):
        self._node = node
        self._gate = gate
        self._fragments = fragments
        self._open_websocket = open_websocket
        self._open_response = open_response

    def accept(self, request: Request, names: tuple[str, ...]) -> WebSocket:
        """Accept the handshake of a request without credentials, on the short path.

        The long path has the others, in `upgrade`, and those whose channels have to be loaded: this
        one must have no side effect.
        """
        if not self._gate.is_anonymous(request):
            raise Refusal(401, "the request has to be identified")
        if not self._node.has(names):
            raise Refusal(503, "the channels have to be loaded")
        maker = self._maker(request, names, ANONYMOUS)
        return websocket_format(self._fragments, request, names), maker

    def upgrade(self, request: Request, names: tuple[str, ...]) -> Answer:
        """Answer a WebSocket handshake by the identity of its request."""
        format_ = websocket_format(self._fragments, request, names)

        def answer(identity: Identity) -> Answer:
            start = partial(self._open_websocket, request, format_)
            return self._when_kept(request, names, identity, start, in_stream=True)

        return self._gate.identified(request, "websocket", answer)

    def respond(
        self,
        request: Request,
        chosen: Representation,
        names: tuple[str, ...],
        media: str | None = None,
    ) -> Answer:
        """Answer with events or lines, by the identity of the request.

        Their media type is `media`, by default that which the request prefers.
        """
        formats = {EVENT_STREAM: chosen.sse, LINES: chosen.lines}
        offers = tuple(offer for offer, format_ in formats.items() if format_ is not None)
        wanted = media or wants(request, offers)
        format_ = formats.get(wanted or "")
        if wanted is None or format_ is None:
            raise Refusal(406, f"expected Accept to allow {' or '.join(offers)}")
        check_no_navigation(request)

        def answer(identity: Identity) -> Answer:
            def start(maker: Maker) -> int:
                _head(request, wanted)
                return self._open_response(request, format_, maker)

            if request.method == b"HEAD":
                self._maker(request, names, identity)
                _head(request, wanted)
                return b""
            in_stream = wanted == EVENT_STREAM
            return self._when_kept(request, names, identity, start, in_stream)

        return self._gate.identified(request, NAMES[wanted], answer)

    def _when_kept(
        self,
        request: Request,
        names: tuple[str, ...],
        identity: Identity,
        start: Callable[[Maker], int],
        in_stream: bool,
    ) -> Answer:
        """Start a stream when its channels are here; raises LimitExceeded and Unavailable.

        `in_stream`: if they cannot be had for now, the stream begins, and ends with the reason. An
        EventSource would stay away after a refusal, and a page does not see why its WebSocket was
        refused.
        """
        maker = self._maker(request, names, identity)
        if self._node.has(names):
            return start(maker)
        return self._when_loaded(request, names, identity, start, in_stream)

    async def _when_loaded(
        self,
        request: Request,
        names: tuple[str, ...],
        identity: Identity,
        start: Callable[[Maker], int],
        in_stream: bool,
    ) -> int:
        node = self._node
        loading = node.hub.load(names, stream_start(request, node.limits.read_limit))
        try:
            await arrive(node, identity, names, loading)
        except Unavailable as error:
            if isinstance(error, LimitExceeded) or not in_stream:
                raise
        if request.channel is None:
            raise Refusal(400, "the client is gone")
        # The rules may have changed meanwhile.
        return start(self._maker(request, names, self._gate.current(identity)))

    def _maker(self, request: Request, names: tuple[str, ...], identity: Identity) -> Maker:
        """Return the function that makes the requested stream for its transport."""
        node, gate = self._node, self._gate
        gate.check_reader(request, identity, names)
        node.users.check(identity.user)
        start = stream_start(request, node.limits.read_limit)
        if start.oldest or start.last:
            gate.check_reader(request, identity, names, "history", member=True)
        # An EventSource that comes back sends its last cursor, and would give up after a refusal.
        past = all(node.permissions.subscriber_may("history", name, identity) for name in names)
        node.hub.check_room(names)

        def make_stream(transport: Transport[StreamFormat]) -> Stream:
            stream = Stream(node, transport, identity)
            node.run(stream.follow(names, start, past))
            return stream

        return make_stream


def _head(request: Request, media: str) -> None:
    request.setHeader(b"content-type", media.encode())
    request.setHeader(b"cache-control", b"no-store")
