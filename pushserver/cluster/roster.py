"""The peers of a follower: reported to the author, and its orders to them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any

import msgspec

from pushserver.auth.identity import Identity
from pushserver.channels.publication import ClientInfo
from pushserver.cluster.calls import Calls, Run
from pushserver.cluster.messages import (
    Acknowledged,
    Done,
    End,
    Entered,
    Gone,
    Invite,
    Joined,
    Message,
    Observes,
    Parted,
    Present,
    Prolong,
    Push,
    Request,
    Say,
    ToPeer,
    Unsubscribe,
    failed,
)
from pushserver.errors import PushServerError, Unavailable
from pushserver.hub.audience import Subscriber
from pushserver.hub.hub import Hub
from pushserver.hub.presence import Observer, Presence
from pushserver.sessions.callbacks import ClientSession
from pushserver.sessions.directory import Directory, Reader
from pushserver.sessions.visit import UNKNOWN, Visit


def key_hash(identity: Identity) -> bytes:
    """The hash by which another process finds the API key of an identity; empty without one."""
    return b"" if identity.key is None else identity.key.secret


def _admitted_visit(session: Any) -> Visit:
    """What is known of the request of a client that was admitted."""
    protocol, _, transport = session.format.name.removesuffix("-deflate").partition("-")
    if protocol == "centrifuge":
        protocol = transport.replace("-", "_")
    return Visit(session.address or "", protocol)


class Roster(Directory):
    """The peers of this process by number; the author knows those that are admitted or subscribe.

    `run` runs a coroutine that nothing awaits.
    """

    def __init__(self, calls: Calls, run: Run):
        super().__init__()
        self._calls = calls
        self._run = run
        self._numbers: dict[Any, int] = {}
        self._peers: dict[int, Any] = {}
        self._next = count(1)
        # By number: the channels whose joins and leaves the peer wants.
        self._observed: dict[int, dict[str, None]] = {}

    # --- reports ---------------------------------------

    def identify(self, session: ClientSession) -> None:
        super().identify(session)
        self._enter(session)

    def remove(self, session: ClientSession) -> None:
        super().remove(session)
        self._forget(session)

    def refused(self, session: ClientSession) -> None:
        self._forget(session)

    def enter(self, reader: Reader) -> None:
        super().enter(reader)
        self._enter(reader)

    def leave(self, reader: Reader) -> None:
        super().leave(reader)
        self._forget(reader)

    def arrived(self, session: ClientSession) -> int:
        """A client asks to be admitted; return its number."""
        return self._enter(session, is_admitted=False)

    def number(self, session: ClientSession) -> int:
        """The number of a client that has arrived; raises Unavailable if it has left."""
        number = self._numbers.get(session)
        if number is None:
            raise Unavailable("the connection is closed", "worker")
        return number

    def has(self, session: ClientSession) -> bool:
        """Whether the client has arrived; a session of one request never does."""
        return session in self._numbers

    def joined(self, channel: str, subscriber: Subscriber, chan_info: bytes) -> None:
        """A peer has subscribed; it may not be admitted yet."""
        number = self._numbers.get(subscriber)
        if number is None:
            number = self._enter(subscriber)
        self._calls.tell(Joined(number, channel, chan_info))

    def parted(self, channel: str, subscriber: Subscriber) -> None:
        """A peer has unsubscribed."""
        number = self._numbers.get(subscriber)
        if number is not None:
            self._observed.get(number, {}).pop(channel, None)
            self._calls.tell(Parted(number, channel))

    def observes(self, channel: str, subscriber: Subscriber, wanted: bool) -> None:
        """A peer wants joins and leaves from now on, or no longer."""
        number = self._numbers.get(subscriber)
        if number is None or (channel in self._observed.get(number, ())) is wanted:
            return
        if wanted:
            self._observed.setdefault(number, {})[channel] = None
        else:
            del self._observed[number][channel]
        self._calls.tell(Observes(number, channel, wanted))

    def announce(self, chan_info: Callable[[str, Subscriber], bytes]) -> None:
        """Report all peers over a new link."""
        for number, peer in self._peers.items():
            self._tell_entered(number, peer, getattr(peer, "connected", True))
            for audience in peer.audiences.values():
                for channel in audience.tops:
                    self._calls.tell(Joined(number, channel, chan_info(channel, peer)))
        for number, channels in self._observed.items():
            for channel in channels:
                self._calls.tell(Observes(number, channel, True))

    def _enter(self, peer: Any, is_admitted: bool = True) -> int:
        number = self._numbers.get(peer)
        if number is None:
            number = self._numbers[peer] = next(self._next)
            self._peers[number] = peer
        self._tell_entered(number, peer, is_admitted)
        return number

    def _tell_entered(self, number: int, peer: Any, is_admitted: bool = True) -> None:
        is_reader = not hasattr(peer, "secret")
        self._calls.tell(
            Entered(
                number,
                peer.info,
                is_reader,
                "" if is_reader else peer.namespace,
                "" if is_reader else peer.full_namespace,
                "" if is_reader else peer.secret,
                peer.identity.expires,
                key_hash(peer.identity),
                is_admitted,
                UNKNOWN if is_reader else _admitted_visit(peer) if is_admitted else peer.visit,
            )
        )

    def _forget(self, peer: Any) -> None:
        number = self._numbers.pop(peer, None)
        if number is not None:
            del self._peers[number]
            self._observed.pop(number, None)
            self._calls.tell(Gone(number))

    # --- orders ---------------------------------------

    def received(self, message: ToPeer) -> None:
        """Carry out an order; one for a peer that is gone does nothing."""
        peer = self._peers.get(message.peer)
        if isinstance(message, Invite):
            self._run(self._invite(peer, message))
        elif isinstance(message, Request):
            self._request(peer, message)
        elif peer is None:
            return
        elif isinstance(message, Push):
            peer.push(message.text)
        elif isinstance(message, Say):
            # A process of another version may permit more.
            with suppress(PushServerError):
                peer.sender(message.values.data, message.event)()
        elif isinstance(message, Unsubscribe):
            peer.unsubscribe(message.channel, message.code, message.reason)
        elif isinstance(message, Prolong):
            peer.prolong(message.expires)
        elif isinstance(message, End):
            end = peer.disconnect if hasattr(peer, "secret") else peer.end
            end(message.code, message.reason)

    def _request(self, peer: ClientSession | None, message: Request) -> None:
        def answered(arguments: list[Any] | None) -> None:
            self._calls.tell(Acknowledged(message.call, arguments))

        if peer is None:
            answered(None)
            return
        try:
            peer.caller(message.values.data, message.event, answered, message.seconds)()
        except PushServerError:
            answered(None)

    async def _invite(self, peer: ClientSession | None, message: Invite) -> None:
        answer: Message = Done(message.call)
        if peer is not None:
            try:
                await peer.invite(message.channel, message.invitation)
            except PushServerError as error:
                answer = failed(message.call, error)
        self._calls.tell(answer)


class RemotePresence(Presence):
    """The presence of the whole server, as a follower sees it: the author has the lists."""

    def __init__(self, hub: Hub, announced_audience: int, roster: Roster, calls: Calls):
        super().__init__(hub, announced_audience)
        self._roster = roster
        self._calls = calls

    async def clients(self, channel: str) -> dict[str, ClientInfo]:
        found = await self._calls.call(lambda call: Present(call, channel, False))
        return msgspec.convert(found, dict[str, ClientInfo], builtin_types=(bytes,))

    async def stats(self, channel: str) -> tuple[int, int]:
        found = await self._calls.call(lambda call: Present(call, channel, True))
        return msgspec.convert(found, tuple[int, int])

    def observe(self, channel: str, observer: Observer) -> None:
        self._roster.observes(channel, observer, True)

    def ignore(self, channel: str, subscriber: Subscriber) -> None:
        self._roster.observes(channel, subscriber, False)

    def own_join(self, channel: str, observer: Observer) -> bytes:
        """Empty: the author pushes it, after it was told that the observer wants it."""
        return b""

    def _joined(self, channel: str, subscriber: Subscriber) -> None:
        self._roster.joined(channel, subscriber, self.info(channel, subscriber).chan_info)

    def _left(self, channel: str, subscriber: Subscriber) -> None:
        self._roster.parted(channel, subscriber)
        self.forget(channel, subscriber)
