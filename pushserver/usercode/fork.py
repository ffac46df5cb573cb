"""Detects forks of the server's process, which must not use the server's objects.

A fork (`multiprocessing` with the method fork, `os.fork`) has a copy of every object and socket of
the server. A publication there would get an offset that the server assigns again.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from os import getpid
from typing import NoReturn, Protocol, TypeVar
from weakref import WeakSet

from pushserver.errors import NotRunning

Result = TypeVar("Result")


class Closeable(Protocol):
    """A socket or a file."""

    def close(self) -> None: ...


class ForkGuard:
    """Refuses the use of an object in a fork of the process that created it."""

    def __init__(self) -> None:
        self._pid = getpid()

    def check(self) -> None:
        """Raise NotRunning in a fork."""
        if getpid() != self._pid:
            raise NotRunning(
                "this is a forked process of the server, which cannot use the application:"
                ' publish from here with pushserver.publish("http://localhost:8080", channel,'
                " data), with the URL of the server"
            )


def call(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function of the user; it returns only in the process that called it.

    A child of an `os.fork()` in the function that returns or raises is ended here: otherwise it
    would run a second reactor on the sockets of the first.
    """
    process = getpid()
    try:
        result = function(*arguments)
    except BaseException as error:
        if getpid() != process:
            _end(error)
        raise
    if getpid() != process:
        _end(None)
    return result


def close_in_forks(file: Closeable) -> None:
    """Close a socket or file in each later fork of this process, whose copy would keep it open.

    Twisted may fork to spawn a process, so a descriptor for that process is a duplicate (`os.dup`)
    of the registered one. The daemon of twistd is a fork too: register after its start.
    """
    _closed_in_forks().add(file)


@cache
def _closed_in_forks() -> WeakSet[Closeable]:
    files: WeakSet[Closeable] = WeakSet()

    def close() -> None:
        for file in files:
            with suppress(OSError):
                file.close()

    os.register_at_fork(after_in_child=close)
    return files


def _end(error: BaseException | None) -> NoReturn:
    """End this process without the exit handlers, threads and buffers of its parent."""
    if isinstance(error, SystemExit):
        code = error.code
        if isinstance(code, int) or code is None:
            os._exit((code or 0) & 0xFF)
        text = f"{code}\n"
    elif error is not None and not isinstance(error, StopIteration):
        text = "".join(traceback.format_exception(error))
    else:
        # A coroutine or a generator returns by StopIteration.
        text = (
            "pushserver: a forked process of the server returned from the function that forked"
            " it, and ends here: end it with os._exit()\n"
        )
    # Not sys.stderr or the log: their locks may be held by threads that do not exist in the fork.
    with suppress(OSError):
        os.write(2, text.encode("utf-8", "backslashreplace"))
    os._exit(1)
