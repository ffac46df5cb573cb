"""The log of a worker, up to the lines that the main process writes."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import (
    LegacyLogObserverWrapper,
    LogEvent,
    Logger,
    LogLevel,
    formatEventAsClassicLogText,
)
from twisted.python import log as old_log
from twisted.python.failure import Failure

from pushserver.cluster.author import Author, FollowerLink
from pushserver.cluster.link import UNSENT_BYTES, Link
from pushserver.cluster.log_events import WorkerError, event_of
from pushserver.cluster.messages import Frames, FromFollower, Logged, frame
from pushserver.config.settings import Log as LogSettings
from pushserver.server.log_output import (
    TEXT_CHARACTERS,
    Levels,
    fields_of,
    file_observer,
    journal_observer,
    json_observer,
    terminal_observer,
)
from pushserver.server.workers.worker_log import KEPT, NOTE_SECONDS, PER_SECOND, WorkerLog
from tests.e2e.server import environment
from tests.unit.fakes.cluster import run
from tests.unit.fakes.tools import make_node
from tests.unit.fakes.web import Trouble
from tests.unit.web.test_refusal_log import banned


class Turns(Clock):
    """A clock; `turn` runs what waits for the next turn."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[Callable[[], None]] = []

    def callFromThread(self, call: Callable[[], None]) -> None:
        self._calls.append(call)

    def turn(self) -> None:
        calls, self._calls = self._calls, []
        for call in calls:
            call()
        self.advance(0)


def turns() -> Any:
    """As Any: it is not a whole `Reactor`."""
    return Turns()


class Bench:
    """A worker's log, and the messages that have left."""

    def __init__(self, **settings: Any):
        self.reactor = turns()
        self.out = io.StringIO()
        self.sent: list[Logged] = []
        self.frames = Frames(FromFollower, 10**6)
        self.log = WorkerLog(2, LogSettings(**settings), self.reactor, self.out)
        self.logger = self.named("pushserver.web.gate.Gate")

    def named(self, namespace: str) -> Logger:
        return Logger(namespace, observer=self.log)

    def connect(self) -> None:
        self.log.connected(lambda data: self.sent.extend(self.frames.feed(data)))

    def texts(self) -> list[str]:
        """The texts that the main process has since the last call."""
        self.reactor.turn()
        texts = [message.text for message in self.sent]
        self.sent.clear()
        return texts


@pytest.fixture
def bench() -> Bench:
    return Bench()


