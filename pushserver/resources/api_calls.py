"""The requests of the server API, and their conversion; `api_methods` carries them out."""

from __future__ import annotations

from msgspec import UNSET, Raw, Struct, UnsetType

from pushserver.channels.idempotency import check_key
from pushserver.channels.names import check_event
from pushserver.channels.publication import Draft, Tags
from pushserver.errors import Invalid
from pushserver.protocols import centrifuge
from pushserver.protocols.centrifuge import CommandError
from pushserver.sessions.callbacks import Invitation


class Call(Struct, forbid_unknown_fields=True):
    """The request of a method; an unknown field is an error that names it."""


class Content(Call, kw_only=True):
    """A publication without its channel. `event`, or else `tags.event`, names the event."""

    data: Raw | UnsetType = UNSET
    event: str | None = None
    tags: dict[str, str] | None = None
    idempotency_key: str | None = None
    skip_history: bool | None = None
    b64data: str | None = None


class PublishCall(Content):
    """One publication."""

    channel: str


class BroadcastCall(Content):
    """The same publication for each of the channels."""

    channels: list[str]


class OneChannelCall(Call):
    """The request of presence, presence_stats and history_remove."""

    channel: str


class HistoryCall(Call):
    """`limit`: the number of publications, 0 for only the position, -1 for all."""

    channel: str
    limit: int | None = None
    since: centrifuge.StreamPosition | None = None
    reverse: bool | None = None


class ChannelsCall(Call):
    """`pattern`: a pattern like those of file names, with `*` and `?`."""

    pattern: str | None = None


class InfoCall(Call):
    """No fields."""


class DisconnectCode(Call):
    """The code and reason that the client gets; 0 and empty stand for the usual ones."""

    code: int = 0
    reason: str = ""


class UserCall(Call, kw_only=True):
    """All connections of the user; with a client or a session, only that connection."""

    user: str
    client: str | None = None
    session: str | None = None


class DisconnectCall(UserCall):
    """Ends the connections, except those of the clients in the whitelist."""

    whitelist: list[str] | None = None
    disconnect: DisconnectCode | None = None


class UnsubscribeCall(UserCall):
    """Takes the connections out of a channel."""

    channel: str


class Switch(Call):
    """An option that is set, to true or to false."""

    value: bool = False


class Override(Call):
    """Options of a channel for one subscription; None stands for the channel's own."""

    presence: Switch | None = None
    join_leave: Switch | None = None
    force_push_join_leave: Switch | None = None
    force_positioning: Switch | None = None
    force_recovery: Switch | None = None


class SubscribeCall(UserCall):
    """Puts the connections into a channel.

    `info` is the `chan_info` of the subscription, `data` goes to the clients, `recover_since` is
    the position of the first publication that they get, exclusive.
    """

    channel: str
    info: Raw | UnsetType = UNSET
    data: Raw | UnsetType = UNSET
    recover_since: centrifuge.StreamPosition | None = None
    override: Override | None = None
    b64info: str | None = None
    b64data: str | None = None
    expire_at: int = 0


class RefreshCall(UserCall):
    """Prolongs or ends the connections; `expire_at` in Unix seconds, 0 for not set."""

    expired: bool | None = None
    expire_at: int | None = None


class BatchCall(Call):
    """Commands, each `{method: request}`; `parallel` has no effect."""

    commands: list[dict[str, Raw]]
    parallel: bool = False


def draft_of(call: Content) -> Draft:
    """The draft of the publication, without a channel; raises PushServerError."""
    if call.skip_history:
        raise CommandError(
            centrifuge.NOT_AVAILABLE,
            "skip_history: not supported; every publication gets an offset",
        )
    if call.b64data is not None:
        raise CommandError(centrifuge.NOT_AVAILABLE, "b64data: not supported; data is JSON")
    if call.data is UNSET:
        raise Invalid("Object missing required field `data`")
    tags = dict(call.tags or {})
    event = tags.pop("event", None) if call.event is None else call.event
    return Draft(
        "",
        bytes(call.data),
        check_event("message" if event is None else event),
        Tags(tags) if tags else None,
        key=check_key(call.idempotency_key) if call.idempotency_key else "",
    )


def invitation_of(call: SubscribeCall) -> Invitation:
    """The options of the subscription, without its position; raises CommandError."""
    for name in ("b64info", "b64data"):
        if getattr(call, name):
            raise CommandError(centrifuge.NOT_AVAILABLE, f"{name}: not supported")
    override = call.override or Override()
    for name in ("presence", "join_leave", "force_positioning", "force_recovery"):
        switch = getattr(override, name)
        if switch is not None and not switch.value:
            message = f"override.{name}: every subscription of this server has it"
            raise CommandError(centrifuge.NOT_AVAILABLE, message)
    pushed = override.force_push_join_leave
    return Invitation(
        data=_json(call.data),
        info=_json(call.info),
        join_leave=None if pushed is None else pushed.value,
        expires=call.expire_at,
    )


def _json(value: Raw | UnsetType) -> bytes:
    """The value as JSON text; empty for none and for null."""
    return b"" if value is UNSET or value == b"null" else bytes(value)
