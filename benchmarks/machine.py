"""The machine and the versions of a measurement, without names of hosts or users."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from benchmarks import build

PRODUCT_PACKAGES = ("Twisted", "autobahn", "msgspec")


def describe() -> dict[str, str]:
    """The machine."""
    processor = re.search(r"^model name\s*: (.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB$", _read("/proc/meminfo"), re.MULTILINE)
    return {
        "processor": processor[1] if processor else platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": f"{round(int(memory[1]) / 2**20)} GB" if memory else "?",
        "kernel": platform.release(),
        "load": f"{os.getloadavg()[0]:.1f}",
    }


def versions() -> dict[str, str]:
    """The versions of installed programs and packages."""
    found = {"Python": platform.python_version()}
    for name in PRODUCT_PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    found |= dict(map(split, build.installed()))
    found["gcc"] = _first_line("gcc", "-dumpfullversion")
    found["node"] = _first_line("node", "--version")
    for package in sorted((build.BUILD / "debs").glob("*.deb")):
        name, version, _ = package.name.split("_", 2)
        found[name] = version.replace("%3a", ":")
    return found


def revision() -> str:
    """The measured commit, and a checksum of the code if it differs from that."""
    git = ("git", "-C", str(build.CHECKOUT))
    commit = _first_line(*git, "rev-parse", "--short", "HEAD")
    if _first_line(*git, "status", "--porcelain", "pushserver") == "":
        return commit
    code = hashlib.sha256()
    for path in sorted((build.CHECKOUT / "pushserver").rglob("*.py")):
        code.update(path.read_bytes())
    return f"{commit}+{code.hexdigest()[:8]}"


def split(requirement: str) -> tuple[str, str]:
    """The name and the version of a requirement."""
    # The names of some Node packages begin with @.
    name, version = re.split("==|(?<=.)@", requirement)
    return name, version


def _read(path: str) -> str:
    return Path(path).read_text("utf-8")


def _first_line(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return "?"
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return (done.stdout.splitlines() or [""])[0].strip() if done.returncode == 0 else "?"
