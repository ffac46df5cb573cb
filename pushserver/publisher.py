"""Publishing from a script: the standard library is all it takes."""

from __future__ import annotations

import json
import secrets
import time
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

RETRY_SECONDS = (0.2, 1.0, 3.0)


class PublishError(Exception):
    """It was not published, or nobody knows whether it was; the text says what happened."""


def publish(
    url: str,
    channel: str,
    data: object,
    *,
    event: str = "message",
    key: str | None = None,
    timeout: float = 10.0,
) -> dict[str, object]:
    """Publish `data` (whatever an application may) to a channel of the server at `url`.

    Returns `{"offset", "epoch", "id"}`. `key` is the API key, not needed on the server's
    own machine. A server that cannot be reached, or that says to come again, is tried three
    times more within some seconds; one idempotency key goes with all the tries, so that
    the publication is there once whatever happens. `timeout` is in seconds, for each try.
    Raises PublishError.
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


def _request(url: str, channel: str, data: object, event: str, key: str | None) -> Request:
    try:
        body = json.dumps(data, allow_nan=False).encode()
    except TypeError:
        body = _encoded(data)
    except (ValueError, RecursionError) as error:
        raise PublishError(f"the data does not fit into JSON: {error}") from None
    address = f"{url.rstrip('/')}/channels/{quote(channel, safe='')}?{urlencode({'event': event})}"
    headers = {"Content-Type": "application/json", "Idempotency-Key": secrets.token_hex(16)}
    if key is not None:
        headers["X-API-Key"] = key
    try:
        request = Request(address, body, headers, method="POST")
    except ValueError as error:
        raise PublishError(f"{url}: {error}") from None
    if request.type not in ("http", "https") or not request.host or " " in request.host:
        raise PublishError(f"{url}: expected a URL such as http://localhost:8080")
    return request


def _encoded(data: object) -> bytes:
    """What the standard library does not know and an application may publish, as there."""
    from pushserver import payload

    try:
        return payload.encode(data)
    except payload.InvalidData as error:
        raise PublishError(str(error)) from None


def _send(request: Request, timeout: float) -> dict[str, object]:
    try:
        with urlopen(request, timeout=timeout) as response:
            answer: dict[str, object] = json.load(response)
            return answer
    except HTTPError as error:
        message = refusal(error)
        if error.code == 503:
            raise _TryAgain(message) from None
        raise PublishError(message) from None
    except (URLError, OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise _TryAgain(f"{request.host}: {reason}") from None
    except ValueError as error:
        raise PublishError(f"{request.host} gave no answer of pushserver: {error}") from None


def refusal(error: HTTPError) -> str:
    """What the server says of why it refused."""
    with error:
        try:
            return f"{error.code}: {json.load(error)['error']['message']}"
        except (ValueError, LookupError, TypeError, OSError):
            return f"{error.code} {error.reason}"
