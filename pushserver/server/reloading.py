"""`--reload`: restarts the server when a file of the application has changed.

For development. The process replaces itself after an orderly stop. Without a store in the
configuration a temporary file keeps the history, so that open pages continue.
"""

from __future__ import annotations

import atexit
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from twisted.application.service import MultiService, Service
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from pushserver.errors import StartFailed
from pushserver.server import signals
from pushserver.usercode.reactor import Reactor

CHECK_SECONDS = 0.5
FOLDER = "PUSHSERVER_RELOAD_FOLDER"
"""The environment variable with the folder of the history, only set for the next program."""

_PREFIX = "pushserver-reload-"
_HISTORY = "history.db"
_MARK = "made-by-pushserver"
"""A file in each folder that this module made."""

_SKIPPED = {"__pycache__", "node_modules", "site-packages"}


class Reloader(Service):
    """Watches the files below `root`, and stops the reactor when one has changed."""

    _log = Logger()

    def __init__(self, reactor: Reactor, root: Path, more: tuple[Path, ...] = ()):
        """`more`: files elsewhere. Changes from now on are noticed."""
        self._reactor = reactor
        self._root = root
        self._more = more
        self._seen = self._times()
        self._loop = LoopingCall(self._check)
        self._loop.clock = reactor
        self._restarting = False

    def watch(self, path: Path) -> None:
        """Watch this file or folder too, which does not exist yet."""
        self._more = (*self._more, path)

    def startService(self) -> None:
        super().startService()
        # From now on the end of the reactor removes the history; forks run atexit, too.
        atexit.unregister(_tidy)
        # Its parent stops slowly, and stops it last.
        self._reactor.addSystemEventTrigger("before", "shutdown", self._stop_checking)
        self._reactor.addSystemEventTrigger("after", "shutdown", self._end)
        self._loop.start(CHECK_SECONDS, now=False)

    def stopService(self) -> None:
        super().stopService()
        self._stop_checking()

    def _stop_checking(self) -> None:
        if self._loop.running:
            self._loop.stop()

    def _check(self) -> None:
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
        # A signal during the stop takes precedence; twistd then ends without atexit.
        if self._restarting and getattr(self._reactor, "_exitSignal", None) is None:
            _at_end(_start_again)
        else:
            _tidy()


class Retrier(MultiService):
    """Replaces a server that cannot start: logs the error, and waits for a file to change."""

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


_kept: Path | None = None
"""The folder of the history, which this program or the one before it made."""


def inherit() -> None:
    """Take the folder of the program before; child processes must not find it."""
    global _kept
    folder = Path(os.environ.pop(FOLDER, ""))
    # The variable may be the user's.
    if folder.name.startswith(_PREFIX) and Path(folder, _MARK).is_file():
        _kept = folder
        atexit.register(_tidy)


def history_file() -> str:
    """The file that keeps the history over restarts."""
    global _kept
    if _kept is None:
        _kept = Path(tempfile.mkdtemp(prefix=_PREFIX))
        Path(_kept, _MARK).touch()
        # For a start that fails.
        atexit.register(_tidy)
    return str(Path(_kept, _HISTORY))


def _sources(root: Path) -> Iterator[Path]:
    """The Python files below a folder, without environments and caches."""
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
    """Remove the history, and its folder unless somebody has put something there."""
    global _kept
    folder, _kept = _kept, None
    if folder is None:
        return
    with suppress(OSError):
        # With the -wal and -shm of SQLite.
        for file in (*folder.glob(f"{_HISTORY}*"), folder / _MARK):
            file.unlink(missing_ok=True)
        folder.rmdir()


_at_end: Callable[[Callable[[], None]], object] = getattr(
    threading, "_register_atexit", atexit.register
)
"""Like atexit, but before Python waits for the threads of the application, which may take forever.

concurrent.futures uses the same private function.
"""


def _start_again() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    if _kept is not None:
        os.environ[FOLDER] = str(_kept)
    # Python starts without our handlers of signals.
    signals.hold()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
