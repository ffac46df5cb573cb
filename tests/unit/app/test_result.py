from __future__ import annotations

import asyncio
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from pushserver.app.result import Published
from pushserver.channels.publication import Receipt
from pushserver.errors import Unavailable
from tests.unit.fakes.web import Trouble

RECEIPT = Receipt("e1", 7, 3)


class Committing:
    """A publication before its commit."""

    def __init__(self) -> None:
        self.receipt: Deferred[Receipt] = Deferred()
        self.published = Published(self.receipt)
        self.error = Unavailable("the disk is full")

    async def wait(self) -> Receipt:
        return await self.published

    def waiting(self) -> list[Any]:
        """The result of a Twisted coroutine, or its exception."""
        results: list[Any] = []
        done = Deferred.fromCoroutine(self.wait())
        done.addCallbacks(results.append, lambda failure: results.append(failure.value))
        return results


@pytest.fixture
def one() -> Committing:
    return Committing()


def test_it_has_its_position_after_the_commit(one: Committing) -> None:
    published = one.published
    assert not published.done
    with pytest.raises(RuntimeError, match="not committed yet: await the publication"):
        published.offset  # noqa: B018
    one.receipt.callback(RECEIPT)
    assert (published.done, published.receipt) == (True, RECEIPT)
    assert (published.offset, published.id) == (3, "e1:7")


def test_a_twisted_coroutine_can_await_it(one: Committing) -> None:
    early = [one.waiting() for _ in range(2)]
    assert early == [[], []]
    one.receipt.callback(RECEIPT)
    assert [*early, one.waiting()] == [[RECEIPT]] * 3


def test_a_failure_is_raised_in_each_await(one: Committing) -> None:
    early = [one.waiting() for _ in range(2)]
    one.receipt.errback(one.error)
    assert [*early, one.waiting(), one.waiting()] == [[one.error]] * 4
    with pytest.raises(Unavailable):
        one.published.offset  # noqa: B018
    assert not one.published.done


def test_a_failure_that_nothing_awaited_is_logged_and_raised_later(
    one: Committing, trouble: Trouble
) -> None:
    one.receipt.errback(one.error)
    logged = "a publication failed, and nobody awaited it: Unavailable('the disk is full')"
    assert trouble.take() == [logged]
    assert one.waiting() == [one.error]


def test_an_await_may_be_cancelled(one: Committing) -> None:
    done = Deferred.fromCoroutine(one.wait())
    results: list[Any] = []
    done.addErrback(lambda failure: results.append(failure.value))
    other = one.waiting()
    done.cancel()
    assert isinstance(results[0], CancelledError)
    one.receipt.callback(RECEIPT)
    assert other == [RECEIPT]


class TestInAsyncio:
    """Run as on the asyncio reactor, where Deferreds fire in callbacks of the loop."""

    def test_it_can_be_awaited(self, one: Committing) -> None:
        async def main() -> list[Receipt]:
            asyncio.get_running_loop().call_soon(one.receipt.callback, RECEIPT)
            first = await asyncio.gather(one.wait(), one.wait())
            return [*first, await one.published]

        assert asyncio.run(main()) == [RECEIPT] * 3

    def test_a_failure_is_raised(self, one: Committing) -> None:
        async def main() -> list[Any]:
            early = asyncio.ensure_future(one.wait())
            await asyncio.sleep(0)
            one.receipt.errback(one.error)
            return list(await asyncio.gather(early, one.wait(), return_exceptions=True))

        assert asyncio.run(main()) == [one.error, one.error]

    def test_a_waiting_task_may_be_cancelled(self, one: Committing) -> None:
        async def main() -> Receipt:
            task = asyncio.ensure_future(one.wait())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            asyncio.get_running_loop().call_soon(one.receipt.callback, RECEIPT)
            return await one.published

        assert asyncio.run(main()) == RECEIPT

    def test_a_twisted_coroutine_can_await_it_outside_of_a_task(self, one: Committing) -> None:
        async def main() -> list[Any]:
            results: list[list[Any]] = []
            loop = asyncio.get_running_loop()
            loop.call_soon(lambda: results.append(one.waiting()))
            await asyncio.sleep(0)
            one.receipt.callback(RECEIPT)
            return results[0]

        assert asyncio.run(main()) == [RECEIPT]
