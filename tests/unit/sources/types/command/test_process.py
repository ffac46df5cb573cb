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

# No process has this number: Linux uses none above 4194304.
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
    """A clock, a fake process controlled by the test, and its transport."""

    def __init__(self) -> None:
        super().__init__()
        self.pid = PID
        self.pipes: dict[int, Pipe] = {0: Pipe(), STDOUT: Pipe(), STDERR: Pipe()}
        self.triggers: list[Callable[[], Deferred[None]]] = []
        self.signals: list[tuple[float, int]] = []
        self.group = 1
        """The number of processes in the group."""
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

    def write(self, data: bytes, descriptor: int = STDOUT) -> None:
        """Let the process write, and the pipe be read."""
        assert not self.pipes[descriptor].paused
        self.protocol.childDataReceived(descriptor, data)

    def exit(self, group: int = 0) -> None:
        """Let the program end; `group` processes remain."""
        self.lives = False
        self.group = group
        self.protocol.processExited(Failure(ProcessDone(0)))
        self.end()

    def close(self) -> None:
        """Close all pipes."""
        self.pipes.clear()
        self.end()

    def end(self) -> None:
        """Call processEnded as Twisted does: after the exit and the close of all pipes."""
        if not self.lives and not self.pipes:
            self.protocol.processEnded(Failure(ProcessDone(0)))

    def wait(self, seconds: float) -> None:
        """Advance the clock in small steps."""
        for _ in range(round(seconds / POLL_SECONDS)):
            self.advance(POLL_SECONDS)


def running(on_stderr: Callable[[bytes], None] | None = None) -> tuple[Reactor, Process]:
    """Return a started process."""
    reactor = Reactor()
    process = Process(cast(Any, reactor), reactor.seconds, STOP_SECONDS, on_stderr, reactor.kill)
    process.start(["/bin/true"], "", {})
    return reactor, process


def started(coroutine: Any) -> list[Any]:
    """Start the coroutine; the list gets its result."""
    results: list[Any] = []
    Deferred.fromCoroutine(coroutine).addBoth(results.append)
    return results


def read(process: Process) -> Any:
    """Return the result of a read that does not wait."""
    [results] = started(process.read())
    return results


