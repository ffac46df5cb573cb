"""Reads the log: passes its entries to the follower in their order, and notices missing ones.

A channel is read from its own stream when its first reader comes, and again after a hole in the
log. Meanwhile the entries of the channel wait; those that its stream did not have yet follow it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.channels.position import Cursor, split_epoch
from pushserver.channels.publication import Publication, content_bytes
from pushserver.errors import Unavailable
from pushserver.hub.follower import Follower, Image, Point
from pushserver.redis import rows
from pushserver.redis.commands import ErrorReply, Gone
from pushserver.redis.connection import Session
from pushserver.redis.failures import Failures
from pushserver.redis.keys import Keys
from pushserver.redis.problems import of_reply
from pushserver.redis.rows import (
    Changed,
    Cleared,
    Entry,
    Id,
    Later,
    NotOurs,
    Ordered,
    follows,
    id_of,
)
from pushserver.redis.scripts import Images, Known

AT_ONCE = 512
"""The entries of one answer: some milliseconds of work."""
BLOCK_SECONDS = 2.0
"""Without an entry, Redis answers after this time: so silence is a fault."""
PACE_SECONDS = 0.005
"""The least time between two reads, unless somebody here waits for an entry. The answer to a read
that is under way comes at once; when entries keep coming, the next ones come several at a time.

