"""`/socket.io/`: the URL of Socket.IO clients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Request

from pushserver.protocols import engineio
from pushserver.protocols.socketio_formats import ENGINE_WEBSOCKET, EngineFormat
from pushserver.resources.centrifuge import ConnectionContext
from pushserver.sessions.base import Transport
from pushserver.sessions.socketio import SocketIO
from pushserver.sessions.visit import UNKNOWN
from pushserver.web.checks import check_origin, client_address
from pushserver.web.resource import (
    Answer,
    LeafResource,
    NotFound,
    Refusal,
    WebSocket,
    answer_json,
    is_upgrade,
)

UNKNOWN_TRANSPORT = (0, "Transport unknown")
UNKNOWN_SID = (1, "Session ID unknown")
BAD_METHOD = (2, "Bad handshake method")
BAD_REQUEST = (3, "Bad request")
WRONG_VERSION = (5, "Unsupported protocol version")
"""The errors of Engine.IO, with the words of Node's server, by which clients may know them."""


class EngineError(Refusal):
    """A request is refused with an error of Engine.IO, whose body is flat."""

    def __init__(self, error: tuple[int, str]):
        self.code, message = error
        super().__init__(400, message)


class SocketIOResource(LeafResource):
    """A client of Socket.IO, by `?EIO=4&transport=websocket`."""

    _log = Logger()

    def __init__(self, context: ConnectionContext):
        super().__init__()
        self._context = context
        self._logged: set[str] = set()

    def render(self, request: Request) -> bytes | int:
        if any(request.postpath or ()):
            return NotFound().render(request)
        return super().render(request)

    def answer_get(self, request: Request) -> Answer:
        self._check(request)
        if not is_upgrade(request):
            raise EngineError(BAD_REQUEST)
        return self._context.upgrade(request, *self.websocket(request))

    def answer_post(self, request: Request) -> Answer:
        self._check(request)
        raise EngineError(BAD_METHOD)

    def websocket(self, request: Request) -> WebSocket:
        """Accept a handshake; see `web.resource.WebSocket`."""
        if any(request.postpath or ()):
            raise Refusal(404, "there is nothing at this URL")
        check_origin(request, self._context.trust)
        problem = _problem(request)
        if problem is not None:
            raise EngineError(problem)
        return ENGINE_WEBSOCKET, self._session_maker(request)

    def _session_maker(self, request: Request) -> Callable[[Transport[EngineFormat]], SocketIO]:
        """A function that makes the session of a request, which is read now."""
        context = self._context
        node, gate, known = context.node, context.gate, UNKNOWN
        if node.handlers.decides_on_clients or node.handlers.authenticates:
            known = gate.visit(request, "socketio")
        credentials = gate.credentials(request)
        address = client_address(request, context.trust.proxies)

        def make_session(transport: Transport[EngineFormat]) -> SocketIO:
            return SocketIO(node, transport, known, credentials, address)

        return make_session

    def _check(self, request: Request) -> None:
        """Raise EngineError for a request that is not one of this protocol, and log some once."""
        problem = _problem(request)
        if problem is None:
            return
        if problem == WRONG_VERSION:
            self._log_once(
                "version",
                "a client of Socket.IO asked for version {value} of Engine.IO, and this server"
                " speaks version 4: it needs socket.io-client 3 or 4, or python-socketio 5",
                _parameter(request, b"EIO"),
            )
        elif problem == UNKNOWN_TRANSPORT:
            self._log_once(
                "transport",
                "a client of Socket.IO asked for the transport {value}, and this server has"
                ' websocket: it needs the option transports: ["websocket"]',
                _parameter(request, b"transport"),
            )
        raise EngineError(problem)

    def _log_once(self, name: str, text: str, value: bytes) -> None:
        if name not in self._logged:
            self._logged.add(name)
            shown = f"{value.decode('utf-8', 'replace')!r:.40}"
            self._log.info(text, value=shown, event_name="socketio_client")

    def _answer_error(
        self, request: Request, error: BaseException | None, failure: Failure | None = None
    ) -> Any:
        answer = super()._answer_error(request, error, failure)
        # Not the refusal of a connection that has had too many.
        if isinstance(error, EngineError) and request.code == error.http_status:
            return answer_json(request, {"code": error.code, "message": str(error)})
        return answer


def _problem(request: Request) -> tuple[int, str] | None:
    """The error of a request by its query, if it has one."""
    if _parameter(request, b"EIO") != engineio.VERSION:
        return WRONG_VERSION
    if _parameter(request, b"transport") != b"websocket":
        return UNKNOWN_TRANSPORT
    if _parameter(request, b"sid"):
        return UNKNOWN_SID
    return None


def _parameter(request: Request, name: bytes) -> bytes:
    given = request.args.get(name, [b""])
    return given[0] if len(given) == 1 else b""
