"""Representations: what a reader of channels gets of each publication, over each transport."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pushserver.channels.publication import Publication
from pushserver.protocols.formats import (
    STREAM_LINES,
    STREAM_SSE,
    STREAM_WEBSOCKET,
    StreamFormat,
    event_stream,
    frame_stream,
    line_stream,
    reset_texts,
    sse_data,
    sse_id,
)

RESERVED = "pushserver-"
"""The beginning of the names of the server's own events in an event stream."""


@dataclass(frozen=True, slots=True, eq=False)
class Representation:
    """The formats of one representation; None for a transport that it does not have.

    `html` makes the part of a publication in an answer in HTML; None if there is no such answer.
    """

    sse: StreamFormat
    websocket: StreamFormat | None = None
    lines: StreamFormat | None = None
    html: Callable[[Publication], bytes] | None = None


def _data_block(publication: Publication) -> bytes:
    name = publication.event
    event = b"" if name.startswith(RESERVED) else b"event: %b\n" % name.encode()
    return sse_id(publication) + event + sse_data(publication.data)


def _data(publication: Publication) -> bytes:
    return publication.data


OBJECTS = Representation(STREAM_SSE, STREAM_WEBSOCKET, STREAM_LINES)
"""Publication objects."""
DATA = Representation(
    event_stream(_data_block),
    frame_stream(_data, reset_texts),
    line_stream(_data, reset_texts),
)
"""The data alone; in an event stream, each is an event of the publication's own name."""
