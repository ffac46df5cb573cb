"""Builds the tools and installs the other servers, all below benchmarks/build/."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent
BUILD = HERE / "build"

PYTHON_PEERS = (
    "websockets==17.4",
    "python-socketio==5.18.1",
    "uvicorn==0.54.0",
    "uvloop==0.23.0",
    "flask-socketio==5.7.0",
    "gevent==26.9.0",
    "gevent-websocket==0.10.1",
    "simple-websocket==1.1.0",
)
PICOWS = ("picows==2.3.1", "uvloop==0.23.0")
NODE_PEERS = ("ws@8.23.0", "socket.io@4.8.4")
REDIS_PYTHON_PEERS = (
    "python-socketio==5.18.1",
    "uvicorn==0.54.0",
    "uvloop==0.23.0",
    "redis==7.1.0",
)
REDIS_NODE_PEERS = (
    "socket.io@4.8.4",
    "redis@4.7.1",
    "@socket.io/redis-adapter@8.3.0",
    "@socket.io/redis-streams-adapter@0.3.1",
)
DEBIAN_PEERS = ("nginx", "libnginx-mod-nchan")


class Missing(Exception):
    """A server cannot be measured here; the text is the reason."""


def load_tool() -> Path:
    """The load tool, compiled if needed."""
    return _compile("load", ["load.c", "options.c", "told.c", "peer.c", "post.c", "count.c"])


def limit() -> Path:
    """The limit, compiled if needed."""
    return _compile("limit", ["limit.c"])


def python_peers(wanted: tuple[str, ...] = PYTHON_PEERS) -> Path:
    """The interpreter of an environment with these packages; raises Missing."""
    folder = _environment(wanted)
    python = folder / "bin" / "python"
    if not _made(folder, wanted):
        _run([sys.executable, "-m", "venv", "--clear", str(folder)], "venv")
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
        _run([*pip, *wanted], "pip")
        _mark(folder, wanted)
    return python


def installed() -> list[str]:
    """The installed other servers, with their versions."""
    made = ((_environment(peers), peers) for peers in (PYTHON_PEERS, PICOWS, REDIS_PYTHON_PEERS))
    nodes = ((_node_folder(peers), peers) for peers in (NODE_PEERS, REDIS_NODE_PEERS))
    folders = [*made, *nodes]
    there = [peer for folder, peers in folders if _made(folder, peers) for peer in peers]
    return list(dict.fromkeys(there))


def _environment(wanted: tuple[str, ...]) -> Path:
    # A separate environment, so that a missing wheel concerns only this server.
    return BUILD / {PICOWS: "picows", REDIS_PYTHON_PEERS: "peers-redis"}.get(wanted, "peers")


def _node_folder(wanted: tuple[str, ...]) -> Path:
    return BUILD / ("node-redis" if wanted == REDIS_NODE_PEERS else "node")


def node_peers(wanted: tuple[str, ...] = NODE_PEERS) -> Path:
    """A folder whose node_modules has these packages; raises Missing."""
    folder = _node_folder(wanted)
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise Missing("node and npm are not installed")
    if not _made(folder, wanted):
        folder.mkdir(parents=True, exist_ok=True)
        npm = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
        _run([*npm, "--prefix", str(folder), *wanted], "npm")
        _mark(folder, wanted)
    return folder


def nchan() -> Path:
    """A folder with Debian's nginx and nchan, unpacked but not installed; raises Missing."""
    folder = BUILD / "nchan"
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise Missing("this is no Debian: apt-get and dpkg are not there")
    if not _made(folder, DEBIAN_PEERS):
        packages = BUILD / "debs"
        for place in (folder, packages):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
        try:
            _run(["apt-get", "download", *DEBIAN_PEERS], "apt-get download", packages)
        except Missing:
            # The package lists are missing or old; needs root.
            _run(["apt-get", "update"], "apt-get update")
            _run(["apt-get", "download", *DEBIAN_PEERS], "apt-get download", packages)
        for package in sorted(packages.glob("*.deb")):
            _run(["dpkg", "--extract", str(package), str(folder)], "dpkg")
        _mark(folder, DEBIAN_PEERS)
    return folder


def _compile(name: str, sources: Sequence[str]) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise Missing("no C compiler: apt-get install gcc libc6-dev")
    program = BUILD / name
    newest = max(path.stat().st_mtime for path in HERE.glob("*.[ch]"))
    if not program.exists() or program.stat().st_mtime < newest:
        BUILD.mkdir(exist_ok=True)
        files = [str(HERE / source) for source in sources]
        _run([compiler, "-O2", "-Wall", "-Wextra", "-o", str(program), *files, "-lm"], "gcc")
    return program


def _made(folder: Path, wanted: Sequence[str]) -> bool:
    mark = folder / "made-of"
    return mark.exists() and mark.read_text("utf-8").split() == list(wanted)


def _mark(folder: Path, wanted: Sequence[str]) -> None:
    (folder / "made-of").write_text("\n".join(wanted), "utf-8")


def _run(command: Sequence[str], what: str, folder: Path | None = None) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{what}: {error}") from None
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise Missing(f"{what} failed: {' '.join(last)[:300]}")
