from __future__ import annotations

import contextlib
import itertools
import re
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from zope.interface import implementer

from pushserver.errors import InvalidData, InvalidKey, InvalidName, Unavailable
from pushserver.sources.engine import throttle
from pushserver.sources.engine.record import REMINDER_SECONDS
from pushserver.sources.engine.runner import Runner
from pushserver.sources.interface import Feed, ISource, SourceFailed, Stopped
from pushserver.usercode.rate import LOGGED_AT_ONCE
from tests.unit.fakes.source_tools import NOW, Script, SourceBench, stopped
from tests.unit.fakes.tools import Watcher, drive
from tests.unit.fakes.web import Log, Trouble


class Puppet:
    """A source controlled by the test; `feeds` has the feed of each attempt."""

    def __init__(self) -> None:
        self.feeds: list[Feed] = []
        self.live = 0
        self.max_live = 0
        self.ignores_cancel = False
        self._action: Deferred[Callable[[Feed], Awaitable[bool]]] = Deferred()

    async def __call__(self, feed: Feed) -> None:
        self.feeds.append(feed)
        self.live += 1
        self.max_live = max(self.live, self.max_live)
        try:
            while await self._act(feed):
                pass
        finally:
            self.live -= 1

    async def _act(self, feed: Feed) -> bool:
        self._action = Deferred()
        try:
            action = await self._action
        except CancelledError:
            if not self.ignores_cancel:
                raise
            return True
        return await action(feed)

    def do(self, action: Callable[[Feed], Awaitable[bool]]) -> None:
        """Let the current attempt run `action`; it ends if that returns False."""
        self._action.callback(action)

    def publish(self, value: object) -> None:
        async def action(feed: Feed) -> bool:
            await feed.publish(value)
            return True

        self.do(action)

    def fail(self, error: Exception) -> None:
        async def action(feed: Feed) -> bool:
            raise error

        self.do(action)

    def end(self) -> None:
        async def action(feed: Feed) -> bool:
            return False

        self.do(action)

    def trouble(self, message: str) -> None:
        self.call(lambda feed: feed.trouble(message))

    def call(self, function: Callable[[Feed], object]) -> None:
        async def action(feed: Feed) -> bool:
            function(feed)
            return True

        self.do(action)


@pytest.fixture
def bench() -> SourceBench:
    return SourceBench()


