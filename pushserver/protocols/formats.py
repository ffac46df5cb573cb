"""Formats: the encoding of publications on each kind of connection, down to the frame.

Each publication is encoded once for each format; all peers of a format get the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import msgspec
from msgspec import Raw, Struct

from pushserver.channels.position import epoch_of
from pushserver.channels.publication import Publication
from pushserver.protocols import centrifuge
from pushserver.protocols.websocket_frames import deflated_frame, websocket_frame

UNSUPPORTED = 1003
"""The close code for data of an unsupported type (RFC 6455, 7.4.1)."""

_encode = msgspec.json.Encoder().encode


class PublicationObject(Struct, omit_defaults=True):
    """One publication on the raw WebSocket, in SSE, in NDJSON and in history answers.

    `time` in Unix seconds; `id` is the cursor after this publication.
    """

    channel: str
    event: str
    data: Raw
    offset: int
    id: str
    time: float
    tags: dict[str, str] | None = None


class Subscribed(Struct):
    """The position in one channel from which a stream starts: after `offset` of its `epoch`."""

    channel: str
    epoch: str
    offset: int
    id: str
    recovered: bool


class Reset(Struct, omit_defaults=True):
    """The requested position cannot be resumed from; the stream starts after `id` instead.

    `epoch` is that of `id`, for all channels. With `channels`, the stream starts there in these,
    and continues in the others.
    """

    reason: str
    epoch: str
    id: str
    channels: Sequence[str] = ()


class Position(Struct):
    """The position from which an event stream starts: after `id`, whose epoch is `epoch`."""

    epoch: str
    id: str


class End(Struct):
    """The server ends the stream; `code` and `reason` are those of a close frame."""

    code: int
    reason: str


END_EVENT = "pushserver-end"
"""The name of the last event of an event stream that ends with a reason."""
SUBSCRIBED_EVENT = "pushserver-subscribed"
"""The name of the first event of an event stream that needs no reset."""

Encode = Callable[[Sequence[Publication]], bytes]


@dataclass(frozen=True, slots=True, eq=False)
class Format:
    """The encoding of publications on one kind of connection.

    `publications` encodes one or several, each as a separate frame (event, line). `joins`: the
    encodings of two batches, concatenated, are the encoding of both. `binary_code` is the
    WebSocket close code for a binary frame. `coded` is the same format in a coding of the
    connection: in chunks over HTTP/1.1, or with permessage-deflate.
    """

    joins: ClassVar[bool] = True
    name: str
    publications: Encode
    binary_code: int
    coded: Format | None = field(default=None, kw_only=True, repr=False)


PROTOCOLS = ("centrifuge", "socketio")
"""The protocols that the names of formats begin with."""


def kind_of(name: str) -> tuple[str, str]:
    """The transport and the protocol of the format with this name; without one it is `plain`.

    A transport with compression is the same transport.
    """
    name = name.removesuffix("-deflate")
    protocol, _, transport = name.partition("-")
    return (transport, protocol) if protocol in PROTOCOLS else (name, "plain")


@dataclass(frozen=True, slots=True, eq=False)
class SessionFormat(Format):
    """A form of the Centrifuge protocol: `frame` makes a frame of one text.

    `ping` is the frame that the peer has to answer. `has_close_code`: the transport closes with a
    code and a reason; others send them as a push.
    """

    frame: Callable[[bytes], bytes]
    ping: bytes
    has_close_code: bool


MakeOpening = Callable[[Sequence[Subscribed], Reset | None, int], bytes]


@dataclass(frozen=True, slots=True, eq=False)
class StreamFormat(Format):
    """A one-way stream of publication objects; each part is a whole frame.

    `make_opening` makes the first frame: the position in each channel, the reset if there is
    one, and the milliseconds after which a client that lost the stream should reconnect.
    `heartbeat` is sent on an idle stream; `answered`: the peer answers it. `make_end` makes the
    last frame of a stream that ends with a reason; empty where the transport has close codes.
    """

    make_opening: MakeOpening
    heartbeat: bytes
    answered: bool
    make_end: Callable[[End], bytes]


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
    """A history answer; a reader continues from `offset` and `id`.

    If the requested position cannot be resumed from, `recovered` is false and `reason` says why;
    otherwise both are left out.
    """

    channel: str
    publications: list[Raw]
    epoch: str
    offset: int
    id: str
    recovered: bool | None = None
    reason: str = ""


def history_object(
    name: str, rows: Sequence[Publication], epoch: str, offset: int, cursor: str, reason: str
) -> bytes:
    """The answer to a request for a channel's history, as JSON text.

    `epoch` and `offset` are the position in the channel, `cursor` that in all channels.
    """
    objects = [Raw(publication_object(row)) for row in rows]
    recovered = False if reason else None
    answer = HistoryObject(name, objects, epoch, offset, cursor, recovered, reason)
    return _encode(answer) + b"\n"


def history_ends(
    name: str, epoch: str, offset: int, cursor: str, reason: str
) -> tuple[bytes, bytes]:
    """The texts before and behind the `publication_objects` of a history answer."""
    empty = history_object(name, (), epoch, offset, cursor, reason)
    # A channel's name has no quotes.
    before, mark, behind = empty.partition(b'"publications":[')
    return before + mark, behind


def publication_objects(rows: Sequence[Publication]) -> bytes:
    """Publication objects, separated by commas."""
    return b",".join(map(publication_object, rows))


class _Position(Struct):
    """The fields of a publication object from which a reader continues."""

    offset: int
    id: str


_decode_history = msgspec.json.Decoder(HistoryObject).decode
_decode_position = msgspec.json.Decoder(_Position).decode


def cut_history(text: bytes, limit: int) -> bytes:
    """The history answer with its first `limit` publications, at least one."""
    answer = _decode_history(text)
    if limit >= len(answer.publications):
        return text
    answer.publications = answer.publications[:limit]
    last = _decode_position(answer.publications[-1])
    answer.offset, answer.id = last.offset, last.id
    return _encode(answer) + b"\n"


def history_cursor(text: bytes) -> bytes:
    """The cursor of a history answer, which is behind its publications."""
    return text.rpartition(b'"id":"')[2].partition(b'"')[0]


def _history(rows: Sequence[Publication]) -> bytes:
    last = rows[-1]
    return history_object(last.channel, rows, last.epoch, last.offset, last.id, "")


def each(encode: Callable[[Publication], bytes]) -> Encode:
    """Make an encoder of several publications from an encoder of one."""

    def publications(rows: Sequence[Publication]) -> bytes:
        return b"".join(map(encode, rows))

    return publications


def sse_data(text: bytes) -> bytes:
    """One block of an event stream; the text has no line break."""
    return b"data: " + text + b"\n\n"


def line(text: bytes) -> bytes:
    """One line of newline-delimited JSON."""
    return text + b"\n"


def _object_block(publication: Publication) -> bytes:
    # No `event:` field: a named event reaches only listeners of that name, and a page that has
    # only `onmessage` would stay empty. The name is in the object.
    return sse_id(publication) + sse_data(publication_object(publication))


def sse_id(publication: Publication) -> bytes:
    """The line of an event stream by which a reader resumes after this publication."""
    return b"id: %b\n" % publication.id.encode()


MakeTexts = Callable[[Sequence[Subscribed], Reset | None], list[bytes]]


def object_texts(channels: Sequence[Subscribed], reset: Reset | None) -> list[bytes]:
    """The texts before the publications of a stream of objects."""
    return [_encode({"subscribed": channel}) for channel in channels] + reset_texts((), reset)


def reset_texts(channels: Sequence[Subscribed], reset: Reset | None) -> list[bytes]:
    """The text before the publications of a stream without positions: a reset, if any."""
    return [] if reset is None else [_encode({"reset": reset})]


def _opening(frame: Callable[[bytes], bytes], make_texts: MakeTexts) -> MakeOpening:
    def make_opening(channels: Sequence[Subscribed], reset: Reset | None, retry: int) -> bytes:
        return b"".join(map(frame, make_texts(channels, reset)))

    return make_opening


def _sse_opening(channels: Sequence[Subscribed], reset: Reset | None, retry: int) -> bytes:
    # The browser keeps the id: a client that has received no publication yet resumes from here.
    # The block has data, because some parsers (httpx-sse, fetch-event-source) yield each block.
    first = channels[0]
    name = "pushserver-reset" if reset else SUBSCRIBED_EVENT
    data = sse_data(_encode(reset or Position(epoch_of(first.id), first.id)))
    return b"retry: %d\nid: %b\nevent: %b\n%b" % (retry, first.id.encode(), name.encode(), data)


def _sse_end(end: End) -> bytes:
    return b"event: %b\n%b" % (END_EVENT.encode(), sse_data(_encode(end)))


def _session(
    name: str,
    frame: Callable[[bytes], bytes],
    has_close_code: bool,
    coded: SessionFormat | None = None,
) -> SessionFormat:
    # BAD_FRAME is final for the protocol's clients; after 1003 they would reconnect and send
    # the same again.
    return SessionFormat(
        name,
        each(lambda row: frame(centrifuge.publication_push(row))),
        centrifuge.BAD_FRAME,
        frame,
        frame(centrifuge.PING),
        has_close_code,
        coded=coded,
    )


def frame_stream(
    encode: Callable[[Publication], bytes], make_texts: MakeTexts = object_texts
) -> StreamFormat:
    """The format of a WebSocket; `encode` makes the text of a publication, empty for none."""

    def of(name: str, frame: Callable[[bytes], bytes], coded: Format | None) -> StreamFormat:
        return StreamFormat(
            name,
            each(lambda row: frame(text) if (text := encode(row)) else b""),
            UNSUPPORTED,
            _opening(frame, make_texts),
            # A ping: a dead peer sends no pong.
            heartbeat=b"\x89\x00",
            answered=True,
            make_end=lambda end: b"",
            coded=coded,
        )

    return of("websocket", websocket_frame, of("websocket-deflate", deflated_frame, None))


def chunk(data: bytes) -> bytes:
    """One chunk of an HTTP/1.1 body (RFC 9112, 7.1); an empty one would be its end."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def _chunked_session(plain: SessionFormat) -> SessionFormat:
    chunked = replace(
        plain,
        publications=lambda rows: chunk(plain.publications(rows)),
        frame=lambda text: chunk(plain.frame(text)),
        ping=chunk(plain.ping),
    )
    return replace(plain, coded=chunked)


