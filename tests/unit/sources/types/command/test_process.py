from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any, cast

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from pushserver.sources.types.command.process import (
    GRACE_SECONDS,
    POLL_SECONDS,
    STDERR,
    STDERR_BYTES,
    STDOUT,
    CannotStart,
    Process,
)
from tests.unit.fakes.web import Trouble

# No process has this number: Linux gives none above 4194304.
PID = 2**30
STOP_SECONDS = 5.0


class Pipe:
    """One of a process's pipes."""

    paused = False

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False


class Reactor(Clock):
    """A clock that starts a process, which does what the test says; its transport too."""

    def __init__(self) -> None:
        super().__init__()
        self.pid = PID
        self.pipes: dict[int, Pipe] = {0: Pipe(), STDOUT: Pipe(), STDERR: Pipe()}
        self.triggers: list[Callable[[], Deferred[None]]] = []
        self.signals: list[tuple[float, int]] = []
        self.group = 1
        """How many are in its group."""
        self.has_group = True
        self.lives = True
        self.problem: OSError | None = None

    def spawnProcess(self, protocol: Process, *arguments: object) -> None:
        if self.problem is not None:
            raise self.problem
        self.protocol = protocol
        protocol.makeConnection(self)

    def addSystemEventTrigger(self, phase: str, event: str, call: Any) -> object:
        assert (phase, event) == ("before", "shutdown")
        self.triggers.append(call)
        return call

    def removeSystemEventTrigger(self, handle: Any) -> None:
        self.triggers.remove(handle)

    def kill(self, group: int, number: int) -> None:
        assert group == PID
        if not self.has_group or not self.group:
            raise ProcessLookupError
        self._note(number)

    def signalProcess(self, number: int) -> None:
        if not self.lives:
            raise ProcessExitedAlready
        self._note(number)

    def _note(self, number: int) -> None:
        if number:
            self.signals.append((self.seconds(), number))

    def closeStdin(self) -> None:
        del self.pipes[0]

    def loseConnection(self) -> None:
        self.close()

    def say(self, data: bytes, descriptor: int = STDOUT) -> None:
        """The process writes, and is read."""
        assert not self.pipes[descriptor].paused
        self.protocol.childDataReceived(descriptor, data)

    def exit(self, group: int = 0) -> None:
        """The process ends, and leaves so many behind."""
        self.lives = False
        self.group = group
        self.protocol.processExited(Failure(ProcessDone(0)))
        self.end()

    def close(self) -> None:
        """Nobody has its output any more."""
        self.pipes.clear()
        self.end()

    def end(self) -> None:
        """As Twisted does: when it has exited and its pipes are closed."""
        if not self.lives and not self.pipes:
            self.protocol.processEnded(Failure(ProcessDone(0)))

    def wait(self, seconds: float) -> None:
        """Time goes on in small steps."""
        for _ in range(round(seconds / POLL_SECONDS)):
            self.advance(POLL_SECONDS)


def running(on_stderr: Callable[[bytes], None] | None = None) -> tuple[Reactor, Process]:
    """A process that has been started."""
    reactor = Reactor()
    process = Process(cast(Any, reactor), reactor.seconds, STOP_SECONDS, on_stderr, reactor.kill)
    process.start(["/bin/true"], "", {})
    return reactor, process


def begun(coroutine: Any) -> list[Any]:
    """What comes of it."""
    found: list[Any] = []
    Deferred.fromCoroutine(coroutine).addBoth(found.append)
    return found


def read(process: Process) -> Any:
    """What is read at once."""
    [found] = begun(process.read())
    return found


