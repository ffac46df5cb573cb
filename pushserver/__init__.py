"""A web page that updates itself: channels, sources and live pages on Twisted."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pushserver.auth.issuer import token
from pushserver.errors import (
    Invalid,
    InvalidData,
    InvalidKey,
    InvalidName,
    NotRunning,
    PublishError,
    PushServerError,
    ReadError,
    Refused,
    Unavailable,
)
from pushserver.publisher import apublish, publish
from pushserver.reading import Recent, acursor, alast, cursor, last

if TYPE_CHECKING:
    from pushserver.app.client import Client
    from pushserver.app.visitor import Identified, Visitor
    from pushserver.resources.fragment_functions import PublicationView
    from pushserver.server.embedding import PushServer

__all__ = [
    "Client",
    "Identified",
    "Invalid",
    "InvalidData",
    "InvalidKey",
    "InvalidName",
    "NotRunning",
    "PublicationView",
    "PublishError",
    "PushServer",
    "PushServerError",
    "ReadError",
    "Recent",
    "Refused",
    "Unavailable",
    "Visitor",
    "__version__",
    "acursor",
    "alast",
    "apublish",
    "cursor",
    "last",
    "publish",
    "token",
]
__version__ = "1.0.0"

_ON_DEMAND = {
    "Client": "pushserver.app.client",
    "Identified": "pushserver.app.visitor",
    "PublicationView": "pushserver.resources.fragment_functions",
    "PushServer": "pushserver.server.embedding",
    "Visitor": "pushserver.app.visitor",
}
"""Imported on first use: a script that publishes needs no Twisted."""


def __getattr__(name: str) -> Any:
    if name not in _ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ON_DEMAND[name]), name)
