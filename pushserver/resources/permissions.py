"""`GET /channels/{name}/permissions`: what the sender of a request may do in the channel."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.web.server import Request

from pushserver.auth.identity import Identity
from pushserver.channels.names import check_name
from pushserver.errors import PushServerError
from pushserver.resources.history import tell_cursor
from pushserver.sessions.node import Node
from pushserver.web.gate import Gate
from pushserver.web.resource import Answer, LeafResource, answer_json


class PermissionsResource(LeafResource):
    """The decisions about one request, for a page that shows a field or a button by them.

    It says nothing that the request itself would not be told by trying.
    """

    def __init__(self, node: Node, gate: Gate, name: str):
        super().__init__()
        self._node = node
        self._gate = gate
        self._name = name

    def answer_get(self, request: Request) -> Answer:
        name = check_name(self._name)
        return self._gate.identified(request, "http", partial(self._answer, request, name))

    def _answer(self, request: Request, name: str, identity: Identity) -> bytes:
        """`seconds`: until the identity ends, null for never; `accepts`: see `useful`."""
        if identity.problem is not None:
            raise identity.problem
        tell_cursor(request, self._node, self._gate, name, identity)
        permissions, key, expires = self._node.permissions, identity.key, identity.expires
        return answer_json(
            request,
            {
                "channel": name,
                "by": "key" if key else "token" if identity.token else "",
                "user": identity.user,
                "key": key.name if key else "",
                "seconds": round(expires - self._node.clock(), 3) if expires else None,
                "subscribe": _decision(partial(permissions.check, "subscribe", name, identity)),
                "publish": _decision(partial(self._gate.check_publisher, request, identity, name)),
                "accepts": useful(self._node, self._gate, name),
            },
        )


def useful(node: Node, gate: Gate, name: str) -> list[str]:
    """The kinds of credentials that are configured and may change a decision about the channel."""
    return [kind for kind in node.permissions.useful(name) if kind in gate.accepts]


def _decision(check: Callable[[], object]) -> dict[str, Any]:
    try:
        check()
    except PushServerError as error:
        return {"allowed": False, "reason": str(error)}
    return {"allowed": True, "reason": ""}
