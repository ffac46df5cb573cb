"""Connection state recovery of Socket.IO, on the history of the namespace's channel.

The server keeps nothing of a client that is away: its `pid` has the position at which it joined,
and each publication of the channel has its own position as the last argument, the offset. The
client returns with both. The protocol has one offset for a namespace, so rooms have none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pushserver.channels.position import Position

_POSITION = r"([0-9A-Za-z_-]{1,64}):([0-9]{1,18})"
_PID = re.compile(rf"[0-9A-Za-z_-]{{16}}\.{_POSITION}", re.ASCII)
_OFFSET = re.compile(_POSITION, re.ASCII)

KEYS = frozenset({"pid", "offset"})
"""The keys that a client which returns adds to the `auth` of its CONNECT."""


class Return(NamedTuple):
    """A client that returns: its `pid`, and the position that it has reached."""

    pid: str
    position: Position


def make_pid(client: str, position: Position) -> str:
    """The `pid` of a client that joins its channel at this position."""
    return f"{client}.{position.epoch}:{position.offset}"


def read_return(auth: Mapping[str, Any]) -> Return | None:
    """The return that a client asks for; None if its `pid` is none of this server's.

    An offset before the position of the `pid`, or of another epoch, is that of an earlier `pid`:
    clients keep it until they get another.
    """
    pid, offset = auth.get("pid"), auth.get("offset")
    match = _PID.fullmatch(pid) if isinstance(pid, str) else None
    if match is None:
        return None
    joined = reached = Position(match[1], int(match[2]))
    later = _OFFSET.fullmatch(offset) if isinstance(offset, str) else None
    if later is not None and later[1] == joined.epoch:
        reached = Position(joined.epoch, max(joined.offset, int(later[2])))
    return Return(match[0], reached)
