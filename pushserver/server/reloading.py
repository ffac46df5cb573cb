"""`--reload`: starts the server again when a file of the application has changed.

For development. The process replaces itself, once it has stopped in order. The history is kept
in a file meanwhile, if the configuration has none, so pages go on from where they were.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from twisted.application.service import MultiService, Service
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from pushserver.errors import StartFailed
from pushserver.server import signals
from pushserver.usercode.reactor import Reactor

LOOK_SECONDS = 0.5
FOLDER = "PUSHSERVER_RELOAD_FOLDER"
"""The environment variable by which one process tells the next where the history is."""

_SKIPPED = {"__pycache__", "node_modules", "site-packages"}


class Reloader(Service):
    """Looks at the files below `root`, and ends the reactor when one has changed."""

    _log = Logger()

    def __init__(self, reactor: Reactor, root: Path, more: tuple[Path, ...] = ()):
        """`more`: files elsewhere that count too. What changes from now on is seen."""
        self._reactor = reactor
        self._root = root
        self._more = more
        self._seen = self._times()
        self._loop = LoopingCall(self._look)
        self._loop.clock = reactor
        self._restarting = False

    def watch(self, path: Path) -> None:
        """Look at this one too, which is not there yet."""
        self._more = (*self._more, path)

    def startService(self) -> None:
        super().startService()
        # Its parent takes its time to stop, and tells it last.
        self._reactor.addSystemEventTrigger("before", "shutdown", self._look_no_more)
        self._reactor.addSystemEventTrigger("after", "shutdown", self._end)
        self._loop.start(LOOK_SECONDS, now=False)

    def stopService(self) -> None:
        super().stopService()
        self._look_no_more()

    def _look_no_more(self) -> None:
        if self._loop.running:
            self._loop.stop()

    def _look(self) -> None:
        now = self._times()
        if now != self._seen:
            changed = sorted(path for path, _ in now.items() ^ self._seen.items())
            self._log.info("{path} has changed: starting again", path=str(changed[0]))
            self._restarting = True
            self._loop.stop()
            self._reactor.stop()

    def _times(self) -> dict[Path, int]:
        times = {}
        for path in (*_sources(self._root), *self._more):
            try:
                times[path] = path.stat().st_mtime_ns
            except OSError:
                continue
        return times

    def _end(self) -> None:
        # A signal that came meanwhile counts more; with it twistd ends without atexit.
        if self._restarting and getattr(self._reactor, "_exitSignal", None) is None:
            _at_end(_start_again)
        else:
            _tidy()


class Retrier(MultiService):
    """In place of a server that cannot start: says why, and waits for a file to change."""

    _log = Logger()

    def __init__(self, reloader: Reloader, error: StartFailed):
        super().__init__()
        self._error = error
        if error.missing is not None:
            reloader.watch(error.missing)
        reloader.setServiceParent(self)

    def startService(self) -> None:
        super().startService()
        self._log.error("{error}\nwaiting for a file to change", error=str(self._error))


def history_file() -> str:
    """Where the history is kept while the server is started again and again."""
    folder = os.environ.get(FOLDER)
    if not folder:
        folder = os.environ[FOLDER] = tempfile.mkdtemp(prefix="pushserver-reload-")
    # For a start that fails; what ends the reactor sees to it itself.
    atexit.register(_tidy)
    return str(Path(folder, "history.db"))


def _sources(root: Path) -> Iterator[Path]:
    """The Python files below a folder, but not those of environments and caches."""
    for folder, names, files in os.walk(root):
        inside = Path(folder)
        names[:] = [
            name
            for name in names
            if not name.startswith(".")
            and name not in _SKIPPED
            and not Path(inside, name, "pyvenv.cfg").exists()
        ]
        for file in files:
            if file.endswith(".py"):
                yield inside / file


def _tidy() -> None:
    """Nobody goes on with the history."""
    folder = os.environ.pop(FOLDER, None)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)


_at_end: Callable[[Callable[[], None]], object] = getattr(
    threading, "_register_atexit", atexit.register
)
"""As atexit, but before the threads of the application are waited for, which may be for ever.

concurrent.futures has no other way either.
"""


def _start_again() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    # Python starts without our handlers.
    signals.hold()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