class TestRunningSource:
    def test_feed_publishes_to_the_channel_of_the_source_with_its_event(
        self, bench: SourceBench
    ) -> None:
        puppet = Puppet()
        bench.script(puppet, event="tick")
        puppet.publish({"a": 1})
        [draft] = bench.drafts
        assert (draft.channel, draft.event, draft.data) == ("c", "tick", b'{"a":1}')
        assert (draft.tags, draft.key) == (None, "")

    def test_feed_publishes_to_another_channel_with_event_tags_and_key(
        self, bench: SourceBench
    ) -> None:
        async def run(feed: Feed) -> None:
            assert (feed.name, feed.channel, feed.event) == ("s", "c", "message")
            receipt = await feed.publish(1, "e", "d", {"t": "x"}, "k")
            assert receipt == await feed.publish(2, channel="d", key="k")

        bench.script(run)
        draft = bench.drafts[0]
        assert (draft.channel, draft.event, draft.tags, draft.key) == ("d", "e", {"t": "x"}, "k")
        assert bench.hub.history.top("d") == 1

    def test_status_has_state_counts_and_rate(self, bench: SourceBench) -> None:
        puppet = Puppet()
        runner = bench.runner(Script(puppet), type="poll")
        assert runner.status().state == "stopped"
        runner.startService()
        status = runner.status()
        assert (status.name, status.kind, status.channel, status.state) == (
            "s",
            "poll",
            "c",
            "running",
        )
        assert (status.published, status.last_event, status.rate) == (0, None, 0)
        for number in range(3):
            bench.clock.advance(2)
            puppet.publish(number)
        status = runner.status()
        assert (status.published, status.last_event) == (3, NOW + 6)
        assert status.rate == pytest.approx(3 / 4)
        assert (status.last_error, status.error_time, status.restarts) == ("", None, 0)

    def test_source_that_returns_is_not_started_again(self, bench: SourceBench) -> None:
        puppet = Puppet()
        with Log() as log:
            runner = bench.script(puppet)
            puppet.end()
            bench.clock.pump([60.0] * 5)
        assert log.take() == ["source s has ended"]
        assert (runner.status().state, len(puppet.feeds)) == ("ended", 1)
        assert bench.clock.getDelayedCalls() == []

    def test_remembered_value_survives_an_attempt(
        self, bench: SourceBench, trouble: Trouble
    ) -> None:
        puppet = Puppet()
        runner = bench.script(puppet)
        assert puppet.feeds[0].remembered() is None
        puppet.feeds[0].remember({"at": [1]})
        puppet.fail(SourceFailed("x"))
        bench.clock.advance(1)
        assert puppet.feeds[1].remembered() == {"at": [1]}
        assert bench.memory.get("s") == {"at": [1]}
        with pytest.raises(InvalidData):
            puppet.feeds[1].remember(object())
        trouble.take()
        stopped(runner)

    @pytest.mark.parametrize(
        ("arguments", "kind"),
        [
            ({"data": object()}, InvalidData),
            ({"data": 1, "channel": "a b"}, InvalidName),
            ({"data": 1, "event": "\n"}, InvalidName),
            ({"data": 1, "key": "ä"}, InvalidKey),
            ({"data": 1, "tags": {"a": 1}}, InvalidData),
            ({"data": 1, "tags": {1: "a"}}, InvalidData),
            ({"data": 1, "tags": {"a": "\ud800"}}, InvalidData),
        ],
    )
    def test_publish_raises_for_invalid_arguments(
        self, bench: SourceBench, arguments: dict[str, Any], kind: type[Exception]
    ) -> None:
        seen: list[Exception] = []

        async def run(feed: Feed) -> None:
            try:
                await feed.publish(**arguments)
            except ValueError as error:
                seen.append(error)

        bench.script(run)
        assert [type(error) for error in seen] == [kind]
        assert bench.drafts == []

    def test_object_without_isource_or_coroutine_fails_as_any_source(
        self, bench: SourceBench, trouble: Trouble
    ) -> None:
        @implementer(ISource)
        class Plain:
            def run(self, feed: Feed) -> Any:
                return 5

        for source in (Plain(), object()):
            stopped(bench.started(source))
        first, second = trouble.take()
        # The words of Python 3.11, and of 3.14.
        assert "int can't be used in 'await'" in first or "object can't be awaited" in first
        assert "Could not adapt" in second

    def test_feed_refuses_calls_from_another_thread(self, bench: SourceBench) -> None:
        puppet = Puppet()
        runner = bench.script(puppet)
        feed = puppet.feeds[0]
        calls: list[Callable[[], object]] = [
            lambda: feed.publish(1),
            lambda: feed.sleep(1),
            lambda: feed.remember(1),
            feed.remembered,
            lambda: feed.trouble("x"),
            feed.ok,
        ]
        seen: list[str] = []

        def work() -> None:
            for call in calls:
                with pytest.raises(RuntimeError) as caught:
                    call()
                seen.append(str(caught.value))

        thread = threading.Thread(target=work, name="mine")
        thread.start()
        thread.join()
        assert len(seen) == len(calls)
        for text in seen:
            assert "source s is for the reactor's thread" in text
            assert "this is mine: return or yield" in text
        stopped(runner)


