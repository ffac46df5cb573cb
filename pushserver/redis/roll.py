"""The subscribers of this node in Redis, for the others; and the end of those of dead nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from pushserver.channels.publication import ClientInfo
from pushserver.redis import presence_scripts
from pushserver.redis.commands import ErrorReply, Gone
from pushserver.redis.connection import Session
from pushserver.redis.failures import NOT_DONE
from pushserver.redis.keys import Keys
from pushserver.redis.presence_scripts import OVER, TOLD
from pushserver.redis.problems import of_reply
from pushserver.redis.registry import NODE_SECONDS

AT_ONCE = 200
"""The changes of one call, which holds up all others at the server."""
PAUSE_SECONDS = 0.02
"""The least time between two calls, unless the first one had no room for all."""
CHECK_SECONDS = 3.0
"""The interval in which a node without changes asks whether its term is over."""
FINISH_SECONDS = 1.0
"""The interval in which a node looks for others that are gone. After the beginning of a session it
waits for NODE_SECONDS: Redis may have been away for all, and the others are about to come back."""
CLEAN_CHANNELS, CLEAN_MEMBERS = 100, 500
"""The most channels and subscribers of one call that cleans up."""
MOST_CLEANS = 20
"""The calls that clean up, of one interval; another node, or the next one, goes on."""
LOG_SECONDS = 60.0
"""The least time between two lines about refusals."""

Key = tuple[str, str]
"""A channel and a client."""


class Roll:
    """Tells Redis which subscribers this node has, in terms.

    A node whose term is over, because it was silent or Redis has lost it, begins another one with
    all its subscribers. Changes wait here while there is no session; of a subscriber only its last
    one is kept, and none of one that joined and left unseen. So there are at most two for each
    subscriber of the node. `session` returns that of the writer, if there is one.
    """

    _log = Logger()

    def __init__(
        self,
        keys: Keys,
        node: str,
        session: Callable[[], Session | None],
        monotonic: Callable[[], float],
        call_later: Callable[[float, Callable[[], None]], IDelayedCall],
        log_length: Callable[[], int],
    ):
        self.present: Callable[[], Iterable[tuple[str, ClientInfo]]] = tuple
        """Returns all subscriptions that others shall know of."""
        self.announced_audience = 0
        """See `Presence`."""
        self._keys = keys
        self.node = node
        self._session = session
        self._monotonic = monotonic
        self._call_later = call_later
        self._log_length = log_length
        self._terms = 0
        self._term = ""
        self._epoch = ""
        self._version = 0
        # Whether all subscribers were told of in this term: then earlier ones are over.
        self._is_whole = False
        # In the order of the changes; whether Redis may know of the subscriber from an earlier one.
        self._changes: dict[Key, tuple[ClientInfo | None, bool]] = {}
        self._timer: IDelayedCall | None = None
        self._works = self._has_left = False
        self._told = self._refused = float("-inf")
        self._finished = monotonic()
        self._finished_in: Session | None = None

    @property
    def waiting(self) -> int:
        """The number of changes that Redis does not know of."""
        return len(self._changes)

    def is_own(self, term: str) -> bool:
        """Whether this is a term of this node."""
        return term.rpartition(":")[0] == self.node

    # --- changes ---------------------------------------

    def joined(self, channel: str, info: ClientInfo) -> None:
        """A client has joined a channel, or its facts have changed."""
        before = self._changes.pop((channel, info.client), None)
        self._changes[channel, info.client] = info, before is not None and before[1]
        self._hasten()

    def left(self, channel: str, client: str) -> None:
        """A client has left a channel."""
        before = self._changes.pop((channel, client), None)
        if before is None or before[1]:
            self._changes[channel, client] = None, True
            self._hasten()

    def renew(self) -> None:
        """Begin another term: other subscriptions are `present` now."""
        self._epoch = ""
        self._told = float("-inf")

    def wait(self) -> None:
        """Look for nodes that are gone later: Redis may have refused all, as it has this one."""
        self._finished = self._monotonic() + NODE_SECONDS

    def stop(self) -> None:
        """Tell no more."""
        self._has_left = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _hasten(self) -> None:
        if self._timer is None and not self._works and not self._has_left:
            pause = self._told + PAUSE_SECONDS - self._monotonic()
            self._timer = self._call_later(max(0.0, pause), self._fire)

    def _fire(self) -> None:
        self._timer = None
        if not self._changes:
            return
        Deferred.fromCoroutine(self._tell()).addErrback(
            lambda failure: self._log.failure(
                "the presence in Redis failed", failure, event_name="redis_failed"
            )
        )

    # --- for the log ---------------------------------------

    def over(self, term: str) -> None:
        """A term is over."""
        if term == self._term:
            self.renew()

    async def work(self) -> None:
        """Do what is due; called again and again."""
        session, now = self._session(), self._monotonic()
        if session is None:
            return
        is_other = self._epoch != session.attached.epoch
        if is_other or self._changes or now - self._told >= CHECK_SECONDS:
            await self._tell()
        if session is not self._finished_in:
            self._finished_in, self._finished = session, now + NODE_SECONDS
        if now - self._finished >= FINISH_SECONDS:
            self._finished = now
            with suppress(Gone, ErrorReply):
                await self._finish(session, self._term if self._is_whole else None)

    async def leave(self) -> None:
        """This node stops: its subscribers have left."""
        self.stop()
        session = self._session()
        if session is not None:
            # If this fails, they leave a little later.
            with suppress(Gone, ErrorReply):
                await self._finish(session, "")

    async def _tell(self) -> None:
        """Tell of all changes."""
        if self._works or self._has_left:
            return
        self._works = True
        more = False
        try:
            more = await self._tell_some()
            while more and len(self._changes) >= AT_ONCE:
                more = await self._tell_some()
        except Gone:
            # The writer has the same session, and notices.
            pass
        except ErrorReply as error:
            self._note_refusal(error)
        finally:
            self._works = False
        if more and self._changes:
            self._hasten()

    async def _tell_some(self) -> bool:
        """Send some changes; return whether others can be sent at once."""
        session = self._session()
        if session is None:
            return False
        if self._epoch != session.attached.epoch and not await self._begin(session):
            return False
        told, term = dict(_first(self._changes.items(), AT_ONCE)), self._term
        for key in told:
            del self._changes[key]
        self._version += 1
        self._told = self._monotonic()
        call = presence_scripts.tell(
            self._keys,
            session.run,
            self.node,
            term,
            self._version,
            [(*key, info) for key, (info, _) in told.items()],
            self.announced_audience,
            self._log_length(),
        )
        answer = b""
        try:
            answer = await session.send(call.evalsha)
        finally:
            if answer != TOLD.encode():
                self._put_back(told)
        if answer == OVER.encode():
            self.renew()
        elif answer == TOLD.encode() and not self._is_whole and not self._changes:
            self._is_whole = True
            await self._finish(session, term)
        return answer in (TOLD.encode(), OVER.encode())

    def _put_back(self, told: dict[Key, tuple[ClientInfo | None, bool]]) -> None:
        """Tell of these again, which Redis may know of: before the later ones."""
        later, self._changes = self._changes, {key: (told[key][0], True) for key in told}
        for key, (info, is_known) in later.items():
            self._changes[key] = info, is_known or key in told

    async def _begin(self, session: Session) -> bool:
        """Begin a term with all subscribers of this node; False if it is not among the nodes."""
        self._terms += 1
        term = f"{self.node}:{self._terms}"
        call = presence_scripts.begin(self._keys, session.run, self.node, term)
        if not await session.send(call.evalsha):
            return False
        self._term, self._epoch, self._version = term, session.attached.epoch, 0
        self._is_whole = False
        self._changes = {(channel, info.client): (info, False) for channel, info in self.present()}
        return True

    async def _finish(self, session: Session, term: str | None) -> None:
        """End the terms of nodes that are gone, and own ones but this; clean up some of them."""
        node = "" if term is None else self.node
        length = self._log_length()
        call = presence_scripts.finish(self._keys, session.run, node, term or "", length)
        _, dead = await session.send(call.evalsha)
        for _ in range(MOST_CLEANS):
            if dead is None:
                return
            term = dead.decode()
            own = self._keys.own_channels(term)
            found = await session.send([b"SRANDMEMBER", own, b"%d" % CLEAN_CHANNELS])
            channels = [name.decode() for name in found]
            call = presence_scripts.clean(self._keys, session.run, term, channels, CLEAN_MEMBERS)
            if not await session.send(call.evalsha):
                return

    def _note_refusal(self, error: ErrorReply) -> None:
        now = self._monotonic()
        if error.word not in NOT_DONE and now - self._refused >= LOG_SECONDS:
            self._refused = now
            self._log.warn(
                "Redis has refused what has changed among the subscribers of this server: "
                "{problem}",
                problem=of_reply(error).text,
                event_name="redis_presence_refused",
            )


def _first(items: Any, most: int) -> list[Any]:
    return [item for item, _ in zip(items, range(most), strict=False)]
