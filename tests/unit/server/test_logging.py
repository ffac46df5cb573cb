"""Coroutines of sessions run to their end, and what fails is logged."""

from __future__ import annotations

import gc
import io
import sys
from collections.abc import Iterator

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import Logger, textFileLogObserver

from pushserver.server.logging import connection_log, escape_output, report, run
from tests.unit.fakes.web import Log, Trouble


class Work:
    """A coroutine that waits for some Deferreds, one after the other; `got` has their results."""

    def __init__(self, waits: int = 0, fails: bool = False):
        self.waiting: list[Deferred[object]] = [Deferred() for _ in range(waits)]
        self.got: list[object] = []
        self.over = False
        self._fails = fails

    async def do(self) -> None:
        """The coroutine."""
        try:
            for waiting in self.waiting:
                self.got.append(await waiting)
            if self._fails:
                raise RuntimeError("secret")
        finally:
            self.over = True


FAILED = "a conversation failed: RuntimeError('secret')"


@pytest.fixture
def unhandled(trouble: Trouble) -> Iterator[None]:
    """Collect garbage: a Deferred with an unhandled failure logs it then."""
    yield
    gc.collect()
    assert trouble == []


pytestmark = pytest.mark.usefixtures("unhandled")


@pytest.mark.parametrize("waits", range(4))
@pytest.mark.parametrize("fails", [False, True])
def test_coroutine_runs_to_its_first_wait_and_continues_with_the_result(
    waits: int, fails: bool, trouble: Trouble
) -> None:
    work = Work(waits, fails)
    run(work.do())
    for number, waiting in enumerate(work.waiting):
        assert not work.over
        assert work.got == list(range(number))
        assert trouble == []
        waiting.callback(number)
    assert work.over
    assert work.got == list(range(waits))
    assert trouble.take() == [FAILED] * fails


@pytest.mark.parametrize("fired", range(3))
def test_coroutine_does_not_wait_for_a_deferred_that_has_fired(fired: int) -> None:
    work = Work(3)
    for waiting in work.waiting[:fired]:
        waiting.callback("early")
    run(work.do())
    assert work.got == ["early"] * fired
    for waiting in work.waiting[fired:]:
        waiting.callback("late")
    assert work.got == ["early"] * fired + ["late"] * (3 - fired)
    assert work.over


@pytest.mark.parametrize("which", range(3))
def test_failure_of_a_wait_is_raised_in_the_coroutine_and_logged(
    which: int, trouble: Trouble
) -> None:
    work = Work(3)
    run(work.do())
    for waiting in work.waiting[:which]:
        waiting.callback(None)
    work.waiting[which].errback(RuntimeError("secret"))
    assert work.over
    assert trouble.take() == [FAILED]


def test_coroutine_may_catch_the_failure_of_a_wait() -> None:
    waiting: list[Deferred[str]] = [Deferred(), Deferred()]
    got: list[str] = []

    async def work() -> None:
        try:
            await waiting[0]
        except RuntimeError as error:
            got.append(str(error))
        got.append(await waiting[1])

    run(work())
    waiting[0].errback(RuntimeError("first"))
    waiting[1].callback("second")
    assert got == ["first", "second"]


@pytest.mark.parametrize("which", range(2))
def test_cancelled_wait_ends_the_coroutine(which: int, trouble: Trouble) -> None:
    work = Work(2)
    run(work.do())
    for waiting in work.waiting[:which]:
        waiting.callback(None)
    work.waiting[which].cancel()
    assert work.over
    assert trouble.take() == ["a conversation failed: CancelledError()"]


@pytest.mark.parametrize("waits", range(1, 4))
def test_coroutine_is_collected_with_the_deferred_that_it_waits_for(waits: int) -> None:
    work = Work(waits)
    run(work.do())
    for waiting in work.waiting[:-1]:
        waiting.callback(None)
    ended: list[str] = []

    async def on(waiting: Deferred[object]) -> None:
        try:
            await waiting
        finally:
            ended.append("collected")

    run(on(Deferred()))
    work.waiting.clear()
    del waits
    gc.collect()
    assert work.over
    assert ended == ["collected"]


def test_traceback_of_a_failed_wait_has_the_line_of_the_wait(trouble: Trouble) -> None:
    waiting: Deferred[None] = Deferred()

    async def inner() -> None:
        await waiting

    async def work() -> None:
        await inner()

    run(work())
    waiting.errback(RuntimeError("secret"))
    failure = trouble[0]["log_failure"]
    assert [frame[0] for frame in failure.frames if frame[0] in ("work", "inner")]
    trouble.clear()


def test_coroutine_without_a_wait_makes_no_deferred(monkeypatch: pytest.MonkeyPatch) -> None:
    deferreds: list[object] = []
    monkeypatch.setattr(Deferred, "fromCoroutine", deferreds.append)
    run(Work().do())
    assert deferreds == []


def test_keyboard_interrupt_is_raised() -> None:
    async def work() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(work())


def test_connection_log_has_debug_events_with_debug_alone() -> None:
    for debug in (False, True):
        with Log() as events:
            log = connection_log(debug)
            log.debug("came")
            log.info("dropped")
        assert events.take() == (["came", "dropped"] if debug else ["dropped"])


def test_report_logs_the_exception_that_is_handled(trouble: Trouble) -> None:
    try:
        raise RuntimeError("one")
    except RuntimeError:
        report("something failed")
    assert trouble.take() == ["something failed: RuntimeError('one')"]


@pytest.mark.parametrize(
    ("encoding", "line"),
    [
        ("ascii", rb"gr\xfcn \u20ac \U0001f600 \udcff"),
        ("latin-1", b"gr\xfcn \\u20ac \\U0001f600 \\udcff"),
        ("utf-8", b"gr\xc3\xbcn \xe2\x82\xac \xf0\x9f\x98\x80 \\udcff"),
    ],
)
def test_lines_reach_an_output_of_any_encoding(
    monkeypatch: pytest.MonkeyPatch, encoding: str, line: bytes
) -> None:
    written = io.BytesIO()
    output = io.TextIOWrapper(written, encoding)
    monkeypatch.setattr(sys, "stdout", output)
    log = Logger(observer=textFileLogObserver(output))
    escape_output()
    log.warn("{text}", text="grün € \U0001f600 \udcff")
    output.flush()
    assert written.getvalue().endswith(line + b"\n")
