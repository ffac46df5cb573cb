"""The numbers of the processes of a server: of each, and their sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from msgspec import Struct, field

from pushserver.diagnosis.facts import TemplateFailure, WorkerState
from pushserver.hub.metrics import Histogram, Metrics

Users = Callable[[], Iterable[str]]


class SlowReader(Struct, frozen=True):
    """A peer that leaves bytes unread, as in the answer of `/api/top`.

    `seconds`: since when it makes no progress; None if its bytes are on the way, or if it polls.
    """

    address: str
    transport: str
    protocol: str
    client: str
    user: str
    bytes: int
    seconds: float | None


class Measure(Struct, frozen=True, array_like=True):
    """The numbers of one process; its counters, `lag` and `cpu_seconds` are since its start.

    `clients`: the open connections and the long polls that wait. `unread_by` clients leave
    `unsent_bytes` unread; `readers` are those of them with most. `longest_turn` is None where the
    turns of the reactor are not measured. `failures`: the last ones of templates.
    """

    metrics: Metrics = field(default_factory=Metrics)
    lag: Histogram = field(default_factory=Histogram)
    clients: int = 0
    unsent_bytes: int = 0
    unread_by: int = 0
    readers: list[SlowReader] = field(default_factory=list)
    longest_turn: float | None = None
    cpu_seconds: float = 0.0
    resident_bytes: int = 0
    uptime: float = 0.0
    failures: list[TemplateFailure] = field(default_factory=list)


class _Counts:
    """The counters of one or several processes."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.lag = Histogram()

    def add(self, other: _Counts | Measure, sign: int = 1) -> None:
        self.metrics.add(other.metrics, sign)
        self.lag.add(other.lag, sign)


class _Process:
    """A worker's process: what it told last, and its counters that are not this server's.

    `before` is what a process had counted for an earlier main process.
    """

    def __init__(self, worker: int):
        self.worker = worker
        self.last: Measure | None = None
        self.before: _Counts | None = None
        self.link: ProcessLink | None = None
        self.users: Users = tuple

    def counts(self) -> _Counts:
        """Its counters; without a link, its connections count as closed."""
        counts = _Counts()
        if self.last is not None:
            counts.add(self.last)
        if self.before is not None:
            counts.add(self.before, -1)
        if self.link is None:
            counts.metrics.closed = Counter(counts.metrics.opened)
        return counts


class ProcessLink:
    """A link to a worker's process, over which the process tells its numbers."""

    def __init__(self, process: _Process, adopts: bool, lost: Callable[[int], None]):
        self._process = process
        self._adopts = adopts
        self._lost = lost

    def told(self, measure: Measure) -> None:
        """Take the numbers in place of earlier ones, unless the process has another link."""
        process = self._process
        if process.link is not self:
            return
        if self._adopts:
            self._adopts = False
            process.before = _Counts()
            process.before.add(measure)
            # Its open connections are opened for this server now.
            process.before.metrics.opened = Counter(measure.metrics.closed)
        process.last = measure

    def lost(self) -> None:
        """The link is gone; a second call does nothing."""
        if self._process.link is self:
            self._process.link = None
            self._lost(self._process.worker)


class Measures:
    """The numbers of all processes; `own` measures this one, which is the only one or the main one.

    A process that is linked again replaces its own numbers. When another one with its number is
    linked, a process without a link is gone: only the sum of such processes is kept, and so no
    counter falls. The counters of a process begin with 0 at its start, or at its first link
    to this main process if it has had another one.
    """

    def __init__(self, own: Callable[[], Measure]):
        self.states: Callable[[], Sequence[WorkerState]] = tuple
        """The workers; set by their supervisor."""
        self._own = own
        self._processes: dict[object, _Process] = {}
        self._gone = _Counts()

    @property
    def has_workers(self) -> bool:
        """Whether the server has more processes than this one."""
        return bool(self._processes or self.states())

    def link(self, process: str, worker: int, again: bool, users: Users) -> ProcessLink:
        """A process is linked; with `again` it has been before, perhaps to another main process.

        `users` returns the user of each of its peers. A process without an id is another one with
        each link.
        """
        key = process or object()
        known = self._processes.get(key)
        found = known or self._processes.setdefault(key, _Process(worker))
        found.users = users
        found.link = ProcessLink(found, again and known is None, self._drop_gone)
        self._drop_gone(worker)
        return found.link

    def whole(self) -> Measure:
        """The sums of all processes; those of counters and of `lag` include processes of the past.

        `longest_turn` is the longest one, `uptime` that of this process.
        """
        own = self._own()
        counts = _Counts()
        counts.add(own)
        counts.add(self._gone)
        for process in self._processes.values():
            counts.add(process.counts())
        present = [own, *(measure for _, measure in self._linked())]
        turns = [each.longest_turn for each in present if each.longest_turn is not None]
        return Measure(
            counts.metrics,
            counts.lag,
            sum(each.clients for each in present),
            sum(each.unsent_bytes for each in present),
            sum(each.unread_by for each in present),
            [reader for each in present for reader in each.readers],
            max(turns, default=None),
            sum(each.cpu_seconds for each in present),
            sum(each.resident_bytes for each in present),
            own.uptime,
            [failure for each in present for failure in each.failures],
        )

    def by_worker(self) -> dict[int, Measure]:
        """The numbers of each linked process by the number of its worker; 0 is this process."""
        return {0: self._own(), **dict(self._linked())}

    def failures(self) -> list[TemplateFailure]:
        """The last failures of templates in all processes, the newest first."""
        found = [failure for each in self.by_worker().values() for failure in each.failures]
        return sorted(found, key=lambda failure: -failure.time)

    def users(self) -> set[str]:
        """The users of the peers of the workers."""
        linked = (process for process in self._processes.values() if process.link is not None)
        return {user for process in linked for user in process.users()}

    def _linked(self) -> Iterator[tuple[int, Measure]]:
        for process in self._processes.values():
            if process.link is not None and process.last is not None:
                yield process.worker, process.last

    def _drop_gone(self, worker: int) -> None:
        """Keep only the sum of the processes of this number that are gone for good."""
        same = [(key, each) for key, each in self._processes.items() if each.worker == worker]
        if worker and not any(each.link for _, each in same):
            return
        for key, process in same:
            if process.link is None:
                del self._processes[key]
                self._gone.add(process.counts())
