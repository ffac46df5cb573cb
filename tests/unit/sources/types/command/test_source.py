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
from pushserver.sources.types.command.source import COMMAND, Options, StderrLog, inherited
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
    """On a real reactor, which is clean after each test: no process, no pipe, no call is left."""

    timeout = 60

    @pytest.fixture(autouse=True)
    def _surroundings(
        self, trouble: Trouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.trouble = trouble
        self.folder = tmp_path
        self.monkeypatch = monkeypatch

    def source(self, code: str, **options: Any) -> tuple[Recorder, Deferred[None]]:
        """A source that runs this code, begun, and its end."""
        return self.begin([sys.executable, "-c", PROLOGUE + code], **options)

    def begin(self, command: str | list[str], **options: Any) -> tuple[Recorder, Deferred[None]]:
        """A source that runs this command, begun, and its end."""
        from twisted.internet import reactor

        self.reactor: Any = reactor
        feed = Recorder(reactor)
        source = COMMAND.make(Options(command, **{"restart": "on-failure", **options}))
        return feed, Deferred.fromCoroutine(source.run(feed))

    async def output(self, code: str, **options: Any) -> list[Any]:
        """What is published of this code, which succeeds."""
        feed, done = self.source(code, **options)
        await done
        return feed.published

    async def failure(self, done: Deferred[None]) -> str:
        """Why the source failed."""
        with pytest.raises(SourceFailed) as caught:
            await done
        return str(caught.value)

    async def cancelled(self, done: Deferred[None]) -> None:
        """End the source, and wait for that."""
        done.cancel()
        with pytest.raises(CancelledError):
            await done


class TestOutput(RealProcesses):
    async def test_each_line_is_published_and_the_last_one_as_it_is(self) -> None:
        code = "say('a'); say('grün'); say(); print('last', end='')"
        assert await self.output(code) == ["a", "grün", "", "last"]

    async def test_any_bytes_are_text(self) -> None:
        code = r"os.write(1, b'\xff\x00\xfe\n\r\n\x1b[1m\r\n\xc3')"
        assert await self.output(code) == ["�\0�", "", "\x1b[1m", "�"]

    async def test_lines_of_json_are_values(self) -> None:
        feed, done = self.source("say('{\"n\": 1}'); say('no'); say('[2]')", format="json")
        await done
        assert feed.published == [{"n": 1}, [2]]
        assert feed.troubles == ['a line is not JSON (format = "json"): skipped']

    async def test_a_long_line_is_cut_and_the_next_is_whole(self) -> None:
        feed, done = self.source("say('x' * 300_000); say('short')", max_line_bytes=100)
        await done
        assert feed.published == ["x" * 100, "short"]
        assert feed.tags == [{"cut": "true"}, None]

    async def test_a_line_that_never_ends_takes_no_memory(self) -> None:
        feed, done = self.source("sys.stdout.write('x' * 3_000_000)", max_line_bytes=100)
        await done
        assert feed.published == ["x" * 100]

    async def test_a_flood_waits_for_the_feed_and_nothing_is_lost(self) -> None:
        code = "for n in range(30_000):\n    print(n)\ncomplain('written')"
        feed, done = self.source(code, stderr="publish")
        feed.hold()
        # More than the pipe holds: the program has to wait, until it is read.
        await deferLater(self.reactor, 0.1)
        assert feed.published == []
        feed.release()
        await done
        numbers = [text for text, tags in zip(feed.published, feed.tags, strict=True) if not tags]
        assert numbers == [str(n) for n in range(30_000)]

    async def test_what_is_said_before_the_end_is_published_after_it(self) -> None:
        feed, done = self.source("for n in range(5_000):\n    print(n)")
        feed.hold()
        await deferLater(self.reactor, 0.3)
        feed.release()
        await done
        assert feed.published == [str(n) for n in range(5_000)]


class TestItsSurroundings(RealProcesses):
    async def test_it_has_a_session_and_a_group_of_its_own(self) -> None:
        [text] = await self.output("say(os.getpid(), os.getpgid(0), os.getsid(0))")
        assert len(set(text.split())) == 1

    async def test_its_standard_input_is_at_its_end(self) -> None:
        assert await self.output("say(repr(sys.stdin.read()))") == ["''"]

    async def test_it_has_no_descriptors_of_the_server(self) -> None:
        code = """
for name in os.listdir("/proc/self/fd"):
    if os.path.exists(f"/proc/self/fd/{name}"):
        say(os.readlink(f"/proc/self/fd/{name}"))
"""
        with (self.folder / "secret").open("w") as file:
            os.set_inheritable(file.fileno(), True)
            found = await self.output(code)
        assert [text.partition(":")[0] for text in found] == ["pipe"] * 3

    async def test_it_ignores_no_signal(self) -> None:
        feed, done = self.begin(["grep", "SigIgn", "/proc/self/status"])
        await done
        [text] = feed.published
        # Those above are the C library's own.
        assert int(text.split()[1], 16) & 0x7FFF_FFFF == 0

    async def test_it_has_the_environment_of_the_server_without_what_is_for_that_alone(
        self,
    ) -> None:
        for name, value in {
            "PUSHSERVER_AUTH_API_KEYS": "secret",
            "NOTIFY_SOCKET": "/run/notify",
            "LISTEN_FDS": "1",
            "LISTEN_PID": "7",
            "LISTEN_FDNAMES": "http",
            "WATCHDOG_USEC": "1",
            "GREETING": "hello",
        }.items():
            self.monkeypatch.setenv(name, value)
        self.monkeypatch.delenv("LC_CTYPE", raising=False)
        feed, done = self.begin(["env"], environment={"NAME": "grün", "GREETING": "hi"})
        await done
        expected = inherited(os.environ) | {"NAME": "grün", "GREETING": "hi"}
        found = dict(text.partition("=")[::2] for text in feed.published)
        assert found == {name: text.replace("\n", "") for name, text in expected.items()}
        assert not [name for name in found if name.startswith(("PUSHSERVER_", "LISTEN_"))]
        assert "LC_CTYPE" not in found

    async def test_it_has_the_locale_that_it_is_given(self) -> None:
        feed, done = self.begin(["printenv", "LC_CTYPE"], environment={"LC_CTYPE": "C"})
        await done
        assert feed.published == ["C"]

    async def test_it_runs_in_the_folder_that_is_asked_for(self) -> None:
        folder = self.folder / "grün"
        folder.mkdir()
        assert await self.output("say(os.getcwd())", directory=str(folder)) == [str(folder)]

    async def test_a_program_may_lie_in_that_folder(self) -> None:
        program = self.folder / "program"
        program.write_text("#!/bin/sh\necho $0 $1\n")
        program.chmod(0o755)
        feed, done = self.begin(["./program", "a b"], directory=str(self.folder))
        await done
        assert feed.published == [f"{program} a b"]

    async def test_a_command_of_one_string_is_split_and_meets_no_shell(self) -> None:
        feed, done = self.begin("echo 'a  b' \"$HOME\" ; *")
        await done
        assert feed.published == ["a  b $HOME ; *"]

    async def test_arguments_may_be_of_any_characters(self) -> None:
        feed, done = self.begin(["printf", "%s\\n", "", "grün", "-x", "\n"])
        await done
        assert feed.published == ["", "grün", "-x", "", ""]


class TestItsEnd(RealProcesses):
    async def test_with_a_code_is_a_failure_with_its_last_words(self) -> None:
        _, done = self.source("complain('first'); complain('no route'); sys.exit(3)", stderr="drop")
        assert await self.failure(done) == f"{sys.executable} ended with exit code 3: no route"

    async def test_without_last_words_too(self) -> None:
        _, done = self.source("sys.exit(3)")
        assert await self.failure(done) == f"{sys.executable} ended with exit code 3"

    async def test_by_a_signal_is_a_failure(self) -> None:
        _, done = self.source("os.kill(os.getpid(), signal.SIGKILL)")
        assert await self.failure(done) == f"{sys.executable} ended with signal 9"

    async def test_in_order_is_one_too_if_it_is_to_run_always(self) -> None:
        feed, done = self.source("say('a')", restart="always")
        assert await self.failure(done) == f"{sys.executable} ended (exit code 0)"
        assert feed.published == ["a"]

    async def test_is_for_good_if_it_is_never_to_run_again(self) -> None:
        feed, done = self.source("sys.exit(3)", restart="never")
        await done
        assert feed.troubles == [f"{sys.executable} ended with exit code 3"]
        feed, done = self.source("pass", restart="never")
        await done
        assert feed.troubles == []

    async def test_ends_what_it_has_left_behind(self) -> None:
        """Also what holds its output, and what does not care for SIGTERM."""
        code = """
reader, writer = os.pipe()
say(spawn(READY + "time.sleep(1000)", stdout=writer))
say(spawn("import time; time.sleep(1000)"))
os.read(reader, 5)
"""
        pids = [int(text) for text in await self.output(code, stop_seconds=0.2)]
        assert [lives(pid) for pid in pids] == [False, False]

    async def test_does_not_wait_for_what_has_left_its_group(self) -> None:
        code = """
reader, writer = os.pipe()
say(spawn("import os, time; os.setsid(); os.write(2, b'.'); time.sleep(1000)", stderr=writer))
os.read(reader, 1)
"""
        [text] = await self.output(code)
        assert lives(int(text))
        os.kill(int(text), signal.SIGKILL)


class TestStopping(RealProcesses):
    async def test_asks_it_to_end(self) -> None:
        place = self.folder / "told"
        code = f"""
def end(*_):
    open({str(place)!r}, "w").write("told")
    sys.exit()
signal.signal(signal.SIGTERM, end)
say(os.getpid())
while True:
    signal.pause()
"""
        feed, done = self.source(code)
        await feed.until(1)
        await self.cancelled(done)
        assert place.read_text() == "told"
        assert not lives(int(feed.published[0]))

    async def test_kills_it_and_its_children_when_that_takes_too_long(self) -> None:
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

    async def test_does_not_wait_for_its_last_words_to_be_read(self) -> None:
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

    async def test_while_a_line_waits_to_be_published_ends_it(self) -> None:
        feed, done = self.source("say(1)\nwhile True:\n    print('y')")
        await feed.until(1)
        feed.hold()
        await deferLater(self.reactor, 0.05)
        await self.cancelled(done)

    async def test_at_once_is_possible(self) -> None:
        for _ in range(3):
            _, done = self.source("time.sleep(1000)")
            await self.cancelled(done)

    async def test_leaves_no_zombie(self) -> None:
        feed, done = self.source("say(os.getpid()); time.sleep(1000)")
        await feed.until(1)
        await self.cancelled(done)
        with pytest.raises(ProcessLookupError):
            os.kill(int(feed.published[0]), 0)


class TestWhatCannotBeStarted(RealProcesses):
    async def test_is_named_with_where_it_was_looked_for(self) -> None:
        _, done = self.begin("nowhere --now", environment={"PATH": "/usr/bin:/bin"})
        assert await self.failure(done) == "there is no program nowhere in PATH"

    async def test_as_a_path(self) -> None:
        _, done = self.begin(["/nowhere/program"])
        assert await self.failure(done) == "there is no program /nowhere/program"

    async def test_as_a_file_that_is_no_program(self) -> None:
        (self.folder / "text").write_text("hello")
        _, done = self.begin(["./text"], directory=str(self.folder))
        assert await self.failure(done) == f"there is no program ./text in {self.folder}"

    async def test_as_one_that_the_system_does_not_take(self) -> None:
        program = self.folder / "program"
        program.write_text("#!/nowhere/interpreter\n")
        program.chmod(0o755)
        _, done = self.begin([str(program)], stderr="drop")
        assert await self.failure(done) == (
            f"{program} ended with exit code 127: cannot start {program}: No such file or directory"
        )

    async def test_in_a_folder_that_is_not_there(self) -> None:
        _, done = self.begin(["true"], directory="/nowhere")
        assert await self.failure(done) == "there is no folder /nowhere"

    async def test_with_arguments_that_are_too_many(self) -> None:
        _, done = self.begin(["true", "x" * 10_000_000])
        assert "cannot start /" in await self.failure(done)


class TestStandardError(RealProcesses):
    async def test_is_in_the_log(self) -> None:
        feed, done = self.source("complain('a\\x1b[1m\\xff'); complain(); complain('b')")
        await done
        assert self.trouble.take() == [
            "source log: stderr: a [1mÿ",
            "source log: stderr: b",
        ]
        assert feed.published == []

    async def test_is_in_the_log_without_its_newline_too(self) -> None:
        _, done = self.source("sys.stderr.write('oops'); sys.exit(1)")
        assert (await self.failure(done)).endswith("exit code 1: oops")
        assert self.trouble.take() == ["source log: stderr: oops"]

    async def test_is_not_in_the_log_without_bound(self) -> None:
        _, done = self.source("for n in range(10_000):\n    complain(n)")
        await done
        told = self.trouble.take()
        assert told[:10] == [f"source log: stderr: {n}" for n in range(10)]
        assert len(told) < 200
        said = [text.removeprefix("source log: stderr: ") for text in told]
        lines = [text for text in said if text.isdecimal()]
        more = [int(text.split()[0]) for text in said if text.endswith(" more lines")]
        assert len(lines) + sum(more) == 10_000

    async def test_of_a_flood_is_counted_and_its_last_line_kept(self) -> None:
        feed = Recorder(Clock())
        stderr_log = StderrLog(feed, True)
        looked_at: list[bytes] = []
        take = stderr_log._line

        def look_at(text: bytes) -> None:
            looked_at.append(text)
            take(text)

        self.monkeypatch.setattr(stderr_log, "_line", look_at)
        stderr_log.feed(b"half ")
        stderr_log.feed(b"".join(b"%d\n" % n for n in range(1_000)) + b"last\n\nopen")
        assert len(looked_at) == 19
        stderr_log.end()
        assert stderr_log.last_line == "open"
        shown = ["half 0", *map(str, range(1, 10)), "992 more lines"]
        assert self.trouble.take() == [f"source log: stderr: {line}" for line in shown]
        silent = StderrLog(feed, False)
        silent.feed(b"x\n" * 1_000 + b"last\n")
        silent.end()
        assert silent.last_line == "last"

    async def test_may_be_published(self) -> None:
        code = "say('out')\ncomplain('err')\nsys.stderr.write('last')\nsys.exit(2)"
        feed, done = self.source(code, stderr="publish")
        assert (await self.failure(done)).endswith("exit code 2: last")
        found = sorted(zip(feed.published, map(str, feed.tags), strict=True))
        tagged = "{'stream': 'stderr'}"
        assert found == [("err", tagged), ("last", tagged), ("out", "None")]

    async def test_may_be_dropped(self) -> None:
        feed, done = self.source("complain('x' * 1_000_000)", stderr="drop")
        await done
        assert feed.published == []

    async def test_is_read_while_its_output_waits(self) -> None:
        """A program must not wait for its stderr_log to be read, when nobody reads its output."""
        code = "say(1)\ncomplain('x' * 1_000_000)\nopen('told', 'w').close()\ntime.sleep(1000)"
        feed, done = self.source(code, directory=str(self.folder), stderr="drop")
        feed.hold()
        while not (self.folder / "told").exists():
            await deferLater(self.reactor, 0.01)
        await self.cancelled(done)


def test_complaints_are_logged_at_a_bounded_rate(trouble: Trouble) -> None:
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
    source = COMMAND.make(Options([sys.executable, "-c", code], stop_seconds=0.2))
    ended = []
    Deferred.fromCoroutine(source.run(feed)).addBoth(ended.append)
    await feed.until(1)
    print(feed.published[0], flush=True)
    # Nobody cancels the source.
    reactor.stop()
    reactor.addSystemEventTrigger("after", "shutdown", lambda: print(ended, flush=True))

reactor.callWhenRunning(lambda: Deferred.fromCoroutine(main()))
reactor.run()
"""


@pytest.mark.slow
def test_no_process_outlives_the_reactor() -> None:
    """Whoever is left behind by the end of its source is ended before the server is."""
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SHUTDOWN)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    pid, told = ended.stdout.splitlines()
    assert not lives(int(pid))
    assert (told, ended.stderr) == ("[]", "")


def test_it_is_a_source_and_its_type_one_of_sources() -> None:
    source = COMMAND.make(Options(["true"], stop_seconds=7))
    assert verifyObject(ISource, source)
    assert source.stop_seconds == 7


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (Options(""), "command: expected a program, got ''"),
        (Options("   "), "command: expected a program, got '   '"),
        (Options([]), "command: expected a program, got []"),
        (Options(["", "x"]), "command: expected a program, got ['', 'x']"),
        (Options("echo 'a"), 'command: No closing quotation, value "echo \'a"'),
        (Options(["a\0b"]), "command: expected no NUL character in it"),
        (Options("a", directory="\0"), "directory: expected no NUL character in it"),
        (Options("a", environment={"A": "\0"}), "environment: expected no NUL character in it"),
        (Options("a", environment={"A=B": ""}), "environment: 'A=B' is not the name of a variable"),
        (Options("a", environment={"": ""}), "environment: '' is not the name of a variable"),
    ],
)
def test_what_can_be_no_command_is_refused(options: Options, problem: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        COMMAND.make(options)
    assert str(caught.value) == problem


def test_quotes_in_a_variable_of_the_environment_hold_words_together() -> None:
    hint = get_type_hints(Options, include_extras=True)["command"]
    found = convert(Text("echo 'a b'"), hint, "command", Location("", "sources.x", {}))
    assert COMMAND.make(Options(found))._command == ["echo", "a b"]
    assert convert(["echo", "a b"], hint, "command", Location("", "sources.x", {})) == [
        "echo",
        "a b",
    ]
