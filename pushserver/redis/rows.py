"""What the scripts write into the streams of Redis, and its decoding."""

from __future__ import annotations

from reprlib import Repr
from typing import Any

import msgspec
from msgspec import Struct

from pushserver.channels.position import channel_epoch
from pushserver.channels.publication import ClientInfo, Draft, Publication
from pushserver.errors import PushServerError
from pushserver.hub.follower import Image

Id = tuple[int, int]
"""The id of an entry of the log: the seq, and the number of the clear after it (0: none)."""


class NotOurs(PushServerError):
    """Another program wrote this entry, key or answer; the text says what it is."""


class Content(Struct, frozen=True, gc=False, array_like=True):
    """The field `d` of an entry; a later version may only add values behind these."""

    event: str
    data: bytes
    tags: dict[str, str] | None
    info: ClientInfo | None
    skip: tuple[str, ...]


class Appended(Struct, frozen=True, gc=False):
    """An entry of the log: a publication, made by the draft `counter` of the node.

    `generation` is that of its channel, `skip` the clients to which it is not delivered.
    """

    publication: Publication
    generation: int
    skip: tuple[str, ...]
    node: str
    counter: int


class Cleared(Struct, frozen=True, gc=False):
    """An entry of the log: the history of a channel was dropped after the seq `seq`.

    It is the `number`th such entry after that seq.
    """

    channel: str
    seq: int
    number: int


class Ordered(Struct, frozen=True, gc=False):
    """An entry of the log: what a node orders of the others."""

    node: str
    order: bytes


class Change(Struct, frozen=True, gc=False):
    """A client has joined or left a channel, which has `total` subscribers now."""

    has_joined: bool
    channel: str
    total: int
    info: ClientInfo


class Changed(Struct, frozen=True, gc=False):
    """An entry of the log: what a node told of its subscribers in a term.

    Without changes the term is over, and all its subscribers have left.
    """

    term: str
    changes: tuple[Change, ...]


class Later(Struct, frozen=True, gc=False):
    """An entry of the log of a kind that a later version has; it is no publication."""

    kind: str


Entry = Appended | Cleared | Ordered | Changed | Later

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Content)
_facts = msgspec.msgpack.Decoder(tuple[bytes, bytes])

# A later version may add fields behind these.
_APPENDED = [b"c", b"o", b"g", b"t", b"d", b"w"]
_CLEARED = [b"k", b"c"]
_ORDERED = [b"k", b"n", b"d"]
_CHANGED = [b"k", b"n"]


def encode(draft: Draft) -> bytes:
    """The field `d` of a draft."""
    return _encoder.encode(Content(draft.event, draft.data, draft.tags, draft.info, draft.skip))


def member(info: ClientInfo) -> bytes:
    """A subscriber as the scripts keep it: they read the user at the beginning."""
    user = info.user.encode("utf-8", "surrogatepass")
    facts = _encoder.encode((info.conn_info, info.chan_info))
    return b"%d:" % len(user) + user + facts


def info_of(client: bytes, text: bytes) -> ClientInfo:
    """Decode a `member`; raises ValueError."""
    length, _, rest = text.partition(b":")
    end = _number(length)
    try:
        conn_info, chan_info = _facts.decode(rest[end:])
    except msgspec.MsgspecError as error:
        raise ValueError(f"a subscriber in Redis is {text!r:.80}: {error!s:.80}") from None
    user = rest[:end].decode("utf-8", "surrogatepass")
    return ClientInfo(client.decode(), user, conn_info, chan_info)


def follows(place: Id, before: Id) -> bool:
    """Whether there can be no entry between these two."""
    return place in ((before[0] + 1, 0), (before[0], before[1] + 1))


def id_of(name: bytes) -> Id:
    """The id of an entry of a stream; raises ValueError."""
    seq, _, number = name.partition(b"-")
    return int(seq), int(number)


def entry_of(epoch: str, entry: Any) -> Entry:
    """Decode an entry of the log, `[id, [field, value, ...]]`, of the run `epoch`.

    Raises NotOurs.
    """
    try:
        name, fields = entry
        seq, number = (_number(part) for part in name.split(b"-"))
        names, values = fields[::2], fields[1::2]
        if names[:6] == _APPENDED and not number:
            channel, offset, generation, time, blob, writer = values[:6]
            node, _, counter = writer.decode().rpartition(":")
            content = _decoder.decode(blob)
            publication = Publication(
                channel.decode(),
                channel_epoch(epoch, _number(generation)),
                seq,
                _number(offset),
                _number(time) / 1000,
                content.event,
                content.data,
                content.tags,
                content.info,
            )
            return Appended(
                publication, _number(generation), content.skip, node, _number(counter.encode())
            )
        if names[:1] == [b"k"] and number:
            kind = values[0]
            if kind == b"clear" and names[:2] == _CLEARED:
                return Cleared(values[1].decode(), seq, number)
            if kind == b"order" and names[:3] == _ORDERED:
                return Ordered(values[1].decode(), values[2])
            if kind == b"presence" and names[:2] == _CHANGED:
                pairs = zip(names[2:], values[2:], strict=True)
                return Changed(values[1].decode(), tuple(_change(*pair) for pair in pairs))
            if kind not in (b"clear", b"order", b"presence"):
                return Later(kind.decode())
        raise ValueError("fields of no kind of entry")
    except (ValueError, TypeError, AttributeError, LookupError, msgspec.MsgspecError) as error:
        raise _not_ours("the log", entry, error) from None


def _change(sign: bytes, value: bytes) -> Change:
    total, channel, client, text = value.split(b"\n", 3)
    if sign not in (b"+", b"-"):
        raise ValueError(f"a change {sign!r:.40}")
    return Change(sign == b"+", channel.decode(), _number(total), info_of(client, text))


def image_of(epoch: str, now: int, channel: str, image: Any) -> Image:
    """The image of a channel of the run `epoch` from the answer of the script `image`.

    Raises NotOurs.
    """
    try:
        generation, top, floor, floor_seq, evicted, found = image
        own = channel_epoch(epoch, generation)
        rows, ages = [], []
        for offset, seq, time, blob in found:
            content = _decoder.decode(blob)
            rows.append(
                Publication(
                    channel,
                    own,
                    seq,
                    offset,
                    time / 1000,
                    content.event,
                    content.data,
                    content.tags,
                    content.info,
                )
            )
            ages.append(max(0, now - time) / 1000)
        if floor + len(rows) != top:
            raise ValueError(f"{len(rows)} rows from {floor} to {top}")
    except (ValueError, TypeError, msgspec.MsgspecError) as error:
        raise _not_ours(f"the history of {channel!r}", image, error) from None
    return Image(channel, own, floor, floor_seq, rows, ages, evicted)


def _number(text: bytes) -> int:
    if not text.isdigit() or len(text) > 16:
        raise ValueError(f"{text[:40]!r} is no number of up to 16 digits")
    return int(text)


class _Outline(Repr):
    """An entry without the data of publications, which may be long, and are not for the log."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlist = 16

    def repr_bytes(self, value: bytes, level: int) -> str:
        return repr(value) if len(value) <= 16 else f"<{len(value)} bytes>"


def _not_ours(place: str, entry: Any, error: Exception) -> NotOurs:
    found = _Outline().repr(entry)
    return NotOurs(f"{place} in Redis has {found:.200}, which no pushserver wrote: {error!s:.200}")
