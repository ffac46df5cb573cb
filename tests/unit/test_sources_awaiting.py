from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Coroutine
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed

from pushserver.sources.awaiting import awaited


def begun(awaitable: Awaitable[Any]) -> Deferred[Any]:
    return Deferred.fromCoroutine(awaited(awaitable))


def result(done: Deferred[Any]) -> Any:
    """What it gave, or the exception."""
    found: list[Any] = []
    done.addBoth(found.append)
    assert found, "it waits"
    return getattr(found[0], "value", found[0])


def test_deferreds_are_awaited_with_their_results_and_their_failures() -> None:
    one: Deferred[int] = Deferred()
    two: Deferred[int] = Deferred()

    async def work() -> list[object]:
        seen: list[object] = [await succeed(0), await one]
        try:
            await two
        except LookupError as error:
            seen.append(error)
        return seen

    done = begun(work())
    one.callback(1)
    error = LookupError("x")
    two.errback(error)
    assert result(done) == [0, 1, error]


def test_it_may_be_cancelled() -> None:
    waits: Deferred[None] = Deferred()
    done = begun(waits)
    done.cancel()
    assert isinstance(result(done), CancelledError)


def test_what_a_coroutine_raises_comes_out() -> None:
    async def work() -> None:
        raise RuntimeError("mine")

    error = result(begun(work()))
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


@pytest.mark.parametrize("work", [sleeps, awaits_a_future, gives_way])
def test_asyncio_without_its_reactor_is_an_error_that_says_what_to_do(work: Any) -> None:
    error = result(begun(work()))
    assert isinstance(error, RuntimeError)
    assert "twistd --reactor asyncio" in str(error)
    assert work.__name__ in "".join(traceback.format_tb(error.__traceback__))


def test_what_waits_for_something_else_is_an_error_that_names_it() -> None:
    class Odd:
        def __await__(self) -> Any:
            yield 7

    assert "int cannot be awaited" in str(result(begun(Odd())))


class TestOnTheLoopOfAsyncio:
    """Which its reactor runs on."""

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        async def main() -> Any:
            return await begun(coroutine).asFuture(asyncio.get_running_loop())

        return asyncio.run(main())

    def test_futures_and_deferreds_go_together(self) -> None:
        async def work() -> list[object]:
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)
            return [await succeed(1), await asyncio.ensure_future(asyncio.sleep(0, 2))]

        assert self.run(work()) == [1, 2]

    def test_what_a_future_raises_comes_out(self) -> None:
        async def fail() -> None:
            raise LookupError("x")

        async def work() -> str:
            try:
                await asyncio.ensure_future(fail())
            except LookupError:
                return "caught"
            return ""

        assert self.run(work()) == "caught"

    def test_a_cancel_cancels_the_future(self) -> None:
        futures: list[asyncio.Future[None]] = []

        async def work() -> None:
            futures.append(asyncio.get_running_loop().create_future())
            await futures[0]

        async def main() -> None:
            done = begun(work())
            done.cancel()
            assert isinstance(result(done), CancelledError)
            assert futures[0].cancelled()
            await asyncio.sleep(0)

        asyncio.run(main())
