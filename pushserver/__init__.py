"""A web page that updates itself: channels, sources and live pages on Twisted."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pushserver.publisher import PublishError, publish

if TYPE_CHECKING:
    from pushserver.app.client import Client
    from pushserver.app.service import NotRunning
    from pushserver.channels.idempotency import InvalidKey
    from pushserver.channels.jsontext import InvalidData
    from pushserver.channels.names import InvalidName
    from pushserver.hub.broker import Unavailable
    from pushserver.server.embedding import PushServer
    from pushserver.sessions.callbacks import Refused

__all__ = [
    "Client",
    "InvalidData",
    "InvalidKey",
    "InvalidName",
    "NotRunning",
    "PublishError",
    "PushServer",
    "Refused",
    "Unavailable",
    "__version__",
    "publish",
]
__version__ = "0.1.1"

# Imported when they are asked for: a script that publishes needs no Twisted.
_LATER = {
    "InvalidData": "pushserver.channels.jsontext",
    "InvalidKey": "pushserver.channels.idempotency",
    "InvalidName": "pushserver.channels.names",
    "Client": "pushserver.app.client",
    "NotRunning": "pushserver.app.service",
    "PushServer": "pushserver.server.embedding",
    "Refused": "pushserver.sessions.callbacks",
    "Unavailable": "pushserver.hub.broker",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)
