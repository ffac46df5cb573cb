"""The Centrifuge client protocol in JSON: decodes commands, encodes replies and pushes.

One frame holds one or more JSON objects separated by newlines, in both directions. A
command is `{"id": n, "<method>": {...}}`; the reply repeats the id and the method, or has
`error`. Fields with zero values are omitted; unknown fields are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from pushserver.channels import jsontext
from pushserver.channels.jsontext import MALFORMED
from pushserver.channels.names import check_event
from pushserver.channels.publication import ClientInfo, Publication
from pushserver.errors import Invalid, InvalidData, PushServerError

# Error codes of a reply.
INTERNAL = 100
PERMISSION_DENIED = 103
METHOD_NOT_FOUND = 104
ALREADY_SUBSCRIBED = 105
LIMIT_EXCEEDED = 106
NOT_AVAILABLE = 108
REQUEST_EXPIRED = 110
UNRECOVERABLE = 112

# Close codes: from 3000 the client reconnects, from 3500 it does not.
SHUTDOWN = 3001
EXPIRED = 3005
INVALID_TOKEN = 3500
CONNECTION_LIMIT = 3504
NOT_PERMITTED = 3507
SUBSCRIPTION_EXPIRED = 3006
SLOW = 3008
INSUFFICIENT_STATE = 3010
NO_PONG = 3012
TOO_MANY_REQUESTS = 3013
BAD_FRAME = 3501
STALE = 3502
FORCE_NO_RECONNECT = 3503
REFUSED = 4500

# Codes of an unsubscribe push: from 2500 the client subscribes again.
UNSUBSCRIBED = 2000
INSUFFICIENT = 2500
SUBSCRIPTION_ENDED = 2501

FLAG_REJECT_UNRECOVERED = 2
METHODS = (
    "connect",
    "subscribe",
    "unsubscribe",
    "publish",
    "history",
    "presence",
    "presence_stats",
    "rpc",
    "refresh",
    "sub_refresh",
    "ping",
    "send",
)


class CommandError(PushServerError):
    """A command is refused with an error reply of this code."""

    def __init__(self, code: int, message: str, temporary: bool = False):
        super().__init__(message)
        self.centrifuge_code = code
        self.temporary = temporary


class FrameError(PushServerError):
    """A frame is not a sequence of commands; it ends the connection with 3501."""


class Command(Struct, gc=False):
    """One command; exactly one of the methods is set. All unset: a pong."""

    id: int = 0
    connect: Raw | UnsetType = UNSET
    subscribe: Raw | UnsetType = UNSET
    unsubscribe: Raw | UnsetType = UNSET
    publish: Raw | UnsetType = UNSET
    history: Raw | UnsetType = UNSET
    presence: Raw | UnsetType = UNSET
    presence_stats: Raw | UnsetType = UNSET
    rpc: Raw | UnsetType = UNSET
    refresh: Raw | UnsetType = UNSET
    sub_refresh: Raw | UnsetType = UNSET
    ping: Raw | UnsetType = UNSET
    send: Raw | UnsetType = UNSET


class SubscribePosition(Struct):
    """The position that a server-side subscription recovers from."""

    recover: bool = False
    epoch: str = ""
    offset: int = 0


class ConnectRequest(Struct):
    token: str = ""
    data: Raw | UnsetType = UNSET
    name: str = ""
    version: str = ""
    headers: dict[str, str] = {}
    subs: dict[str, SubscribePosition] = {}


class SubscribeRequest(Struct):
    channel: str
    token: str = ""
    data: Raw | UnsetType = UNSET
    recover: bool = False
    epoch: str = ""
    offset: Annotated[int, Meta(ge=0)] = 0
    positioned: bool = False
    recoverable: bool = False
    join_leave: bool = False
    flag: int = 0
    tf: Raw | UnsetType = UNSET
    type: int = 0


class SubscribeData(Struct):
    """The `data` of a subscribe; `last` is the number of last publications in the answer.

    `initial`: True if the answer has to tell how many there are without `last`.
    """

    last: int | None = None
    initial: object = False  # an application may use the name for another type


class RefreshRequest(Struct):
    token: str = ""


class SubRefreshRequest(Struct):
    channel: str
    token: str = ""


class ChannelRequest(Struct):
    """The request of unsubscribe, presence and presence_stats."""

    channel: str


class PublishRequest(Struct):
    channel: str
    data: Raw


class RpcRequest(Struct):
    method: str = ""
    data: Raw | UnsetType = UNSET


class SendRequest(Struct):
    data: Raw | UnsetType = UNSET


class StreamPosition(Struct, omit_defaults=True):
    offset: Annotated[int, Meta(ge=0)] = 0
    epoch: str = ""


class HistoryRequest(Struct):
    """`limit`: 0 for the position only, -1 for all."""

    channel: str
    limit: Annotated[int, Meta(ge=-1)] = 0
    since: StreamPosition | None = None
    reverse: bool = False


class Info(Struct, omit_defaults=True):
    """ClientInfo on the wire."""

    user: str
    client: str
    conn_info: Raw | UnsetType = UNSET
    chan_info: Raw | UnsetType = UNSET


class Pub(Struct, omit_defaults=True):
    """A publication on the wire; `time` in milliseconds."""

    data: Raw
    offset: int = 0
    info: Info | None = None
    tags: dict[str, str] | None = None
    time: int = 0


class Empty(Struct):
    pass


class ConnectResult(Struct, omit_defaults=True):
    """`ttl`, `ping` in seconds; `pong`: the client must answer pings; `time` in milliseconds."""

    client: str
    version: str
    expires: bool = False
    ttl: int = 0
    data: Raw | UnsetType = UNSET
    subs: dict[str, SubscribeResult] = {}
    ping: int = 0
    pong: bool = False
    session: str = ""
    node: str = ""
    time: int = 0


class SubscribeResult(Struct, omit_defaults=True):
    """`publications`: a list of Pub as JSON text; `ttl` in seconds."""

    expires: bool = False
    ttl: int = 0
    recoverable: bool = False
    positioned: bool = False
    epoch: str = ""
    offset: int = 0
    publications: Raw | UnsetType = UNSET
    recovered: bool = False
    was_recovering: bool = False
    data: Raw | UnsetType = UNSET


class RefreshResult(Struct, omit_defaults=True):
    """`ttl` in seconds."""

    client: str
    version: str
    expires: bool = False
    ttl: int = 0


class SubRefreshResult(Struct, omit_defaults=True):
    """`ttl` in seconds."""

    expires: bool = False
    ttl: int = 0


class Refresh(Struct, omit_defaults=True):
    """The server prolonged the connection."""

    expires: bool = False
    ttl: int = 0


class RpcResult(Struct):
    data: Raw | UnsetType = UNSET


class HistoryResult(Struct, omit_defaults=True):
    publications: list[Pub] = field(default_factory=list)
    epoch: str = ""
    offset: int = 0


class PresenceResult(Struct):
    presence: dict[str, Info]


class PresenceStatsResult(Struct):
    num_clients: int
    num_users: int


class Error(Struct, omit_defaults=True):
    code: int
    message: str
    temporary: bool = False


class Unsubscribe(Struct):
    code: int
    reason: str


class Subscribe(Struct, omit_defaults=True):
    """The server subscribed the client to a channel."""

    recoverable: bool
    positioned: bool
    epoch: str
    offset: int = 0
    data: Raw | UnsetType = UNSET


class Message(Struct):
    data: Raw


class Disconnect(Struct):
    code: int
    reason: str
    reconnect: bool


class Change(Struct):
    """A join or a leave."""

    info: Info


class PushBody(Struct, omit_defaults=True):
    channel: str = ""
    pub: Pub | None = None
    join: Change | None = None
    leave: Change | None = None
    unsubscribe: Unsubscribe | None = None
    subscribe: Subscribe | None = None
    message: Message | None = None
    disconnect: Disconnect | None = None
    refresh: Refresh | None = None


class Push(Struct):
    push: PushBody


Request = TypeVar("Request", bound=Struct)

_encode = msgspec.json.Encoder().encode
_command = msgspec.json.Decoder(Command).decode
_decoders: dict[type[Struct], msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind)
    for kind in (
        ConnectRequest,
        RefreshRequest,
        SubRefreshRequest,
        SubscribeRequest,
        SubscribeData,
        ChannelRequest,
        PublishRequest,
        RpcRequest,
        SendRequest,
        HistoryRequest,
    )
}


def commands(text: bytes) -> Iterator[Command]:
    """The commands of one frame.

    Raises FrameError at the first line that is not a command, after yielding those before it.
    """
    for line in text.split(b"\n"):
        if line and not line.isspace():
            try:
                yield _command(line)
            except msgspec.ValidationError as error:
                raise FrameError(f"not a command: {error}") from None
            except MALFORMED as error:
                raise FrameError(f"not JSON: {jsontext.reason(line, error)}") from None


def method(command: Command) -> tuple[str, bytes]:
    """The method's name and its request as JSON text; ("", b"") for a pong.

    Raises FrameError for several methods, or for an id without a method of this protocol.
    """
    calls = [(name, bytes(raw)) for name in METHODS if (raw := getattr(command, name)) is not UNSET]
    if len(calls) == 1:
        return calls[0]
    if calls:
        raise FrameError("a command has one method, not " + " and ".join(n for n, _ in calls))
    if command.id:
        raise FrameError(
            f"command {command.id} has no method; expected one of {', '.join(METHODS)}"
        )
    return "", b""


def request(text: bytes, kind: type[Request]) -> Request:
    """The request of a command; raises Invalid that names the field."""
    try:
        result: Request = _decoders[kind].decode(text)
    except MALFORMED as error:
        raise Invalid(str(error)) from None
    return result


def request_data(text: bytes) -> bytes:
    """The `data` of a request as compact JSON text; raises InvalidData."""
    try:
        return jsontext.compact(text)
    except InvalidData as error:
        raise InvalidData(f"data: {error}") from None


def reply(command_id: int, name: str, result: Struct) -> bytes:
    """The text of a successful reply."""
    return _encode({"id": command_id, name: result})


def error_reply(command_id: int, error: PushServerError) -> bytes:
    """The text of an error reply."""
    return _encode({"id": command_id, "error": error_object(error)})


def error_object(error: PushServerError) -> Error:
    """An exception as the error of a reply."""
    text = f"bad request: {error}" if isinstance(error, Invalid) else str(error)
    return Error(error.centrifuge_code, text, error.temporary)


PING = b"{}"
PONG = b"{}"


def pub(publication: Publication) -> Pub:
    """A publication on the wire; the event's name is a tag."""
    tags = {"event": publication.event}
    if publication.tags:
        tags = {**publication.tags, **tags}
    return Pub(
        Raw(publication.data),
        publication.offset,
        None if publication.info is None else info(publication.info),
        tags,
        # In two steps, as the other forms have it: the product alone could be rounded otherwise.
        round(round(publication.time, 3) * 1000),
    )


