"""The exit status of a process whose store could not be closed in order.

twistd ends with status 0, or by the signal that stopped it, which systemd counts as a success; a
service cannot choose the status.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from contextlib import suppress

from pushserver.usercode.reactor import Reactor

FAILED = 1


class ExitStatus:
    """Ends the process with status FAILED if the server failed to stop in order.

    Python makes the calls of `atexit` in the reverse order. Make this object before the
    application is loaded, whose calls are then made before the end.
    """

    def __init__(self, reactor: Reactor):
        self._reactor = reactor
        self._failed = False
        atexit.register(self._end)

    def watch(self, failed: Callable[[], bool]) -> None:
        """Ask `failed` when everything has stopped."""

        def stopped() -> None:
            if failed():
                self._failed = True
                # Otherwise twistd ends by this signal before it makes the calls of `atexit`.
                setattr(self._reactor, "_exitSignal", None)  # noqa: B010

        self._reactor.addSystemEventTrigger("after", "shutdown", stopped)

    def _end(self) -> None:
        if self._failed:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError, AttributeError):
                    stream.flush()
            os._exit(FAILED)
