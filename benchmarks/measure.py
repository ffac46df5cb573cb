"""Starts a server and the load tool, and returns the report of the tool."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import build
from benchmarks.contestants import Contestant, Place
from benchmarks.processes import Cores, free_port, pinned, running
from benchmarks.results import Run
from benchmarks.scenario import Load

FEED_BYTES = 24


class Failed(Exception):
    """The load tool failed; the text is the reason."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One planned run.

    `channels`: how many the server publishes to by itself; `settings`: of the product, by section.
    """

    server: Contestant
    protocol: str
    scenario: str
    load: Load
    channels: int = 1
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    clients: int = 0
    """The number of clients that figures are divided by, if not all clients of the load."""


def carry_out(trial: Trial, cores: Cores) -> Run:
    """Measure; raises Missing, DidNotStart and Failed."""
    tool = build.load_tool()
    with tempfile.TemporaryDirectory(prefix="pushserver-bench-") as name:
        folder = Path(name)
        feed = folder / "feed"
        feed.write_bytes(bytes(FEED_BYTES))
        place = Place(free_port(), feed, folder, trial.channels, trial.settings)
        command = pinned(cores.server, cores.nice, trial.server.command(place))
        log = folder / "server.log"
        server = trial.server
        with running(command, place.port, log, server.environment, server.workers > 1) as pids:
            told = _drive(tool, place, pids, trial.load, cores)
        turns = folder / "turns"
        if turns.exists():
            # Written by the server at its end: see servers/turns.py.
            told["turns"] = json.loads(turns.read_text("ascii"))
    clients = trial.clients or trial.load.clients
    return Run(trial.server.name, trial.protocol, trial.scenario, clients, trial.load.rate, told)


def _drive(tool: Path, place: Place, pids: list[int], load: Load, cores: Cores) -> dict[str, Any]:
    command = [
        str(tool),
        f"--port={place.port}",
        f"--feed={place.feed}",
        f"--pid={','.join(map(str, pids))}",
        *load.arguments(),
    ]
    try:
        done = subprocess.run(
            pinned(cores.tool, cores.nice, command),
            capture_output=True,
            text=True,
            timeout=load.longest,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"the load tool did not end in {load.longest:.0f} s") from None
    if done.returncode:
        raise Failed(f"the load tool ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    told: dict[str, Any] = json.loads(done.stdout)
    if done.stderr:
        told["said"] = done.stderr.strip()[:2000]
    return told
