"""Loads the channels of a client before it joins the first of them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress

from pushserver.errors import LimitExceeded
from pushserver.sessions.node import Node


async def load_together(
    node: Node, wanted: Callable[[], Collection[str]], is_ahead: Callable[[], bool]
) -> None:
    """Load all channels of `wanted`, also those that it has more of meanwhile.

    The client then joins them and gets the answer to its connect in one turn of the reactor. What
    comes before that answer is lost: clients do not know the channel yet. `is_ahead`: whether the
    client knows of publications that this process may not have yet. If there is no room for all of
    them, each is to be joined as far as there is. Raises Unavailable.
    """
    loaded: set[str] = set()
    while (names := set(wanted())) - loaded:
        with suppress(LimitExceeded):
            await node.load(sorted(names), is_ahead())
        loaded = names