Each read costs Redis as much as some publications, and each node reads.
"""
PAUSE_SECONDS = 0.01
"""The pause before the next entry, while the fan-out has no room."""
LATE_BYTES = 64 * 2**20
"""The most bytes of entries that wait for the images of their channels."""
ENTRY_BYTES = 600
"""The memory of a waiting entry besides its texts, roughly."""

Ask = Callable[[Sequence[Point]], Coroutine[Any, Any, Images]]


class Load:
    """Channels whose images are under way, and the changes since: `answer` waits for them.

    Without `answer`, they are all the followed ones after a hole in the log.
    """

    def __init__(self, points: Sequence[Point], answer: Deferred[None] | None):
        self.points = list(points)
        self.answer = answer
        self.seq = 0
        self.images: Sequence[Image] | None = None
        self.asked = False
        self._came = 0.0
        self.size = 0
        self._changes: dict[str, list[tuple[Publication | Cleared, float]]] = {
            point.channel: [] for point in points
        }

    def __contains__(self, channel: str) -> bool:
        return channel in self._changes

    def add(self, channel: str, change: Publication | Cleared, now: float) -> int:
        """Keep a change of one of the channels, which came at `now` by the steady clock.

        Returns its bytes.
        """
        self._changes[channel].append((change, now))
        size = ENTRY_BYTES
        if isinstance(change, Publication):
            size += content_bytes(change)
        self.size += size
        return size

    def fetched(self, seq: int, images: Sequence[Image], now: float) -> None:
        """Take the images, none of which was made after the seq."""
        self.seq, self.images, self._came = seq, images, now

    def merged(self, now: float) -> list[Image]:
        """The images with all changes."""
        assert self.images is not None, "the images are under way"
        since = now - self._came
        return [
            merge(
                replace(image, ages=[age + since for age in image.ages]),
                [(change, now - then) for change, then in self._changes[image.channel]],
            )
            for image in self.images
        ]


def merge(image: Image, changes: Sequence[tuple[Publication | Cleared, float]]) -> Image:
    """The image with later changes and the age of each; those that it has already are skipped."""
    if not changes:
        return image
    floor, floor_seq, evicted = image.floor, image.floor_seq, image.evicted
    epoch, kept, ages = image.epoch, list(image.rows), list(image.ages)
    for change, age in changes:
        top = floor + len(kept)
        last = kept[-1].seq if kept else floor_seq
        if isinstance(change, Publication):
            if change.epoch != epoch and change.seq > last:
                # The channel had been forgotten.
                epoch, kept, ages = change.epoch, [], []
                floor = evicted = change.offset - 1
                floor_seq = split_epoch(epoch)[1] if not floor else change.seq - 1
            elif change.epoch != epoch or change.offset <= top:
                continue
            elif change.offset > top + 1:
                raise ValueError(f"{image.channel}: offset {change.offset} after {top}")
            kept.append(change)
            ages.append(min(age, ages[-1]) if ages else age)
        else:
            count = sum(row.seq <= change.seq for row in kept)
            if count:
                floor, floor_seq = kept[count - 1].offset, kept[count - 1].seq
                evicted = floor
                del kept[:count], ages[:count]
    return replace(
        image, epoch=epoch, floor=floor, floor_seq=floor_seq, rows=kept, ages=ages, evicted=evicted
    )


class Tail:
    """The follower's place in the log.

    `ask` reads the images of channels, `again` ends the session, because it is wrong. `passed` is
    called after the follower had some entries, and when it gets no more. If `has_room` of a channel
    is false after its entry, no further one is handled until `work`. `pause` calls that after so
    many seconds. `hurries` tells whether somebody here waits for an entry.
    `shard`: the number of the log.
    """

    follower: Follower
    """It gets the entries; set before the first session."""
    _log = Logger()

    def __init__(
        self,
        keys: Keys,
        monotonic: Callable[[], float],
        ask: Ask,
        passed: Callable[[], None],
        again: Callable[[str], None],
        has_room: Callable[[str], bool],
        pause: Callable[[float], None],
        hurries: Callable[[], bool],
        failures: Failures,
        pace: float = PACE_SECONDS,
        shard: int = 0,
    ):
        self.heard = 0.0
        """The time of the last answer, by the steady clock."""
        self.epoch = ""
        self.place: Id = (0, 0)
        """The last entry that was handled."""
        self.entries_read = 0
        self._keys = keys
        self._monotonic = monotonic
        self._ask = ask
        self._passed = passed
        self._again = again
        self._has_room = has_room
        self._pause = pause
        self._hurries = hurries
        self._failures = failures
        self._pace = pace
        self._asked = 0.0
        self._paces = False
        self._shard = shard
        self.ordered: Callable[[Ordered], None] = lambda order: None
        """Called with each order."""
        self.changed: Callable[[Changed, Id], None] = lambda entry, place: None
        """Called with each entry about subscribers, and its place."""
        self.jumped: Callable[[bool], None] = lambda is_new: None
        """Called when it continues without some entries; `is_new`: in another epoch."""
        self._session: Session | None = None
        self._run = ""
        self._reads = False
        # Whether the followed channels have all entries up to `place`.
        self._whole = False
        self._loads: deque[Load] = deque()
        self._late_bytes = 0
        self._entries: deque[Any] = deque()

    @property
    def known(self) -> Known:
        """The last entry that it has seen."""
        return Known(self._run, self.epoch, self.place[0])

    @property
    def _end(self) -> Cursor:
        return Cursor(self.epoch, self.place[0])

    @property
    def attached(self) -> bool:
        """Whether the entries of the log arrive."""
        return self._reads

    @property
    def current(self) -> bool:
        """Whether the followed channels have what arrived."""
        return self._reads and self._whole

    @property
    def waits(self) -> bool:
        """Whether entries wait until the fan-out has room."""
        return bool(self._entries)

    def has_passed(self, epoch: str, place: Id) -> bool:
        """Whether this entry was handled, or cannot be waited for now."""
        return not self._reads or epoch != self.epoch or place <= self.place

    # --- the session ---------------------------------------

    def connected(self, session: Session) -> None:
        """There is a session: continue with the next entry, if it is there."""
        self._session = session
        self._run = session.run
        if not self._whole or session.attached.epoch != self.epoch:
            self._jump()
            return
        if session.attached.seq == self.place[0]:
            self._start()
            return
        place = b"%d-%d" % self.place
        found = session.send([b"XRANGE", self._keys.log, place, place])
        found.addCallback(self._found, session)
        found.addErrback(self._failed, session)

    def lost(self) -> None:
        """The session is over: the loads that wait fail."""
        self._session = None
        self._reads = self._paces = False
        self._entries.clear()
        loads, self._loads = self._loads, deque()
        self._late_bytes = 0
        for load in loads:
            if load.answer is not None:
                load.answer.errback(self._failures.away())
        self._passed()

    def _found(self, entries: Any, session: Session) -> None:
        """The log is trimmed at its start: it has all later entries if it has this one."""
        if session is not self._session:
            return
        if entries:
            self._start()
        else:
            self._jump()

    def _jump(self) -> None:
        """Continue at the end of the log, with the followed channels from their own streams."""
        assert self._session is not None, "no session"
        attached = self._session.attached
        points = self.follower.points(self._shard)
        if points:
            self._log.warn(
                "the log in Redis does not continue after {seq}; "
                "channels read from their histories: {n}",
                seq=self.place[0],
                n=len(points),
                event_name="redis_gap",
            )
        self._whole = not points
        is_new = attached.epoch != self.epoch
        self.epoch, self.place = attached.epoch, (attached.seq, 0)
        self.jumped(is_new)
        if points:
            load = Load(points, None)
            self._loads.append(load)
            self._fetch(load)
        else:
            self.follower.at(self._end, self._shard)
        if self._session is not None:
            self._start()

    def _start(self) -> None:
        self._reads = True
        self.heard = self._monotonic()
        self._read()

    def _read(self) -> None:
        session = self._session
        assert session is not None, "no session"
        self._paces = False
        self._asked = self._monotonic()
        read = session.send(
            [
                b"XREAD",
                b"COUNT",
                b"%d" % AT_ONCE,
                b"BLOCK",
                b"%d" % (BLOCK_SECONDS * 1000),
                b"STREAMS",
                self._keys.log,
                b"%d-%d" % self.place,
            ]
        )
        # Redis answers this in the same moment. An emptied data set begins with the same seqs
        # again, but not with the same epoch.
        checked = session.send([b"HGET", self._keys.meta, b"epoch"])
        read.addErrback(self._failed, session)
        checked.addCallback(self._arrived, read, session)
        checked.addErrback(self._failed, session)

    def _failed(self, failure: Failure, session: Session) -> None:
        if failure.check(Gone) is None and session is self._session:
            error = failure.value
            if not isinstance(error, ErrorReply):
                failure.raiseException()
            self._again(of_reply(error).text)

    def sees(self, epoch: str) -> None:
        """Another connection is at this epoch."""
        if self._reads and epoch != self.epoch:
            self._again("the log has a new epoch")

    def ask_again(self) -> None:
        """Ask for the images after a hole, if that was not possible before."""
        if self._loads and self._loads[0].answer is None and not self._loads[0].asked:
            self._fetch(self._loads[0])

    # --- the entries ---------------------------------------

    def _arrived(self, epoch: bytes | None, read: Deferred[Any], session: Session) -> None:
        if session is not self._session:
            return
        self.heard = self._monotonic()
        if epoch != self.epoch.encode():
            self._again("the log has a new epoch")
            return
        entries: Any = read.result
        if entries:
            self.entries_read += len(entries[0][1])
            self._entries.extend(entries[0][1])
        self._work()

    def work(self) -> None:
        """Go on after a pause."""
        if self._entries:
            self._work()
        else:
            self.hurry()

    def hurry(self) -> None:
        """Read now: somebody here waits for an entry."""
        if self._paces:
            self._read()

    def _work(self) -> None:
        """Handle the entries that have come, while the fan-out has room; then read further ones."""
        session = self._session
        self._guarded(self._handle)
        if session is not self._session:
            return
        if self._entries:
            self._pause(PAUSE_SECONDS)
            return
        left = self._asked + self._pace - self._monotonic()
        if left > 0 and not self._hurries():
            self._paces = True
            self._pause(left)
        else:
            self._read()

    def _guarded(self, handle: Callable[[], None]) -> None:
        """Call it; after a failure, a new session reads the channels from their histories."""
        try:
            handle()
        except (NotOurs, ValueError) as error:
            self._whole = False
            self._again(str(error))
        except Exception:
            self._log.failure("an entry of the log failed", event_name="redis_failed")
            self._whole = False
            self._again("an entry of the log failed")

    def _handle(self) -> None:
        entries, channels = self._entries, self.follower.history.channels
        loads = self._loads
        seq, number = self.place
        while entries:
            entry = entries.popleft()
            name, fields = entry
            if name != b"%d-0" % (seq + 1):
                place = id_of(name)
                if not follows(place, (seq, number)):
                    raise NotOurs(f"the log in Redis has {place} after {seq, number}")
                seq, number = self.place = place
                self._entry(rows.entry_of(self.epoch, entry))
                continue
            seq += 1
            number = 0
            channel = fields[1].decode()
            if channel in channels or (loads and any(channel in load for load in loads)):
                self.place = seq, 0
                self._entry(rows.entry_of(self.epoch, entry))
                if entries and not self._has_room(channel):
                    break
        if self._session is not None:
            self.place = seq, number
            self._finish()

    def _entry(self, entry: Entry) -> None:
        """Pass an entry to the loads of its channel, and to the follower."""
        if isinstance(entry, Later):
            return
        if isinstance(entry, Ordered):
            self.ordered(entry)
            return
        if isinstance(entry, Changed):
            self.changed(entry, self.place)
            return
        change = entry if isinstance(entry, Cleared) else entry.publication
        channel = change.channel
        for load in self._loads:
            if channel in load:
                self._late_bytes += load.add(channel, change, self._monotonic())
                if self._late_bytes > LATE_BYTES:
                    raise NotOurs("too many publications came while channels were read")
        kept = self.follower.history.channels.get(channel)
        if kept is None or not self._whole:
            return
        if isinstance(entry, Cleared):
            self.follower.cleared(channel)
            return
        row = entry.publication
        if row.epoch != kept.epoch:
            # The log has forgotten it in between.
            self.follower.forgotten(channel)
        elif row.offset == kept.top + 1:
            self.follower.row(row, entry.skip)
        else:
            raise NotOurs(
                f"the log in Redis has offset {row.offset} of {channel!r:.80} after {kept.top}"
            )

    def _finish(self) -> None:
        """Install the loads whose images are here and passed, in the order of the loads."""
        if self._whole:
            self.follower.at(self._end, self._shard)
        while self._loads:
            load = self._loads[0]
            if load.images is None or load.seq > self.place[0]:
                break
            images = load.merged(self._monotonic())
            self._loads.popleft()
            self._late_bytes -= load.size
            ends = [(self._shard, self._end)]
            if load.answer is None:
                self._whole = True
                self.follower.resume(images, ends)
            else:
                self.follower.install(images, ends, partial(load.answer.callback, None))
        self._passed()

    # --- loads ---------------------------------------

    async def follow(self, points: Sequence[Point]) -> None:
        """Follow these channels from their images on; raises Unavailable."""
        if not self._reads:
            raise self._failures.away()
        load = Load(points, Deferred())
        self._loads.append(load)
        self._fetch(load)
        assert load.answer is not None, "nobody waits"
        await load.answer

    def _fetch(self, load: Load) -> None:
        load.asked = True
        asked = Deferred.fromCoroutine(self._ask(load.points))
        asked.addCallbacks(self._fetched, self._not_fetched, (load,), {}, (load,), {})

    def _fetched(self, found: Images, load: Load) -> None:
        if load not in self._loads:
            return
        if found.epoch != self.epoch:
            self._again("the log has a new epoch")
            return
        if found.errors and load.answer is not None:
            self._give_up(load, Failure(self._failures.of(found.errors[0])))
            return
        for problem in found.errors:
            self._log.warn(
                "the readers of a channel are told: {problem}",
                problem=problem,
                event_name="redis_channel_lost",
            )
        load.fetched(found.seq, found.images, self._monotonic())
        self._guarded(self._finish)

    def _not_fetched(self, failure: Failure, load: Load) -> None:
        failure.trap(Unavailable)
        load.asked = False
        if load in self._loads and load.answer is not None:
            self._give_up(load, failure)

    def _give_up(self, load: Load, failure: Failure) -> None:
        """Fail a load for which somebody waits."""
        self._loads.remove(load)
        self._late_bytes -= load.size
        assert load.answer is not None, "nobody waits"
        load.answer.errback(failure)
        self._guarded(self._finish)
