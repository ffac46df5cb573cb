"""The blocks of code in the pages of the documents.

A test gets the blocks that it runs from `sections_of` and `block_with`. Their arguments are
constants, so that `tests/unit/test_blocks.py` finds the blocks that no test runs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FILES = (*(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*/README.md"))
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in _FILES)]
"""The pages of the documents, as `blocks_of` takes them."""
_FENCE = re.compile(r"( *)```(\S*)")
_HEADING = re.compile(r"## (.*)|###+ .*")
_INDENT = " " * 4


@dataclass(frozen=True)
class Line:
    """One line of a document, with its number for messages."""

    number: int
    text: str


@dataclass(frozen=True)
class Block:
    """A block of code.

    `language` is None for an indented one, `before` is the paragraph above it, `output` what a
    program prints, `section` the heading of the second level.
    """

    number: int
    language: str | None
    lines: Sequence[Line]
    before: str = ""
    output: Sequence[Line] = ()
    section: str = ""

    @property
    def text(self) -> str:
        """The content."""
        return "".join(f"{line.text}\n" for line in self.lines)


def blocks_in(text: str) -> list[Block]:
    """All blocks of a page: between fences, and indented by four spaces."""
    lines = text.splitlines()
    blocks: list[Block] = []
    section, paragraph, at = "", [""], 0
    while at < len(lines):
        line, above, number, begin = lines[at], lines[at - 1] if at else "", at + 1, at
        if fence := _FENCE.fullmatch(line):
            indent, language = fence.groups()
            assert f"{indent}```" in lines[at + 1 :], f"line {number}: a block that does not end"
            end = lines.index(f"{indent}```", at + 1)
            at, begin = end + 1, at + 1
        elif line.startswith(_INDENT) and not above:
            indent, language = _INDENT, None
            while at < len(lines) and (not lines[at] or lines[at].startswith(_INDENT)):
                at += 1
            end = at if lines[at - 1] else at - 1
        else:
            if heading := _HEADING.fullmatch(line):
                section, paragraph = heading[1] or section, []
            elif line:
                paragraph = [*paragraph, line] if above else [line]
            at += 1
            continue
        content = (Line(n + 1, lines[n].removeprefix(indent)) for n in range(begin, end))
        before = " ".join(paragraph)
        blocks.append(Block(number, language, tuple(content), before, section=section))
        paragraph = []
    return blocks


def sections(text: str) -> dict[str, list[Block]]:
    """The fenced blocks below each heading of the second level."""
    found: dict[str, list[Block]] = {}
    for block in blocks_in(text):
        if block.language is not None:
            found.setdefault(block.section, []).append(block)
    return found


@cache
def blocks_of(page: str) -> tuple[Block, ...]:
    """All blocks of a page, which is a path such as `docs/login.md`."""
    return tuple(blocks_in((ROOT / page).read_text("utf-8")))


def sections_of(page: str, *titles: str) -> dict[str, list[Block]]:
    """The fenced blocks below each heading of the second level, or below these headings only.

    The caller runs all of them.
    """
    found = sections((ROOT / page).read_text("utf-8"))
    return {title: found[title] for title in titles} if titles else found


def block_with(page: str, text: str) -> Block:
    """The block of a page that has this text, which the caller runs or checks.

    In the text, each line begins with a line break, also the first one.
    """
    found = [block for block in blocks_of(page) if text in f"\n{block.text}"]
    assert len(found) == 1, f"{page} has {len(found)} blocks with {text!r}"
    return found[0]
