from __future__ import annotations

import argparse

import pytest

from pushserver.cli import _parser
from tools.manpages import commands, page, pages, roff


def test_each_command_has_a_page_that_the_first_page_names() -> None:
    texts = pages()
    names = [f"pushserver-{name}" for name, _, _ in commands(_parser())]
    assert "pushserver-install-unit" in names
    assert list(texts) == ["pushserver", *names]
    for name in names:
        assert f".BR {roff(name)} (1)" in texts["pushserver"]


def test_each_option_is_in_its_page() -> None:
    text = pages()["pushserver-store"]
    assert ".SH BACKUP\n" in text
    assert text.count(roff("--config FILE")) >= 4
    assert "%(default)s" not in "".join(pages().values())


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("--a-b", r"\-\-a\-b"),
        ("a\\b", r"a\eb"),
        (".hidden\n'x", "\\&.hidden\n\\&'x"),
        ("a.b", "a.b"),
    ],
)
def test_control_characters_of_troff_are_escaped(text: str, escaped: str) -> None:
    assert roff(text) == escaped


def test_page_of_a_command_has_its_line_and_its_synopsis() -> None:
    parser = argparse.ArgumentParser(prog="pushserver x")
    parser.add_argument("--port", metavar="N", default=7, help="the port [default: %(default)s]")
    text = page("pushserver-x", "does it", parser)
    assert "pushserver\\-x \\- does it\n" in text
    assert ".B pushserver x\n[\\-h] [\\-\\-port N]\n" in text
    assert ".B \\-\\-port N\nthe port [default: 7]\n" in text
