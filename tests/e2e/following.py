"""Somebody who reads a document and does what it says: files, commands, pages."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser

from tests.e2e.documents import EPOCH, Line, Names
from tests.e2e.server import Server, environment, free_port, get
from tests.e2e.visits import Visits

FILE = re.compile(r"\b(put|add) this (?:into|to) `([a-z_./]+)`:$", re.IGNORECASE)
LINE = re.compile(r"\bput this in place of `(.+)` in `([a-z_./]+)`:$", re.IGNORECASE)
NO_ICON = "favicon.ico|status of 404"
"""What a browser says of a page without an icon, unless it is our server that it asks for one."""
LANGUAGES = {"console", "html", "js", "python", "toml"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a document; `before` is the paragraph above it."""

    before: str
    language: str
    text: str


def sections(document: Path) -> dict[str, list[Block]]:
    """The blocks below each heading of the second level."""
    found: dict[str, list[Block]] = {}
    for part in re.split(r"^## ", document.read_text("utf-8"), flags=re.MULTILINE):
        title, _, body = part.partition("\n")
        pieces = re.split(r"^```(\w*)\n(.*?)^```\n", body, flags=re.MULTILINE | re.DOTALL)
        blocks = found[title] = []
        for before, language, text in zip(pieces[0::3], pieces[1::3], pieces[2::3], strict=False):
            assert language in LANGUAGES, f"{title}: nobody looks at {language!r}"
            paragraph = " ".join(before.rstrip("\n").rpartition("\n\n")[2].split())
            blocks.append(Block(paragraph, language, text))
    return found


class Programs:
    """What was started, to be ended."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, command: Sequence[str], port: int) -> None:
        """Start a program; it listens when this returns."""
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

    def close(self) -> None:
        """End all."""
        for process in self._running:
            process.terminate()
        for process in self._running:
            process.wait(10)


def wait_until(condition: Callable[[], object], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "that does not happen"
        time.sleep(0.05)


def answers(port: int) -> bool:
    try:
        get(port, "")
    except OSError:
        return False
    return True


class Follower:
    """Does what a document says, with ports of its own."""

    def __init__(self, document: Path, folder: Path, programs: Programs):
        self.server: Server | None = None
        self.port = free_port()
        self.page_port = free_port()
        self._folder = folder
        self._programs = programs
        self._sections = sections(document)
        self._left = [(title, b) for title, blocks in self._sections.items() for b in blocks]

    def write(self, section: str) -> None:
        """Write the files of this section; what follows is done by a server that knows them."""
        for block in self._take(section, lambda block: block.language != "console"):
            starts = self._starts()
            name = self._save(block)
            if self.server is not None and name.endswith(".py"):
                wait_until(lambda starts=starts: self._starts() > starts)  # type: ignore[misc]

    def _save(self, block: Block) -> str:
        """Do with a file what stands above the block, and return its name."""
        line, text = LINE.search(block.before), self.real(block.text)
        if line is not None:
            file = self._folder / line[2]
            old = file.read_text()
            assert old.count(f"{line[1]}\n") == 1, f"there is no line {line[1]}"
            file.write_text(old.replace(f"{line[1]}\n", text))
            return line[2]
        found = FILE.search(block.before)
        assert found is not None, f"into which file? {block.before}"
        verb, name = found.groups()
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
        """The sections with blocks that nobody has done."""
        return [title for title, _ in self._left]

    def stop(self) -> None:
        """Stop the server, which has nothing to complain of."""
        if self.server is not None:
            server, self.server = self.server, None
            assert server.stop() == -signal.SIGTERM
            assert server.problems == []

    def _take(self, section: str, wanted: Callable[[Block], bool]) -> Iterator[Block]:
        for block in filter(wanted, self._sections[section]):
            self._left.remove((section, block))
            yield block

    def real(self, text: str) -> str:
        """The text with the ports that are used."""
        text = text.replace("localhost:8080", f"localhost:{self.port}")
        return text.replace("localhost:8099", f"localhost:{self.page_port}")

    def _starts(self) -> int:
        return 0 if self.server is None else self.server.log.count(": open http")

    def _type(self, command: str, printed: Sequence[str]) -> None:
        words = shlex.split(command)
        settings: dict[str, str] = {}
        while re.match(r"[A-Z_]+=", words[0]):
            name, _, settings[name] = words.pop(0).partition("=")
        match words:
            case ["twistd", "-n", "pushserver", *options]:
                self.stop()
                listen = ("--listen", f"tcp:{self.port}:interface=127.0.0.1")
                env = environment(**settings)
                self.server = Server(self._folder, *listen, *options, env=env)
                self.server.start()
            case ["curl", *_]:
                # Who types it takes longer, and the first number is there by then.
                if "-d" not in words:
                    wait_until(lambda: '"offset":0' not in self._curl(words))
                self._compare(self._curl(words), printed)
            case ["python3", "-m", "http.server", "8099", *options]:
                command_line = [sys.executable, "-m", "http.server", str(self.page_port), *options]
                self._programs.start(command_line, self.page_port)
            case ["pip", "install", "pytest"]:
                pass  # It runs this.
            case ["pytest"]:
                output = run([sys.executable, "-P", "-m", "pytest"], self._folder)
                assert re.search(r"\b2 passed\b", output.splitlines()[-1]), output
            case _:
                raise AssertionError(f"nobody runs {command}")

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
    # While the server starts again.
    visits.allow("ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED|WebSocket connection to")
    return visits
