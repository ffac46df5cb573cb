"""The figures and tables of pushserver with workers, beside one process in the same run.

The load tool needs a core, so the processes of the server share the other one, and what they would
do with a core for each is computed from their CPU time: `Shares.speed`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from benchmarks.contestants import with_workers
from benchmarks.goals import Goal
from benchmarks.results import Figure, Results, Run, figure

WORKERS = (1, 2, 3)
SIZES = (1_000, 10_000)
LEAST_TIMES = 1.7
MOST_MICROSECONDS = 300
ALONE, SAME, OTHER = "one process", "the same worker", "the other worker"


@dataclass(frozen=True, slots=True)
class Shares:
    """The CPU microseconds of each process for one thing that the server does.

    `main` is the process with the log; one process alone has no workers.
    """

    main: float
    workers: tuple[float, ...] = ()

    @property
    def all(self) -> float:
        """The sum."""
        return self.main + sum(self.workers)

    @property
    def most(self) -> float:
        """That of the busiest process."""
        return max((self.main, *self.workers))

    def speed(self, cores: int) -> float:
        """How often a second the server can do it with so many free cores.

        The busiest process has one core at most, and all processes together have all of them.
        """
        return 1e6 / max(self.most, self.all / cores)


def shares_of(span: Mapping[str, Any], number: int) -> Shares:
    """The shares in a span of time in which the server did so many things."""
    main, *workers = (seconds / number * 1e6 for seconds in span["processes_cpu_seconds"])
    return Shares(main, tuple(workers))


def middle(found: Sequence[Shares]) -> Shares:
    """The medians of these shares, each by itself; the workers by their place in the list."""
    by_worker = zip(*(shares.workers for shares in found), strict=True)
    return Shares(median(shares.main for shares in found), tuple(map(median, by_worker)))


def deliveries(results: Results, workers: int, clients: int) -> list[Shares]:
    """The shares of a delivery in each window."""
    runs = results.find(with_workers(workers).name, "websocket", clients)
    return [
        shares_of(window, window["deliveries"])
        for run in runs
        for window in run.windows
        if window["deliveries"]
    ]


def times_faster(results: Results, workers: int, clients: int) -> Figure | None:
    """The deliveries a second on a free core for each worker, as a multiple of one process.

    The windows of both are compared in their order, in which they alternated.
    """
    one, several = (deliveries(results, n, clients) for n in (1, workers))
    if not one or not several:
        return None
    alone = middle(one).speed(1)
    return figure(shares.speed(workers) / alone for shares in several)


def goals(results: Results) -> list[Goal]:
    """The goals of workers that these results cover."""
    rows = []
    for clients in SIZES:
        times = times_faster(results, 2, clients)
        if times is not None:
            name = f"deliveries a second of two workers on two cores, {clients:,}"
            measured = f"{times.middle:.2f} × ({times.least:.2f}-{times.most:.2f})"
            met = times.middle >= LEAST_TIMES
            rows.append(Goal(name, f"≥ {LEAST_TIMES} × one process", measured, met))
    times_us = lone_times(results)
    for name in (SAME, OTHER):
        if name in times_us:
            more = median(times_us[name]) - median(times_us[ALONE])
            rows.append(
                Goal(
                    f"a lone publication to a subscriber at {name}",
                    f"≤ {MOST_MICROSECONDS} µs more than one process",
                    f"{more:+,.0f} µs",
                    more <= MOST_MICROSECONDS,
                )
            )
    return rows


def lone_times(results: Results) -> Mapping[str, Sequence[float]]:
    """The microseconds of lone publications, by the place of the subscriber."""
    run = results.first("pushserver", "lone")
    found: Mapping[str, Sequence[float]] = run.told["times_us"] if run else {}
    return found


def fan_out_rows(results: Results) -> Iterator[list[str]]:
    """A row for each number of clients and of processes."""
    for clients in SIZES:
        for workers in WORKERS:
            found = deliveries(results, workers, clients)
            times = times_faster(results, workers, clients)
            if not found or times is None:
                continue
            shares = middle(found)
            yield [
                f"{clients:,}",
                _processes(workers),
                f"{shares.main:.1f}" if workers > 1 else "-",
                _each(shares.workers or (shares.main,), 1),
                f"{shares.all:.1f}",
                f"{shares.speed(workers):,.0f}",
                f"{times.middle:.2f} ({times.least:.2f}-{times.most:.2f})",
            ]


FAN_OUT = [
    "subscribers",
    "processes",
    "µs of the main process",
    "µs of each worker",
    "µs in all",
    "deliveries/s with a free core for each",
    "× one process",
]


def other_rows(results: Results) -> Iterator[list[str]]:
    """A row for each other measure: one process, and two workers."""
    both = [with_workers(workers).name for workers in (1, 2)]
    yield ["memory (Pss), MB, idle", *(_memory(results, name, "pss_before_kb") for name in both)]
    yield ["memory, MB, 1,000 connections", *(_memory(results, name, "pss_kb") for name in both)]
    yield [
        "CPU µs a connect and subscribe, 10,000",
        *(_costs(_connects(results.find(name, "websocket", SIZES[-1]))) for name in both),
    ]
    storms = [_of(results, name, "storm") for name in both]
    yield [
        "CPU µs a connect of a storm of 10,000, 20 publications each to recover",
        *(_costs([_storm(run) for run in runs]) for runs in storms),
    ]
    yield ["seconds of that storm, all processes on one core", *map(_seconds, storms)]
    posts = [[w for run in _of(results, name, "post") for w in run.windows] for name in both]
    yield [
        "CPU µs a publication by HTTP keep-alive",
        *(_costs([shares_of(w, w["published"]) for w in windows]) for windows in posts),
    ]
    yield ["these a second, with a free core for each", *map(_posts, posts, (1, 2))]
    floods = [[w for run in _of(results, name, "flood") for w in run.windows] for name in both]
    yield [
        "CPU µs a delivery of 1,000 publications/s to 1,000 clients",
        *(_costs([shares_of(w, w["deliveries"]) for w in windows], 2) for windows in floods),
    ]
    times = lone_times(results)
    if times:
        several = "; ".join(f"{name} {_times(times[name])}" for name in (SAME, OTHER))
        yield ["µs from a POST to a subscriber, median and p90", _times(times[ALONE]), several]


OTHER_HEAD = ["", "one process", "two workers: main process; workers; in all"]


def _processes(workers: int) -> str:
    return "one" if workers == 1 else f"main process and {workers} workers"


def _each(values: Sequence[float], digits: int) -> str:
    return ", ".join(f"{value:,.{digits}f}" for value in values)


def _of(results: Results, server: str, scenario: str) -> list[Run]:
    return [run for run in results.runs if (run.server, run.scenario) == (server, scenario)]


def _memory(results: Results, server: str, name: str) -> str:
    runs = results.find(server, "websocket", SIZES[0])
    columns = zip(*(run.told[name] for run in runs), strict=True)
    sizes = [median(values) / 1024 for values in columns]
    return "; ".join([f"{sizes[0]:.1f}", _each(sizes[1:], 1)][: len(sizes)]) if sizes else "-"


def _connects(runs: Sequence[Run]) -> list[Shares]:
    return [shares_of(run.told["connect"], run.clients) for run in runs]


def _storm(run: Run) -> Shares:
    storm = run.told["storm"]
    return shares_of(storm, max(1, storm["back"]))


def _costs(found: Sequence[Shares], digits: int = 0) -> str:
    if not found:
        return "-"
    shares = middle(found)
    main, *rest = (_each([value], digits) for value in (shares.main, shares.all))
    return "; ".join([main, _each(shares.workers, digits), *rest]) if shares.workers else main


def _seconds(runs: Sequence[Run]) -> str:
    return _middle([run.told["storm"]["seconds"] for run in runs], "{:.1f}")


def _posts(windows: Sequence[Mapping[str, Any]], workers: int) -> str:
    found = [shares_of(window, window["published"]) for window in windows]
    return f"{middle(found).speed(workers):,.0f}" if found else "-"


def _middle(values: Sequence[float], form: str) -> str:
    return form.format(median(values)) if values else "-"


def _times(values: Sequence[float]) -> str:
    return f"{median(values):,.0f} and {quantiles(values, n=10)[-1]:,.0f}"
