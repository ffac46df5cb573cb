"""`/connection/...` and `/emulation`: the URLs for the official Centrifuge clients.

Where WebSockets are blocked, a client reads its session from an endless response (SSE or NDJSON)
and sends its commands as requests to `/emulation`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import msgspec
from twisted.web.resource import Resource
from twisted.web.server import Request

from pushserver.auth.credentials import Credentials
from pushserver.auth.proxies import Trust
from pushserver.channels.jsontext import MALFORMED
from pushserver.protocols import centrifuge
from pushserver.protocols.formats import (
    SESSION_LINES,
    SESSION_SSE,
    SESSION_WEBSOCKET,
    SessionFormat,
)
from pushserver.resources.protobuf import JsonOnly, protobuf_sign
from pushserver.sessions.base import Transport
from pushserver.sessions.commands import answer
from pushserver.sessions.node import Node, new_id
from pushserver.sessions.session import Session
from pushserver.sessions.visit import Visit
from pushserver.web.checks import check_no_navigation, check_origin, client_address
from pushserver.web.gate import Gate
from pushserver.web.resource import (
    EVENT_STREAM,
    Answer,
    LeafResource,
    Open,
    Refusal,
    WebSocket,
    is_upgrade,
    no_content,
)


@dataclass(frozen=True, slots=True)
class ConnectionContext:
    """The shared state of the resources of the Centrifuge protocol.

    `upgrade` and `respond` take over a request as a WebSocket or as an endless response.
    """

    node: Node
    upgrade: Open
    respond: Open
    trust: Trust
    gate: Gate
    json_only: JsonOnly

    def children(self) -> dict[bytes, Resource]:
        """The resources below `/connection`."""
        return {
            b"websocket": WebSocketResource(self),
            b"sse": SseResource(self),
            b"http_stream": HttpStreamResource(self),
        }

    def session_maker(
        self, request: Request, protocol: str, commands: bytes | None = None
    ) -> Callable[[Transport[SessionFormat]], Session]:
        """A function that makes the session of a request, which is read now.

        `commands` are those of a response's request; later ones come to `/emulation`.
        """
        node, (visit, credentials, address) = self.node, self.peer(request, protocol)
        # Its beginning names this process to the others of the server.
        secret = "" if commands is None else node.id_prefix + new_id()

        def make_session(transport: Transport[SessionFormat]) -> Session:
            session = Session(node, transport, answer, secret, visit, credentials, address)
            if commands is not None:
                session.received(commands)
            return session

        return make_session

    def peer(self, request: Request, protocol: str) -> tuple[Visit, Credentials, str | None]:
        """The visit, the credentials and the address of the peer of a request."""
        credentials, handlers = self.gate.credentials(request), self.node.handlers
        address = client_address(request, self.trust.proxies)
        # Headers cost time and memory, so only for an application that decides about clients.
        if handlers.decides_on_clients or handlers.authenticates:
            visit = self.gate.visit(request, protocol)
        else:
            visit = Visit(address or "", protocol)
        return visit, credentials, address


class WebSocketResource(LeafResource):
    """One session over one WebSocket."""

    def __init__(self, context: ConnectionContext):
        super().__init__()
        self._context = context

    def answer_get(self, request: Request) -> Answer:
        if not is_upgrade(request):
            wanted = {"upgrade": "websocket", "connection": "upgrade"}
            raise Refusal(
                426,
                "expected a WebSocket handshake; a proxy has to pass Upgrade on (HTTP/1.1)",
                wanted,
            )
        self._context.json_only.check(request)
        return self._context.upgrade(request, *self.websocket(request))

    def websocket(self, request: Request) -> WebSocket:
        """Accept a handshake; see `web.resource.WebSocket`."""
        check_origin(request, self._context.trust)
        if protobuf_sign(request):
            # On the short path, which has no effect: the long one refuses it, in `answer_get`.
            raise Refusal(400, "expected JSON")
        return SESSION_WEBSOCKET, self._context.session_maker(request, "websocket")


class ResponseResource(LeafResource):
    """One session over one response; the body of a POST contains its first commands."""

    protocol: ClassVar[str]
    """The name of the transport for the application."""

    format: ClassVar[SessionFormat]
    media: ClassVar[str]
    """The media type of the response."""

    def __init__(self, context: ConnectionContext):
        super().__init__()
        self._context = context

    def answer_post(self, request: Request) -> Answer:
        assert request.content is not None
        commands = request.content.read()
        self.check(request, commands)
        return self.open(request, commands)

    def check(self, request: Request, commands: bytes) -> None:
        """Refuse a page of another origin, Protobuf, and commands longer than a frame may be."""
        check_origin(request, self._context.trust)
        self._context.json_only.check(request)
        limit = self._context.node.limits.frame_bytes
        if len(commands) > limit:
            raise Refusal(413, f"the commands have more than {limit} bytes (frame_bytes)")

    def open(self, request: Request, commands: bytes) -> Answer:
        """Answer with a new session."""
        request.setHeader(b"content-type", self.media.encode())
        if request.method == b"HEAD":
            return b""
        maker = self._context.session_maker(request, self.protocol, commands)
        return self._context.respond(request, self.format, maker)


class SseResource(ResponseResource):
    """`POST COMMANDS` or `GET ?cf_connect=COMMAND`, answered with events.

    A page of another origin can cause a GET without an Origin (a picture, a link), so a GET may
    contain only the connect command.
    """

    protocol = "sse"
    format = SESSION_SSE
    media = EVENT_STREAM

    def answer_get(self, request: Request) -> Answer:
        given = request.args.get(b"cf_connect", [])
        if len(given) != 1:
            raise Refusal(400, f"{len(given)} cf_connect=, expected one with the connect command")
        self.check(request, given[0])
        check_no_navigation(request)
        return self.open(request, _only_connect(given[0]))


class HttpStreamResource(ResponseResource):
    """`POST COMMANDS`, answered with lines."""

    protocol = "http_stream"
    format = SESSION_LINES
    media = "application/json"


class Emulated(msgspec.Struct):
    """The body of a request to `/emulation`: commands for a session over a response."""

    session: str
    data: str
    node: str = ""


class EmulationResource(LeafResource):
    """`POST {"session", "node", "data"}`: commands for a session over a response."""

    def __init__(
        self,
        context: ConnectionContext,
        of_id: Callable[[bytes], LeafResource | None] = lambda id: None,
    ):
        """`of_id` gives the resource for a session that another process has, by its id."""
        super().__init__()
        self._context = context
        self._of_id = of_id

    def answer_post(self, request: Request) -> Answer:
        check_origin(request, self._context.trust)
        self._context.json_only.check(request)
        assert request.content is not None
        body: bytes = request.content.read()
        limit = self._context.node.limits.frame_bytes
        if len(body) > limit:
            raise Refusal(413, f"the body has more than {limit} bytes (frame_bytes)")
        try:
            emulated = msgspec.json.decode(body, type=Emulated)
        except MALFORMED as error:
            raise Refusal(400, f"not a command for a session: {error}") from None
        elsewhere = self._of_id(emulated.session.encode("utf-8", "surrogatepass"))
        if elsewhere is not None:
            answer: bytes | int = elsewhere.render(request)
            return answer
        session = self._context.node.sessions.by_secret(emulated.session)
        if not isinstance(session, Session):
            raise Refusal(404, "unknown session")
        session.received(emulated.data.encode("utf-8", "surrogatepass"))
        return no_content(request)


def _only_connect(text: bytes) -> bytes:
    """Return the text if it is one connect command; raise Refusal 400 if not."""
    try:
        methods = [centrifuge.method(command)[0] for command in centrifuge.commands(text)]
    except centrifuge.FrameError as error:
        raise Refusal(400, f"cf_connect: {error}") from None
    if methods != ["connect"]:
        got = ", ".join(method or "a pong" for method in methods[:4]) or "none"
        raise Refusal(400, f"cf_connect: expected one command, connect; got {got}")
    return text
