"""How things look on each transport: the publication object and the frames around texts.

What is encoded here is encoded once for each format, and the same bytes are sent to all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import msgspec
from msgspec import Raw, Struct

from pushserver.channels.position import Cursor
from pushserver.channels.publication import Publication
from pushserver.protocols import centrifuge
from pushserver.protocols.websocket_frames import deflated_frame, websocket_frame

UNSUPPORTED = 1003

_encode = msgspec.json.Encoder().encode


class PublicationObject(Struct, omit_defaults=True):
    """One publication on the raw WebSocket, in SSE, in NDJSON and in history answers.

    `time` in Unix seconds; `id` is the cursor to go on from after this one.
    """

    channel: str
    event: str
    data: Raw
    offset: int
    id: str
    time: float
    tags: dict[str, str] | None = None


class Subscribed(Struct):
    """Where a stream begins in one channel: after `offset`."""

    channel: str
    epoch: str
    offset: int
    id: str
    recovered: bool


class Reset(Struct):
    """The position that was asked for cannot be resumed from; `id` is where the stream begins."""

    reason: str
    epoch: str
    id: str


Encode = Callable[[Sequence[Publication]], bytes]


@dataclass(frozen=True, slots=True, eq=False)
class Format:
    """How publications leave on one kind of connection. The hub encodes once for each format.

    `publications` makes one piece of one or several, each a frame (event, line) of its own.
    What it makes of some and of the next ones is, one behind the other, what it makes of all
    of them, unless `joins` is False. `binary_code` is the WebSocket close code that a binary
    frame is answered with.
    """

    joins: ClassVar[bool] = True
    name: str
    publications: Encode
    binary_code: int


@dataclass(frozen=True, slots=True, eq=False)
class SessionFormat(Format):
    """A transport of the Centrifuge protocol: `frame` makes a frame of one text.

    `ping` is the frame that asks whether the peer is alive. `says_why`: the transport's own
    close tells the code and the reason; else a push does.
    """

    frame: Callable[[bytes], bytes]
    ping: bytes
    says_why: bool


Begin = Callable[[Sequence[Subscribed], Reset | None, int], bytes]


@dataclass(frozen=True, slots=True, eq=False)
class StreamFormat(Format):
    """A one-way stream of publication objects; each part is a whole frame.

    `begin` opens the stream: where it stands in each channel, why it could not go on from
    where the reader was (if so), and after how many milliseconds a client that lost it
    should come back. `heartbeat` is sent when there was nothing else to send; `answered`
    says whether the peer answers it.
    """

    begin: Begin
    heartbeat: bytes
    answered: bool


def publication_object(publication: Publication) -> bytes:
    """The publication object as JSON text."""
    return _encode(
        PublicationObject(
            publication.channel,
            publication.event,
            Raw(publication.data),
            publication.offset,
            publication.id,
            round(publication.time, 3),
            publication.tags,
        )
    )


class HistoryObject(Struct, omit_defaults=True):
    """A history answer; `offset` and `id` are where to go on from.

    `recovered` is there when the position that was asked for cannot be resumed from, and
    false; `reason` says why.
    """

    channel: str
    publications: list[Raw]
    epoch: str
    offset: int
    id: str
    recovered: bool | None = None
    reason: str = ""


def history_object(
    name: str, rows: Sequence[Publication], cursor: Cursor, offset: int, reason: str
) -> bytes:
    """The answer to a request for a channel's history, as JSON text."""
    objects = [Raw(publication_object(row)) for row in rows]
    recovered = False if reason else None
    answer = HistoryObject(name, objects, cursor.epoch, offset, str(cursor), recovered, reason)
    return _encode(answer) + b"\n"


def _history(rows: Sequence[Publication]) -> bytes:
    last = rows[-1]
    return history_object(last.channel, rows, Cursor(last.epoch, last.seq), last.offset, "")


def each(encode: Callable[[Publication], bytes]) -> Encode:
    """Several publications one behind the other, of how one is encoded."""

    def publications(rows: Sequence[Publication]) -> bytes:
        return b"".join(map(encode, rows))

    return publications


def sse_data(text: bytes) -> bytes:
    """One event stream block; the text holds no line break."""
    return b"data: " + text + b"\n\n"


def line(text: bytes) -> bytes:
    """One line of newline-delimited JSON."""
    return text + b"\n"


