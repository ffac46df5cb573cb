"""Publishes from a script, by the standard library alone."""

from __future__ import annotations

import json
import secrets
import time
from http.client import HTTPException
from typing import Any
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
    refusal,
    send,
)

RETRY_SECONDS = (0.2, 1.0, 3.0)


def publish(
    url: str,
    channel: str,
    data: object,
    *,
    event: str = "message",
    key: str | None = None,
    timeout: float = 10.0,
) -> dict[str, object]:
    """Publish `data` to a channel of the server at `url`; any value that `app.publish` accepts.

    Returns `{"offset", "epoch", "id"}`. `key` is the API key; it is needed if the server has keys,
    and from another machine or another user than the server's. If the server cannot be reached or
    answers 502, 503 or 504, three more attempts follow within some seconds; all use one idempotency
    key, so that at most one publication is made. `timeout` is in seconds, for each attempt.
    Redirects are not followed. The proxies of the environment (`http_proxy`, `https_proxy`,
    `no_proxy`) are used, but never for this machine. Raises PublishError.
    """
    request = _request(url, channel, data, event, key)
    for pause in RETRY_SECONDS:
        try:
            return _send(request, timeout)
        except _TryAgain:
            time.sleep(pause)
    try:
        return _send(request, timeout)
    except _TryAgain as error:
        raise PublishError(str(error)) from None


class _TryAgain(Exception):
    pass


def _request(url: str, channel: str, data: object, event: str, key: str | None) -> ServerRequest:
    try:
        body = json.dumps(data, allow_nan=False).encode()
    except TypeError:
        body = _encoded(data)
    except (ValueError, RecursionError) as error:
        raise PublishError(f"the data does not fit into JSON: {error}") from None
    try:
        path = f"/channels/{quote(channel, safe='')}?{urlencode({'event': event})}"
    except UnicodeEncodeError as error:
        raise PublishError(f"the name of a channel or an event is no text: {error}") from None
    headers = {"Content-Type": "application/json", "Idempotency-Key": secrets.token_hex(16)}
    try:
        return make_request(url, path, headers, key, body)
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
        raise PublishError(message) from None
    except (URLError, OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise _TryAgain(f"{request.place}: {printable(str(reason))}") from None
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
