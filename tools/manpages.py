"""Writes the manual pages of `pushserver`, one for each command: tools/manpages.py FOLDER."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from pushserver import __version__
from pushserver.cli import _parser


def roff(text: str) -> str:
    """The text without characters that troff obeys."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(
        f"\\&{line}" if line[:1] in (".", "'") else line for line in escaped.split("\n")
    )


def commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """The commands of a parser: the name, the line of help, and the parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, command in action.choices.items():
                yield name, helps.get(name, ""), command


def synopsis(parser: argparse.ArgumentParser) -> str:
    """The command line, as argparse shows it, in one line."""
    words = parser.format_usage().split()[1:]
    return " ".join(words).removeprefix(parser.prog).strip()


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The arguments and options, each with its help."""
    formatter = parser._get_formatter()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) or action.help == argparse.SUPPRESS:
            continue
        yield ".TP"
        yield f".B {roff(formatter._format_action_invocation(action))}"
        yield roff(formatter._expand_help(action)) if action.help else "\\&"


def page(name: str, words: str, parser: argparse.ArgumentParser) -> str:
    """The page of a command, and of its own commands."""
    lines = [
        f'.TH {roff(name.upper())} 1 "" "pushserver {__version__}" "pushserver"',
        ".SH NAME",
        f"{roff(name)} \\- {roff(words)}",
        ".SH SYNOPSIS",
        f".B {roff(parser.prog)}",
        roff(synopsis(parser)),
    ]
    if parser.description:
        lines += [".SH DESCRIPTION", ".nf", roff(parser.description.strip()), ".fi"]
    own = list(commands(parser))
    if own:
        lines += [".SH COMMANDS"]
        for command, help_, _ in own:
            lines += [".TP", f".B {roff(command)}", roff(help_)]
    lines += [".SH OPTIONS", *options(parser)]
    for command, _, inner in own if name != "pushserver" else ():
        lines += [f".SH {roff(command.upper())}", f".B {roff(inner.prog)}", roff(synopsis(inner))]
        lines += options(inner)
    if name == "pushserver":
        lines += [".SH FILES", ".TP", ".B /etc/pushserver/pushserver.toml", "the configuration"]
        lines += [".SH SEE ALSO"]
        lines += [f".BR {roff(f'pushserver-{command}')} (1)" for command, _, _ in own]
    else:
        lines += [".SH SEE ALSO", ".BR pushserver (1)"]
    return "\n".join(lines) + "\n"


def pages() -> dict[str, str]:
    """The text of each page by its name."""
    parser = _parser()
    texts = {"pushserver": page("pushserver", "a push server for browsers and programs", parser)}
    for command, words, inner in commands(parser):
        texts[f"pushserver-{command}"] = page(f"pushserver-{command}", words, inner)
    return texts


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / f"{name}.1").write_text(text, "utf-8")
