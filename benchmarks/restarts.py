"""`python -m benchmarks.restarts`: clients of each transport while the server restarts.

The server has a held socket, as from systemd, and a store; a program publishes at a steady rate.
The server is restarted some times, and at last with another application. Prints for each transport
the publications that were lost or arrived twice, and the longest pause between two.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.build import CHECKOUT
from benchmarks.followers import CHANNEL, KINDS, Follower, Record
from benchmarks.processes import DidNotStart, raise_file_limit
from pushserver import publish

CLIENTS = 500
SECONDS = 5.0
START_SECONDS = 60.0
REST_SECONDS = 30.0
"""How long the last publications may take to every client."""

HEAD = (
    "| transport | clients | publications to each | lost | twice | resets | connects | refused"
    " | longest pause |\n" + "| --- " * 9 + "|"
)

APP = """
from pushserver import PushServer

app = PushServer()


@app.on("start")
def start():
    app.publish("release", "{name}")
"""


def application(folder: Path, name: str) -> str:
    """Write an application that publishes its name when it starts; returns MODULE:NAME."""
    (folder / f"{name}.py").write_text(APP.format(name=name))
    return f"{name}:app"


class DidNotStop(Exception):
    """The stop was not orderly; the text is the status and the end of the log."""


class Server:
    """`twistd pushserver` on a socket that stays open when the process ends."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        self.outages: list[float] = []
        """Seconds from each signal until the next process served."""
        self._folder = folder
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port: int = self._listener.getsockname()[1]
        (folder / "pushserver.toml").write_text('[store]\npath = "history.db"\n[sources]\n')
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, app: str) -> None:
        """Start it with this application, and wait until that has started; raises DidNotStart."""
        twistd = str(Path(sys.executable).with_name("twistd"))
        command = [twistd, "--nodaemon", "--pidfile=", "pushserver", "--config", "pushserver.toml"]
        command += ["--listen", "systemd:name=http", "--app", app]
        held = self._listener.fileno()
        passing = f'LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=http exec "$@" 3<&{held}'
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", passing, "bash", *command],
                cwd=self._folder,
                env={**os.environ, "PYTHONPATH": f"{self._folder}:{CHECKOUT}"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[held],
            )
        end = time.monotonic() + START_SECONDS
        while self._release() != app.partition(":")[0]:
            if time.monotonic() > end or self._process.poll() is not None:
                raise DidNotStart(self.log.read_text()[-1500:])
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop it in order; raises DidNotStop."""
        assert self._process is not None
        self._process.terminate()
        status = self._process.wait(START_SECONDS)
        if status != -signal.SIGTERM:
            raise DidNotStop(f"status {status}: {self.log.read_text()[-1500:]}")

    def restart(self, app: str) -> None:
        """Stop and start it."""
        begun = time.monotonic()
        self.stop()
        self.start(app)
        self.outages.append(time.monotonic() - begun)

    def kill(self) -> None:
        """End the process and close the socket."""
        self._listener.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _release(self) -> object:
        """The name of the application that has started last."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2.0)
        try:
            connection.request("GET", "/channels/release?last=1")
            publications = json.loads(connection.getresponse().read())["publications"]
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return publications[-1]["data"] if publications else None


class Publisher:
    """Publishes 1, 2, 3 … at a rate, in a thread; one publication at a time."""

    def __init__(self, port: int, rate: float) -> None:
        self.count = 0
        self.problem = ""
        self._url = f"http://127.0.0.1:{port}"
        self._pause = 1 / rate
        self.ended = threading.Event()
        # After a failure nobody waits for the attempts of a minute.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Wait for the answer to the last one."""
        self.ended.set()
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        while not self.ended.wait(max(0.0, due - time.monotonic())) and not self.problem:
            due = max(due + self._pause, time.monotonic() - 1.0)
            try:
                told = publish(self._url, CHANNEL, self.count + 1, retry_seconds=START_SECONDS)
            except Exception as error:
                self.problem = f"publishing failed: {error}"
                return
            self.count += 1
            if told["offset"] != self.count:
                self.problem = f"publication {self.count} has the offset {told['offset']}"


