"""The number of workers of a server."""

from __future__ import annotations

import os
from pathlib import Path

from pushserver.config.convert import Location, Text, convert
from pushserver.config.settings import Workers
from pushserver.errors import InvalidConfig, StartFailed

MOST = 128
_NO_QUOTA = MOST + 1


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