class TestOutput:
    def test_is_not_read_before_the_last_was_taken(self) -> None:
        reactor, process = running()
        found = begun(process.read())
        reactor.say(b"a")
        assert found == [(STDOUT, b"a")]
        assert (reactor.pipes[STDOUT].paused, reactor.pipes[STDERR].paused) == (True, False)
        reactor.say(b"b", STDERR)
        assert reactor.pipes[STDERR].paused
        assert read(process) == (STDERR, b"b")
        assert reactor.pipes[STDOUT].paused
        found = begun(process.read())
        assert found == []
        assert not any(pipe.paused for pipe in reactor.pipes.values())
        reactor.close()
        reactor.exit()
        assert found == [None]

    def test_on_standard_error_may_be_heard_at_once(self) -> None:
        heard: list[bytes] = []
        reactor, process = running(heard.append)
        reactor.say(b"a")
        for _ in range(3):
            reactor.say(b"b", STDERR)
        assert heard == [b"b"] * 3
        assert read(process) == (STDOUT, b"a")

    def test_of_a_flood_on_standard_error_is_heard_so_much_in_a_while(self) -> None:
        heard: list[bytes] = []
        reactor, process = running(heard.append)
        chunk = b"x" * (STDERR_BYTES // 2)
        for _ in range(3):
            reactor.say(chunk, STDERR)
            assert not reactor.pipes[STDERR].paused
            reactor.say(chunk, STDERR)
            assert reactor.pipes[STDERR].paused
            # Whoever waits for the output, or for the end, changes nothing about that.
            begun(process.read())
            assert reactor.pipes[STDERR].paused
            begun(process.stop())
            assert reactor.pipes[STDERR].paused
            reactor.wait(POLL_SECONDS)
        for _ in range(2):
            reactor.say(chunk, STDERR)
        reactor.close()
        reactor.exit()
        assert process.ended
        assert reactor.getDelayedCalls() == []
        assert len(heard) == 8

    def test_that_was_not_taken_yet_is_there_after_the_end(self) -> None:
        reactor, process = running()
        reactor.say(b"a")
        reactor.close()
        reactor.exit()
        assert process.ended
        assert read(process) == (STDOUT, b"a")
        assert read(process) is None

    def test_may_be_waited_for_again_after_a_cancel(self) -> None:
        reactor, process = running()
        waiting = Deferred.fromCoroutine(process.read())
        waiting.addErrback(lambda why: why.trap(CancelledError))
        waiting.cancel()
        reactor.say(b"a")
        assert read(process) == (STDOUT, b"a")


class TestTheEnd:
    def test_of_all_of_it_is_waited_for(self) -> None:
        reactor, process = running()
        reactor.exit()
        assert not process.ended
        reactor.close()
        assert process.ended
        assert isinstance(process.result, ProcessDone)
        assert reactor.getDelayedCalls() == []
        assert reactor.triggers == []

    def test_ends_what_is_left_of_its_group(self) -> None:
        reactor, process = running()
        reactor.exit(group=2)
        reactor.close()
        assert reactor.signals == [(0, signal.SIGTERM)]
        reactor.wait(1)
        assert not process.ended
        reactor.group = 0
        reactor.wait(POLL_SECONDS)
        assert process.ended
        assert reactor.getDelayedCalls() == []

    def test_comes_although_the_group_has_zombies_that_nobody_takes(self) -> None:
        reactor, process = running()
        reactor.exit(group=2)
        reactor.close()
        begun(process.read())
        reactor.wait(STOP_SECONDS + 3 * GRACE_SECONDS)
        assert [number for _, number in reactor.signals] == [signal.SIGTERM, signal.SIGKILL]
        assert process.ended
        assert reactor.getDelayedCalls() == []

    def test_comes_although_somebody_else_has_its_output(self) -> None:
        reactor, process = running()
        found = begun(process.read())
        reactor.exit()
        reactor.wait(GRACE_SECONDS + 2 * POLL_SECONDS)
        assert found == [None]
        assert process.ended

    def test_leaves_time_to_take_what_it_has_written(self) -> None:
        reactor, process = running()
        reactor.say(b"a")
        reactor.exit()
        reactor.wait(20)
        assert not process.ended
        assert read(process) == (STDOUT, b"a")
        reactor.wait(20)
        assert not process.ended
        found = begun(process.read())
        reactor.wait(GRACE_SECONDS / 2)
        reactor.say(b"b")
        assert found == [(STDOUT, b"b")]
        found = begun(process.read())
        assert not process.ended
        reactor.wait(3 * GRACE_SECONDS)
        assert found == [None]
        assert process.ended


class TestStopping:
    def test_is_asked_for_and_then_enforced(self) -> None:
        reactor, process = running()
        over = begun(process.stop())
        assert process.stopped
        reactor.wait(STOP_SECONDS + POLL_SECONDS)
        [(first, asked), (second, enforced)] = reactor.signals
        assert (first, asked, enforced) == (0, signal.SIGTERM, signal.SIGKILL)
        assert STOP_SECONDS <= second <= STOP_SECONDS + POLL_SECONDS + 0.01
        assert over == []
        reactor.exit()
        reactor.close()
        assert over == [None]
        assert reactor.getDelayedCalls() == []

    def test_reads_on_and_keeps_nothing(self) -> None:
        reactor, process = running()
        reactor.say(b"a")
        found = begun(process.stop())
        for _ in range(3):
            reactor.say(b"b")
        reactor.close()
        reactor.exit()
        assert found == [None]
        assert read(process) is None

    def test_what_does_not_end_is_told(self, trouble: Trouble) -> None:
        reactor, process = running()
        over = begun(process.stop())
        reactor.wait(STOP_SECONDS + GRACE_SECONDS + 3 * POLL_SECONDS)
        assert over == [None]
        assert process.ended
        assert trouble.take() == [f"process {PID} does not end"]
        assert reactor.getDelayedCalls() == []

    def test_goes_on_when_nobody_waits_for_it(self) -> None:
        reactor, process = running()
        stopping = Deferred.fromCoroutine(process.stop())
        stopping.addErrback(lambda why: why.trap(CancelledError))
        stopping.cancel()
        again = begun(process.stop())
        reactor.wait(STOP_SECONDS + POLL_SECONDS)
        assert len(reactor.signals) == 2
        reactor.exit()
        reactor.close()
        assert (again, process.ended) == ([None], True)

    def test_what_has_ended_is_nothing(self) -> None:
        reactor, process = running()
        reactor.exit()
        reactor.close()
        signals = list(reactor.signals)
        assert begun(process.stop()) == [None]
        assert (reactor.signals, process.stopped) == (signals, False)

    def test_reaches_it_before_it_has_its_group(self) -> None:
        reactor, process = running()
        reactor.has_group = False
        over = begun(process.stop())
        assert reactor.signals == [(0, signal.SIGTERM)]
        reactor.exit()
        reactor.close()
        assert over == [None]

    def test_what_has_become_somebody_elses_is_left_to_that(self, trouble: Trouble) -> None:
        reactor, process = running()

        def refuse(group: int, number: int) -> None:
            raise PermissionError

        process._kill = refuse
        over = begun(process.stop())
        reactor.wait(STOP_SECONDS + GRACE_SECONDS + 3 * POLL_SECONDS)
        assert over == [None]
        assert len(trouble.take()) == 1

    def test_is_what_a_shutdown_of_the_reactor_waits_for(self) -> None:
        reactor, process = running()
        [trigger] = reactor.triggers
        done: list[object] = []
        trigger().addBoth(done.append)
        assert reactor.signals == [(0, signal.SIGTERM)]
        assert done == []
        reactor.exit()
        reactor.close()
        assert (done, process.ended) == ([None], True)
        # A trigger that was called cannot be taken back.
        assert reactor.triggers == [trigger]


def test_what_the_system_cannot_start_is_told() -> None:
    reactor = Reactor()
    reactor.problem = BlockingIOError(11, "Resource temporarily unavailable")
    process = Process(cast(Any, reactor), reactor.seconds, STOP_SECONDS, None, reactor.kill)
    message = r"^cannot start /.*true: Resource temporarily unavailable$"
    with pytest.raises(CannotStart, match=message):
        process.start(["/bin/true"], "", {})
    assert reactor.triggers == []
