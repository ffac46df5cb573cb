"""The log of a node in Redis: two connections, and the checks that neither is deaf."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.publication import Draft, Receipt
from pushserver.config.redis_url import Address
from pushserver.errors import Unavailable
from pushserver.hub.follower import Follower, Point
from pushserver.redis.commands import ErrorReply
from pushserver.redis.connection import Connection, Place, Session, new_node
from pushserver.redis.dial import ANSWER_SECONDS
from pushserver.redis.failures import Failures
from pushserver.redis.keys import Keys
from pushserver.redis.leases import Leases, NoMemory, Remembered
from pushserver.redis.problems import SILENT, STARTING, Problem
from pushserver.redis.registry import Registry
from pushserver.redis.roll import Roll
from pushserver.redis.rosters import Rosters
from pushserver.redis.rows import Changed, Id, Ordered
from pushserver.redis.scripts import Bounds, Known
from pushserver.redis.sentinel import Sentinels, Watch
from pushserver.redis.state import State
from pushserver.redis.tail import PACE_SECONDS, Tail
from pushserver.redis.upkeep import Upkeep
from pushserver.redis.writer import Writer

CHECK_SECONDS = 0.5
"""The interval of the checks."""
ALIVE_SECONDS = 2.0
"""The interval in which the end of the log is read, past the tail."""
BEHIND_SECONDS = 1.0
"""A tail that has not come to the end of the log, nor moved, for this time is deaf."""
REASONS = 10
"""The lines about one outage: one for each reason."""


class RedisLog:
    """The log in one Redis server (`hub.follower.Log`), from `start` to `stop`.

    `feed` comes before the start. `options` are those of each channel, `seconds` is the steady
    clock of the reactor. `has_room` tells whether the fan-out can take another publication of a
    channel; while it cannot, the log is not read. `memory` is that of the sources.
    `name`: that of this node, which no other one may have; empty for none. `shard` is the number of
    the log, and `place` that among several: the first one has the registry and the presence of all.
    """

    make_connection: Callable[..., Connection] = Connection
    pace_seconds = PACE_SECONDS
    _log = Logger()

    def __init__(
        self,
        address: Address,
        reactor: Any,
        seconds: Callable[[], float],
        options: Callable[[str], ChannelOptions],
        bounds: Bounds | None = None,
        keys: Keys | None = None,
        has_room: Callable[[str], bool] = lambda channel: True,
        memory: Remembered | None = None,
        name: str = "",
        shard: int = 0,
        place: Place | None = None,
    ):
        self.node = new_node()
        """The name of this process in the log."""
        self.ordered: Callable[[bytes], None] = lambda text: None
        """Called with each order of another node."""
        self._address = address
        self._reactor = reactor
        self._seconds = seconds
        self.keys = own = keys or Keys()
        failures = Failures(
            lambda: self._problem.short, seconds, "" if place is None else f"shard {shard}: "
        )
        self._writer = Writer(
            own,
            self.node,
            options,
            bounds or Bounds(),
            seconds,
            has_passed=lambda epoch, place: self._tail.has_passed(epoch, place),
            sees=lambda epoch: self._tail.sees(epoch),
            again=self._writer_again,
            failures=failures,
            fence=lambda lease: self.leases.fence(lease),
        )
        self._tail = Tail(
            own,
            seconds,
            ask=self._writer.images,
            passed=self._writer.passed,
            again=lambda reason: self._reading.again(reason),
            has_room=has_room,
            pause=self._wait,
            hurries=lambda: self._writer.busy,
            failures=failures,
            pace=self.pace_seconds,
            shard=shard,
        )

        self._tail.ordered = self._ordered
        self._upkeep = Upkeep(own, options, lambda: self._writer.session, seconds, shard)
        self.leases = Leases(
            own,
            self.node,
            lambda: self._writer.session,
            seconds,
            memory or NoMemory(),
            self._writer.refused,
            shard,
        )
        """What this node does for all."""
        self.roll = Roll(
            own,
            self.node,
            lambda: self._writer.session,
            seconds,
            reactor.callLater,
            lambda: self._writer.bounds.log_length,
        )
        """The subscribers of this node, for the others."""
        self.rosters = Rosters(
            own, lambda: self._writer.session, seconds, self.roll.is_own, failures
        )
        """Those of the others."""
        self._tail.changed = self._changed
        self._tail.jumped = self.rosters.jumped
        self.registry = Registry(
            own,
            self.node,
            name,
            lambda: self._writer.session,
            self._writer_again,
            seconds,
            failures,
            self._not_listed,
        )
        """The nodes."""
        self._is_first = shard == 0
        self._place = place

        def connection(made: Callable[[Session], None], lost: Callable[[], None]) -> Connection:
            return self.make_connection(
                address,
                reactor,
                seconds,
                own,
                self.node,
                made,
                lost,
                self._failed,
                self._enter,
                self._known,
                place,
            )

        self._writing = connection(self._can_write, self._writer.lost)
        self._reading = connection(self._can_read, self._tail.lost)
        self._watch: Watch | None = None
        if address.sentinels:
            self._watch = Watch(Sentinels(address, reactor).master, self._leave_for, seconds)
        self._server = ""
        self._next_check: IDelayedCall | None = None
        self._next_work: IDelayedCall | None = None
        self._asking: Deferred[Any] | None = None
        self._asked_at = 0.0
        # The end of the log and the tail's place, when they were last compared, and the time.
        self._compared: tuple[int, tuple[int, int], float] | None = None
        self._deaf_since: float | None = None
        self._problem = Problem("not connected yet", STARTING)
        self._losses = 0
        self._told: set[str] = set()
        self._waiting: set[Deferred[None]] = set()

    async def _enter(self, session: Session) -> None:
        if self._is_first:
            await self.registry.enter(session.send, session.run)
        if self._place is not None:
            await self._place.enter(session)

    @property
    def session(self) -> Session | None:
        """That of the writer, if there is one."""
        return self._writer.session

    def _known(self) -> list[Known]:
        return [self._writer.known, self._tail.known]

    def feed(self, follower: Follower) -> None:
        """Pass the changes to this follower."""
        self._tail.follower = follower
        self._writer.metrics = follower.metrics

    def reconfigure(self, bounds: Bounds) -> None:
        """Change the bounds of the whole log."""
        self._writer.bounds = bounds

    def start(self) -> None:
        """Connect, and stay connected."""
        self._deaf_since = self._seconds()
        self._writing.start()
        self._reading.start()
        self._next_check = self._reactor.callLater(CHECK_SECONDS, self._check)

    def when_attached(self) -> Deferred[None]:
        """Fires when publications are accepted, at once if they are."""
        attached: Deferred[None] = Deferred(self._waiting.discard)
        self._waiting.add(attached)
        if self._deaf_since is None:
            self._fire()
        return attached

    def _fire(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for each in waiting:
            each.callback(None)

    def connect_again(self, reason: str, short: str) -> None:
        """End the present connections, and make others."""
        self._writing.again(reason, short)
        self._reading.again(reason, short)

    def stop(self) -> None:
        """End the connections; what waits for an answer fails."""
        for timer in (self._next_check, self._next_work):
            if timer is not None and timer.active():
                timer.cancel()
        self.roll.stop()
        self._writing.stop()
        self._reading.stop()
        self._writer.give_up()

    @property
    def state(self) -> State:
        """The state of the connections."""
        end = self._compared[0] if self._compared is not None else 0
        lag = max(0, end - self._tail.place[0])
        problem, since = self._problem, self._deaf_since
        short = problem.short or self._writer.refusals.problem
        read = self._tail.entries_read
        return State(since is None, lag, since, problem.text, short, self._losses, read)

    @property
    def states(self) -> list[State]:
        """That of each shard: there is one."""
        return [self.state]

    # --- the log ---------------------------------------

    async def publish(self, draft: Draft) -> Receipt:
        receipt = self._writer.publish(draft)
        self._tail.hurry()
        return await receipt

    async def clear(self, channel: str) -> None:
        await self._writer.clear(channel)

    async def order(self, text: bytes) -> None:
        """Let the other nodes get `text` by `ordered`, in the order of the log.

        A node that was away for longer than the log reaches back does not get it. Raises
        Unavailable.
        """
        await self._writer.order(text)

    def _ordered(self, entry: Ordered) -> None:
        if entry.node != self.node:
            self.ordered(entry.order)

    def _changed(self, entry: Changed, place: Id) -> None:
        if not entry.changes:
            self.roll.over(entry.term)
        self.rosters.changed(entry, place)

    async def settle(self) -> None:
        await self._writer.settle()

    async def follow(self, points: Sequence[Point], names: Sequence[str]) -> None:
        await self._tail.follow(points)

    def leave(self, channels: Sequence[str]) -> None:
        """No-op: the follower gets the publications of the channels that it has."""

    # --- the connections ---------------------------------------

    def _writer_again(self, reason: str) -> None:
        self._writing.again(reason)

    def _not_listed(self, error: ErrorReply, session: Session) -> None:
        self._writer.refused(error, session)
        self.roll.wait()

    def _leave_for(self, named: Address) -> None:
        self._writing.leave_for(named)
        self._reading.leave_for(named)

    def _can_write(self, session: Session) -> None:
        self._server = session.server or str(self._address)
        self._asked_at = self._seconds()
        self._asking = None
        self._writer.connected(session)
        self._tail.ask_again()
        self._tell()

    def _can_read(self, session: Session) -> None:
        self._compared = None
        self._tail.connected(session)
        self._tell()

    def _failed(self, problem: Problem) -> None:
        """One of the connections is lost, or cannot be made; told once for each reason."""
        if self._deaf_since is None:
            self._deaf_since = self._seconds()
            self._losses += 1
        self._problem, reason = problem, problem.text
        if reason not in self._told and len(self._told) < REASONS:
            self._told.add(reason)
            self._log.warn(
                "not attached to Redis at {address}: {reason}; it is tried again",
                address=str(self._address),
                reason=reason,
                event_name="redis_away",
            )

    def _tell(self) -> None:
        """Note that the node is attached, if it is."""
        if self._deaf_since is not None and self._writer.session and self._tail.current:
            self._deaf_since, self._problem = None, Problem("", "")
            self._told.clear()
            self._fire()
            self._log.info(
                "attached to Redis at {address}",
                address=self._server,
                event_name="redis_attached",
            )

    def _wait(self, seconds: float) -> None:
        if self._next_work is not None and self._next_work.active():
            self._next_work.cancel()
        self._next_work = self._reactor.callLater(seconds, self._tail.work)

    # --- the checks ---------------------------------------

    def _check(self) -> None:
        self._next_check = self._reactor.callLater(CHECK_SECONDS, self._check)
        now = self._seconds()
        self._writer.expire()
        self._tail.ask_again()
        self._tell()
        for work in (
            self._upkeep.work(self._tail.follower),
            self.leases.work(),
            *(
                (self.registry.work(), self.roll.work(), self.rosters.work())
                if self._is_first
                else ()
            ),
            *(() if self._place is None else (self._place.work(),)),
            self._writing.check(),
            *([] if self._watch is None else [self._watch.work()]),
        ):
            Deferred.fromCoroutine(work).addErrback(
                lambda failure: self._log.failure(
                    "the upkeep of the log in Redis failed", failure, event_name="redis_failed"
                )
            )
        tail = self._tail
        if tail.attached and not tail.waits and now - tail.heard > ANSWER_SECONDS:
            self._reading.again(f"it has not answered for {ANSWER_SECONDS:.0f} s", SILENT)
        if self._asking is not None:
            if now - self._asked_at > ANSWER_SECONDS:
                self._writing.again(f"it has not answered for {ANSWER_SECONDS:.0f} s", SILENT)
        elif self._writer.session and now - self._asked_at >= ALIVE_SECONDS:
            self._asked_at = now
            self._asking = asking = Deferred.fromCoroutine(self._writer.alive())
            asking.addCallbacks(self._compare, self._not_alive)
        if self._compared is not None:
            end, place, since = self._compared
            if tail.place != place or tail.place[0] >= end or tail.waits or not tail.attached:
                self._compared = end, tail.place, now
            elif now - since > BEHIND_SECONDS:
                self._reading.again(f"it has publications up to {end}, and sent them to {place[0]}")

    def _compare(self, found: tuple[str, int]) -> None:
        epoch, end = found
        self._asking = None
        self._compared = end, self._tail.place, self._seconds()
        self._tail.sees(epoch)

    def _not_alive(self, failure: Failure) -> None:
        failure.trap(Unavailable)
        self._asking = None