def _chunked_stream(plain: StreamFormat) -> StreamFormat:
    chunked = replace(
        plain,
        publications=lambda rows: chunk(plain.publications(rows)),
        make_opening=lambda *args: chunk(plain.make_opening(*args)),
        heartbeat=chunk(plain.heartbeat),
        make_end=lambda end: chunk(plain.make_end(end)),
    )
    return replace(plain, coded=chunked)


def event_stream(encode: Callable[[Publication], bytes]) -> StreamFormat:
    """The format of Server-Sent Events; `encode` makes the block of a publication."""
    return _chunked_stream(
        StreamFormat(
            "sse",
            each(encode),
            UNSUPPORTED,
            _sse_opening,
            heartbeat=b":\n",
            answered=False,
            make_end=_sse_end,
        )
    )


def line_stream(
    encode: Callable[[Publication], bytes], make_texts: MakeTexts = object_texts
) -> StreamFormat:
    """The format of lines of JSON; `encode` makes the text of a publication."""
    return _chunked_stream(
        StreamFormat(
            "lines",
            each(lambda row: line(encode(row))),
            UNSUPPORTED,
            _opening(line, make_texts),
            heartbeat=b"\n",
            answered=False,
            make_end=lambda end: line(_encode({"end": end})),
        )
    )


SESSION_WEBSOCKET = _session(
    "centrifuge-websocket",
    websocket_frame,
    has_close_code=True,
    coded=_session("centrifuge-websocket-deflate", deflated_frame, has_close_code=True),
)
SESSION_SSE = _chunked_session(_session("centrifuge-sse", sse_data, has_close_code=False))
SESSION_LINES = _chunked_session(_session("centrifuge-http-stream", line, has_close_code=False))
STREAM_WEBSOCKET = frame_stream(publication_object)
STREAM_SSE = event_stream(_object_block)
STREAM_LINES = line_stream(publication_object)


class AnswerFormat(Format):
    """The format of an answer: all publications in one JSON value."""

    joins: ClassVar[bool] = False


HISTORY = AnswerFormat("history", _history, UNSUPPORTED)
