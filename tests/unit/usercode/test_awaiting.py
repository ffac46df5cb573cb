from __future__ import annotations

import asyncio
import gc
import traceback
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextvars import ContextVar
from typing import Any

import aiohttp
import anyio
import httpx
import pytest
from twisted.internet.defer import CancelledError, Deferred, DeferredLock, succeed

from pushserver.usercode.awaiting import awaited


def started(awaitable: Awaitable[Any]) -> Deferred[Any]:
    return Deferred.fromCoroutine(awaited(awaitable))


def result(done: Deferred[Any]) -> Any:
    """The result or the exception of a Deferred that has fired."""
    outcome: list[Any] = []
    done.addBoth(outcome.append)
    assert outcome, "it waits"
    return getattr(outcome[0], "value", outcome[0])


def test_awaited_deferreds_return_results_and_raise_failures() -> None:
    one: Deferred[int] = Deferred()
    two: Deferred[int] = Deferred()

    async def work() -> list[object]:
        seen: list[object] = [await succeed(0), await one]
        try:
            await two
        except LookupError as error:
            seen.append(error)
        return seen

    done = started(work())
    one.callback(1)
    error = LookupError("x")
    two.errback(error)
    assert result(done) == [0, 1, error]


def test_awaitable_can_be_cancelled() -> None:
    waits: Deferred[None] = Deferred()
    done = started(waits)
    done.cancel()
    assert isinstance(result(done), CancelledError)


def test_exception_of_a_coroutine_is_raised() -> None:
    async def work() -> None:
        raise RuntimeError("mine")

    error = result(started(work()))
    assert (type(error), str(error)) == (RuntimeError, "mine")


async def sleeps() -> None:
    await asyncio.sleep(1)


async def awaits_a_future() -> None:
    loop = asyncio.new_event_loop()
    try:
        await loop.create_future()
    finally:
        loop.close()


async def gives_way() -> None:
    await asyncio.sleep(0)


async def waits_for_an_item() -> None:
    await asyncio.Queue[None]().get()


async def waits_for_a_lock() -> None:
    lock = asyncio.Lock()
    await lock.acquire()
    await lock.acquire()


async def sleeps_by_anyio() -> None:
    await anyio.sleep(1)


async def opens_a_session() -> None:
    aiohttp.ClientSession()


async def closes_a_client() -> None:
    await httpx.AsyncClient(trust_env=False).get("http://localhost:9/")


@pytest.mark.parametrize(
    "work",
    [
        sleeps,
        awaits_a_future,
        gives_way,
        waits_for_an_item,
        waits_for_a_lock,
        sleeps_by_anyio,
        opens_a_session,
        closes_a_client,
    ],
)
def test_asyncio_without_its_reactor_is_an_error_with_a_hint(work: Any) -> None:
    error = result(started(work()))
    assert isinstance(error, RuntimeError)
    assert "twistd --reactor asyncio" in str(error)
    assert work.__name__ in "".join(traceback.format_tb(error.__traceback__))


def test_waiting_for_another_object_is_an_error_with_its_type() -> None:
    class Odd:
        def __await__(self) -> Any:
            yield 7

    assert "int cannot be awaited" in str(result(started(Odd())))