class TestSending:
    def test_events_wait_for_the_link_in_their_order(self, bench: Bench) -> None:
        bench.logger.info("one")
        assert bench.texts() == []
        bench.logger.info("two {n}", n=2)
        bench.connect()
        assert bench.texts() == ["one", "two 2"]
        bench.logger.info("three")
        assert bench.texts() == ["three"]
        bench.log.lost()
        bench.logger.info("four")
        assert bench.texts() == []
        bench.connect()
        assert bench.texts() == ["four"]

    def test_only_levels_of_the_settings_are_sent_also_after_a_reload(self, bench: Bench) -> None:
        class Uplink:
            log: object = None

        uplink: Any = Uplink()
        levels = Levels(LogSettings(level="error", levels={"web": "debug"}))
        bench.connect()
        bench.logger.debug("before")
        bench.log.attach(uplink, levels)
        assert uplink.log is bench.log
        bench.logger.debug("after")
        bench.named("pushserver.store.x").warn("other part")
        levels.use(LogSettings())
        bench.logger.debug("again")
        assert bench.texts() == ["after"]

    def test_events_over_the_bound_without_a_link_are_dropped_and_counted(
        self, bench: Bench
    ) -> None:
        for n in range(KEPT + 5):
            bench.logger.info("{n}", n=n)
            bench.reactor.advance(1)
        bench.reactor.turn()
        bench.connect()
        *kept, last = bench.texts()
        assert kept == [str(n) for n in range(KEPT)]
        assert last == "5 lines of the log were dropped, as they were too many"
        bench.logger.info("next")
        assert bench.texts() == ["next"]

    def test_flood_is_bounded_and_counted_at_most_once_a_second(self, bench: Bench) -> None:
        bench.connect()
        seconds, lines = 5, []
        for _ in range(seconds * 100):
            for _ in range(100):
                bench.logger.info("x")
            lines += bench.texts()
            bench.reactor.advance(0.01)
        bench.reactor.advance(NOTE_SECONDS)
        lines += bench.texts()
        notes = [int(line.split()[0]) for line in lines if line != "x"]
        written = len(lines) - len(notes)
        assert written <= PER_SECOND * (seconds + 1)
        assert written + sum(notes) == seconds * 100 * 100
        assert len(notes) <= seconds + 2

    def test_events_that_the_sending_causes_do_not_loop(self, bench: Bench) -> None:
        calls = 0

        def send(data: bytes) -> None:
            nonlocal calls
            calls += 1
            bench.logger.warn("sending is difficult")

        bench.log.connected(send)
        bench.logger.info("x")
        for turn in range(1, 5):
            bench.reactor.turn()
            assert calls == turn

    def test_link_that_is_too_slow_is_in_the_log_of_the_next_one(self, bench: Bench) -> None:
        class Transport:
            def registerProducer(self, producer: Any, streaming: bool) -> None:
                self.producer = producer

            def abortConnection(self) -> None:
                bench.reactor.callLater(0, link.connectionLost)

        transport: Any = Transport()
        link = Link(FromFollower, lambda link: None, lambda message: None, bench.log.lost)
        link._log = bench.named("pushserver.cluster.link.Link")
        link.makeConnection(transport)
        bench.log.connected(link.send)
        link.pauseProducing()
        link.send(b"x" * (UNSENT_BYTES + 1))
        link.send(b"x")
        assert bench.texts() == []
        bench.connect()
        assert [text[-20:] for text in bench.texts()] == ["1 bytes were not read"[1:]]

    def test_events_without_a_text_are_left_out(self, bench: Bench) -> None:
        bench.connect()
        bench.logger.emit(LogLevel.info)
        assert bench.texts() == []

    @pytest.mark.parametrize(
        "value",
        ["\ud800", "a\0b", 2**70, -(2**64), 1.5, float("inf"), None, True, [1], object()],
    )
    def test_each_value_arrives(self, bench: Bench, value: object) -> None:
        bench.connect()
        bench.logger.info("\ud800 {more}", value=value, more="x" * 10**6, event_name="x")
        bench.reactor.turn()
        (message,) = bench.sent
        assert {*message.fields} == {"value"}
        assert 4 * TEXT_CHARACTERS <= len(message.text) < 4 * TEXT_CHARACTERS + 10

    def test_number_with_very_many_digits_arrives(self, bench: Bench) -> None:
        bench.connect()
        bench.logger.info("x", value=10**5_000, event_name="x")
        assert bench.texts() == ["x"]

    def test_value_is_not_kept(self, bench: Bench) -> None:
        class Value:
            count = 0

            def __init__(self) -> None:
                Value.count += 1

            def __del__(self) -> None:
                Value.count -= 1

        bench.logger.info("{value}", value=Value(), event_name="x")
        assert Value.count == 0


class TestEndWithoutALink:
    def test_all_events_are_on_standard_error(self, bench: Bench) -> None:
        bench.logger.info("starting")
        try:
            raise LookupError("7")
        except LookupError:
            bench.logger.failure("failed", event_name="x")
        bench.log.close()
        text = bench.out.getvalue()
        assert re.match(r"[\d:]+ starting \(worker 2\)\n[\d:]+ critical: failed \(worker 2\)", text)
        assert "LookupError: 7" in text
        bench.log.close()
        assert bench.out.getvalue() == text

    def test_later_only_warnings_are(self, bench: Bench) -> None:
        bench.connect()
        bench.logger.info("linked")
        assert bench.texts() == ["linked"]
        bench.log.lost()
        bench.logger.info("ending")
        bench.logger.warn("late")
        bench.log.close()
        assert bench.out.getvalue().partition(" ")[2] == "warn: late (worker 2)\n"


def failure() -> Failure:
    try:
        raise ValueError("7")
    except ValueError:
        return Failure()


def at_main(log: Callable[[Logger], object], namespace: str = "pushserver.web.gate.Gate") -> Any:
    """The event of the main process for one of a worker."""
    bench = Bench(level="debug")
    bench.connect()
    log(bench.named(namespace))
    bench.reactor.turn()
    (message,) = bench.sent
    return event_of(message)


def written(observer: Any, event: LogEvent) -> str:
    out = io.StringIO()
    observer(out)(event)
    return out.getvalue()


