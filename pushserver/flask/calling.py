"""Calls a function of a Flask program for one of its clients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flask

from pushserver.errors import Refused
from pushserver.flask.context import request_of
from pushserver.flask.handlers import REFUSALS, takes_argument
from pushserver.flask.members import Members
from pushserver.flask.options import Options

ErrorHandler = Callable[[BaseException], Any]


class Calling:
    """The part of `SocketIO` that calls handlers, and the functions for their exceptions."""

    def __init__(self) -> None:
        self.app: flask.Flask | None = None
        self.options = Options()
        self.members = Members()
        self.exception_handlers: dict[str, ErrorHandler] = {}
        self.default_exception_handler: ErrorHandler | None = None

    @property
    def manage_session(self) -> bool:
        """Whether `session` in handlers is a copy of the client's own."""
        return self.options.manage_session

    @manage_session.setter
    def manage_session(self, value: bool) -> None:
        self.options.manage_session = value

    @property
    def async_mode(self) -> str:
        """Handlers run in threads."""
        return "threading"

    def on_error(self, namespace: str | None = None) -> Callable[[ErrorHandler], ErrorHandler]:
        """Decorate the function for exceptions of handlers of the namespace.

        It is called with the exception; its result is the acknowledgement.
        """

        def decorate(function: ErrorHandler) -> ErrorHandler:
            self.exception_handlers[namespace or "/"] = _callable(function)
            return function

        return decorate

    def on_error_default(self, exception_handler: ErrorHandler) -> ErrorHandler:
        """Decorate the function for exceptions in namespaces without one of their own."""
        self.default_exception_handler = _callable(exception_handler)
        return exception_handler

    def _handle_event(
        self, function: Callable[..., Any], event: str, namespace: str, sid: str, *args: Any
    ) -> Any:
        """Call a function in the context of the client's request."""
        member = self.members.find(sid, namespace)
        if member is None:
            raise Refused("the client has left")
        with request_of(self._app(), member, self.manage_session, event, args):
            try:
                if event == "connect":
                    return function(args[1]) if takes_argument(function) else function()
                if event == "disconnect" and not takes_argument(function):
                    return function()
                return function(*args)
            except REFUSALS:
                raise
            except Exception as error:
                handle = self.exception_handlers.get(namespace, self.default_exception_handler)
                if handle is None:
                    raise
                return handle(error)

    def _in_context(self, callback: Callable[..., object]) -> Callable[..., object]:
        """The callback of a handler, which runs in the context of the handler's client."""
        sid = getattr(flask.request, "sid", None) if flask.has_request_context() else None
        if sid is None:
            return callback
        namespace = _here_namespace()
        return lambda *args: self._handle_event(callback, "", namespace, sid, *args)

    def _app(self) -> flask.Flask:
        if self.app is None:
            raise RuntimeError("SocketIO has no Flask application: call init_app(app)")
        return self.app


def _here_namespace() -> str:
    request: Any = flask.request
    namespace: str = request.namespace
    return namespace


def _callable(function: Any) -> Any:
    if not callable(function):
        raise ValueError(f"{function!r:.80} is no handler of errors: expected a function")
    return function
