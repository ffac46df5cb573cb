"""Runs the examples of a document, and compares their output with that in the document.

A fenced block is one of these:

- `console`: commands after a prompt, and their output. `$` is the only terminal, `1$` and `2$`
  are two of them side by side: after a command of the second comes all of its output, and then
  more output of the first. Commands are `curl`, `websockets` (lines with `>` are typed, those
  with `<` received), `pushserver` and `twistd`.
- `js` and `python`: a program; the block of `text` after it is its output.
- `toml` that begins with `# NAME.toml`: a file of that name, for later commands.

The document has examples of values that differ at each run. Epochs, cursors and clients are names:
in one section the same name stands for the same value, and a larger number for a number that is
not smaller. Times, dates and the random numbers of the built-in source are compared by form.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.e2e.blocks import Block, Line
from tests.e2e.programs import PYTHON, Finished, Program, Script, start

ADDRESS = "localhost:8080"
"""The address of the server in the documents."""
EPOCH = "7c2e94d1"
"""The epoch in the documents."""

LANGUAGES = {"console", "js", "python", "text", "toml"}


def examples(sections: Mapping[str, Sequence[Block]]) -> dict[str, list[Block]]:
    """The blocks of each section, each program with the text that it prints."""
    found: dict[str, list[Block]] = {}
    for title, blocks in sections.items():
        for block in blocks:
            _add(found.setdefault(title, []), block)
    return found


def _add(blocks: list[Block], block: Block) -> None:
    assert block.language in LANGUAGES, f"line {block.number}: {block.language!r} is not run"
    if block.language != "text":
        blocks.append(block)
        return
    assert blocks, f"line {block.number}: no program before this text"
    program = blocks.pop()
    printed = program.language in {"js", "python"} and not program.output
    assert printed, f"line {block.number}: no program before this text"
    blocks.append(replace(program, output=block.lines))


@dataclass
class Names:
    """The actual values of those in the document.

    `match` compares an expected line with the actual one and learns values from it; `real` puts
    them into a command.
    """

    epoch: str
    seqs: dict[int, int] = field(default_factory=dict)
    clients: dict[str, str] = field(default_factory=dict)

    def match(self, expected: Line, actual: str) -> None:
        """Raise AssertionError if the line does not match the document."""
        groups: dict[str, str] = {}
        pattern = "".join(self._patterns(expected.text, groups))
        match = re.fullmatch(pattern, actual)
        assert match is not None, (
            f"line {expected.number}: expected\n  {expected.text}\nbut got\n  {actual}"
        )
        for token, group in groups.items():
            if token.isdigit():
                self._learn(expected, int(token), int(match[group]))
            else:
                self.clients[token] = match[group]

    def real(self, text: str) -> str:
        """The text with actual values in place of all known names."""

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
    """A pattern for a name: its value if known, else a group of this form."""
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
    "file": (r"\?v=[0-9a-f]{12}", r"\?v=[0-9a-f]{12}"),
    "length": (r"^Content-Length: \d+", r"Content-Length: \d+"),
    "retry": (r"^retry: [0-9]+", r"retry: (?:[123][0-9]{3}|4000)"),
    "version": (r"pushserver [0-9][0-9a-z.]*", r"pushserver [0-9][0-9a-z.]*"),
    "uptime": (r'"uptime":[0-9]+', r'"uptime":[0-9]+'),
    "count": (r'"num_(?:clients|users|subs|channels)":[0-9]+,"', r'"num_[a-z]+":[0-9]+,"'),
    "sources": (r'"sources":\[[^\]]*\]', r'"sources":\[\{"name":"numbers",[^\]]*\}\]'),
    "key": (r"\bpsk_[\w-]{43}", r"psk_[\w-]{43}"),
    "hash": (r"\bsha256:[0-9a-f]{64}", r"sha256:[0-9a-f]{64}"),
    "size": (r"\b[0-9][0-9,]* bytes", r"[0-9][0-9,]* bytes"),
    "items": (r'"items":\{[^}]*\}', r'"items":\{(?:"[a-z_.0-9-]+":[0-9.e-]+,?)+\}'),
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
    """Write the block into the file that its first line names."""
    match = re.match(r"# ([a-z]+\.toml)\n", block.text)
    assert match is not None, f"line {block.number}: a file without its name"
    path = folder / match[1]
    path.write_text(block.text)
    return path


RunScript = Callable[[str], Generator[str, None, None]]
_PROMPT = re.compile(r"([12]?)\$ (.*)")


class Runner:
    """Runs blocks one after the other.

    `address` is the host and port of the actual server; commands run in `folder`. `run_script`
    runs a program in a browser, and yields the lines of its console.
    """

    def __init__(self, names: Names, address: str, folder: Path, run_script: RunScript):
        self._names = names
        self._address = address
        self._folder = folder
        self._run_script = run_script

    def run(self, block: Block) -> None:
        """Run the block; raises AssertionError if its output differs from the document."""
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
        assert block.output, f"line {block.number}: a program without its output"
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
            raise AssertionError(f"line {line.number}: missing output: {line.text}") from None
        self._names.match(self._expected(line), printed)

    def _real(self, text: str) -> str:
        return self._names.real(text.replace(ADDRESS, self._address))

    def _expected(self, line: Line) -> Line:
        return Line(line.number, line.text.replace(ADDRESS, self._address))


def _joined(lines: Sequence[Line]) -> Iterator[Line]:
    """The lines; one that ends with a backslash is joined with the next."""
    begun: Line | None = None
    for line in lines:
        text = line.text if begun is None else begun.text + line.text.lstrip()
        at = line.number if begun is None else begun.number
        begun = Line(at, text.removesuffix("\\")) if text.endswith("\\") else None
        if begun is None:
            yield Line(at, text)
    assert begun is None, f"line {begun.number}: nothing after the backslash"
