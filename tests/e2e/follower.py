"""A reader who follows a document: writes its files and types its commands."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from playwright.sync_api import Browser

from tests.e2e.blocks import Block, Line
from tests.e2e.conditions import answers, wait_until
from tests.e2e.documents import EPOCH, Names
from tests.e2e.patience import PATIENCE
from tests.e2e.server import Server, environment, free_port
from tests.e2e.visits import LOST_CONNECTION, Visits

FILE = re.compile(r"\b(put|add) this (?:into|to) `([a-z_./]+)`:$", re.IGNORECASE)
LINE = re.compile(r"\bput this in place of `(.+)` in `([a-z_./]+)`:$", re.IGNORECASE)
NO_ICON = "favicon.ico|status of 404"
"""The errors of a browser for a page without an icon; pushserver itself has one."""


class Programs:
    """Programs that run until `close`."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, command: Sequence[str], port: int) -> None:
        """Start a program, and wait until it answers on the port."""
        with (self._folder / "programs").open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=self._folder,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._running.append(process)
        wait_until(lambda: answers(port))

    def wait(self) -> int:
        """Wait for the end of the last one, and return its status."""
        return self._running[-1].wait(PATIENCE)

    def close(self) -> None:
        """End all programs."""
        for process in self._running:
            process.terminate()
        for process in self._running:
            process.wait(PATIENCE)


class Follower:
    """Follows a document, with free ports in place of those in it."""

    def __init__(self, document: Mapping[str, Sequence[Block]], folder: Path, programs: Programs):
        self.server: Server | None = None
        self.port = free_port()
        self.page_port = free_port()
        self._folder = folder
        self._programs = programs
        self._sections = document
        self._left = [(title, b) for title, blocks in self._sections.items() for b in blocks]

    def write(self, section: str) -> None:
        """Write the files of this section; returns after a running server has reloaded."""
        for block in self._take(section, lambda block: block.language != "console"):
            starts = self._starts()
            name = self._save(block)
            if self.server is not None and name.endswith(".py"):
                wait_until(lambda starts=starts: self._starts() > starts)  # type: ignore[misc]

    def _save(self, block: Block) -> str:
        """Write or edit a file as the paragraph above the block says; returns its name."""
        line, text = LINE.search(block.before), self.real(block.text)
        if line is not None:
            file = self._folder / line[2]
            old = file.read_text()
            assert old.count(f"{line[1]}\n") == 1, f"{line[2]} has no line {line[1]}"
            file.write_text(old.replace(f"{line[1]}\n", text))
            return line[2]
        match = FILE.search(block.before)
        assert match is not None, f"no file named in: {block.before}"
        verb, name = match.groups()
        (self._folder / name).parent.mkdir(exist_ok=True)
        with (self._folder / name).open("w" if verb.lower() == "put" else "a") as opened:
            opened.write(text)
        return name

    def run(self, section: str) -> None:
        """Run the commands of this section."""
        for block in self._take(section, lambda block: block.language == "console"):
            lines = block.text.splitlines()
            while lines:
                command = lines.pop(0).removeprefix("$ ")
                printed = []
                while lines and not lines[0].startswith("$ "):
                    printed.append(lines.pop(0))
                self._type(self.real(command), printed)

    def left(self) -> list[str]:
        """The sections of the blocks that were neither written nor run."""
        return [title for title, _ in self._left]

    def stop(self) -> None:
        """Stop the server, whose log must have no problems."""
        if self.server is not None:
            server, self.server = self.server, None
            assert server.stop() == -signal.SIGTERM
            assert server.problems == []

    def _take(self, section: str, wanted: Callable[[Block], bool]) -> Iterator[Block]:
        for block in filter(wanted, self._sections[section]):
            self._left.remove((section, block))
            yield block

    def real(self, text: str) -> str:
        """The text with the actual ports."""
        text = text.replace("localhost:8080", f"localhost:{self.port}")
        return text.replace("localhost:8099", f"localhost:{self.page_port}")

    def _starts(self) -> int:
        return 0 if self.server is None else self.server.log.count(": open http")

    def _type(self, command: str, printed: Sequence[str]) -> None:
        words = shlex.split(command)
        settings: dict[str, str] = {}
        while re.match(r"[A-Z_]+=", words[0]):
            name, _, settings[name] = words.pop(0).partition("=")
        words[0] = words[0].removeprefix(".venv/bin/")
        match words:
            case ["make", "run"]:
                self._serve([], settings, serve=True)
            case ["make", "test"]:
                pass  # This is a part of it.
            case ["twistd", "-n", "pushserver", *options]:
                self._serve(options, settings)
            case ["pushserver", "serve", *options]:
                self._serve(options, settings, serve=True)
            case ["curl", *_]:
                # A person types this after the first number was published.
                if "-d" not in words:
                    wait_until(lambda: '"offset":0' not in self._curl(words))
                self._compare(self._curl(words), printed)
            case ["python3", "-m", "http.server", "8099", *options]:
                command_line = [sys.executable, "-m", "http.server", str(self.page_port), *options]
                self._programs.start(command_line, self.page_port)
            case ["pip", "install", _]:
                pass  # The environment of this test has them.
            case ["pytest"]:
                output = run([sys.executable, "-P", "-m", "pytest"], self._folder)
                assert re.search(r"\b2 passed\b", output.splitlines()[-1]), output
            case _:
                raise AssertionError(f"unknown command: {command}")

    def _serve(self, options: Sequence[str], settings: dict[str, str], serve: bool = False) -> None:
        self.stop()
        listen = ("--listen", f"tcp:{self.port}:interface=127.0.0.1")
        env = environment(**settings)
        self.server = Server(self._folder, *listen, *options, env=env, serve=serve)
        self.server.start()

    def _curl(self, words: Sequence[str]) -> str:
        return run(["curl", "-sS", *words[1:]], self._folder)

    def _compare(self, output: str, printed: Sequence[str]) -> None:
        assert self.server is not None
        epoch = re.search(r'"epoch":"(\w+)"', output)
        names = Names(epoch[1] if epoch else EPOCH)
        lines = output.splitlines()
        assert len(lines) == len(printed), output
        for at, (expected, line) in enumerate(zip(printed, lines, strict=True)):
            names.match(Line(at, expected), line)


def run(command: Sequence[str], folder: Path) -> str:
    ended = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=60
    )
    return ended.stdout


def visits_at(browser: Browser, url: str) -> Visits:
    visits = Visits(browser, url)
    # While the server restarts.
    visits.allow(LOST_CONNECTION)
    return visits
