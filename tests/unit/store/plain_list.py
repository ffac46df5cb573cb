"""The publications of each channel in a plain list, as the reference of `model`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.idempotency import REMEMBERED_SECONDS
from pushserver.channels.publication import Publication, Receipt
from pushserver.errors import Unavailable
from pushserver.sessions.node import Node
from tests.unit.fakes.tools import Time

TTL = 100.0
OPTIONS = {
    "a": ChannelOptions(
        history_size=6, history_ttl=TTL, initial=2, recovery_limit=4, client_publish=True
    ),
    "b": ChannelOptions(history_size=2, history_ttl=TTL, initial=0, client_publish=True),
    "quiet": ChannelOptions(history_ttl=0, client_publish=True),
    "gone": ChannelOptions(history_size=0, client_publish=True),
}
CHANNELS = list(OPTIONS)
GROUPS = (("a",), ("a", "b"), ("b", "gone", "quiet"))


@dataclass
class Attempt:
    """A call of `publish` with a number that no other call has, and its outcome."""

    number: int
    channel: str
    key: str
    first: list[Attempt] = field(default_factory=list)
    """The attempts with the same key, whose receipt it may get."""
    repeats: bool = False
    """Whether it must get one of these; else the key may have expired."""
    outcome: object = None
    lost: bool = False
    """Whether its caller is gone, so that it gets no answer."""


@dataclass
class Row:
    """A publication in the plain list; `born` is by the steady clock."""

    number: int
    publication: Publication
    born: float

    @property
    def seq(self) -> int:
        return self.publication.seq


@dataclass
class Key:
    """A used key; `sure` unless a restart after a change of the clock judged its age."""

    attempt: Attempt
    seq: int
    born: float
    stepped: bool = False
    sure: bool = True
    before: Key | None = None
    """The expired use of the key before this one."""


@dataclass
class Log:
    """The plain list of a channel: all numbers, and the rows that must be retained."""

    numbers: list[int] = field(default_factory=list)
    kept: list[Row] = field(default_factory=list)


class Lists:
    """The lists of all channels, the calls of publishers, and the state of the server.

    A test adds the server.
    """

    node: Node

    def __init__(self) -> None:
        self.steady = Time(7_000.0)
        self.seq = 0
        self.logs = {channel: Log() for channel in CHANNELS}
        self.clearing: dict[str, list[set[int]]] = {channel: [] for channel in CHANNELS}
        """For each call of `clear` without an answer, the numbers that it may remove."""
        self.forgets = 0
        self.problems: list[BaseException] = []
        self.attempts: list[Attempt] = []
        self.keys: dict[tuple[str, str], Key] = {}
        self.waiting_keys: dict[tuple[str, str], Attempt] = {}
        self.never: set[int] = set()
        """Numbers that were refused, or answered with the receipt of another."""
        self.places: dict[tuple[str, str, int], int] = {}
        self.ids: dict[str, int] = {}
        self.seqs: dict[int, int] = {}
        self.tops: dict[tuple[str, str], int] = {}
        """The last offset of each channel and epoch."""

    def check_full(self, channels: Sequence[str]) -> None:
        """A reader of these channels was refused: there must be no room for them."""

    def run(self, coroutine: Any) -> None:
        """Run a coroutine that nothing awaits."""
        Deferred.fromCoroutine(coroutine).addErrback(self.problem)

    def run_reaction(self) -> None:
        """Run an operation of the test; called after each frame."""

    def problem(self, failure: Failure) -> None:
        """Keep an error."""
        assert failure.value is not None
        self.problems.append(failure.value)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Keep errors of the model, which the guards of the server would catch."""
        try:
            yield
        except Exception as error:
            self.problems.append(error)
            raise

    def attempt(self, channel: str, key: str = "") -> Attempt:
        """Note a call of `publish` that is made next."""
        attempt = Attempt(len(self.attempts), channel, key)
        self.attempts.append(attempt)
        place = channel, key
        if key:
            known = self.keys.get(place)
            if known is not None and self.steady.now < known.born + REMEMBERED_SECONDS:
                attempt.first = [known.attempt]
                attempt.repeats = known.sure
            if place in self.waiting_keys:
                attempt.repeats = attempt.repeats or not attempt.first
                attempt.first.append(self.waiting_keys[place])
            elif not attempt.repeats:
                self.waiting_keys[place] = attempt
        return attempt

    def note(self, channel: str, epoch: str, offset: int, number: int) -> None:
        """A reader or a publisher has seen this publication."""
        assert number not in self.never, "a publication that was refused, or answered as another"
        assert self.places.setdefault((channel, epoch, offset), number) == number, "a number twice"

    def note_id(self, id_: str, number: int) -> None:
        assert self.ids.setdefault(id_, number) == number, "an id twice"

    def answered_without_receipt(self, attempt: Attempt) -> None:
        """A client got a success."""
        attempt.outcome = "published"
        assert attempt.number in self.seqs, "acknowledged and not in the list"

    def refused(self, attempt: Attempt) -> None:
        """A publisher got an error."""
        assert attempt.number not in self.seqs, "refused and in the list"
        self.never.add(attempt.number)
        self._end_wait(attempt)

    def answered(self, attempt: Attempt, receipt: Receipt) -> None:
        number = self.places[attempt.channel, receipt.epoch, receipt.offset]
        assert self.ids[receipt.id] == number
        numbers = [first.number for first in attempt.first]
        if not attempt.repeats:
            numbers.append(attempt.number)
        assert number in numbers, "another receipt for the same key"
        attempt.outcome = receipt
        if number != attempt.number:
            self.never.add(attempt.number)
        self._end_wait(attempt)

    def failed(self, attempt: Attempt) -> Callable[[Failure], None]:
        def failed(failure: Failure) -> None:
            assert failure.check(Unavailable) is not None, failure
            attempt.outcome = failure.value
            self.refused(attempt)

        return failed

    def _end_wait(self, attempt: Attempt) -> None:
        place = attempt.channel, attempt.key
        if self.waiting_keys.get(place) is attempt:
            del self.waiting_keys[place]

    def add(self, row: Publication, born: float) -> None:
        """Append a publication to its list."""
        number, log = int(row.data), self.logs[row.channel]
        attempt = self.attempts[number]
        assert attempt.channel == row.channel
        assert number not in self.seqs, "published twice"
        assert row.seq == self.seq + 1, "the order of the seqs"
        numbering = row.channel, row.epoch
        assert row.offset == self.tops.get(numbering, 0) + 1, "the order of the offsets"
        self.tops[numbering] = row.offset
        self.note(*numbering, row.offset, number)
        self.note_id(row.id, number)
        self.seq = self.seqs[number] = row.seq
        log.numbers.append(number)
        log.kept.append(Row(number, row, born))
        del log.kept[: max(0, len(log.kept) - OPTIONS[row.channel].history_size)]
        if attempt.key:
            place = row.channel, attempt.key
            self.keys[place] = Key(attempt, row.seq, born, before=self.keys.get(place))
            self._end_wait(attempt)
