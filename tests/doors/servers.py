"""The kinds of servers of the table."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.doors.publishers import CONFIG as PUBLISHERS
from tests.e2e.conditions import wait_until
from tests.e2e.crew import Crew
from tests.e2e.server import SHORTCUTS
from tests.redis.server import RedisServer

SECRET = "a secret of the tests, which is long enough"
CONFIG = """
[defaults]
publish = "anyone"
initial = 0

[namespaces.open]
history_size = 100_000
recovery_limit = 100_000

[namespaces.closed]
subscribe = "token"
history = "token"
publish = "token"

[namespaces.short]
history_size = 2

[namespaces.few]
recovery_limit = 2

[limits]
body_bytes = 4096
frame_bytes = 4096

[socketio]
recovery = true
"""
TOKENS = f"""
token_secret = "{SECRET}"
token_leeway_seconds = 0
"""
APP = Path(__file__).with_name("app.py")


@dataclass(frozen=True)
class Kind:
    """How the servers are run; `servers` with one Redis, if there are several."""

    durability: str = ""
    workers: int = 1
    servers: int = 1
    shortcuts: bool = True

    def keeps(self, killed: bool) -> bool:
        """Whether cursors stay valid after a restart, or after a `kill -9`."""
        return self.servers > 1 or self.durability == "sync" or bool(self.durability and not killed)

    @property
    def ends(self) -> list[bool]:
        """The ends that differ in what they keep: each is whether it is a kill."""
        return [True] if self.keeps(False) is self.keeps(True) else [False, True]

    @property
    def store(self) -> str:
        """The part of the configuration."""
        return f'[store]\npath = "s.db"\ndurability = "{self.durability}"\n' * bool(self.durability)


KINDS = {
    "memory": Kind(),
    "batched, without shortcuts": Kind("batched", shortcuts=False),
    "sync": Kind("sync"),
    "workers": Kind(workers=2),
    "workers, sync": Kind("sync", workers=2),
    "redis": Kind(servers=2),
}


class Servers:
    """The servers of one kind, which may be stopped and started again."""

    def __init__(self, crews: list[Crew], redis: RedisServer | None):
        self.crews, self.redis = crews, redis
        self.ports = [crew.server.port for crew in crews]

    def start(self) -> None:
        """Start those that do not run, and wait until all are ready."""
        for crew in self.crews:
            if not crew.server.running:
                crew.server.start()
        self.wait()

    def wait(self) -> None:
        """Wait until all have their workers, and are attached to Redis."""
        for crew in self.crews:
            wait_until(lambda crew=crew: _is_ready(crew))  # type: ignore[misc]

    def stop(self) -> None:
        """Stop them in order."""
        for crew in self.crews:
            assert crew.server.stop() == -signal.SIGTERM

    def kill(self) -> None:
        """Kill all processes."""
        for crew in self.crews:
            crew.clean()
            wait_until(lambda crew=crew: not crew.all())  # type: ignore[misc]


def _is_ready(crew: Crew) -> bool:
    try:
        return crew.server.get("health/ready").status == 200
    except OSError:
        # The process that was asked is the one that was killed.
        return False


@contextmanager
def serving(kind: Kind, folder: Path, *, lasting: bool = False) -> Iterator[Servers]:
    """Servers of this kind. `lasting`: workers wait for another main process, as under systemd."""
    with ExitStack() as stack:
        text = CONFIG + PUBLISHERS.replace("[auth]", f"[auth]{TOKENS}") + kind.store
        redis = None
        if kind.servers > 1:
            options = {"appendonly": "yes", "appendfsync": "always"}
            redis = stack.enter_context(RedisServer(folder / "redis", **options))
            text += f'[broker]\nurl = "unix://{redis.path}"\n'
        if not kind.shortcuts:
            stack.enter_context(pytest.MonkeyPatch.context()).setenv(SHORTCUTS, "off")
        crews = []
        for number in range(kind.servers):
            (folder / f"{number}").mkdir()
            crews.append(
                Crew(folder / f"{number}", text, str(APP), workers=kind.workers, lasting=lasting)
            )
            stack.callback(crews[-1].clean)
        servers = Servers(crews, redis)
        servers.start()
        yield servers
        servers.stop()
        problems = [line for crew in crews for line in crew.server.problems]
        assert not problems, "\n".join(problems)
