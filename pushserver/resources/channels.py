"""`/channels/{name}`, `/events` and `/`: reading channels as a page, a stream or a history."""

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
from pushserver.resources.channel_list import channel_list, readable_channels
from pushserver.resources.fragments import Fragments
from pushserver.resources.history import argument, fragments, history, tell_cursor
from pushserver.resources.permissions import PermissionsResource, useful
from pushserver.resources.publish import publish, publish_at_once
from pushserver.resources.streams import Streams
from pushserver.sessions.node import Node
from pushserver.web.accept import preferred
from pushserver.web.document import Document, answer_page
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
    """The shared state of the resources of channels.

    `page` renders the live page; its arguments are the names of its channels, the relative path to
    the server's root, the history size in publications, whether failures are shown, and whether
    there is a field for a token or key. `list_page` renders the list of channels; its arguments are
    that path, whether it has a field for a key, and whether the viewer may see the list.
    """

    node: Node
    streams: Streams
    page: Callable[[tuple[str, ...], str, int, bool, bool], Document]
    gate: Gate
    list_page: Callable[[str, bool, bool], Document]
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
        return ChannelResource(context, name) if name else ChannelListResource(context)


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


def may_list(gate: Gate, request: Request) -> bool:
    """Whether the caller may read the list of channels; see `readable_channels`."""
    key = gate.caller(request)
    return key is not None and "read" in key.may


def list_page(context: ChannelContext, request: Request, root: str, permitted: bool) -> Answer:
    """The page of the list; `root` as for `live_page`."""
    return answer_page(request, context.list_page(root, "key" in context.gate.accepts, permitted))


class ChannelListResource(LeafResource):
    """`/channels/`: the list of all channels, for programs on this machine and with an API key.

    Its page is for everyone: it asks for the list, and for a key if it needs one.
    """

    def __init__(self, context: ChannelContext):
        super().__init__()
        self._context = context

    def answer_get(self, request: Request) -> Answer:
        wanted = wants(request, (JSON, HTML))
        if wanted is None:
            raise Refusal(406, f"expected Accept to allow {JSON} or {HTML}")
        gate = self._context.gate
        if wanted == JSON:
            return channel_list(request, self._context.node, readable_channels(request, gate))
        return list_page(self._context, request, "..", may_list(gate, request))


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
            return live_page(context, request, (name,), "..")
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
        self._context.gate.check_reader(request, identity, (name,), "history")
        context = self._context
        return history(request, name, context.node, identity, context.elsewhere)

    def _fragments(
        self,
        request: Request,
        name: str,
        encode: Callable[[Publication], bytes],
        identity: Identity,
    ) -> Answer:
        self._context.gate.check_reader(request, identity, (name,), "history")
        context = self._context
        return fragments(request, name, context.node, encode, context.elsewhere)

    def _publish(self, request: Request, name: str, identity: Identity) -> Answer:
        context = self._context
        return publish(request, name, context.node, context.gate, context.bulks, identity)


class FrontResource(LeafResource):
    """`/`: the live page of the front channel.

    `lists`: it is the list of channels, for those who may see that.
    """

    def __init__(self, context: ChannelContext, name: str, lists: bool = False):
        super().__init__()
        self._context = context
        self._name = name
        self._lists = lists

    def answer_get(self, request: Request) -> Answer:
        context = self._context
        if self._lists and may_list(context.gate, request):
            return list_page(context, request, ".", permitted=True)
        return live_page(context, request, (self._name,), ".")


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
            return live_page(self._context, request, names, ".")
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


def live_page(
    context: ChannelContext, request: Request, names: tuple[str, ...], root: str
) -> Answer:
    """The live page of the channels; `root` is the relative path to the server's root."""
    size = max(context.node.history.options(name).history_size for name in names)
    key = context.gate.caller(request)
    shows_failures = key is not None and all(key.allows("publish", name) for name in names)
    login = any(useful(context.node, context.gate, name) for name in names)
    page = context.page(names, root, size, shows_failures, login)
    # A page that the application would have to be asked about is the same for everybody.
    identity = context.gate.identity_at_once(request)
    if identity is not None and len(names) == 1:
        tell_cursor(request, context.node, context.gate, names[0], identity)
    return answer_page(request, page)


MOST_ON_A_PAGE = 32
"""The most channels on one live page."""
OFFERS = (JSON, EVENT_STREAM, LINES, HTML)
"""The media types of a channel."""