class TestOutput:
    def test_pipes_are_paused_until_the_last_chunk_was_read(self) -> None:
        reactor, process = running()
        results = started(process.read())
        reactor.write(b"a")
        assert results == [(STDOUT, b"a")]
        assert (reactor.pipes[STDOUT].paused, reactor.pipes[STDERR].paused) == (True, False)
        reactor.write(b"b", STDERR)
        assert reactor.pipes[STDERR].paused
        assert read(process) == (STDERR, b"b")
        assert reactor.pipes[STDOUT].paused
        results = started(process.read())
        assert results == []
        assert not any(pipe.paused for pipe in reactor.pipes.values())
        reactor.close()
        reactor.exit()
        assert results == [None]

    def test_standard_error_is_given_to_the_callback_at_once(self) -> None:
        chunks: list[bytes] = []
        reactor, process = running(chunks.append)
        reactor.write(b"a")
        for _ in range(3):
            reactor.write(b"b", STDERR)
        assert chunks == [b"b"] * 3
        assert read(process) == (STDOUT, b"a")

    def test_standard_error_is_paused_after_many_bytes(self) -> None:
        chunks: list[bytes] = []
        reactor, process = running(chunks.append)
        chunk = b"x" * (STDERR_BYTES // 2)
        for _ in range(3):
            reactor.write(chunk, STDERR)
            assert not reactor.pipes[STDERR].paused
            reactor.write(chunk, STDERR)
            assert reactor.pipes[STDERR].paused
            # Neither a read nor a stop resumes the pipe.
            started(process.read())
            assert reactor.pipes[STDERR].paused
            started(process.stop())
            assert reactor.pipes[STDERR].paused
            reactor.wait(POLL_SECONDS)
        for _ in range(2):
            reactor.write(chunk, STDERR)
        reactor.close()
        reactor.exit()
        assert process.ended
        assert reactor.getDelayedCalls() == []
        assert len(chunks) == 8

    def test_output_can_be_read_after_the_end(self) -> None:
        reactor, process = running()
        reactor.write(b"a")
        reactor.close()
        reactor.exit()
        assert process.ended
        assert read(process) == (STDOUT, b"a")
        assert read(process) is None

    def test_cancelled_read_can_be_repeated(self) -> None:
        reactor, process = running()
        reading = Deferred.fromCoroutine(process.read())
        reading.addErrback(lambda why: why.trap(CancelledError))
        reading.cancel()
        reactor.write(b"a")
        assert read(process) == (STDOUT, b"a")


class TestEnd:
    def test_process_has_ended_when_program_and_output_have(self) -> None:
        reactor, process = running()
        reactor.exit()
        assert not process.ended
        reactor.close()
        assert process.ended
        assert isinstance(process.result, ProcessDone)
        assert reactor.getDelayedCalls() == []
        assert reactor.triggers == []

    def test_remaining_group_gets_sigterm(self) -> None:
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

    def test_unreaped_zombies_do_not_prevent_the_end(self) -> None:
        reactor, process = running()
        reactor.exit(group=2)
        reactor.close()
        started(process.read())
        reactor.wait(STOP_SECONDS + 3 * GRACE_SECONDS)
        assert [number for _, number in reactor.signals] == [signal.SIGTERM, signal.SIGKILL]
        assert process.ended
        assert reactor.getDelayedCalls() == []

    def test_foreign_holder_of_the_output_does_not_prevent_the_end(self) -> None:
        reactor, process = running()
        results = started(process.read())
        reactor.exit()
        reactor.wait(GRACE_SECONDS + 2 * POLL_SECONDS)
        assert results == [None]
        assert process.ended

    def test_output_is_kept_until_it_was_read(self) -> None:
        reactor, process = running()
        reactor.write(b"a")
        reactor.exit()
        reactor.wait(20)
        assert not process.ended
        assert read(process) == (STDOUT, b"a")
        reactor.wait(20)
        assert not process.ended
        results = started(process.read())
        reactor.wait(GRACE_SECONDS / 2)
        reactor.write(b"b")
        assert results == [(STDOUT, b"b")]
        results = started(process.read())
        assert not process.ended
        reactor.wait(3 * GRACE_SECONDS)
        assert results == [None]
        assert process.ended


class TestStop:
    def test_sigkill_follows_sigterm_after_stop_seconds(self) -> None:
        reactor, process = running()
        results = started(process.stop())
        assert process.stopped
        reactor.wait(STOP_SECONDS + POLL_SECONDS)
        [(first, asked), (second, enforced)] = reactor.signals
        assert (first, asked, enforced) == (0, signal.SIGTERM, signal.SIGKILL)
        assert STOP_SECONDS <= second <= STOP_SECONDS + POLL_SECONDS + 0.01
        assert results == []
        reactor.exit()
        reactor.close()
        assert results == [None]
        assert reactor.getDelayedCalls() == []

    def test_output_after_the_stop_is_discarded(self) -> None:
        reactor, process = running()
        reactor.write(b"a")
        results = started(process.stop())
        for _ in range(3):
            reactor.write(b"b")
        reactor.close()
        reactor.exit()
        assert results == [None]
        assert read(process) is None

    def test_process_that_does_not_end_is_logged(self, trouble: Trouble) -> None:
        reactor, process = running()
        results = started(process.stop())
        reactor.wait(STOP_SECONDS + GRACE_SECONDS + 3 * POLL_SECONDS)
        assert results == [None]
        assert process.ended
        assert trouble.take() == [f"process {PID} does not end"]
        assert reactor.getDelayedCalls() == []

    def test_cancelled_stop_still_ends_the_process(self) -> None:
        reactor, process = running()
        stopping = Deferred.fromCoroutine(process.stop())
        stopping.addErrback(lambda why: why.trap(CancelledError))
        stopping.cancel()
        again = started(process.stop())
        reactor.wait(STOP_SECONDS + POLL_SECONDS)
        assert len(reactor.signals) == 2
        reactor.exit()
        reactor.close()
        assert (again, process.ended) == ([None], True)

    def test_stop_of_an_ended_process_sends_no_signal(self) -> None:
        reactor, process = running()
        reactor.exit()
        reactor.close()
        signals = list(reactor.signals)
        assert started(process.stop()) == [None]
        assert (reactor.signals, process.stopped) == (signals, False)

    def test_signal_reaches_the_program_before_it_has_a_group(self) -> None:
        reactor, process = running()
        reactor.has_group = False
        results = started(process.stop())
        assert reactor.signals == [(0, signal.SIGTERM)]
        reactor.exit()
        reactor.close()
        assert results == [None]

    def test_process_of_another_user_is_left_alone(self, trouble: Trouble) -> None:
        reactor, process = running()

        def refuse(group: int, number: int) -> None:
            raise PermissionError

        process._kill = refuse
        results = started(process.stop())
        reactor.wait(STOP_SECONDS + GRACE_SECONDS + 3 * POLL_SECONDS)
        assert results == [None]
        assert len(trouble.take()) == 1

    def test_shutdown_of_the_reactor_waits_for_the_end(self) -> None:
        reactor, process = running()
        [trigger] = reactor.triggers
        done: list[object] = []
        trigger().addBoth(done.append)
        assert reactor.signals == [(0, signal.SIGTERM)]
        assert done == []
        reactor.exit()
        reactor.close()
        assert (done, process.ended) == ([None], True)
        # A trigger that was called is not removed.
        assert reactor.triggers == [trigger]


def test_error_of_spawn_process_raises_cannot_start() -> None:
    reactor = Reactor()
    reactor.problem = BlockingIOError(11, "Resource temporarily unavailable")
    process = Process(cast(Any, reactor), reactor.seconds, STOP_SECONDS, None, reactor.kill)
    message = r"^cannot start /.*true: Resource temporarily unavailable$"
    with pytest.raises(CannotStart, match=message):
        process.start(["/bin/true"], "", {})
    assert reactor.triggers == []
