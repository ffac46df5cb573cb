"""Lists the clients of a channel, and pushes their joins and leaves to observers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from pushserver.channels.publication import ClientInfo
from pushserver.hub.audience import Subscriber
from pushserver.hub.hub import Hub
from pushserver.protocols import centrifuge


class Observer(Subscriber, Protocol):
    """A subscriber that asked for pushes of joins and leaves."""

    def push(self, text: bytes) -> None:
        """Send one push of the Centrifuge protocol."""


class Presence:
    """A view of the hub's subscribers, and the observers of each channel.

    Joins and leaves are pushed only in channels with at most `announced_audience` subscribers:
    pushing each of n joins to n subscribers is n squared, and of no use in a crowd.
    """

    def __init__(self, hub: Hub, announced_audience: int):
        self._hub = hub
        self.announced_audience = announced_audience
        self._observers: dict[str, dict[Observer, None]] = {}
        # Only of subscriptions with a `chan_info`.
        self._infos: dict[tuple[str, Subscriber], ClientInfo] = {}
        hub.on_join.append(self._joined)
        hub.on_leave.append(self._left)

    def reconfigure(self, announced_audience: int) -> None:
        """Change the bound; the options of channels may have changed before."""
        self.announced_audience = announced_audience

    async def clients(self, channel: str) -> dict[str, ClientInfo]:
        """The channel's subscribers by the id of their connection; may raise Unavailable."""
        return {s.info.client: self.info(channel, s) for s in self._hub.subscribers(channel)}

    async def stats(self, channel: str) -> tuple[int, int]:
        """The number of connections that subscribe, and of their different users.

        May raise Unavailable.
        """
        users = {subscriber.info.user for subscriber in self._hub.subscribers(channel)}
        return self._hub.size(channel), len(users)

    async def watchers(self) -> dict[str, int]:
        """The number of subscribers of each channel that has any, as far as it is known."""
        return self._hub.channels()

    def info(self, channel: str, subscriber: Subscriber) -> ClientInfo:
        """The subscriber as a member of the channel."""
        if not self._infos:
            return subscriber.info
        return self._infos.get((channel, subscriber), subscriber.info)

    def describe(self, channel: str, subscriber: Subscriber, chan_info: bytes) -> None:
        """Set the `chan_info` of the subscription, JSON text, until the subscriber leaves.

        Others get it with the join of a subscriber that joins in this turn.
        """
        self._infos[channel, subscriber] = replace(subscriber.info, chan_info=chan_info)

    def forget(self, channel: str, subscriber: Subscriber) -> None:
        """Forget the `chan_info` of the subscription."""
        if self._infos:
            self._infos.pop((channel, subscriber), None)

    def observe(self, channel: str, observer: Observer) -> None:
        """Push joins and leaves to this subscriber of the channel, until it leaves itself."""
        self._observers.setdefault(channel, {})[observer] = None

    def ignore(self, channel: str, subscriber: Subscriber) -> None:
        """Push no more joins and leaves to this subscriber; does nothing if none were."""
        observers = self._observers.get(channel)
        if observers is not None:
            observers.pop(subscriber, None)  # type: ignore[call-overload]
            if not observers:
                del self._observers[channel]

    def own_join(self, channel: str, observer: Observer) -> bytes:
        """The push of the observer's own join, which Centrifugo sends too; empty for no observer.

        It is not among those of `_joined`, because it comes after the reply to the subscribe.
        """
        observers = self._observers.get(channel)
        if not observers or observer not in observers:
            return b""
        if self._is_crowd(channel):
            return b""
        return centrifuge.join_push(channel, self.info(channel, observer))

    def _is_crowd(self, channel: str) -> bool:
        """Whether the channel has too many subscribers for joins and leaves."""
        return self._hub.size(channel) > self.announced_audience

    def _joined(self, channel: str, subscriber: Subscriber) -> None:
        self._push(channel, self.info(channel, subscriber), centrifuge.join_push)

    def _left(self, channel: str, subscriber: Subscriber) -> None:
        if channel in self._observers:
            self.ignore(channel, subscriber)
            self._push(channel, self.info(channel, subscriber), centrifuge.leave_push)
        self.forget(channel, subscriber)

    def _push(
        self, channel: str, info: ClientInfo, push: Callable[[str, ClientInfo], bytes]
    ) -> None:
        observers = self._observers.get(channel)
        if observers and not self._is_crowd(channel):
            text = push(channel, info)
            for observer in tuple(observers):
                observer.push(text)