@dataclass(slots=True)
class Result:
    """The records of all clients, by transport."""

    records: dict[str, list[Record]] = field(default_factory=dict)
    published: int = 0
    problems: list[str] = field(default_factory=list)

    def rows(self) -> list[str]:
        """The lines of the table."""
        lines = [HEAD]
        for name, records in self.records.items():
            sums = [
                sum(getattr(record, key) for record in records)
                for key in ("lost", "doubled", "resets", "connects", "refused")
            ]
            pause = max((record.pause for record in records), default=0.0)
            cells = [name, len(records), self.published, *sums, f"{pause:.1f} s"]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
        return lines

    def complaints(self) -> list[str]:
        """The reasons for a status of 1."""
        found = list(self.problems)
        if not self.published:
            found.append("nothing was published")
        for name, records in self.records.items():
            lost = sum(record.lost + record.resets for record in records)
            doubled = sum(record.doubled for record in records)
            if lost or doubled:
                found.append(f"{name}: {lost} lost or reset, {doubled} twice")
        return found


def finish(records: Sequence[Record], published: int) -> None:
    """Count the publications that never arrived as lost."""
    for record in records:
        record.lost += published - record.last


async def carry_out(
    server: Server, apps: Sequence[str], clients: int, rate: float, seconds: float
) -> Result:
    """Start the server with the first application, then restart it with each of the others."""
    result = Result()
    async with AsyncExitStack() as stack:
        stack.callback(server.kill)
        await asyncio.to_thread(server.start, apps[0])
        followers = [KINDS[n % len(KINDS)](server.port) for n in range(clients)]
        tasks = [asyncio.create_task(follower.follow()) for follower in followers]
        stack.push_async_callback(end, tasks)
        async with asyncio.timeout(START_SECONDS):
            await asyncio.gather(*(follower.subscribed.wait() for follower in followers))
        publisher = Publisher(server.port, rate)
        stack.callback(publisher.ended.set)
        for app in apps[1:]:
            await asyncio.sleep(seconds)
            await asyncio.to_thread(server.restart, app)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(publisher.stop)
        result.published = publisher.count
        await arrival(followers, publisher.count)
        result.problems += filter(None, [publisher.problem])
        await asyncio.to_thread(server.stop)
    for task in tasks:
        if not task.cancelled() and task.exception() is not None:
            result.problems.append(f"a client failed: {task.exception()!r}")
    finish([follower.record for follower in followers], result.published)
    for follower in followers:
        result.records.setdefault(follower.name, []).append(follower.record)
    if "Traceback" in (text := server.log.read_text("utf-8", "replace")):
        result.problems.append(f"tracebacks in the log: {text.count('Traceback')}")
    return result


async def arrival(followers: Sequence[Follower], published: int) -> None:
    """Wait until every client has the last publication, REST_SECONDS at the most."""
    for _ in range(int(REST_SECONDS / 0.05)):
        if all(follower.record.last >= published for follower in followers):
            return
        await asyncio.sleep(0.05)


async def end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel the tasks, and wait for them."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns 1 if anything was lost or arrived twice."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.restarts", description=__doc__)
    parser.add_argument("--clients", type=int, default=CLIENTS, help="of all transports together")
    parser.add_argument("--rate", type=float, default=10.0, help="publications a second")
    parser.add_argument("--restarts", type=int, default=3, help="before that of the upgrade")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="between two restarts")
    options = parser.parse_args(arguments)
    raise_file_limit(options.clients + 200)
    with tempfile.TemporaryDirectory(prefix="pushserver-restarts-") as name:
        folder = Path(name)
        first, second = (application(folder, release) for release in ("first", "second"))
        apps = [first] * (options.restarts + 1) + [second]
        server = Server(folder)
        running = carry_out(server, apps, options.clients, options.rate, options.seconds)
        try:
            result = asyncio.run(running)
        except (DidNotStart, DidNotStop) as error:
            say(f"WRONG: {type(error).__name__}: {error}")
            return 1
    say("\n".join(result.rows()))
    outages = ", ".join(f"{seconds:.1f} s" for seconds in server.outages)
    say(f"from the signal until the next server answered: {outages}, the last with the upgrade")
    for text in result.complaints():
        say(f"WRONG: {text}")
    return 1 if result.complaints() else 0


if __name__ == "__main__":
    sys.exit(main())
