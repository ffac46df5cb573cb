"""Fragments: representations in which each publication is HTML text."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from pushserver.channels.publication import Publication
from pushserver.protocols.formats import event_stream, frame_stream, reset_texts, sse_data, sse_id
from pushserver.protocols.representations import RESERVED, Representation

FAILED_EVENT = f"{RESERVED}failed"
"""The name of the event in place of a publication that has no fragment, because of an error."""

FAILED = "the fragment of this publication could not be made; the log of the server says why"
"""The reason that readers get."""

Render = Callable[[Publication], bytes | None]
"""Makes the fragment of a publication, in UTF-8: empty for none, None after an error."""

_LINE_BREAK = re.compile(rb"\r\n|\r|\n")
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Wrapping:
    """What is around the fragment of a publication.

    `lines` makes the lines of data of its event, `text` its text on a WebSocket; `event` is the
    name of the event, empty for none.
    """

    lines: Callable[[Publication, bytes], list[bytes]]
    text: Callable[[Publication, bytes], bytes]
    event: bytes = b""


def fragments(render: Render, wrapping: Wrapping) -> Representation:
    """The representation of publications as the fragments that `render` makes.

    Nothing is sent for an empty one. After an error, readers are told the publication that they
    miss, and not the error: it may name files.
    """

    def block(row: Publication) -> bytes:
        fragment = render(row)
        if fragment is None:
            name = FAILED_EVENT.encode()
            return sse_id(row) + b"event: %b\n" % name + sse_data(_encode(_failure(row)))
        if not fragment:
            return sse_id(row) + b"\n"
        event = b"event: %b\n" % wrapping.event if wrapping.event else b""
        lines = wrapping.lines(row, fragment)
        return sse_id(row) + event + b"".join(b"data: %b\n" % one for one in lines) + b"\n"

    def text(row: Publication) -> bytes:
        fragment = render(row)
        if fragment is None:
            return _encode({"failed": _failure(row)})
        return wrapping.text(row, fragment) if fragment else b""

    def html(row: Publication) -> bytes:
        fragment = render(row)
        if fragment is None:
            return b"<!-- %b %d: %b -->" % (row.channel.encode(), row.offset, FAILED.encode())
        return fragment

    return Representation(event_stream(block), frame_stream(text, reset_texts), html=html)


def split(fragment: bytes) -> list[bytes]:
    """The lines of a text, by the line breaks of event streams."""
    return _LINE_BREAK.split(fragment)


def _failure(row: Publication) -> dict[str, object]:
    return {"channel": row.channel, "offset": row.offset, "id": row.id, "reason": FAILED}


HTML = Wrapping(lambda row, fragment: split(fragment), lambda row, fragment: fragment)
