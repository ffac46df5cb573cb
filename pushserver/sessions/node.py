"""What every conversation of this process shares."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from pushserver.config.limits import Limits
from pushserver.hub.hub import Hub
from pushserver.hub.presence import Presence
from pushserver.sessions.callbacks import Handlers, NoHandlers
from pushserver.sessions.peers import Peers
from pushserver.sessions.replay_cache import Replays


@dataclass(frozen=True, slots=True)
class Node:
    """The collaborators of a conversation.

    `clock` gives Unix seconds, which may step; `monotonic` is the steady clock. `run` drives a
    coroutine that nobody awaits, and sees to it that what it raises is logged. `report`
    logs the exception at hand with a line of context. `handlers` is the application.
    """

    hub: Hub
    presence: Presence
    peers: Peers
    limits: Limits
    version: str
    clock: Callable[[], float]
    monotonic: Callable[[], float]
    run: Callable[[Coroutine[Any, Any, None]], None]
    report: Callable[[str], None]
    handlers: Handlers = field(default_factory=NoHandlers)
    replays: Replays = field(default_factory=Replays)


def new_client() -> str:
    """A connection's id: unguessable, since whoever knows it can name the connection."""
    return secrets.token_urlsafe(12)
