"""A pause in a coroutine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred


async def pause(call_later: Callable[[float, Callable[[], Any]], Any], seconds: float) -> None:
    """Wait; `call_later` is that of the reactor."""
    passed: Deferred[None] = Deferred()
    call_later(seconds, lambda: passed.callback(None))
    await passed
