"""Calls a blocking function for a coroutine of asyncio or of Twisted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from twisted.internet.threads import deferToThread

Result = TypeVar("Result")


async def in_thread(function: Callable[[], Result]) -> Result:
    """Return the result of the function, which a thread of the loop or of the reactor calls."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        result: Result = await deferToThread(function)
        return result
    return await loop.run_in_executor(None, function)
