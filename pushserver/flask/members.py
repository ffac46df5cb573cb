"""The clients of a Flask program, and the rooms that they are in."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

from pushserver.app.client import Client
from pushserver.channels.names import MAX_NAME
from pushserver.errors import LimitExceeded

MAIN_CHANNEL = "socket.io"
"""The channel of the namespace `/`, unless the configuration names another one."""
ROOMS = "flask"
"""The namespace of the channels of rooms."""

MAX_ROOMS = 1_000
"""Rooms of one client: a program may let pages name them."""

_QUOTED = re.compile(rb"[^A-Za-z0-9_.-]")


@dataclass(slots=True, eq=False)
class Member:
    """A client in one namespace; `environ` is that of the request that opened its connection.

    `session` is its copy of the Flask session, None before the first handler. `rooms` are those
    that it is in, besides its own.
    """

    client: Client
    namespace: str
    environ: dict[str, Any]
    session: Any = None
    rooms: set[Hashable] = field(default_factory=set)

    @property
    def sid(self) -> str:
        """The id of the client in the namespace."""
        return self.client.id


class Members:
    """All clients by id, by namespace and by room. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_sid: dict[str, Member] = {}
        # The members of a namespace are in the room None of it.
        self._rooms: dict[tuple[str, Hashable], dict[Member, None]] = {}
        # Those that may not be subscribed yet: their `connect` handler runs, or has just returned.
        self._joining: dict[Member, None] = {}

    def add(self, member: Member) -> None:
        """A client connects."""
        with self._lock:
            self._by_sid[member.sid] = member
            self._joining[member] = None
            self._rooms.setdefault((member.namespace, None), {})[member] = None

    def remove(self, member: Member) -> None:
        """A client has left, or was refused."""
        with self._lock:
            self._by_sid.pop(member.sid, None)
            self._joining.pop(member, None)
            for room in (None, *member.rooms):
                self._take_out(member, room)
            member.rooms.clear()

    def find(self, sid: Hashable, namespace: str) -> Member | None:
        """The client with this id in the namespace."""
        member = self._by_sid.get(sid) if isinstance(sid, str) else None
        return member if member is not None and member.namespace == namespace else None

    def enter(self, member: Member, room: Hashable) -> bool:
        """Put a client into a room; False if it is in it. Raises LimitExceeded."""
        with self._lock:
            if room in member.rooms or member.sid not in self._by_sid:
                return False
            if len(member.rooms) >= MAX_ROOMS:
                raise LimitExceeded(f"a client is in {MAX_ROOMS} rooms already", "rooms")
            member.rooms.add(room)
            self._rooms.setdefault((member.namespace, room), {})[member] = None
            return True

    def leave(self, member: Member, room: Hashable) -> bool:
        """Take a client out of a room; False if it is not in it."""
        with self._lock:
            if room not in member.rooms:
                return False
            member.rooms.discard(room)
            self._take_out(member, room)
            return True

    def _take_out(self, member: Member, room: Hashable) -> None:
        key = (member.namespace, room)
        members = self._rooms.get(key, {})
        members.pop(member, None)
        if not members:
            self._rooms.pop(key, None)

    def chosen(self, namespace: str, targets: Iterable[Hashable] | None) -> list[Member]:
        """The clients of rooms and with these ids, each once; those of the namespace for None."""
        with self._lock:
            found: dict[Member, None] = {}
            for target in (None,) if targets is None else targets:
                found |= self._rooms.get((namespace, target), {})
                member = self.find(target, namespace)
                if member is not None:
                    found[member] = None
            return list(found)

    def joining(self, namespace: str, room: Hashable) -> list[Member]:
        """Those of `chosen` that are not connected yet; for the reactor's thread."""
        with self._lock:
            for member in tuple(self._joining):
                if member.client.connected:
                    del self._joining[member]
            members = self._rooms.get((namespace, room), {})
            return [member for member in self._joining if member in members]


def channel_of(namespace: str, room: Hashable = None) -> str:
    """The channel of a room: a private one, which a client joins by its handler alone."""
    text = f"${ROOMS}:{_quoted(namespace[1:])}:{_quoted(room)}"
    if len(text) <= MAX_NAME:
        return text
    return f"${ROOMS}:{hashlib.sha256(text.encode()).hexdigest()}"


def _quoted(room: Hashable) -> str:
    """The text, with `@` and two hexadecimal digits for each byte that a name cannot have.

    Different rooms have different texts, also 1 and "1".
    """
    kind, text = ("", room) if isinstance(room, str) else (f"@{type(room).__name__}", repr(room))
    data = text.encode("utf-8", "surrogatepass")
    return kind + _QUOTED.sub(lambda match: b"@%02X" % match[0][0], data).decode()
