"""The process that listens on a TCP port, for the message about a port in use. Linux only."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pushserver.errors import escaped
from pushserver.server.workers.process import MODULE

_LISTENS = "0A"
"""The state TCP_LISTEN in /proc/net/tcp."""


def owner(port: int, proc: Path = Path("/proc")) -> str:
    """`PROGRAM (process PID)`; empty if it cannot be known, as for another user's process."""
    # A process may end meanwhile.
    with suppress(OSError):
        for folder in _owners(port, proc):
            return f"{_program(folder)} (process {folder.name})"
    return ""


def left_worker(port: int, proc: Path = Path("/proc")) -> int | None:
    """A process that listens on the port, if it is a worker of a server that died; else None.

    The main process of a server has the sockets of its workers too.
    """
    with suppress(OSError):
        owners = list(_owners(port, proc))
        if owners and all(MODULE in _words(folder) for folder in owners):
            return int(owners[0].name)
    return None


def free_port(above: int, host: str) -> int | None:
    """The first of the next 20 ports after `above` that is free on this address."""
    for port in range(above + 1, min(above + 21, 65_536)):
        with suppress(OSError):
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
                return port
    return None


def _owners(port: int, proc: Path) -> Iterator[Path]:
    """The folders of the processes that have a listening socket of this port."""
    wanted = {f"socket:[{inode}]" for inode in _inodes(port, proc)}
    for folder in proc.glob("[0-9]*") if wanted else ():
        # A process may end meanwhile, or belong to another user.
        with suppress(OSError):
            if any(_link(file) in wanted for file in (folder / "fd").iterdir()):
                yield folder


def _inodes(port: int, proc: Path) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (proc / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def _link(file: Path) -> str:
    with suppress(OSError):
        return os.readlink(file)
    return ""


def _words(folder: Path) -> list[str]:
    return (folder / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")


def _program(folder: Path) -> str:
    """The name of the program, and of the script that it runs; arguments may be secret."""
    words = _words(folder)
    names = [os.path.basename(words[0])]
    if words[1:2] == ["-m"]:
        names += words[1:3]
    elif words[1:2] and not words[1].startswith("-"):
        names.append(os.path.basename(words[1]))
    text = " ".join(filter(None, names)) or (folder / "comm").read_text().strip()
    return escaped(text[:60])
