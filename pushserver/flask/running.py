"""`SocketIO.run`: the arguments of Flask-SocketIO, for the server of pushserver."""

from __future__ import annotations

import warnings
from typing import Any

import flask

from pushserver.config.convert import suggestion
from pushserver.flask.server import FlaskServer

ELSEWHERE = (
    "Socket.IO is not at this URL. Run the program itself, or pushserver serve: flask run, gunicorn"
    " and other WSGI servers serve Flask alone."
)
_OWN = ("listen", "config", "broker", "workers", "open", "reactor")
"""Options of `PushServer.run`."""
_WITHOUT_EFFECT = ("allow_unsafe_werkzeug", "log_output", "threaded")
_TLS = ("ssl_context", "certfile", "keyfile", "ca_certs")
_FLASK = ("host", "port", "debug", "use_reloader", "reloader_options", "extra_files")
_KNOWN = (*_OWN, *_FLASK, *_WITHOUT_EFFECT, *_TLS)


def run(
    push: FlaskServer,
    app: flask.Flask | None,
    host: str | None,
    port: int | None,
    options: dict[str, Any],
) -> None:
    """Run the server in the foreground.

    It listens on port 5000 of 127.0.0.1, or on the port of SERVER_NAME. `debug`: Flask's own;
    `use_reloader`: start again when a Python file has changed, by default as `debug`. `listen`,
    `config`, `broker`, `workers`, `open` and `reactor` are those of `PushServer.run`. Raises
    TypeError for others, and ValueError for certificates, which are a part of an endpoint.
    """
    if app is None:
        raise RuntimeError("SocketIO has no Flask application: call run(app)")
    for name in _TLS:
        if options.get(name) is not None:
            raise ValueError(
                f"{name}: the certificate is a part of an endpoint, as in run(app,"
                " listen=['ssl:443:privateKey=key.pem:certKey=certificate.pem'])"
            )
    debug = options.pop("debug", None)
    if debug is not None:
        app.debug = bool(debug)
    reload = bool(options.pop("use_reloader", app.debug))
    if options.pop("reloader_options", None) or options.pop("extra_files", None):
        warnings.warn(
            "run: the files that are watched are the Python files below the current folder",
            stacklevel=4,
        )
    given = {name: options.pop(name) for name in _OWN if name in options}
    for name in (*_WITHOUT_EFFECT, *_TLS):
        options.pop(name, None)
    if options:
        name = next(iter(options))
        raise TypeError(f"run has no option {name!r:.80}; {suggestion(name, _KNOWN)}")
    if not given.get("listen"):
        given |= {"host": host or "127.0.0.1", "port": port or _port_of(app)}
    push.run(reload=reload, **given)


def say_where(app: flask.Flask) -> None:
    """Answer requests for Socket.IO that reach Flask: another server than pushserver runs it."""

    def refuse() -> Any:
        if not f"{flask.request.path}/".startswith("/socket.io/"):
            return None
        flask.current_app.logger.error(ELSEWHERE)
        return ELSEWHERE, 501, {"content-type": "text/plain"}

    before = app.before_request_funcs.setdefault(None, [])
    if not any(function.__qualname__ == refuse.__qualname__ for function in before):
        before.append(refuse)


def _port_of(app: flask.Flask) -> int:
    name = app.config.get("SERVER_NAME") or ""
    port = name.rpartition(":")[2]
    return int(port) if port.isdecimal() else 5000
