"""A server with workers, and all processes that belong to it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pushserver.server.workers.process import MODULE
from tests.e2e.conditions import wait_until
from tests.e2e.server import CHECKOUT, Server, environment
from tests.e2e.warm import WORKER
from tests.processes import lives

RUN = "run"
"""The folder of the test for the sockets between the processes."""

MEMORY = "[sources]\n[defaults]\nhistory_size = 10_000\nrecovery_limit = 10_000\n"
STORES = {
    "memory": MEMORY,
    "batched": f'{MEMORY}[store]\npath = "s.db"\ndurability = "batched"\n',
    "sync": f'{MEMORY}[store]\npath = "s.db"\ndurability = "sync"\n',
}

TIMES = """
import os
from importlib import import_module

for item in os.environ["TEST_TIMES_OF_WORKERS"].split():
    place, seconds = item.split("=")
    module, _, name = place.rpartition(".")
    module = import_module(f"pushserver.server.workers.{module or 'control'}")
    assert hasattr(module, name)
    setattr(module, name, float(seconds))
"""


class Crew:
    """`pushserver serve` with workers, run in `folder`; it may be stopped and started again."""

    def __init__(
        self,
        folder: Path,
        text: str = "[sources]",
        *arguments: str,
        workers: int = 2,
        lasting: bool = False,
        times: str = "",
        serve: bool = True,
        package: Path = CHECKOUT,
        forks: bool = True,
    ):
        """`text`: its configuration. `lasting`: another main process finds the workers of one that
        was killed, as under systemd. `times`: other values of constants of `workers.control`, or
        of another module beside it, such as `ALONE_SECONDS=60 slot.MOST_MISSED=60`. `package`: the
        folder with the package. `forks`: its processes need not be new interpreters.
        """
        (folder / "pushserver.toml").write_text(text)
        (folder / RUN).mkdir(mode=0o700)
        self.folder = folder
        self._cwd = str(folder.resolve())
        places = {"RUNTIME_DIRECTORY" if lasting else "TMPDIR": str(folder / RUN)}
        more = {} if forks else {"NEW_INTERPRETERS": "yes"}
        more |= {"TEST_TIMES_OF_WORKERS": times, "PYTHONPATH": str(package), **places}
        if times:
            # Python imports it at its start.
            (folder / "sitecustomize.py").write_text(TIMES)
            more["PYTHONPATH"] = os.pathsep.join((str(folder), str(package)))
        # The folder of the user's session would be taken in place of that of temporary files.
        variables = {n: text for n, text in environment(**more).items() if n != "XDG_RUNTIME_DIR"}
        self.server = Server(
            folder,
            "--workers",
            str(workers),
            "--config",
            str(folder / "pushserver.toml"),
            *arguments,
            env=variables,
            serve=serve,
        )

    @property
    def main(self) -> int:
        """The main process."""
        return self.server.pid

    @property
    def log(self) -> str:
        return self.server.log

    def all(self) -> set[int]:
        """All processes of this server that run."""
        found = set()
        for name in filter(str.isdecimal, os.listdir("/proc")):
            with suppress(OSError):
                if os.readlink(f"/proc/{name}/cwd") == self._cwd:
                    found.add(int(name))
        return {pid for pid in found if lives(pid)}

    def workers(self) -> dict[int, int]:
        """The processes of the workers that run, by number."""
        found = {}
        for pid in self.all():
            with suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                program, _, number = Path(f"/proc/{pid}/comm").read_text().partition(" ")
                if MODULE.encode() in words:
                    found[int(words[-2])] = pid
                elif program == WORKER:
                    found[int(number)] = pid
        return found

    def checks(self, seconds: float = 0.5) -> tuple[int, Any]:
        """The status of `/health/ready`, and its check of the workers; 0 after these seconds."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=seconds)
        try:
            connection.request("GET", "/health/ready")
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())["checks"]["workers"]
        except OSError:
            # It waits for a worker that was stopped.
            return 0, ""
        finally:
            connection.close()

    @contextmanager
    def starting(self) -> Iterator[int]:
        """Start it; what is done meanwhile may end it. The value is the main process."""

        def start() -> None:
            with suppress(AssertionError):
                self.server.start()

        thread = threading.Thread(target=start)
        thread.start()
        try:
            wait_until(lambda: self.server.running)
            yield self.server.pid
        finally:
            thread.join()

    def wait_for(self, line: str, times: int = 1) -> None:
        """Wait until the log has this text so many times."""
        wait_until(lambda: self.log.count(line) >= times)

    def clean(self) -> None:
        """End all that is left, without waiting."""
        self.server.kill()
        for pid in self.all():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def check_end(self) -> None:
        """Check that nothing is left: no process, and no file of the sockets."""
        assert self.all() == set()
        assert [str(path) for path in (self.folder / RUN).rglob("*") if path.is_socket()] == []


def stop_process(pid: int) -> None:
    """Stop a process, as a debugger does; returns when it no longer runs."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: "T" in state(pid))


def state(pid: int) -> str:
    """The state of a process, such as S, T or Z; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
