"""The places of the processes of one server: which one this is, and the sockets between them."""

from __future__ import annotations

import os
from dataclasses import dataclass

MAIN = 0
"""The number of the main process; its workers have the numbers from 1 on."""


@dataclass(frozen=True, slots=True)
class Place:
    """The number of a process, and the folder with the Unix sockets of all of them."""

    folder: str
    worker: int = MAIN

    @property
    def is_worker(self) -> bool:
        """Whether another process has the log and the application."""
        return self.worker != MAIN

    @property
    def link(self) -> str:
        """The socket of the main process for the links of its workers."""
        return os.path.join(self.folder, "link")

    @property
    def control(self) -> str:
        """The socket of this worker for a main process that comes after the one that started it."""
        return os.path.join(self.folder, f"control-{self.worker}")

    def http(self, worker: int) -> str:
        """The socket of a process for requests that others pass on to it."""
        return os.path.join(self.folder, f"http-{worker}")
