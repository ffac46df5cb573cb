"""Publishes from a script, by the standard library alone."""

from __future__ import annotations

import json
import re
import reprlib
import secrets
import time
import warnings
from collections.abc import Mapping
from functools import partial
from http.client import HTTPException
from math import inf
from typing import Any, cast
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode

from pushserver.errors import InvalidData, PublishError
from pushserver.opener import (
    MAX_BYTES,
    TEMPORARY,
    ServerRequest,
    make_request,
    printable,
    read_body,
    reason_of,
    refusal,
    send,
)

KEY = re.compile(r"[ -~]{1,128}")
KEY_RULE = "1 to 128 printable ASCII characters"
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.1, 5.0
"""The pause before another attempt doubles."""
MAX_TIMEOUT_SECONDS = 1e9
"""Sockets refuse a timeout that is much longer."""


def publish(
    url: str,
    channel: str,
    data: object,
    *,
    event: str = "message",
    tags: Mapping[str, str] | None = None,
    api_key: str | None = None,
    key: str | None = None,
    timeout: float = 10.0,
    retry_seconds: float = 1.0,
) -> dict[str, object]:
    """Publish `data` to a channel of the server at `url`; any value that `app.publish` accepts.

    Returns `{"offset", "epoch", "id"}`. The API key is needed if the server has keys, and from
    another machine or another user than the server's. `key` is an idempotency key: a second
    publication with it within five minutes is not made, and returns the position of the first.

    If the server cannot be reached or answers 502, 503 or 504, more attempts follow for
    `retry_seconds`; all have one idempotency key, so that at most one publication is made.
    `timeout` is in seconds, for each attempt. Redirects are not followed. The proxies of the
    environment (`http_proxy`, `https_proxy`, `no_proxy`) are used, but never for this machine.
    Raises PublishError.

    Before version 0.2 the API key was `key`. A `key` without `api_key` that the server refuses is
    still sent as that, with a DeprecationWarning.
    """
    if key is not None and not KEY.fullmatch(key):
        if api_key is not None:
            raise PublishError(f"invalid idempotency key {key[:140]!r}: expected {KEY_RULE}")
        api_key, key = _old_key(key), None
    _check_seconds("timeout", timeout, 1e-3, MAX_TIMEOUT_SECONDS)
    _check_seconds("retry_seconds", retry_seconds, 0, inf)
    make = partial(_request, url, channel, data, event, tags, key or secrets.token_hex(16))
    request = make(api_key)
    until, pause = time.monotonic() + retry_seconds, FIRST_PAUSE_SECONDS
    while True:
        try:
            return _send(request, timeout)
        except _NeedsKey as error:
            if key is None or request.has_header("X-api-key"):
                raise PublishError(str(error)) from None
            request = make(_old_key(key))
        except _TryAgain as error:
            left = until - time.monotonic()
            if left <= 0:
                raise PublishError(str(error)) from None
            time.sleep(min(pause, left))
            pause = min(2 * pause, MAX_PAUSE_SECONDS)


async def apublish(url: str, channel: str, data: object, **options: Any) -> dict[str, object]:
    """Publish as `publish` does, in a thread, for coroutines of asyncio and of Twisted."""
    # Imported here: a script that publishes needs neither asyncio nor Twisted.
    from pushserver.usercode.in_thread import in_thread

    return await in_thread(partial(publish, url, channel, data, **options))


def _check_seconds(name: str, seconds: object, least: float, most: float) -> None:
    is_number = isinstance(seconds, float | int) and not isinstance(seconds, bool)
    if not is_number or not least <= cast(float, seconds) <= most:
        problem = f"{name} is {reprlib.repr(seconds)}, expected a number of seconds"
        raise PublishError(f"{problem} from {least:g} to {most:g}")


def _old_key(key: str) -> str:
    problem = "publish(key=...) is an idempotency key: give the API key as api_key=..."
    warnings.warn(problem, DeprecationWarning, stacklevel=3)
    return key


class _NeedsKey(Exception):
    """The server wants an API key."""


class _TryAgain(Exception):
    """Another attempt may succeed."""


def _request(
    url: str,
    channel: str,
    data: object,
    event: str,
    tags: Mapping[str, str] | None,
    key: str,
    api_key: str | None,
) -> ServerRequest:
    try:
        body = json.dumps(data, allow_nan=False).encode()
    except TypeError:
        body = _encoded(data)
    except (ValueError, RecursionError) as error:
        shown = reprlib.repr(data)
        raise PublishError(f"the data {shown} does not fit into JSON: {error}") from None
    for name, value in (("channel", channel), ("event", event)):
        if not isinstance(value, str):
            raise PublishError(f"the {name} is {value!r:.140}, expected a text")
    try:
        query = [("event", event), *((f"tag.{name}", text) for name, text in (tags or {}).items())]
        path = f"/channels/{quote(channel, safe='')}?{urlencode(query)}"
    except UnicodeEncodeError as error:
        raise PublishError(
            f"the name of a channel, an event or a tag is no text: {error}"
        ) from None
    headers = {"Content-Type": "application/json", "Idempotency-Key": key}
    try:
        return make_request(url, path, headers, api_key, body)
    except ValueError as error:
        raise PublishError(str(error)) from None


def _encoded(data: object) -> bytes:
    """Return the JSON text of a value that only `app.publish` can encode, such as a datetime."""
    from pushserver.channels import jsontext

    try:
        return jsontext.encode(data)
    except InvalidData as error:
        raise PublishError(str(error)) from None


def _send(request: ServerRequest, timeout: float) -> dict[str, object]:
    try:
        with send(request, timeout) as response:
            return _position(request.place, response, read_body(response, timeout))
    except HTTPError as error:
        message = refusal(request, error, timeout)
        if error.code in TEMPORARY:
            raise _TryAgain(message) from None
        if error.code in (401, 403):
            raise _NeedsKey(message) from None
        raise PublishError(message) from None
    except (URLError, OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        hint = "; is it running?" if isinstance(reason, ConnectionRefusedError) else ""
        if getattr(reason, "reason", "") == "WRONG_VERSION_NUMBER":
            hint = "; it has no TLS there: expected http://"
        raise _TryAgain(f"{request.place}: {reason_of(error)}{hint}") from None
    except ValueError as error:
        raise PublishError(f"{request.place}: {printable(str(error))}") from None


def _position(place: str, response: Any, body: bytes) -> dict[str, object]:
    """Return the position in the answer; raise PublishError for any other answer."""
    if response.status == 201 and len(body) <= MAX_BYTES:
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if isinstance(answer, dict) and _is_position(answer):
            return answer
    media = response.headers.get("Content-Type") or "no Content-Type"
    text = body.decode("utf-8", "replace")
    raise PublishError(
        f"{place}: expected status 201 and JSON with offset, epoch and id, got"
        f" {response.status} and {printable(media)}: {printable(text) or 'nothing'}"
    )


def _is_position(answer: dict[str, object]) -> bool:
    offset, texts = answer.get("offset"), (answer.get("epoch"), answer.get("id"))
    # A bool is an int to Python.
    is_offset = type(offset) is int and offset > 0
    return is_offset and all(isinstance(text, str) and text for text in texts)
