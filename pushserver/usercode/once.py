"""An action that happens once, and that any number of callers wait for."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred


class Once:
    """Runs the coroutine of its first caller; the Deferred of each caller fires at its end.

    A caller after the end does not wait. If the coroutine fails, all waiting callers get the
    failure. A caller that cancels its Deferred does not cancel the action.
    """

    def __init__(self) -> None:
        self.begun = False
        self._over = False
        self._waiting: list[Deferred[None]] = []

    def run(self, action: Callable[[], Coroutine[Any, Any, None]]) -> Deferred[None]:
        result: Deferred[None] = Deferred()
        self._waiting.append(result)
        if self._over:
            self._end(None)
        elif not self.begun:
            self.begun = True
            Deferred.fromCoroutine(action()).addBoth(self._end)
        return result

    def _end(self, outcome: Any) -> None:
        self._over = True
        waiting, self._waiting = self._waiting, []
        for result in waiting:
            result.callback(outcome)
