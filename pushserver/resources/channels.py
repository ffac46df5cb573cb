"""`/channels/{name}` and `/events`: channels as a page, a stream or a history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import cast

from twisted.web.resource import Resource
from twisted.web.server import Request

from pushserver.auth.identity import Identity
from pushserver.channels.names import check_name, is_name
from pushserver.channels.publication import Publication
from pushserver.protocols.representations import OBJECTS
from pushserver.resources.as_query import lacks_fragments, representation, wants_html
from pushserver.resources.bulk import Bulks
from pushserver.resources.channel_list import ChannelListResource
from pushserver.resources.fragments import Fragments
from pushserver.resources.history import Reading, argument, fragments, history
from pushserver.resources.live_pages import MOST_ON_A_PAGE, LivePages
from pushserver.resources.permissions import PermissionsResource
from pushserver.resources.publish import publish, publish_at_once
from pushserver.resources.streams import Streams
from pushserver.sessions.node import Node
from pushserver.web.accept import preferred
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
    Refusal,
    WebSocket,
    header,
    is_upgrade,
    vary,
    wants,
)
from pushserver.web.short_post import Soon


@dataclass(frozen=True, slots=True)
class ChannelContext:
    """The shared state of the resources of channels."""

    node: Node
    gate: Gate
    streams: Streams
    pages: LivePages
    fragments: Fragments
    bulks: Bulks = field(default_factory=Bulks)
    elsewhere: Resource | None = None
    """Answers the requests that `is_for_main` in a worker; None in the process with the log."""


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
        name, context = path.decode("utf-8", "replace"), self._context
        if context.elsewhere is not None and (
            is_for_main(path, request) or lacks_fragments(context.fragments, request, (name,))
        ):
            return context.elsewhere
        if request.postpath == [b"permissions"] and name:
            return PermissionsResource(context.node, context.gate, name)
        if request.postpath:
            return NotFound("/channels/NAME")
        if not name:
            return ChannelListResource(context.node, context.gate, context.pages)
        return ChannelResource(context, name)


def is_for_main(path: bytes, request: Request) -> bool:
    """Whether the main process answers a request below `/channels/` to a worker.

    It has the pages, the list, and the decisions that pages ask for. A worker reads and publishes.
    """
    if not path or request.postpath:
        return True
    if (
        argument(request, "as") is not None
        or request.method not in (b"GET", b"HEAD")
        or is_upgrade(request)
    ):
        return False
    return preferred(header(request, "accept") or "", OFFERS) == HTML


class ChannelResource(LeafResource):
    """One channel, in the form that the request prefers."""

    def __init__(self, context: ChannelContext, name: str):
        super().__init__()
        self._context = context
        self._name = name

    def answer_get(self, request: Request) -> Answer:
        context, name = self._context, check_name(self._name)
        if is_upgrade(request):
            return context.streams.upgrade(request, (name,))
        chosen = representation(context.fragments, request, (name,))
        if chosen.html is not None and wants_html(request):
            page = partial(self._fragments, request, name, chosen.html)
            return context.gate.identified(request, "http", page)
        if chosen is not OBJECTS:
            return context.streams.respond(request, chosen, (name,))
        wanted = wants(request, OFFERS)
        if wanted == HTML:
            return context.pages.of_channels(request, (name,), "..")
        if wanted == JSON:
            return context.gate.identified(request, "http", partial(self._history, request, name))
        if wanted is None:
            expected = f"{JSON}, {EVENT_STREAM}, {LINES} or {HTML}"
            raise Refusal(406, f"expected Accept to allow {expected}")
        return context.streams.respond(request, chosen, (name,), wanted)

    def websocket(self, request: Request) -> WebSocket:
        """Accept a handshake; see `web.resource.WebSocket`."""
        return self._context.streams.accept(request, (check_name(self._name),))

    def answer_post(self, request: Request) -> Answer:
        name = check_name(self._name)
        return self._context.gate.identified(request, "http", partial(self._publish, request, name))

    def answer_at_once(self, request: Request, body: bytes) -> Soon | None:
        """Answer a POST on the short path; see `short_post.AnswerAtOnce`."""
        context = self._context
        if not is_name(self._name):
            return None
        return publish_at_once(request, self._name, context.node, context.gate, body)

    def _history(self, request: Request, name: str, identity: Identity) -> Answer:
        return history(self._reading(request, name, identity))

    def _fragments(
        self,
        request: Request,
        name: str,
        encode: Callable[[Publication], bytes],
        identity: Identity,
    ) -> Answer:
        return fragments(self._reading(request, name, identity), encode)

    def _reading(self, request: Request, name: str, identity: Identity) -> Reading:
        context = self._context
        return Reading(request, name, context.node, context.gate, identity, context.elsewhere)

    def _publish(self, request: Request, name: str, identity: Identity) -> Answer:
        context = self._context
        return publish(request, name, context.node, context.gate, context.bulks, identity)


class EventsResource(LeafResource):
    """`/events?channel=a&channel=b`: several channels as a stream with one cursor, or a page."""

    def __init__(self, context: ChannelContext):
        super().__init__()
        self._context = context

    def answer_get(self, request: Request) -> Answer:
        is_page, elsewhere = self._is_page(request), self._context.elsewhere
        names = self._names(request, MOST_ON_A_PAGE if is_page else None)
        if elsewhere is not None and (
            is_page or lacks_fragments(self._context.fragments, request, names)
        ):
            return cast(int, elsewhere.render(request))
        if is_upgrade(request):
            return self._context.streams.upgrade(request, names)
        if is_page:
            vary(request, b"Accept")
            return self._context.pages.of_channels(request, names, ".")
        chosen = representation(self._context.fragments, request, names)
        return self._context.streams.respond(request, chosen, names)

    def websocket(self, request: Request) -> WebSocket:
        """Accept a handshake; see `web.resource.WebSocket`."""
        return self._context.streams.accept(request, self._names(request))

    @staticmethod
    def _is_page(request: Request) -> bool:
        if is_upgrade(request) or argument(request, "as") is not None:
            return False
        accept = header(request, "accept") or ""
        return preferred(accept, (EVENT_STREAM, LINES, HTML)) == HTML

    def _names(self, request: Request, most: int | None = None) -> tuple[str, ...]:
        given = request.args.get(b"channel", [])
        names = tuple(dict.fromkeys(check_name(n.decode("utf-8", "replace")) for n in given))
        limit = self._context.node.limits.channels_per_client
        limit = limit if most is None else min(limit, most)
        if not 0 < len(names) <= limit:
            raise Refusal(400, f"{len(names)} channels, expected 1 to {limit} channel=NAME")
        return names


OFFERS = (JSON, EVENT_STREAM, LINES, HTML)
"""The media types of a channel."""
