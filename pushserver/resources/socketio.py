"""`/socket.io/`: the URL of Socket.IO clients, which poll or use a WebSocket (Engine.IO v4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource
from twisted.web.server import Request

from pushserver.config.settings import SocketIO as Settings
from pushserver.protocols import engineio
from pushserver.protocols.socketio_formats import ENGINE_WEBSOCKET, EngineFormat
from pushserver.resources.centrifuge import ConnectionContext
from pushserver.sessions.base import Transport
from pushserver.sessions.probe import Probe
from pushserver.sessions.socketio import SocketIO
from pushserver.transports.polling import NOOP, Pollings, PollingTransport
from pushserver.web.checks import check_no_navigation, check_origin
from pushserver.web.heads import forget_head
from pushserver.web.mount import mark_open_ended
from pushserver.web.resource import (
    Answer,
    LeafResource,
    NotFound,
    Refusal,
    WebSocket,
    answer_json,
    is_upgrade,
    not_found,
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
    """A client of Socket.IO, by `?EIO=4&transport=...`, and `sid` after its first request.

    `scripts` are below it, by name: pages load the script of the client there, as from Node's
    server. `settings`: the channel of `/`, and whether clients are recovered.
    """

    _log = Logger()

    def __init__(
        self,
        context: ConnectionContext,
        pollings: Pollings,
        scripts: Mapping[bytes, IResource],
        settings: Settings,
        of_id: Callable[[bytes], LeafResource | None] = lambda id: None,
    ):
        """`of_id` gives the resource for a client that another process has, by its `sid`."""
        super().__init__()
        self._of_id = of_id
        self._scripts = scripts
        self._settings = settings
        self.context = context
        self.pollings = pollings
        self._logged = False

    def render(self, request: Request) -> bytes | int:
        path = request.postpath or ()
        if any(path):
            found = self._scripts.get(path[0]) if len(path) == 1 else None
            answer: bytes | int = (found or NotFound()).render(request)
            return answer
        elsewhere = self._of_id(_parameter(request, b"sid"))
        return super().render(request) if elsewhere is None else elsewhere.render(request)

    def answer_get(self, request: Request) -> Answer:
        transport = self._transport(request)
        if request.method == b"HEAD":
            raise EngineError(BAD_METHOD)
        if transport == b"websocket":
            if not is_upgrade(request):
                self._polling(request)
                raise EngineError(BAD_REQUEST)
            return self.context.upgrade(request, *self.websocket(request))
        check_origin(request, self.context.trust)
        request.setHeader(b"content-type", b"text/plain; charset=UTF-8")
        request.setHeader(b"cache-control", b"no-store")
        if self.pollings.is_last(_parameter(request, b"sid").decode("utf-8", "replace")):
            return NOOP
        polling = self._polling(request)
        if polling is None:
            check_no_navigation(request)
            maker = self.session_maker(request, ("websocket",))
            return self._poll(request, self.pollings.open(request, maker))
        return self._poll(request, polling)

    def answer_post(self, request: Request) -> Answer:
        """The packets of a client that polls."""
        transport = self._transport(request)
        check_origin(request, self.context.trust)
        polling = self._polling(request)
        if polling is None or transport == b"websocket":
            raise EngineError(BAD_METHOD)
        assert request.content is not None
        body: bytes = request.content.read()
        limit = self.context.node.limits.frame_bytes
        # socket.io-client fills a body up to `maxPayload`, and counts 1.33 times a byte for base64.
        if len(body) > limit + limit // 256:
            raise Refusal(413, f"the packets have more than {limit} bytes (frame_bytes)")
        if not polling.post(body):
            raise EngineError(BAD_REQUEST)
        request.setHeader(b"content-type", b"text/plain; charset=UTF-8")
        return b"ok"

    def answer_put(self, request: Request) -> Answer:
        self._transport(request)
        raise EngineError(BAD_METHOD)

    answer_delete = answer_patch = answer_put

    def websocket(self, request: Request) -> WebSocket:
        """Accept a handshake; see `web.resource.WebSocket`."""
        if any(request.postpath or ()):
            raise not_found(request)
        check_origin(request, self.context.trust)
        if _problem(request) is not None or _parameter(request, b"transport") != b"websocket":
            # On the short path; the long one has answered it.
            raise EngineError(_problem(request) or BAD_REQUEST)
        sid = _parameter(request, b"sid")
        if not sid:
            return ENGINE_WEBSOCKET, self.session_maker(request)
        polling = self.pollings.find(sid.decode("utf-8", "replace"))
        if polling is None:
            raise EngineError(UNKNOWN_SID)
        node = self.context.node

        def make_probe(transport: Transport[EngineFormat]) -> Probe:
            return Probe(node, transport, polling)

        return ENGINE_WEBSOCKET, make_probe

    def _poll(self, request: Request, polling: PollingTransport) -> Answer:
        answer = polling.poll()
        if not answer:
            raise EngineError(BAD_REQUEST)
        if isinstance(answer, Deferred):
            waiting = answer
            request.notifyFinish().addErrback(lambda _: polling.lost(waiting))
            mark_open_ended(request.channel)
            forget_head(request, answered=False)
        return answer

    def _polling(self, request: Request) -> PollingTransport | None:
        """The transport of a client that polls; None without a `sid`."""
        sid = _parameter(request, b"sid")
        if not sid:
            return None
        polling = self.pollings.find(sid.decode("utf-8", "replace"))
        if polling is None or not polling.check():
            is_upgraded = polling is not None and polling.is_upgraded
            raise EngineError(BAD_REQUEST if is_upgraded else UNKNOWN_SID)
        return polling

    def session_maker(
        self, request: Request, upgrades: Sequence[str] = ()
    ) -> Callable[[Transport[EngineFormat]], SocketIO]:
        """A function that makes the session of a request, which is read now."""
        node, settings = self.context.node, self._settings
        peer = self.context.peer(request, "socketio")

        def make_session(transport: Transport[EngineFormat]) -> SocketIO:
            return SocketIO(node, transport, *peer, upgrades, settings.channel, settings.recovery)

        return make_session

    def _transport(self, request: Request) -> bytes:
        """The transport of a request; raises EngineError for one of another protocol."""
        problem = _problem(request)
        if problem == WRONG_VERSION and not self._logged:
            self._logged = True
            version = _parameter(request, b"EIO").decode("utf-8", "replace")
            self._log.info(
                "a client of Socket.IO asked for version {value} of Engine.IO, and this server"
                " speaks version 4: it needs socket.io-client 3 or 4, or python-socketio 5",
                value=f"{version!r:.40}",
                event_name="socketio_client",
            )
        if problem is not None:
            raise EngineError(problem)
        return _parameter(request, b"transport")

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
    if _parameter(request, b"transport") not in (b"polling", b"websocket"):
        return UNKNOWN_TRANSPORT
    return None


def _parameter(request: Request, name: bytes) -> bytes:
    given = request.args.get(name, [b""])
    return given[0] if len(given) == 1 else b""
