"""The number of workers of a server."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from pushserver.config.convert import Location, Text, convert
from pushserver.config.settings import Workers
from pushserver.errors import InvalidConfig, StartFailed

MOST = 128
_NO_QUOTA = MOST + 1
_FILES, _FILES_OF_WORKER = 64, 8
"""What the main process has open: its own, and the sockets of each worker."""


def parse_workers(given: object) -> int | str:
    """The setting as an option or an argument gives it; raises StartFailed."""
    value = Text(given) if isinstance(given, str) else given
    try:
        parsed: int | str = convert(value, Workers, "workers", Location("", "", {}))
    except InvalidConfig as error:
        raise StartFailed(str(error)) from None
    return parsed


def count(workers: int | str, root: str = "/") -> int:
    """The number of workers that the setting means; `auto` leaves one core to the main process.

    The cores are those of this process's affinity, at most the quota of its control groups. `root`
    is the folder of `proc` and `sys`.
    """
    if isinstance(workers, int):
        return workers
    cores = min(len(os.sched_getaffinity(0)), _quota(Path(root)))
    return min(max(cores - 1, 1), MOST)


def check_files(workers: int) -> None:
    """Raise StartFailed if the main process may not have the files open that the workers need."""
    needed = _FILES + workers * _FILES_OF_WORKER
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < needed:
        raise StartFailed(
            f"the process may have {most} files open, and {workers} workers need {needed}, and one"
            " more for each connection: raise LimitNOFILE= of the unit (ulimit -n), or have fewer"
            " workers"
        )


def _quota(root: Path) -> int:
    """The whole cores that the control groups of this process permit.

    A group may have less than those inside it.
    """
    top = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
        # The line of the unified hierarchy; those of version 1 have no cpu.max.
        name = next(line.removeprefix("0::/") for line in lines if line.startswith("0::/"))
    except (OSError, StopIteration):
        return _NO_QUOTA
    folder = top / name
    folders = [folder, *folder.parents]
    return min(_cores(each / "cpu.max") for each in folders[: folders.index(top) + 1])


def _cores(file: Path) -> int:
    """The quota in a file: microseconds in each period, or `max`."""
    try:
        quota, period = file.read_text().split()
        return _NO_QUOTA if quota == "max" else int(quota) // int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return _NO_QUOTA
