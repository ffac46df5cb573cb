"""The process of a worker."""

from __future__ import annotations

import errno
import os
import subprocess
from typing import Any

import pytest

from pushserver.server.workers.process import spawn


def test_process_that_cannot_be_watched_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Child:
        pid = 1

        def __init__(self, command: list[str], **options: Any):
            calls.append("start")

        def kill(self) -> None:
            calls.append("kill")

        def wait(self) -> None:
            calls.append("wait")

    def refuse(pid: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(subprocess, "Popen", Child)
    monkeypatch.setattr(os, "pidfd_open", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        spawn(b"", 1, (), None, lambda status: None, {})
    assert calls == ["start", "kill", "wait"]
