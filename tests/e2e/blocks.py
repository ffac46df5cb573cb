"""The fenced blocks of a document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """One line of a document, with its number for messages."""

    number: int
    text: str


@dataclass(frozen=True)
class Block:
    """A fenced block; `before` is the paragraph above it, `output` what a program prints."""

    number: int
    language: str
    lines: Sequence[Line]
    before: str = ""
    output: Sequence[Line] = ()

    @property
    def text(self) -> str:
        """The content."""
        return "".join(f"{line.text}\n" for line in self.lines)


def sections(text: str) -> dict[str, list[Block]]:
    """The blocks below each heading of the second level."""
    blocks: dict[str, list[Block]] = {}
    title, number, language, previous = "", 0, "", ""
    content: list[Line] | None = None
    paragraph: list[str] = []
    for at, line in enumerate(text.splitlines(), 1):
        if not line.startswith("```"):
            if content is not None:
                content.append(Line(at, line))
            elif line.startswith("## "):
                title, paragraph = line.removeprefix("## "), []
            elif line:
                paragraph = [*paragraph, line] if previous else [line]
        elif content is None:
            content, number, language = [], at, line.removeprefix("```")
        else:
            block = Block(number, language, tuple(content), " ".join(paragraph))
            blocks.setdefault(title, []).append(block)
            content, paragraph = None, []
        previous = line
    assert content is None, f"line {number}: a block that does not end"
    return blocks
