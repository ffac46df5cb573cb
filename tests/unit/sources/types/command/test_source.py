from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from pushserver.config.convert import Location, Text, convert
from pushserver.sources.interface import ISource, SourceFailed
from pushserver.sources.types.child_environment import INHERITED, child_environment
from pushserver.sources.types.command import process
from pushserver.sources.types.command.source import COMMAND, Options, StderrLog
from tests.processes import lives
from tests.unit.fakes.recorder import Recorder
from tests.unit.fakes.web import Trouble

PROLOGUE = """
import os, signal, subprocess, sys, time

def say(*words):
    print(*words, flush=True)

def complain(*words):
    print(*words, file=sys.stderr, flush=True)

def spawn(code, **options):
    child = subprocess.Popen([sys.executable, "-c", code], **options)
    return child.pid

READY = "import os, time, signal; signal.signal(15, signal.SIG_IGN); os.write(1, b'ready');"
"""


@pytest.mark.slow
class RealProcesses(TestCase):
    """Runs real processes; trial fails a test that leaves a process, a pipe or a timer."""

    timeout = 60

    @pytest.fixture(autouse=True)
    def _fixtures(self, trouble: Trouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trouble = trouble
        self.folder = tmp_path
        self.monkeypatch = monkeypatch
        monkeypatch.setattr(process, "GRACE_SECONDS", 0.1)

    def source(self, code: str, **options: Any) -> tuple[Recorder, Deferred[None]]:
        """Start a source that runs Python code; return its feed and its end."""
        return self.start([sys.executable, "-c", PROLOGUE + code], **options)

    def start(self, command: str | list[str], **options: Any) -> tuple[Recorder, Deferred[None]]:
        """Start a source that runs a command; return its feed and its end."""
        from twisted.internet import reactor

        self.reactor: Any = reactor
        feed = Recorder(reactor)
        source = COMMAND.make(Options(command, **{"restart": "on-failure", **options}))
        return feed, Deferred.fromCoroutine(source.run(feed))

    async def output(self, code: str, **options: Any) -> list[Any]:
        """Run code that must succeed; return its publications."""
        feed, done = self.source(code, **options)
        await done
        return feed.published

    async def failure(self, done: Deferred[None]) -> str:
        """Return the message of the SourceFailed."""
        with pytest.raises(SourceFailed) as caught:
            await done
        return str(caught.value)

    async def cancelled(self, done: Deferred[None]) -> None:
        """Cancel the source, and wait for its end."""
        done.cancel()
        with pytest.raises(CancelledError):
            await done


class TestOutput(RealProcesses):
    async def test_each_line_is_published_also_an_unfinished_last_one(self) -> None:
        code = "say('a'); say('grün'); say(); print('last', end='')"
        assert await self.output(code) == ["a", "grün", "", "last"]

    async def test_invalid_utf_8_is_replaced(self) -> None:
        code = r"os.write(1, b'\xff\x00\xfe\n\r\n\x1b[1m\r\n\xc3')"
        assert await self.output(code) == ["�\0�", "", "\x1b[1m", "�"]

    async def test_lines_of_json_are_values(self) -> None:
        feed, done = self.source("say('{\"n\": 1}'); say('no'); say('[2]')", format="json")
        await done
        assert feed.published == [{"n": 1}, [2]]
        assert feed.troubles == ['a line is not JSON (format = "json"): skipped']

    async def test_long_line_is_cut_and_the_next_one_complete(self) -> None:
        feed, done = self.source("say('x' * 300_000); say('short')", max_line_bytes=100)
        await done
        assert feed.published == ["x" * 100, "short"]
        assert feed.tags == [{"cut": "true"}, None]

    async def test_program_waits_for_the_feed_and_no_line_is_lost(self) -> None:
        code = "for n in range(30_000):\n    print(n)\ncomplain('written')"
        feed, done = self.source(code, stderr="publish")
        feed.hold()
        # The output exceeds the pipe, so the program must wait.
        await deferLater(self.reactor, 0.1)
        assert feed.published == []
        feed.release()
        await done
        numbers = [text for text, tags in zip(feed.published, feed.tags, strict=True) if not tags]
        assert numbers == [str(n) for n in range(30_000)]

    async def test_lines_that_a_stop_left_are_published_by_the_next_run(self) -> None:
        from twisted.internet import reactor

        feed = Recorder(reactor)
        code = r"os.write(1, b'a\nb\nunfini'); time.sleep(100)"
        source = COMMAND.make(Options([sys.executable, "-c", PROLOGUE + code]))
        feed.hold()
        done = Deferred.fromCoroutine(source.run(feed))
        while not feed.waits:
            await deferLater(reactor, 0.01)
        await self.cancelled(done)
        feed.held = None
        done = Deferred.fromCoroutine(source.run(feed))
        await feed.until(4)
        await self.cancelled(done)
        assert feed.published == ["a", "b", "a", "b"]


class TestEnvironment(RealProcesses):
    async def test_program_has_its_own_session_and_group(self) -> None:
        [text] = await self.output("say(os.getpid(), os.getpgid(0), os.getsid(0))")
        assert len(set(text.split())) == 1

    async def test_standard_input_is_empty(self) -> None:
        assert await self.output("say(repr(sys.stdin.read()))") == ["''"]

    async def test_program_inherits_no_descriptor(self) -> None:
        code = """
for name in os.listdir("/proc/self/fd"):
    if os.path.exists(f"/proc/self/fd/{name}"):
        say(os.readlink(f"/proc/self/fd/{name}"))
"""
        with (self.folder / "secret").open("w") as file:
            os.set_inheritable(file.fileno(), True)
            names = await self.output(code)
        assert [text.partition(":")[0] for text in names] == ["pipe"] * 3

    async def test_program_ignores_no_signal(self) -> None:
        feed, done = self.start(["grep", "SigIgn", "/proc/self/status"])
        await done
        [text] = feed.published
        # The higher signals belong to the C library.
        assert int(text.split()[1], 16) & 0x7FFF_FFFF == 0

    async def test_program_inherits_only_the_variables_that_it_needs(self) -> None:
        for name, value in {
            "PUSHSERVER_AUTH_API_KEYS": "secret",
            "NOTIFY_SOCKET": "/run/notify",
            "LISTEN_FDS": "1",
            "LISTEN_PID": "7",
            "LISTEN_FDNAMES": "http",
            "WATCHDOG_USEC": "1",
            "CREDENTIALS_DIRECTORY": "/run/credentials",
            "DATABASE_URL": "secret",
            "HOME": "/home/ann",
            "LANG": "sv_SE.UTF-8",
            "LC_TIME": "C",
            "GREETING": "hello",
            "COLOUR": "red",
        }.items():
            self.monkeypatch.setenv(name, value)
        self.monkeypatch.delenv("LC_CTYPE", raising=False)
        given = {"NAME": "grün", "GREETING": "hi"}
        feed, done = self.start(["env"], environment=given, inherit=["COLOUR", "NOT_SET"])
        await done
        variables = dict(text.partition("=")[::2] for text in feed.published)
        expected = child_environment(os.environ) | given | {"COLOUR": "red"}
        assert variables == expected
        assert variables["HOME"] == "/home/ann"
        assert variables["LANG"] == "sv_SE.UTF-8"
        assert variables["LC_TIME"] == "C"
        assert variables["PATH"] == os.environ["PATH"]
        assert variables.keys() <= INHERITED | {"LC_TIME", *given, "COLOUR"}
        assert "LC_CTYPE" not in variables

    async def test_environment_may_set_the_locale(self) -> None:
        feed, done = self.start(["printenv", "LC_CTYPE"], environment={"LC_CTYPE": "C"})
        await done
        assert feed.published == ["C"]

    async def test_program_runs_in_the_folder_of_the_options(self) -> None:
        folder = self.folder / "grün"
        folder.mkdir()
        assert await self.output("say(os.getcwd())", directory=str(folder)) == [str(folder)]

    async def test_path_of_the_program_may_be_relative_to_the_folder(self) -> None:
        program = self.folder / "program"
        program.write_text("#!/bin/sh\necho $0 $1\n")
        program.chmod(0o755)
        feed, done = self.start(["./program", "a b"], directory=str(self.folder))
        await done
        assert feed.published == [f"{program} a b"]

    async def test_string_is_split_without_a_shell(self) -> None:
        feed, done = self.start("echo 'a  b' \"$HOME\" ; *")
        await done
        assert feed.published == ["a  b $HOME ; *"]

    async def test_arguments_may_have_any_characters(self) -> None:
        feed, done = self.start(["printf", "%s\\n", "", "grün", "-x", "\n"])
        await done
        assert feed.published == ["", "grün", "-x", "", ""]


class TestEnd(RealProcesses):
    async def test_exit_code_is_a_failure_with_the_last_line_of_standard_error(self) -> None:
        _, done = self.source("complain('first'); complain('no route'); sys.exit(3)", stderr="drop")
        assert await self.failure(done) == f"{sys.executable} ended with exit code 3: no route"

    async def test_exit_code_without_standard_error_is_a_failure(self) -> None:
        _, done = self.source("sys.exit(3)")
        assert await self.failure(done) == f"{sys.executable} ended with exit code 3"

    async def test_end_by_a_signal_is_a_failure(self) -> None:
        _, done = self.source("os.kill(os.getpid(), signal.SIGKILL)")
        assert await self.failure(done) == f"{sys.executable} ended with signal 9"

    async def test_restart_always_makes_any_end_a_failure(self) -> None:
        feed, done = self.source("say('a')", restart="always")
        assert await self.failure(done) == f"{sys.executable} ended (exit code 0)"
        assert feed.published == ["a"]

    async def test_restart_never_makes_no_end_a_failure(self) -> None:
        feed, done = self.source("sys.exit(3)", restart="never")
        await done
        assert feed.troubles == [f"{sys.executable} ended with exit code 3"]
        feed, done = self.source("pass", restart="never")
        await done
        assert feed.troubles == []

    async def test_remaining_processes_of_the_group_are_ended(self) -> None:
        """Also a process that holds the output, and one that ignores SIGTERM."""
        code = """
reader, writer = os.pipe()
say(spawn(READY + "time.sleep(1000)", stdout=writer))
say(spawn("import time; time.sleep(1000)"))
os.read(reader, 5)
"""
        pids = [int(text) for text in await self.output(code, stop_seconds=0.2)]
        assert [lives(pid) for pid in pids] == [False, False]

    async def test_process_that_left_the_group_is_not_waited_for(self) -> None:
        code = """
reader, writer = os.pipe()
say(spawn("import os, time; os.setsid(); os.write(2, b'.'); time.sleep(1000)", stderr=writer))
os.read(reader, 1)
"""
        [text] = await self.output(code)
        assert lives(int(text))
        os.kill(int(text), signal.SIGKILL)


class TestStop(RealProcesses):
    async def test_stop_sends_sigterm(self) -> None:
        path = self.folder / "signalled"
        code = f"""
def end(*_):
    open({str(path)!r}, "w").write("SIGTERM")
    sys.exit()
signal.signal(signal.SIGTERM, end)
say(os.getpid())
while True:
    signal.pause()
"""
        feed, done = self.source(code)
        await feed.until(1)
        await self.cancelled(done)
        assert path.read_text() == "SIGTERM"
        assert not lives(int(feed.published[0]))

    async def test_stop_kills_program_and_children_after_stop_seconds(self) -> None:
        code = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
say(os.getpid())
spawn(READY + "print('', os.getpid(), flush=True); time.sleep(1000)")
time.sleep(1000)
"""
        feed, done = self.source(code, stop_seconds=0.1)
        await feed.until(2)
        pids = [int(text.removeprefix("ready")) for text in feed.published]
        await self.cancelled(done)
        assert [lives(pid) for pid in pids] == [False, False]

    async def test_stop_discards_the_remaining_output(self) -> None:
        code = """
def end(*_):
    os.write(1, b"x" * 1_000_000)
    os._exit(0)
signal.signal(signal.SIGTERM, end)
say("ready")
while True:
    signal.pause()
"""
        feed, done = self.source(code, stop_seconds=50)
        await feed.until(1)
        await self.cancelled(done)
        assert feed.published == ["ready"]

    async def test_stop_works_while_a_publication_waits(self) -> None:
        feed, done = self.source("say(1)\nwhile True:\n    print('y')")
        await feed.until(1)
        feed.hold()
        await deferLater(self.reactor, 0.05)
        await self.cancelled(done)

    async def test_program_can_be_stopped_at_once(self) -> None:
        for _ in range(3):
            _, done = self.source("time.sleep(1000)")
            await self.cancelled(done)

    async def test_stop_leaves_no_zombie(self) -> None:
        feed, done = self.source("say(os.getpid()); time.sleep(1000)")
        await feed.until(1)
        await self.cancelled(done)
        with pytest.raises(ProcessLookupError):
            os.kill(int(feed.published[0]), 0)


class TestFailedStart(RealProcesses):
    async def test_unknown_program_is_named_with_path(self) -> None:
        _, done = self.start("nowhere --now", environment={"PATH": "/usr/bin:/bin"})
        assert await self.failure(done) == "there is no program nowhere in PATH"

    async def test_path_that_does_not_exist_is_named(self) -> None:
        _, done = self.start(["/nowhere/program"])
        assert await self.failure(done) == "there is no program /nowhere/program"

    async def test_file_that_is_not_executable_is_named(self) -> None:
        (self.folder / "text").write_text("hello")
        _, done = self.start(["./text"], directory=str(self.folder))
        assert await self.failure(done) == f"there is no program ./text in {self.folder}"

    async def test_error_of_exec_is_in_the_failure(self) -> None:
        program = self.folder / "program"
        program.write_text("#!/nowhere/interpreter\n")
        program.chmod(0o755)
        _, done = self.start([str(program)], stderr="drop")
        assert await self.failure(done) == (
            f"{program} ended with exit code 127: cannot start {program}: No such file or directory"
        )

    async def test_missing_folder_is_named(self) -> None:
        _, done = self.start(["true"], directory="/nowhere")
        assert await self.failure(done) == "there is no folder /nowhere"

    async def test_too_long_arguments_are_an_error(self) -> None:
        _, done = self.start(["true", "x" * 10_000_000])
        assert "cannot start /" in await self.failure(done)


class TestStandardError(RealProcesses):
    async def test_lines_are_logged(self) -> None:
        feed, done = self.source("complain('a\\x1b[1m\\xff'); complain(); complain('b')")
        await done
        assert self.trouble.take() == [
            "source log: stderr: a [1mÿ",
            "source log: stderr: b",
        ]
        assert feed.published == []

    async def test_unfinished_line_is_logged(self) -> None:
        _, done = self.source("sys.stderr.write('oops'); sys.exit(1)")
        assert (await self.failure(done)).endswith("exit code 1: oops")
        assert self.trouble.take() == ["source log: stderr: oops"]

    async def test_only_first_and_last_of_many_lines_are_decoded(self) -> None:
        feed = Recorder(Clock())
        stderr_log = StderrLog(feed, True)
        decoded: list[bytes] = []
        take = stderr_log._line

        def decode(text: bytes) -> None:
            decoded.append(text)
            take(text)

        self.monkeypatch.setattr(stderr_log, "_line", decode)
        stderr_log.feed(b"half ")
        stderr_log.feed(b"".join(b"%d\n" % n for n in range(1_000)) + b"last\n\nopen")
        assert len(decoded) == 19
        stderr_log.end()
        assert stderr_log.last_line == "open"
        shown = ["half 0", *map(str, range(1, 10)), "992 more lines"]
        assert self.trouble.take() == [f"source log: stderr: {line}" for line in shown]
        silent = StderrLog(feed, False)
        silent.feed(b"x\n" * 1_000 + b"last\n")
        silent.end()
        assert silent.last_line == "last"

    async def test_lines_may_be_published_with_a_tag(self) -> None:
        code = "say('out')\ncomplain('err')\nsys.stderr.write('last')\nsys.exit(2)"
        feed, done = self.source(code, stderr="publish")
        assert (await self.failure(done)).endswith("exit code 2: last")
        published = sorted(zip(feed.published, map(str, feed.tags), strict=True))
        tagged = "{'stream': 'stderr'}"
        assert published == [("err", tagged), ("last", tagged), ("out", "None")]

    async def test_standard_error_is_read_while_the_output_waits(self) -> None:
        """A full pipe of the output must not block a program that writes to standard error."""
        code = "say(1)\ncomplain('x' * 200_000)\nopen('written', 'w').close()\ntime.sleep(1000)"
        feed, done = self.source(code, directory=str(self.folder), stderr="drop")
        feed.hold()
        while not (self.folder / "written").exists():
            await deferLater(self.reactor, 0.01)
        await self.cancelled(done)


def test_standard_error_is_logged_at_a_bounded_rate(trouble: Trouble) -> None:
    feed = Recorder(Clock())
    stderr_log = StderrLog(feed, logged=True)
    stderr_log.feed(b"a\n" * 100)
    feed.reactor.advance(1)
    stderr_log.feed(b"b\n" + b"x" * 5_000)
    stderr_log.end()
    texts = [text.removeprefix("source log: stderr: ") for text in trouble.take()]
    assert texts == [*["a"] * 10, "90 more lines", "b", "1 more lines"]
    assert stderr_log.last_line == "x" * 300


SHUTDOWN = """
import os, sys
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from pushserver.sources.types.command.source import COMMAND, Options
from pushserver.config.convert import Location, Text, convert
from tests.processes import lives
from tests.unit.fakes.recorder import Recorder

code = '''
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
time.sleep(1000)
'''

async def main():
    feed = Recorder(reactor)
    source = COMMAND.make(Options([sys.executable, "-c", code], stop_seconds=0.1))
    ended = []
    Deferred.fromCoroutine(source.run(feed)).addBoth(ended.append)
    await feed.until(1)
    print(feed.published[0], flush=True)
    # The source is not cancelled.
    reactor.stop()
    reactor.addSystemEventTrigger("after", "shutdown", lambda: print(ended, flush=True))

reactor.callWhenRunning(lambda: Deferred.fromCoroutine(main()))
reactor.run()
"""


@pytest.mark.slow
def test_no_process_outlives_the_reactor() -> None:
    """A shutdown of the reactor ends the program, even if its source was not cancelled."""
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SHUTDOWN)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    pid, results = ended.stdout.splitlines()
    assert not lives(int(pid))
    assert (results, ended.stderr) == ("[]", "")


def test_source_provides_isource_and_stop_seconds() -> None:
    source = COMMAND.make(Options(["true"], stop_seconds=7))
    assert verifyObject(ISource, source)
    assert source.stop_seconds == 7


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (Options(""), "command: expected a program, got ''"),
        (Options("   "), "command: expected a program, got '   '"),
        (Options([]), "command: expected a program, got []"),
        (Options(["", "x"]), "command: expected a program, got an empty first word"),
        (Options("echo 'a"), "command: No closing quotation"),
        (Options(["a\0b"]), "command: expected no NUL character in it"),
        (Options("a", directory="\0"), "directory: expected no NUL character in it"),
        (Options("a", environment={"A": "\0"}), "environment: expected no NUL character in it"),
        (Options("a", environment={"A=B": ""}), "environment: 'A=' is not the name of a variable"),
        (Options("a", environment={"": ""}), "environment: '' is not the name of a variable"),
        *(
            (Options("a", inherit=["HOME", name]), f"inherit: {name} is for the server only")
            for name in (
                "PUSHSERVER_AUTH_API_KEYS",
                "CREDENTIALS_DIRECTORY",
                "LISTEN_FDS",
                "NOTIFY_SOCKET",
                "WATCHDOG_USEC",
            )
        ),
    ],
)
def test_invalid_options_raise_value_error(options: Options, problem: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        COMMAND.make(options)
    assert str(caught.value) == problem


def test_command_from_the_environment_is_split_with_quotes() -> None:
    hint = get_type_hints(Options, include_extras=True)["command"]
    command = convert(Text("echo 'a b'"), hint, "command", Location("", "sources.x", {}))
    assert COMMAND.make(Options(command))._command == ["echo", "a b"]
    assert convert(["echo", "a b"], hint, "command", Location("", "sources.x", {})) == [
        "echo",
        "a b",
    ]
