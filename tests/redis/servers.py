"""Servers that share one Redis, each a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.server import CHECKOUT, Server, environment


class Node(Server):
    """One of the servers; its configuration is `text`, and `package` the folder of its code."""

    def __init__(
        self, folder: Path, url: str, text: str, *arguments: str, package: Path = CHECKOUT
    ):
        folder.mkdir()
        self.file = folder / "push.toml"
        self.file.write_text(text)
        env = environment(PUSHSERVER_BROKER_URL=url, PYTHONPATH=str(package))
        super().__init__(folder, "--config", str(self.file), *arguments, env=env)

    def check(self) -> tuple[int, str]:
        """The status of `/health/ready`, and its check of the broker."""
        answer = self.get("health/ready")
        checks: dict[str, str] = json.loads(answer.body)["checks"]
        return answer.status, checks["broker"]

    def is_ready(self) -> bool:
        """Whether it serves, and is attached to Redis."""
        return self.check() == (200, "ok")
