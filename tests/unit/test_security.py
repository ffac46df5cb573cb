"""The claims of docs/security.md: each names a test that exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "docs" / "security.md").read_text("utf-8")
MODEL = TEXT.partition("## The threat model")[2].partition("\n## ")[0]
ROWS = re.findall(r"^\| (.+) \| (.+) \| (.+) \|$", MODEL, re.MULTILINE)[2:]


def test_claims_are_found() -> None:
    assert len(ROWS) > 15


@pytest.mark.parametrize("row", ROWS, ids=[row[0][:60] for row in ROWS])
def test_claim_names_tests_that_exist(row: tuple[str, str, str]) -> None:
    named = re.findall(r"`(tests/[^`]+)`", row[2])
    assert named
    for each in named:
        path, _, name = each.partition("::")
        assert (ROOT / path).exists(), path
        if name:
            assert f"def {name}(" in (ROOT / path).read_text("utf-8"), each
