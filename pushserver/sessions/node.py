"""Publishes drafts, and holds the registries that all conversations share."""

from __future__ import annotations

import os
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

from msgspec import structs

from pushserver.auth.keys import Keys
from pushserver.auth.permissions import Permissions
from pushserver.auth.proxies import EVERYONE, NO_PROXIES
from pushserver.auth.publications import Publications
from pushserver.auth.quotas import Addresses, Connections, Users
from pushserver.auth.wrong_keys import WrongKeys
from pushserver.channels.idempotency import key_of
from pushserver.channels.publication import Draft, Publication, Receipt
from pushserver.config.limits import Limits
from pushserver.errors import Invalid, TooMany, Unavailable
from pushserver.hub.broker import Broker, Deliver
from pushserver.hub.fanout import Timer
from pushserver.hub.hub import Hub
from pushserver.hub.presence import Presence
from pushserver.sessions.callbacks import Handlers, NoHandlers
from pushserver.sessions.directory import Directory
from pushserver.sessions.identification import Identification, NoTokens
from pushserver.sessions.orders import Order
from pushserver.sessions.peers import Peers
from pushserver.sessions.replay_cache import Replays
from pushserver.usercode.turns import Turns

LogRefusal = Callable[[int, str | None, str], None]
NoteExcess = Callable[[TooMany, str | None, int], None]


