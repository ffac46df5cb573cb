"""The body of a request that publishes: JSON or text."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Callable
from typing import TypeVar

from pushserver.channels.jsontext import utf8
from pushserver.errors import InvalidData, NotJSON
from pushserver.web.resource import Refusal

Value = TypeVar("Value")


def media_type(content_type: str) -> str:
    """The media type in a Content-Type, in lower case and without parameters."""
    return content_type.partition(";")[0].strip().lower()


def check_coding(content_encoding: str) -> None:
    """Raise Refusal 415 for a compressed body."""
    if content_encoding.strip().lower() not in ("", "identity"):
        raise Refusal(
            415, f"content-encoding {content_encoding[:80]} is not understood, send it uncompressed"
        )


def read_body(
    content_type: str,
    body: bytes,
    from_json: Callable[[bytes], Value],
    from_text: Callable[[str], Value],
) -> Value:
    """The value of a body, by `from_json`, or by `from_text` where that raises NotJSON.

    A body of a JSON type has to be JSON. Any other type may be JSON: plain `curl -d` names the
    type of a form, whatever it sends. A byte order mark is left out.
    Raises InvalidData, and Refusal 415 for multipart.
    """
    media = media_type(content_type)
    body = body.removeprefix(BOM_UTF8)
    if not body:
        raise InvalidData("the body is empty, expected JSON or text")
    if media.startswith("multipart/"):
        raise Refusal(415, f"content-type {media[:80]} is not understood, expected JSON or text")
    try:
        return from_json(body)
    except NotJSON as error:
        if media == "application/json" or media.endswith("+json"):
            raise NotJSON(f"the body is not JSON: {error}") from None
        return from_text(utf8(body))
