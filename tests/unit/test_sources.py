from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from pushserver.channel import Draft, Receipt
from pushserver.sources import TimerSource, random_number
from tests.unit.tools import EPOCH
from tests.unit.web import Trouble


class Desk:
    """A source, and what it published."""

    def __init__(self, *values: Any):
        self.values = list(values)
        self.drafts: list[Draft] = []
        self.clock = Clock()
        self.waits: Deferred[None] | None = None
        self.source = TimerSource(self.clock, self.publish, self.make, "numbers", "newnumber", 2.0)

    def make(self) -> object:
        value = self.values.pop(0) if self.values else 0
        if isinstance(value, Exception):
            raise value
        return value

    async def publish(self, draft: Draft) -> Receipt:
        if self.waits is not None:
            await self.waits
        self.drafts.append(draft)
        return Receipt(EPOCH, 1, 1)

    @property
    def published(self) -> list[Any]:
        return [json.loads(draft.data) for draft in self.drafts]


def test_it_publishes_at_once_and_then_at_its_interval() -> None:
    desk = Desk({"number": 1}, {"number": 2}, {"number": 3})
    assert desk.published == []
    desk.source.startService()
    assert desk.published == [{"number": 1}]
    desk.clock.advance(1.9)
    assert len(desk.drafts) == 1
    desk.clock.advance(0.1)
    desk.clock.advance(2.0)
    assert desk.published == [{"number": 1}, {"number": 2}, {"number": 3}]
    assert {(draft.channel, draft.event) for draft in desk.drafts} == {("numbers", "newnumber")}


def test_a_tick_that_fails_is_logged_and_the_next_one_comes(trouble: Trouble) -> None:
    desk = Desk(1, RuntimeError("broken"), float("nan"), object(), 5)
    desk.source.startService()
    desk.clock.pump([2.0] * 4)
    assert desk.published == [1, 5]
    told = trouble.take()
    assert len(told) == 3
    assert all(text.startswith("a tick of the source of numbers failed: ") for text in told)
    assert "RuntimeError('broken')" in told[0]


def test_a_publication_that_is_refused_is_logged_and_the_next_tick_comes(trouble: Trouble) -> None:
    desk = Desk(1, 2)
    desk.waits = Deferred()
    desk.source.startService()
    desk.waits.errback(RuntimeError("the disk is full"))
    desk.waits = None
    desk.clock.advance(2)
    assert desk.published == [2]
    assert "the disk is full" in trouble.take()[0]


def test_while_a_publication_waits_no_other_is_made() -> None:
    desk = Desk(1, 2, 3)
    desk.waits = Deferred()
    desk.source.startService()
    desk.clock.pump([2.0] * 5)
    assert (desk.published, desk.values) == ([], [2, 3])
    waits, desk.waits = desk.waits, None
    waits.callback(None)
    desk.clock.advance(2)
    assert desk.published == [1, 2]


def test_a_stopped_source_publishes_nothing_more_and_may_be_stopped_again() -> None:
    desk = Desk(1, 2)
    desk.source.startService()
    desk.source.stopService()
    desk.clock.advance(10)
    assert desk.published == [1]
    desk.source.stopService()
    assert not desk.source.running
    assert desk.clock.getDelayedCalls() == []


def test_a_random_number_is_from_0_to_10_with_three_decimals() -> None:
    numbers = [random_number()["number"] for _ in range(1_000)]
    assert all(0 <= number <= 10 and number == round(number, 3) for number in numbers)
    assert len(set(numbers)) > 900
