"""A web page that updates itself: channels, sources and live pages on Twisted."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pushserver.publisher import PublishError, publish

if TYPE_CHECKING:
    from pushserver.app import PushServer
    from pushserver.broker import Unavailable
    from pushserver.client import Client
    from pushserver.handlers import Refused
    from pushserver.running import NotRunning

__all__ = [
    "Client",
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
    "Client": "pushserver.client",
    "NotRunning": "pushserver.running",
    "PushServer": "pushserver.app",
    "Refused": "pushserver.handlers",
    "Unavailable": "pushserver.broker",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)
