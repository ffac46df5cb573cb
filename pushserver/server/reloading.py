"""`--reload`: restarts the server when a file of the application has changed.

For development. The process replaces itself after an orderly stop. Without a store in the
configuration a temporary file keeps the history, so that open pages continue.
"""

from __future__ import annotations

import atexit
import itertools
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from twisted.application.service import MultiService, Service
from twisted.logger import Logger

from pushserver.errors import StartFailed
from pushserver.server import signals
from pushserver.usercode.reactor import Reactor
from pushserver.usercode.repeating import Repeating

CHECK_SECONDS = 0.5
FOLDER = "PUSHSERVER_RELOAD_FOLDER"
"""The environment variable with the folder of the history, only set for the next program."""

AGAIN = "PUSHSERVER_RELOAD_AGAIN"
"""The environment variable that marks this program as a restart; set at the same time as FOLDER."""

_PREFIX = "pushserver-reload-"
_HISTORY = "history.db"
_MARK = "made-by-pushserver"
"""A file in each folder that this module made."""

_SKIPPED = {"__pycache__", "node_modules", "site-packages"}


class Watched:
    """The files below some folders, and other files, with their times."""

    def __init__(
        self,
        folders: Sequence[Path],
        files: Sequence[Path] = (),
        again: bool = False,
        suffix: str = ".py",
    ):
        """Changes from now on are noticed. `again`: such a change has started this program.

        `suffix` ends the names of the files below the folders.
        """
        self.again = again
        self._suffix = suffix
        self._folders = folders
        self._files = list(files)
        self._seen = self._times()

    def add(self, path: Path) -> None:
        """Watch this file or folder too, which does not exist yet."""
        self._files.append(path)

    def changed(self) -> Path | None:
        """The first file that has changed, if any has."""
        changed = self._times().items() ^ self._seen.items()
        return min((path for path, _ in changed), default=None)

    def look_again(self) -> Path | None:
        """The first file that has changed since the last call, if any has."""
        changed = self.changed()
        self._seen = self._times()
        return changed

    def _times(self) -> dict[Path, int]:
        times = {}
        for path in (*_sources(self._folders, self._suffix), *self._files):
            try:
                times[path] = path.stat().st_mtime_ns
            except OSError:
                continue
        return times


class Reloader(Service):
    """Stops the reactor when a watched file has changed, and starts the program again.

    `look`: the templates and static files, after whose changes the server only calls `read_look`.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Reactor,
        watched: Watched,
        look: Watched | None = None,
        read_look: Callable[[str], object] = str,
    ):
        self._look = look
        self._read_look = read_look
        self._reactor = reactor
        self._watched = watched
        self._clock = Repeating(self._check, reactor)
        self._restarting = False

    def watch(self, path: Path) -> None:
        """Watch this file or folder too, which does not exist yet."""
        self._watched.add(path)

    def startService(self) -> None:
        super().startService()
        # From now on the end of the reactor removes the history; forks run atexit, too.
        atexit.unregister(_tidy)
        # Its parent stops slowly, and stops it last.
        self._reactor.addSystemEventTrigger("before", "shutdown", self._clock.stop)
        self._reactor.addSystemEventTrigger("after", "shutdown", self._end)
        self._clock.start(CHECK_SECONDS)

    def stopService(self) -> None:
        super().stopService()
        self._clock.stop()

    def _check(self) -> None:
        changed = self._watched.changed()
        if changed is not None:
            self._log.info(
                "{path} has changed: starting again", path=str(changed), event_name="code_changed"
            )
            self._restarting = True
            self._clock.stop()
            self._reactor.stop()
        elif self._look is not None and (path := self._look.look_again()) is not None:
            self._read_look(f"a change of {path}")

    def _end(self) -> None:
        # A signal during the stop takes precedence; the process then ends without atexit.
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
        self._log.error(
            "{error}\nwaiting for a file to change",
            error=str(self._error),
            event_name="start_failed",
        )


_kept: Path | None = None
"""The folder of the history, which this program or the one before it made."""


def inherit() -> bool:
    """Take the folder of the program before; child processes must not find it.

    Returns whether `--reload` has started this program again.
    """
    global _kept
    again = os.environ.pop(AGAIN, None) is not None
    folder = Path(os.environ.pop(FOLDER, ""))
    # The variable may be the user's.
    if folder.name.startswith(_PREFIX) and Path(folder, _MARK).is_file():
        _kept = folder
        atexit.register(_tidy)
    return again


def history_file() -> str:
    """The file that keeps the history over restarts."""
    global _kept
    if _kept is None:
        _kept = Path(tempfile.mkdtemp(prefix=_PREFIX))
        Path(_kept, _MARK).touch()
        # For a start that fails.
        atexit.register(_tidy)
    return str(Path(_kept, _HISTORY))


def _sources(folders: Sequence[Path], suffix: str) -> Iterator[Path]:
    """The files below the folders whose names end so, without environments and caches."""
    for inside, names, files in itertools.chain.from_iterable(map(os.walk, folders)):
        names[:] = [
            name
            for name in names
            if not name.startswith(".")
            and name not in _SKIPPED
            and not Path(inside, name, "pyvenv.cfg").exists()
        ]
        for file in files:
            if file.endswith(suffix):
                yield Path(inside, file)


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
    os.environ[AGAIN] = "1"
    # Python starts without our handlers of signals.
    signals.hold()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