class TestWithALoopOfAsyncio:
    """As under the asyncio reactor."""

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        async def main() -> Any:
            return await started(coroutine).asFuture(asyncio.get_running_loop())

        return asyncio.run(main())

    def test_coroutine_can_await_futures_and_deferreds(self) -> None:
        async def work() -> list[object]:
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)
            return [await succeed(1), await asyncio.ensure_future(asyncio.sleep(0, 2))]

        assert self.run(work()) == [1, 2]

    def test_exception_of_a_future_is_raised(self) -> None:
        async def fail() -> None:
            raise LookupError("x")

        async def work() -> str:
            try:
                await asyncio.ensure_future(fail())
            except LookupError:
                return "caught"
            return ""

        assert self.run(work()) == "caught"

    def test_coroutine_that_does_not_wait_has_its_result_at_once(self) -> None:
        async def work() -> object:
            async with asyncio.timeout(1):
                return await succeed(asyncio.current_task())

        async def fails() -> None:
            raise SystemExit(3)

        async def main() -> None:
            around = asyncio.current_task()
            assert result(started(work())) not in (None, around)
            assert asyncio.current_task() is around
            assert isinstance(result(started(fails())), SystemExit)
            await asyncio.sleep(0)

        asyncio.run(main())

    def test_coroutine_runs_in_one_task_with_timeouts_and_task_groups(self) -> None:
        async def work() -> list[object]:
            task = asyncio.current_task()
            async with asyncio.TaskGroup() as group:
                child = group.create_task(asyncio.sleep(0.001, "child"))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await Deferred()
            await later(1)
            assert asyncio.current_task() is task
            return [child.result(), await later(2)]

        assert self.run(work()) == ["child", 2]

    def test_deferred_can_be_awaited_twice(self) -> None:
        async def work() -> list[object]:
            fails: Deferred[None] = Deferred()
            asyncio.get_running_loop().call_soon(fails.errback, LookupError("x"))
            for _ in range(2):
                with pytest.raises(LookupError):
                    await fails
            deferred: Deferred[int] = Deferred()
            asyncio.get_running_loop().call_soon(deferred.callback, 1)
            return [await deferred, await deferred]

        assert self.run(work()) == [1, 1]

    @pytest.mark.parametrize("sleeps", [0, 1])
    def test_cancellation_in_the_turn_of_the_end_keeps_the_result(self, sleeps: int) -> None:
        faults: list[Any] = []

        async def main() -> None:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, fault: faults.append(fault))

            async def work() -> int:
                for _ in range(sleeps + 1):
                    await asyncio.sleep(0)
                # It comes after the end, and before the callbacks of the task.
                loop.call_soon(done.cancel)
                return 1

            done = started(work())
            for _ in range(4 + sleeps):
                await asyncio.sleep(0)
            assert result(done) == 1

        asyncio.run(main())
        assert faults == []

    @pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt()])
    def test_exception_that_would_stop_the_loop_is_raised(self, raised: BaseException) -> None:
        async def work() -> None:
            await asyncio.sleep(0)
            raise raised

        async def main() -> None:
            done = started(work())
            for _ in range(3):
                await asyncio.sleep(0)
            assert result(done) is raised

        asyncio.run(main())

    def test_context_variables_are_kept_and_do_not_leak(self) -> None:
        variable: ContextVar[int] = ContextVar("variable", default=0)

        async def work() -> int:
            before = variable.get()
            variable.set(before + 1)
            await asyncio.sleep(0)
            await later(None)
            return variable.get()

        async def main() -> int:
            variable.set(5)
            inside: int = await started(work()).asFuture(asyncio.get_running_loop())
            assert variable.get() == 5
            return inside

        assert asyncio.run(main()) == 6

    def test_nested_awaitable_has_a_separate_task(self) -> None:
        async def inner() -> object:
            await asyncio.sleep(0)
            return asyncio.current_task()

        async def work() -> None:
            outer = asyncio.current_task()
            assert await awaited(inner()) is not outer
            assert asyncio.current_task() is outer

        self.run(work())

    @pytest.mark.parametrize("turns", [0, 1, 2])
    @pytest.mark.parametrize("kind", ["future", "deferred", "turn", "inner"])
    def test_cancel_cancels_the_awaited_object(self, kind: str, turns: int) -> None:
        seen: list[BaseException] = []
        waits: list[Any] = []

        async def work() -> None:
            loop = asyncio.get_running_loop()
            waits.append(loop.create_future() if kind in ("future", "inner") else Deferred())
            try:
                for _ in range(100 if kind == "turn" else 0):
                    await asyncio.sleep(0)
                await waits[0]
            except BaseException as error:
                seen.append(error)
                # The caller waits for this, too.
                await later(None)
                seen.append(error)
                raise

        async def main() -> None:
            coroutine = awaited(work()) if kind == "inner" else work()
            done = started(coroutine)
            for _ in range(turns):
                await asyncio.sleep(0)
            done.cancel()
            await cancelled(done)
            assert [type(error) for error in seen] == [asyncio.CancelledError] * 2
            if kind != "turn":
                waited = waits[0]
                assert waited.called if kind == "deferred" else waited.cancelled()

        asyncio.run(main())

    def test_cancel_does_not_lose_the_result_of_a_fired_deferred(self) -> None:
        lock = DeferredLock()

        async def work() -> None:
            await lock.acquire()
            try:
                await Deferred()
            finally:
                lock.release()

        async def main() -> None:
            await lock.acquire()
            done = started(work())
            await asyncio.sleep(0)
            lock.release()
            done.cancel()
            await cancelled(done)
            assert not lock.locked

        asyncio.run(main())

    def test_coroutine_that_ignores_a_cancel_can_be_cancelled_again(self) -> None:
        async def work() -> str:
            try:
                await Deferred()
            except asyncio.CancelledError:
                await asyncio.sleep(0)
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return "at last"
            return ""

        async def main() -> object:
            done = started(work())
            for _ in range(2):
                done.cancel()
                for _ in range(5):
                    await asyncio.sleep(0)
            return result(done)

        assert asyncio.run(main()) == "at last"

    def test_async_generator_can_be_closed_after_a_cancel(self) -> None:
        closed: list[bool] = []

        async def values() -> AsyncIterator[int]:
            try:
                await asyncio.sleep(60)
                yield 1
            finally:
                await asyncio.sleep(0)
                closed.append(True)

        generator: Any = values()

        async def work() -> None:
            try:
                await awaited(anext(generator))
            finally:
                await awaited(generator.aclose())

        async def main() -> None:
            done = started(work())
            await asyncio.sleep(0)
            done.cancel()
            await cancelled(done)
            assert closed == [True]

        asyncio.run(main())

    def test_unfinished_coroutine_logs_nothing_when_the_loop_ends(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        loop = asyncio.new_event_loop()

        async def work() -> None:
            await Deferred()

        def begin() -> None:
            started(work()).cancel()
            started(work())
            started(later(None))
            loop.stop()

        loop.call_soon(begin)
        loop.run_forever()
        loop.close()
        gc.collect()
        assert caplog.records == []


async def cancelled(done: Deferred[Any]) -> None:
    """Wait until it fails with CancelledError."""
    with pytest.raises(CancelledError):
        await done.asFuture(asyncio.get_running_loop())


async def later(value: object) -> Any:
    """Return the value of a Deferred that fires a turn later."""
    deferred: Deferred[object] = Deferred()
    asyncio.get_running_loop().call_soon(deferred.callback, value)
    return await deferred
