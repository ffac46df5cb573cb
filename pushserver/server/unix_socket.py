"""Endpoints of Unix sockets: `unix:/run/push.sock:mode=660:group=www-data`.

Those of Twisted have no group. They lock the path with the number of the process, and in a
container, where that is the same at each start, a server that was killed could not start again.
"""

from __future__ import annotations

import errno
import grp
import os
import re
import socket
import stat
from contextlib import suppress
from typing import Any

from twisted.internet import unix
from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

from pushserver.server.workers.holding import Holding

UNIX = "unix:"
MAX_PATH = 107
"""The bytes of a path (unix(7): sun_path, with its zero byte)."""

_KEYS = ("address", "mode", "backlog", "lockfile", "group")
"""The parameters, in Twisted's order. `backlog` and `lockfile` are Twisted's, without effect."""


def endpoint_of(path: str) -> str:
    """The text of the endpoint at this path, with escapes for the characters of its syntax."""
    return UNIX + re.sub(r"([\\:=])", r"\\\1", path)


@implementer(IStreamServerEndpoint)
class UnixEndpoint:
    """Listens on the path of a text `unix:PATH[:mode=MODE][:group=GROUP]`.

    Only the server's user may connect without `mode` and `group`; with a group, also its members.
    """

    def __init__(self, reactor: Any, text: str):
        """Raise ValueError for a text that is not valid."""
        self._reactor = reactor
        values = _values(text)
        self.path = values.get("address", "")
        if not 0 < len(os.fsencode(self.path)) <= MAX_PATH:
            raise ValueError(f"a path of {len(os.fsencode(self.path))} bytes, expected 1 to 107")
        self._group = _group(values["group"]) if "group" in values else None
        mode = values.get("mode", "600" if self._group is None else "660")
        if not re.fullmatch("0?[0-7]{3}", mode):
            raise ValueError(f"mode {mode!r}, expected permissions in octal, such as 660")
        self._mode = int(mode, 8)

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        return execute(self._listen, protocolFactory)

    def _listen(self, factory: IProtocolFactory) -> IListeningPort:
        if isinstance(self._reactor, Holding) and (left := self._reactor.take_unix(self.path)):
            return left
        _remove_unused(self.path)
        # Nobody else can connect before the group and the mode are set.
        port = _Port(os.fsencode(self.path), factory, mode=0o600, reactor=self._reactor)
        port.startListening()
        try:
            if self._group is not None:
                os.chown(self.path, -1, self._group)
            os.chmod(self.path, self._mode)
        except PermissionError as error:
            # At once: the process ends before the next turn of the reactor.
            port.stopReading()
            port.connectionLost(Failure(error))
            problem = "this user cannot give the socket to the group: it is no member of it"
            raise OSError(error.errno, problem) from None
        return port


class _Port(unix.Port):
    """Removes its file at the stop, if that is still there.

    Twisted's port raises an error then if it is not, and removes the file of a successor.
    """

    _file: os.stat_result | None = None

    def startListening(self) -> None:
        super().startListening()
        self._path = os.path.abspath(self.getHost().name)
        self._file = os.stat(self._path)
        leave_file(self)

    def connectionLost(self, reason: Failure) -> None:
        with suppress(FileNotFoundError):
            if self._file is not None and os.path.samestat(os.stat(self._path), self._file):
                os.unlink(self._path)
        super().connectionLost(reason)


def leave_file(port: unix.Port) -> None:
    """Let Twisted leave the file of the port alone, as it does for an abstract name."""
    name = "_bindPath" if hasattr(port, "_bindPath") else "port"  # before Twisted 26.10
    setattr(port, name, b"\0" + getattr(port, name).lstrip(b"\0"))


def _values(text: str) -> dict[str, str]:
    """The parameters; positions, names and escapes by a backslash are those of Twisted."""
    values: dict[str, str] = {}
    position = 0
    for part in re.split(r"(?<!\\):", text)[1:]:
        key, *value = re.split(r"(?<!\\)=", part, maxsplit=1)
        if not value:
            value, key = [key], _KEYS[position] if position < len(_KEYS) else key
            position += 1
        if key not in _KEYS or key in values:
            raise ValueError(f"{part!r}, expected unix:PATH, and perhaps mode= and group=")
        values[key] = re.sub(r"\\(.)", r"\1", value[0])
    return values


def _group(name: str) -> int:
    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise ValueError(
            f"group {name!r}, expected a group of this machine, such as www-data, or its number"
        ) from None


def _remove_unused(path: str) -> None:
    """Remove the file of a socket on which nobody listens; raises OSError for any other file."""
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise OSError(errno.ENOENT, f"{folder} is no folder")
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "another file has this name, which is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        # With a full queue, a blocking connect would wait.
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass
    raise OSError(errno.EADDRINUSE, "another program listens there; end that, or choose another")
