"""Coroutines of sessions run to their end, and what fails is logged."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from twisted.internet.defer import Deferred

from pushserver.server.logging import connection_log, report, run
from tests.unit.fakes.web import Log, Trouble


class Work:
    """A coroutine that waits for some Deferreds, one after the other, and what became of it."""

    def __init__(self, waits: int = 0, fails: bool = False):
        self.waiting: list[Deferred[object]] = [Deferred() for _ in range(waits)]
        self.got: list[object] = []
        self.over = False
        self._fails = fails

    async def do(self) -> None:
        """To be run."""
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
    """What is left behind is collected, and would have to say now what was not handled."""
    yield
    gc.collect()
    assert trouble == []


pytestmark = pytest.mark.usefixtures("unhandled")


@pytest.mark.parametrize("waits", range(4))
@pytest.mark.parametrize("fails", [False, True])
def test_a_coroutine_runs_as_far_as_it_can_and_goes_on_with_what_it_waited_for(
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
def test_what_has_fired_already_is_not_waited_for(fired: int) -> None:
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
def test_a_wait_that_fails_is_raised_in_the_coroutine_and_logged_if_it_lets_it(
    which: int, trouble: Trouble
) -> None:
    work = Work(3)
    run(work.do())
    for waiting in work.waiting[:which]:
        waiting.callback(None)
    work.waiting[which].errback(RuntimeError("secret"))
    assert work.over
    assert trouble.take() == [FAILED]


def test_a_coroutine_may_outlive_the_failure_of_a_wait() -> None:
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
def test_a_wait_that_is_cancelled_ends_the_coroutine(which: int, trouble: Trouble) -> None:
    work = Work(2)
    run(work.do())
    for waiting in work.waiting[:which]:
        waiting.callback(None)
    work.waiting[which].cancel()
    assert work.over
    assert trouble.take() == ["a conversation failed: CancelledError()"]


@pytest.mark.parametrize("waits", range(1, 4))
def test_a_coroutine_whose_wait_never_ends_is_collected_with_it(waits: int) -> None:
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


def test_what_is_raised_in_it_once_it_waits_is_raised_where_it_waits(trouble: Trouble) -> None:
    """The traceback that is logged names the line."""
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


def test_one_that_ends_at_once_makes_no_deferred(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    monkeypatch.setattr(Deferred, "fromCoroutine", made.append)
    run(Work().do())
    assert made == []


def test_an_interrupt_is_not_held_up() -> None:
    async def work() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(work())


def test_the_connection_log_is_silent_unless_asked() -> None:
    for debug in (False, True):
        with Log() as events:
            log = connection_log(debug)
            log.debug("came")
            log.info("dropped")
        assert events.take() == (["came", "dropped"] if debug else ["dropped"])


def test_what_fails_unattended_is_logged(trouble: Trouble) -> None:
    try:
        raise RuntimeError("one")
    except RuntimeError:
        report("something failed")
    assert trouble.take() == ["something failed: RuntimeError('one')"]
