from __future__ import annotations

import atexit
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from pushserver.errors import StartFailed
from pushserver.server import reloading
from pushserver.server.options import Options, makeService, watch
from pushserver.server.reloading import (
    AGAIN,
    CHECK_SECONDS,
    FOLDER,
    Reloader,
    Retrier,
    Watched,
    history_file,
    inherit,
)
from tests.unit.fakes.reactors import LifeCycle
from tests.unit.fakes.web import Log, Trouble


@pytest.fixture
def reactor() -> LifeCycle:
    return LifeCycle()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "package").mkdir(parents=True)
    (root / "app.py").write_text("1")
    (root / "package" / "more.py").write_text("1")
    return root


@pytest.fixture
def at_end(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """The calls for the end of the process."""
    calls: list[Callable[[], None]] = []
    monkeypatch.setattr(reloading, "_at_end", calls.append)
    monkeypatch.setattr(atexit, "register", calls.append)
    return calls


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary folders."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.setenv(FOLDER, "")
    monkeypatch.delenv(FOLDER)
    monkeypatch.setattr(reloading, "_kept", None)
    return place


def touch(path: Path, text: str | None = None) -> None:
    """Change a file, with a new time also in a fast test."""
    if text is not None:
        path.write_text(text)
    time = path.stat().st_mtime_ns + 1_000
    os.utime(path, ns=(time, time))


def started(reactor: LifeCycle, root: Path, *more: Path) -> Reloader:
    reloader = Reloader(cast(Any, reactor), Watched([root], more))
    reloader.startService()
    return reloader


class TestAChange:
    @pytest.mark.parametrize("path", ["app.py", "package/more.py", "new.py", "package/new.py"])
    def test_of_a_file_stops_the_reactor_and_is_logged(
        self, reactor: LifeCycle, root: Path, path: str
    ) -> None:
        started(reactor, root)
        reactor.pump([CHECK_SECONDS] * 3)
        assert reactor.stops == 0
        touch(root / path, "2")
        reactor.advance(CHECK_SECONDS - 0.01)
        assert reactor.stops == 0
        with Log() as events:
            reactor.advance(0.01)
        assert reactor.stops == 1
        assert events.take() == [f"{root / path} has changed: starting again"]
        reactor.pump([CHECK_SECONDS] * 3)
        assert reactor.stops == 1

    def test_is_a_removed_file_too(self, reactor: LifeCycle, root: Path) -> None:
        started(reactor, root)
        (root / "app.py").unlink()
        reactor.advance(CHECK_SECONDS)
        assert reactor.stops == 1

    @pytest.mark.parametrize(
        "path",
        [
            "notes.txt",
            ".hidden/a.py",
            "__pycache__/a.py",
            "node_modules/a/a.py",
            "env/lib/python3/site-packages/a.py",
            "venv/a.py",
        ],
    )
    def test_of_other_files_is_ignored(self, reactor: LifeCycle, root: Path, path: str) -> None:
        (root / "venv").mkdir()
        (root / "venv" / "pyvenv.cfg").touch()
        started(reactor, root)
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        touch(root / path, "1")
        reactor.pump([CHECK_SECONDS] * 2)
        assert reactor.stops == 0

    def test_of_the_configuration_stops_the_reactor(
        self, reactor: LifeCycle, root: Path, tmp_path: Path
    ) -> None:
        config = tmp_path / "push.toml"
        started(reactor, root, config)
        reactor.advance(CHECK_SECONDS)
        assert reactor.stops == 0
        touch(config, "")
        reactor.advance(CHECK_SECONDS)
        assert reactor.stops == 1

    def test_is_the_appearance_of_a_missing_folder(
        self, reactor: LifeCycle, root: Path, tmp_path: Path, trouble: Trouble
    ) -> None:
        folder = tmp_path / "pages"
        retrier = Retrier(
            Reloader(cast(Any, reactor), Watched([root])), StartFailed("no pages", folder)
        )
        retrier.startService()
        trouble.clear()
        reactor.pump([CHECK_SECONDS] * 2)
        assert reactor.stops == 0
        folder.mkdir()
        reactor.advance(CHECK_SECONDS)
        assert reactor.stops == 1

    def test_during_the_import_is_noticed(self, reactor: LifeCycle, root: Path) -> None:
        reloader = Reloader(cast(Any, reactor), Watched([root]))
        touch(root / "app.py", "2")
        reloader.startService()
        reactor.advance(CHECK_SECONDS)
        assert reactor.stops == 1

    def test_during_the_stop_is_ignored(self, reactor: LifeCycle, root: Path) -> None:
        started(reactor, root)
        reactor.begin_to_end()
        touch(root / "app.py", "2")
        reactor.pump([CHECK_SECONDS] * 2)
        assert reactor.stops == 0

    def test_after_the_stop_is_ignored(self, reactor: LifeCycle, root: Path) -> None:
        reloader = started(reactor, root)
        reloader.stopService()
        touch(root / "app.py", "2")
        reactor.pump([CHECK_SECONDS] * 2)
        assert (reactor.stops, reactor.getDelayedCalls()) == (0, [])


def test_change_of_a_template_stops_nothing_and_is_read_each_time(
    reactor: LifeCycle, root: Path, tmp_path: Path
) -> None:
    page, style = tmp_path / "look" / "page.html", tmp_path / "look" / "css" / "a.css"
    style.parent.mkdir(parents=True)
    page.write_text("1")
    read: list[str] = []
    look = Watched([tmp_path / "look"], suffix="")
    reloader = Reloader(cast(Any, reactor), Watched([root]), look, read.append)
    reloader.startService()
    for path in (page, style, page):
        touch(path, "2")
        reactor.advance(CHECK_SECONDS)
        reactor.advance(CHECK_SECONDS)
    assert read == [f"a change of {path}" for path in (page, style, page)]
    assert reactor.stops == 0


class TestTheEnd:
    @pytest.mark.parametrize("number", [None, signal.SIGTERM])
    def test_without_a_change_removes_the_history(
        self,
        reactor: LifeCycle,
        root: Path,
        kept: Path,
        at_end: list[Callable[[], None]],
        number: int | None,
    ) -> None:
        Path(history_file()).write_text("history")
        assert len(list(kept.iterdir())) == 1
        started(reactor, root)
        reactor.end(number)
        assert list(kept.iterdir()) == []
        for call in at_end:
            call()

    def test_after_a_change_restarts_with_the_same_history(
        self,
        reactor: LifeCycle,
        root: Path,
        kept: Path,
        at_end: list[Callable[[], None]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        Path(history_file()).write_text("history")
        at_end.clear()
        started(reactor, root)
        touch(root / "app.py", "2")
        reactor.advance(CHECK_SECONDS)
        reactor.end()
        executed: list[tuple[str, list[str]]] = []
        monkeypatch.setattr(os, "execv", lambda path, arguments: executed.append((path, arguments)))
        monkeypatch.setattr(sys, "orig_argv", ["python", "-P", "twistd", "-n", "pushserver"])
        [start_again] = at_end
        held: list[int] = []
        monkeypatch.setattr("pushserver.server.signals.hold", lambda: held.append(len(executed)))
        start_again()
        # Signals are blocked before the next program starts.
        assert held == [0]
        assert executed == [(sys.executable, [sys.executable, "-P", "twistd", "-n", "pushserver"])]
        # The next program takes the folder over, and removes it in the end.
        monkeypatch.setattr(reloading, "_kept", None)
        inherit()
        assert FOLDER not in os.environ
        assert Path(history_file()).read_text() == "history"
        started(LifeCycle(), root)._end()
        assert list(kept.iterdir()) == []

    def test_by_a_signal_after_a_change_does_not_restart(
        self, reactor: LifeCycle, root: Path, kept: Path, at_end: list[Callable[[], None]]
    ) -> None:
        history_file()
        at_end.clear()
        started(reactor, root)
        touch(root / "app.py", "2")
        reactor.advance(CHECK_SECONDS)
        reactor.end(signal.SIGTERM)
        assert (at_end, list(kept.iterdir())) == ([], [])

    def test_of_a_start_that_failed_leaves_no_folder(
        self, kept: Path, at_end: list[Callable[[], None]]
    ) -> None:
        file = history_file()
        assert history_file() == file
        assert len(list(kept.iterdir())) == 1
        for call in at_end:
            call()
        assert list(kept.iterdir()) == []

    def test_comes_before_python_waits_for_threads(self) -> None:
        # In threading since Python 3.9, for concurrent.futures. Without it an endless thread of the
        # application would keep the process.
        assert reloading._at_end.__name__ == "_register_atexit"


class TestAFolderOfTheUser:
    @pytest.fixture(params=["precious", "pushserver-reload-mine", "empty", "link"])
    @staticmethod
    def precious(
        request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Path:
        folder = Path(tmp_path, request.param)
        if request.param == "link":
            (tmp_path / "target").mkdir()
            folder.symlink_to(tmp_path / "target")
        else:
            folder.mkdir()
        if request.param != "empty":
            (folder / "history.db").write_text("precious")
        monkeypatch.setenv(FOLDER, str(folder))
        return folder

    def test_in_the_variable_is_left_alone(
        self,
        kept: Path,
        precious: Path,
        reactor: LifeCycle,
        root: Path,
        at_end: list[Callable[[], None]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv(FOLDER, str(precious))
        before = {path: path.read_text() for path in precious.iterdir()}
        inherit()
        assert Path(history_file()).parent.parent == kept
        started(reactor, root)
        reactor.end()
        for call in at_end:
            call()
        assert {path: path.read_text() for path in precious.iterdir()} == before
        assert list(kept.iterdir()) == []

    @pytest.mark.parametrize("value", ["", "/nowhere", "relative", "pushserver-reload-"])
    def test_that_does_not_exist_is_not_made(
        self, kept: Path, monkeypatch: pytest.MonkeyPatch, value: str, at_end: list[object]
    ) -> None:
        monkeypatch.setenv(FOLDER, value)
        inherit()
        assert Path(history_file()).parent.parent == kept

    def test_is_one_in_which_somebody_put_a_file(
        self, kept: Path, reactor: LifeCycle, root: Path, at_end: list[object]
    ) -> None:
        file = Path(history_file())
        for name in ("history.db", "history.db-wal", "history.db-shm", "notes.txt"):
            (file.parent / name).touch()
        started(reactor, root)
        reactor.end()
        assert [path.name for path in file.parent.iterdir()] == ["notes.txt"]


def test_fork_of_the_application_leaves_the_history(
    kept: Path, reactor: LifeCycle, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    monkeypatch.setattr(atexit, "register", calls.append)
    monkeypatch.setattr(atexit, "unregister", calls.remove)
    history_file()
    assert len(calls) == 1
    started(reactor, root)
    # A fork that ends by sys.exit runs the calls of atexit.
    assert calls == []
    reactor.end()


def test_retrier_logs_the_error_and_waits_for_a_change(
    reactor: LifeCycle, root: Path, trouble: Trouble
) -> None:
    service = Retrier(
        Reloader(cast(Any, reactor), Watched([root])), StartFailed("x:y cannot be imported")
    )
    service.startService()
    line = "pushserver: x:y cannot be imported\nwaiting for a file to change"
    assert trouble.take() == [line]
    touch(root / "app.py", "2")
    reactor.advance(CHECK_SECONDS)
    assert reactor.stops == 1
    service.stopService()


class TestTheCommandLine:
    APP = "from pushserver import PushServer\napp = PushServer()\n"

    @pytest.fixture
    @staticmethod
    def options(
        root: Path,
        kept: Path,
        at_end: list[Callable[[], None]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> Options:
        monkeypatch.chdir(root)
        monkeypatch.syspath_prepend(str(root))
        (root / "pushtest_reload.py").write_text(TestTheCommandLine.APP)
        monkeypatch.delitem(sys.modules, "pushtest_reload", raising=False)
        # Restore the setting of --reload.
        monkeypatch.setattr(sys, "dont_write_bytecode", False)
        options = Options()
        options.parseOptions(["--app", "pushtest_reload:app", "--reload", "--listen", "tcp:0"])
        return options

    def test_watches_the_current_folder_and_keeps_the_history(
        self, options: Options, root: Path, kept: Path
    ) -> None:
        service: Any = makeService(options)
        [reloader] = [one for one in service if isinstance(one, Reloader)]
        assert reloader._watched._folders == [root]
        [folder] = kept.iterdir()
        assert service._storage is not None
        assert str(folder / "history.db") == history_file()
        # Processes that the application starts do not inherit the folder.
        assert FOLDER not in os.environ

    def test_keeps_the_configured_store(self, options: Options, root: Path, kept: Path) -> None:
        config = root / "push.toml"
        config.write_text('[store]\npath = "mine.db"\n')
        options["config"] = str(config)
        service: Any = makeService(options)
        assert (service._storage is not None, list(kept.iterdir())) == (True, [])
        [reloader] = [one for one in service if isinstance(one, Reloader)]
        assert reloader._watched._files == [config]

    @pytest.mark.parametrize(
        ("app", "folders"), [("x.py", 1), ("deep/x.py:app", 1), ("../other/x.py", 2), ("", 1)]
    )
    def test_watches_the_folder_of_a_file_elsewhere(
        self, options: Options, root: Path, app: str, folders: int
    ) -> None:
        (root.parent / "other").mkdir()
        options["app"] = app
        watched = watch(options)
        assert watched is not None
        assert len(watched._folders) == folders

    def test_tells_a_restart_from_a_start(
        self, options: Options, root: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = watch(options)
        monkeypatch.setenv(AGAIN, "1")
        second = watch(options)
        assert first is not None
        assert second is not None
        assert (first.again, second.again) == (False, True)
        assert AGAIN not in os.environ

    def test_releases_blocked_signals_after_the_handlers_are_installed(
        self, options: Options, root: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[str] = []
        monkeypatch.setattr("pushserver.server.signals.install", lambda *_: calls.append("install"))
        monkeypatch.setattr("pushserver.server.signals.release", lambda: calls.append("release"))
        makeService(options)
        assert calls == ["install", "release"]

    def test_writes_no_bytecode(self, options: Options, root: Path) -> None:
        makeService(options)
        assert list(root.rglob("pushtest_reload*.pyc")) == []
        assert sys.dont_write_bytecode

    def test_waits_after_a_failed_start(self, options: Options, root: Path) -> None:
        (root / "pushtest_reload.py").write_text("def broken(:")
        assert isinstance(makeService(options), Retrier)
        options["reload"] = False
        with pytest.raises(StartFailed, match="SyntaxError"):
            makeService(options)
