"""The requests of the server API; `api` carries them out."""

from __future__ import annotations

from msgspec import UNSET, Raw, Struct, UnsetType

from pushserver.protocols import centrifuge


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
