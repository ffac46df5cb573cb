"""The output of the log: its forms, its levels, and the names of all events."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from twisted.application.service import Application
from twisted.logger import ILogObserver, Logger, LogLevel, PredicateResult
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile

import pushserver
from pushserver.config.settings import LOG_PARTS, Config, Log
from pushserver.errors import StartFailed
from pushserver.server import log_output
from pushserver.server.build import build
from pushserver.server.log_output import (
    Levels,
    _rotate,
    daemon_observer,
    file_observer,
    journal_observer,
    json_observer,
    serve_observer,
    terminal_observer,
)
from tests.e2e.blocks import block_with
from tests.unit.fakes.web import memory_reactor

PACKAGE = Path(pushserver.__file__).parent
LEVELS = {"debug", "info", "warn", "error", "failure", "critical"}


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


def broken() -> Failure:
    try:
        raise ValueError("7")
    except ValueError:
        return Failure()


class TestInATerminal:
    def log(self, out: Any, namespace: str = "pushserver.x") -> Logger:
        return Logger(namespace, observer=terminal_observer(out))

    def test_line_has_the_time_of_day_and_the_text(self, out: io.StringIO) -> None:
        self.log(out).info("source {name} started", name="a")
        clock, _, text = out.getvalue().partition(" ")
        assert [part.isdigit() for part in clock.split(":")] == [True] * 3
        assert text == "source a started\n"

    def test_line_names_a_level_above_info(self, out: io.StringIO) -> None:
        self.log(out).warn("low")
        self.log(out).error("bad")
        lines = [line.partition(" ")[2] for line in out.getvalue().splitlines()]
        assert lines == ["warn: low", "error: bad"]

    def test_failure_has_its_traceback(self, out: io.StringIO) -> None:
        self.log(out).failure("a handler failed", broken())
        assert "critical: a handler failed\n" in out.getvalue()
        assert "ValueError: 7" in out.getvalue()

    def test_empty_events_are_left_out(self, out: io.StringIO) -> None:
        self.log(out).emit(LogLevel.info)
        assert out.getvalue() == ""

    @pytest.mark.parametrize("make", [terminal_observer, journal_observer, json_observer])
    def test_survives_a_terminal_that_is_gone(self, make: Any) -> None:
        class Gone(io.StringIO):
            def write(self, text: str) -> int:
                raise OSError(5, "Input/output error")

        Logger("pushserver.x", observer=make(Gone())).info("x")


class TestTextOfAClient:
    @pytest.mark.parametrize("make", [terminal_observer, journal_observer, file_observer])
    @pytest.mark.parametrize(
        "start",
        [
            "",
            "12:00:00 ",
            "2026-11-28T21:00:00+0000 [pushserver.x#info] ",
            "a b[1]: ",
            "\t",
            "x[1]: ",
        ],
    )
    @pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\n\n", "\u2028", "\x85", "\n\t"])
    def test_begins_no_event(self, out: io.StringIO, make: Any, start: str, end: str) -> None:
        text = f"a{end}{start}refused 401 to 192.0.2.1: GET /{end}b"
        log = Logger("pushserver.x", observer=make(out))
        log.error("{text}", text=text)
        try:
            raise ValueError(text)
        except ValueError:
            log.failure("failed")
        firsts = [line for line in out.getvalue().split("\n") if not MARKED.match(line)]
        assert ["refused" in line for line in firsts] == [False] * 3

    @pytest.mark.parametrize("make", [terminal_observer, journal_observer, file_observer])
    def test_has_no_control_characters(self, out: io.StringIO, make: Any) -> None:
        Logger("pushserver.x", observer=make(out)).info("{a}", a="\x1b[31mred\x07\u202e\x7f\tb")
        assert out.getvalue().endswith("\\x1b[31mred\\x07\\u202e\\x7f\tb\n")


MARKED = re.compile(r"(<\d>)?\|  ")


class TestInTheJournal:
    def test_each_line_has_the_priority(self, out: io.StringIO) -> None:
        log = Logger("pushserver.x", observer=journal_observer(out))
        for level in ("debug", "info", "warn", "error", "critical"):
            getattr(log, level)("one\ntwo")
        lines = out.getvalue().splitlines()
        assert lines == [f"<{n}>{text}" for n in (7, 6, 4, 3, 2) for text in ("one", "|  two")]

    def test_a_traceback_is_part_of_the_event(self, out: io.StringIO) -> None:
        Logger("pushserver.x", observer=journal_observer(out)).failure("failed", broken())
        lines = out.getvalue().splitlines()
        assert len(lines) > 2
        assert {line[:3] for line in lines} == {"<2>"}


class TestAsJson:
    def entries(self, out: io.StringIO) -> list[dict[str, Any]]:
        return [json.loads(line) for line in out.getvalue().splitlines()]

    def log(self, out: io.StringIO, namespace: str = "pushserver.web.gate.Gate") -> Logger:
        return Logger(namespace, observer=json_observer(out))

    def test_an_event_has_its_name_and_fields(self, out: io.StringIO) -> None:
        self.log(out).warn(
            "refused {status} to {address}{more}",
            status=403,
            address="::1",
            more=" (and 3 that were not logged)",
            event_name="refused",
        )
        (entry,) = self.entries(out)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.pop("time"))
        assert entry == {
            "level": "warn",
            "part": "web",
            "event": "refused",
            "message": "refused 403 to ::1 (and 3 that were not logged)",
            "status": 403,
            "address": "::1",
        }

    def test_is_as_in_the_document(self, out: io.StringIO) -> None:
        shown = json.loads(block_with("docs/log.md", "source_failed").text)
        self.log(out, "pushserver.sources.engine.record.Record").warn(
            "source {name}: {problem}{more}",
            name="rates",
            problem="HTTP 503",
            more="",
            event_name="source_failed",
        )
        (entry,) = self.entries(out)
        assert entry | {"time": shown["time"]} == shown

    def test_a_failure_has_one_text(self, out: io.StringIO) -> None:
        self.log(out).failure("failed", broken(), event_name="x")
        (entry,) = self.entries(out)
        assert entry["level"] == "critical"
        assert entry["traceback"].rstrip().endswith("ValueError: 7")

    def test_events_of_twisted_have_no_fields(self, out: io.StringIO) -> None:
        self.log(out, "log_legacy").info("{a}", a=object(), system="-", isError=0)
        (entry,) = self.entries(out)
        assert set(entry) == {"time", "level", "part", "message"}
        assert entry["part"] == "twisted"

    @pytest.mark.parametrize(
        "value", ["\ud800", "\n\x00\x1b[31m", "é" * 100_000, float("nan"), float("inf"), {1: 2}]
    )
    def test_each_value_is_one_line_of_json(self, out: io.StringIO, value: object) -> None:
        self.log(out).info("got {value}", value=value, event_name="x")
        (entry,) = self.entries(out)
        assert out.getvalue().isascii()
        assert len(entry["value"]) <= log_output.TEXT_CHARACTERS

    def test_a_value_that_cannot_be_shown_is_named(self, out: io.StringIO) -> None:
        class Odd:
            def __str__(self) -> str:
                raise RuntimeError

        self.log(out).info("an odd value", value=Odd(), event_name="x")
        assert self.entries(out)[0]["value"] == "<Odd: RuntimeError>"

    def test_a_field_never_replaces_a_part_of_the_entry(self, out: io.StringIO) -> None:
        self.log(out).info("m", part="x", time=0, message="z", event_name="x")
        (entry,) = self.entries(out)
        assert (entry["part"], entry["message"]) == ("web", "m")

    def test_empty_events_are_left_out(self, out: io.StringIO) -> None:
        self.log(out).emit(LogLevel.info)
        assert out.getvalue() == ""


class TestLevels:
    def heard(self, levels: Levels, namespace: str) -> list[str]:
        names = ["debug", "info", "warn", "error", "critical"]
        event = [{"log_level": LogLevel.lookupByName(n), "log_namespace": namespace} for n in names]
        no = PredicateResult.no
        return [n for n, e in zip(names, event, strict=True) if levels(e) is not no]

    def test_each_part_has_its_own(self) -> None:
        levels = Levels(Log(level="warn", levels={"sources": "debug", "store": "critical"}))
        assert self.heard(levels, "pushserver.sources.engine.record.Record")[0] == "debug"
        assert self.heard(levels, "pushserver.store.committer") == ["critical"]
        assert self.heard(levels, "pushserver.web.gate.Gate")[0] == "warn"
        assert self.heard(levels, "my.program")[0] == "warn"

    @pytest.mark.parametrize("namespace", ["twisted.internet.tcp.Port", "log_legacy"])
    def test_twisted_is_a_part(self, namespace: str) -> None:
        assert self.heard(Levels(Log(), {"twisted": "warn"}), namespace)[0] == "warn"
        chosen = Levels(Log(levels={"twisted": "debug"}), {"twisted": "warn"})
        assert self.heard(chosen, namespace)[0] == "debug"

    def test_an_unknown_part_is_an_error(self) -> None:
        with pytest.raises(ValueError, match=r"levels: expected app, .* or wsgi, value 'sauces'"):
            Log(levels={"sauces": "debug"})

    def test_parts_are_the_folders_that_log(self) -> None:
        folders = {path.relative_to(PACKAGE).parts[0] for path, _ in calls()}
        assert folders <= {*LOG_PARTS}


class TestTheForm:
    def test_serve_writes_text_and_what_twisted_warns_of(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        observer = serve_observer(Log(), {})
        Logger("twisted.x", observer=observer).info("(TCP Port 8080 Closed)")
        Logger("pushserver.x", observer=observer).debug("more")
        Logger("pushserver.x", observer=observer).info("ready")
        assert capsys.readouterr().err.splitlines()[0].endswith(" ready")

    @pytest.mark.parametrize("twistd", [False, True])
    def test_levels_change_while_it_is_written(
        self, capsys: pytest.CaptureFixture[str], twistd: bool
    ) -> None:
        levels = Levels(Log())
        if twistd:
            options = {"nodaemon": 1}
            observer = daemon_observer(Log(), {}, options, memory_reactor(), levels)
        else:
            observer = serve_observer(Log(), {}, levels)
        assert observer is not None
        logs = [Logger(name, observer=observer) for name in ("pushserver.store", "twisted.x")]
        for text in ("before", "after"):
            for log in logs:
                log.debug("{text}", text=text)
            levels.use(Log(levels={"store": "debug"}))
        captured = capsys.readouterr()
        [line] = (captured.out + captured.err).splitlines()
        assert line.endswith("after")

    def test_the_journal_is_known_by_its_device_and_inode(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with (tmp_path / "journal").open("w") as file:
            monkeypatch.setattr("sys.stderr", file)
            status = os.fstat(file.fileno())
            journal = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
            for environment in (journal, {"JOURNAL_STREAM": "1:2"}, {}):
                Logger("pushserver.x", observer=serve_observer(Log(), environment)).warn("w")
            plain = serve_observer(Log(format="text"), journal)
            Logger("pushserver.x", observer=plain).warn("w")
        first, *others = (tmp_path / "journal").read_text().splitlines()
        assert first == "<4>w"
        assert [line.endswith(" warn: w") for line in others] == [True] * 3

    @pytest.mark.parametrize(
        ("settings", "options"),
        [
            (Log(format="json"), {"logger": object()}),
            (Log(format="json"), {"syslog": 1}),
            (Log(format="json"), {"logfile": "-", "nodaemon": 0}),
        ],
    )
    def test_twistd_keeps_its_own_log(self, settings: Log, options: dict[str, Any]) -> None:
        assert daemon_observer(settings, {}, options, memory_reactor()) is None

    @pytest.mark.parametrize("name", ["-", ""])
    def test_twistd_in_the_foreground_writes_to_its_output(
        self, capsys: pytest.CaptureFixture[str], name: str
    ) -> None:
        options = {"logfile": name, "nodaemon": 1}
        observer = daemon_observer(Log(format="json"), {}, options, memory_reactor())
        assert observer is not None
        Logger("pushserver.x", observer=observer).info("hello")
        assert json.loads(capsys.readouterr().out)["message"] == "hello"

    def test_a_file_of_twistd_is_rotated_by_its_signal(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reactor = memory_reactor()
        reactor.callFromThread = lambda call, *arguments: call(*arguments)
        handlers: dict[int, Any] = {}
        monkeypatch.setattr(signal, "getsignal", lambda number: handlers.get(number))
        monkeypatch.setattr(signal, "signal", handlers.__setitem__)
        opened: list[LogFile] = []
        rotated: list[LogFile] = []
        open_file = LogFile._openFile

        def track(file: Any) -> None:
            opened.append(file)
            open_file(file)

        monkeypatch.setattr(LogFile, "_openFile", track)
        monkeypatch.setattr(LogFile, "rotate", lambda file: rotated.append(file))
        options = {"logfile": str(tmp_path / "push.log")}
        for settings in (Log(format="json"), Log(level="warn")):
            observer = daemon_observer(settings, {}, options, reactor)
            assert observer is not None
            Logger("pushserver.x", observer=observer).warn("hello")
        first, second = (tmp_path / "push.log").read_text().splitlines()
        assert json.loads(first)["message"] == "hello"
        assert second.endswith("[pushserver.x#warn] hello")
        handlers[signal.SIGUSR1](signal.SIGUSR1, None)
        assert len(rotated) == 1
        for file in opened:
            file.close()

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("missing/push.log", "No such file or directory"),
            ("", "Is a directory"),
            ("file/push.log", "Not a directory"),
        ],
    )
    def test_a_file_that_cannot_be_written_ends_the_start(
        self, tmp_path: Path, name: str, reason: str
    ) -> None:
        (tmp_path / "file").touch()
        path = str(tmp_path / name) if name else str(tmp_path)
        with pytest.raises(StartFailed, match=f"--logfile {path}: {reason}"):
            daemon_observer(Log(), {}, {"logfile": path}, memory_reactor())

    @pytest.mark.parametrize("created", [False, True])
    def test_a_file_that_was_moved_is_opened_again(self, tmp_path: Path, created: bool) -> None:
        path, old = tmp_path / "push.log", tmp_path / "push.log.1"
        file = LogFile.fromFullPath(str(path))
        file.write("before\n")
        path.rename(old)
        file.write("moved\n")
        if created:
            path.touch()
        _rotate(file)
        file.write("after\n")
        assert file.rotateLength is None
        file.close()
        assert (old.read_text(), path.read_text()) == ("before\nmoved\n", "after\n")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["push.log", "push.log.1"]

    def test_twistd_takes_the_observer_of_the_service(self) -> None:
        service = build(Config(sources={}), memory_reactor())
        service.observer = json_observer(io.StringIO())
        application = Application("push")
        service.setServiceParent(application)
        assert application.getComponent(ILogObserver) is service.observer


def calls() -> list[tuple[Path, ast.Call]]:
    """Each call that logs, with its file."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                target = ast.unparse(node.func.value).rpartition(".")[2]
                if node.func.attr in LEVELS and target.endswith(("log", "limited")):
                    found.append((path, node))
    return found