class TestAtTheMainProcess:
    def test_event_is_one_of_its_log(self, trouble: Trouble) -> None:
        link = FollowerLink(Author(make_node()), lambda data: None, lambda data: None, run)
        link.received(Logged(2, 1.5, "warn", "pushserver.x", "late", "text", "", {"a": 1}))
        (event,) = trouble
        assert (event["log_time"], event["event_name"], event["a"]) == (1.5, "late", 1)
        assert trouble.take() == ["text (worker 2)"]

    def test_line_has_the_number_of_the_worker(self) -> None:
        event = at_main(lambda log: log.warn("late {n}", n=1, event_name="x"))
        assert written(terminal_observer, event).partition(" ")[2] == "warn: late 1 (worker 2)\n"
        assert written(journal_observer, event) == "<4>late 1 (worker 2)\n"
        line = written(file_observer, event)
        assert line.endswith(" [pushserver.web.gate.Gate#warn] late 1 (worker 2)\n")

    def test_object_has_the_worker_as_a_field(self) -> None:
        before: dict[str, Any] = {}

        def log(logger: Logger) -> None:
            out = io.StringIO()
            given = {"n": 1, "part": "x", "worker": 7, "name": None, "event_name": "x"}
            Logger(logger.namespace, observer=json_observer(out)).error("late {n}", **given)
            before.update(json.loads(out.getvalue()))
            logger.error("late {n}", **given)

        entry = json.loads(written(json_observer, at_main(log)))
        assert before.pop("time")[:-4] == entry.pop("time")[:-4]
        assert entry == before | {"worker": 2, "message": "late 1 (worker 2)"}

    @pytest.mark.parametrize("level", ["debug", "info", "warn", "error", "critical"])
    def test_level_stays(self, level: str) -> None:
        event = at_main(lambda log: getattr(log, level)("x"))
        assert event["log_level"].name == level
        assert Levels(LogSettings(level="debug"))(event)

    def test_traceback_stays(self) -> None:
        event = at_main(lambda log: log.failure("failed", failure(), event_name="x"))
        text = written(terminal_observer, event)
        assert "critical: failed (worker 2)\n|  Traceback" in text
        assert text.endswith("|  builtins.ValueError: 7\n")
        assert json.loads(written(json_observer, event))["traceback"].endswith("ValueError: 7\n")
        assert isinstance(event["log_failure"].value, WorkerError)
        assert str(event["log_failure"].value) == "builtins.ValueError: 7"

    def test_observers_of_other_programs_have_the_line_and_the_traceback(self) -> None:
        event = at_main(lambda log: log.failure("failed", failure()))
        old: dict[str, Any] = {}
        observer: Any = old.update
        LegacyLogObserverWrapper(observer)(event)
        text = old_log.textFromEventDict(old)
        assert text is not None
        assert text.startswith("failed (worker 2)\nTraceback")

    def test_event_of_twisted_is_one_of_twisted(self) -> None:
        event = at_main(lambda log: log.info("(Port 1 Closed)"), "log_legacy")
        assert json.loads(written(json_observer, event))["part"] == "twisted"
        assert fields_of(event) == {}

    def test_text_of_several_lines_has_the_number_in_its_first(self) -> None:
        event = at_main(lambda log: log.info("one\rrefused 401 to 192.0.2.1: x\nthree"))
        lines = written(file_observer, event).splitlines()
        assert lines[0].endswith("] one (worker 2)")
        assert lines[1:] == ["|  refused 401 to 192.0.2.1: x", "|  three"]
        assert [banned(line) for line in lines] == [None] * 3

    @pytest.mark.parametrize("peer", ["203.0.113.9", "2001:db8::7"])
    def test_refusal_is_found_by_the_filter_of_fail2ban(self, peer: str) -> None:
        event = at_main(
            lambda log: log.info(
                "refused {status} to {peer}: {line}{suffix}",
                status=401,
                peer=peer,
                line="POST /channels/a: no key to 192.0.2.1: x",
                suffix=" (and 3 that were not logged)",
                event_name="refused",
            ),
            "pushserver.web.refusal_log.RefusalLog",
        )
        classic = formatEventAsClassicLogText(event)
        assert classic is not None
        assert banned(classic) == peer
        assert banned(written(file_observer, event)) == peer
        assert banned(written(terminal_observer, event)) == peer
        text = written(journal_observer, event).removeprefix("<6>")
        assert banned(f"Nov 28 21:00:00 host pushserver[17]: {text}") == peer
        assert text.endswith(" (worker 2)\n")

    def test_event_without_a_text_has_its_traceback(self) -> None:
        message = Logged(2, 0.0, "error", "x", "", "", "Traceback\nE: 1", {})
        assert frame(message)
        assert "error: (worker 2)\n|  Traceback" in written(terminal_observer, event_of(message))


def test_process_that_ends_early_has_its_lines_on_standard_error() -> None:
    program = """
import sys
from twisted.internet import reactor
from twisted.logger import Logger
from pushserver.config.settings import Log
from pushserver.server.workers.worker_log import start_log

Logger("pushserver.x").info("before")
start_log(3, Log(), reactor)
Logger("pushserver.x").error("cannot start")
sys.exit(1)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    lines = [line.partition(" ")[2] for line in ended.stderr.splitlines()]
    assert lines == ["before (worker 3)", "error: cannot start (worker 3)"]
    assert ended.returncode == 1
