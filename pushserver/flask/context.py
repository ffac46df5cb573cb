"""The Flask contexts in which handlers run."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import unquote_to_bytes, urlsplit

import flask
from flask.ctx import RequestContext
from flask.sessions import SessionMixin

from pushserver.flask.members import Member

_NAME = re.compile(r"[A-Za-z0-9-]+")
"""As in `wsgi.environ`: a name with an underscore could be taken for another one."""


class ForkedSession(dict[str, Any], SessionMixin):
    """The copy of the Flask session of one client; handlers of its events share it."""


@contextmanager
def request_of(
    app: flask.Flask, member: Member, fork: bool, event: str, arguments: tuple[Any, ...]
) -> Iterator[None]:
    """The context of the request that opened the client's connection.

    `fork`: `session` is the client's own copy; else it is that of Flask, and is saved if it was
    changed, which does not work for cookies.
    """
    if fork and member.session is None:
        with app.request_context(_fresh(member.environ)):
            member.session = ForkedSession(flask.session)
    session = member.session if fork else None
    with RequestContext(app, _fresh(member.environ), session=session):
        request: Any = flask.request
        request.client = member.client
        request.sid = member.sid
        request.namespace = member.namespace
        request.event = {"message": event, "args": arguments}
        yield
        if not fork and flask.session.modified:
            app.session_interface.save_session(
                app, cast(Any, flask.session)._get_current_object(), app.response_class()
            )


def _fresh(environ: Mapping[str, Any]) -> dict[str, Any]:
    # A request keeps itself in its environ, and reads the input.
    return {**environ, "wsgi.input": io.BytesIO()}


def make_environ(
    app: flask.Flask, url: str, address: str, headers: Mapping[str, str]
) -> dict[str, Any]:
    """The WSGI environment of a GET without a body (PEP 3333)."""
    parts = urlsplit(url or "http://localhost/")
    secure = parts.scheme == "https"
    environ = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(parts.path).decode("latin-1"),
        "QUERY_STRING": parts.query,
        "SERVER_NAME": parts.hostname or "localhost",
        "SERVER_PORT": str(parts.port or (443 if secure else 80)),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": address,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": parts.scheme,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "flask.app": app,
    }
    for name, value in headers.items():
        if name == "proxy" or _NAME.fullmatch(name) is None:
            continue
        key = name.upper().replace("-", "_")
        prefix = "" if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_"
        environ[prefix + key] = value.encode("utf-8").decode("latin-1")
    if parts.netloc:
        environ["HTTP_HOST"] = parts.netloc
    return environ
