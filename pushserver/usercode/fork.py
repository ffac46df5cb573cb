"""The process that runs a server, told apart from its forks.

A fork (`multiprocessing` with the method fork, `os.fork`) has a copy of every object of the
server, and its sockets: what it published would get offsets that the server gives out again.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from contextlib import suppress
from os import getpid
from typing import NoReturn, TypeVar

from pushserver.errors import NotRunning

Result = TypeVar("Result")


class Process:
    """The process in which this was made."""

    def __init__(self) -> None:
        self._pid = getpid()

    def check(self) -> None:
        """Raise NotRunning in a fork of that process."""
        if getpid() != self._pid:
            raise NotRunning(
                "this is a forked process of the server, which cannot use the application:"
                ' publish from here with pushserver.publish("http://localhost:8080", channel,'
                " data), with the URL of the server"
            )


def call(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function of the user's; only the process that called it gets its result.

    The child of an `os.fork()` in it that returns, or raises SystemExit, is ended here: it would
    go on as a second reactor, on the sockets of the first.
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


def _end(error: BaseException | None) -> NoReturn:
    """End this process at once: without the exit handlers, threads and buffers of its parent."""
    if isinstance(error, SystemExit):
        code = error.code
        if isinstance(code, int) or code is None:
            os._exit((code or 0) & 0xFF)
        text = f"{code}\n"
    elif error is not None and not isinstance(error, StopIteration):
        text = "".join(traceback.format_exception(error))
    else:
        # A coroutine and a generator return by StopIteration.
        text = (
            "pushserver: a forked process of the server returned from the function that forked"
            " it, and ends here: end it with os._exit()\n"
        )
    # A lock of sys.stderr, or of the log, may be held by a thread that was not forked.
    with suppress(OSError):
        os.write(2, text.encode("utf-8", "backslashreplace"))
    os._exit(1)
