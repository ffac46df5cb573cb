"""`/connection/...`: where the official Centrifuge clients connect."""

from __future__ import annotations

from twisted.web.server import Request

from pushserver.answers import Answer, Door, Open, Refusal, check_origin, header, is_upgrade
from pushserver.formats import SESSION_WEBSOCKET
from pushserver.node import Node
from pushserver.session import Session, Transport


class WebSocketDoor(Door):
    """`/connection/websocket`: one session over one WebSocket."""

    def __init__(self, node: Node, upgrade: Open, allowed_origins: frozenset[str]):
        super().__init__()
        self._node = node
        self._upgrade = upgrade
        self._allowed_origins = allowed_origins

    def answer_get(self, request: Request) -> Answer:
        if not is_upgrade(request):
            wanted = {"upgrade": "websocket", "connection": "upgrade"}
            raise Refusal(426, "expected a WebSocket handshake", wanted)
        check_origin(request, self._allowed_origins)
        _check_json(request)
        return self._upgrade(request, SESSION_WEBSOCKET, self._begin)

    def _begin(self, transport: Transport) -> Session:
        return Session(self._node, transport)


def _check_json(request: Request) -> None:
    """Refuse the protobuf form of the protocol by name, before it is spoken to a deaf ear."""
    asked = header(request, "sec-websocket-protocol") or ""
    if "centrifuge-protobuf" in asked or request.args.get(b"format") == [b"protobuf"]:
        raise Refusal(400, "centrifuge-protobuf is not spoken here, expected centrifuge-json")
