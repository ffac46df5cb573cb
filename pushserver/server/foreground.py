"""`pushserver serve` and `app.run()`: the server in the foreground, on the reactor that fits."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TextIO, cast

from twisted.application.reactors import NoSuchReactor, installReactor
from twisted.application.service import IService
from twisted.logger import globalLogBeginner

from pushserver import __version__
from pushserver.app.app import App
from pushserver.config.settings import Log
from pushserver.errors import StartFailed
from pushserver.server.exit_status import FAILED
from pushserver.server.log_output import serve_observer
from pushserver.server.options import (
    Options,
    broker,
    listen_texts,
    load_app,
    make_service,
    prepare,
    retry,
    watch,
    workers,
)
from pushserver.server.service import PushService
from pushserver.usercode.reactor import Reactor

SLOW_IMPORT_SECONDS = 3.0
_REACTOR = "twisted.internet.reactor"


def serve(options: Options, app: App | None = None, reactor: str = "", browse: bool = False) -> int:
    """Run the server until it is stopped; returns the signal that stopped it, or 0.

    Without `app`, the options name the application, if there is one. `reactor`: the name of
    Twisted's reactor; by default asyncio's if the application has coroutine functions. `browse`:
    open the page in a browser. Raises StartFailed, SystemExit if the store could not be closed in
    order, and RuntimeError where no reactor can be run.
    """
    _check_can_run()
    # Before the import of the application, which may take long.
    listen_texts(options)
    workers(options)
    broker(options)
    watched = watch(options)
    error = None
    try:
        with _slow_import_noted(options["app"]):
            app = app or load_app(options)
    except StartFailed as failed:
        if watched is None:
            raise
        error = failed
    running = _install(reactor, app)
    handlers = prepare(options, running)
    settings, levels = Log(), None
    try:
        if error is not None:
            raise error
        made = make_service(options, running, app, watched, handlers)
        service: IService = made
        settings, levels = made.log, made.levels
    except StartFailed as failed:
        service = retry(failed, running, watched)
    finally:
        # Twisted keeps what was logged before.
        observer = serve_observer(settings, os.environ, levels)
        globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
    if isinstance(service, PushService):
        again = watched is not None and watched.again
        service.announce = lambda urls: _announce(urls, browse and not again)
    _run(service, running)
    if isinstance(service, PushService) and service.failed:
        # The reason was logged.
        sys.exit(FAILED)
    return getattr(running, "_exitSignal", None) or 0


def end_by(number: int) -> None:
    """End the process by this signal, so that its parent sees the reason."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _check_can_run() -> None:
    """Raise StartFailed in a loop of asyncio, and RuntimeError after a run of the reactor."""
    if getattr(sys.modules.get(_REACTOR), "_startedBefore", False):
        raise RuntimeError("a reactor runs once in a process, and this one has run already")
    with suppress(RuntimeError):
        asyncio.get_running_loop()
        raise StartFailed(
            "the server has a loop of its own, and cannot run in a coroutine or a notebook:"
            " start it in a process of its own"
        )


def _install(name: str, app: App | None) -> Reactor:
    """Install the reactor of this name, or the one that fits; raises StartFailed."""
    installed = _REACTOR in sys.modules
    if not name and not installed and app is not None and app.has_coroutines:
        name = "asyncio"
    if name and not installed:
        try:
            installReactor(name)
        except NoSuchReactor:
            problem = "expected asyncio, epoll, poll, select, or another of twistd --help-reactors"
            raise StartFailed(f"--reactor {name}: {problem}") from None
        except Exception as error:
            raise StartFailed(f"--reactor {name}: {error}") from None
    elif name:
        raise StartFailed(f"--reactor {name}: the application has installed a reactor already")
    from twisted.internet import reactor

    return cast(Reactor, reactor)


def _run(service: IService, reactor: Reactor) -> None:
    service.privilegedStartService()
    service.startService()
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    main = threading.current_thread() is threading.main_thread()
    reactor.run(installSignalHandlers=main)  # type: ignore[call-arg]


def _announce(urls: list[str], browse: bool) -> None:
    """Print the line with the URL, and open it in a browser."""
    where = f"open {' or '.join(urls)}" if urls else "running"
    _print(f"pushserver {__version__}: {where}", sys.stdout)
    pages = [url for url in urls if url.startswith("http")]
    if browse and pages:
        threading.Thread(target=_browse, args=(pages[0],), name="browser", daemon=True).start()


def _browse(url: str) -> None:
    if not webbrowser.open(url):
        _print(f"pushserver: no browser was found to open {url}", sys.stderr)


def _print(line: str, out: TextIO | None) -> None:
    # The output may be closed, and the terminal gone.
    with suppress(OSError, ValueError, AttributeError):
        cast(TextIO, out).write(f"{line}\n")
        cast(TextIO, out).flush()


@contextmanager
def _slow_import_noted(text: str) -> Iterator[None]:
    """Print the line that the import of an application has reached if that takes long."""
    if not text:
        yield
        return
    thread = threading.get_ident()

    def note() -> None:
        frame = sys._current_frames().get(thread)
        line = _import_line(frame)
        _print(f"pushserver: {text} is still being imported{line}; Ctrl-C ends that", sys.stderr)

    timer = threading.Timer(SLOW_IMPORT_SECONDS, note)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _import_line(frame: FrameType | None) -> str:
    """The innermost line of a module that is being imported."""
    while frame is not None:
        if frame.f_code.co_name == "<module>":
            return f", at line {frame.f_lineno} of {frame.f_code.co_filename}"
        frame = frame.f_back
    return ""
