from __future__ import annotations

import pytest
from twisted.internet.task import Clock
from twisted.logger import Logger

from pushserver.transports.limited_log import MAX_CAUSES, MAX_CHARACTERS, LimitedLog
from tests.unit.fakes.web import Log, Trouble


@pytest.mark.parametrize("level", ["info", "warn", "error"])
def test_values_of_a_peer_are_escaped_and_cut(level: str, trouble: Trouble) -> None:
    log = LimitedLog(Logger(), lambda: 0.0)
    with Log() as events:
        getattr(log, level)("bad {value}", value="\x1b]0;x\x07\n\u202e" + "x" * 1_000)
    (event,) = events
    assert event["log_level"].name == level
    (text,) = events.take()
    assert text.startswith(r"bad \x1b]0;x\x07\n\u202exxx")
    assert len(text) < MAX_CHARACTERS + 50
    trouble.clear()


def test_values_of_a_peer_do_not_make_new_causes_and_codes_do(trouble: Trouble) -> None:
    clock = Clock()
    log = LimitedLog(Logger(), clock.seconds)
    with Log() as events:
        for n in range(100):
            log.warn("refused {value} with {code}", value=n, code=1002 + n % 2)
        assert events.take() == ["refused 0 with 1002", "refused 1 with 1003"]
        clock.advance(0.9)
        log.warn("refused {value} with {code}", value=0, code=1002)
        assert events.take() == []
        clock.advance(0.1)
        log.warn("refused {value} with {code}", value=0, code=1002)
        assert events.take() == ["refused 0 with 1002 (and 50 that were not logged)"]
    trouble.clear()


def test_messages_without_end_are_a_bounded_number_of_causes(trouble: Trouble) -> None:
    log = LimitedLog(Logger(), lambda: 0.0)
    with Log() as events:
        for n in range(10 * MAX_CAUSES):
            log.error(f"error {n}")
        assert len(events.take()) == MAX_CAUSES + 1
    trouble.clear()


def test_debug_lines_are_not_logged() -> None:
    with Log() as events:
        LimitedLog(Logger(), lambda: 0.0).debug("received {data}", data=b"x")
        assert events.take() == []