def publications(rows: Sequence[Publication]) -> bytes:
    """Several publications as a JSON list."""
    return _encode([pub(row) for row in rows])


def info(client: ClientInfo) -> Info:
    """ClientInfo on the wire."""
    return Info(
        client.user,
        client.client,
        Raw(client.conn_info) if client.conn_info else UNSET,
        Raw(client.chan_info) if client.chan_info else UNSET,
    )


def publication_push(publication: Publication) -> bytes:
    """The text of a live publication."""
    return _encode(Push(PushBody(publication.channel, pub(publication))))


def join_push(channel: str, client: ClientInfo) -> bytes:
    """A client subscribed to the channel."""
    return _encode(Push(PushBody(channel, join=Change(info(client)))))


def leave_push(channel: str, client: ClientInfo) -> bytes:
    """A client left the channel."""
    return _encode(Push(PushBody(channel, leave=Change(info(client)))))


def unsubscribe_push(channel: str, code: int, reason: str) -> bytes:
    """The server ended the subscription; from code 2500 the client subscribes again."""
    return _encode(Push(PushBody(channel, unsubscribe=Unsubscribe(code, reason))))


def subscribe_push(channel: str, epoch: str, offset: int, data: bytes = b"") -> bytes:
    """The server subscribed the client to the channel, from after `offset`."""
    content = Raw(data) if data else UNSET
    subscribe = Subscribe(True, True, epoch, offset, content)
    return _encode(Push(PushBody(channel, subscribe=subscribe)))


def refresh_push(ttl: int) -> bytes:
    """The server prolonged the connection: it ends in `ttl` seconds, or never if that is 0."""
    return _encode(Push(PushBody(refresh=Refresh(ttl > 0, ttl))))


def encode_message(data: object, event: str) -> bytes:
    """The JSON text of a message; raises InvalidData and InvalidName."""
    return jsontext.encode({"event": check_event(event), "data": data} if event else data)


def message_push(data: bytes) -> bytes:
    """A message to this client alone."""
    return _encode(Push(PushBody(message=Message(Raw(data)))))


def disconnect_push(code: int, reason: str) -> bytes:
    """The end of the connection, on a transport without close codes."""
    return _encode(Push(PushBody(disconnect=Disconnect(code, reason, reconnects(code)))))


def reconnects(code: int) -> bool:
    """Whether a client reconnects after this close code."""
    return code < 3500 or 4000 <= code < 4500
