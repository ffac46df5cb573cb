"""The process whose forks `warm` uses: it imports the modules of commands and servers once.

The workers of a server are forks too, of a process that the server forks before it starts.
"""

from __future__ import annotations

import fcntl
import gc
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import IO

from tests.e2e.warm import WORKER, Forked, ForkServer, Request, asked_for

MODULES = (
    "pushserver.cli",
    "pushserver.server.foreground",
    "pushserver.server.workers.crew",
    "pushserver.server.workers.worker",
    "pushserver.sources.types.random",
    "encodings.idna",
    "twisted.application.app",
    "twisted.cred.strcred",
    "twisted.internet.epollreactor",
    "twisted.plugins",
    "twisted.scripts._twistd_unix",
    "twisted.scripts.twistd",
    # The interfaces that the cache of Twisted's plugins names.
    "twisted.trial.itrial",
    "twisted.words.iwords",
)
"""The modules, with all that they import. None of them installs a reactor."""
MOST_FILES = 64
HIGH = 800
"""A number for files that no program is given."""


def main() -> None:
    """Import the modules, and run programs in forks."""
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        requests.set_inheritable(False)
        for name in MODULES:
            import_module(name)
        _compile_templates()
        assert "twisted.internet.reactor" not in sys.modules
        gc.collect()
        gc.freeze()
        request = _serve(requests)
    _begin(request)
    if request.variables.get("PUSHSERVER_SERVER_WORKERS") or "--workers" in request.arguments:
        worker = _fork_workers()
        if worker is not None:
            _begin(worker)
            request = worker
    if request.program == WORKER:
        from pushserver.server.workers.worker import main as run_worker

        run_worker()
    elif request.program == "twistd":
        from twisted.scripts.twistd import run as run_twistd

        run_twistd()
    else:
        from pushserver.cli import main as run_command

        sys.exit(run_command())


def _compile_templates() -> None:
    """Make each page of the server once, so that no fork compiles its templates."""
    from pushserver.resources.pages import Pages
    from pushserver.resources.template_failures import TemplateFailures

    pages = Pages(float, TemplateFailures(float, float))
    pages.channel(("a",), ".", 1)
    pages.channels(".")
    pages.error(404, "", "")


def _serve(requests: socket.socket) -> Request:
    """Answer requests to their end. Returns in each fork, with its request."""
    while True:
        asked, files = asked_for(requests, MOST_FILES)
        if asked is None:
            os._exit(0)
        if isinstance(asked, int):
            _, status = os.waitpid(asked, 0)
            requests.send(b"%d" % os.waitstatus_to_exitcode(status))
            continue
        pid = os.fork()
        if not pid:
            requests.close()
            _number(dict(zip(asked.numbers, files, strict=True)))
            return asked
        requests.send(b"%d" % pid)
        for file in files:
            os.close(file)


def _number(files: Mapping[int, int]) -> None:
    """Have these files under other numbers, and no other file."""
    high = {number: fcntl.fcntl(file, fcntl.F_DUPFD, HIGH) for number, file in files.items()}
    os.closerange(0, HIGH)
    for number, file in high.items():
        os.dup2(file, number)
    os.closerange(HIGH, HIGH + MOST_FILES)


def _begin(request: Request) -> None:
    """Be as a new interpreter with these arguments, variables and folder."""
    os.environ.clear()
    os.environ.update(request.variables)
    os.chdir(request.folder)
    sys.orig_argv = list(request.command)
    sys.argv = [request.program, *request.arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request.program == WORKER:
        os.setsid()
        # The command line is that of the first process.
        Path("/proc/self/comm").write_text(f"{WORKER} {request.arguments[-1]}")
        resource.setrlimit(resource.RLIMIT_NOFILE, request.open_files)
        sys.path[:] = os.environ["PYTHONPATH"].split(os.pathsep)
        return
    more = os.environ["PYTHONPATH"].split(os.pathsep)[:-1]
    sys.path[:0] = more if "-P" in request.command else [request.folder, *more]
    for path in (Path(folder, "sitecustomize.py") for folder in more):
        if path.exists():
            runpy.run_path(str(path))


def _fork_workers() -> Request | None:
    """Have the workers of this server forked by a process that ends with it.

    Returns in each of them too, with its request; None in the server.
    """
    from pushserver.server.workers import process

    before = signal.pthread_sigmask(signal.SIG_BLOCK, process.IGNORED)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if not os.fork():
        ours.close()
        # It is not one of the processes of the server.
        os.chdir("/")
        return _serve(theirs)
    theirs.close()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    popen = partial(_start_worker, ForkServer(ours))
    process.subprocess = SimpleNamespace(  # type: ignore[assignment, attr-defined]
        Popen=popen, DEVNULL=subprocess.DEVNULL
    )
    return None


def _start_worker(
    fork_server: ForkServer,
    command: Sequence[str],
    *,
    stdin: IO[bytes],
    stdout: int,
    pass_fds: Sequence[int],
    env: Mapping[str, str],
    start_new_session: bool,
) -> Forked:
    """`subprocess.Popen`, as `pushserver.server.workers.process` calls it."""
    assert stdout == subprocess.DEVNULL
    assert start_new_session
    with open(os.devnull, "wb") as nothing:
        files = {0: stdin.fileno(), 1: nothing.fileno(), 2: 2} | {n: n for n in pass_fds}
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        request = Request(WORKER, command[1:], command, os.getcwd(), dict(env), list(files), limits)
        return Forked(fork_server, fork_server.fork(request, list(files.values())))


if __name__ == "__main__":
    main()
