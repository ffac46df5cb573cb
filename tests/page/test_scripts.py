"""The parts of the page's scripts that need no browser, in Node.js: tests/node/page."""

from __future__ import annotations

import subprocess

import pytest

from tests.e2e.patience import PATIENCE
from tests.page.site import ROOT

pytestmark = pytest.mark.slow


def test_scripts_without_a_browser() -> None:
    files = sorted(map(str, (ROOT / "tests" / "node" / "page").glob("*.test.mjs")))
    assert files
    done = subprocess.run(
        ["node", "--test", "--test-reporter=tap", *files],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
