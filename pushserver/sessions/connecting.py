"""Identifies a client by its `connect` command, or by the request of its session."""

from __future__ import annotations

from msgspec import UNSET

from pushserver.auth.credentials import Credentials
from pushserver.auth.identity import ANONYMOUS, Identity
from pushserver.errors import Denied, ExpiredToken, PushServerError, WrongKey
from pushserver.protocols import centrifuge
from pushserver.sessions.node import Node
from pushserver.sessions.session import Session
from pushserver.usercode.pause import pause

KEY_HEADER = "x-api-key"
"""The name in the `headers` of a connect command that has an API key."""


async def slow_down(node: Node, problem: PushServerError | None) -> None:
    """Wait before the answer to a wrong key or token over the rate of its address."""
    if isinstance(problem, WrongKey) and problem.delay:
        await pause(node.timer.callLater, problem.delay)


async def identify(session: Session, request: centrifuge.ConnectRequest) -> Identity | None:
    """The identity of a client that connects; None if its token or key ended the session.

    The token of the command counts before the API key in its `headers` (a page cannot set those of
    a WebSocket), and both before the credentials of the session's request. Raises ExpiredToken,
    after which the client gets another token and tries again, and Unavailable.
    """
    credentials, identification = session.credentials, session.node.identification
    key = next((text for name, text in request.headers.items() if name.lower() == KEY_HEADER), None)
    given = bool(request.token) or key is not None
    if not given and credentials.is_empty and not identification.asks_application:
        return ANONYMOUS
    if request.token:
        credentials = Credentials(credentials.address, token=request.token)
    elif key is not None:
        credentials = Credentials(credentials.address, key=key)
    data = b"" if request.data is UNSET else bytes(request.data)
    found = await identification.identify(credentials, session.visit, data)
    await slow_down(session.node, found.problem)
    if not given or found.problem is None:
        return found
    if isinstance(found.problem, ExpiredToken) or not isinstance(found.problem, Denied):
        raise found.problem
    session.node.log_refusal(centrifuge.INVALID_TOKEN, session.address, str(found.problem))
    session.disconnect(centrifuge.INVALID_TOKEN, str(found.problem))
    return None
