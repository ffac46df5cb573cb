"""A pause in a coroutine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred


def pause(call_later: Callable[[float, Callable[[], Any]], Any], seconds: float) -> Deferred[None]:
    """Fires after these seconds; `call_later` is that of the reactor."""
    passed: Deferred[None] = Deferred()
    call_later(seconds, lambda: passed.callback(None))
    return passed