def events() -> dict[str, tuple[set[str], set[str]]]:
    """The levels and the fields of each event, by its name."""
    found: dict[str, tuple[set[str], set[str]]] = {}
    for path, call in calls():
        named = [k.value for k in call.keywords if k.arg == "event_name"]
        assert named, f"{path.name}:{call.lineno} has no event_name"
        (name,) = named
        assert isinstance(name, ast.Constant)
        assert isinstance(call.func, ast.Attribute)
        level = call.func.attr.replace("failure", "critical")
        levels, fields = found.setdefault(str(name.value), (set(), set()))
        levels.add(level)
        fields.update({k.arg for k in call.keywords if k.arg} - log_output._NO_FIELDS)
    return found


def test_each_event_has_a_stable_name_that_is_documented_with_its_fields() -> None:
    documented: dict[str, tuple[set[str], set[str]]] = {}
    text = (PACKAGE.parent / "docs" / "log.md").read_text("utf-8")
    row = r"^\| `(\w+)` \| ([a-z, ]+) \| ([^|]*) \|"
    for name, levels, fields in re.findall(row, text, re.MULTILINE):
        documented[name] = (set(levels.split(", ")), set(re.findall(r"`(\w+)`", fields)))
    logged = events()
    # Those of Autobahn, through `LimitedLog`.
    logged["websocket"] = ({"info", "warn", "error"}, set())
    assert documented == logged
    assert [*documented] == sorted(documented)
