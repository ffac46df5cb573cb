"""Calls the application for the clients of a follower."""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger

from pushserver.cluster.calls import Send
from pushserver.cluster.messages import (
    Admission,
    Answered,
    Ask,
    AskEvent,
    AskPublish,
    Authenticate,
    Message,
    Proof,
    failed,
    frame,
)
from pushserver.cluster.remote import RemotePeer, RemotePeers, restored
from pushserver.errors import HandlerFailed, PushServerError
from pushserver.protocols.centrifuge import SHUTDOWN
from pushserver.sessions.node import Node
from pushserver.sessions.request_session import RequestSession

Asked = Ask | AskEvent | AskPublish | Authenticate


class Asks:
    """Answers the calls of one follower; `send` takes frames and raises nothing."""

    _log = Logger()

    def __init__(self, node: Node, peers: RemotePeers, send: Send):
        self._node = node
        self._handlers = node.handlers
        self._peers = peers
        self._send = send

    async def answer(self, message: Asked) -> None:
        """Call the handler and send its answer, or its error."""
        reply: Message
        try:
            reply = Answered(message.call, await self._value(message))
        except PushServerError as error:
            reply = failed(message.call, error)
        except Exception:
            self._log.failure(
                "a handler could not be called for a client of a worker",
                event_name="handler_not_called",
            )
            reply = failed(message.call, HandlerFailed("the application failed"))
        self._send(frame(reply))

    async def adopt(self, peer: RemotePeer) -> None:
        """Take a client that another author has admitted, or disconnect it.

        It connects again if a handler decides on clients, or if the application cannot take it.
        """
        if self._handlers.decides_on_clients:
            peer.disconnect(SHUTDOWN, "the server was restarted")
            return
        peer.asked = True
        try:
            await self._handlers.connect(peer, b"")
        except PushServerError as error:
            peer.asked = False
            peer.disconnect(SHUTDOWN, str(error))

    async def _value(self, message: Asked) -> Any:
        handlers = self._handlers
        if isinstance(message, Authenticate):
            found = await handlers.authenticate(message.visit, message.data)
            return Proof(
                found.user, found.info, found.expires, found.token, list(found.channels.texts)
            )
        if isinstance(message, AskPublish):
            identity = restored(self._node, message.info, message.expires, message.key)
            session = RequestSession(identity, message.visit)
            await handlers.publish(session, message.channel, message.data)
            return b""
        peer = self._peers.find(message.peer)
        if peer is None:
            raise HandlerFailed("the client is gone")
        if isinstance(message, AskEvent):
            return await handlers.event(peer, message.event, message.arguments)
        if message.kind == "connect":
            return await self._admit(peer, message.data)
        if message.kind == "subscribe":
            await handlers.subscribe(peer, message.name, message.data)
        elif message.kind == "publish":
            await handlers.publish(peer, message.name, message.data)
        elif message.kind == "message":
            await handlers.message(peer, message.data)
        else:
            return await handlers.rpc(peer, message.name, message.data)
        return b""

    async def _admit(self, peer: RemotePeer, data: bytes) -> Admission:
        peer.asked = True
        try:
            answer = await self._handlers.connect(peer, data)
        except BaseException:
            peer.asked = False
            raise
        return Admission(answer, peer.info.user, peer.info.conn_info)
