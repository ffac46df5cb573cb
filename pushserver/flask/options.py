"""The options of `SocketIO`: those that hold, are ignored, or are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import flask

from pushserver.auth.allowed_origins import Origins
from pushserver.config.convert import suggestion
from pushserver.config.limits import Limits
from pushserver.config.settings import Config
from pushserver.flask.members import MAIN_CHANNEL, ROOMS

MAX_BYTES = 1_000_000
"""The default of `max_http_buffer_size`, which is more than that of the server (`frame_bytes`)."""

_REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "async_mode": (
        (None, "threading"),
        "handlers run in threads, with no monkey patching; leave async_mode out",
    ),
    "message_queue": (
        (None,),
        "other processes publish with pushserver.publish(URL, CHANNEL, DATA)",
    ),
    "client_manager": ((None,), "there is no client manager of python-socketio"),
    "serializer": (("default",), "packets are JSON, with bytes apart"),
}
"""Options that change what a program does: by name the values that hold here, and the reason."""

_IGNORED: dict[str, tuple[tuple[Any, ...], str]] = {
    "async_handlers": ((False,), "the events of one client are handled in their order"),
    "always_connect": ((False,), "a client is connected when its connect handler has returned"),
    "channel": ((None,), "it is that of a message queue"),
    "json": ((None, json, flask.json), "values are encoded by msgspec"),
    "logger": ((None, False), "the log has the levels of [log] in the configuration"),
    "engineio_logger": ((None, False), "the log has the levels of [log] in the configuration"),
    "allow_upgrades": ((True,), "clients may upgrade to a WebSocket"),
    "http_compression": ((False,), "answers to polls are not compressed"),
    "compression_threshold": ((), "answers to polls are not compressed"),
    "cookie": ((None,), "the server sets no cookie"),
    "cors_credentials": ((True,), "pages of allowed origins may send cookies"),
    "monitor_clients": ((True,), "clients that do not answer are always disconnected"),
    "transports": ((None,), "clients choose polling or a WebSocket themselves"),
}
"""Options that are ignored: by name the values that need no warning, and the reason."""


@dataclass(slots=True)
class Options:
    """The options that hold.

    `initial`: how many of the last broadcasts of its namespace a client gets when it connects.
    `namespaces`: those that clients may connect to without a handler, `*` for all.
    """

    manage_session: bool = True
    namespaces: Any = field(default_factory=lambda: ["/"])
    initial: int = 0
    path: str = ""
    ping_seconds: float | None = None
    dead_seconds: float | None = None
    frame_bytes: int = MAX_BYTES
    origins: list[str] = field(default_factory=list)

    def update(self, given: dict[str, Any]) -> list[str]:
        """Take options of Flask-SocketIO; return warnings of those that have no effect here.

        Raises ValueError, and TypeError for an unknown one.
        """
        ignored: list[str] = []
        for name, value in given.items():
            if name in _REFUSED:
                values, reason = _REFUSED[name]
                if value not in values:
                    raise ValueError(f"{name}={value!r:.80} is not possible here: {reason}")
            elif name in _IGNORED:
                values, reason = _IGNORED[name]
                if not any(value is known for known in values):
                    ignored.append(f"{name}={value!r:.80} has no effect here: {reason}")
            elif name in _READERS:
                problem = _READERS[name](self, value)
                if problem is not None:
                    ignored.append(f"{name}={value!r:.80}: {problem}")
            else:
                near = suggestion(name, {**_READERS, **_IGNORED, **_REFUSED})
                raise TypeError(f"SocketIO has no option {name!r:.80}; {near}")
        return ignored

    def adjust(self, config: Config) -> Config:
        """The configuration with these options, where it has the defaults itself."""
        limits, usual, server = config.limits, Limits(), config.server
        for name in ("ping_seconds", "dead_seconds", "frame_bytes"):
            value = getattr(self, name)
            if value is not None and getattr(limits, name) == getattr(usual, name):
                limits = replace(limits, **{name: value})
        if limits.body_bytes == usual.body_bytes < limits.frame_bytes * 257 // 256:
            # Clients that poll send their events in bodies of requests, a little longer than that.
            limits = replace(limits, body_bytes=limits.frame_bytes * 257 // 256)
        if self.origins and not server.allowed_origins:
            server = replace(server, allowed_origins=list(self.origins))
        socketio = config.socketio
        if self.path and socketio.path == type(socketio)().path:
            socketio = replace(socketio, path=self.path)
        socketio = replace(socketio, channel=socketio.channel or MAIN_CHANNEL)
        namespaces = config.namespaces
        if ROOMS not in namespaces:
            # Nothing is read from the history of a room.
            namespaces = {**namespaces, ROOMS: {"history_size": 0}}
        return replace(
            config, limits=limits, server=server, socketio=socketio, namespaces=namespaces
        )


def _take_interval(options: Options, value: Any) -> str | None:
    # The second one is a grace period of the server.
    interval, *grace = value if isinstance(value, (tuple, list)) else (value,)
    options.ping_seconds = _positive("ping_interval", interval)
    return "the grace period has no effect here" if grace and grace[0] else None


def _take_timeout(options: Options, value: Any) -> None:
    options.dead_seconds = _positive("ping_timeout", value)


def _take_bytes(options: Options, value: Any) -> None:
    options.frame_bytes = int(_positive("max_http_buffer_size", value))


def _positive(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e9:
        raise ValueError(f"{name}={value!r:.80}: expected a number above 0")
    return float(value)


def _take_initial(options: Options, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"initial={value!r:.80}: expected a number of publications, from 0")
    options.initial = value


def _take_path(options: Options, value: Any) -> None:
    if value:
        options.path = str(value).strip("/")


def _take_namespaces(options: Options, value: Any) -> None:
    options.namespaces = value if value == "*" else list(value)


def _take_session(options: Options, value: Any) -> None:
    options.manage_session = bool(value)


def _take_origins(options: Options, value: Any) -> str | None:
    origins = [value] if isinstance(value, str) else value
    if origins is None:
        options.origins = []
    elif callable(origins):
        raise ValueError("cors_allowed_origins is a function: expected the origins themselves")
    elif "*" in origins or not origins:
        return (
            "this has no effect here, since pages of all sites could use the cookies of visitors:"
            " name the origins"
        )
    else:
        Origins.of(origins)
        options.origins = list(origins)
    return None


_READERS: dict[str, Callable[[Options, Any], str | None]] = {
    "manage_session": _take_session,
    "namespaces": _take_namespaces,
    "initial": _take_initial,
    "path": _take_path,
    "resource": _take_path,
    "ping_interval": _take_interval,
    "ping_timeout": _take_timeout,
    "max_http_buffer_size": _take_bytes,
    "cors_allowed_origins": _take_origins,
}
