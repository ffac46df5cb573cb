"""The methods of the server API."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from msgspec import Raw, structs

from pushserver.auth.identity import LATEST
from pushserver.auth.keys import Key, Scope
from pushserver.auth.permissions import Action
from pushserver.channels.jsontext import MALFORMED
from pushserver.channels.names import check_name
from pushserver.channels.position import Position
from pushserver.channels.publication import Draft, Receipt
from pushserver.cluster.measures import Measure
from pushserver.errors import Denied, Invalid, PushServerError, TooMany, Unavailable
from pushserver.protocols import centrifuge
from pushserver.protocols.centrifuge import CommandError
from pushserver.resources.api_calls import (
    BatchCall,
    BroadcastCall,
    Call,
    ChannelsCall,
    DisconnectCall,
    DisconnectCode,
    HistoryCall,
    InfoCall,
    OneChannelCall,
    PublishCall,
    RefreshCall,
    SubscribeCall,
    UnsubscribeCall,
    UserCall,
    draft_of,
    invitation_of,
)
from pushserver.resources.top import Load
from pushserver.sessions.history_request import history_result
from pushserver.sessions.node import Node
from pushserver.sessions.orders import (
    End,
    Order,
    Prolong,
    Subscribe,
    Unsubscribe,
    carry_out,
    invitations,
)


class Methods:
    """The methods of the API, for a caller with this key; `publisher` is its name.

    `sources` returns the state of the sources, `load` that of channels and peers. `denied` is the
    last reason why a command of a batch was denied.
    """

    def __init__(
        self,
        node: Node,
        sources: Callable[[], list[Any]],
        load: Load,
        key: Key,
        publisher: str = "",
    ):
        self._node = node
        self._sources = sources
        self._load = load
        self._key = key
        self._publisher = publisher
        self.denied = ""

    async def call(self, name: str, body: bytes) -> dict[str, object]:
        """Return `{"result": ...}`, or `{"error": ...}` for any error that a caller can cause.

        Raises Denied if the key does not permit this call, and TooMany.
        """
        try:
            method = METHODS[name]
            call = msgspec.json.decode(body, type=method.kind)
            self._check(method, call)
            return {"result": await method.run(self, call)}
        except (Denied, TooMany):
            raise
        except MALFORMED as error:
            return api_error(Invalid(str(error)))
        except PushServerError as error:
            if not error.centrifuge_code:
                raise
            return api_error(error)

    def _check(self, method: Method, call: Call) -> None:
        """Return if the key and the rules permit the method on all channels; raise Denied."""
        if method.scope is None:
            return
        channels: Sequence[str | None] = getattr(
            call, "channels", (getattr(call, "channel", None),)
        )
        if method.filters or not channels:
            self._key.check_scope(method.scope)
            return
        for channel in channels:
            self._key.check(method.scope, channel)
            if method.action is not None and channel is not None:
                self._node.permissions.check_somebody(method.action, check_name(channel))

    def draft(self, body: bytes) -> Draft:
        """The draft of a call of `publish`; raises also the errors that `call` would answer."""
        call = msgspec.json.decode(body, type=PublishCall)
        self._check(METHODS["publish"], call)
        return self._draft(call)

    def _draft(self, call: PublishCall) -> Draft:
        channel = check_name(call.channel)
        return structs.replace(draft_of(call), channel=channel, publisher=self._publisher)

    async def publish(self, call: PublishCall) -> object:
        return position(await self._node.publish(self._draft(call)))

    async def broadcast(self, call: BroadcastCall) -> object:
        if len(call.channels) > MAX_CHANNELS:
            raise Invalid(f"{len(call.channels)} channels, expected {MAX_CHANNELS} at most")
        # All channels are checked before the first publication. The drafts share data and tags:
        # a copy for each channel could take 1,000 MB.
        draft = structs.replace(draft_of(call), publisher=self._publisher)
        drafts = [structs.replace(draft, channel=check_name(channel)) for channel in call.channels]
        return {"responses": [await self._response(draft) for draft in drafts]}

    async def _response(self, draft: Draft) -> object:
        try:
            receipt = await self._node.publish(draft)
        except (Unavailable, TooMany) as error:
            return self._counted(error)
        return {"result": position(receipt)}

    def _counted(self, error: PushServerError) -> dict[str, object]:
        """The answer for one of several calls, which is no refused request."""
        if isinstance(error, TooMany):
            self._node.metrics.refusals[error.setting] += 1
        return api_error(error)

    async def batch(self, call: BatchCall) -> object:
        if len(call.commands) > MAX_COMMANDS:
            raise Invalid(f"{len(call.commands)} commands, expected {MAX_COMMANDS} at most")
        replies: list[object] = []
        left = MAX_BATCH_BYTES
        for command in call.commands:
            if left <= 0 and "history" in command:
                replies.append(api_error(CommandError(centrifuge.LIMIT_EXCEEDED, TOO_LONG)))
                continue
            reply = await self._reply(command)
            if isinstance(result := reply.get("history"), centrifuge.HistoryResult):
                left -= len(msgspec.json.encode(result)) + ROW_BYTES * len(result.publications)
            replies.append(reply)
        return {"replies": replies}

    async def _reply(self, command: dict[str, Raw]) -> dict[str, object]:
        names = list(command)
        if len(names) != 1 or names[0] not in METHODS or names[0] == "batch":
            message = f"bad request: a command has one method of {KNOWN}, got {names!r:.80}"
            return api_error(CommandError(centrifuge.METHOD_NOT_FOUND, message))
        try:
            answer = await self.call(names[0], bytes(command[names[0]]))
        except Denied as error:
            self.denied = str(error)
            return api_error(error)
        except TooMany as error:
            return self._counted(error)
        return {names[0]: answer["result"]} if "result" in answer else answer

    async def history(self, call: HistoryCall) -> object:
        limit = call.limit or 0
        if limit < -1:
            raise Invalid(f"limit is {limit}, expected -1 or more")
        name = check_name(call.channel)
        request = centrifuge.HistoryRequest(name, limit, call.since, bool(call.reverse))
        return await history_result(self._node, name, request)

    async def history_remove(self, call: OneChannelCall) -> object:
        await self._node.clear(check_name(call.channel))
        return {}

    async def presence(self, call: OneChannelCall) -> object:
        clients = await self._node.presence.clients(check_name(call.channel))
        return centrifuge.PresenceResult(
            {name: centrifuge.info(client) for name, client in clients.items()}
        )

    async def presence_stats(self, call: OneChannelCall) -> object:
        channel = check_name(call.channel)
        return centrifuge.PresenceStatsResult(*await self._node.presence.stats(channel))

    async def channels(self, call: ChannelsCall) -> object:
        pattern = call.pattern or "*"
        if len(pattern) > MAX_PATTERN:
            raise Invalid(f"pattern: {len(pattern)} characters, expected {MAX_PATTERN} at most")
        # Not fnmatchcase: that caches 32,768 compiled patterns of up to 60 KB each.
        matches = re.compile(fnmatch.translate(pattern)).match
        watched, history = await self._node.presence.watchers(), self._node.history.channels
        names = watched.keys() | (name for name, channel in history.items() if len(channel))
        found = sorted(name for name in names if matches(name) and name in self._key.channels)
        return {"channels": {name: {"num_clients": watched.get(name, 0)} for name in found}}

    async def info(self, call: InfoCall) -> object:
        info = self._info(self._node.hub.channels(), self._load.measures.whole())
        return {"nodes": [info | {"uptime": int(info["uptime"])}]}

    async def nodes(self, call: InfoCall) -> object:
        return {"nodes": await self._node.list_nodes()}

    async def top(self, call: InfoCall) -> object:
        watched = self._node.hub.channels()
        whole = self._load.measures.whole()
        load = self._load.answer(watched, whole)
        return self._info(watched, whole) | {"time": self._node.clock()} | load

    def _info(self, watched: Mapping[str, int], whole: Measure) -> dict[str, Any]:
        node = self._node
        users = self._load.measures.users().union(peer.info.user for peer in node.peers)
        return {
            "uid": node.history.epoch,
            "name": "pushserver",
            "version": node.version,
            "num_clients": whole.clients,
            "num_users": len(users),
            "num_subs": sum(watched.values()),
            "num_channels": len(watched),
            "uptime": round(whole.uptime, 3),
            "metrics": {"interval": 0.0, "items": whole.metrics.items()},
            "sources": self._sources(),
        }

    async def disconnect(self, call: DisconnectCall) -> object:
        end = call.disconnect or DisconnectCode()
        code = end.code or centrifuge.FORCE_NO_RECONNECT
        if not 3000 <= code <= 4999:
            raise Invalid(f"disconnect.code is {code}, expected 3000 to 4999")
        reason, spared = end.reason or "force disconnect", tuple(call.whitelist or ())
        return await self._order(End(*_connections(call), code, reason, spared))

    async def subscribe(self, call: SubscribeCall) -> object:
        channel, position = check_name(call.channel), None
        invitation = invitation_of(call)
        self._check_time(call.expire_at)
        if call.recover_since is not None:
            position = Position(call.recover_since.epoch, call.recover_since.offset)
            history = self._node.history
            await self._node.load((channel,), position.offset > history.top(channel))
            resumed = history.resume(channel, position)
            if resumed.reason:
                message = f"recover_since: unrecoverable position: {resumed.reason}"
                raise CommandError(centrifuge.UNRECOVERABLE, message)
        invitation = replace(invitation, position=position)
        order = Subscribe(*_connections(call), channel, invitation)
        for session, planned in invitations(self._node, order):
            await session.invite(channel, planned)
        await self._node.tell_others(order)
        return {}

    async def unsubscribe(self, call: UnsubscribeCall) -> object:
        channel, connections = check_name(call.channel), _connections(call)
        reason = "unsubscribed by the server"
        return await self._order(
            Unsubscribe(*connections, channel, centrifuge.UNSUBSCRIBED, reason)
        )

    async def refresh(self, call: RefreshCall) -> object:
        """End the connections if they are expired, or give them another end."""
        expires = call.expire_at or 0
        _check_unit(expires)
        expired = call.expired or 0 < expires <= self._node.clock()
        connections = _connections(call)
        if expired:
            return await self._order(End(*connections, centrifuge.EXPIRED, "expired"))
        return await self._order(Prolong(*connections, expires)) if expires else {}

    async def _order(self, order: Order) -> object:
        carry_out(self._node, order)
        await self._node.tell_others(order)
        return {}

    async def reload(self, call: InfoCall) -> object:
        return await self._node.reload()

    def _check_time(self, expire_at: int) -> None:
        _check_unit(expire_at)
        if expire_at < 0 or 0 < expire_at <= self._node.clock():
            raise CommandError(
                centrifuge.REQUEST_EXPIRED, f"expire_at is {expire_at}, expected a time to come"
            )


def _connections(call: UserCall) -> tuple[str, str | None, str | None]:
    return call.user, call.client, call.session


def _check_unit(expire_at: int) -> None:
    if expire_at >= LATEST:
        raise Invalid(f"expire_at is {expire_at!r:.40}, expected Unix seconds, not milliseconds")


MAX_CHANNELS = 1_000
MAX_COMMANDS = 1_000
MAX_BATCH_BYTES = 8_388_608
"""The histories in the answer to a batch; the command that exceeds it is still answered."""
ROW_BYTES = 128
"""The memory of a publication in an answer besides its text, roughly."""
TOO_LONG = (
    f"the histories of this batch have more than {MAX_BATCH_BYTES} bytes: ask for this one in"
    " another request"
)
MAX_PATTERN = 256
"""In characters; twice the longest name of a channel."""


@dataclass(frozen=True, slots=True)
class Method:
    """A method: its request, the function, and the scope that the key of the caller needs.

    The scope is for the channel, or each of the channels, of the call; a call without a channel
    is for the whole server. `action`: what the rules of the channel may forbid even to keys
    (`nobody`). `filters`: the method leaves out the channels that the key is not for.
    """

    kind: type[Call]
    run: Callable[[Methods, Any], Awaitable[object]]
    scope: Scope | None
    action: Action | None = None
    filters: bool = False


METHODS = {
    "publish": Method(PublishCall, Methods.publish, "publish", "publish"),
    "broadcast": Method(BroadcastCall, Methods.broadcast, "publish", "publish"),
    "batch": Method(BatchCall, Methods.batch, None),
    "history": Method(HistoryCall, Methods.history, "read", "history"),
    "history_remove": Method(OneChannelCall, Methods.history_remove, "admin"),
    "presence": Method(OneChannelCall, Methods.presence, "read", "presence"),
    "presence_stats": Method(OneChannelCall, Methods.presence_stats, "read", "presence"),
    "channels": Method(ChannelsCall, Methods.channels, "read", filters=True),
    "info": Method(InfoCall, Methods.info, "admin"),
    "top": Method(InfoCall, Methods.top, "admin"),
    "nodes": Method(InfoCall, Methods.nodes, "admin"),
    "subscribe": Method(SubscribeCall, Methods.subscribe, "admin", "subscribe"),
    "unsubscribe": Method(UnsubscribeCall, Methods.unsubscribe, "admin"),
    "disconnect": Method(DisconnectCall, Methods.disconnect, "admin"),
    "refresh": Method(RefreshCall, Methods.refresh, "admin"),
    "reload": Method(InfoCall, Methods.reload, "admin"),
}
KNOWN = ", ".join(METHODS)
WITHOUT_PROOF = frozenset(
    {"publish", "broadcast", "history", "presence", "presence_stats", "channels", "info"}
)
"""Methods that neither delete nor disconnect, nor show addresses of clients. Without a key, the
others (also `batch`, which may contain them) need proof that the caller is a program of the
server's own user."""


def position(receipt: Receipt) -> dict[str, object]:
    """The result of a publication."""
    return {"offset": receipt.offset, "epoch": receipt.epoch}


def api_error(failed: PushServerError) -> dict[str, object]:
    """The answer `{"error": {"code", "message"}}`."""
    error = centrifuge.error_object(failed)
    return {"error": {"code": error.code, "message": error.message}}