class TestFailingSource:
    def test_failing_source_restarts_after_growing_delays(
        self, bench: SourceBench, trouble: Trouble
    ) -> None:
        starts: list[float] = []

        async def run(feed: Feed) -> None:
            starts.append(bench.clock.seconds())
            raise RuntimeError("broken")

        runner = bench.script(run, retry_seconds=1.0, retry_max_seconds=8.0)
        assert runner.status().state == "backing off"
        for _ in range(400):
            bench.clock.advance(0.1)
        waits = [after - before for before, after in itertools.pairwise(starts)]
        for wait, most in zip(waits, [1, 2, 4, 8, 8, 8], strict=False):
            assert most / 2 <= wait <= most + 0.11
        assert len(waits) >= 6
        status = runner.status()
        assert status.restarts == len(waits)
        assert status.errors == len(starts)
        assert status.last_error == "RuntimeError: broken"
        assert status.error_time == starts[-1]
        lines = trouble.take()
        assert "source s: failed, and is started again in " in lines[0]
        assert "RuntimeError('broken')" in lines[0]
        stopped(runner)
        assert bench.clock.getDelayedCalls() == []

    def test_failure_is_logged_with_a_traceback_unless_it_is_source_failed_or_unavailable(
        self, bench: SourceBench, trouble: Trouble
    ) -> None:
        puppet = Puppet()
        runner = bench.script(puppet)
        for error in (
            LookupError("mine"),
            SourceFailed("nobody answers"),
            Unavailable("the disk is full"),
        ):
            puppet.fail(error)
            bench.clock.advance(10)
        assert ["log_failure" in event for event in trouble] == [True, False, False]
        texts = trouble.take()
        assert texts[1].endswith(": nobody answers")
        assert texts[2].endswith(": the disk is full")
        stopped(runner)

    def test_repeated_failure_is_logged_once_a_minute(
        self, bench: SourceBench, trouble: Trouble
    ) -> None:
        async def run(feed: Feed) -> None:
            raise SourceFailed("nobody answers")

        runner = bench.script(run, retry_seconds=1.0, retry_max_seconds=1.0)
        bench.clock.pump([0.5] * 150)
        lines = trouble.take()
        assert len(lines) == 2
        assert lines[1].startswith("source s: failed, and is started again in ")
        assert re.search(r"nobody answers \(the same [0-9]{2,3} times more in 60 s\)$", lines[1])
        stopped(runner)

    def test_source_restarts_when_publishing_was_unavailable(
        self, bench: SourceBench, trouble: Trouble
    ) -> None:
        puppet = Puppet()
        runner = bench.script(puppet)
        bench.refusal = Unavailable("the disk is full")
        puppet.publish(1)
        assert runner.status().state == "backing off"
        assert runner.status().last_error == "the disk is full"
        bench.refusal = None
        bench.clock.advance(1)
        puppet.publish(2)
        assert (bench.published, runner.status().last_error) == ([2], "")
        assert len(trouble.take()) == 1
        stopped(runner)

    def test_back_off_restarts_after_a_healthy_attempt(
        self, bench: SourceBench, trouble: Trouble
    ) -> None:
        puppet = Puppet()
        runner = bench.script(puppet)

        def wait() -> float:
            before, count = bench.clock.seconds(), len(puppet.feeds)
            puppet.fail(SourceFailed("x"))
            while len(puppet.feeds) == count:
                bench.clock.advance(0.1)
            return bench.clock.seconds() - before

        assert max(wait(), wait(), wait(), wait()) > 3.9
        bench.clock.advance(30)
        assert wait() > 7.9
        puppet.call(lambda feed: feed.ok())
        assert runner.status().last_error == ""
        bench.clock.advance(9)
        assert wait() > 15.9
        puppet.publish(1)
        bench.clock.advance(10)
        assert wait() < 1.2
        trouble.take()
        stopped(runner)

    @pytest.mark.parametrize("error", [CancelledError(), SystemExit(3), Stopped("x")])
    def test_exceptions_with_another_meaning_elsewhere_are_failures_here(
        self, bench: SourceBench, trouble: Trouble, error: Any
    ) -> None:
        puppet = Puppet()
        runner = bench.script(puppet)
        puppet.fail(error)
        assert runner.status().state == "backing off"
        bench.clock.advance(1)
        assert len(puppet.feeds) == 2
        assert len(trouble.take()) == 1
        stopped(runner)


class TestWarnings:
    def test_warning_is_counted_shown_and_logged_once_for_each_message(
        self, bench: SourceBench, trouble: Trouble
    ) -> None:
        puppet = Puppet()
        runner = bench.script(puppet)
        for message in ("line 1", "line 2", "line 1", "line 1"):
            bench.clock.advance(1)
            puppet.trouble(message)
        assert trouble.take() == ["source s: line 1", "source s: line 2"]
        status = runner.status()
        assert (status.state, status.last_error, status.errors) == ("running", "line 1", 4)
        assert status.error_time == NOW + 4
        puppet.publish(1)
        status = runner.status()
        assert (status.last_error, status.errors, status.error_time) == ("", 4, NOW + 4)
        stopped(runner)

    def test_log_counts_suppressed_warnings(self, bench: SourceBench, trouble: Trouble) -> None:
        puppet = Puppet()
        runner = bench.script(puppet)
        for number in range(100):
            puppet.trouble(f"line {number}")
        assert len(trouble.take()) == LOGGED_AT_ONCE
        bench.clock.advance(60 / LOGGED_AT_ONCE)
        puppet.trouble("line 100")
        more = 100 - LOGGED_AT_ONCE
        assert trouble.take() == [f"source s: line 100 (and {more} that were not logged)"]
        assert runner.status().errors == 101
        stopped(runner)

    def test_long_message_becomes_one_short_line(
        self, bench: SourceBench, trouble: Trouble
    ) -> None:
        puppet = Puppet()
        runner = bench.script(puppet)
        puppet.fail(SourceFailed("two\nlines " + "x" * 10_000))
        line = trouble.take()[0]
        assert "\n" not in line
        assert len(line) < 700
        assert "\n" not in runner.status().last_error
        stopped(runner)


