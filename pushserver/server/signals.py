"""Handles signals whose default action ends the process at once.

Such an end leaves the store unclosed, and the next start begins a new epoch: all clients lose their
positions. Twisted's handlers of SIGTERM and SIGINT are replaced when the reactor runs: the second
signal stopped a reactor that was stopping, and logged a traceback. Python's handler of SIGINT is
replaced before that: its KeyboardInterrupt is lost where Twisted catches every error of a plug-in
or a Deferred, and the server would go on.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger

from pushserver.usercode.hangup import Early, has_terminal
from pushserver.usercode.rate import LOGGED_AT_ONCE, LogLimiter
from pushserver.usercode.reactor import Reactor

ANSWERED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that do not end the server: SIGHUP reloads the configuration, the others are logged."""
_ENDING = (
    *("SIGQUIT", "SIGALRM", "SIGVTALRM", "SIGPROF"),
    *("SIGIO", "SIGPWR", "SIGXCPU", "SIGSTKFLT"),
)


def ending() -> tuple[int, ...]:
    """The signals of this system that stop the server in order."""
    named = [int(getattr(signal, name)) for name in _ENDING if hasattr(signal, name)]
    if hasattr(signal, "SIGRTMIN"):
        named += range(signal.SIGRTMIN, signal.SIGRTMAX + 1)
    return tuple(named)


def name_of(number: int) -> str:
    """SIGHUP, SIGRTMIN+3, ..."""
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"SIGRTMIN+{number - signal.SIGRTMIN}"


def install(reactor: Reactor, monotonic: Callable[[], float]) -> SignalHandlers | None:
    """Handle the signals of this process; None if this is not its main thread.

    A signal that is ignored (nohup), or has a handler already, keeps that.
    """
    if threading.current_thread() is not threading.main_thread():
        return None
    handlers = SignalHandlers(reactor, monotonic, signal, has_terminal)
    handlers.install()
    return handlers


def hold() -> None:
    """Block the signals that do not end the server, until `release` in the next program."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ANSWERED)


def release() -> None:
    """Unblock these signals."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ANSWERED)


class SignalHandlers:
    """The handlers of one process; `system` is the module `signal`.

    A handler only calls the reactor, as Twisted's do, since it interrupts the main thread.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Reactor,
        monotonic: Callable[[], float],
        system: Any,
        has_terminal: Callable[[], bool],
    ):
        self.reload: Callable[[str], None] | None = None
        """Reloads the configuration; None while there is no server."""
        self._reactor = reactor
        self._monotonic = monotonic
        self._system = system
        self._has_terminal = has_terminal
        # A daemon has another session than its parent.
        self._session = os.getsid(0) if has_terminal() else None
        self._waiting: set[int] = set()
        self._limiters = {int(number): LogLimiter(LOGGED_AT_ONCE) for number in ANSWERED}
        self._process: int | None = None
        self._stopping = False

    def install(self) -> None:
        """Handle the signals whose action is the default one."""
        for number in self._limiters:
            self._take(number, _Answering(self._answer_soon))
        for number in ending():
            self._take(number, self._end_soon)
        self._take(signal.SIGINT, self._end_soon)
        # The reactor runs in the daemon, after twistd's forks; until then it cannot be stopped.
        self._reactor.callWhenRunning(self._begin)
        self._reactor.addSystemEventTrigger("after", "shutdown", self._leave)

    def _take(self, number: int, handler: Callable[[int, Any], None]) -> None:
        present = self._system.getsignal(number)
        replaced = (signal.SIG_DFL, signal.default_int_handler)
        if present in replaced or isinstance(present, Early):
            # Some systems reserve some real-time signals.
            with suppress(OSError, ValueError):
                self._system.signal(number, handler)

    def _begin(self) -> None:
        self._process = os.getpid()
        for number, name in ((signal.SIGINT, "sigInt"), (signal.SIGTERM, "sigTerm")):
            if self._system.getsignal(number) == getattr(self._reactor, name, None):
                self._system.signal(number, self._end_soon)

    def _leave(self) -> None:
        """Everything is closed; the process may still wait for threads, and may end at once."""
        self._process = None

    def _answer_soon(self, number: int, _: object) -> None:
        if self._process is not None and os.getpid() != self._process:
            self._default(number)
        elif number not in self._waiting:
            self._waiting.add(number)
            self._reactor.callFromThread(self._answer, number)

    def _end_soon(self, number: int, _: object) -> None:
        if self._process is None or os.getpid() != self._process:
            # Before and after the reactor runs, and in a fork, there is nothing to close.
            self._default(number)
        elif number not in self._waiting:
            self._waiting.add(number)
            self._reactor.callFromThread(self._end, number)

    def _default(self, number: int) -> None:
        """Do the default action of the signal."""
        self._system.signal(number, signal.SIG_DFL)
        self._system.raise_signal(number)

    def _answer(self, number: int) -> None:
        self._waiting.discard(number)
        if number == signal.SIGHUP and self._terminal_is_gone():
            self._end(number)
            return
        if number == signal.SIGHUP and self.reload is not None:
            self.reload(name_of(number))
            return
        more = self._limiters[number].suffix(self._monotonic())
        if more is not None:
            self._log.info(
                "received {signal}, which changes nothing: SIGHUP applies a changed configuration"
                " when the server has started{more}",
                signal=name_of(number),
                more=more,
                event_name="signal_ignored",
            )

    def _terminal_is_gone(self) -> bool:
        """Whether the server ran in a terminal, and that was closed."""
        return self._session == os.getsid(0) and not self._has_terminal()

    def _end(self, number: int) -> None:
        self._waiting.discard(number)
        if self._stopping:
            self._log.info(
                "received {signal} again, and is still shutting down; to end the server at once,"
                " with its store unclosed: kill -KILL {pid}",
                signal=name_of(number),
                pid=os.getpid(),
                event_name="signal_repeated",
            )
            return
        self._stopping = True
        self._log.info(
            "received {signal}, shutting down", signal=name_of(number), event_name="signal_received"
        )
        # twistd ends the process by this signal, so that its parent sees the reason.
        setattr(self._reactor, "_exitSignal", number)  # noqa: B010
        with suppress(ReactorNotRunning):
            self._reactor.stop()


class _Answering:
    """A handler that is false, as the default one is.

    twistd installs its own for SIGUSR1 later, which rotates the file of `--logfile`, but only if
    the present handler is false.
    """

    def __init__(self, call: Callable[[int, Any], None]):
        self._call = call

    def __bool__(self) -> bool:
        return False

    def __call__(self, number: int, frame: Any) -> None:
        self._call(number, frame)
