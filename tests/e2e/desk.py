"""A folder in which a test follows a document: its files, its programs and the server."""

from __future__ import annotations

import http.client
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.e2e.blocks import Block, sections_of
from tests.e2e.conditions import answers, wait_until
from tests.e2e.exchange import LINES, Reading
from tests.e2e.follower import FILE, LINE
from tests.e2e.patience import PATIENCE
from tests.e2e.server import CHECKOUT, Server, environment, free_port

DOCUMENT = CHECKOUT / "docs" / "frameworks.md"
KEY = "correct-horse-battery-staple"
SECTIONS = sections_of("docs/frameworks.md")
START = ("The server", "The job", "The page")


class Desk:
    """Writes files and runs commands of a document, with free ports in place of those in it.

    `start`: the sections whose files are written first; the first command of these is the server.
    """

    def __init__(
        self,
        folder: Path,
        key: str = KEY,
        document: Mapping[str, Sequence[Block]] = SECTIONS,
        start: Sequence[str] = START,
    ):
        self.folder = folder
        self.page_port = free_port()
        self._document = document
        [server, *_] = [b for title in start for b in document[title] if b.language == "console"]
        words = shlex.split(server.lines[0].text.removeprefix("$ "))
        assert words[:2] == ["pushserver", "serve"]
        self.server = Server(folder, *words[2:])
        self.write(*start)
        programs = str(Path(sys.executable).parent)
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        self.environment = environment(PATH=path, PUSH_KEY=key)
        self.log = folder / "programs"
        self._running: list[subprocess.Popen[bytes]] = []

    def write(self, *titles: str) -> None:
        """Write or edit all files of these sections, as the paragraphs above them say."""
        for title in titles:
            for block in self._document[title]:
                if block.language != "console":
                    self._save(block)

    def commands(self, title: str) -> list[str]:
        """The commands of a section."""
        blocks = [block for block in self._document[title] if block.language == "console"]
        lines = [line.text for block in blocks for line in block.lines]
        return [self.real(line.removeprefix("$ ")) for line in lines if line.startswith("$ ")]

    def real(self, text: str) -> str:
        """The text with the actual ports."""
        text = text.replace("localhost:8080", f"localhost:{self.server.port}")
        for word in ("localhost:", "--port ", "runserver "):
            text = text.replace(f"{word}8000", f"{word}{self.page_port}")
        return text

    def run(self, command: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            shlex.split(command),
            cwd=self.folder,
            env=self.environment | more,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """Start a command, which `close` ends."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                shlex.split(command),
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running.append(process)
        return process

    def serve_pages(self, command: str) -> None:
        """Start the program with the pages, and wait until it answers."""
        process = self.start(command)
        wait_until(lambda: answers(self.page_port) or process.poll() is not None)
        assert process.poll() is None, self.log.read_text()

    def post(self) -> tuple[int, str]:
        """Send the form; returns the status, and the name of the job or the text of the answer."""
        connection = http.client.HTTPConnection("localhost", self.page_port, timeout=PATIENCE)
        try:
            connection.request("POST", "/jobs")
            response = connection.getresponse()
            text = response.read().decode()
            query = parse_qs(urlsplit(response.headers.get("Location", "")).query)
            return response.status, query.get("job", [text])[0]
        finally:
            connection.close()

    def read(self, job: str, since: str = "oldest") -> Reading:
        """A reader of the channel of a job, after its first line; it has the key."""
        reading = Reading(self.server, f"channels/job:{job}?since={since}", LINES)
        assert "subscribed" in reading.object()
        return reading

    def close(self) -> None:
        """End all programs and the server."""
        for process in self._running:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            # Reloaders leave their child.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.server.kill()

    def _save(self, block: Block) -> None:
        line, text = LINE.search(block.before), self.real(block.text)
        if line is not None:
            file = self.folder / line[2]
            old = file.read_text()
            assert old.count(f"{line[1]}\n") == 1, f"{line[2]} has no line {line[1]}"
            file.write_text(old.replace(f"{line[1]}\n", text))
            return
        match = FILE.search(block.before)
        assert match is not None, f"line {block.number}: no file named in: {block.before}"
        verb, name = match.groups()
        with (self.folder / name).open("w" if verb.lower() == "put" else "a") as opened:
            opened.write(text)
