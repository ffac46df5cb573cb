"""The parameter `as=` of a query: the representation of publications that a request asks for."""

from __future__ import annotations

from twisted.web.server import Request

from pushserver.protocols.formats import StreamFormat
from pushserver.protocols.representations import DATA, OBJECTS, Representation
from pushserver.resources.fragments import FRAGMENTS, Fragments
from pushserver.resources.history import argument
from pushserver.web.resource import EVENT_STREAM, HTML, Refusal, header, wants


def representation(
    fragments: Fragments, request: Request, names: tuple[str, ...]
) -> Representation:
    """The representation of publications that a request asks for, by `as=`."""
    name = argument(request, "as")
    if name is None:
        return OBJECTS
    if name == "data":
        return DATA
    if name not in FRAGMENTS:
        known = ", ".join(FRAGMENTS)
        problem = f"expected data, {known}, or none for publication objects"
        raise Refusal(400, f"as={name:.40}: {problem}")
    parameter, known_values = FRAGMENTS[name]
    value = (argument(request, parameter) if parameter else None) or known_values[0]
    chosen = fragments.representation(name, value)
    if chosen is None:
        known = ", ".join(known_values)
        raise Refusal(400, f"{parameter}={value:.40}: expected one of {known}")
    for channel in names:
        if not fragments.has(channel):
            where = f"template in [channels.{channel}], or @app.fragment"
            raise Refusal(404, f"{channel} has no template ({where})")
    return chosen


def wants_html(request: Request) -> bool:
    """Whether a request for fragments gets those that are retained, and not a stream.

    htmx 4 sends `Accept: text/html, text/event-stream` with all requests, also with that of an
    element that waits for a stream, which has `as=htmx`.
    """
    if argument(request, "as") == "htmx" and EVENT_STREAM in (header(request, "accept") or ""):
        return False
    return wants(request, (HTML, EVENT_STREAM)) == HTML


def lacks_fragments(fragments: Fragments, request: Request, names: tuple[str, ...]) -> bool:
    """Whether a request asks for fragments that a worker cannot make."""
    wanted = argument(request, "as") in FRAGMENTS
    return wanted and not all(map(fragments.has, names))


def websocket_format(
    fragments: Fragments, request: Request, names: tuple[str, ...]
) -> StreamFormat:
    """The format of the WebSocket that a request asks for."""
    format_ = representation(fragments, request, names).websocket
    if format_ is None:
        raise Refusal(400, f"as={argument(request, 'as')} has no WebSocket: expected EventSource")
    return format_
