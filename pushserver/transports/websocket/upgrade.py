"""Upgrades requests to WebSockets, from a resource or by the short path of `first_bytes`."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, cast

from autobahn.twisted.resource import WebSocketResource
from autobahn.twisted.websocket import WebSocketServerFactory
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.logger import Logger
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource, getChildForRequest
from twisted.web.server import Request

from pushserver.auth.proxies import NO_PROXIES, Proxies
from pushserver.config.limits import Limits
from pushserver.protocols.formats import Format
from pushserver.transports.backlog import Bounds
from pushserver.transports.limited_log import LimitedLog
from pushserver.transports.websocket.deflate import accept, answer_to
from pushserver.transports.websocket.handshake import accepted, check_handshake
from pushserver.transports.websocket.lean import LeanShell, hush, lean
from pushserver.transports.websocket.shell import MakeConversation, WebSocketShell
from pushserver.usercode.turns import Turns
from pushserver.web.admission import Admission
from pushserver.web.checks import client_name
from pushserver.web.first_bytes import Head, Shortcut
from pushserver.web.site import PushSite
from pushserver.web.sockets import drop, is_closed


class WebSocketFactory(WebSocketServerFactory):
    """Makes the protocols of WebSocket connections."""

    def __init__(
        self,
        reactor: IReactorTime,
        bounds: Bounds,
        limits: Limits,
        log: Logger,
        turns: Turns,
        compress: bool = False,
        shortcuts: bool = True,
        proxies: Proxies = NO_PROXIES,
        admission: Admission | None = None,
    ):
        """`compress`: agree to permessage-deflate; `shortcuts`: those of `lean`.

        `proxies`: those whose word on the client's address is logged.
        """
        super().__init__(reactor=reactor, server="pushserver")
        self.ps_bounds = bounds
        self.ps_log = log
        self._proxies = proxies
        self._claim = _no_op if admission is None else admission.claim
        self.ps_leave = _no_op if admission is None else admission.leave
        self.ps_turns = turns
        self.ps_control_frames_per_second = limits.control_frames_per_second
        self.setProtocolOptions(
            # The default for each of the sizes is no limit, and for webStatus a page that
            # shows the version.
            maxFramePayloadSize=limits.frame_bytes,
            maxMessagePayloadSize=limits.frame_bytes,
            webStatus=False,
            # A peer's fault closes with a code; by default Autobahn drops the connection.
            failByDrop=False,
            closeHandshakeTimeout=2,
            echoCloseCodeReason=True,
            # The resource has checked the origin before the handshake.
            allowedOrigins=["*"],
            # Autobahn gets a whole handshake.
            openHandshakeTimeout=0,
        )
        self._extension: Callable[[str], str] = _declined
        if compress:
            terms = accept(limits.frame_bytes)
            self.setProtocolOptions(perMessageCompressionAccept=terms)
            self._extension = lru_cache(64)(partial(answer_to, accept=terms))
        limited = LimitedLog(log, bounds.clock)
        if shortcuts:
            hush()
            # Autobahn copies each option to each new connection unless its class has it; and it
            # reads tcpNoDelay before it copies, and hides the AttributeError.
            options = {name: _plain(getattr(self, name)) for name in WebSocketShell.CONFIG_ATTRS}
            self.protocol = cast(Any, lean(LeanShell, self, {**options, "log": limited}))
        else:
            self.protocol = cast(Any, type("WebSocketShell", (WebSocketShell,), {"log": limited}))

    def upgrade(self, request: Request, format: Format, make_conversation: MakeConversation) -> int:
        """Take over the request's connection; `make_conversation` gets its transport, once open.

        Raises Refusal for a handshake that is not valid.
        """
        check_handshake(request)
        fields = accepted(request).fields
        client = self._client(request)
        self._claim(request)
        channel: Any = request.channel
        counted_as = getattr(channel, "counted_as", None)
        channel.counted_as = None
        request.uri = b"/"
        request.requestHeaders = Headers({name: [value] for name, value in fields.items()})
        if isinstance(request.site, PushSite):
            request.site.release(cast(Any, request.channel))
        prepared = _Prepared(self, format, make_conversation, client, counted_as)
        answer: int = WebSocketResource(prepared).render(request)
        if request.content is not None:
            request.content.close()
        return answer

    def shortcut(self, root: IResource) -> Shortcut:
        """The short path: takes over handshakes that a resource below `root` accepts."""

        def take(transport: Any, head: Head) -> bool:
            if is_closed(transport):
                drop(transport)
                return True
            request = cast(Request, head)
            try:
                ask = getattr(getChildForRequest(root, request), "websocket", None)
                if ask is None:
                    return False
                format, make_conversation = ask(request)
                handshake = accepted(request)
                extension = self._extension(handshake.offers) if handshake.offers else ""
                self._claim(request)
            except Exception:
                # The long path raises it again, and answers it.
                return False
            client = self._client(request)
            peer = head.getClientAddress()
            shell = self.prepare(peer, format, make_conversation, client)
            shell.ps_counted_as = head.channel.counted_as
            cast(LeanShell, shell).ps_accept(transport, peer, handshake, extension)
            return True

        return take

    def prepare(
        self,
        address: IAddress,
        format: Format,
        make_conversation: MakeConversation,
        client: str,
    ) -> WebSocketShell:
        """A shell that makes a conversation with its transport once the connection is open.

        `client`: the address that a trusted proxy named, or "".
        """
        shell = cast(WebSocketShell, self.buildProtocol(address))
        shell.ps_log = self.ps_log
        shell.ps_format = format
        shell.ps_make_conversation = make_conversation
        if client:
            shell.ps_client = client
        return shell

    def _client(self, request: Request) -> str:
        return client_name(request, self._proxies) if self._proxies else ""


def _declined(offers: str) -> str:
    """The answer to offers of permessage-deflate without it."""
    return ""


def _no_op(_: object) -> None:
    """In place of the methods of an `Admission`."""


def _plain(value: Any) -> Any:
    """The value for a class; a plain function there would become a method."""
    return staticmethod(value) if callable(value) else value


class _Prepared:
    """The factory of one connection, for WebSocketResource."""

    def __init__(
        self,
        factory: WebSocketFactory,
        format: Format,
        make_conversation: MakeConversation,
        client: str,
        counted_as: str | None,
    ):
        self._factory = factory
        self._format = format
        self._make_conversation = make_conversation
        self._client = client
        self._counted_as = counted_as

    def buildProtocol(self, address: IAddress) -> WebSocketShell:
        factory = self._factory
        shell = factory.prepare(address, self._format, self._make_conversation, self._client)
        shell.ps_counted_as = self._counted_as
        return shell
