"""Reads the newest publications of a channel in a program, by the standard library alone."""

from __future__ import annotations

import json
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import quote

from pushserver.api_call import answer_to
from pushserver.errors import CommandFailed, ReadError
from pushserver.opener import make_request, printable, read_body

MAX_BYTES = 16_777_216
"""The longest answer."""
_SHOWN_BYTES = 200


class Recent(NamedTuple):
    """The newest publications of a channel, and where a reader of the next ones begins.

    `publications`: oldest first, each as a dict with `channel`, `event`, `data`, `offset`, `id` and
    `time` (Unix seconds), and perhaps `tags` and `info`. `cursor` is for `since=` of a stream, of a
    history and of `/events`; `position`, a dict with `epoch` and `offset`, for `since` of
    pushserver.js and of the clients of Centrifugo. A reader that begins there misses nothing that
    was published after this answer, and gets nothing that is in it.
    """

    publications: list[dict[str, Any]]
    cursor: str
    position: dict[str, Any]


def last(
    url: str,
    channel: str,
    count: int = 10,
    *,
    api_key: str | None = None,
    token: str | None = None,
    timeout: float = 10.0,
) -> Recent:
    """Read the newest `count` publications of a channel from the server at `url`.

    An API key with the scope `read`, or a token, is needed for a channel that not everyone may
    read. `timeout` is in seconds, for the connection and then for the whole answer, of at most
    16 MB. Redirects are not followed; proxies are used as by `publish`. Raises ReadError.
    """
    if type(count) is not int or count < 0:
        raise ReadError(f"the count is {count!r:.80}, expected a whole number from 0 on")
    headers = {"Accept": "application/json"}
    try:
        path = f"/channels/{quote(channel, safe='')}?last={count}"
        if token is not None:
            headers["Authorization"] = f"Bearer {_checked(token)}"
        request = make_request(url, path, headers, api_key)
    except UnicodeEncodeError as error:
        raise ReadError(f"the name of the channel is no text: {error}") from None
    except ValueError as error:
        raise ReadError(str(error)) from None
    try:
        with answer_to(request, printable(url.rstrip("/")), timeout) as response:
            body = read_body(response, timeout, MAX_BYTES)
    except CommandFailed as error:
        raise ReadError(str(error)) from None
    return _recent(request.place, body)


def cursor(
    url: str,
    channel: str,
    *,
    api_key: str | None = None,
    token: str | None = None,
    timeout: float = 10.0,
) -> str:
    """Read the cursor behind the newest publication: what `last` returns with it."""
    return last(url, channel, 0, api_key=api_key, token=token, timeout=timeout).cursor


async def alast(url: str, channel: str, count: int = 10, **options: Any) -> Recent:
    """Read as `last` does, in a thread, for coroutines of asyncio and of Twisted."""
    # Imported here: a script needs neither asyncio nor Twisted.
    from pushserver.usercode.in_thread import in_thread

    return await in_thread(partial(last, url, channel, count, **options))


async def acursor(url: str, channel: str, **options: Any) -> str:
    """Read as `cursor` does, in a thread, for coroutines of asyncio and of Twisted."""
    return (await alast(url, channel, 0, **options)).cursor


def _checked(token: str) -> str:
    # The message does not contain the token, as it ends up in logs.
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise ValueError("the token cannot be sent in a header: expected printable ASCII")
    return token


def _recent(place: str, body: bytes) -> Recent:
    if len(body) > MAX_BYTES:
        raise ReadError(f"{place}: the answer has more than {MAX_BYTES} bytes: read fewer")
    try:
        answer = json.loads(body)
        rows, found = answer["publications"], answer["id"]
        position = {"epoch": answer["epoch"], "offset": answer["offset"]}
        if _is_answer(rows, found, position):
            return Recent(rows, found, position)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    shown = printable(body[:_SHOWN_BYTES].decode("utf-8", "replace"))
    raise ReadError(f"{place}: expected the history of a channel, got {shown or 'nothing'}")


def _is_answer(rows: Any, found: Any, position: dict[str, Any]) -> bool:
    return (
        isinstance(rows, list)
        and all(isinstance(row, dict) for row in rows)
        and all(isinstance(text, str) and text for text in (found, position["epoch"]))
        and type(position["offset"]) is int
    )
