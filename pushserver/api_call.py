"""A request of a command to a server, whose answer is JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any, TypeVar
from urllib.error import HTTPError

from pushserver.errors import CommandFailed
from pushserver.opener import (
    TEMPORARY,
    ServerRequest,
    make_request,
    printable,
    reason_of,
    refusal,
    send,
)

TIMEOUT_SECONDS = 10.0
"""The longest wait for each part of the answer."""
MAX_ANSWER_BYTES = 4_194_304
"""The longest answer. 1,000 channels, 40 of `top` with 1,000 sources, and the names of 20,000
settings have less than 1 MB each."""
SHOWN_BYTES = 200
"""The part of an unexpected answer in the message."""

_Value = TypeVar("_Value")


class Away(CommandFailed):
    """The server cannot be reached, or it stops; it may come back.

    `reason` is the text without the URL and the hint.
    """

    def __init__(self, text: str, reason: str):
        super().__init__(text)
        self.reason = reason


def call(
    url: str,
    path: str,
    convert: Callable[[Any], _Value],
    *,
    expected: str,
    key: str | None = None,
    body: bytes | None = None,
    seconds: float = TIMEOUT_SECONDS,
    hint: str = "is it running?",
) -> _Value:
    """Return the converted answer to a GET of a path, or to a POST of a JSON body.

    Raises Away with the `hint`, or CommandFailed, also if `convert` fails because the answer is not
    the `expected` one.
    """
    headers = {"Accept": "application/json"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    url = url.rstrip("/")
    request = checked_request(url, path, headers, key, body)
    with answer_to(request, url, seconds, hint) as response:
        # A stream continues after the line of its reply.
        line = response.readline(MAX_ANSWER_BYTES)
    try:
        return convert(json.loads(line))
    except _UNEXPECTED:
        shown = printable(line[:SHOWN_BYTES].decode("utf-8", "replace"))
        raise CommandFailed(f"{url}: expected {expected}, got {shown or 'nothing'}") from None


def call_method(
    url: str, method: str, convert: Callable[[Any], _Value], *, expected: str, **options: Any
) -> _Value:
    """Call a method of the server API without parameters, and return its converted result.

    It has the options of `call`, and raises the same errors.
    """

    def result(answer: Any) -> _Value:
        if "error" in answer:
            message = str(answer["error"]["message"]).removeprefix("bad request: ")
            raise CommandFailed(printable(message))
        return convert(answer["result"])

    return call(url, f"/api/{method}", result, expected=expected, body=b"{}", **options)


def checked_request(
    url: str,
    path: str,
    headers: dict[str, str],
    key: str | None = None,
    body: bytes | None = None,
) -> ServerRequest:
    """Make the request; raises CommandFailed."""
    try:
        return make_request(url, path, headers, key, body)
    except ValueError as error:
        # It names the URL, but not one with a password.
        raise CommandFailed(printable(str(error))) from None


@contextmanager
def answer_to(
    request: ServerRequest, url: str, seconds: float, hint: str = "is it running?"
) -> Iterator[Any]:
    """Send the request, and yield its open response; raises Away and CommandFailed.

    `seconds` is the time limit of each read.
    """
    try:
        with send(request, seconds) as response:
            yield response
    except HTTPError as error:
        message = refusal(request, error, seconds)
        if error.code in TEMPORARY:
            raise Away(message, message) from None
        raise CommandFailed(message) from None
    except (OSError, HTTPException) as error:
        reason = reason_of(error)
        raise Away(f"{url}: {reason}; {hint}", reason) from None


_UNEXPECTED = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
)
"""The errors of reading and converting JSON that is not of a pushserver."""
