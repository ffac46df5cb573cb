"""The subscribers that other nodes have in the channels of which this node pushes the joins."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from pushserver.channels.publication import ClientInfo
from pushserver.errors import PushServerError
from pushserver.redis import presence_scripts
from pushserver.redis.commands import ErrorReply, Gone
from pushserver.redis.connection import Session
from pushserver.redis.failures import Failures
from pushserver.redis.keys import Keys
from pushserver.redis.presence_scripts import Found, OtherTerms, members_of
from pushserver.redis.registry import NODE_SECONDS
from pushserver.redis.rows import Change, Changed

OBSERVED_SECONDS = 60.0
"""The log has the joins and leaves of an observed channel for this time; then it is observed again,
or not."""
RENEW_SECONDS = 10.0
"""The interval in which a node observes its channels again."""
AT_ONCE = 500
"""The channels of one such call."""
WAITING = 1_000
"""The most changes of a channel that wait for its subscribers, which are read again then."""
COUNTS_SECONDS = 1.0
"""The numbers of all channels are read again after this time, if somebody wants them."""
FEW = 1_000
"""Up to as many subscribers are read in one call, which holds up all others at the server."""
ATTEMPTS = 5
"""The terms of all nodes may change between two calls; not as often as this."""
FOREIGN = "the presence in Redis is not as a server writes it"

Id = tuple[int, int]
"""The id of an entry of the log."""


class Others(NamedTuple):
    """The subscribers of other nodes in a channel, by client.

    `total` and `users` count those of all nodes, and the different users.
    """

    others: dict[str, ClientInfo]
    total_of_others: int
    total: int
    users: int


class _Member(NamedTuple):
    term: str
    info: ClientInfo


class _Roster:
    """The subscribers of other nodes in a channel, as the observers were told.

    `members` is None until they are read, and while there are too many. While they are read, the
    changes are `waiting`. The first reading may take several calls: the changes after the first
    call and up to the last one are `news` for the observers, though `members` have them.
    """

    __slots__ = ("is_crowd", "members", "news", "waiting")

    def __init__(self) -> None:
        self.members: dict[str, _Member] | None = None
        self.is_crowd = False
        self.news: tuple[Id, Id] | None = None
        self.waiting: list[tuple[Id, str, Change | None]] | None = None


class Rosters:
    """The subscribers of other nodes in the observed channels; read from Redis, and then the log.

    `push` is called with a channel, whether a client has joined or left, and its facts. After the
    node was away for longer than the log, the difference is pushed; and after a loss of data, when
    the other nodes have told of their subscribers again. `session` returns that of the writer, if
    there is one; `is_own` tells the terms of this node.
    """

    _log = Logger()

    def __init__(
        self,
        keys: Keys,
        session: Callable[[], Session | None],
        monotonic: Callable[[], float],
        is_own: Callable[[str], bool],
        failures: Failures,
    ):
        self.push: Callable[[str, bool, ClientInfo], None] = lambda *_: None
        self.most: Callable[[], int] = lambda: 0
        """Returns the most subscribers of a channel whose joins and leaves are pushed."""
        self._keys = keys
        self._session = session
        self._monotonic = monotonic
        self._is_own = is_own
        self._failures = failures
        self._rosters: dict[str, _Roster] = {}
        self._terms: tuple[str, ...] = ()
        self._counts: dict[str, int] = {}
        self._counted = float("-inf")
        self._renewed = monotonic()
        # The time at which all are read again, and those that are, one after the other.
        self._again_at: float | None = None
        self._queue: dict[str, None] = {}
        self._works = False

    # --- for presence ---------------------------------------

    def observe(self, channel: str) -> None:
        """Push the joins and leaves of a channel from now on."""
        if channel not in self._rosters:
            self._rosters[channel] = _Roster()
            self._start(channel)

    def ignore(self, channel: str) -> None:
        """Push those of a channel no more."""
        self._rosters.pop(channel, None)
        self._queue.pop(channel, None)

    def size(self, channel: str) -> int | None:
        """The number of subscribers of others in an observed channel; None if there are too many.

        0 if it is not known.
        """
        roster = self._rosters.get(channel)
        if roster is None:
            return 0
        return None if roster.is_crowd else len(roster.members or ())

    async def read(self, channel: str, whole: bool = False) -> Others:
        """Read who is in a channel; if there are more than FEW, only if `whole`.

        Raises Unavailable.
        """
        session = self._session()
        if session is None:
            raise self._failures.away()
        try:
            _, found = await self._read(session, channel, FEW)
            others: dict[str, ClientInfo] = {}
            number = 0
            for term, size in found.sizes.items():
                if self._is_own(term):
                    continue
                number += size
                if term in found.members:
                    others |= found.members[term]
                elif size and whole:
                    key = self._keys.members(term, channel)
                    others |= members_of(await session.send([b"HGETALL", key]))
        except Gone:
            raise self._failures.away() from None
        except ErrorReply as error:
            raise self._failures.refused(error) from None
        except ValueError:
            raise self._failures.of(FOREIGN) from None
        return Others(others, number, found.total, found.users)

    async def counts(self) -> dict[str, int]:
        """The number of subscribers of each channel, COUNTS_SECONDS ago or less.

        Raises Unavailable.
        """
        now = self._monotonic()
        if now - self._counted >= COUNTS_SECONDS:
            session = self._session()
            if session is None:
                raise self._failures.away()
            counts: dict[str, int] = {}
            place = b""
            try:
                while place != b"0":
                    part = [place or b"0", b"COUNT", b"%d" % FEW]
                    place, found = await session.send([b"HSCAN", self._keys.counts, *part])
                    numbers = zip(found[::2], found[1::2], strict=True)
                    counts |= {name.decode(): int(number) for name, number in numbers}
            except Gone:
                raise self._failures.away() from None
            except ErrorReply as error:
                raise self._failures.refused(error) from None
            except ValueError:
                raise self._failures.of(FOREIGN) from None
            self._counted, self._counts = now, counts
        return self._counts

    # --- the log ---------------------------------------

    def changed(self, entry: Changed, place: Id) -> None:
        """Handle an entry of the log."""
        if not entry.changes:
            for channel, roster in tuple(self._rosters.items()):
                self._take(channel, roster, place, entry.term, None)
            return
        for change in entry.changes:
            found = self._rosters.get(change.channel)
            if found is not None:
                self._take(change.channel, found, place, entry.term, change)

    def jumped(self, is_new: bool) -> None:
        """The log goes on elsewhere, without some changes; `is_new`: it may have lost data."""
        for roster in self._rosters.values():
            roster.news = None
            if roster.waiting is not None:
                roster.waiting.clear()
        now = self._monotonic()
        # Also what is lost: whether these channels are observed.
        self._renewed = float("-inf")
        self._again_at = now + 2 * NODE_SECONDS if is_new else now

    async def work(self) -> None:
        """Do what is due; called again and again."""
        session, now = self._session(), self._monotonic()
        if session is None or self._works:
            return
        self._works = True
        try:
            if now - self._renewed >= RENEW_SECONDS:
                await self._renew(session)
                self._renewed = now
            if self._again_at is not None and now >= self._again_at:
                self._again_at = None
                self._queue.update(dict.fromkeys(self._rosters))
            for channel in list(self._queue):
                self._queue.pop(channel, None)
                await self._load(channel)
        except PushServerError:
            # The writer has the same session, and notices.
            pass
        finally:
            self._works = False

    async def _renew(self, session: Session) -> None:
        """Observe the channels again; read those again that may be no crowd any more."""
        names = list(self._rosters)
        for start in range(0, len(names), AT_ONCE):
            part = names[start : start + AT_ONCE]
            ms = round(OBSERVED_SECONDS * 1000)
            call = presence_scripts.observe(self._keys, session.run, part, ms)
            await session.send(call.evalsha)
        for channel, roster in self._rosters.items():
            if roster.members is None:
                self._queue[channel] = None

    # --- one channel ---------------------------------------

    def _start(self, channel: str) -> None:
        """Read a channel now."""
        loading = Deferred.fromCoroutine(self._load(channel))
        loading.addErrback(lambda failure: failure.trap(PushServerError))
        loading.addErrback(
            lambda failure: self._log.failure(
                "the presence in Redis failed", failure, event_name="redis_failed"
            )
        )

    async def _load(self, channel: str) -> None:
        """Read the subscribers of a channel, and push what is new; raises a PushServerError."""
        session, roster = self._session(), self._rosters.get(channel)
        if roster is None or roster.waiting is not None:
            return
        if session is None:
            self._queue[channel] = None
            return
        waiting = roster.waiting = []
        try:
            first, found = await self._read(session, channel, self.most(), OBSERVED_SECONDS)
        except PushServerError:
            self._queue[channel] = None
            raise
        finally:
            roster.waiting = None
        if len(waiting) > WAITING:
            self._queue[channel] = None
        if self._rosters.get(channel) is roster:
            is_first = roster.members is None and not roster.is_crowd
            self._install(channel, roster, found)
            if is_first and roster.members is not None:
                roster.news = first, found.place
            for place, term, change in waiting:
                if place > found.place or roster.news is not None:
                    self._take(channel, roster, place, term, change)

    def _install(self, channel: str, roster: _Roster, found: Found) -> None:
        before = roster.members
        if found.total > self.most():
            roster.members, roster.is_crowd = None, True
            return
        roster.members, roster.is_crowd = {}, False
        for term, infos in found.members.items():
            roster.members |= {name: _Member(term, info) for name, info in infos.items()}
        for term, infos in found.members.items():
            if self._is_own(term):
                for name in infos:
                    roster.members.pop(name, None)
        if before is not None:
            for name in before.keys() - roster.members.keys():
                self.push(channel, False, before[name].info)
            for name in roster.members.keys() - before.keys():
                self.push(channel, True, roster.members[name].info)

    def _take(
        self, channel: str, roster: _Roster, place: Id, term: str, change: Change | None
    ) -> None:
        """Handle a change of a channel, or the end of a term."""
        if roster.waiting is not None:
            if len(roster.waiting) <= WAITING:
                roster.waiting.append((place, term, change))
            return
        if roster.news is not None:
            after, last = roster.news
            if place <= last:
                if place > after and change is not None and not self._is_own(term):
                    self.push(channel, change.has_joined, change.info)
                return
            roster.news = None
        members = roster.members
        if change is None:
            gone = [name for name, member in (members or {}).items() if member.term == term]
            for name in gone:
                assert members is not None, "nobody is there"
                self.push(channel, False, members.pop(name).info)
            return
        if change.total > self.most():
            roster.members, roster.is_crowd = None, True
            return
        if members is None:
            if roster.is_crowd:
                # Now there is room for all.
                self._start(channel)
            return
        client = change.info.client
        before = members.get(client)
        if self._is_own(term):
            # It came with a worker of a main process that has died.
            if before is not None and change.has_joined:
                del members[client]
        elif change.has_joined:
            members[client] = _Member(term, change.info)
            if before is None:
                self.push(channel, True, change.info)
        elif before is not None and before.term == term:
            del members[client]
            self.push(channel, False, change.info)

    async def _read(
        self, session: Session, channel: str, most: int, observed_seconds: float = 0
    ) -> tuple[Id, Found]:
        """What is found, and the place of the log at the first of the calls that this took."""
        first: Id | None = None
        ms = round(observed_seconds * 1000)
        for _ in range(ATTEMPTS):
            terms = self._terms
            call = presence_scripts.read(self._keys, session.run, channel, terms, most, ms)
            answer = await session.send(call.evalsha)
            try:
                found = presence_scripts.read_of(terms, answer)
            except ValueError as error:
                raise self._failures.of(f"{channel}: {error!s:.200}") from None
            if first is None:
                first = found.place
            if not isinstance(found, OtherTerms):
                return first, found
            self._terms = found.terms
        raise self._failures.away()
