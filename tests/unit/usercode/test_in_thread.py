from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed

from pushserver.usercode import in_thread as module
from pushserver.usercode.in_thread import in_thread


def test_function_runs_in_another_thread_of_asyncio() -> None:
    assert asyncio.run(in_thread(threading.get_ident)) != threading.get_ident()


def test_function_runs_in_a_thread_of_the_reactor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "deferToThread", lambda function: succeed(function()))
    results: list[Any] = []
    Deferred.fromCoroutine(in_thread(lambda: 7)).addCallback(results.append)
    assert results == [7]


def test_exception_is_raised_in_the_coroutine() -> None:
    def fail() -> None:
        raise ValueError("7")

    with pytest.raises(ValueError, match="7"):
        asyncio.run(in_thread(fail))
