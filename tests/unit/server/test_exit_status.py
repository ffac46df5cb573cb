from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from typing import Any, cast

import pytest

from pushserver.server.exit_status import FAILED, ExitStatus
from tests.unit.fakes.reactors import LifeCycle


@pytest.mark.parametrize("number", [None, 15, 2])
@pytest.mark.parametrize("failed", [False, True])
def test_process_of_a_failed_server_ends_with_a_status_and_not_by_the_signal(
    monkeypatch: pytest.MonkeyPatch, failed: bool, number: int | None
) -> None:
    at_end: list[Callable[[], None]] = []
    statuses: list[int] = []
    monkeypatch.setattr(atexit, "register", at_end.append)
    monkeypatch.setattr(os, "_exit", statuses.append)
    reactor = LifeCycle()
    ExitStatus(cast(Any, reactor)).watch(lambda: failed)
    reactor.end(number)
    [end] = at_end
    end()
    assert (reactor._exitSignal, statuses) == ((None, [FAILED]) if failed else (number, []))


def test_start_that_failed_keeps_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    at_end: list[Callable[[], None]] = []
    statuses: list[int] = []
    monkeypatch.setattr(atexit, "register", at_end.append)
    monkeypatch.setattr(os, "_exit", statuses.append)
    ExitStatus(cast(Any, LifeCycle()))
    at_end[0]()
    assert statuses == []
