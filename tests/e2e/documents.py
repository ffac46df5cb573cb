"""Runs the examples of a document, and compares what comes with what the document says.

A fenced block is one of these, and each of them is run:

- `console`: commands after a prompt, and what they print. `$` is the only terminal, `1$`
  and `2$` are two of them side by side: what stands after a command of the second is first
  all that it prints, and then what the first goes on with. Commands are `curl`,
  `websockets` (lines with `>` are typed, those with `<` received), `pushserver` and
  `twistd`.
- `js` and `python`: a program; the block of `text` that follows is what it prints.
- `toml` that begins with `# NAME.toml`: a file of that name, for the commands after it.

Values that nobody can know beforehand stand in the document as examples of themselves.
Epochs, cursors and clients are names: the same one stands for the same value everywhere
in a section, and larger numbers for numbers that are not smaller. Times, dates and the
random numbers of the built-in source are compared by their form.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.programs import PYTHON, Finished, Program, Script, start

ADDRESS = "localhost:8080"
"""Where the server of the documents is."""
EPOCH = "7c2e94d1"
"""Its epoch."""

LANGUAGES = {"console", "js", "python", "text", "toml"}


@dataclass(frozen=True)
class Line:
    """One line of a document, with its number for messages."""

    number: int
    text: str


@dataclass(frozen=True)
class Block:
    """A fenced block; `output` is the block of text that follows a program."""

    number: int
    language: str
    lines: Sequence[Line]
    output: Sequence[Line] = ()

    @property
    def text(self) -> str:
        """The content."""
        return "".join(f"{line.text}\n" for line in self.lines)


def sections(text: str) -> dict[str, list[Block]]:
    """The runnable blocks below each heading of the second level."""
    found: dict[str, list[Block]] = {}
    title, opened = "", False
    content: list[Line] = []
    number, language = 0, ""
    for at, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            if opened:
                _add(found.setdefault(title, []), Block(number, language, tuple(content)))
            opened, content, number, language = not opened, [], at, line.removeprefix("```")
        elif opened:
            content.append(Line(at, line))
        elif line.startswith("## "):
            title = line.removeprefix("## ")
    assert not opened, f"line {number}: a block that does not end"
    return found


def _add(blocks: list[Block], block: Block) -> None:
    assert block.language in LANGUAGES, f"line {block.number}: {block.language!r} is not run"
    if block.language != "text":
        blocks.append(block)
        return
    assert blocks, f"line {block.number}: text that nothing prints"
    program = blocks.pop()
    printed = program.language in {"js", "python"} and not program.output
    assert printed, f"line {block.number}: text that nothing prints"
    blocks.append(Block(program.number, program.language, program.lines, block.lines))


@dataclass
class Names:
    """What the document's values stand for.

    `match` compares an expected line with the actual one and learns; `real` puts into a
    command what is known by then.
    """

    epoch: str
    seqs: dict[int, int] = field(default_factory=dict)
    clients: dict[str, str] = field(default_factory=dict)

    def match(self, expected: Line, actual: str) -> None:
        """Raise AssertionError if this is not what the document says."""
        groups: dict[str, str] = {}
        pattern = "".join(self._patterns(expected.text, groups))
        found = re.fullmatch(pattern, actual)
        assert found is not None, (
            f"line {expected.number} says\n  {expected.text}\nbut there came\n  {actual}"
        )
        for token, group in groups.items():
            if token.isdigit():
                self._learn(expected, int(token), int(found[group]))
            else:
                self.clients[token] = found[group]

    def real(self, text: str) -> str:
        """The text with the real values, as far as they are known."""

        def value(match: re.Match[str]) -> str:
            if match["seq"]:
                return f"{self.epoch}:{self.seqs.get(int(match['seq']), int(match['seq']))}"
            if match["client"]:
                return f'"{self.clients.get(match["client"], match["client"])}"'
            return self.epoch

        return _NAME.sub(value, text)

    def _patterns(self, text: str, groups: dict[str, str]) -> Iterator[str]:
        volatile = _NUMBERS if '"channel":"numbers"' in text else _VOLATILE
        end = 0
        for match in volatile.finditer(text):
            yield re.escape(text[end : match.start()])
            end = match.end()
            kind = match.lastgroup
            if kind == "seq":
                known = self.seqs.get(int(match["seq"]))
                yield f"{self.epoch}:{_value(match['seq'], known, r'[0-9]+', groups)}"
            elif kind == "client":
                known_client = self.clients.get(match["client"])
                yield f'"{_value(match["client"], known_client, r"[A-Za-z0-9_-]{16}", groups)}"'
            else:
                yield self.epoch if kind == "epoch" else _FORMS[kind or ""]
        yield re.escape(text[end:])

    def _learn(self, line: Line, seq: int, value: int) -> None:
        self.seqs[seq] = value
        ordered = [self.seqs[known] for known in sorted(self.seqs)]
        assert ordered == sorted(ordered), (
            f"line {line.number}: {EPOCH}:{seq} is not in the order of the others: {self.seqs}"
        )


def _value(token: str, known: object, form: str, groups: dict[str, str]) -> str:
    """A pattern for a name: what it stands for, or something to be learnt."""
    if known is not None:
        return re.escape(str(known))
    if token in groups:
        return f"(?P={groups[token]})"
    groups[token] = f"v{len(groups)}"
    return f"(?P<{groups[token]}>{form})"


_NAMED = (rf"\b{EPOCH}:(?P<seq>[0-9]+)", rf"\b(?P<epoch>{EPOCH})\b", r'"(?P<client>[\w-]{16})"')
_SHAPED = {
    "milliseconds": (r'"time":[0-9]{13}\b', r'"time":[0-9]{13}'),
    "seconds": (r'"time":[0-9]{10}\.[0-9]+', r'"time":[0-9]{10}(\.[0-9]{1,3})?'),
    "date": (r"^Date: .*", r"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT"),
    "length": (r"^Content-Length: \d+", r"Content-Length: \d+"),
    "retry": (r"^retry: [0-9]+", r"retry: (?:[123][0-9]{3}|4000)"),
    "version": (r"pushserver [0-9][0-9a-z.]*", r"pushserver [0-9][0-9a-z.]*"),
    "uptime": (r'"uptime":[0-9]+', r'"uptime":[0-9]+'),
    "count": (r'"num_(?:clients|users|subs|channels)":[0-9]+,"', r'"num_[a-z]+":[0-9]+,"'),
    "sources": (r'"sources":\[[^\]]*\]', r'"sources":\[\{"name":"numbers",[^\]]*\}\]'),
    "items": (r'"items":\{[^}]*\}', r'"items":\{(?:"[a-z_.0-9]+":[0-9.e-]+,?)+\}'),
}
_RANDOM = {
    "offset": (r'"offset":[0-9]+', r'"offset":[0-9]+'),
    "number": (r'"number":[0-9.]+', r'"number":(?:10|[0-9])\.[0-9]{1,3}'),
}
_FORMS = {name: form for name, (_, form) in {**_SHAPED, **_RANDOM}.items()}


def _alternatives(shaped: Mapping[str, tuple[str, str]]) -> re.Pattern[str]:
    return re.compile("|".join([*_NAMED, *(f"(?P<{name}>{p})" for name, (p, _) in shaped.items())]))


_NAME = _alternatives({})
_VOLATILE = _alternatives(_SHAPED)
_NUMBERS = _alternatives({**_SHAPED, **_RANDOM})


def write(block: Block, folder: Path) -> Path:
    """Write the file that the block is."""
    found = re.match(r"# ([a-z]+\.toml)\n", block.text)
    assert found is not None, f"line {block.number}: a file without its name"
    path = folder / found[1]
    path.write_text(block.text)
    return path


RunScript = Callable[[str], Generator[str, None, None]]
_PROMPT = re.compile(r"([12]?)\$ (.*)")


class Runner:
    """Runs blocks one after the other.

    `address` is the real server's host and port, `folder` where commands run. `run_script`
    runs a program in a browser, and gives the lines of its console.
    """

    def __init__(self, names: Names, address: str, folder: Path, run_script: RunScript):
        self._names = names
        self._address = address
        self._folder = folder
        self._run_script = run_script

    def run(self, block: Block) -> None:
        """Run the block; raises AssertionError when something else comes than it says."""
        if block.language == "toml":
            write(block, self._folder)
        elif block.language == "console":
            self._run_console(block)
        elif block.language == "js":
            self._compare(block, Script(self._run_script(self._real(block.text))))
        else:
            command = (*PYTHON, self._real(block.text))
            self._compare(block, Finished(command, self._folder))

    def _compare(self, block: Block, program: Program) -> None:
        assert block.output, f"line {block.number}: a program without what it prints"
        try:
            for line in block.output:
                self._follow(line, program)
            program.finish()
        finally:
            program.close()

    def _run_console(self, block: Block) -> None:
        terminals: dict[str, Program] = {}
        try:
            self._type_commands(block, terminals)
            for program in terminals.values():
                program.finish()
        finally:
            for program in terminals.values():
                program.close()

    def _type_commands(self, block: Block, terminals: dict[str, Program]) -> None:
        lines = list(_joined(block.lines))
        while lines:
            line = lines.pop(0)
            prompt = _PROMPT.fullmatch(line.text)
            if prompt is None:
                self._follow(line, terminals["1"])
                continue
            terminal = prompt[1] or "1"
            if terminal in terminals:
                terminals[terminal].finish()
                terminals.pop(terminal).close()
            terminals[terminal] = start(self._real(prompt[2]), self._folder)
            if terminal == "2":
                self._whole(terminals["2"], lines)

    def _whole(self, program: Program, lines: list[Line]) -> None:
        try:
            while True:
                printed = program.next()
                assert lines, f"the document does not have {printed}"
                self._names.match(self._expected(lines.pop(0)), printed)
        except EOFError:
            return

    def _follow(self, line: Line, program: Program) -> None:
        if line.text.startswith("> "):
            program.type(self._real(line.text.removeprefix("> ")))
            return
        try:
            printed = program.next()
        except EOFError:
            raise AssertionError(f"line {line.number}: there came no {line.text}") from None
        self._names.match(self._expected(line), printed)

    def _real(self, text: str) -> str:
        return self._names.real(text.replace(ADDRESS, self._address))

    def _expected(self, line: Line) -> Line:
        return Line(line.number, line.text.replace(ADDRESS, self._address))


def _joined(lines: Sequence[Line]) -> Iterator[Line]:
    """The lines, those that end with a backslash together with the next."""
    begun: Line | None = None
    for line in lines:
        text = line.text if begun is None else begun.text + line.text.lstrip()
        at = line.number if begun is None else begun.number
        begun = Line(at, text.removesuffix("\\")) if text.endswith("\\") else None
        if begun is None:
            yield Line(at, text)
    assert begun is None, f"line {begun.number}: nothing after the backslash"
