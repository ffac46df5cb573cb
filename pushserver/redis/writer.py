"""Writes to the log: each draft is published once, however often the connection is lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.position import channel_epoch
from pushserver.channels.publication import Draft, Receipt, content_bytes
from pushserver.errors import PushServerError, Unavailable
from pushserver.hub.follower import Image, Point
from pushserver.hub.metrics import Metrics
from pushserver.redis import rows, scripts
from pushserver.redis.commands import ErrorReply, Gone
from pushserver.redis.connection import Session
from pushserver.redis.failures import NOT_DONE, Failures
from pushserver.redis.keys import Keys
from pushserver.redis.refusals import Refusals
from pushserver.redis.rows import Id, follows, id_of
from pushserver.redis.scripts import Bounds, Images, Known, Numbered

WAITING_BYTES = 32 * 2**20
"""The most bytes of drafts that wait for their receipts."""
DRAFT_BYTES = 1_500
"""The memory of a waiting draft besides its texts, roughly."""
ORDER_BYTES = 2**20
"""The longest order; each node keeps it while it reads."""
IMAGES_AT_ONCE = 100
"""The channels of one call of the script `image`, which holds up all others at the server."""
PATIENCE_SECONDS = 8.0
"""A draft that has no receipt after this time fails, though it may have been published. `publish`
of this package waits ten seconds."""
ENTRIES_AT_ONCE = 500
"""The entries of one answer in which receipts are looked up."""


class _Waiting:
    """A draft without a receipt; in the log of `epoch`, its entry is after the seq `after`."""

    __slots__ = ("after", "answer", "counter", "draft", "epoch", "fence", "since", "size")

    def __init__(self, draft: Draft, size: int, since: float, fence: str) -> None:
        self.draft = draft
        self.fence = fence
        self.size = size
        self.since = since
        self.answer: Deferred[Receipt] = Deferred()
        self.counter = 0
        self.epoch = ""
        self.after = 0


class Writer:
    """Publishes the drafts of one node, in their order.

    Redis has the last counter of each node, in the same step as the publication. So after a lost
    connection the drafts with later counters are sent again, and the receipts of the others are in
    the log. A draft with an earlier counter and without an entry was refused, and the answer was
    lost: it is sent again with another counter. An answer waits until the tail `has_passed` its
    entry. `sees` is called with the epoch of each answer, `again` if the session must be replaced.
    `fence` is the present tenure of a lease of this node.
    """

    _log = Logger()

    def __init__(
        self,
        keys: Keys,
        node: str,
        options: Callable[[str], ChannelOptions],
        bounds: Bounds,
        monotonic: Callable[[], float],
        has_passed: Callable[[str, Id], bool],
        sees: Callable[[str], None],
        again: Callable[[str], None],
        failures: Failures,
        fence: Callable[[str], str | None] = lambda lease: None,
    ):
        self.bounds = bounds
        self.metrics = Metrics()
        self.refusals = Refusals(failures, monotonic, again)
        self._keys = keys
        self._node = node
        self._options = options
        self._monotonic = monotonic
        self._has_passed = has_passed
        self._sees = sees
        self._again = again
        self._failures = failures
        self._fence = fence
        self._session: Session | None = None
        self._counter = 0
        self.known = Known("", "", 0)
        """The last entry of which it knows."""
        self._bytes = 0
        # Without a receipt, by counter; those whose answer is `again` or was lost are `_missing`.
        self._waiting: dict[int, _Waiting] = {}
        self._missing: dict[int, _Waiting] = {}
        self._looks = False
        # The answers that wait for the tail.
        self._behind: deque[tuple[str, Id, Callable[[], None]]] = deque()
        self._clears = 0
        self._settled: list[Deferred[None]] = []

    @property
    def session(self) -> Session | None:
        """The session, if there is one."""
        return self._session

    # --- the session ---------------------------------------

    def connected(self, session: Session) -> None:
        """There is a session: send the drafts again that were not published."""
        self._session = session
        attached = session.attached
        self.known = Known(session.run, attached.epoch, attached.seq)
        self._sees(attached.epoch)
        for waiting in tuple(self._waiting.values()):
            if waiting.counter > attached.counter:
                self._send(waiting)
            else:
                self._missing[waiting.counter] = waiting
        self._look()

    def lost(self) -> None:
        """The session is over; what waits for a receipt waits for the next one."""
        self._session = None
        self._missing.clear()
        self._looks = False

    def give_up(self) -> None:
        """Fail all drafts that wait for their receipts."""
        for waiting in tuple(self._waiting.values()):
            self._refuse(waiting, self._failures.away())

    def expire(self) -> None:
        """Fail the drafts that wait too long for their receipts."""
        old = self._monotonic() - PATIENCE_SECONDS
        for waiting in [each for each in self._waiting.values() if each.since <= old]:
            self._refuse(waiting, _unknown())

    def passed(self) -> None:
        """The tail has moved on, or has stopped: give the answers that waited for it."""
        behind = self._behind
        while behind and self._has_passed(*behind[0][:2]):
            behind.popleft()[2]()
        self._settle()

    # --- calls ---------------------------------------

    def publish(self, draft: Draft) -> Deferred[Receipt]:
        """Publish a draft; raises Unavailable."""
        if self._session is None:
            raise self._failures.away()
        fence = self._fence(draft.lease) if draft.lease else ""
        if fence is None:
            raise _elsewhere(draft.lease)
        size = content_bytes(draft) + DRAFT_BYTES
        if self._bytes + size > WAITING_BYTES:
            raise Unavailable("too many publications wait for Redis", "overloaded")
        waiting = _Waiting(draft, size, self._monotonic(), fence)
        self._bytes += size
        self._number(waiting)
        return waiting.answer

    async def clear(self, channel: str) -> None:
        """Drop the history of a channel; raises Unavailable."""
        session = self._require()
        self._clears += 1
        try:
            try:
                _, seq, number = await session.send(
                    scripts.clear(self._keys, session.run, channel, self.bounds).evalsha
                )
            except Gone:
                raise self._failures.away() from None
            except ErrorReply as error:
                raise self.refusals.error_of(error, self.bounds) from None
            if number:
                await self._until(session.attached.epoch, (seq, number))
        finally:
            self._clears -= 1
            self._settle()

    async def order(self, text: bytes) -> None:
        """Let the other nodes know of an order; raises Unavailable."""
        session = self._require()
        if len(text) > ORDER_BYTES:
            raise Unavailable(f"the order has {len(text)} bytes: expected {ORDER_BYTES}", "broker")
        call = scripts.order(self._keys, session.run, self._node, text, self.bounds)
        try:
            await session.send(call.evalsha)
        except Gone:
            raise self._failures.away() from None
        except ErrorReply as error:
            raise self.refusals.error_of(error, self.bounds) from None

    async def images(self, points: Sequence[Point]) -> Images:
        """The images of channels, none taken after their `seq`; raises Unavailable.

        Without channels it is the last seq.
        """
        images: list[Image] = []
        errors: list[str] = []
        epoch, seq = "", 0
        parts = range(0, len(points), IMAGES_AT_ONCE) if points else [0]
        for start in parts:
            part = await self._images(points[start : start + IMAGES_AT_ONCE])
            if epoch not in ("", part.epoch):
                raise self._failures.away()
            epoch, seq = part.epoch, part.seq
            images += part.images
            errors += part.errors
        return Images(epoch, seq, tuple(images), tuple(errors))

    async def _images(self, points: Sequence[Point]) -> Images:
        session = self._require()
        try:
            answer = await session.send(scripts.image(self._keys, session.run, points).evalsha)
            found = scripts.images_of(points, answer)
        except Gone:
            raise self._failures.away() from None
        except ErrorReply as error:
            raise self.refusals.error_of(error, self.bounds) from None
        if session is self._session:
            self._saw(found.epoch)
        return found

    async def alive(self) -> tuple[str, int]:
        """The epoch and the last seq of the log; the session ends if it is not that of the log.

        Raises Unavailable.
        """
        session = self._require()
        try:
            run, epoch, seq = await session.send(scripts.alive(self._keys).evalsha)
        except Gone:
            raise self._failures.away() from None
        except ErrorReply as error:
            raise self.refusals.error_of(error, self.bounds) from None
        if session is self._session:
            if run != session.run.encode():
                self._again(
                    "its data set belongs to another run" if run else "its data is gone or damaged"
                )
            self._saw(epoch.decode())
        return epoch.decode(), seq

    def _saw(self, epoch: str) -> None:
        """Compare the epoch of an answer with those of this session and of the tail."""
        self._sees(epoch)
        if epoch != self.known.epoch:
            self._again("the log has a new epoch")

    async def settle(self) -> None:
        """Wait until every caller has its answer."""
        if self.busy:
            settled: Deferred[None] = Deferred()
            self._settled.append(settled)
            await settled

    def _require(self) -> Session:
        if self._session is None:
            raise self._failures.away()
        return self._session

    async def _until(self, epoch: str, place: Id) -> None:
        if not self._has_passed(epoch, place):
            passed: Deferred[None] = Deferred()
            self._behind.append((epoch, place, lambda: passed.callback(None)))
            await passed

    # --- drafts ---------------------------------------

    def _number(self, waiting: _Waiting) -> None:
        """Give a draft the next counter, and send it."""
        self._counter += 1
        waiting.counter = self._counter
        waiting.epoch, waiting.after = self.known.epoch, self.known.seq
        self._waiting[self._counter] = waiting
        if self._session is not None:
            self._send(waiting)

    def _send(self, waiting: _Waiting) -> None:
        assert self._session is not None, "no session"
        draft, session = waiting.draft, self._session
        call = scripts.publish(
            self._keys,
            session.run,
            self._node,
            waiting.counter,
            draft,
            self._options(draft.channel),
            self.bounds,
            waiting.fence,
        )
        arguments = session, waiting, waiting.counter
        answer = session.send(call.evalsha)
        answer.addCallbacks(self._answered, self._failed, arguments, {}, arguments, {})

    def _answered(self, answer: Any, session: Session, waiting: _Waiting, counter: int) -> None:
        if self._waiting.get(counter) is not waiting:
            return
        self.refusals.accepted()
        numbered = scripts.numbered_of(answer)
        if numbered.kind == "again":
            self._missing[counter] = waiting
            # Receipts of a new log are looked up by a session that is attached to it.
            if session is self._session:
                self._saw(numbered.epoch)
            self._look()
            return
        if numbered.kind == "key":
            self.metrics.duplicates += 1
        else:
            self.metrics.publications += 1
        self._received(waiting, numbered)
        # A first receipt may be of an earlier epoch.
        if numbered.kind == "new" and session is self._session:
            self.known = self.known._replace(seq=max(self.known.seq, numbered.seq))
            self._saw(numbered.epoch)

    def _received(self, waiting: _Waiting, numbered: Numbered) -> None:
        """The receipt is known; it is given when the tail has passed."""
        epoch = channel_epoch(numbered.epoch, numbered.generation)
        receipt = Receipt(epoch, numbered.seq, numbered.offset)
        del self._waiting[waiting.counter]
        self._missing.pop(waiting.counter, None)

        def give() -> None:
            self._bytes -= waiting.size
            waiting.answer.callback(receipt)

        place = numbered.seq, 0
        if self._has_passed(numbered.epoch, place):
            give()
            self._settle()
        else:
            self._behind.append((numbered.epoch, place, give))

    def _failed(self, failure: Failure, session: Session, waiting: _Waiting, counter: int) -> None:
        if failure.check(Gone) or self._waiting.get(counter) is not waiting:
            return
        error = failure.value
        if not isinstance(error, ErrorReply):
            failure.raiseException()
        elif error.word in NOT_DONE:
            if session is self._session:
                self._again(str(error))
        elif error.word == scripts.LEASE:
            self._refuse(waiting, _elsewhere(waiting.draft.lease))
        else:
            self._refuse(waiting, self.refusals.error_of(error, self.bounds))

    def _refuse(self, waiting: _Waiting, error: PushServerError) -> None:
        del self._waiting[waiting.counter]
        self._missing.pop(waiting.counter, None)
        self._bytes -= waiting.size
        waiting.answer.errback(error)
        self._settle()

    def refused(self, error: ErrorReply, session: Session) -> None:
        """Redis has refused another call of this node."""
        if session is self._session:
            self.refusals.error_of(error, self.bounds)

    # --- receipts in the log ---------------------------------------

    def _look(self) -> None:
        """Look up the receipts that are missing, unless that is under way."""
        session = self._session
        if session is None or self._looks or not self._missing:
            return
        self._looks = True
        wanted = dict(self._missing)
        looking = Deferred.fromCoroutine(self._look_up(session, wanted))
        looking.addErrback(self._cannot_look, session)

    def _cannot_look(self, failure: Failure, session: Session) -> None:
        if failure.check(Gone) is not None:
            return
        if failure.check(ErrorReply) is None:
            self._log.failure(
                "receipts cannot be looked up in the log", failure, event_name="redis_failed"
            )
        if session is self._session:
            self._again(str(failure.value))

    async def _look_up(self, session: Session, wanted: dict[int, _Waiting]) -> None:
        """Find the entries of drafts that may have been published."""
        epoch = session.attached.epoch
        # Another data set, or another part of it, has other seqs.
        start = min(each.after if each.epoch == epoch else 0 for each in wanted.values())
        place, whole = (start, 0), True
        own = f"{self._node}:".encode()
        found: dict[int, Numbered] = {}
        while True:
            entries = await session.send(
                [
                    b"XRANGE",
                    self._keys.log,
                    b"(%d-%d" % place,
                    b"+",
                    b"COUNT",
                    b"%d" % ENTRIES_AT_ONCE,
                ]
            )
            for name, fields in entries:
                seq, number = id_of(name)
                whole = whole and follows((seq, number), place)
                place = seq, number
                if not number and fields[-1].startswith(own):
                    counter = int(fields[-1][len(own) :])
                    if counter in wanted:
                        found[counter] = _numbered(epoch, [name, fields])
            if len(entries) < ENTRIES_AT_ONCE:
                break
        whole = whole and place[0] >= session.attached.seq
        self._looks = False
        for counter, waiting in wanted.items():
            if self._waiting.get(counter) is not waiting:
                continue
            if counter in found:
                self.metrics.publications += 1
                self._received(waiting, found[counter])
            elif whole:
                # It was refused, or repeated a key; the answer was lost.
                del self._waiting[counter], self._missing[counter]
                self._number(waiting)
            else:
                # Whether it was published is in a part of the log that is gone.
                self._refuse(waiting, self._failures.away())
        self._look()

    @property
    def busy(self) -> bool:
        """Whether a caller waits for an answer."""
        return bool(self._waiting or self._behind or self._clears)

    def _settle(self) -> None:
        if self._settled and not self.busy:
            settled, self._settled = self._settled, []
            for each in settled:
                each.callback(None)


def _elsewhere(lease: str) -> Unavailable:
    return Unavailable(f"another server runs the source {lease}", "broker")


def _numbered(epoch: str, entry: Any) -> Numbered:
    appended = rows.entry_of(epoch, entry)
    assert isinstance(appended, rows.Appended), "not an entry of a node"
    row = appended.publication
    return Numbered("new", row.seq, row.offset, appended.generation, epoch, round(row.time * 1000))


def _unknown() -> Unavailable:
    """The error of a draft that was sent, and of which nothing is known."""
    return Unavailable(
        "Redis does not answer: the publication may still be made; repeat it with an idempotency"
        " key",
        "broker",
    )
