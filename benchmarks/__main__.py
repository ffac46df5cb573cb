"""`python -m benchmarks quick|socketio|workers|redis|full`: measures, prints, saves the results."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import broker_report, brokers, machine, measure, plan, report, results
from benchmarks.build import BUILD, CHECKOUT, Missing
from benchmarks.lone import lone
from benchmarks.measure import Failed, Trial
from benchmarks.processes import Cores, DidNotStart, choose_cores, raise_file_limit
from benchmarks.results import Results, Run

PAGE = CHECKOUT / "docs" / "performance.md"
RESULTS, WORKERS, REDIS = (BUILD / f"{name}.json" for name in ("results", "workers", "redis"))


def main() -> int:
    """Run the command line; returns 1 if a publication was lost or a server not measured."""
    options = _options()
    if options.what == "page":
        _write_page(options.results)
        return 0
    if options.what == "redis":
        return _several_servers(options)
    files = raise_file_limit(plan.CHANNELS * plan.EACH + plan.OWN_FILES)
    with tempfile.TemporaryDirectory(prefix="pushserver-bench-") as folder:
        trials = {
            "quick": plan.quick,
            "socketio": plan.socketio,
            "workers": plan.workers,
            "full": lambda: plan.full(Path(folder), files),
        }[options.what]()
        chosen = [t for t in trials if not options.only or options.only in label(t)]
        say(f"{len(chosen)} runs, about {_duration(plan.seconds(chosen))}")
        cores = choose_cores(options.nice)
        found = run_all(chosen, options.what, cores)
    if options.what == "workers":
        _keep(found, "a lone publication", lambda: lone(cores))
    BUILD.mkdir(exist_ok=True)
    path = options.results or (WORKERS if options.what == "workers" else RESULTS)
    path.write_text(found.to_json(), "utf-8")
    say("")
    say(report.workers(found) if options.what == "workers" else report.comparison(found))
    say(report.goal_table(found))
    for complaint in report.complaints(found):
        say(f"NOT TO BE TRUSTED: {complaint}")
    say(f"results: {path}")
    return 1 if report.complaints(found) or found.missing else 0


def _several_servers(options: argparse.Namespace) -> int:
    found = brokers.measure(choose_cores(options.nice), say, options.only)
    BUILD.mkdir(exist_ok=True)
    path = options.results or REDIS
    path.write_text(found.to_json(), "utf-8")
    say(broker_report.section(found))
    say(f"results: {path}")
    return 1 if found.missing else 0


def run_all(trials: Iterable[Trial], kind: str, cores: Cores) -> Results:
    """Run all trials that are possible here."""
    if cores.shared:
        say("one core only: the load tool takes the server's time")
    found = Results(kind, datetime.now(UTC).strftime("%Y-%m-%d"), machine.describe())
    begun, code = time.monotonic(), machine.revision()
    for trial in trials:
        _try(trial, cores, found)
    found.versions = {"pushserver": code, **machine.versions()}
    if machine.revision() != code:
        found.missing["one state of the code"] = "pushserver/ changed during the measurement"
    say(f"{time.monotonic() - begun:.0f} s")
    return found


def _try(trial: Trial, cores: Cores, found: Results) -> None:
    if trial.server.name in found.missing:
        return
    _keep(found, label(trial), lambda: measure.carry_out(trial, cores), trial.server.name)


def _keep(found: Results, name: str, carry_out: Callable[[], Run], server: str = "") -> None:
    """Measure, and keep the result or the reason for having none."""
    try:
        run = carry_out()
    except (Missing, DidNotStart, Failed) as error:
        say(f"{name:62} MISSING: {error}")
        # A missing server is not tried again; a server that failed in one trial is.
        what = name if isinstance(error, Failed) else server or name
        found.missing[what] = str(error).splitlines()[-1][:200]
        return
    found.runs.append(run)
    cost = run.cost()
    figures = f"{cost.middle:7.2f} µs a delivery" if cost else ""
    say(f"{name:62} {figures} {'; '.join(run.complaints())}")


def _write_page(path: Path | None) -> None:
    found = results.from_json((path or RESULTS).read_text("utf-8"))
    several = results.from_json(WORKERS.read_text("utf-8")) if WORKERS.exists() else None
    brokers_section = ""
    if REDIS.exists():
        brokers_section = broker_report.section(
            brokers.Figures(**json.loads(REDIS.read_text("utf-8")))
        )
    PAGE.write_text(report.page(found, several, brokers_section), "utf-8")
    say(f"{PAGE} written")


def label(trial: Trial) -> str:
    """A readable name of the trial."""
    clients = trial.clients or trial.load.clients
    return f"{trial.server.name}, {trial.protocol}, {trial.scenario}, {clients:,}"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 100 else f"{seconds:.0f} seconds"


def say(text: str) -> None:
    """Print one line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("what", choices=("quick", "socketio", "workers", "redis", "full", "page"))
    parser.add_argument("--only", default="", help="only what has this in its name")
    parser.add_argument(
        "--nice", type=int, default=0, help="how server and tool are scheduled; below 0 needs root"
    )
    parser.add_argument("--results", type=Path, help=f"by default {RESULTS} or {WORKERS}")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