class Node:
    """The server as conversations and resources see it.

    `timer` is the reactor. `clock` gives Unix seconds, which may step; `monotonic` is the steady
    clock. `run` runs a coroutine that nothing awaits, and logs its exception. `report` logs the
    current exception with a line of context. `handlers` is the application. `identification` finds
    the identities of peers; without it, all are anonymous. `closed`: see `auth.permissions`.
    `note_excess` is that of `Excesses`. `publications`: their rates; without it, only users
    have some. `connections`: the code that accepts one counts it. `log_refusal` logs a refused
    command: its code, the client's address, the reason.
    `sessions` and `make_presence` are for a node whose peers another process knows too.
    """

    def __init__(
        self,
        broker: Broker,
        timer: Timer,
        limits: Limits,
        version: str,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        run: Callable[[Coroutine[Any, Any, None]], None],
        report: Callable[[str], None],
        handlers: Handlers | None = None,
        identification: Identification | None = None,
        closed: bool = False,
        note_excess: NoteExcess = lambda *_: None,
        publications: Publications | None = None,
        connections: Connections | None = None,
        log_refusal: LogRefusal = lambda *_: None,
        sessions: Directory | None = None,
        make_presence: Callable[[Hub, int], Presence] = Presence,
    ):
        self.timer = timer
        # Apart from the turns of received bytes: there, many sessions would delay each request.
        self.turns = Turns(timer, monotonic)
        self.history = broker.history
        self.metrics = broker.metrics
        self.sessions = sessions or Directory()
        find = self.sessions.by_client
        self.hub = Hub(broker.history, broker.metrics, timer, monotonic, report, broker.load, find)
        self.presence = make_presence(self.hub, limits.announced_audience)
        self.peers = Peers(report)
        self.replays = Replays()
        self.limits = limits
        self.version = version
        self.clock = clock
        self.monotonic = monotonic
        self.run = run
        self.report = report
        self.handlers = handlers or NoHandlers()
        self.identification = identification or Identification(
            Keys(), NoTokens(), WrongKeys(1), self.handlers, self.metrics, monotonic
        )
        self.permissions = Permissions(self.history.options, self._is_handled, closed)
        self.note_excess = note_excess
        self.log_refusal = log_refusal
        self.users = Users(limits.connections_per_user)
        self.connections = connections or Connections(
            limits.connections, limits.connections_per_address, limits.new_connections_per_second
        )
        self.publications = publications or Publications(
            Addresses(EVERYONE, NO_PROXIES),
            limits.user_publications_per_second,
            limits.key_publications_per_second,
            limits.address_publications_per_second,
            monotonic,
        )
        self.waiting_bytes = 0
        """The bytes of all requests of clients that wait to be handled."""
        self.stopping = False
        self.id_prefix = ""
        """The beginning of ids that come back in requests: other processes know this one by it."""
        self.reload: Callable[[], Awaitable[Mapping[str, object]]] = _no_reload
        """Read the configuration again, and return which settings changed; raises Invalid."""
        self.list_nodes: Callable[[], Awaitable[Sequence[Mapping[str, object]]]] = _no_nodes
        """What the servers with a common log tell about themselves; none if the server is alone.

        Raises Unavailable.
        """
        self.tell_others: Callable[[Order], Coroutine[Any, Any, None]] = _no_others
        """Let the servers with a common log carry out an order too; raises Unavailable."""
        self._broker = broker
        self.has_room: Callable[[str], bool] = self.hub.has_room
        """Whether another publication of a channel can be taken."""
        broker.attach(self.hub.deliver)

    def _is_handled(self, event: str, channel: str) -> bool:
        """Whether a handler of the application decides on this event in the channel."""
        decides = self.handlers.decides if event == "publish" else self.handlers.guards
        return decides(channel)

    def tap(self, tap: Deliver, has_room: Callable[[str], bool]) -> None:
        """Call `tap` with each publication too, after its delivery.

        While `has_room` of a channel is false, its publications are refused.
        """
        hub_has_room = self.hub.has_room
        self.has_room = lambda channel: hub_has_room(channel) and has_room(channel)
        deliver = self.hub.deliver

        def deliver_and_tap(publication: Publication, skip: Sequence[str]) -> None:
            deliver(publication, skip)
            tap(publication, skip)

        self._broker.attach(deliver_and_tap)

    def load(self, channels: Sequence[str], fresh: bool = False) -> Coroutine[Any, Any, None]:
        """Have these channels in `history`; see `Broker.load`."""
        return self._broker.load(channels, fresh)

    def has(self, channels: Sequence[str]) -> bool:
        """Whether these channels are in `history`; see `Broker.has`."""
        return self._broker.has(channels)

    async def publish(self, draft: Draft) -> Receipt:
        """Number, retain and deliver the draft; raises Unavailable or TooMany."""
        try:
            self._check_room(draft)
            return await self._broker.publish(_with_whole_key(draft))
        except Unavailable as error:
            self.metrics.refusals[error.cause] += 1
            raise

    async def append(self, draft: Draft) -> Receipt:
        """Publish a draft whose key is as it is remembered (`key_of`); no refusal is counted."""
        self._check_room(draft)
        return await self._broker.publish(draft)

    @property
    def is_immediate(self) -> bool:
        """Whether `publish_at_once` is possible: no publisher waits for a commit."""
        return self._broker.is_immediate

    def publish_at_once(self, draft: Draft) -> Receipt:
        """The same without waiting; a refusal is not counted, as `publish` follows."""
        self._check_room(draft)
        try:
            self._broker.publish(_with_whole_key(draft)).send(None)
        except StopIteration as done:
            receipt: Receipt = done.value
            return receipt
        raise RuntimeError("an immediate broker waits")

    def _check_room(self, draft: Draft) -> None:
        """Raise Unavailable if no publication is accepted now."""
        if self.stopping:
            raise Unavailable("the server is shutting down", "stopping")
        if not self.has_room(draft.channel):
            message = f"the backlog of {draft.channel} is full: too many undelivered publications"
            raise Unavailable(message, "overloaded")

    async def clear(self, channel: str) -> None:
        """Drop the channel's history; raises Unavailable."""
        await self._broker.clear(channel)

    def expire(self) -> bool:
        """Evict publications by age, and forget empty channels without subscribers.

        One call looks at some of the channels and keys; returns whether more are left.
        """
        return self._broker.expire(self.monotonic(), self.hub.is_watched)

    def stop_publishing(self) -> None:
        """Refuse further publications, and deliver those that were accepted."""
        self.stopping = True
        self.hub.flush()

    async def settle(self) -> None:
        """Wait until every publisher has its answer, and deliver the publications."""
        await self._broker.settle()
        self.hub.flush()


def _with_whole_key(draft: Draft) -> Draft:
    """The draft with its key as it is remembered."""
    if draft.key and draft.publisher:
        return structs.replace(draft, key=key_of(draft.key, draft.publisher))
    return draft


async def _no_others(order: Order) -> None:
    """No-op: the server is alone."""


async def _no_nodes() -> Sequence[Mapping[str, object]]:
    return ()


async def _no_reload() -> Mapping[str, object]:
    raise Invalid("this server is part of another program, which reads its configuration once")


def new_id() -> str:
    """An unguessable id of a client; also a session's secret, which admits its requests."""
    return urlsafe_b64encode(os.urandom(12)).decode()
