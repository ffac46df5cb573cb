"""Waiting for a condition that sends no event."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.e2e.patience import PATIENCE
from tests.e2e.server import get


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Return when the condition is true; raises AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still not true after {seconds} s"
        time.sleep(0.05)


def answers(port: int) -> bool:
    """Whether an HTTP server answers on this port."""
    try:
        get(port, "")
    except OSError:
        return False
    return True