def _object_block(publication: Publication) -> bytes:
    # No `event:` field: a named event is heard only by listeners of that name, and a page
    # with nothing but `onmessage` would stay empty. The name is in the object.
    return b"id: %b\n%b" % (publication.id.encode(), sse_data(publication_object(publication)))


def _begin_objects(frame: Callable[[bytes], bytes]) -> Begin:
    def begin(channels: Sequence[Subscribed], reset: Reset | None, retry: int) -> bytes:
        notes: list[dict[str, Struct]] = [{"subscribed": channel} for channel in channels]
        if reset is not None:
            notes.append({"reset": reset})
        return b"".join(frame(_encode(note)) for note in notes)

    return begin


def _begin_sse(channels: Sequence[Subscribed], reset: Reset | None, retry: int) -> bytes:
    # A block with an id and no data fires no event, but the browser keeps the id: a client
    # that saw nothing yet resumes from here.
    told = b"event: pushserver-reset\n" + sse_data(_encode(reset)) if reset else b"\n"
    return b"retry: %d\nid: %b\n%b" % (retry, channels[0].id.encode(), told)


def _session(name: str, frame: Callable[[bytes], bytes], says_why: bool) -> SessionFormat:
    # BAD_FRAME is final for the protocol's clients; after 1003 they would come back and
    # send it again.
    return SessionFormat(
        name,
        each(lambda row: frame(centrifuge.publication_push(row))),
        centrifuge.BAD_FRAME,
        frame,
        frame(centrifuge.PING),
        says_why,
    )


def _stream_of_frames(name: str, frame: Callable[[bytes], bytes]) -> StreamFormat:
    return StreamFormat(
        name,
        each(lambda row: frame(publication_object(row))),
        UNSUPPORTED,
        _begin_objects(frame),
        # A ping: the peer's pong is how a dead one is told from a quiet one.
        heartbeat=b"\x89\x00",
        answered=True,
    )


SESSION_WEBSOCKET = _session("centrifuge-websocket", websocket_frame, says_why=True)
SESSION_SSE = _session("centrifuge-sse", sse_data, says_why=False)
SESSION_LINES = _session("centrifuge-http-stream", line, says_why=False)
STREAM_WEBSOCKET = _stream_of_frames("websocket", websocket_frame)
STREAM_SSE = StreamFormat(
    "sse", each(_object_block), UNSUPPORTED, _begin_sse, heartbeat=b":\n\n", answered=False
)
STREAM_LINES = StreamFormat(
    "lines",
    each(lambda row: line(publication_object(row))),
    UNSUPPORTED,
    _begin_objects(line),
    heartbeat=b"\n",
    answered=False,
)


class AnswerFormat(Format):
    """An answer, which is one value whatever it holds."""

    joins: ClassVar[bool] = False


HISTORY = AnswerFormat("history", _history, UNSUPPORTED)


DEFLATED: dict[Format, Format] = {
    SESSION_WEBSOCKET: _session("centrifuge-websocket-deflate", deflated_frame, says_why=True),
    STREAM_WEBSOCKET: _stream_of_frames("websocket-deflate", deflated_frame),
}
"""The formats of WebSockets that agreed to permessage-deflate."""


def chunk(data: bytes) -> bytes:
    """One chunk of an HTTP/1.1 body (RFC 9112, 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _chunked_session(plain: SessionFormat) -> SessionFormat:
    return replace(
        plain,
        publications=lambda rows: chunk(plain.publications(rows)),
        frame=lambda text: chunk(plain.frame(text)),
        ping=chunk(plain.ping),
    )


def _chunked_stream(plain: StreamFormat) -> StreamFormat:
    return replace(
        plain,
        publications=lambda rows: chunk(plain.publications(rows)),
        begin=lambda channels, reset, retry: chunk(plain.begin(channels, reset, retry)),
        heartbeat=chunk(plain.heartbeat),
    )


CHUNKED: dict[Format, Format] = {
    SESSION_SSE: _chunked_session(SESSION_SSE),
    SESSION_LINES: _chunked_session(SESSION_LINES),
    STREAM_SSE: _chunked_stream(STREAM_SSE),
    STREAM_LINES: _chunked_stream(STREAM_LINES),
}
"""The formats of responses without an end, for clients of HTTP/1.1: as chunks."""
