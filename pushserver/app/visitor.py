"""A peer that asks to be identified, and the answer of the application."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pushserver.app.client import MAX_INFO, MAX_USER, cookies
from pushserver.auth.identity import ANONYMOUS, LATEST, Identity
from pushserver.auth.patterns import Patterns
from pushserver.channels import jsontext


@dataclass(frozen=True, slots=True)
class Visitor:
    """The request of a peer, as the `authenticate` handler sees it.

    `address` is the IP address, behind `trusted_proxies` that of the client, empty on a Unix
    socket. `protocol` is websocket, http_stream, sse, socketio or http. `headers` are by lower-case
    name, without those of proxies. `data` is that of a client's `connect`, else None.
    """

    address: str
    protocol: str
    headers: Mapping[str, str]
    data: object = None

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies by name."""
        return cookies(self.headers)


@dataclass(frozen=True, slots=True)
class Identified:
    """The answer of an `authenticate` handler.

    `user`: 255 characters at most. `info`: a JSON value about the user for those who see its
    presence, 4,096 bytes at most. `channels`: patterns of the channels that it may subscribe to
    where the rule is `token`. `expires`: the end of the identity in Unix seconds, 0 for none.
    """

    user: str
    info: object = None
    channels: Sequence[str] = ()
    expires: float = 0.0


def identity_of(answer: object) -> Identity:
    """The identity that a handler answered; raises TypeError and ValueError."""
    if answer is None:
        return ANONYMOUS
    found = Identified(answer) if isinstance(answer, str) else answer
    if not isinstance(found, Identified):
        raise TypeError(f"authenticate returned {answer!r:.60}, expected a text or Identified")
    user: object = found.user
    if not isinstance(user, str) or len(user) > MAX_USER:
        raise ValueError(f"the user is {user!r:.60}, expected {MAX_USER} characters at most")
    jsontext.encode(user)
    info = b"" if found.info is None else jsontext.encode(found.info)
    if len(info) > MAX_INFO:
        raise ValueError(f"the info has {len(info)} bytes of JSON, expected {MAX_INFO} at most")
    expires = _end(found.expires)
    return Identity(user, info, expires, token=True, channels=Patterns.of(found.channels))


def _end(expires: object) -> float:
    problem = f"expires is {expires!r:.60}, expected Unix seconds, 0 for no end"
    if isinstance(expires, bool) or not isinstance(expires, (int, float)):
        raise TypeError(problem)
    # A NaN is in no range.
    if not 0 <= expires < LATEST:
        raise ValueError(f"{problem}, not milliseconds" if expires > 0 else problem)
    return float(expires)
