"""The exceptions of the package, with the HTTP status and the Centrifuge code of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def escaped(text: str) -> str:
    """Return the text with its unprintable characters escaped, to show it in one line.

    Terminals obey control characters, and others change the direction of the text.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class PushServerError(Exception):
    """The base of the package's exceptions.

    A peer gets the text with `http_status` or `centrifuge_code`; if that is 0, it learns only that
    the server failed. `temporary`: the same request may succeed later.
    """

    http_status = 0
    centrifuge_code = 0
    temporary = False


class Invalid(PushServerError, ValueError):
    """A value breaks its rule; the text names the value and what was expected."""

    http_status = 400
    centrifuge_code = 107


class InvalidName(Invalid):
    """A name of a channel, a namespace or an event breaks its rule."""


class InvalidKey(Invalid):
    """An idempotency key breaks its rule."""


class InvalidCursor(Invalid):
    """A text is not a valid cursor."""


class InvalidData(Invalid):
    """A value cannot be published as JSON; the text says where and why."""


class NotJSON(InvalidData):
    """A text does not have the syntax of JSON."""


class InvalidConfig(Invalid):
    """The configuration is wrong; the text names the file or variable, the key and the value."""


class Unavailable(PushServerError):
    """Nothing can be published now; the text says why.

    `cause` is `stopping`, `store`, `broker`, `idempotency_keys`, `channels`, `overloaded` or
    `worker`, for counting.
    """

    http_status = 503
    centrifuge_code = 100
    temporary = True

    def __init__(self, message: str, cause: str = "store"):
        super().__init__(message)
        self.cause = cause


class TooMany(PushServerError):
    """A bound on numbers or rates is exceeded; the text names it.

    `setting`: its key in `[limits]`. `seconds`: until the same may succeed. The status is 429 for
    a bound of one peer, address, user or key, and 503 for one of all together.
    """

    http_status = 429
    centrifuge_code = 111
    temporary = True

    def __init__(self, message: str, setting: str, seconds: float = 1.0, http_status: int = 429):
        super().__init__(f"{message} ({setting})")
        self.setting = setting
        self.seconds = seconds
        self.http_status = http_status


class LimitExceeded(Unavailable):
    """A bound of the server is reached; the text names the setting, and `cause` is it."""

    centrifuge_code = 106


class Denied(PushServerError):
    """The caller may not do this: 401 where a key is wrong or missing, else 403."""

    centrifuge_code = 103

    def __init__(self, http_status: int, message: str):
        super().__init__(message)
        self.http_status = http_status


class NeedsKey(Denied):
    """The caller may not do this, but an API key would do."""


class WrongKey(Denied):
    """The caller gave an API key that is not valid, or one invalid token too many.

    `delay`: the seconds until the answer, so that keys cannot be tried quickly.
    """

    def __init__(self, message: str, http_status: int = 401, delay: float = 0.0):
        super().__init__(http_status, message)
        self.delay = delay


class InvalidToken(Denied):
    """A token proves nothing; the text says why, and never has the token.

    For a connection of the Centrifuge protocol, its end with 3500 takes the place of the code.
    """

    def __init__(self, message: str):
        super().__init__(401, message)


class UnknownKeyId(InvalidToken):
    """No key has the `kid` of a token; newer keys of its issuer may have it."""


class ExpiredToken(InvalidToken):
    """A token was valid, and its time is over; the peer may return with a new one."""

    centrifuge_code = 109


class Unsubscribed(PushServerError):
    """A subscription was ended while its channels were loaded, before it began."""

    http_status = 403
    centrifuge_code = 103


class Refused(PushServerError):
    """Raised by a handler to refuse a client; the text is for the client.

    `code` is that of the error reply: 400 to 1999, or 0 for 103 (permission denied). A `connect`
    may also be refused with a close code, 3500 to 4999; there 0 means 4500 (the client does not
    reconnect). `data`: a JSON value that clients of Socket.IO get with a refused `connect`. Raises
    ValueError for other codes.
    """

    http_status = 403
    centrifuge_code = 103

    def __init__(
        self, reason: str = "refused by the application", code: int = 0, data: object = None
    ):
        if code and not (400 <= code <= 1999 or 3500 <= code <= 4999):
            raise ValueError(f"code {code}: expected 400 to 1999 or, for connect, 3500 to 4999")
        # A lone surrogate, which the name of a file may contain, cannot be sent.
        self.reason = str(reason).encode("utf-8", "replace").decode()
        super().__init__(self.reason)
        self.code = code
        self.data = data
        self.centrifuge_code = code or self.centrifuge_code


class NotHandled(PushServerError):
    """The application has no handler for a call or a message of a client."""

    centrifuge_code = 108


class HandlerFailed(PushServerError):
    """A handler failed and the failure was logged; the text is for the client."""

    http_status = 503
    centrifuge_code = 100
    temporary = True


class SourceFailed(PushServerError):
    """A source cannot continue; the text is logged without a traceback."""

    http_status = 503


class Stopped(SourceFailed):
    """The source was stopped or has ended, so its feed refuses further calls."""


class NotRunning(PushServerError, RuntimeError):
    """No server in this process runs the application."""


class PublishError(PushServerError):
    """`publish()` failed, or its result is unknown; the text says why."""


class ReadError(PushServerError):
    """`last()` or `cursor()` failed; the text says why."""


class CommandFailed(PushServerError):
    """Ends a command of the command line with one line and status 1."""


class StartFailed(SystemExit, PushServerError):
    """Ends the start with one line and status 1.

    As a SystemExit it leaves no traceback; as an Exception it makes twistd remove its pid file
    and report to the shell that waits for the daemon. `missing` is the file or folder that was
    not found, if that is the reason.
    """

    def __init__(self, message: str, missing: Path | None = None):
        super().__init__(f"pushserver: {message}")
        self.missing = missing
