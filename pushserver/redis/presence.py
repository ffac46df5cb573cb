"""The presence of several servers: the subscribers of this one, and those of the others."""

from __future__ import annotations

from pushserver.channels.publication import ClientInfo
from pushserver.errors import Unavailable
from pushserver.hub.audience import Subscriber
from pushserver.hub.hub import Hub
from pushserver.hub.presence import Observer, Presence
from pushserver.protocols import centrifuge
from pushserver.redis.roll import Roll
from pushserver.redis.rosters import FEW, Rosters


class SharedPresence(Presence):
    """The presence of all servers on one Redis.

    Own joins and leaves are pushed at once, and those of others when the log has them. Others do
    not know of the subscribers of a channel whose presence nobody may see.
    """

    def __init__(self, hub: Hub, announced_audience: int, roll: Roll, rosters: Rosters):
        super().__init__(hub, announced_audience)
        self._roll = roll
        self._rosters = rosters
        roll.present = self._present
        roll.announced_audience = announced_audience
        rosters.most = lambda: self.announced_audience
        rosters.push = self._push_of_other

    def reconfigure(self, announced_audience: int) -> None:
        super().reconfigure(announced_audience)
        self._roll.announced_audience = announced_audience
        self._roll.renew()
        for channel in self._observers:
            if self._is_shared(channel):
                self._rosters.observe(channel)
            else:
                self._rosters.ignore(channel)

    async def clients(self, channel: str) -> dict[str, ClientInfo]:
        if not self._is_shared(channel):
            return await super().clients(channel)
        found = await self._rosters.read(channel, whole=True)
        return found.others | await super().clients(channel)

    async def stats(self, channel: str) -> tuple[int, int]:
        if not self._is_shared(channel):
            return await super().stats(channel)
        found = await self._rosters.read(channel)
        own = self._hub.size(channel)
        if found.total > FEW:
            return found.total_of_others + own, found.users
        clients = found.others | await super().clients(channel)
        return len(clients), len({info.user for info in clients.values()})

    async def watchers(self) -> dict[str, int]:
        own = await super().watchers()
        try:
            counts = await self._rosters.counts()
        except Unavailable:
            return own
        return counts | {name: max(own[name], counts.get(name, 0)) for name in own}

    def describe(self, channel: str, subscriber: Subscriber, chan_info: bytes) -> None:
        super().describe(channel, subscriber, chan_info)
        if any(channel in audience.tops for audience in subscriber.audiences.values()):
            self._tell_joined(channel, subscriber)

    def observe(self, channel: str, observer: Observer) -> None:
        super().observe(channel, observer)
        if self._is_shared(channel):
            self._rosters.observe(channel)

    def ignore(self, channel: str, subscriber: Subscriber) -> None:
        super().ignore(channel, subscriber)
        if channel not in self._observers:
            self._rosters.ignore(channel)

    def _joined(self, channel: str, subscriber: Subscriber) -> None:
        super()._joined(channel, subscriber)
        self._tell_joined(channel, subscriber)

    def _tell_joined(self, channel: str, subscriber: Subscriber) -> None:
        if self._is_shared(channel):
            self._roll.joined(channel, self.info(channel, subscriber))

    def _left(self, channel: str, subscriber: Subscriber) -> None:
        super()._left(channel, subscriber)
        if self._is_shared(channel):
            self._roll.left(channel, subscriber.info.client)

    def _is_crowd(self, channel: str) -> bool:
        others = self._rosters.size(channel)
        return others is None or self._hub.size(channel) + others > self.announced_audience

    def _is_shared(self, channel: str) -> bool:
        """Whether anybody may see who is in the channel."""
        options = self._hub.history.options(channel)
        return options.presence != "nobody" or options.force_push_join_leave

    def _present(self) -> list[tuple[str, ClientInfo]]:
        return [
            (channel, self.info(channel, subscriber))
            for channel in self._hub.channels()
            if self._is_shared(channel)
            for subscriber in self._hub.subscribers(channel)
        ]

    def _push_of_other(self, channel: str, has_joined: bool, info: ClientInfo) -> None:
        push = centrifuge.join_push if has_joined else centrifuge.leave_push
        self._push(channel, info, push)