class TestRate:
    def test_source_above_its_rate_is_slowed_and_loses_nothing(
        self, bench: SourceBench, trouble: Trouble
    ) -> None:
        async def run(feed: Feed) -> None:
            for number in range(100):
                await feed.publish(number)

        runner = bench.script(run, max_rate=8.0)
        assert bench.published == list(range(8))
        bench.clock.pump([0.125] * 92)
        assert bench.published == list(range(100))
        assert runner.status().state == "ended"
        assert [at - NOW for at in bench.times[8:11]] == [0.125, 0.25, 0.375]
        assert trouble.take() == [
            "source s publishes more than its max_rate (8 a second) allows, and is slowed"
        ]

    def test_exceeded_rate_is_logged_once_a_minute(
        self, bench: SourceBench, trouble: Trouble
    ) -> None:
        async def run(feed: Feed) -> None:
            while True:
                await feed.publish(1)

        runner = bench.script(run, max_rate=1.0)
        for _ in range(int(2.5 * REMINDER_SECONDS)):
            bench.clock.advance(1)
        assert len(trouble.take()) == 3
        stopped(runner)

    def test_delay_is_known_before_publishing(self, bench: SourceBench) -> None:
        puppet = Puppet()
        runner = bench.script(puppet, max_rate=2.0)
        feed = puppet.feeds[0]
        assert feed.delay() == 0
        puppet.publish(1)
        assert feed.delay() == 0
        puppet.publish(2)
        assert feed.delay() == 0.5
        stopped(runner)

    def test_waiting_publications_keep_their_order(
        self, bench: SourceBench, trouble: Trouble
    ) -> None:
        async def run(feed: Feed) -> None:
            for number in range(5):
                Deferred.fromCoroutine(feed.publish(number))
            await feed.sleep(10)

        runner = bench.script(run, max_rate=1.0)
        bench.clock.pump([0.5] * 10)
        assert bench.published == list(range(5))
        trouble.take()
        stopped(runner)

    def test_number_of_waiting_publications_is_bounded(
        self, bench: SourceBench, trouble: Trouble, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(throttle, "MAX_WAITING", 50)
        waiting: list[Deferred[Any]] = []

        async def run(feed: Feed) -> None:
            for number in range(53):
                waiting.append(Deferred.fromCoroutine(feed.publish(number)))
            await waiting[-1]

        runner = bench.script(run, max_rate=1.0)
        assert "50 publications wait already" in runner.status().last_error
        trouble.take()
        stopped(runner)
        for one in waiting:
            one.addErrback(lambda _: None)
            one.cancel()

    def test_source_that_never_waits_leaves_turns_to_others(self, bench: SourceBench) -> None:
        async def run(feed: Feed) -> None:
            while True:
                await feed.publish(0)

        runner = bench.script(run, max_rate=1e6)
        turns = 0
        while turns < 20:
            bench.clock.turn()
            turns += 1
        assert 20 < len(bench.drafts) < 20 * 60
        stopped(runner)
        count = len(bench.drafts)
        assert bench.clock.getDelayedCalls() == []
        assert len(bench.drafts) == count

    def test_cancelled_publication_does_not_count_for_the_rate(
        self, bench: SourceBench, trouble: Trouble
    ) -> None:
        puppet = Puppet()
        runner = bench.script(puppet, max_rate=1.0)
        puppet.publish(1)
        puppet.publish(2)
        stopped(runner)
        runner.startService()
        bench.clock.advance(1)
        puppet.publish(3)
        assert bench.published == [1, 3]
        trouble.take()
        stopped(runner)


class TestStop:
    def test_stop_cancels_the_source_and_waits_for_its_end(self, bench: SourceBench) -> None:
        ended: list[str] = []

        async def run(feed: Feed) -> None:
            try:
                await feed.sleep(1_000)
            except CancelledError:
                ended.append("cancelled")
                raise
            finally:
                await deferLater(bench.clock, 1, lambda: None)
                ended.append("clean")

        runner = bench.script(run)
        result = stopped(runner)
        assert (ended, result) == (["cancelled"], [])
        bench.clock.advance(1)
        assert (ended, result) == (["cancelled", "clean"], [None])
        assert runner.status().state == "stopped"
        assert bench.clock.getDelayedCalls() == []

    def test_source_that_ignores_the_cancellation_is_abandoned(
        self, bench: SourceBench, trouble: Trouble
    ) -> None:
        async def run(feed: Feed) -> None:
            while True:
                with contextlib.suppress(CancelledError):
                    await deferLater(bench.clock, 0.5, lambda: None)

        result = stopped(bench.script(run))
        for _ in range(3):
            bench.clock.advance(0.5)
        assert result == []
        bench.clock.advance(0.5)
        assert result == [None]
        assert trouble.take() == ["source s was stopped but does not end: it is abandoned"]

    def test_feed_of_a_stopped_source_raises_stopped(self, bench: SourceBench) -> None:
        puppet = Puppet()
        runner = bench.script(puppet)
        feed = puppet.feeds[0]
        stopped(runner)
        for _ in range(2):
            with pytest.raises(Stopped, match="source s is stopped"):
                drive(feed.publish(1))
        with pytest.raises(Stopped):
            drive(feed.sleep(1))
        with pytest.raises(Stopped):
            feed.remember(1)
        assert bench.drafts == []

    def test_source_may_remember_a_value_while_it_is_cancelled(self, bench: SourceBench) -> None:
        async def run(feed: Feed) -> None:
            try:
                await feed.sleep(1_000)
            finally:
                feed.remember(7)

        stopped(bench.script(run))
        assert bench.memory.get("s") == 7

    def test_stop_cancels_a_waiting_publication(self, bench: SourceBench, trouble: Trouble) -> None:
        puppet = Puppet()
        runner = bench.script(puppet, max_rate=1.0)
        puppet.publish(1)
        puppet.publish(2)
        assert stopped(runner) == [None]
        bench.clock.advance(10)
        assert bench.published == [1]
        trouble.take()

    def test_stop_fails_publications_that_are_not_awaited(
        self, bench: SourceBench, trouble: Trouble
    ) -> None:
        seen: list[Any] = []

        async def run(feed: Feed) -> None:
            for number in range(3):
                Deferred.fromCoroutine(feed.publish(number)).addErrback(seen.append)
            await Deferred()

        assert stopped(bench.script(run, max_rate=1.0)) == [None]
        bench.clock.pump([1.0] * 3)
        assert bench.published == [0]
        assert [failure.type for failure in seen] == [Stopped, Stopped]
        trouble.take()

    @pytest.mark.parametrize("method", ["publish", "sleep"])
    def test_loop_that_catches_every_exception_does_not_block_the_stop(
        self, bench: SourceBench, trouble: Trouble, method: str
    ) -> None:
        tries: list[Exception] = []

        async def run(feed: Feed) -> None:
            while True:
                try:
                    await (feed.publish(1) if method == "publish" else feed.sleep(1))
                except Exception as error:
                    tries.append(error)

        result = stopped(bench.script(run, max_rate=1.0))
        bench.clock.advance(0)
        assert result == [None]
        assert 1 < len(tries) < 10
        assert "abandoned" in trouble.take()[-1]

    def test_failure_during_the_stop_is_logged(self, bench: SourceBench, trouble: Trouble) -> None:
        async def run(feed: Feed) -> None:
            try:
                await feed.sleep(1_000)
            finally:
                raise LookupError("the cleaning")

        runner = bench.script(run)
        assert stopped(runner) == [None]
        assert trouble.take() == ["source s: failed while stopping: LookupError('the cleaning')"]
        assert bench.clock.getDelayedCalls() == []

    @pytest.mark.parametrize("seconds", [0, 1])
    def test_publication_of_the_source_may_cause_its_stop(
        self, bench: SourceBench, seconds: int
    ) -> None:
        result: list[Any] = []
        ended: list[str] = []
        watcher = Watcher()
        watcher.on_send = lambda frame: result.append(stopped(runner))
        bench.watch(watcher)

        async def run(feed: Feed) -> None:
            if seconds:
                await feed.sleep(seconds)
            await feed.publish(1)
            try:
                await Deferred()
            finally:
                ended.append("clean")

        runner = bench.runner(Script(run))
        runner.startService()
        bench.clock.advance(seconds)
        bench.clock.advance(0)
        assert (result, ended) == ([[None]], ["clean"])
        assert runner.status().state == "stopped"
        assert bench.clock.getDelayedCalls() == []

    def test_stop_seconds_of_a_source_do_not_delay_the_server(
        self, bench: SourceBench, trouble: Trouble
    ) -> None:
        puppet = Puppet()
        source = Script(puppet)
        source.stop_seconds = 10.0
        puppet.ignores_cancel = True
        runner = bench.started(source)
        result = stopped(runner)
        bench.clock.advance(1.9)
        assert result == []
        bench.clock.advance(0.2)
        assert result == [None]
        bench.clock.advance(7)
        assert trouble.take() == []
        puppet.end()
        assert bench.clock.getDelayedCalls() == []
        runner.startService()
        stopped(runner)
        bench.clock.advance(11.9)
        assert trouble.take() == []
        bench.clock.advance(0.2)
        assert "abandoned" in trouble.take()[0]

    def test_restarted_runner_waits_for_the_end_of_the_last_attempt(
        self, bench: SourceBench
    ) -> None:
        puppet = Puppet()
        puppet.ignores_cancel = True
        source = Script(puppet)
        source.stop_seconds = 10.0
        runner = bench.started(source)
        stopped(runner)
        runner.startService()
        bench.clock.advance(5)
        assert (len(puppet.feeds), puppet.live) == (1, 1)
        puppet.end()
        assert (len(puppet.feeds), puppet.live) == (2, 1)
        puppet.ignores_cancel = False
        assert stopped(runner) == [None]
        assert bench.clock.getDelayedCalls() == []

    def test_runner_can_be_stopped_twice_and_before_its_start(self, bench: SourceBench) -> None:
        runner = bench.runner(Script(Puppet()))
        assert stopped(runner) == [None]
        runner.startService()
        assert (stopped(runner), stopped(runner)) == ([None], [None])


class TestOnDemand:
    def test_source_runs_while_the_channel_has_subscribers_and_linger_seconds_longer(
        self, bench: SourceBench
    ) -> None:
        callbacks = ([*bench.hub.on_join], [*bench.hub.on_leave])
        puppet = Puppet()
        runner = bench.script(puppet, on_demand=True, linger_seconds=30.0)
        assert (puppet.live, runner.status().state) == (0, "waiting")
        one, two = Watcher("1"), Watcher("2")
        bench.watch(one)
        bench.watch(two)
        assert (puppet.live, len(puppet.feeds), runner.status().state) == (1, 1, "running")
        bench.leave(one)
        bench.clock.advance(100)
        assert puppet.live == 1
        bench.leave(two)
        bench.clock.advance(29)
        assert (puppet.live, runner.status().state) == (1, "running")
        bench.clock.advance(1)
        assert (puppet.live, runner.status().state) == (0, "waiting")
        bench.watch(one)
        assert (puppet.live, len(puppet.feeds)) == (1, 2)
        assert runner.status().restarts == 0
        stopped(runner)
        assert bench.clock.getDelayedCalls() == []
        assert (bench.hub.on_join, bench.hub.on_leave) == callbacks

    def test_subscribers_of_other_channels_do_not_count(self, bench: SourceBench) -> None:
        puppet, watcher = Puppet(), Watcher()
        runner = bench.script(puppet, on_demand=True, linger_seconds=30.0)
        for _ in range(2):
            bench.watch(watcher, "other")
            assert puppet.live == 0
            bench.leave(watcher, "other")
            assert runner.status().state == "waiting"
        bench.watch(watcher)
        bench.watch(watcher, "other")
        bench.leave(watcher, "other")
        bench.clock.advance(100)
        assert puppet.live == 1
        stopped(runner)

    def test_first_publication_follows_the_reply_to_the_subscribe(self, bench: SourceBench) -> None:
        async def run(feed: Feed) -> None:
            await feed.publish(1)

        bench.script(run, on_demand=True)
        watcher = Watcher()
        joined = drive(bench.hub.subscribe(watcher, "c", None, 10))
        assert (joined.publications, watcher.frames) == ([], [])
        bench.clock.advance(0)
        assert watcher.offsets == [1]

    def test_next_attempt_waits_for_the_end_of_the_last(self, bench: SourceBench) -> None:
        puppet, watcher = Puppet(), Watcher()
        puppet.ignores_cancel = True
        runner = bench.script(puppet, on_demand=True, linger_seconds=0.0)
        bench.watch(watcher)
        bench.leave(watcher)
        bench.clock.advance(0)
        bench.watch(watcher)
        bench.clock.advance(1)
        assert (len(puppet.feeds), puppet.live) == (1, 1)
        puppet.end()
        assert (len(puppet.feeds), puppet.live) == (2, 1)
        assert runner.status().state == "running"
        puppet.ignores_cancel = False
        stopped(runner)


RETRY = 4.0
LINGER = 3.0


class RunnerMachine(RuleBasedStateMachine):
    """Subscribers join and leave, the source publishes and fails, the server stops and starts."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = SourceBench()
        self.puppet = Puppet()
        self.on_demand = False
        self.runner: Runner | None = None
        self.watchers: list[Watcher] = []
        self.alone_since: float | None = None
        self.failed_at: float | None = None
        self.sent: list[int] = []
        self.ended = False
        self.checked_feeds = 0

    @precondition(lambda self: self.runner is None)
    @rule(on_demand=st.booleans())
    def first_start(self, on_demand: bool) -> None:
        self.on_demand = on_demand
        self.alone_since = None
        self.runner = self.bench.script(
            self.puppet,
            on_demand=on_demand,
            linger_seconds=LINGER,
            retry_seconds=RETRY,
            retry_max_seconds=RETRY,
            max_rate=1_000.0,
        )

    @rule()
    def join(self) -> None:
        self.watchers.append(Watcher())
        self.alone_since = None
        self.bench.watch(self.watchers[-1])

    @precondition(lambda self: self.watchers)
    @rule()
    def leave(self) -> None:
        self.bench.leave(self.watchers.pop())
        if not self.watchers:
            self.alone_since = self.bench.clock.seconds()

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0, 3.0]))
    def wait(self, seconds: float) -> None:
        self.bench.clock.advance(seconds)

    @precondition(lambda self: self.puppet.live)
    @rule()
    def publish(self) -> None:
        self.sent.append(len(self.sent))
        self.puppet.publish(self.sent[-1])

    @precondition(lambda self: self.puppet.live)
    @rule()
    def fail(self) -> None:
        self.failed_at = self.bench.clock.seconds()
        self.puppet.fail(SourceFailed("x"))
        assert not self.puppet.live

    @precondition(lambda self: self.puppet.live)
    @rule()
    def end(self) -> None:
        self.ended = True
        self.puppet.end()

    @precondition(lambda self: self.runner is not None and self.runner.running)
    @rule()
    def stop(self) -> None:
        assert self.runner is not None
        assert stopped(self.runner) == [None]
        assert not self.puppet.live
        assert not self.bench.clock.getDelayedCalls()
        for feed in self.puppet.feeds[self.checked_feeds :]:
            self.checked_feeds += 1
            with pytest.raises(Stopped):
                drive(feed.publish("late"))

    @precondition(lambda self: self.runner is not None and not self.runner.running)
    @rule()
    def start(self) -> None:
        assert self.runner is not None
        self.ended = False
        # A stop ends the lingering.
        self.alone_since = None
        self.runner.startService()

    @invariant()
    def an_attempt_runs_exactly_when_expected(self) -> None:
        now = self.bench.clock.seconds()
        assert self.puppet.max_live <= 1
        if self.runner is None or not self.runner.running or self.ended:
            assert not self.puppet.live
            return
        lingers = self.alone_since is not None and now - self.alone_since < LINGER
        wanted = not self.on_demand or bool(self.watchers) or lingers
        backs_off = self.failed_at is not None and now - self.failed_at < RETRY
        if not wanted:
            assert (self.puppet.live, self.runner.status().state) == (0, "waiting")
        elif not backs_off:
            assert (self.puppet.live, self.runner.status().state) == (1, "running")
        elif self.failed_at is not None and now - self.failed_at < RETRY / 2:
            assert (self.puppet.live, self.runner.status().state) == (0, "backing off")

    @invariant()
    def all_publications_arrive_in_order(self) -> None:
        assert self.bench.published == self.sent
        if self.runner is not None:
            assert self.runner.status().published == len(self.sent)


def test_any_order_of_events_leads_to_the_expected_state(trouble: Trouble) -> None:
    run_state_machine_as_test(RunnerMachine, settings=settings(stateful_step_count=40))
    assert all(" failed, and is started again in " in text for text in trouble.take())
