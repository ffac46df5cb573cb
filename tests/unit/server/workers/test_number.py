"""The number of workers."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from pushserver.errors import StartFailed
from pushserver.server.workers.number import check_files, count


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a machine with eight cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    (tmp_path / "proc/self").mkdir(parents=True)
    return tmp_path


def put(machine: Path, group: str, **quotas: str) -> None:
    (machine / "proc/self/cgroup").write_text(f"1:name=systemd:/x\n0::/{group}\n")
    for name, quota in quotas.items():
        folder = machine / "sys/fs/cgroup" / ("" if name == "top" else name.replace("_", "/"))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.max").write_text(f"{quota}\n")


def test_workers_need_files(monkeypatch: pytest.MonkeyPatch) -> None:
    for most in (128, resource.RLIM_INFINITY):
        monkeypatch.setattr(resource, "getrlimit", lambda _, most=most: (24, most))
        check_files(8)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (24, 127))
    with pytest.raises(StartFailed, match=r"127 files open, and 8 workers need 128.* LimitNOFILE="):
        check_files(8)


@pytest.mark.parametrize("number", [1, 2, 128])
def test_a_number_means_itself(number: int) -> None:
    assert count(number) == number


def test_auto_leaves_one_core_to_the_main_process(machine: Path) -> None:
    assert count("auto", str(machine)) == 7


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 1), (3, 2), (500, 128)])
def test_auto_has_at_least_one_and_a_bound(
    machine: Path, monkeypatch: pytest.MonkeyPatch, cores: int, workers: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert count("auto", str(machine)) == workers


@pytest.mark.parametrize(
    ("quota", "workers"),
    [("max 100000", 7), ("400000 100000", 3), ("399999 100000", 2), ("50000 100000", 1)],
)
def test_the_quota_of_the_control_group_is_rounded_down(
    machine: Path, quota: str, workers: int
) -> None:
    put(machine, "a/b", a_b=quota)
    assert count("auto", str(machine)) == workers


def test_the_least_quota_of_the_groups_around_it_counts(machine: Path) -> None:
    put(machine, "a/b", a="300000 100000", a_b="max 100000", a_b_c="100000 100000")
    assert count("auto", str(machine)) == 2


def test_in_a_container_the_top_has_the_quota(machine: Path) -> None:
    put(machine, "", top="300000 100000")
    assert count("auto", str(machine)) == 2


@pytest.mark.parametrize("text", ["", "5", "many 100000", "100000 0"])
def test_a_quota_that_cannot_be_read_is_none(machine: Path, text: str) -> None:
    put(machine, "a", a=text)
    assert count("auto", str(machine)) == 7


def test_groups_of_the_first_version_have_no_such_quota(machine: Path) -> None:
    (machine / "proc/self/cgroup").write_text("2:cpu,cpuacct:/a\n1:memory:/a\n")
    assert count("auto", str(machine)) == 7


def test_this_machine_has_a_number() -> None:
    assert 1 <= count("auto") <= 128
