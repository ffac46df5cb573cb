"""A program that prints a line for each event."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.patience import PATIENCE


class Lines:
    """Runs a program and reads its output line by line, with a limit to each wait."""

    def __init__(
        self, command: Sequence[str], folder: Path | None = None, typed: bool = False
    ) -> None:
        """`typed`: whether the test types lines into it."""
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.PIPE if typed else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self._input = self._process.stdin
        self._output = self._process.stdout
        self._rest = b""

    @property
    def pid(self) -> int:
        """The process ID of the program."""
        return self._process.pid

    def next(self, seconds: float = PATIENCE) -> str:
        """Wait for the next line; without its end. Raises EOFError after the last one."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._rest:
            left = max(0.0, deadline - time.monotonic())
            assert select.select([self._output], [], [], left)[0], f"no line in {seconds} s"
            chunk = os.read(self._output.fileno(), 65_536)
            if not chunk:
                raise EOFError
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode().rstrip("\r")

    def to_the_end(self) -> list[str]:
        """Wait until the program closes its output, and return the remaining lines."""
        lines = []
        try:
            while True:
                lines.append(self.next())
        except EOFError:
            return lines

    def type(self, line: str) -> None:
        """Type a line."""
        assert self._input is not None
        self._input.write(f"{line}\n".encode())
        self._input.flush()

    def wait(self, seconds: float = PATIENCE) -> int:
        """Wait for the end of the program and return its exit status."""
        return self._process.wait(seconds)

    def close(self) -> None:
        """Kill the program if it still runs."""
        self._process.kill()
        self._process.wait()
        self._output.close()
        if self._input is not None:
            self._input.close()
